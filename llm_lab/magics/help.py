"""A verb's help, written from its declaration: as text for every front end, as a table where there is HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from llm_lab.options import REQUIRED, Spec, specs
from llm_lab.registry import Entry
from llm_lab.verbs import VERBS, Arg, Verb

_WIDTH = 110
_KINDS = {int: "N", float: "X", bool: "", str: "TEXT", object: "VALUE"}


def usage(verb: Verb) -> str:
    """One line: what stands where."""
    words = [_place(arg) for arg in verb.args] + (["[--option value …]"] if verb.specs else [])
    return " ".join([f"%{verb.name}", *words])


def body_help(verb: Verb) -> str:
    """What a cell's body is."""
    if verb.body == "options":
        return f"%%{verb.name}: the cell's body is options as TOML, one a line: name = value."
    return f"%%{verb.name}: the cell's body is the {verb.body}, taken as it stands." if verb.body else ""


def rooms(verb: Verb) -> dict[str, list[Spec]]:
    """The options under the heading of the room that declares them."""
    found: dict[str, list[Spec]] = {}
    seen: set[str] = set()
    classes: Sequence[type] = verb.options
    for cls in classes:
        for name, spec in specs(cls).items():
            if name not in seen:
                seen.add(name)
                home = next(base for base in reversed(cls.__mro__) if name in getattr(base, "__annotations__", {}))
                found.setdefault(getattr(home, "room", "") or "options", []).append(spec)
    return found


def default(spec: Spec) -> str:
    """The default as a reader needs it: `0.95`, `auto: chosen by …`, or `needed`."""
    if spec.default is REQUIRED:
        return "needed"
    if spec.default is None or spec.default == ():
        return f"auto: {spec.auto}" if spec.auto else "none"
    if isinstance(spec.default, bool):
        return str(spec.default).lower()
    if isinstance(spec.default, tuple | list):
        return ",".join(map(str, spec.default))
    return f"{spec.default:g}" if isinstance(spec.default, float) else str(spec.default)


def choices(spec: Spec | Arg) -> list[tuple[str, str]]:
    """The names allowed, each with its help where the table has one."""
    table: Any = spec.choices() if callable(spec.choices) else spec.choices
    return [(str(name), table[name].help if isinstance(_get(table, name), Entry) else "") for name in table or ()]


def text(verb: Verb) -> str:
    """The whole help as plain text."""
    lines = [f"{verb.name}: {verb.help}", "", f"  {usage(verb)}", f"  {verb.example}"]
    lines += [f"  {example}" for example in verb.examples]
    if verb.missing:
        lines += ["", f"Not there yet: {verb.missing}."]
    if verb.body:
        lines += ["", body_help(verb)]
    lines += [""] if verb.args else []
    for arg in verb.args:
        lines += _entry(_place(arg), arg.help)
        lines += _choices_lines(arg) if arg.takes == "choice" else []
    for room, found in rooms(verb).items():
        lines += ["", room]
        for spec in found:
            lines += _entry(f"{spec.flag} {_kind(spec)}".rstrip(), f"{spec.help}{_range(spec)} [{default(spec)}]")
            lines += _choices_lines(spec)
    lines += ["", "Every verb: --as NAME keeps the result in a variable; @var stands for a variable of the notebook."]
    return "\n".join(lines)


def overview() -> str:
    """All verbs, a line each."""
    width = max(map(len, VERBS))
    rows = [f"  {verb.name:{width}}  {verb.help}{'' if verb.target else ' (not there yet)'}" for verb in VERBS.values()]
    return "\n".join(
        [
            "The verbs of the lab:",
            "",
            *rows,
            "",
            "%VERB? shows a verb's options; in a shell, python -m llm_lab VERB --help.",
        ]
    )


class HelpPage:
    """A verb's help, to be shown."""

    def __init__(self, verb: Verb) -> None:
        self.verb = verb

    def __str__(self) -> str:
        return text(self.verb)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": page(self.verb)}


def page(verb: Verb) -> str:
    """The whole help as HTML that needs no style and no script."""
    esc = html.escape
    parts = [
        f"<p><b>{esc(verb.name)}</b> · {esc(verb.help)}</p>",
        f"<pre>{esc(usage(verb))}\n{esc(verb.example)}</pre>",
    ]
    if verb.missing:
        parts.append(f"<p>Not there yet: {esc(verb.missing)}.</p>")
    if verb.body:
        parts.append(f"<p>{esc(body_help(verb))}</p>")
    if verb.args:
        parts.append(
            _table(
                ("argument", "what it is"),
                [(_place(arg), _with_choices(arg.help, arg, arg.takes)) for arg in verb.args],
            )
        )
    for room, found in rooms(verb).items():
        rows = [
            (f"--{s.name}", default(s), s.unit or _kind(s) or "nothing", _with_choices(s.help + _range(s), s))
            for s in found
        ]
        parts.append(f"<p><b>{esc(room)}</b></p>" + _table(("option", "default", "takes", "what it does"), rows))
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        made = [
            f'<{tag} style="text-align:left">{html.escape(cell).replace(chr(10), "<br>")}</{tag}>' for cell in cells
        ]
        return f"<tr>{''.join(made)}</tr>"

    return (
        f"<table><thead>{row(head, 'th')}</thead><tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"
    )


def _with_choices(help: str, spec: Spec | Arg, takes: str = "choice") -> str:
    listed = (
        [f"{name}: {said}" if said else name for name, said in choices(spec)] if takes in ("choice", "corpus") else []
    )
    return "\n".join([help, *listed])


def _place(arg: Arg) -> str:
    word = arg.name.upper()
    word = {"text": f'"{word}"', "texts": f'"{word}" …', "models": f"{word}[,…]"}.get(arg.takes, word)
    return word if arg.required else f"[{word}]"


def _kind(spec: Spec) -> str:
    if spec.choices is not None:
        return "NAME" if not spec.many else "A,B"
    return _KINDS.get(spec.type, "VALUE") + (",…" if spec.many else "")


def _range(spec: Spec) -> str:
    """The limits of a number and its unit, in brackets."""
    bounds = [(spec.ge, "≥"), (spec.gt, ">"), (spec.le, "≤"), (spec.lt, "<")]
    found = [f"{sign} {bound:g}" for bound, sign in bounds if bound is not None] + ([spec.unit] if spec.unit else [])
    return f" ({', '.join(found)})" if found else ""


def _choices_lines(spec: Spec | Arg) -> list[str]:
    found = choices(spec)
    if found and not any(said for _, said in found):
        return textwrap.wrap(
            ", ".join(name for name, _ in found), _WIDTH, initial_indent=" " * 28, subsequent_indent=" " * 28
        )
    return [line for name, said in found for line in _entry(name, said, indent=28, column=14)]


def _entry(name: str, said: str, indent: int = 2, column: int = 26) -> list[str]:
    start = " " * indent + f"{name:{column - 2}}  "
    return textwrap.wrap(said, _WIDTH, initial_indent=start, subsequent_indent=" " * (indent + column)) or [
        start.rstrip()
    ]


def _get(table: Any, name: str) -> Any:
    return table[name] if hasattr(table, "keys") else None

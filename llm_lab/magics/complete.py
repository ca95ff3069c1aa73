"""Tab: what may stand at the cursor of one of our lines or bodies; reads declarations and names, runs nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_lab.corpora.options import CORPORA
from llm_lab.magics import names
from llm_lab.magics.help import rooms
from llm_lab.options import Spec
from llm_lab.verbs import VERBS, Arg, Verb

Found = tuple[str, list[tuple[str, str]]]  # the text to be replaced, and (completion, kind)
_MODEL_ARGS = ("model", "models")
_LIMIT = 200


def complete(full_text: str, row: int, column: int, namespace: names.Namespace) -> Found | None:
    """What completes a cell's text at a cursor; None where the cell or the place is not ours."""
    lines = full_text.split("\n")
    before, after = lines[row][:column], lines[row][column:]
    head = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), row)
    cell = re.match(r"\s*%%(\w+)(.*)", lines[head])
    if cell and head < row:
        verb = VERBS.get(cell[1])
        return (
            _body(verb, lines[head + 1 : row], before, after, cell[2], namespace)
            if verb and verb.body == "options"
            else None
        )
    line = re.match(r"\s*(?:[\w.,\s]+=\s*)?%%?(\w+)\s(.*)", before, re.DOTALL)
    verb = VERBS.get(line[1]) if line else None
    return _line(verb, line[2], namespace) if verb and line else None


def _line(verb: Verb, text: str, namespace: names.Namespace) -> Found | None:
    words, fragment = _split(text)
    if fragment is None:
        return None
    specs = verb.specs
    used = {word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    if flag := re.fullmatch(r"--([\w-]+)=(.*)", fragment, re.DOTALL):
        return _value(verb, flag[1].replace("-", "_"), flag[2], namespace)
    if fragment.startswith("-"):
        return fragment, _flags(verb, used, fragment)
    last = re.fullmatch(r"--([\w-]+)", words[-1]) if words else None
    name = last[1].replace("-", "_") if last else ""
    if name and not (name in specs and specs[name].type is bool):
        return _value(verb, name, fragment, namespace)
    if fragment.startswith("@"):
        return fragment, _starting(fragment, _variables(namespace, "@"))
    count = _positionals(words, specs)
    found = [pair for arg in _next_args(verb, count) for pair in _of_argument(arg, fragment, namespace)]
    tail = fragment.rpartition(",")[2] if count == 0 and verb.args and verb.args[0].takes == "models" else fragment
    return tail, _starting(tail, found) or ([] if fragment else _flags(verb, used, ""))


def _split(text: str) -> tuple[list[str], str | None]:
    """The finished words before the cursor, and the one at it; None for that inside quotes or a comment."""
    words = re.findall(r"""--[\w-]+=(?:"(?:\\"|[^"])*"|'(?:\\'|[^'])*')|"(?:\\"|[^"])*"|'(?:\\'|[^'])*'|\S+""", text)
    at_end = words[-1] if words and not text[-1:].isspace() else ""
    if any(word.startswith("#") for word in words):
        return words, None
    if re.match(r"[\"']|--[\w-]+=[\"']", at_end) or any(
        re.match(r"[\"'](?!.*[\"']$)", word, re.DOTALL) for word in words
    ):
        return words, None
    return (words[:-1] if at_end else words), at_end


def _positionals(words: Sequence[str], specs: dict[str, Spec]) -> int:
    """How many words before the cursor are neither flags nor their values."""
    count, takes_value = 0, False
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            takes_value = "=" not in word and not (name in specs and specs[name].type is bool)
        elif takes_value:
            takes_value = False
        else:
            count += 1
    return count


def _next_args(verb: Verb, count: int) -> list[Arg]:
    """The arguments that a word after `count` others may be: a model's name may be left out."""
    rest = list(verb.args[count : count + 1])
    return rest + list(verb.args[1:2]) if rest and count == 0 and rest[0].takes in _MODEL_ARGS else rest


def _of_argument(arg: Arg, fragment: str, namespace: names.Namespace) -> list[tuple[str, str]]:
    if arg.takes in _MODEL_ARGS:
        name, at, _ = fragment.rpartition(",")[2].partition("@")
        return [(f"{name}@{step}", "checkpoint") for step in names.steps(name, namespace)] if at else _models(namespace)
    if arg.takes == "corpus":
        return [(str(name), "corpus") for name in arg.choices] + _paths(fragment)
    if arg.takes == "choice":
        return [(str(name), arg.name) for name in arg.choices]
    return [(name, "run") for name in names.run_names()] if arg.takes in ("word", "run") and arg.name == "name" else []


def _value(verb: Verb, name: str, fragment: str, namespace: names.Namespace) -> Found | None:
    """The values of an option, or of an argument that is given as a flag."""
    spec, arg = _spec(verb, name), next((arg for arg in verb.args if arg.name == name), None)
    if spec is not None:
        fragment = fragment.rpartition(",")[2] if spec.many else fragment
        found = _of_option(spec, fragment, namespace)
    else:
        found = _of_argument(arg, fragment, namespace) if arg else []
    if fragment.startswith("@"):
        found = _variables(namespace, "@")
    return fragment, _starting(fragment, found)


def _spec(verb: Verb, name: str) -> Spec | None:
    return next((spec for key, spec in verb.specs.items() if name in (key, spec.word)), None)


def _of_option(spec: Spec, fragment: str, namespace: names.Namespace) -> list[tuple[str, str]]:
    if spec.name in ("model", "init_from"):
        return _models(namespace) + _variables(namespace, "@")
    if spec.name == "corpus":
        return [(name, "corpus") for name in CORPORA] + _paths(fragment)
    if spec.name == "replay":
        return [(name, "run") for name in names.run_names()]
    return [(name, spec.name) for name in (["true", "false"] if spec.type is bool else spec.choice_names())]


def _body(
    verb: Verb, above: Sequence[str], before: str, after: str, first_line: str, namespace: names.Namespace
) -> Found | None:
    """The keys, sections and values of a TOML body."""
    if heading := re.fullmatch(r"\s*\[([\w-]*)", before):
        close = "" if after.startswith("]") else "]"
        return heading[1], _starting(heading[1], [(room + close, "section") for room in rooms(verb)])
    if key := re.fullmatch(r"\s*([\w-]*)", before):
        used = {match[1].replace("-", "_") for line in above if (match := re.match(r"\s*([\w-]+)\s*=", line))}
        used |= {flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", first_line)}
        equals = "" if after.lstrip().startswith("=") else " = "
        found = [(spec.word + equals, "option") for name, spec in verb.specs.items() if not {name, spec.word} & used]
        return key[1], _starting(key[1].replace("-", "_"), found)
    value = re.fullmatch(r"\s*([\w-]+)\s*=\s*\[?(?:.*,)?\s*([\"']?)([^\"',]*)", before)
    if not value:
        return None
    spec = _spec(verb, value[1].replace("-", "_"))
    quote, fragment = value[2], value[3]
    found = _of_option(spec, fragment, namespace) if spec else []
    if fragment.startswith("@"):
        found = _variables(namespace, "@")
    mark = quote or '"'
    close = "" if quote and after.startswith(quote) else mark
    plain = spec is not None and spec.type is bool
    made = [(text if plain else mark + text + close, kind) for text, kind in _starting(fragment, found)]
    return quote + fragment, made


def _flags(verb: Verb, used: set[str], fragment: str) -> list[tuple[str, str]]:
    found = [(spec.flag, "option") for name, spec in verb.specs.items() if not {name, spec.word} & used]
    found += [(f"--{name}", "option") for name in ("as", "help") if name not in used]
    wanted = fragment.lstrip("-").replace("-", "_")
    return [pair for pair in found if pair[0][2:].startswith(wanted)]


def _models(namespace: names.Namespace) -> list[tuple[str, str]]:
    held = list(names.models(namespace))
    return [(name, "model") for name in held] + [(name, "run") for name in names.run_names() if name not in held]


def _variables(namespace: names.Namespace, mark: str) -> list[tuple[str, str]]:
    hidden = {"In", "Out", "exit", "quit", "get_ipython"}
    return [(mark + name, "variable") for name in namespace if not name.startswith("_") and name not in hidden]


def _paths(fragment: str) -> list[tuple[str, str]]:
    """Files and folders that start as `fragment` does; names with spaces are left out, since they need quotes."""
    folder, _, start = fragment.rpartition("/")
    where = Path(os.path.expanduser(folder + "/" if folder or fragment.startswith("/") else "."))
    try:
        with os.scandir(where) as entries:
            found = [
                (f"{folder}/" if "/" in fragment else "") + entry.name + ("/" if entry.is_dir() else "")
                for entry, _ in zip(entries, range(5000), strict=False)
                if entry.name.startswith(start)
                and (start or not entry.name.startswith("."))
                and not re.search(r"\s", entry.name)
            ]
    except OSError:
        return []
    return [(name, "path") for name in sorted(found)[:_LIMIT]]


def _starting(fragment: str, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pair for pair in found if pair[0].startswith(fragment)))[:_LIMIT]


def add_matcher(ip: Any) -> Callable[[], None]:
    """Add our matcher to an IPython's completer; returns what takes it away. An older IPython goes without."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher

        matchers = ip.Completer.custom_matchers
    except (ImportError, AttributeError):
        return lambda: None

    def llm_lab_matcher(context: Any) -> dict[str, Any]:
        found = complete(context.full_text, context.cursor_line, context.cursor_position, ip.user_ns)
        if not found or not found[1]:
            return {"completions": []}
        fragment, pairs = found
        made = [SimpleCompletion(text, type=kind) for text, kind in pairs]
        return {"completions": made, "matched_fragment": fragment, "suppress": True, "ordered": True}

    matcher = context_matcher(identifier="llm_lab")(llm_lab_matcher)
    matchers.append(matcher)

    def remove() -> None:
        if matcher in matchers:
            matchers.remove(matcher)

    return remove

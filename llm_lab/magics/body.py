"""A cell's body as values: TOML for options, verbatim pieces for texts; knows nothing of what the values mean."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from llm_lab.errors import BadType, BadValue, show
from llm_lab.magics.scan import odd_sign, right_spelling

NONE = "\ue000None"  # TOML has no None; a private-use sign keeps it apart from every text
_STRING = r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*'
_BARE = re.compile(rf"({_STRING})|(?<![\w.@-])(True|False|None|@@?[^\W\d]\w*)(?![\w.-])", re.DOTALL)
_OUTSIDE = re.compile(rf"({_STRING})", re.DOTALL)
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")
_SPLIT = re.compile(r"^---[ \t]*\r?$\n?", re.MULTILINE)


def read_options(verb: str, body: str) -> dict[str, Any]:
    """The options that a body gives, by flat names with underscores; BadValue or BadType where it cannot be read."""
    _refuse_signs(verb, body)
    try:
        tree = tomllib.loads(_BARE.sub(_plain, body.replace("\r\n", "\n")))
    except (ValueError, RecursionError) as error:
        raise _refuse(verb, body, error) from None
    found: dict[str, Any] = {}
    _flatten(verb, tree, found)
    return found


def read_pieces(verb: str, body: str) -> list[str]:
    """The texts of a body, verbatim but for the line break that ends each; lines of `---` stand between them."""
    pieces = [piece.removesuffix("\n").removesuffix("\r") for piece in _SPLIT.split(body)]
    for number, piece in enumerate(pieces, 1):
        if len(pieces) > 1 and not piece.strip():
            raise BadValue(
                f"{verb}: text {number} of {len(pieces)} in the body is empty; write one on each side of ---"
            )
    return pieces


def _plain(match: re.Match[str]) -> str:
    """Python's constants and a bare @var in TOML's spelling; strings and comments as they are."""
    if match[1]:
        return match[1]
    word = match[2]
    return {"True": "true", "False": "false", "None": f'"{NONE}"'}.get(word, f'"{word}"')


def _flatten(verb: str, tree: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in tree.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            _flatten(verb, value, found)
        elif name in found:
            raise BadType(
                f"{verb}: {name} is given twice in the body; keep one of {show(found[name])} and {show(value)}"
            )
        else:
            found[name] = value


def _refuse_signs(verb: str, body: str) -> None:
    line = 1
    for index, part in enumerate(_OUTSIDE.split(body)):
        if index % 2 == 0:
            for offset, text in enumerate(part.split("\n")):
                if signs := [sign for word in text.split() if (sign := odd_sign(word))]:
                    whole = body.split("\n")[line + offset - 1]
                    raise BadValue(
                        f"{verb}: in line {line + offset} of the body {signs[0]}; write {right_spelling(whole)}"
                    )
        line += part.count("\n")


def _refuse(verb: str, body: str, error: Exception) -> BadValue:
    """TOML's complaint in one line: the line, what stands there, and what would work."""
    lines = body.split("\n")
    match = _AT_LINE.search(str(error))
    number = int(match[1]) if match and match[1] else len(body.rstrip().split("\n"))
    text = lines[min(number, len(lines)) - 1].strip()
    why = _AT_LINE.sub("", str(error)).strip().lower() if isinstance(error, ValueError) else "nested too deeply"
    if "overwrite" in why or "twice" in why:
        return BadValue(f"{verb}: line {number} of the body gives an option twice ({show(text)}); keep one")
    works = 'name = value, with text in quotes, for example tokenizer = "char"'
    if text.startswith("-"):
        works = "name = value; flags such as --steps 500 stand in the first line, here it is steps = 500"
    elif match_text := re.fullmatch(r"([\w-]+)\s*=\s*([^\W\d][^\"'=#]*)", text):
        works = f'text in quotes: {match_text[1]} = "{match_text[2].strip()[:60]}"'
    return BadValue(f"{verb}: line {number} of the body is not TOML: {show(text)} ({why}); it takes {works}")

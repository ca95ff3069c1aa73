"""A magic's line as words; knows quotes, flags and comments, and nothing of verbs or their options."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from llm_lab.errors import BadValue, show

_DOUBLE, _SINGLE = "“”„‟«»『』「」", "‘’‚‛‹›"
_STRAIGHT = str.maketrans(dict.fromkeys(_DOUBLE, '"') | dict.fromkeys(_SINGLE, "'"))
_DASHES = "‐‑‒–—―−﹘﹣－"
_ODD_FLAG = re.compile(f"[-{_DASHES}]*[{_DASHES}][-{_DASHES}]*(?=\\w|\\.\\d)")
_FULL_WIDTH = re.compile("[\uff01-\uff5e\u3000]")
_FLAG = re.compile(r"--([^\W\d][\w-]*)(=|$)")
_END = re.compile(r"\s*(;\s*)*(#.*)?$", re.DOTALL)


@dataclass(frozen=True)
class Word:
    """One word of a line. A flag has its name, and its value where `=` gave one; every other word has its text."""

    text: str | None
    quoted: bool = False
    flag: str | None = None


def flag_word(text: str, quoted_value: str | None = None) -> Word | None:
    """`--name` or `--name=value` as a Word with underscores in its name; None where the text is no flag."""
    match = _FLAG.match(text)
    if not match:
        return None
    name = match[1].replace("-", "_")
    if quoted_value is not None:
        return Word(quoted_value, quoted=True, flag=name)
    return Word(text[match.end() :] if match[2] else None, flag=name)


def scan(verb: str, line: str) -> list[Word]:
    """The words of a line, without the trailing comment or `;`. BadValue names a quote or sign that cannot stand."""
    words, at = [], 0
    while not _END.match(line, at):
        if line[at].isspace() and line[at] != "\u3000":
            at += 1
        elif line[at] in "\"'":
            text, at = _quoted(verb, line, at)
            words.append(Word(text, quoted=True))
        else:
            word, at = _bare(verb, line, at)
            words.append(word)
    return words


def _quoted(verb: str, line: str, start: int) -> tuple[str, int]:
    """The text of the quotes that open at `start`, and where the line goes on. A backslash escapes the quote only."""
    mark = line[start]
    match = re.compile(rf"{mark}((?:\\{mark}|[^{mark}])*){mark}", re.DOTALL).match(line, start)
    if not match:
        raise BadValue(
            f"{verb}: the quote {mark} before {show(line[start + 1 :], 30)} is not closed; "
            f"close it with {mark} (a {mark} inside is written \\{mark})"
        )
    rest = line[match.end() :]
    if rest and not rest[0].isspace() and not _END.match(rest):
        raise BadValue(f"{verb}: a space is missing after the closing quote, before {show(rest, 30)}")
    return match[1].replace("\\" + mark, mark), match.end()


def _bare(verb: str, line: str, start: int) -> tuple[Word, int]:
    at = start
    while at < len(line) and (not line[at].isspace() or line[at] == "\u3000"):
        if line[at] in "\"'" and line[at - 1] == "=" and line.startswith("--", start):
            text, end = _quoted(verb, line, at)
            if word := flag_word(line[start:at], text):
                return word, end
        if line[at] == '"':
            raise BadValue(f"{verb}: a space is missing before the quote in {show(line[start : at + 10], 30)}")
        if line[at] == ";" and _END.match(line, at):
            break
        at += 1
    text = line[start:at]
    _refuse_signs(verb, text, f"write %{verb} {right_spelling(line)}")
    word = flag_word(text)
    if word is None and re.match(r"--\w*", text):
        raise BadValue(f"{verb}: {show(text)} is not a flag; a flag reads --name value, for example --seed 0")
    if word is None and (single := re.match(r"-([^\W\d]\w*)(=|$)", text)) and single[1] not in ("inf", "nan"):
        raise BadValue(f"{verb}: {show(text)} has one dash; write -{text}")
    return word or Word(text), at


def odd_sign(text: str) -> str:
    """What stands in `text` where a plain sign is meant, in words; empty where nothing does."""
    for sign in text:
        if sign in _DOUBLE + _SINGLE:
            return f"{sign} is a typographic quote"
        if _FULL_WIDTH.match(sign):
            return f"{sign!r} is a full-width sign"
    if match := _ODD_FLAG.match(text):
        sign = next(s for s in match[0] if s in _DASHES)
        return f"{sign} is not a plain dash but {unicodedata.name(sign).lower()}"
    return ""


def _refuse_signs(verb: str, text: str, works: str) -> None:
    if found := odd_sign(text):
        raise BadValue(f"{verb}: {found}; {works}")


def straighten(text: str) -> str:
    """`text` in the plain signs that were meant."""
    plain = _FULL_WIDTH.sub(lambda sign: unicodedata.normalize("NFKC", sign[0]), text.translate(_STRAIGHT))
    start = _ODD_FLAG.match(plain)
    if not start:
        return plain
    rest = plain[start.end() :]
    return ("-" if re.match(r"[\d.]", rest) else "--") + rest


def right_spelling(line: str, limit: int = 100) -> str:
    """The line in plain signs, its quoted texts as they are."""
    parts = re.split(r"""("(?:\\"|[^"])*"|'(?:\\'|[^'])*'|\s+)""", line.strip())
    fixed = "".join(part if index % 2 and not part.isspace() else straighten(part) for index, part in enumerate(parts))
    return fixed if len(fixed) <= limit else fixed[:limit] + " …"

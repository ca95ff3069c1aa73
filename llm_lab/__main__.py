"""The verbs from a shell: `python -m llm_lab pretrain bard shakespeare --steps 500`, by the parser of the magics."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_lab import __version__
from llm_lab.errors import BadType, BadValue, LabError, suggestion
from llm_lab.magics.help import overview, text
from llm_lab.magics.parse import parse_words
from llm_lab.magics.scan import Word, flag_word, odd_sign, straighten
from llm_lab.verbs import VERBS

_BODY = "--body FILE reads the options (TOML) or the text of a verb's body from a file, --body - from standard input."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, or 2 with one line on standard error (141 where nobody reads on)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the terminal lacks becomes ?
        sys.stdout.reconfigure(errors="replace")
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # what is still to be written goes nowhere, at exit too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except LabError as error:
        print(f"llm_lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    name, *rest = words
    if name not in VERBS:
        raise BadType(f"{name!r} is not a verb{suggestion(name, VERBS)}; there is: {', '.join(VERBS)}")
    verb = VERBS[name]
    if "--help" in rest or "-h" in rest:
        print(f"{text(verb)}\n{_BODY if verb.body else ''}".rstrip())
        return 0
    if not verb.target:
        verb.load()
    rest, body = _take_body(name, rest)
    call = parse_words(verb, [_word(name, word) for word in rest], body, {}, {}, shell=True)
    result, to_show = call.run()
    if to_show:
        print(_plain(result))
    return 0


def _plain(result: Any) -> Any:
    """What a notebook would show of a result, as text."""
    show_itself = getattr(result, "_repr_mimebundle_", None)
    return show_itself()["text/plain"] if show_itself else result


def _word(verb: str, word: str) -> Word:
    """A word as the shell passed it: its quotes are gone, so one that holds a space was quoted."""
    if flag := flag_word(word):
        return flag
    if any(sign.isspace() for sign in word) or not word:
        return Word(word, quoted=True)
    if word.startswith(("–", "—", "−")) and (found := odd_sign(word)):
        raise BadValue(f"{verb}: {found}; write {straighten(word)}")
    return Word(word)


def _take_body(verb: str, words: list[str]) -> tuple[list[str], str | None]:
    """The words without `--body FILE`, and what that file holds."""
    if "--body" not in words:
        return words, None
    at = words.index("--body")
    if at + 1 == len(words):
        raise BadType(f"{verb}: body needs a value, for example --body options.toml, or --body - for standard input")
    name = words[at + 1]
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return words[:at] + words[at + 2 :], data.decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise BadValue(f"{verb}: body {name!r} cannot be read ({error.strerror}); give an existing file") from None
    except UnicodeDecodeError as error:
        raise BadValue(f"{verb}: body {name!r} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


if __name__ == "__main__":
    sys.exit(main())

"""What a user reads when something cannot be done: one line that says the argument, the value, and what would work."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What a terminal would obey, or half a character that it cannot show: names of files hold them too.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with what a terminal would obey as escapes."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class LabError(Exception):
    """A mistake that its reader can mend. The message is one line; notebooks show it without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).split())))

    def _render_traceback_(self) -> list[str]:
        """IPython asks the exception itself how to show it: a user's slip needs no stack of our frames."""
        return [str(self)]


class BadValue(LabError, ValueError):
    """An argument has a value that cannot work."""


class BadType(LabError, TypeError):
    """An argument is of a kind that cannot work, or is unknown, missing, or given twice."""


class Busy(BadValue):
    """Another process is at it."""


class Stopped(LabError):
    """A run was interrupted and its model kept: raised by a cell after binding it, so that the cells behind it wait."""


class NotYet(LabError, NotImplementedError):
    """A capability that this version does not have."""


DIVERGED = "logits are not numbers: its training diverged; train with a lower --lr or --muon_lr"


def show(value: object, limit: int = 60) -> str:
    """A value as it stands in a message: `repr`, on one line, shortened in the middle."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an object's own repr may fail, as may that of a number of many digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 15]} … {text[-12:]}"


def suggestion(name: object, known: Iterable[str]) -> str:
    """The nearest right spelling as `"; did you mean 'x'"`, or an empty string when nothing is near."""
    options = list(known)
    folded = {option.lower().replace("-", "_"): option for option in reversed(options)}
    key = str(name).lower().replace("-", "_")
    near = difflib.get_close_matches(key, folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[near[0]]!r}" if near else ""


def listing(names: Iterable[str], limit: int = 24) -> str:
    """Names as a comma-separated list, cut after `limit`."""
    items = [str(name) for name in names]
    more = f", … ({len(items) - limit} more)" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more

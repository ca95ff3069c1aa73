"""One place on the page that a result is redrawn in while it grows: at most twice a second, then its final form."""

from __future__ import annotations

import sys
import time
from typing import Any

from llm_lab.results import BackgroundRun, Generation, Result, TrainingReport, in_notebook

INTERVAL = 0.5  # seconds: notebook servers and their readers take no more


class Live:
    """A display with an id of its own in a notebook; in a terminal, a progress line on stderr."""

    def __init__(self, result: Result) -> None:
        self._notebook = in_notebook()
        self._handle: Any = None
        self._drawn = time.monotonic()
        self._lines = 0
        self._closed = False
        if self._notebook:
            from IPython.display import display

            self._handle = display(result._repr_mimebundle_(), raw=True, display_id=True)
        else:
            self._line(result)

    def update(self, result: Result) -> bool:
        """Redraw, unless it was redrawn less than half a second ago; returns whether it did."""
        now = time.monotonic()
        if self._closed or now - self._drawn < INTERVAL:
            return False
        if self._notebook:
            self._handle.update(result._repr_mimebundle_(), raw=True)
        else:
            self._line(result)
        # Measured from the end of the drawing, so that slow drawing cannot eat the training's time.
        self._drawn = time.monotonic()
        return True

    def close(self, result: Result) -> None:
        """Draw the final form; later updates are ignored."""
        if self._closed:
            return
        self._closed = True
        if self._notebook and getattr(result, "live", False):
            result.widget().show(self._handle)  # type: ignore[attr-defined]  # results that may be live have one
            return
        if self._notebook:
            self._handle.update(result._repr_mimebundle_(), raw=True)
            return
        overwrite()
        print(str(result), flush=True)

    def _line(self, result: Result) -> None:
        line = status(result)
        if not overwrite(line) and self._lines % 20 == 0:  # a log file wants a line each ten seconds, not two a second
            print(line, file=sys.stderr, flush=True)
        self._lines += 1


def overwrite(line: str = "") -> bool:
    """Put a line in place of the last one on a terminal; whether standard error is one."""
    there = sys.stderr.isatty()
    if there:
        print(f"\r\x1b[K{line[:200]}", end="", file=sys.stderr, flush=True)
    return there


def show(result: Result) -> None:
    """Show a finished result once, where we are."""
    if in_notebook():
        from IPython.display import display

        display(result._repr_mimebundle_(), raw=True)
    else:
        print(str(result), flush=True)


def status(result: Result) -> str:
    """The state of a result on one line."""
    from llm_lab.views.card import clean

    if isinstance(result, BackgroundRun):
        result = result.report
    if isinstance(result, TrainingReport):
        from llm_lab.views.training import progress

        return clean(progress(result))
    if isinstance(result, Generation):
        count = sum(len(sample) for sample in result.pieces)
        return clean(f"{result.name} · {count} tokens")
    return clean(" ".join(str(result).split()))[:120]

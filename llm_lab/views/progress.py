"""One line that says how far something is: a small card in a notebook, a line on a terminal; gone in the end."""

from __future__ import annotations

from typing import Any

from llm_lab.results import in_notebook
from llm_lab.views.card import card, clean, clock, si
from llm_lab.views.live import overwrite


class Line:
    """Drawn again and again in one place. A saved notebook holds nothing of it."""

    def __init__(self) -> None:
        self._notebook = in_notebook()
        self._handle: Any = None

    def draw(self, what: str, share: float, total: int, unit: str, left: float) -> None:
        """`share` of `total` units is done, and `left` are the seconds that the rest will take."""
        facts = [f"{share:.0%} of {si(total)} {unit}", f"{clock(left)} left"]
        plain = " · ".join([what, *facts])
        if not self._notebook:
            overwrite(clean(plain))
            return
        drawn = {"text/plain": plain, "text/html": card(what, facts, "", progress=share, done=False)}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(drawn, raw=True, display_id=True)
        else:
            self._handle.update(drawn, raw=True)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)
        elif not self._notebook:
            overwrite()

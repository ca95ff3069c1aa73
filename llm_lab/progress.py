"""How far something is that takes long before there is a card to show it on; nothing is drawn of what takes no two seconds."""

from __future__ import annotations

import time
from typing import Any

from llm_lab.registry import load

DELAY, INTERVAL = 2.0, 0.5  # seconds until it is first drawn, and between two times


class Bar:
    """Within the `with`, `update(n)` says that n more of `total` are done; at its end nothing is left of what was drawn."""

    def __init__(self, total: int, what: str, unit: str = "bytes") -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, 0
        self._began = time.monotonic()
        self._next = self._began + DELAY
        self._line: Any = None

    def __enter__(self) -> Bar:
        return self

    def update(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now < self._next:
            return
        if self._line is None:
            self._line = load("llm_lab.views.progress:Line")()
        share = min(1.0, self.done / max(1, self.total))
        left = (now - self._began) * (1 / share - 1) if share else 0.0
        self._line.draw(self.what, share, self.total, self.unit, left)
        self._next = time.monotonic() + INTERVAL

    def __exit__(self, *error: object) -> None:
        if self._line is not None:
            self._line.clear()

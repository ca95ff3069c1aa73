"""How often what is being written is shown, and what stays of it when the writing is cut off: the same for every loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from llm_lab.results import Generation

REFRESH_SECONDS = 0.2  # between two states

_S = TypeVar("_S")


def paced(
    steps: Iterator[int], results: Sequence[Generation], write: Callable[[int, float], None], shown: _S, unit: str
) -> Generator[_S, None, None]:
    """Carry out the steps, each of which says how many `unit`s are written by now. Gives `shown` a few times a second, once
    `write` (units, seconds) has brought the results up to date; the seconds that others take to draw it do not count.

    An interrupt, here or while it is drawn, and a `request_stop` end the writing, and what was written stays. So does it
    where nobody listens any more: then the results are `done`.
    """
    began = last = time.perf_counter()
    waited, units = 0.0, 0
    try:
        for units in steps:
            now = time.perf_counter()
            if now - last > REFRESH_SECONDS:
                write(units, now - began - waited)
                yield shown
                last = time.perf_counter()
                waited += last - now
                if any(one.stopping for one in results):
                    raise KeyboardInterrupt
    except (KeyboardInterrupt, GeneratorExit) as ending:
        for one in results:
            one.notes.append(f"interrupted after {units} {unit}")
            one.interrupted, one.stopping = True, False
        if isinstance(ending, GeneratorExit):
            write(units, time.perf_counter() - began - waited)
            for one in results:
                one.done = True
            raise
    write(units, time.perf_counter() - began - waited)

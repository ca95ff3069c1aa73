"""States that a run can go on from: `resume/00000812.safetensors`, the newest few, written beside the steps."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from llm_lab.errors import BadValue, LabError
from llm_lab.store.files import check_seal, make_folder, write_tensors
from llm_lab.store.runs import Run
from llm_lab.store.typed import build
from llm_lab.training.state import Progress, TrainState

KEPT = 2  # states: where the newest is damaged there is the one before it
COST = 0.01  # of the time of training that saving may take; it is done less often where it would take more


def write_state(run: Run, state: TrainState) -> None:
    """To disk, then the old ones away; so are those of later steps: the run went back before them, as they were damaged."""
    path = run.state_file(state.progress.step)
    make_folder(path.parent)
    write_tensors(path, state.brought(), {"progress": json.dumps(state.numbers())})
    now = state.progress.step
    kept = [step for step in run.states if step <= now][-KEPT:]
    for step in run.states:
        if step not in kept:
            with contextlib.suppress(OSError):
                run.state_file(step).unlink()


def read_state(path: Path) -> TrainState:
    """BadValue where the file is not as it was written."""
    check_seal(path, needed=True)
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("progress", "")
        return TrainState(load_file(path), build(Progress, json.loads(about)))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise BadValue(f"{path} is damaged: {error}") from None


def newest_state(run: Run) -> tuple[TrainState | None, list[str]]:
    """The newest state that is whole, and what is wrong with those after it; None where there is none."""
    damaged: list[str] = []
    for step in reversed(run.states):
        try:
            return read_state(run.state_file(step)), damaged
        except BadValue as error:
            damaged.append(str(error))
    return None, damaged


class Saver:
    """Writes states while the steps go on: on a CPU they wait for the copy, and nowhere for the disk.

    A state is due `every` so many seconds, or so rarely that copying and writing take at most a hundredth of the time;
    with 0 never by itself. `at_once`: others wait for the first ones, which are due now and after 1, 3, 7, … seconds. What
    keeps a state from the disk, whatever it is, is told in `problem`: the run is worth more than one state of it.
    """

    def __init__(self, run: Run, every: float, at_once: bool = False) -> None:
        self.run, self.every = run, every
        self.problem = ""  # what kept the last one from it
        self._thread: threading.Thread | None = None
        self._last = -math.inf if at_once else time.monotonic()
        self._gap = 0.5 if at_once else every  # seconds to the next one where those are fewer; twice as many after each
        self._cost = 0.0  # seconds of one

    @property
    def interval(self) -> float:
        return max(min(self.every, self._gap), self._cost / COST) if self.every else math.inf

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self.interval and not self._busy

    @property
    def _busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, take: Callable[[], TrainState]) -> None:
        """Copy the state now, and have it written."""
        self.wait()
        began = self._last = time.monotonic()
        try:
            state = take()
        except Exception as error:
            self.problem = _problem(error)
            return
        self._gap *= 2
        self._last = time.monotonic()
        copying = self._last - began
        self._thread = threading.Thread(target=self._write, args=(state, copying), name="llm-lab-save", daemon=True)
        self._thread.start()

    def skip(self) -> None:
        """Not this time: the next one is due when it would be after it."""
        self._last = time.monotonic()

    def wait(self) -> None:
        """Until what was handed over is on the disk, or was kept from it."""
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # an interrupt came before it was started
                self._thread.join()

    def _write(self, state: TrainState, copying: float) -> None:
        began = time.thread_time()
        try:
            write_state(self.run, state)
        except Exception as error:
            self.problem = _problem(error)
        else:
            self.problem = ""
        self._cost = copying + time.thread_time() - began


def _problem(error: Exception) -> str:
    why = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    return f"a state was not saved: {' '.join(why.split())[:300]}"

"""The loggers of one run. Each works on a thread of its own, so that none holds up a step, and none that fails ends a run."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm_lab.errors import LabError
from llm_lab.loggers.logger import Logger
from llm_lab.loggers.options import LOGGERS
from llm_lab.store.files import read_json, write_json

FILE = "loggers.json"  # in the run's folder: what each logger wants to know when the run goes on
_WAITING = 50_000  # events that a logger may be behind
_PATIENCE = 30.0  # seconds that the end of a run waits for its loggers


class Loggers:
    """Those that were asked for; BadValue where a library of theirs is missing.

    loggers = Loggers(("tensorboard", "mlflow"))
    loggers.start(about, notes, run.events())    # what has happened before, where a run goes on
    loggers.tell(event); …
    loggers.close("finished", {"loss": 1.2})
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._made: dict[str, Logger] = {name: LOGGERS.load(name)() for name in dict.fromkeys(names)}
        self._lines: list[_Line] = []
        self._notes: list[str] = []

    def start(self, about: Mapping[str, Any], notes: list[str], past: Iterable[Mapping[str, Any]] = ()) -> None:
        """Begin. `about` is what Logger.start is told; `notes` are the card's lines, of which each logger adds its own;
        `past` are the run's events until now."""
        self._notes, self._file = notes, Path(about["folder"]) / FILE
        kept = _read(self._file)
        before = list(past) if self._made else []
        self._lines = [_Line(name, one, about, kept.get(name, {}), before) for name, one in self._made.items()]

    def tell(self, event: Mapping[str, Any]) -> None:
        """Pass an event on, as a line of events.jsonl has it."""
        for line in self._lines:
            line.put(event)
        self._report()

    def close(self, status: str, final: Mapping[str, float]) -> None:
        """The end of the run, or of its part in this process; waits until all is written, for half a minute at most."""
        for line in self._lines:
            line.end(status, final)
        until = time.monotonic() + _PATIENCE
        for line in self._lines:
            line.thread.join(max(0.0, until - time.monotonic()))
            if line.thread.is_alive() and not line.failure:
                line.failure = f"it did not take everything within {_PATIENCE:.0f} s of the end"
        self._report()
        self._lines = []

    def _report(self) -> None:
        """What the loggers' threads have to say, to the card; and what they want kept, to the run's folder."""
        news = [line for line in self._lines if line.started and not line.reported]
        for line in news:
            line.reported = True
            self._notes += [f"log: {line.logger.look}"] if line.logger.look else []
            self._notes += [line.logger.note] if line.logger.note else []
        if news:
            kept = _read(self._file) | {line.name: line.kept for line in self._lines if line.started}
            with contextlib.suppress(LabError):
                write_json(self._file, kept)
        for line in [line for line in self._lines if line.failure]:
            self._notes.append(f"log: {line.name} was closed: {line.failure}")
            self._lines.remove(line)


class _Line:
    """One logger, its thread, and the events on their way to it."""

    def __init__(
        self,
        name: str,
        logger: Logger,
        about: Mapping[str, Any],
        kept: dict[str, Any],
        past: Iterable[Mapping[str, Any]],
    ) -> None:
        self.name, self.logger, self.kept = name, logger, kept
        self.started = self.reported = False
        self.failure = ""
        self._events: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_WAITING)
        self._end: tuple[str, Mapping[str, float]] = ("failed", {})
        self.thread = threading.Thread(target=self._work, args=(about, past), name=f"log-{name}", daemon=True)
        self.thread.start()

    def put(self, event: Mapping[str, Any] | None) -> None:
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.failure = self.failure or f"it is {_WAITING:,} events behind"

    def end(self, status: str, final: Mapping[str, float]) -> None:
        self._end = (status, final)
        self.put(None)

    def _work(self, about: Mapping[str, Any], past: Iterable[Mapping[str, Any]]) -> None:
        event: Mapping[str, Any] | None
        try:
            self.kept = self.logger.start(about, self.kept)
            self.started = True
            for event in past:
                self.logger.tell(event)
            while not self.failure and (event := self._events.get()) is not None:
                self.logger.tell(event)
            if not self.failure:
                self.logger.close(*self._end)
        except Exception as error:  # of whatever kind a library has: the run is worth more than its log
            self.failure = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if self.failure and self.started:
            with contextlib.suppress(Exception):
                self.logger.close("failed", {})


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = read_json(file)
    except LabError:
        return {}
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}

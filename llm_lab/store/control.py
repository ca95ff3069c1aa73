"""What a person asks of a run that another process trains: lines in `control.jsonl`, read between its steps."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from llm_lab.store import inside
from llm_lab.store.folders import writing
from llm_lab.store.runs import Run

FILE = "control.jsonl"


def ask(run: Run, do: str, **more: Any) -> None:
    """pause | stop | lr (with `scale`, a factor of the schedule). BadValue where it cannot be written."""
    line = json.dumps({"do": do, **more}).encode() + b"\n"
    path = run.path / FILE
    with writing(path):
        descriptor = os.open(path, inside.WRITE | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)  # one write of few bytes: two who ask at once do not mix their lines
        finally:
            os.close(descriptor)


def forget(run: Run) -> None:
    """What was asked of it before is over."""
    with contextlib.suppress(OSError):
        (run.path / FILE).unlink()


class Control:
    """Reads what is asked, each once."""

    def __init__(self, run: Run) -> None:
        self._path, self._place = run.path / FILE, 0

    def new(self) -> Iterator[dict[str, Any]]:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._place)
                lines = file.read(1 << 16)
        except OSError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                command = json.loads(line)
                if isinstance(command, dict):
                    yield command

"""The trace of a run, one JSON line an event: written as they happen, whole lines only, and read again while it grows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from llm_lab.errors import BadValue
from llm_lab.store import inside
from llm_lab.store.folders import why, writing

FILE = "events.jsonl"
_NUMBERS = {
    "step": ("step", "tokens", "seconds", "lr"),
    "validation": ("step", "tokens", "seconds"),
    "watch": ("step", "tokens", "seconds"),
    "sample": ("step", "seconds"),
}


def number(value: object) -> float | None:
    """A finite number as it is, and None for whatever else a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None  # not of NaN


def table(value: object) -> dict[str, Any]:
    """A table as it is, and an empty one for whatever else a file may hold in its place."""
    return value if isinstance(value, dict) else {}


class EventLog:
    """Appends events. Where the disk is full they are kept, and written when it is not: a line is whole or not there."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = os.open(path, inside.WRITE, 0o644)
        self._path, self._waiting = path, bytearray()
        self._end = os.lseek(self._file, 0, os.SEEK_END)

    def add(self, event: Mapping[str, Any]) -> None:
        self._waiting += _line(event)

    def flush(self, durable: bool = False) -> str:
        """Write what waits, `durable` also through the system's buffers; what kept it from that, or ''."""
        try:
            while self._waiting:
                os.lseek(self._file, self._end, os.SEEK_SET)  # not behind half a line of an attempt that failed
                written = os.write(self._file, self._waiting)
                self._end += written
                del self._waiting[:written]
            if durable:
                os.fsync(self._file)
        except OSError as error:
            return why(self._path, error)  # half a line has no break at its end, so that readers pass it by
        return ""

    def close(self) -> None:
        self.flush()
        with contextlib.suppress(OSError):
            os.close(self._file)


def read_events(file: IO[bytes], start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines of an open file from a place on, each with the place behind it. One cut off by a crash ends them; one
    that is damaged is passed by."""
    if start:
        file.seek(start)
    while line := file.readline(inside.LINE):
        if not line.endswith(b"\n"):
            return
        start += len(line)
        with contextlib.suppress(BadValue):
            event = inside.parsed(line, FILE)
            if _is_event(event):
                yield event, start


def cut_after(path: Path, step: int) -> None:
    """Forget what happened after a step: a run that goes on from there does it again."""
    from llm_lab.store.files import write_bytes

    kept = []
    with contextlib.suppress(OSError, BadValue), inside.opened(path, path.parent) as file:
        kept = [event for event, _ in read_events(file) if (number(event.get("step")) or 0) <= step]
    write_bytes(path, b"".join(map(_line, kept)))


def _line(event: Mapping[str, Any]) -> bytes:
    """What is no character (half of one) becomes an escape of JSON."""
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _is_event(value: Any) -> bool:
    """Whether a line holds what its readers rest on; a loss that was no number is None."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    needed = _NUMBERS.get(value["kind"], ())
    if any(number(value.get(name)) is None for name in needed):
        return False
    loss = value.get("loss")
    return not needed or (isinstance(value["step"], int) and (loss is None or number(loss) is not None))

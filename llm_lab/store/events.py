"""The trace of a run, one JSON line an event: written as they happen, whole lines only, and read again while it grows."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_lab.store.folders import why, writing

FILE = "events.jsonl"
_NUMBERS = {
    "step": ("step", "tokens", "seconds", "lr"),
    "validation": ("step", "tokens", "seconds"),
    "watch": ("step", "tokens", "seconds"),
    "sample": ("step", "seconds"),
}
_LONGEST = 1 << 24  # bytes of a line: an event is a few hundred


def number(value: object) -> float | None:
    """A finite number as it is, and None for whatever else a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None  # not of NaN


class EventLog:
    """Appends events. Where the disk is full they are kept, and written when it is not: a line is whole or not there."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._path, self._waiting = path, bytearray()
        self._end = os.lseek(self._file, 0, os.SEEK_END)

    def add(self, event: Mapping[str, Any]) -> None:
        self._waiting += _line(event)

    def flush(self, durable: bool = False) -> str:
        """Write what waits, `durable` also through the system's buffers; what kept it from that, or ''."""
        try:
            while self._waiting:
                written = os.pwrite(self._file, self._waiting, self._end)
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


def read_events(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole lines from a place in the file on, each with the place behind it; one cut off by a crash, or damaged, ends
    them."""
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed by the with below
    except OSError:
        return
    with file:
        file.seek(start)
        while line := file.readline(_LONGEST):
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                return
            if not _is_event(event):
                return
            start += len(line)
            yield event, start


def cut_after(path: Path, step: int) -> None:
    """Forget what happened after a step: a run that goes on from there does it again."""
    from llm_lab.store.files import write_bytes

    kept = [event for event, _ in read_events(path) if (number(event.get("step")) or 0) <= step]
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

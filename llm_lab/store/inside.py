"""Files that a stranger may have written, opened as data: each a regular file of its folder, of a size that its kind may
have. It knows no run and no torch."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import IO, Any

from llm_lab.errors import BadValue, show

SMALL = 1 << 18  # bytes of a JSON file that holds settings; parsed, it may take thirty times that
LARGEST = {
    "status.json": 1 << 16,  # which is read most
    "report.json": 1 << 20,
    "tokenizer.json": 1 << 26,
    "tokenizer_config.json": 1 << 22,
    "special_tokens_map.json": 1 << 22,
}
HEAD = 1 << 22  # bytes of the head of a safetensors file
LINE = 1 << 20  # bytes of a line of events

_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)  # no system has all of them
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _PLAIN
WRITE = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | _PLAIN
_WHOLE = "a whole copy of its folder would do"


def limit(name: str) -> int:
    """The bytes that a JSON file of that name may have."""
    return LARGEST.get(name, SMALL)


def plain(path: Path, inside: Path | None = None, most: int | None = None) -> Path:
    """The path, of a regular file: no pipe and no device, which would be waited for; with `inside`, no link either, nor
    behind one, below that folder. BadValue says what else it is, or that it is larger than `most` bytes;
    FileNotFoundError where there is nothing."""
    try:
        found = os.stat(path)
        linked = inside is not None and _leaves(path, inside)
    except FileNotFoundError:
        if os.path.islink(path):
            raise BadValue(f"{path} is a link to nothing; {_WHOLE}") from None
        raise
    except (OSError, ValueError) as error:
        raise BadValue(f"{path} cannot be read: {error}") from None
    if linked:
        raise BadValue(f"{path} is a link, and only files of the folder itself are read; {_WHOLE}")
    if not stat.S_ISREG(found.st_mode):
        raise BadValue(f"{path} is {_kind(found.st_mode)}, not a file; {_WHOLE}")
    if most is not None and found.st_size > most:
        raise too_large(path, found.st_size, most)
    return path


def is_plain(path: Path, inside: Path | None = None) -> bool:
    """Whether `plain` takes it."""
    try:
        return bool(plain(path, inside))
    except (OSError, BadValue):
        return False


def opened(path: Path, inside: Path | None = None, most: int | None = None) -> IO[bytes]:
    """A file that `plain` takes, open for reading."""
    plain(path, inside, most)
    try:
        handle = os.open(path, _READ)
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {error}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # it was changed meanwhile
        os.close(handle)
        raise BadValue(f"{path} is not a file; {_WHOLE}")
    return os.fdopen(handle, "rb")


def bounded(file: IO[bytes], name: object, most: int) -> bytes:
    """All that an open file holds; BadValue where that is more than `most` bytes, which are not read."""
    data = file.read(most + 1)
    if len(data) > most:
        raise too_large(name, None, most)
    return data


def parsed(data: bytes, name: object) -> Any:
    """JSON's value; BadValue that names the file where it holds none."""
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise BadValue(f"{name} cannot be read: it is nested too deeply") from None
    except ValueError as error:
        raise BadValue(f"{name} cannot be read: {error}") from None


def shapes(file: IO[bytes], name: object, size: int | None = None, most: int = HEAD) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file (of `size` bytes), by its head alone, which is measured before it is
    read. BadValue where it is none."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or (size is not None and length > size - 8):
        raise BadValue(f"{name} is damaged: its head would take {length:,} bytes, and it has {size or 0:,}; {_WHOLE}")
    if length > most:
        raise too_large(f"the head of {name}", length, most)
    table = parsed(file.read(length), f"the head of {name}")
    found = {}
    for tensor, about in table.items() if isinstance(table, dict) else ():
        shape = about.get("shape") if isinstance(about, dict) else None
        if tensor == "__metadata__":
            continue
        if not isinstance(shape, list) or not all(type(one) is int and 0 <= one < 1 << 48 for one in shape):
            raise BadValue(f"{name} is damaged: tensor {show(tensor)} has no shape; {_WHOLE}")
        found[tensor] = tuple(shape)
    return found


def count(found: dict[str, tuple[int, ...]]) -> int:
    """The numbers in tensors of these shapes."""
    return sum(math.prod(shape) for shape in found.values())


def size(folder: Path) -> int:
    """Bytes of a folder's own files; what is linked to is not counted, nor what is replaced meanwhile."""
    total, todo = 0, [os.fspath(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def too_large(name: object, found: int | None, most: int) -> BadValue:
    has = "more" if found is None else f"{found / 1e6:,.1f} MB"
    return BadValue(f"{name} is too large: {has}, and such a file has at most {most / 1e6:,.0f} MB; {_WHOLE}")


def _leaves(path: Path, folder: Path) -> bool:
    """Whether a link stands anywhere between a folder and a file in it."""
    straight = os.path.join(os.path.realpath(folder), os.path.relpath(path, folder))
    return os.path.normcase(os.path.realpath(path)) != os.path.normcase(os.path.normpath(straight))


def _kind(mode: int) -> str:
    for is_one, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_one(mode):
            return name
    return "a device"

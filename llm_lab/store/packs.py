"""Runs in one file: a zip of a run's folder, written to be given away, listed where it lies, and unpacked when its
weights are first needed. It knows no torch.

A zip is data that a stranger may have written: of a run's files only those that every run has are read from it, and
nothing else is ever written to disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from llm_lab.errors import BadValue, listing, show
from llm_lab.store import inside
from llm_lab.store.folders import home, writing
from llm_lab.store.runs import Run

DIRECTORY = 1 << 20  # bytes of a zip's list of files
RUNS = 256  # in one zip
RATIO, SPARE = 100, 1 << 24  # unpacked, a zip is at most so many times its size, and these bytes
_JSON = "request|plan|environment|status|report|model|tokenizer|tokenizer_config"
_PART = rf"(?:{_JSON})\.json|events\.jsonl|(?:checkpoints/[0-9]{{1,18}}/)?(?:model|extras)\.safetensors"
_STATE = r"resume/[0-9]{1,18}\.safetensors"
_PLACE = re.compile(rf"((?:[^/]+/)*?)({_PART}|{_STATE})")  # the run's folder in a zip, and which of its files it is
_NAME = re.compile(r"\w[\w.-]{0,120}")
_WHEN = (1980, 1, 1, 0, 0, 0)  # of every file in a zip that we write: the same run gives the same bytes
_CHUNK = 1 << 18
_PRIVATE = ("pid", "born", "host", "restored")  # what a status says of the machine that it was written on


def pack(run: Run, path: Path) -> Path:
    """Write a run as one zip: what is needed to load it and to look at it; of one that is not finished, that is what it
    goes on from. Weights are stored as they are, the rest is compressed. BadValue where there is such a file, which stays
    as it is."""
    wanted = re.compile(_PART if run.status == "finished" else f"{_PART}|{_STATE}")
    names = [name for name in _files(run.folder) if wanted.fullmatch(name)]
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            with open(beside, "xb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    for name in names:
                        _add(archive, run, name)
                file.flush()
                os.fsync(file.fileno())
            _put(beside, path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    return path


def _files(folder: Path) -> list[str]:
    """The names of a folder's own files, in order, with / between."""
    found = []
    for base, _, names in os.walk(folder):  # which follows no links
        paths = [Path(base, name) for name in names]
        found += [path.relative_to(folder).as_posix() for path in paths if inside.is_plain(path, folder)]
    return sorted(found)


def _add(archive: zipfile.ZipFile, run: Run, name: str) -> None:
    about = zipfile.ZipInfo(f"{run.path.name}/{name}", _WHEN)
    about.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    about.create_system, about.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix, wherever it is made
    if name == "status.json":  # what became of the run, without the machine that it ran on
        state = {key: value for key, value in run.read("status").items() if key not in _PRIVATE}
        text = json.dumps({**state, "status": run.status}, indent=2)
        archive.writestr(about, text)
        return
    about.file_size = (run.folder / name).stat().st_size
    with run.open(name) as source, archive.open(about, "w") as target:
        shutil.copyfileobj(source, target, _CHUNK)


def _put(beside: Path, path: Path) -> None:
    """Give a file a name that no other has."""
    try:
        os.link(beside, path)  # which fails where there is one
    except FileExistsError:
        raise BadValue(f"path: {str(path)!r} is there already and stays as it is; choose another name") from None
    except OSError:  # a disk without hard links
        if os.path.lexists(path):
            raise BadValue(f"path: {str(path)!r} is there already and stays as it is; choose another name") from None
        os.replace(beside, path)


@dataclass(frozen=True)
class PackedRun(Run):
    """A run in a zip. `path` is the folder that it is unpacked into when its weights are first needed."""

    archive: Path
    root: str  # of its files in the zip: "bard-3f2a9c/"

    @property
    def folder(self) -> Path:
        if not self.path.is_dir():
            _unpack(self)
        return self.path

    @property
    def where(self) -> Path:
        return self.archive

    @property
    def size(self) -> int:
        return sum(one.compress_size for one in self._files.values())

    @property
    def status(self) -> str:
        return "died" if (status := super().status) == "training" else status  # nobody trains within a zip

    @property
    def resumable(self) -> bool:
        return False  # what is in a zip is only read

    def names(self, folder: str) -> list[str]:
        found = [name.split("/") for name in self._files]
        return list(dict.fromkeys(parts[1] for parts in found if parts[0] == folder and len(parts) > 1))

    def open(self, name: str, most: int | None = None) -> IO[bytes]:
        if self.path.is_dir():
            return super().open(name, most)
        found = self._files.get(name)
        if found is None:
            raise FileNotFoundError(f"{self.archive} has no {name}")
        if most is not None and found.file_size > most:
            raise inside.too_large(f"{name} in {self.archive}", found.file_size, most)
        return io.BufferedReader(_Member(self.archive, found), _CHUNK)

    def has(self, name: str) -> bool:
        return super().has(name) if self.path.is_dir() else name in self._files

    @property
    def _files(self) -> dict[str, zipfile.ZipInfo]:
        return _index(self.archive).runs.get(self.root, {})


def packed(path: Path) -> list[PackedRun]:
    """The runs in a zip, by its list of files alone. BadValue where it is damaged, or made to do harm."""
    index = _index(path)
    folder = home() / "packs" / index.key
    names = {root: root.rstrip("/").rpartition("/")[2] or path.stem for root in index.runs}
    return [PackedRun(folder / name, path, root) for root, name in names.items() if _NAME.fullmatch(name)]


def only(path: Path) -> PackedRun:
    """The one run of a zip; BadValue where there is none, or several."""
    found = packed(path)
    if not found:
        raise BadValue(f"{str(path)!r} holds no run; %lab pack NAME makes a zip that does")
    if len(found) > 1:
        raise BadValue(
            f"{str(path)!r} holds several runs ({listing((run.path.name for run in found), 6)}); name the zip in "
            "LLM_LAB_PATH, and load one of them by its id"
        )
    return found[0]


@dataclass(frozen=True)
class _Index:
    """What a zip holds of runs."""

    key: str  # of its content: SHA-256 of its list of files, which has a check sum of each
    runs: dict[str, dict[str, zipfile.ZipInfo]]  # by the folder in the zip, then by the file's name in that


def _index(path: Path) -> _Index:
    """What a zip holds; read again when the file has changed."""
    try:
        about = inside.plain(path).stat()
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {error}") from None
    return _read_index(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_index(path: Path, size: int, _changed: int) -> _Index:
    try:
        with inside.opened(path) as file:
            with zipfile.ZipFile(_Short(file)) as archive:  # type: ignore[arg-type]  # it reads and seeks
                members, start = archive.infolist(), archive.start_dir
            file.seek(start)
            key = hashlib.sha256(file.read(DIRECTORY)).hexdigest()[:24]
    except BadValue:
        raise
    except Exception as error:  # a damaged list makes the library fail in a dozen ways
        raise BadValue(f"{path} is no zip that can be read ({show(str(error))}); a whole copy of it would do") from None
    found: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for one in members:
        _refuse_harm(path, one)
        if place := _PLACE.fullmatch(one.filename):
            found.setdefault(place[1], {})[place[2]] = one
    runs = {root: files for root, files in found.items() if "request.json" in files}
    whole = sum(one.file_size for files in runs.values() for one in files.values())
    if whole > RATIO * size + SPARE or len(runs) > RUNS:
        raise BadValue(
            f"{path} is not used: its {size / 1e6:,.1f} MB would become {whole / 1e6:,.0f} MB in {len(runs):,} runs, which "
            "no zip of runs does"
        )
    return _Index(key, runs)


def _refuse_harm(path: Path, one: zipfile.ZipInfo) -> None:
    """BadValue for a zip of which a file would leave its folder, or be none. What is no part of a run is passed by."""
    name, mode = one.filename, one.external_attr >> 16
    leaves = name.startswith("/") or ".." in name.split("/") or re.search(r"[\\:\x00-\x1f\x7f]", name)
    if leaves or one.orig_filename != name:
        raise BadValue(
            f"{path} is not used: it holds the name {show(one.orig_filename)}, which leads out of its folder"
        )
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise BadValue(f"{path} is not used: it holds {show(name)}, a link or a device in the place of a file")
    if one.flag_bits & 1 or (
        _PLACE.fullmatch(name) and one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ):
        raise BadValue(f"{path} is not used: {show(name)} is encrypted, or packed in a way that is not read here")


class _Short:
    """A file for `zipfile` to read its list from, of which no piece is larger than such a list may be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(DIRECTORY + 1 if size < 0 else min(size, DIRECTORY + 1))
        if len(data) > DIRECTORY:
            raise zipfile.BadZipFile("its list of files is too long")
        return data


class _Member(io.RawIOBase):
    """One file of a zip, read where it lies. What is damaged ends it, as does the size that the zip's list states; `crc`
    is the check sum of what was read."""

    def __init__(self, path: Path, about: zipfile.ZipInfo) -> None:
        super().__init__()
        self._file = inside.opened(path)
        self._unpack: Any = zlib.decompressobj(-15) if about.compress_type == zipfile.ZIP_DEFLATED else None
        self._packed, self._left, self._rest, self.crc = about.compress_size, about.file_size, b"", 0
        self._file.seek(about.header_offset)
        head = self._file.read(30)
        if len(head) == 30 and head[:4] == b"PK\3\4":
            self._file.seek(sum(struct.unpack("<HH", head[26:])), os.SEEK_CUR)  # its name, and what is added to it
        else:
            self._left = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._left, _CHUNK)
        data = self._stored(wanted) if self._unpack is None else self._unpacked(wanted)
        self._left -= len(data)
        self.crc = zlib.crc32(data, self.crc)
        buffer[: len(data)] = data
        return len(data)

    def _stored(self, wanted: int) -> bytes:
        data = self._file.read(min(wanted, self._packed))
        self._packed -= len(data)
        return data

    def _unpacked(self, wanted: int) -> bytes:
        data = b""
        while wanted and not data and not self._unpack.eof:
            if not self._rest:
                self._rest = self._stored(_CHUNK)
                if not self._rest:
                    break
            try:
                data = self._unpack.decompress(self._rest, wanted)
            except zlib.error:
                break
            self._rest = self._unpack.unconsumed_tail
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpack(run: PackedRun) -> None:
    """Write a run's files into its folder, which is there whole or not at all. BadValue where the zip is damaged, or the
    disk too small."""
    files = _index(run.archive).runs.get(run.root, {})
    need = sum(one.file_size for one in files.values())
    free = shutil.disk_usage(home(make=True)).free
    if need > free:
        raise BadValue(
            f"{run.archive} cannot be unpacked: it takes {need / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB of the disk are free"
        )
    beside = run.path.with_name(f".{run.path.name}.{secrets.token_hex(4)}")
    with writing(run.path):
        try:
            for name, about in files.items():
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                _write(beside / name, run.archive, about)
            with contextlib.suppress(OSError):  # another process has just done the same
                os.replace(beside, run.path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _write(path: Path, archive: Path, about: zipfile.ZipInfo) -> None:
    with _Member(archive, about) as source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
        if source.crc != about.CRC or target.tell() != about.file_size:
            raise BadValue(f"{archive} is damaged at {about.filename}; a whole copy of it would do")
        target.flush()
        os.fsync(target.fileno())

"""Documents that are read from their files as they are used, since together they are too large to be held."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

from llm_lab.corpora.files import BOM, decoded, plain, unreadable
from llm_lab.errors import BadValue
from llm_lab.progress import Bar

LARGE = 64_000_000  # bytes; less is held in memory
PIECE = 1 << 20  # bytes that are read at a time
_Size = tuple[int, int]  # characters, and bytes in UTF-8
_NEAR = 1 << 12  # bytes before a piece's end in which a line's, or a word's, is looked for


@dataclass(frozen=True)
class Source:
    """A file as it was when it was opened."""

    path: Path
    size: int
    changed: int  # nanoseconds since the epoch

    @classmethod
    def of(cls, path: Path) -> Source:
        path = path.absolute()  # the folder may be another when it is read
        about = path.stat()
        return cls(path, about.st_size, about.st_mtime_ns)


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that are text for themselves: no character, and no line's end, lies across their bounds."""

    source: Source
    start: int
    stop: int

    def read(self) -> bytes:
        path = self.source.path
        try:
            with path.open("rb") as file:
                about = os.fstat(file.fileno())
                if (about.st_size, about.st_mtime_ns) != (self.source.size, self.source.changed):
                    raise BadValue(f"corpus: {str(path)!r} has changed since it was opened; run the cell again")
                file.seek(self.start)
                return file.read(self.stop - self.start)
        except OSError as error:
            raise unreadable(str(path), error) from None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def raw(self) -> str:
        """As it stands in the file."""
        return decoded(self.read(), str(self.source.path), self.start)

    @property
    def text(self) -> str:
        return plain(self.raw)

    def cut(self, chars: int) -> tuple[Piece, Piece]:
        """What has the first `chars` characters of its text, and the rest."""
        at = self.start + _bytes_of(self.raw, chars)
        return Piece(self.source, self.start, at), Piece(self.source, at, self.stop)


class FileTexts(Sequence[str]):
    """The texts of files, a document each, as `files.read_text` gives them; each is read again whenever it is asked for.

    `pieces` reads all of them, a megabyte at a time.
    """

    def __init__(self, documents: Sequence[Sequence[Piece]], sizes: Sequence[Sequence[_Size]] | None = None) -> None:
        self._documents = documents
        if sizes is not None:
            self._sizes = sizes

    @classmethod
    def of(cls, paths: Sequence[Path]) -> FileTexts:
        """A document of each file; those without a visible character are left out."""
        found = []
        for path in paths:
            try:
                found.append(_pieces(Source.of(path)))
            except OSError as error:
                raise unreadable(str(path), error) from None
        return cls([pieces for pieces in found if any(not piece.text.isspace() for piece in pieces if piece)])

    def __len__(self) -> int:
        return len(self._documents)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        return "".join(piece.text for piece in self._documents[i])

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The texts in pieces, with whether a piece ends its document."""
        for pieces in self._documents:
            for piece in pieces:
                yield piece.text, piece is pieces[-1]

    @cached_property
    def _sizes(self) -> Sequence[Sequence[_Size]]:
        """Of each piece, of each document."""
        found: list[list[_Size]] = []
        with Bar(sum(map(len, itertools.chain(*self._documents))), "reading") as bar:
            for pieces in self._documents:
                found.append([])
                for piece in pieces:
                    found[-1].append(_size(piece.text))
                    bar.update(len(piece))
        return found

    @property
    def n_chars(self) -> int:
        return sum(chars for sizes in self._sizes for chars, _ in sizes)

    @property
    def n_bytes(self) -> list[int]:
        """UTF-8 bytes of each document."""
        return [sum(size for _, size in sizes) for sizes in self._sizes]

    def cut(self, chars: int) -> tuple[FileTexts, FileTexts]:
        """The first `chars` characters and the rest; the document across the boundary is cut in two."""
        sides: tuple[list[list[tuple[Piece, _Size]]], ...] = ([], [])
        for pieces, sizes in zip(self._documents, self._sizes, strict=True):
            parts: tuple[list[tuple[Piece, _Size]], ...] = ([], [])
            for piece, size in zip(pieces, sizes, strict=True):
                if 0 < chars < size[0]:
                    for part, cut in zip(parts, piece.cut(chars), strict=True):
                        part.append((cut, _size(cut.text)))
                else:
                    parts[size[0] > chars].append((piece, size))
                chars = max(0, chars - size[0])
            for side, part in zip(sides, parts, strict=True):
                if part:
                    side.append(part)
        head, tail = (
            FileTexts([[piece for piece, _ in part] for part in side], [[size for _, size in part] for part in side])
            for side in sides
        )
        return head, tail


def _size(text: str) -> _Size:
    return len(text), len(text) if text.isascii() else len(text.encode())


def _pieces(source: Source) -> list[Piece]:
    """A file cut about every megabyte: where a line ends, else behind a space, else between characters."""
    with source.path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        found = []
        while source.size - start > PIECE:
            file.seek(start + PIECE - _NEAR)
            stop = start + PIECE - _NEAR + _bound(file.read(_NEAR))
            found.append(Piece(source, start, stop))
            start = stop
    return [*found, Piece(source, start, source.size)]


def _bound(near: bytes) -> int:
    """Where to cut within some bytes, so that what is on either side is text for itself."""
    if at := near.rfind(b"\n") + 1 or near.rfind(b" ") + 1:
        return at
    at = len(near)
    while at and 0x80 <= near[at - 1] < 0xC0:  # inside a character
        at -= 1
    if at and near[at - 1] >= 0xC0:  # its first byte
        at -= 1
    if at and near[at - 1] == ord("\r"):  # what follows may belong to it
        at -= 1
    return at or len(near)


def _bytes_of(text: str, chars: int) -> int:
    """How many bytes of a file stand for the first `chars` characters of its text, in which `\\r\\n` is one."""
    at = 0
    for line in text.split("\r\n"):
        if chars <= len(line):
            break
        chars -= len(line) + 1
        at += len(line) + 2
    return len(text[: at + chars].encode())

"""A corpus tokenised once into memory-mapped arrays on disk; it does not know how examples are drawn from them."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llm_lab.corpora.corpus import Corpus
from llm_lab.errors import BadValue
from llm_lab.progress import Bar
from llm_lab.tokenizers.tokenizer import Tokenizer

_FORMAT = 1
_PART = 1 << 18  # characters of one part of a long document
_BATCH = 1 << 21  # characters encoded together: the library holds about 100 bytes a token meanwhile
_STALE = 3600  # seconds without a word written, after which a file is nobody's


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of a corpus, read from disk as they are used.

    `ids` (N,) uint16 or uint32; document i is `ids[offsets[i]:offsets[i + 1]]`, its `<eos>` included where the corpus
    has several documents. `n_chars` and `n_bytes` are the text's, without what separates documents.
    """

    ids: np.ndarray
    offsets: np.ndarray  # (n_documents + 1,) int64
    n_chars: int
    n_bytes: int
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> str:
        """What `open` finds these arrays by."""
        return self.path.stem if self.path else ""

    @classmethod
    def open(cls, folder: Path, key: str) -> Tokens | None:
        """Arrays that were written before, or None where they are not there."""
        path = folder / f"{key}.npy"
        try:
            facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return _read(path, {"format": _FORMAT, "n_chars": int(facts["n_chars"]), "n_bytes": int(facts["n_bytes"])})
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @property
    def n_documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, i: int) -> np.ndarray:
        """The ids of one document; of a pair the source, `<sep>` and the target."""
        return np.asarray(self.ids[self.offsets[i] : self.offsets[i + 1]])


def tokenize(corpus: Corpus, tokenizer: Tokenizer, folder: str | Path) -> Tokens:
    """The corpus as arrays in `folder`, which is made where it is missing; reused where they are there already.

    Several documents end with `<eos>` each; a single one has none. Between a document and its target is `<sep>`. A half-written or damaged set is written again.
    """
    path = Path(folder) / f"{corpus.fingerprint[:16]}-{tokenizer.fingerprint[:16]}.npy"
    facts = {
        "format": _FORMAT,
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "n_chars": corpus.n_chars,
        "n_bytes": corpus.n_bytes,
    }
    found = _read(path, facts)
    if found is None:
        try:
            _write(path, facts, corpus, tokenizer)
        except OSError as error:
            raise BadValue(
                f"folder: {str(path.parent)!r} cannot be written ({error.strerror or error}); choose another"
            ) from error
        found = _read(path, facts)
    assert found is not None, "what was just written is there"
    return found


def _read(path: Path, facts: dict[str, Any]) -> Tokens | None:
    """The arrays at `path`, or None where they are missing, damaged or of something else."""
    try:
        written = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if {key: written[key] for key in facts} != facts:
            return None
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
        offsets = np.load(path.with_suffix(".offsets.npy"), allow_pickle=False)
        whole = len(ids) == offsets[-1] == written["n_tokens"] and len(offsets) == written["n_documents"] + 1
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None
    return Tokens(ids, offsets, facts["n_chars"], facts["n_bytes"], path) if whole else None


def _write(path: Path, facts: dict[str, Any], corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Encode the corpus and put three files in place, the description last: it says that the others are whole."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    ends = array("q", [0])
    total = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.part"):  # of a process that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                left.unlink()
    with _replacing(path) as file, Bar(corpus.n_chars, f"tokenizing {corpus.name}", "characters") as bar:
        _header(file, dtype, total)
        for ids, after, last, chars in _encode(corpus, tokenizer):
            file.write(np.array(ids + after, dtype).tobytes())
            total += len(ids) + len(after)
            if last:
                ends.append(total)
            bar.update(chars)
        if not total:
            raise BadValue(
                f"corpus {corpus.name!r} has no tokens under this {tokenizer.kind} tokenizer; use char or byte"
            )
        file.seek(0)
        _header(file, dtype, total)
    about = dict(n_tokens=total, n_documents=len(ends) - 1, dtype=dtype.name, kind=tokenizer.kind, name=corpus.name)
    with _replacing(path.with_suffix(".offsets.npy")) as file:
        np.save(file, np.array(ends, np.int64), allow_pickle=False)
    with _replacing(path.with_suffix(".json")) as file:
        file.write(json.dumps({**facts, **about}, ensure_ascii=False, indent=1).encode())


def _encode(corpus: Corpus, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int], bool, int]]:
    """The ids of each part of each text, the reserved tokens that follow it, whether it ends its document, its characters."""
    pairs = corpus.targets is not None
    eos = [tokenizer.end] if (pairs or len(corpus.documents) > 1) and tokenizer.end is not None else []
    source = pairs  # which of a pair is read
    batch: list[str] = []
    marks: list[tuple[list[int], bool]] = []
    size = 0
    for part, last in tokenizer.parts(corpus.pieces(), _PART):
        batch.append(part)
        marks.append((([tokenizer.special("sep")] if source else eos) if last else [], last and not source))
        source = pairs and source != last
        size += len(part)
        if size >= _BATCH:
            yield from _joined(tokenizer, batch, marks)
            batch, marks, size = [], [], 0
    yield from _joined(tokenizer, batch, marks)


def _joined(
    tokenizer: Tokenizer, batch: list[str], marks: list[tuple[list[int], bool]]
) -> Iterator[tuple[list[int], list[int], bool, int]]:
    for ids, (after, last), part in zip(tokenizer.encode_batch(batch), marks, batch, strict=True):
        yield ids, after, last, len(part)


def _header(file: BinaryIO, dtype: np.dtype[Any], total: int) -> None:
    """The head of an .npy file, which is as long for any total: its format leaves room for the first axis to grow."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
    np.lib.format.write_array_header_1_0(file, about)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes `path`'s place when it is whole."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

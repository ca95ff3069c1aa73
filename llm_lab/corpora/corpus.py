"""A text and its documents, with a fingerprint and a split; it does not know how text becomes tokens."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_lab.corpora.large import FileTexts
from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import CorpusReport

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = 2_000_000  # characters at most, where no share was asked for: they are all read after a training


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Documents in an order, under a name. `source` says in words where they came from.

    `targets`, where there are any, are what is to be said of the documents, one for each. `table` has the same examples
    in columns. `entropy` is the source's own, in nats per byte, where it is known; `notes` say what is in the text.
    """

    name: str
    source: str
    documents: Sequence[str]
    targets: Sequence[str] | None = None
    table: Mapping[str, Sequence[Any]] | None = None
    entropy: float | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        documents = self.documents if isinstance(self.documents, FileTexts) else _texts("documents", self.documents)
        object.__setattr__(self, "documents", documents)
        if self.targets is not None:
            object.__setattr__(self, "targets", _texts("targets", self.targets))
            if len(self.targets) != len(documents):
                raise BadValue(
                    f"targets: {len(self.targets):,} for {len(documents):,} documents; each document needs one"
                )
        for name, column in (self.table or {}).items():
            if len(column) != len(documents):
                raise BadValue(f"table: {len(column):,} rows of {show(name)} for {len(documents):,} documents")
        if _blank(documents):
            raise BadValue(f"corpus {show(self.name)} is empty: there is no text in {self.source}; it needs some")
        self.n_bytes  # noqa: B018  # text that UTF-8 cannot hold is refused here, not in the middle of a run

    def __repr__(self) -> str:
        n = len(self.documents)
        what = "document" if self.targets is None else "pair"
        return f"Corpus({self.name!r}: {n:,} {what}{'s' * (n != 1)}, {self.n_chars:,} characters)"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.report()._repr_mimebundle_(include, exclude)

    @property
    def texts(self) -> Iterator[str]:
        """Everything that is read or said: each document, followed by its target where it has one."""
        for i, document in enumerate(self.documents):
            yield document
            if self.targets is not None:
                yield self.targets[i]

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """All texts with True; those of large files in pieces, with whether one ends its document."""
        return (
            self.documents.pieces() if isinstance(self.documents, FileTexts) else ((text, True) for text in self.texts)
        )

    @cached_property
    def n_chars(self) -> int:
        """Characters of all documents and targets; nothing is counted for what stands between them."""
        return self.documents.n_chars if isinstance(self.documents, FileTexts) else sum(map(len, self.texts))

    @cached_property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents and targets."""
        if isinstance(self.documents, FileTexts):
            return sum(self.documents.n_bytes)
        total = 0
        for i, text in enumerate(self.texts):
            try:
                total += len(text) if text.isascii() else len(text.encode())
            except UnicodeEncodeError as error:
                where = f"document {i}" if self.targets is None else f"{('document', 'target')[i % 2]} {i // 2}"
                raise BadValue(
                    f"documents: {where} has half a character (a lone surrogate, {text[error.start]!a}) "
                    f"at character {error.start}, which UTF-8 cannot hold; "
                    "take it out with text.encode('utf-8', 'ignore').decode()"
                ) from None
        return total

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the documents, their targets and their boundaries; the name does not matter."""
        digest = hashlib.sha256()
        if self.targets is not None:
            digest.update(b"pairs")  # else a document and its target would be as two documents
        if isinstance(self.documents, FileTexts):
            sizes, begins = iter(self.documents.n_bytes), True
            for text, last in self.documents.pieces():
                if begins:
                    digest.update(next(sizes).to_bytes(8, "big"))
                digest.update(text.encode())
                begins = last
            return digest.hexdigest()
        for text in self.texts:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    @property
    def text(self) -> str:
        """The documents as one text, an empty line between them."""
        return "\n\n".join(self.documents)

    @property
    def _share(self) -> float:
        """Of the characters, that train where nobody asks for another: nine tenths, or all but two million."""
        return max(0.9, 1 - HELD_OUT / self.n_chars)

    def split(self, share: float | None = None) -> tuple[Corpus, Corpus]:
        """The first `share` of the characters to train on, the rest to validate on.

        Documents keep their order; the one across the boundary is cut in two, or validates where it has a target.
        """
        share = self._share if share is None else share
        cut = self._cut(share)
        first, rest = f"the first {share:.6g}", f"all but the first {share:.6g}"
        if isinstance(self.documents, FileTexts):
            before, after = self.documents.cut(cut)
            return self._part("train", first, before), self._part("val", rest, after)
        if self.targets is not None:
            return self._rows(share, slice(0, cut)), self._rows(share, slice(cut, None))
        train: list[str] = []
        val: list[str] = []
        for document in self.documents:
            head, tail = document[:cut], document[cut:]
            cut -= len(head)
            if head or not tail:
                (val if val else train).append(head)
            if tail:
                val.append(tail)
        return self._part("train", first, train), self._part("val", rest, val)

    def _part(self, part: str, which: str, documents: Sequence[str]) -> Corpus:
        """One side of a split; BadValue where nothing is left for it."""
        if _blank(documents):
            raise BadValue(
                f"split: of {self.n_chars:,} characters, {which} of them is no text, and {part} needs some; "
                "use a longer corpus, or another share"
            )
        return Corpus(f"{self.name}:{part}", f"{which} of {self.source}", documents, entropy=self.entropy)

    def _rows(self, share: float, rows: slice) -> Corpus:
        """One side of a split between whole pairs."""
        assert self.targets is not None
        part, which = ("val", "all but the first") if rows.stop is None else ("train", "the first")
        side = self._part(part, f"{which} {share:.4g}", list(self.documents[rows]))
        table = None if self.table is None else {name: column[rows] for name, column in self.table.items()}
        return replace(side, targets=self.targets[rows], table=table)

    def _cut(self, share: float) -> int:
        """The number of characters that train, or of pairs where documents have targets."""
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise BadValue(f"split: {show(share)} is not a share between 0 and 1; for example 0.9")
        chars = int(self.n_chars * share)
        if self.targets is None:
            return chars
        ends = itertools.accumulate(len(a) + len(b) for a, b in zip(self.documents, self.targets, strict=True))
        return sum(1 for end in ends if end <= chars)

    def report(self, split: float | None = None) -> CorpusReport:
        """What the text is made of: sizes, words, duplicates, a sample."""
        from llm_lab.corpora.report import report

        cut = self._cut(self._share if split is None else split)
        pairs = () if self.targets is None else zip(self.documents[:cut], self.targets[:cut], strict=True)
        return report(self, cut if self.targets is None else sum(len(a) + len(b) for a, b in pairs))

    def to_pandas(self) -> pd.DataFrame:
        """A row a document: the table's columns where there is one, else `text`, and `target` where there are any."""
        import pandas as pd

        columns = self.table or {"text": self.documents, **({} if self.targets is None else {"target": self.targets})}
        return pd.DataFrame({name: list(column) for name, column in columns.items()})


def _blank(documents: Sequence[str]) -> bool:
    """Whether no document has a visible character in it."""
    texts = (text for text, _ in documents.pieces()) if isinstance(documents, FileTexts) else documents
    return not any(text and not text.isspace() for text in texts)


def _texts(name: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Texts as a tuple; BadType where one is something else."""
    found = (texts,) if isinstance(texts, str) else tuple(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise BadType(f"{name}: item {i} is {type(text).__name__} {show(text)}, not text")
    return found

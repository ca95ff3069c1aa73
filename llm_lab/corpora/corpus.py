"""A text and its documents, with a fingerprint and a split; it does not know how text becomes tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_lab.errors import BadType, BadValue, show
from llm_lab.results import CorpusReport


@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """Documents in an order, under a name. `source` says in words where they came from."""

    name: str
    source: str
    documents: Sequence[str]

    def __post_init__(self) -> None:
        documents = (self.documents,) if isinstance(self.documents, str) else tuple(self.documents)
        for i, document in enumerate(documents):
            if not isinstance(document, str):
                raise BadType(f"documents: item {i} is {type(document).__name__} {show(document)}, not text")
        if not any(document and not document.isspace() for document in documents):
            raise BadValue(f"corpus {show(self.name)} is empty: there is no text in {self.source}; it needs some")
        object.__setattr__(self, "documents", documents)
        self.n_bytes  # noqa: B018  # text that UTF-8 cannot hold is refused here, not in the middle of a run

    def __repr__(self) -> str:
        n = len(self.documents)
        return f"Corpus({self.name!r}: {n:,} document{'s' * (n != 1)}, {self.n_chars:,} characters)"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.report()._repr_mimebundle_(include, exclude)

    @cached_property
    def n_chars(self) -> int:
        """Characters of all documents; nothing is counted for what stands between them."""
        return sum(map(len, self.documents))

    @cached_property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        total = 0
        for i, document in enumerate(self.documents):
            try:
                total += len(document) if document.isascii() else len(document.encode())
            except UnicodeEncodeError as error:
                raise BadValue(
                    f"documents: document {i} has half a character (a lone surrogate, {document[error.start]!a}) "
                    f"at character {error.start}, which UTF-8 cannot hold; "
                    "take it out with text.encode('utf-8', 'ignore').decode()"
                ) from None
        return total

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the documents and their boundaries; the name does not matter."""
        digest = hashlib.sha256()
        for document in self.documents:
            data = document.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return digest.hexdigest()

    @property
    def text(self) -> str:
        """All of it as one text, an empty line between documents."""
        return "\n\n".join(self.documents)

    def split(self, share: float = 0.9) -> tuple[Corpus, Corpus]:
        """The first `share` of the characters to train on, the rest to validate on.

        Documents keep their order; the one across the boundary is cut in two.
        """
        cut = self._cut(share)
        train: list[str] = []
        val: list[str] = []
        for document in self.documents:
            head, tail = document[:cut], document[cut:]
            cut -= len(head)
            if head or not tail:
                (val if val else train).append(head)
            if tail:
                val.append(tail)
        first = self._part("train", f"the first {share:.4g}", train)
        return first, self._part("val", f"all but the first {share:.4g}", val)

    def _part(self, part: str, which: str, documents: list[str]) -> Corpus:
        """One side of a split; BadValue where nothing is left for it."""
        if not any(document and not document.isspace() for document in documents):
            raise BadValue(
                f"split: of {self.n_chars:,} characters, {which} of them is no text, and {part} needs some; "
                "use a longer corpus, or another share"
            )
        return Corpus(f"{self.name}:{part}", f"{which} of {self.source}", documents)

    def _cut(self, share: float) -> int:
        """The number of characters that train."""
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise BadValue(f"split: {show(share)} is not a share between 0 and 1; for example 0.9")
        return int(self.n_chars * share)

    def report(self, split: float = 0.9) -> CorpusReport:
        """What the text is made of: sizes, words, duplicates, a sample."""
        from llm_lab.corpora.report import report

        return report(self, self._cut(split))

"""Texts as they are: a corpus, and how tokenizers cut it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Piece, Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class CorpusReport(Result):
    """What a text is made of. Sizes in documents, characters and UTF-8 bytes."""

    renderer: ClassVar[str] = "llm_lab.views.tables:corpus"
    name: str
    source: str
    n_documents: int
    n_chars: int
    n_bytes: int
    n_words: int
    n_distinct_chars: int
    n_distinct_words: int
    top_words: list[tuple[str, int]]
    n_duplicates: int  # documents (or paragraphs, where there is one document) that repeat an earlier one
    duplicate_unit: str  # "documents" or "paragraphs"
    train_chars: int
    val_chars: int
    fingerprint: str
    sample: str
    entropy: float | None = None  # of the source itself, in nats per UTF-8 byte, where it is known
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        skip = {"code", "actions", "top_words", "sample", "notes"}
        rows = {key: value for key, value in vars(self).items() if key not in skip}
        return pd.DataFrame({"value": rows})


@dataclass(frozen=True)
class TokenizationRow:
    """One tokenizer's reading of a text."""

    kind: str
    pieces: list[Piece]
    n_tokens: int
    chars_per_token: float
    n_unknown: int
    vocab_size: int
    round_trip: str  # "exact", or what is lost


@dataclass(eq=False, kw_only=True)
class Tokenization(Result):
    """One text cut by one or several tokenizers."""

    renderer: ClassVar[str] = "llm_lab.views.tokens:tokenization"
    text: str
    trained_on: str  # what the tokenizers' vocabularies come from
    rows: list[TokenizationRow]

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        columns = ["kind", "n_tokens", "chars_per_token", "n_unknown", "vocab_size", "round_trip"]
        return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in self.rows])

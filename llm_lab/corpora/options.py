"""Where text can come from, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

CORPORA = Table(
    "corpus",
    [
        Entry("shakespeare", "llm_lab.corpora.shakespeare:read", "tiny Shakespeare: 1.1 MB of plays, public domain"),
        Entry(
            "python-docs",
            "llm_lab.corpora.python_docs:read",
            "Python's own help topics: English prose, 0.5 MB, no network",
        ),
    ],
)


@dataclass(frozen=True)
class SourceOptions(Options):
    room: ClassVar[str] = "corpus"
    column: str | None = option(None, "column of a DataFrame that holds the text", auto="the only text column")


@dataclass(frozen=True)
class CorpusOptions(SourceOptions):
    split: float = option(0.9, "share of the characters, from the start, that train; the rest validates", gt=0, lt=1)

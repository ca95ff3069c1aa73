"""Where text can come from, and how it is split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.options import Options, option, specs
from llm_lab.registry import Entry, Table

STORY_PARTS = (
    "text",
    "pairs",
    "sentiment",
    "headlines",
    "questions",
    "entities",
    "english-french",
    "english-chinese",
)


@dataclass(frozen=True)
class StoriesOptions(Options):
    room: ClassVar[str] = "stories"
    size: int = option(1_000_000, "characters wanted, in whole stories", ge=1, le=10**9, example="2000000")
    corpus_seed: int = option(0, "of the stories that are drawn", ge=0, lt=2**63)
    part: str = option("text", "running text, or a task whose truth is known", choices=STORY_PARTS)


CORPORA = Table(
    "corpus",
    [
        Entry("shakespeare", "llm_lab.corpora.shakespeare:read", "tiny Shakespeare: 1.1 MB of plays, public domain"),
        Entry(
            "python-docs",
            "llm_lab.corpora.python_docs:read",
            "Python's own help topics: English prose, 0.5 MB, no network",
        ),
        Entry(
            "stories",
            "llm_lab.corpora.stories:read",
            "little stories from a grammar: any size, exact entropy, tasks with known truth, no network",
            StoriesOptions,
        ),
    ],
)


@dataclass(frozen=True)
class SourceOptions(Options):
    room: ClassVar[str] = "corpus"
    column: str | None = option(None, "column of a DataFrame that holds the text", auto="the only text column")
    target: str | None = option(
        None, "column of a DataFrame that holds what is to be said of each text", auto="none", example="summary"
    )


@dataclass(frozen=True)
class CorpusOptions(SourceOptions):
    split: float | None = option(
        None,
        "share of the characters, from the start, that train; the rest validates",
        gt=0,
        lt=1,
        auto="0.9, or all but 2 M characters",
        example="0.95",
    )


def corpus_options() -> tuple[type[Options], ...]:
    """Every corpus's own options, so that a verb can take those of any."""
    return tuple(entry.options for entry in CORPORA.values() if entry.options)


def opening(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a verb's options that `open_corpus` takes."""
    known = {name for one in (SourceOptions, *corpus_options()) for name in specs(one)}
    return {name: value for name, value in options.items() if name in known}

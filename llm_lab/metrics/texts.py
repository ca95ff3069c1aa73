"""Which text a model is measured on, and what its tokenizer loses of it, since no metric counts that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_lab.corpora.corpus import Corpus
from llm_lab.data.arrays import Tokens
from llm_lab.errors import BadValue
from llm_lab.store.lm import LM


def as_trained(lm: LM, text: Corpus, notes: list[str]) -> Corpus:
    """The corpus; as one document where the model learned from one, for it has never seen a document end."""
    if lm.info.get("ends") is not False or len(text.documents) == 1:
        return text
    notes.append(
        f"{lm.name} learned from one document and knows no end of one: the {len(text.documents):,} documents are read as one, a line break between them"
    )
    return Corpus(text.name, text.source, ["\n".join(text.documents)])


def what_is_lost(lm: LM, ids: Any, metrics: Sequence[str]) -> list[str]:
    """What a tokenizer drops of the text, since no metric counts it."""
    unknown = int((ids == lm.tokenizer.specials.get("unk", -1)).sum())
    notes: list[str] = []
    if unknown:
        notes.append(
            f"{lm.name}'s tokenizer does not know {unknown / len(ids):.2%} of the tokens ({unknown:,}), which count as one token whatever they hide: its scores are better than they should be"
        )
    if lm.tokenizer.kind == "wordpiece" and "bits_per_byte" in metrics:
        notes.append(
            f"{lm.name}'s wordpiece tokenizer loses spaces and line breaks: its bits_per_byte leaves them out, so it compares with the same tokenizer alone"
        )
    return notes


def held_out(lm: LM, folders: list[Path]) -> Tokens:
    """The text that a model was held out, from beside its run or from one of the `folders`."""
    key = lm.info.get("held_out")
    beside = [lm.run.path.parent.parent / "data"] if lm.run else []
    for folder in [*beside, *folders]:
        if key and (tokens := Tokens.open(folder, key)) is not None:
            return tokens
    raise BadValue(
        f"data: the held-out text of {lm.name} is not here; give a corpus, for example lab.evaluate({lm.called}, 'shakespeare')"
    )

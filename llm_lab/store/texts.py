"""Which text a model is measured and looked into on: its own held-out text, or a corpus as the model was trained to read one."""

from __future__ import annotations

from pathlib import Path

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


def held_out(lm: LM, folders: list[Path], argument: str) -> Tokens:
    """The text that a model was held out, from beside its run or from one of the `folders`."""
    key = lm.info.get("held_out")
    beside = [lm.run.path.parent.parent / "data"] if lm.run else []
    for folder in [*beside, *folders]:
        if key and (tokens := Tokens.open(folder, key)) is not None:
            return tokens
    raise BadValue(f"{argument}: the held-out text of {lm.name} is not here; give a corpus, for example 'shakespeare'")

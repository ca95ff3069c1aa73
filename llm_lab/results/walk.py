"""One token on its way through a model: every step with its formula and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue, listing
from llm_lab.results.base import Piece, Result

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Step:
    """One step. `values` are float32: (…, n) with nothing, (L,) or (L, H) before the n numbers, as `per` says."""

    key: str  # "attn.q"
    title: str
    formula: str
    values: np.ndarray
    per: str = "model"  # model | layer | head
    over: str = (
        "numbers"  # numbers (a vector) | tokens (one for each token of the text) | source | experts | candidates
    )
    words: str = ""  # what happens here, in a sentence

    def at(self, layer: int, head: int) -> np.ndarray:
        """The numbers of one layer and head, (n,)."""
        if self.per == "model":
            return self.values
        return self.values[layer] if self.per == "layer" else self.values[layer, head]


@dataclass(eq=False, kw_only=True)
class Walk(Result):
    """One token followed through embedding, q·k, softmax, values, MLP and logits."""

    renderer: ClassVar[str] = "llm_lab.views.walk:walk"
    name: str
    pieces: list[Piece]  # T tokens that are read
    source: list[Piece] = field(default_factory=list)  # what an encoder read, where there are two stacks
    position: int  # of the token that is followed
    layers: int
    heads: int
    layer: int  # what the view rests on
    head: int
    steps: Sequence[Step]
    candidates: list[Piece]  # the likeliest tokens, the likeliest first
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> np.ndarray:
        """The numbers of a step: (n,), (L, n) or (L, H, n)."""
        for step in self.steps:
            if step.key == key:
                return step.values
        raise BadValue(f"step {key!r} is not in this walk; there is: {listing(step.key for step in self.steps)}")

    def to_pandas(self) -> pd.DataFrame:
        """A row for each number of the layer and head that the view rests on: step, index, token, value."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for step in self.steps:
            named = {"tokens": self.pieces, "source": self.source, "candidates": self.candidates}.get(step.over)
            rows += [
                {"step": step.key, "index": i, "token": named[i].text if named else None, "value": float(value)}
                for i, value in enumerate(step.at(self.layer, self.head))
            ]
        return pd.DataFrame(rows)

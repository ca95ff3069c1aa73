"""Vectors that are near each other, and experts that take tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Neighbours(Numbers):
    """Which tokens' vectors are nearest to each of the vectors asked for, by the cosine; the nearest first."""

    renderer: ClassVar[str] = "llm_lab.views.vectors:neighbours"
    name: str
    kind: str  # neighbours | analogies
    asked: list[str]  # a row each: "king", or "king − man + woman"
    pieces: list[list[Piece]]
    similarity: list[list[float]]  # −1 to 1
    n_tokens: int  # in the vocabulary
    width: int  # numbers in a vector
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """The similarities, a row for each that was asked; NaN where a row has fewer tokens than the longest."""
        import numpy as np

        made = np.full((len(self.asked), max(map(len, self.similarity), default=0)), np.nan)
        for row, values in zip(made, self.similarity, strict=True):
            row[: len(values)] = values
        return made

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                {"asked": asked, "rank": rank, "token": piece.text, "id": piece.id, "similarity": value}
                for asked, pieces, values in zip(self.asked, self.pieces, self.similarity, strict=True)
                for rank, (piece, value) in enumerate(zip(pieces, values, strict=True), 1)
            ]
        )


@dataclass(eq=False, kw_only=True)
class ExpertRouting(Numbers):
    """Which experts of each layer took each token of one text, and how likely the router found every one."""

    renderer: ClassVar[str] = "llm_lab.views.experts:routing"
    name: str
    pieces: list[Piece]  # T tokens
    probs: np.ndarray  # (L, T, E) float16, the router's probabilities; each row sums to 1
    chosen: np.ndarray  # (L, T, k) int16, the experts that took the token, the likeliest first
    n_active: int  # k

    @property
    def load(self) -> np.ndarray:
        """The share of a layer's choices that each expert got, (L, E) float64; an even one is 1 / E."""
        import numpy as np

        counts = [np.bincount(layer.ravel(), minlength=self.probs.shape[2]) for layer in self.chosen]
        return np.array(counts).reshape(len(counts), -1) / max(self.chosen[0].size, 1)

    def numpy(self) -> np.ndarray:
        """The probabilities, (L, T, E) float32."""
        return self.probs.astype("float32")

    def to_pandas(self) -> pd.DataFrame:
        """A row for each layer, token and expert that took it; `weight` is what its output counted."""
        import pandas as pd

        rows = []
        for i, (probs, chosen) in enumerate(zip(self.numpy(), self.chosen, strict=True)):
            for t, (piece, experts) in enumerate(zip(self.pieces, chosen, strict=True)):
                taken = probs[t, experts]
                for rank, (expert, prob) in enumerate(zip(experts, taken, strict=True), 1):
                    where = {"layer": i, "position": t, "token": piece.text, "id": piece.id, "rank": rank}
                    rows.append(where | {"expert": int(expert), "prob": prob, "weight": prob / taken.sum()})
        return pd.DataFrame(rows)

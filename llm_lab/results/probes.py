"""What was seen inside a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.registry import load
from llm_lab.results.base import Piece, Result

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class AttentionMaps(Result):
    """Which position reads from which, for every head: kept as q and k, from which a row is recomputed exactly.

    `thumbnails` are the patterns as bytes (0–255 for 0–1), reduced to at most 64 × 64 by taking maxima.
    """

    renderer: ClassVar[str] = "llm_lab.views.attention:maps"
    name: str
    pieces: list[Piece]  # T tokens
    q: np.ndarray  # (L, H, T, d) float32, after norm and rotation
    k: np.ndarray  # (L, H_kv, T, d) float32
    scale: float  # scores = q·k * scale
    causal: bool = True
    added: np.ndarray | None = None  # (1 or H, T, T) what positions and patterns add to the scores, −inf where unread
    thumbnails: np.ndarray  # (L, H, t, t) uint8, t = min(T, 64)
    live: bool = False  # shows itself as a widget that asks the kernel for exact values, until it is frozen

    def widget(self) -> Any:
        """The maps with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.attention_widget:attention_widget")(self)

    def _ipython_display_(self) -> None:
        if not self.live:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(L, H, T, T): layers, heads, queries, keys."""
        layers, heads, tokens, _ = self.q.shape
        return layers, heads, tokens, tokens

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """One head's attention, (T, T) float32: query down, key across; each row sums to 1."""
        import numpy as np

        layers, heads, tokens, _ = self.shape
        for name, value, count in (("layer", layer, layers), ("head", head, heads)):
            if not isinstance(value, int | np.integer) or not 0 <= value < count:
                raise BadValue(f"{name}: {value!r} is not there; this model has {name}s 0 to {count - 1}")
        group = heads // self.k.shape[1]
        scores = self.q[layer, head] @ self.k[layer, head // group].T * self.scale
        if self.added is not None:
            scores = scores + self.added[head % len(self.added)]
        if self.causal:
            scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def numpy(self) -> np.ndarray:
        """All heads, (L, H, T, T) float32."""
        import numpy as np

        layers, heads, *_ = self.shape
        return np.stack([[self.pattern(i, j) for j in range(heads)] for i in range(layers)])

    @property
    def tensor(self) -> Any:
        """All heads as a torch tensor, (L, H, T, T) float32."""
        import torch

        return torch.from_numpy(self.numpy())


@dataclass(eq=False, kw_only=True)
class Neighbours(Result):
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

    @property
    def tensor(self) -> Any:
        """The same as a torch tensor."""
        import torch

        return torch.from_numpy(self.numpy())

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
class ExpertRouting(Result):
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

    @property
    def tensor(self) -> Any:
        """The same as a torch tensor."""
        import torch

        return torch.from_numpy(self.numpy())

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

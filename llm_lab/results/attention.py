"""Which token reads from which: every head's attention over one text, kept small and told exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue, show
from llm_lab.registry import load
from llm_lab.results.base import Piece, Result

if TYPE_CHECKING:
    import numpy as np

MEASURES = ("entropy", "previous", "first", "itself")
AGGREGATES = ("mean", "max", "rollout")
BLOCK = 256  # queries whose attention is computed at a time


@dataclass(eq=False, kw_only=True)
class AttentionMaps(Result):
    """The attention of every head: kept as q and k, from which a row is recomputed exactly.

    `thumbnails` are the patterns as bytes (0–255 for 0–1), reduced to at most 64 × 64 by taking maxima; `measures` are
    each head's means over the queries.
    """

    renderer: ClassVar[str] = "llm_lab.views.attention:maps"
    name: str
    pieces: list[Piece]  # T tokens that read: the queries
    source: list[Piece] | None = None  # S tokens that are read, where they are not the same
    stack: str = ""  # encoder | decoder | cross, of a model that has two
    parts: Sequence[int] | None = None  # of two texts: 1 or 2 for a token of either, 0 for one of neither
    q: np.ndarray  # (L, H, T, d) float32, after norm and rotation
    k: np.ndarray  # (L, H_kv, S, d) float32
    scale: float  # scores = q·k * scale
    causal: bool = True
    bias: np.ndarray | None = None  # (H, T + S − 1) float32, added to the score of key − query = −(T − 1) … S − 1
    mask: np.ndarray | None = None  # (T, ⌈S / 8⌉) uint8: a bit for each key that a query may read, where not all
    thumbnails: np.ndarray  # (L, H, t, s) uint8, t = min(T, 64)
    measures: np.ndarray  # (L, H, 4) float32: entropy in bits, attention to the previous token, the first, itself
    live: bool = False  # shows itself as a widget that asks the kernel for exact values, until it is frozen
    notes: list[str] = field(default_factory=list)

    def widget(self) -> Any:
        """The maps with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.attention_widget:attention_widget")(self)

    def _ipython_display_(self) -> None:
        if not self.live:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()

    @property
    def keys(self) -> list[Piece]:
        """The tokens that are read."""
        return self.pieces if self.source is None else self.source

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(L, H, T, S): layers, heads, queries, keys."""
        layers, heads, queries, _ = self.q.shape
        return layers, heads, queries, self.k.shape[2]

    @property
    def numel(self) -> int:
        """How many weights all heads have."""
        layers, heads, queries, keys = self.shape
        return layers * heads * queries * keys

    def rows(self, layer: int, head: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """The attention of the queries from `first` to before `last`, (n, S) float32; each row sums to 1."""
        import numpy as np

        layers, heads, queries, keys = self.shape
        for name, value, count in (("layer", layer, layers), ("head", head, heads)):
            if not isinstance(value, int | np.integer) or not 0 <= value < count:
                raise BadValue(f"{name}: {value!r} is not there; this model has {name}s 0 to {count - 1}")
        rows = range(queries)[first:last]
        group = heads // self.k.shape[1]
        scores = self.q[layer, head, rows.start : rows.stop] @ self.k[layer, head // group].T * self.scale
        query = np.arange(rows.start, rows.stop)[:, None]
        if self.bias is not None:
            scores = scores + self.bias[head][np.arange(keys) - query + queries - 1]
        if self.causal:
            scores = np.where(np.arange(keys) <= query, scores, -np.inf)
        if self.mask is not None:
            allowed = np.unpackbits(self.mask[rows.start : rows.stop], axis=1, count=keys).astype(bool)
            scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """One head's attention, (T, S) float32: query down, key across."""
        return self.rows(layer, head)

    def products(self, layer: int, head: int, query: int, key: int) -> np.ndarray:
        """q·k number by number, (d,) float32; times the scale they sum to what the head scores before any bias."""
        heads, group = self.shape[1], self.shape[1] // self.k.shape[1]
        if not 0 <= head < heads:
            raise BadValue(f"head: {head!r} is not there; this model has heads 0 to {heads - 1}")
        return self.q[layer, head, query] * self.k[layer, head // group, key]

    def aggregate(self, how: str = "mean", layers: Sequence[int] | None = None) -> np.ndarray:
        """All heads of the layers (all unless told) as one map, (T, S) float32: their mean, their largest weight, or
        attention rollout (Abnar & Zuidema 2020, §3): the product over the layers of half the heads' mean and half the
        identity, for what tokens pass straight on. Rollout is of attention to itself alone."""
        import numpy as np

        if how not in AGGREGATES:
            raise BadValue(f"aggregate: {show(how)} is unknown; there is: {', '.join(AGGREGATES)}")
        if how == "rollout" and self.source is not None:
            raise BadValue(
                "aggregate: rollout multiplies layers that read themselves; for cross attention use mean or max"
            )
        n_layer, heads, queries, keys = self.shape
        found: np.ndarray = np.eye(queries, keys, dtype=np.float32) if how == "rollout" else np.zeros((queries, keys), np.float32)
        chosen = range(n_layer) if layers is None else layers
        for i in chosen:
            mean = np.zeros_like(found)
            for j in range(heads):
                pattern = self.pattern(i, j)
                if how == "max":
                    np.maximum(found, pattern, out=found)
                mean += pattern / heads
            if how == "mean":
                found += mean / len(chosen)
            elif how == "rollout":
                found = (mean + np.eye(queries, dtype=np.float32)) / 2 @ found
        return found

    def between(self) -> np.ndarray:
        """Of two texts, how much each head's tokens of one read of the other: (L, H, 2, 2) float32, the mean attention
        from a token of the first index's text to all tokens of the second's. What is missing to 1 went to special tokens."""
        import numpy as np

        if self.parts is None:
            raise BadValue("between: one text was read; give the probe two")
        layers, heads, *_ = self.shape
        parts = np.asarray(self.parts)
        found = np.zeros((layers, heads, 2, 2), np.float32)
        for i in range(layers):
            for j in range(heads):
                pattern = self.pattern(i, j)
                for a in (1, 2):
                    for b in (1, 2):
                        found[i, j, a - 1, b - 1] = pattern[parts == a][:, parts == b].sum(axis=1).mean()
        return found

    def numpy(self) -> np.ndarray:
        """All heads, (L, H, T, S) float32."""
        import numpy as np

        layers, heads, *_ = self.shape
        return np.stack([[self.pattern(i, j) for j in range(heads)] for i in range(layers)])

    @property
    def tensor(self) -> Any:
        """All heads as a torch tensor, (L, H, T, S) float32."""
        import torch

        return torch.from_numpy(self.numpy())

"""Which token reads from which: every head's attention over one text, kept small and told exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue, show
from llm_lab.registry import load
from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np

MEASURES = ("entropy", "previous", "first", "itself")
AGGREGATES = ("mean", "max", "rollout")
BLOCK = 256  # queries whose attention is computed at a time


@dataclass(eq=False, kw_only=True)
class AttentionMaps(Numbers):
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
    numbers: tuple[Sequence[int], Sequence[int]] | None = None  # which layers and heads are held, where not all
    opens: tuple[int, int] | None = (
        None  # the layer and head that are shown large; the most telling where none is named
    )
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
    def layers(self) -> Sequence[int]:
        """The layers that are held, by their numbers in the model."""
        return range(len(self.q)) if self.numbers is None else self.numbers[0]

    @property
    def heads(self) -> Sequence[int]:
        """The heads of each layer that are held, by their numbers in the model."""
        return range(self.q.shape[1]) if self.numbers is None else self.numbers[1]

    @property
    def numel(self) -> int:
        """How many weights all heads have."""
        layers, heads, queries, keys = self.shape
        return layers * heads * queries * keys

    def select(self, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> AttentionMaps:
        """The maps of some layers and heads alone, which keep their numbers: `maps.select(layers=[0, 3]).aggregate("mean")`.
        BadValue for one that is not there, or none."""
        import numpy as np

        if (layers is not None and len(layers) == 0) or (heads is not None and len(heads) == 0):
            raise BadValue(
                "select: nothing is left; name a layer and a head at least, for example layers=[0], heads=[1]"
            )
        rows = [self._place("layer", i) for i in (self.layers if layers is None else layers)]
        columns = [self._place("head", j) for j in (self.heads if heads is None else heads)]
        both, group = np.ix_(rows, columns), self.q.shape[1] // self.k.shape[1]
        return replace(
            self,
            numbers=([self.layers[i] for i in rows], [self.heads[j] for j in columns]),
            opens=None,
            q=self.q[both],
            k=self.k[np.ix_(rows, [j // group for j in columns])],
            bias=None if self.bias is None else self.bias[columns],
            thumbnails=self.thumbnails[both],
            measures=self.measures[both],
        )

    def _place(self, name: str, number: int) -> int:
        """Where a layer or head of that number is held."""
        there = self.layers if name == "layer" else self.heads
        if not isinstance(number, Integral) or number not in there:
            have = (
                f"{name}s {there[0]} to {there[-1]}"
                if self.numbers is None
                else f"{name}s {', '.join(map(str, there))}"
            )
            raise BadValue(f"{name}: {number!r} is not there; these maps have {have}")
        return there.index(int(number))

    def rows(self, layer: int, head: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """The attention of the queries from `first` to before `last`, (n, S) float32; each row sums to 1."""
        import numpy as np

        i, j = self._place("layer", layer), self._place("head", head)
        _, heads, queries, keys = self.shape
        rows = range(queries)[first:last]
        group = heads // self.k.shape[1]
        weights = self.q[i, j, rows.start : rows.stop] @ self.k[i, j // group].T
        weights *= np.float32(self.scale)
        query = np.arange(rows.start, rows.stop)[:, None]
        if self.bias is not None:
            weights += self.bias[j][np.arange(keys) - query + queries - 1]
        if self.causal:
            weights[np.arange(keys) > query] = -np.inf
        if self.mask is not None:
            weights[np.unpackbits(self.mask[rows.start : rows.stop], axis=1, count=keys) == 0] = -np.inf
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """The attention of one query, (S,) float32; a query may be counted from the end. BadValue where there is none."""
        queries = self.shape[2]
        if not -queries <= query < queries:
            raise BadValue(
                f"query: {query!r} is not there; the text has {queries} tokens; use {-queries} to {queries - 1}"
            )
        query %= queries
        return self.rows(layer, head, query, query + 1)[0]

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """One head's attention, (T, S) float32: query down, key across."""
        return self.rows(layer, head)

    def products(self, layer: int, head: int, query: int, key: int) -> np.ndarray:
        """q·k number by number, (d,) float32; times the scale they sum to what the head scores before any bias."""
        i, j = self._place("layer", layer), self._place("head", head)
        return self.q[i, j, query] * self.k[i, j * self.k.shape[1] // self.q.shape[1], key]

    def aggregate(self, how: str = "mean") -> np.ndarray:
        """All heads as one map, (T, S) float32 (`select` leaves some of them): their mean, their largest weight, or
        attention rollout (Abnar & Zuidema 2020, §3): the product over the layers of half the heads' mean and half the
        identity, for what tokens pass straight on. Rollout is of attention to itself alone."""
        import numpy as np

        if how not in AGGREGATES:
            raise BadValue(f"aggregate: {show(how)} is unknown; there is: {', '.join(AGGREGATES)}")
        if how == "rollout" and self.source is not None:
            raise BadValue(
                "aggregate: rollout multiplies layers that read themselves; for cross attention use mean or max"
            )
        _, _, queries, keys = self.shape
        found: np.ndarray = (
            np.eye(queries, keys, dtype=np.float32) if how == "rollout" else np.zeros((queries, keys), np.float32)
        )
        for layer in self.layers:
            total = np.zeros_like(found) if how == "rollout" else found
            for head in self.heads:
                if how == "max":
                    np.maximum(found, self.pattern(layer, head), out=found)
                else:
                    total += self.pattern(layer, head)
            if how == "rollout":
                found = (total / len(self.heads) + np.eye(queries, dtype=np.float32)) / 2 @ found
        return found / (len(self.layers) * len(self.heads)) if how == "mean" else found

    def between(self) -> np.ndarray:
        """Of two texts, how much each head's tokens of one read of the other: (L, H, 2, 2) float32, the mean attention
        from a token of the first index's text to all tokens of the second's. What is missing to 1 went to special tokens."""
        import numpy as np

        if self.parts is None:
            raise BadValue("between: one text was read; give the probe two")
        parts = np.asarray(self.parts)
        of = np.stack([parts == 1, parts == 2], axis=1).astype(np.float32)  # (T, 2)
        every = [[of.T @ (self.pattern(i, j) @ of) for j in self.heads] for i in self.layers]
        return np.asarray(every, np.float32) / of.sum(axis=0)[:, None]

    def numpy(self) -> np.ndarray:
        """All heads, (L, H, T, S) float32."""
        import numpy as np

        return np.stack([[self.pattern(i, j) for j in self.heads] for i in self.layers])


def telling(measures: np.ndarray) -> tuple[int, int]:
    """The head to open with, of measures (L, H, 4): the sharpest that does not merely look at the previous token, the
    first, or itself."""
    import numpy as np

    plain = measures[..., 1:].max(axis=-1) > 0.5
    return divmod(int(np.argmin(measures[..., 0] + 1e3 * plain)), measures.shape[1])

"""Vectors of tokens as points of a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Projection(Numbers):
    """N tokens' vectors as points in two or three dimensions, of one model or of several, which are frames of one film."""

    renderer: ClassVar[str] = "llm_lab.views.embeddings:embeddings"
    frames: list[str]  # F models, the last one the latest
    source: str  # what the vectors are: "input vectors", "blocks.2.resid_post"
    pieces: list[Piece]  # N tokens; of a text's activations, its positions
    kinds: list[str]  # of each token: "lower case", "digit", …
    counts: np.ndarray | None = None  # (N,) how often each is in the text that was counted
    points: np.ndarray  # (F, N, d) float32
    projection: str  # pca or tsne
    explained: np.ndarray | None = None  # (F, d) share of each frame's variance on each axis, of PCA
    align: str = ""  # basis or procrustes, where there are several frames
    colour: str = "kind"
    width: list[int]  # numbers in a vector, by frame
    near: np.ndarray  # (F, N, k) int32, the nearest by the cosine of the whole vectors: ids, or positions; −1 is none
    cosine: np.ndarray  # (F, N, k) float32
    names: Mapping[int, Piece]  # of what `near` holds
    positions: bool = False  # the points are the positions of a text
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """The points, (N, d); of several models (F, N, d)."""
        return self.points[0] if len(self.points) == 1 else self.points

    def to_pandas(self) -> pd.DataFrame:
        """A row for each model and token, with its place and its nearest."""
        import pandas as pd

        rows = []
        for frame, points, near in zip(self.frames, self.points, self.near, strict=True):
            for i, (piece, place, ids) in enumerate(zip(self.pieces, points, near, strict=True)):
                row: dict[str, Any] = {"model": frame, "token": piece.text, "id": piece.id, "kind": self.kinds[i]}
                if self.counts is not None:
                    row["count"] = int(self.counts[i])
                row |= dict(zip("xyz", map(float, place), strict=False))
                rows.append(row | {"nearest": [self.names[int(j)].text for j in ids if j >= 0]})
        return pd.DataFrame(rows)

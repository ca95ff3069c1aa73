"""Units inside a model, be they neurons, factors or features, with the passages of a text that they answer to most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Numbers, Piece
from llm_lab.results.maps import TokenScores

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Passage:
    """A stretch of a text around the token at which a unit is most active in it."""

    pieces: Sequence[Piece]  # T tokens
    values: np.ndarray  # (T,) float32, the unit's activation at each
    peak: int  # which of them is the most active
    position: int  # of that token in all that was read


@dataclass(frozen=True, eq=False)
class Unit:
    """One neuron, factor or feature."""

    name: str  # "layer 1, neuron 40"
    stats: Mapping[str, float]  # by the names in `Passages.columns`
    passages: Sequence[Passage]  # the most active first
    tokens: Sequence[tuple[Piece, float]] = ()  # with the largest mean activation
    promoted: Sequence[tuple[Piece, float]] = ()  # what it raises most in the logits, along the direct path
    suppressed: Sequence[tuple[Piece, float]] = ()


@dataclass(eq=False, kw_only=True)
class Passages(Numbers):
    """Units, each with numbers about it, its most active passages, and the tokens that it raises and lowers."""

    renderer: ClassVar[str] = "llm_lab.views.passages:passages"
    name: str
    kind: str
    facts: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)  # the units' numbers: name -> what it is
    figures: list[tuple[str, str]] = field(default_factory=list)  # of all units together
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    done: bool = True  # False while it grows

    def numpy(self) -> np.ndarray:
        """The activation at the peak of each passage, (U, P) float32; NaN where a unit has fewer than the most."""
        import numpy as np

        made = np.full((len(self.units), max((len(u.passages) for u in self.units), default=0)), np.nan, np.float32)
        for row, unit in zip(made, self.units, strict=True):
            row[: len(unit.passages)] = [float(p.values[p.peak]) for p in unit.passages]
        return made

    def to_pandas(self) -> pd.DataFrame:
        """A row for each unit: its name, its numbers, and as text the tokens that it answers to, raises and lowers."""
        import pandas as pd

        def words(found: Sequence[tuple[Piece, float]]) -> list[str]:
            return [piece.text for piece, _ in found]

        return pd.DataFrame(
            [
                {
                    "unit": unit.name,
                    **unit.stats,
                    "tokens": words(unit.tokens),
                    "promoted": words(unit.promoted),
                    "suppressed": words(unit.suppressed),
                }
                for unit in self.units
            ]
        )

    @property
    def passages(self) -> pd.DataFrame:
        """A row for each passage: unit, rank, value at its peak, position and token of the peak, text."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "unit": unit.name,
                    "rank": rank,
                    "value": float(passage.values[passage.peak]),
                    "position": passage.position,
                    "token": passage.pieces[passage.peak].text,
                    "text": "".join(piece.text for piece in passage.pieces),
                }
                for unit in self.units
                for rank, passage in enumerate(unit.passages, 1)
            ]
        )


@dataclass(frozen=True, eq=False)
class Factors:
    """Directions of a non-negative factorisation: activations ≈ weights · `directions`."""

    sites: Sequence[tuple[str, int]]  # what stands side by side in a direction: sites, and how many numbers of each
    directions: np.ndarray  # (K, N) float32, each of length 1


class _Factored:
    """What results that hold factors offer of them."""

    factors: Factors

    @property
    def directions(self) -> np.ndarray:
        """(K, N) float32, each of length 1, not negative."""
        return self.factors.directions


@dataclass(eq=False, kw_only=True)
class FactorPassages(_Factored, Passages):
    """Factors of the activations of a corpus."""

    factors: Factors


@dataclass(eq=False, kw_only=True)
class FactorScores(_Factored, TokenScores):
    """A text shaded by factors of its activations."""

    factors: Factors


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A sparse autoencoder of the activations at one site: x ≈ mean + features · decoder.

    The features are relu((x − mean) · encoder + bias); with `k` only the k largest of each token are kept (Gao et al. 2024).
    """

    site: str
    encoder: np.ndarray  # (D, F) float32
    decoder: np.ndarray  # (F, D) float32, each row of length 1
    bias: np.ndarray  # (F,) float32
    mean: np.ndarray  # (D,) float32
    k: int | None = None

    def encode(self, activations: np.ndarray) -> np.ndarray:
        """The features of activations, (…, D) to (…, F) float32, in the units of the activations."""
        import numpy as np

        x = np.asarray(activations, np.float32)
        features = np.maximum((x - self.mean) @ self.encoder + self.bias, 0)
        if self.k is not None and self.k < features.shape[-1]:
            least = np.partition(features, -self.k, axis=-1)[..., -self.k, None]
            features = np.where(features >= least, features, 0)
        return features

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Activations from features, (…, F) to (…, D) float32."""
        import numpy as np

        return np.asarray(features, np.float32) @ self.decoder + self.mean


class _Encoding:
    """What results that hold an autoencoder offer of it."""

    autoencoder: Autoencoder

    @property
    def encoder(self) -> np.ndarray:
        """(D, F) float32."""
        return self.autoencoder.encoder

    @property
    def decoder(self) -> np.ndarray:
        """(F, D) float32: a row is a feature's direction, of length 1."""
        return self.autoencoder.decoder

    def encode(self, activations: np.ndarray) -> np.ndarray:
        """The features of activations at its site, (…, D) to (…, F) float32."""
        return self.autoencoder.encode(activations)

    def decode(self, features: np.ndarray) -> np.ndarray:
        """Activations from features, (…, F) to (…, D) float32."""
        return self.autoencoder.decode(features)


@dataclass(eq=False, kw_only=True)
class SparseAutoencoder(_Encoding, Passages):
    """An autoencoder that was trained on the spot, and its features."""

    autoencoder: Autoencoder
    losses: Mapping[str, float] = field(default_factory=dict)  # of the model: clean, reconstructed, mean, zero; nats


@dataclass(eq=False, kw_only=True)
class FeatureScores(_Encoding, TokenScores):
    """A text shaded by the features that are most active in it."""

    autoencoder: Autoencoder
    losses: Mapping[str, float] = field(default_factory=dict)

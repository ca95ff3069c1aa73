"""What wrong characters and one wrong token in what it reads cost a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class NoisePoint:
    """One kind of noise at one rate: `value ± interval` (half of the 95 % confidence interval)."""

    noise: str
    rate: float  # asked for, of the characters
    changed: float  # the share that was changed: less where a noise finds too few characters that it suits
    bits_per_byte: float  # of the noised text
    interval: float | None
    agreement: float  # share of the places where the likeliest token is the clean text's
    agreement_interval: float | None
    compared: int  # places, at which a token begins in both texts


@dataclass(frozen=True, eq=False)
class Swap:
    """One token of a passage swapped, and by how much the rest of the passage costs more for it, in bits per byte."""

    before: list[Piece]  # some tokens that stand before it
    token: Piece
    by: Piece
    rise: float


@dataclass(eq=False, kw_only=True)
class Robustness(Numbers):
    """Bits per byte and agreement under character noise, and under the worst and a random swap of one token."""

    renderer: ClassVar[str] = "llm_lab.views.robustness:robustness"
    name: str
    facts: list[str] = field(default_factory=list)
    clean: tuple[float, float | None]  # bits per byte of the text as it is, ± interval
    points: list[NoisePoint]
    worst: tuple[float, float | None] | None = None  # rise in bits per byte, ± interval
    random: tuple[float, float | None] | None = None
    swaps: list[Swap] = field(default_factory=list)  # the worst of all passages
    done: bool = True
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """Bits per byte, (noises, rates)."""
        import numpy as np

        noises = list(dict.fromkeys(point.noise for point in self.points))
        return np.array([[p.bits_per_byte for p in self.points if p.noise == noise] for noise in noises])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each noise and rate; the first is the text as it is."""
        import pandas as pd

        clean = {
            "noise": "none",
            "rate": 0.0,
            "changed": 0.0,
            "bits_per_byte": self.clean[0],
            "interval": self.clean[1],
        }
        return pd.DataFrame([clean | {"agreement": 1.0}, *(vars(point) for point in self.points)])

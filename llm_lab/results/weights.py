"""How a model's weights are distributed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Result

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True, eq=False)
class WeightFacts:
    """One weight of one model in numbers. What a vector, which has no singular values, lacks is NaN."""

    mean: float
    std: float
    low: float
    high: float
    near_zero: float  # share of its numbers below a hundredth of their root mean square; 0.8 % of a normal distribution
    kurtosis: float  # above that of a normal distribution, which has 3
    norm: float  # Frobenius: the root of the sum of squares
    spectral_norm: float  # the largest singular value
    stable_rank: float  # ‖W‖²_F / ‖W‖²₂
    effective_rank: float  # e to the entropy of the singular values, made to sum to 1 (Roy & Vetterli 2007)
    condition: float  # the largest singular value over the smallest
    alpha: float  # of the power law that the largest squared singular values follow (Martin & Mahoney 2021, §3)
    histogram: np.ndarray  # (bins,) float32: the share of its numbers between the edges of its row
    singular: np.ndarray  # (R,) float32, the largest first
    gradient: float = math.nan  # Frobenius norm of the loss's gradient
    noise_scale: float = (
        math.nan
    )  # tokens at which the gradient's noise is as large as the gradient (McCandlish et al. 2018)

    @property
    def gradient_ratio(self) -> float:
        """The gradient's norm over the weight's."""
        return self.gradient / self.norm if self.norm else math.nan


@dataclass(frozen=True, eq=False)
class WeightRow:
    """One weight, of every model that was looked at."""

    name: str
    shape: tuple[int, ...]
    edges: tuple[float, float]  # of the histograms; what lies outside is in the first and last bin
    facts: list[WeightFacts]  # of each model
    fresh: WeightFacts | None = None  # of a model of the same sizes before any training
    distance: float = math.nan  # ‖A − B‖_F / ‖A‖_F, where there are two models


@dataclass(eq=False, kw_only=True)
class WeightTable(Result):
    """The weights of a model, or of two side by side: their numbers, histograms and singular values."""

    renderer: ClassVar[str] = "llm_lab.views.weights:weights"
    models: list[str]
    rows: list[WeightRow]
    losses: list[float] = field(default_factory=list)  # of each model, where gradients were taken: nats a target
    tokens: list[int] = field(default_factory=list)  # that its gradients are of
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> WeightFacts:
        """The numbers of a weight (of the first model); KeyError where it is not there."""
        return {row.name: row.facts[0] for row in self.rows}[name]

    def to_pandas(self) -> pd.DataFrame:
        """A row for each weight and model."""
        import pandas as pd

        rows = []
        for row in self.rows:
            for model, facts in zip(self.models, row.facts, strict=True):
                numbers = {key: value for key, value in vars(facts).items() if key not in ("histogram", "singular")}
                made = {"weight": row.name, "model": model, "shape": row.shape} | numbers
                made |= {"gradient_ratio": facts.gradient_ratio, "distance": row.distance}
                rows.append(made | {"fresh_std": row.fresh.std if row.fresh else math.nan})
        return pd.DataFrame(rows)

"""How well a linear classifier reads something from the activations at each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Numbers

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class SiteScore:
    """What a classifier at one site got right of examples that it had not seen: shares, and half of their 95 % intervals."""

    site: str
    accuracy: float
    accuracy_interval: float | None
    balanced_accuracy: float  # the mean over the classes of the share that was right
    balanced_interval: float | None
    control_accuracy: float  # the same classifier on random labels
    control_interval: float | None
    selectivity: float  # accuracy − control_accuracy
    selectivity_interval: float | None


@dataclass(eq=False, kw_only=True)
class LinearProbe(Numbers):
    """A classifier for each site, cross-validated, with a control task of random labels (Hewitt & Liang 2019)."""

    renderer: ClassVar[str] = "llm_lab.views.linear:linear_probe"
    name: str
    label: str  # what is told apart
    facts: list[str] = field(default_factory=list)
    classes: Sequence[str]
    counts: Sequence[int]  # examples of each class
    scores: list[SiteScore] = field(default_factory=list)
    directions: Mapping[
        str, np.ndarray
    ]  # by site, (C, D) float32: the logit of class c is directions[c] · x + intercept[c]
    intercepts: Mapping[str, np.ndarray]  # by site, (C,) float32
    control: str = ""  # how the control's labels are made
    notes: list[str] = field(default_factory=list)
    done: bool = True  # False while it grows

    @property
    def majority(self) -> float:
        """The accuracy of always saying the most frequent class."""
        return max(self.counts) / sum(self.counts)

    def numpy(self) -> np.ndarray:
        """The accuracies, (S,) float64, in the order of the sites."""
        import numpy as np

        return np.array([score.accuracy for score in self.scores])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each site."""
        import pandas as pd

        return pd.DataFrame([{**vars(score), "majority": self.majority} for score in self.scores])

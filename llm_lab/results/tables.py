"""Metrics, and plain tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
    """One metric of one model: `value ± interval` (half of the 95 % confidence interval)."""

    model: str
    metric: str
    value: float
    interval: float | None
    unit: str
    better: str  # "lower" or "higher"
    n: int  # how many observations (blocks of the context) the interval rests on


@dataclass(eq=False, kw_only=True)
class Evaluation(Result):
    """Metrics of one or several models on the same data."""

    renderer: ClassVar[str] = "llm_lab.views.tables:evaluation"
    models: list[str]
    data: str  # "shakespeare, held-out 111,540 characters"
    comparable: bool = True  # whether all models were measured on the same text
    scores: list[Score]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, metric: str) -> float:
        """The value of a metric (of the first model)."""
        for score in self.scores:
            if score.metric == metric:
                return score.value
        raise BadValue(f"metric {metric!r} was not computed; there is: {', '.join(s.metric for s in self.scores)}")

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([vars(score) for score in self.scores])


@dataclass(eq=False, kw_only=True)
class Listing(Result):
    """A plain table with a heading: runs, the machine, what is here. Cells are text or numbers."""

    renderer: ClassVar[str] = "llm_lab.views.tables:listing"
    title: str
    facts: list[str] = field(default_factory=list)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    caption: str = ""

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.columns))

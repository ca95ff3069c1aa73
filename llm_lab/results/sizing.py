"""Which size of a model the time that is given is enough for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class SizePoint:
    """One size of the ladder on this machine."""

    n_layer: int
    n_head: int
    d_model: int
    max_seq_len: int
    batch_size: int
    parameters: int  # of the blocks
    tokens_per_second: float
    measured: bool  # by its own steps; else reckoned from the nearest that was
    excess: tuple[float, ...]  # nats per token above the best there could be, for each time, by the rule

    @property
    def label(self) -> str:
        return f"{self.n_layer} × {self.d_model}"


@dataclass(eq=False, kw_only=True)
class Sizing(Result):
    """What each size of the ladder would come to, for times from seconds to hours."""

    renderer: ClassVar[str] = "llm_lab.views.sizing:sizing"
    corpus: str
    tokens: int  # of the text that trains
    unit: str  # of a token
    seconds: tuple[float, ...]  # the times
    points: list[SizePoint]
    rule: str
    notes: list[str] = field(default_factory=list)

    def best(self, seconds: float) -> SizePoint:
        """The size that `pretrain` takes for that time (to the nearest of `.seconds`)."""
        at = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - seconds))
        return min(self.points, key=lambda point: point.excess[at])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each size and time."""
        import pandas as pd

        return pd.DataFrame(
            {**{key: value for key, value in vars(point).items() if key != "excess"}, "seconds": time, "excess": excess}
            for point in self.points
            for time, excess in zip(self.seconds, point.excess, strict=True)
        )

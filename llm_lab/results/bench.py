"""What the package's own benchmark measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class BenchLine:
    """One figure: the median over the turns, with its quartiles, against a goal."""

    part: str
    what: str
    value: float | None  # None where it was not measured; `note` says why
    unit: str = "×"  # a ratio to what `what` names, unless another is said
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    least: bool = True  # the goal is the least that it should be; else the most
    note: str = ""  # the figures that it was made from; of a missed goal, what the time went to

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None where there is none, or nothing was measured."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal


@dataclass(eq=False, kw_only=True)
class Bench(Result):
    """The table of `python -m llm_lab.bench` and `%doctor --bench`."""

    renderer: ClassVar[str] = "llm_lab.views.bench:bench"
    lines: list[BenchLine]
    environment: dict[str, Any]  # date, machine, versions
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        """part, what, value, unit, low, high, goal, least, reached, note."""
        import pandas as pd

        return pd.DataFrame([{**asdict(line), "reached": line.reached} for line in self.lines])

    def save_json(self, path: str | Path) -> Path:
        """All figures, and what they were measured on."""
        lines = [{**asdict(line), "reached": line.reached} for line in self.lines]
        found = {"environment": self.environment, "lines": lines, "notes": self.notes}
        Path(path).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return Path(path)

"""One probe of several models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.errors import LabError
from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class SideBySide(Result):
    """What a kind of probe that takes one model found in each of several; fewer results while it grows."""

    renderer: ClassVar[str] = "llm_lab.views.sides:sides"
    kind: str
    names: list[str]  # of the models
    results: list[Result] = field(default_factory=list)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, i: int) -> Result:
        return self.results[i]

    def to_pandas(self) -> pd.DataFrame:
        """The rows of all, with a column `model` before them."""
        import pandas as pd

        frames = [one.to_pandas() for one in self.results]
        if not frames:
            raise LabError("SideBySide has no result yet")
        for frame, name in zip(frames, self.names, strict=False):
            frame.insert(0, "model", name, allow_duplicates=True)
        return pd.concat(frames, ignore_index=True)

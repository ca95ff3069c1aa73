"""What every attention head does, in numbers and a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.errors import BadValue, listing
from llm_lab.results.base import Numbers

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class HeadTable(Numbers):
    """Statistics of every head of one stack, and the names that follow from them, the most telling first."""

    renderer: ClassVar[str] = "llm_lab.views.heads:heads"
    name: str
    facts: list[str] = field(default_factory=list)
    stack: str = ""  # which of two; "" where there is one
    scores: Mapping[str, np.ndarray]  # by name, (L, H) float32
    chance: Mapping[str, float]  # of a head that reads all it may evenly
    roles: Sequence[Sequence[Sequence[str]]]  # by layer and head
    caption: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, H): layers, heads of each."""
        return len(self.roles), len(self.roles[0])

    def named(self, role: str) -> list[tuple[int, int]]:
        """(layer, head) of those with that name, the highest score first; BadValue for a name that none could have."""
        layers, heads = self.shape
        key = {"itself": "self", "broad": "entropy", "local": "near"}.get(role, role.replace(" ", "_"))
        if key not in self.scores and role != "mixed":
            known = [{"self": "itself"}.get(name, name.replace("_", " ")) for name in self.scores]
            raise BadValue(
                f"role: {role!r} is no name of a head; there is: {listing([*known, 'broad', 'local', 'mixed'])}"
            )
        found = [(i, j) for i in range(layers) for j in range(heads) if role in self.roles[i][j]]
        return sorted(found, key=lambda at: -float(self.scores[key][at]) if key in self.scores else 0.0)

    def numpy(self) -> np.ndarray:
        """All scores, (S, L, H) float32, in the order of `.scores`."""
        import numpy as np

        return np.stack(list(self.scores.values()))

    def to_pandas(self) -> pd.DataFrame:
        """A row for each head: layer, head, role, and its scores."""
        import pandas as pd

        layers, heads = self.shape
        return pd.DataFrame(
            [
                {"layer": i, "head": j, "role": ", ".join(self.roles[i][j])}
                | {name: float(values[i, j]) for name, values in self.scores.items()}
                for i in range(layers)
                for j in range(heads)
            ]
        )

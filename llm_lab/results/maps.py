"""Numbers over two axes, and numbers beside the tokens of a text: what most probes find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.errors import BadValue
from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Panel:
    """One map of numbers: (R, C) float32 with the names of its rows and columns. NaN where there is none."""

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""
    texts: Sequence[Sequence[str]] | None = None  # what stands in the cells, where not the number: a predicted token, …
    notes: Sequence[Sequence[str]] | None = None  # what more is told of the cell that is pointed at


@dataclass(eq=False, kw_only=True)
class Heatmap(Numbers):
    """Numbers over two named axes, in one panel or several: layers × heads, layers × positions, …"""

    renderer: ClassVar[str] = "llm_lab.views.heatmap:heatmap"
    name: str
    kind: str
    facts: list[str] = field(default_factory=list)  # of the header line
    panels: list[Panel]
    quantity: str = "value"  # what a number is: "rise of the loss, nats"
    axes: tuple[str, str] = ("", "")  # what rows and columns are: ("layer", "head")
    signed: bool = False  # blue above and orange below zero; otherwise one blue from the lowest
    bounds: tuple[float, float] | None = None  # of the colours; from the numbers themselves where there are none
    one_scale: bool = True  # all panels have the same colours for the same numbers; else each has its own
    figures: list[tuple[str, str]] = field(default_factory=list)  # names and numbers that stand beside the map
    pieces: list[Piece] = field(default_factory=list)  # the text that was read, where the axes do not show it
    caption: str = ""
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """The numbers, (R, C); of several panels of one size (P, R, C)."""
        import numpy as np

        if len(self.panels) == 1:
            return self.panels[0].values
        if len({panel.values.shape for panel in self.panels}) > 1:
            raise BadValue("numpy: the panels differ in size; .panels has each")
        return np.stack([panel.values for panel in self.panels])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each number: panel (where there are several), the two axes, the text of the cell, value."""
        import pandas as pd

        down, across = (axis or default for axis, default in zip(self.axes, ("row", "column"), strict=True))
        rows = []
        for panel in self.panels:
            title = {"panel": panel.title} if len(self.panels) > 1 else {}
            for r, line in enumerate(panel.values):
                for c, value in enumerate(line):
                    text = {"text": panel.texts[r][c]} if panel.texts is not None else {}
                    rows.append({**title, down: panel.rows[r], across: panel.columns[c], **text, "value": float(value)})
        return pd.DataFrame(rows)


@dataclass(eq=False, kw_only=True)
class TokenScores(Numbers):
    """A number for each token of a text, by one method or several: attributions, activations, losses."""

    renderer: ClassVar[str] = "llm_lab.views.scores:scores"
    name: str
    kind: str
    facts: list[str] = field(default_factory=list)
    pieces: list[Piece]  # T tokens
    scores: Mapping[str, np.ndarray]  # by what computed them, (T,) float32
    errors: Mapping[str, np.ndarray] = field(default_factory=dict)  # standard errors of those that were drawn, (T,)
    quantity: str = "value"
    signed: bool = True
    about: str = ""  # what is explained: the token ⏎ at position 12
    figures: list[tuple[str, str]] = field(default_factory=list)
    caption: str = ""
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """The numbers, (T,); of several methods (M, T)."""
        import numpy as np

        found = np.stack(list(self.scores.values()))
        return found[0] if len(found) == 1 else found

    def to_pandas(self) -> pd.DataFrame:
        """A row for each token: position, token, id, and a column for each method; `…_error` is a standard error."""
        import pandas as pd

        found = {
            "position": range(len(self.pieces)),
            "token": [p.text for p in self.pieces],
            "id": [p.id for p in self.pieces],
        }
        errors = {f"{name}_error": values for name, values in self.errors.items()}
        return pd.DataFrame(found | {name: values.astype(float) for name, values in {**self.scores, **errors}.items()})

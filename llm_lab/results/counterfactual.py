"""A text, and the fewest changes to it that change what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llm_lab.results.base import Numbers, Piece

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Counterfactual(Numbers):
    """A text as it was and as it was changed, and how likely the model finds the answers to both."""

    renderer: ClassVar[str] = "llm_lab.views.counterfactual:counterfactual"
    name: str
    facts: list[str] = field(default_factory=list)
    pieces: list[Piece]  # N tokens
    edited: list[Piece]  # N tokens
    about: str  # where the answer is: after position 12
    flipped: bool  # whether the edits change the prediction as was asked
    before: Piece  # the likeliest answer to the text as it was
    after: Piece  # … as it was changed
    wanted: Piece | None = None  # the answer that was asked for; None for any other
    answers: Sequence[tuple[Piece, float, float]]  # tokens, with their probabilities before and after
    edited_text: str  # as it can be read again
    passes: int  # texts that the model has run for it
    notes: list[str] = field(default_factory=list)

    @property
    def changes(self) -> list[int]:
        """The positions of the changed tokens."""
        return [t for t, (old, new) in enumerate(zip(self.pieces, self.edited, strict=True)) if old.id != new.id]

    def numpy(self) -> np.ndarray:
        """The ids as they were and as they were changed, (2, N)."""
        import numpy as np

        return np.array([[piece.id for piece in line] for line in (self.pieces, self.edited)])

    def to_pandas(self) -> pd.DataFrame:
        """A row for each change: position, token, id, new_token, new_id."""
        import pandas as pd

        rows = []
        for t in self.changes:
            old, new = self.pieces[t], self.edited[t]
            rows.append({"position": t, "token": old.text, "id": old.id, "new_token": new.text, "new_id": new.id})
        return pd.DataFrame(rows, columns=["position", "token", "id", "new_token", "new_id"])

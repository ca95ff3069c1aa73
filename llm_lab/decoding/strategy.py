"""What a decoding strategy is: from the text of every row to which rows go on, and with which tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.decoding.filters import Past
from llm_lab.decoding.options import StrategyOptions
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.step import Step, Text
from llm_lab.models.language_model import LanguageModel
from llm_lab.results import BeamTree
from llm_lab.tokenizers.tokenizer import Tokenizer

Filter = Callable[[Tensor, Past], Tensor]


class Strategy:
    """Base of all strategies: made anew for each generation, so that it may keep state."""

    def __init__(self, options: StrategyOptions, filters: Sequence[Filter] = ()) -> None:
        self.options = options
        self.filters = list(filters)
        self.constraint: Filter | None = None  # what a text must be
        self.other: LanguageModel | None = None  # a second model, for those that work with one

    def rows(self, n: int) -> int:
        """How many rows it keeps to write `n` texts."""
        return n

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        """Read `rows.logits()` and choose."""
        raise NotImplementedError

    def texts(self, rows: Rows, n: int) -> list[Text]:
        """The texts written so far, the best first where there is a best."""
        return [rows.text(row) for row in range(n)]

    def beams(self, rows: Rows, tokenizer: Tokenizer) -> BeamTree | None:
        """How the texts were searched for, where they were."""
        return None

    def notes(self) -> list[str]:
        """What a user should know of how it went."""
        return []

    def filtered(self, logits: Float[Tensor, "R V"], past: Past) -> Float[Tensor, "R V"]:
        """The logits as the constraint and the filters leave them, −inf where a token is dropped. Where the filters
        leave nothing at all, they give way."""
        if self.constraint is not None:
            logits = self.constraint(logits, past)
        found = logits
        for one in self.filters:
            found = one(found, past)
        if self.filters:
            found = torch.where(found.isneginf().all(dim=-1, keepdim=True), logits, found)
        return found


def drawn(logits: Float[Tensor, "R V"], generator: torch.Generator) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """A token for each row, and its probability."""
    probs = logits.softmax(dim=-1)
    tokens = torch.multinomial(probs, 1, generator=generator)
    return tokens[:, 0], probs.gather(1, tokens)[:, 0]

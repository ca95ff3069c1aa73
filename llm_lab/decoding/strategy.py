"""What a decoding strategy is: from the logits of every row to which rows go on, and with which token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.options import Options


@dataclass(frozen=True, eq=False)
class Step:
    """One step of decoding for R rows."""

    parents: Int[Tensor, " R"]  # the row that each row continues
    tokens: Int[Tensor, " R"]
    chosen_prob: Float[Tensor, " R"]  # of each token, after filtering
    n_accepted: int = 1  # tokens that this step settles
    final: bool = False  # nothing better can come


class Strategy:
    """Base of all strategies: made anew for each generation, so that it may keep state."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def step(self, logits: Float[Tensor, "R V"], generator: torch.Generator) -> Step:
        """Logits are float32; tokens that must not be written are −inf already."""
        raise NotImplementedError


class Sampler(Strategy):
    """A strategy that filters the distribution and draws from what is left."""

    def filter(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """The logits, with −inf where a token is dropped."""
        raise NotImplementedError

    def step(self, logits: Float[Tensor, "R V"], generator: torch.Generator) -> Step:
        probs = self.filter(logits).softmax(dim=-1)
        tokens = torch.multinomial(probs, 1, generator=generator)[:, 0]
        rows = torch.arange(len(tokens), device=tokens.device)
        return Step(rows, tokens, probs[rows, tokens])

"""Strategies that look at one distribution at a time: the likeliest token, or one drawn from what filters leave."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding import options as opt
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.step import Step
from llm_lab.decoding.strategy import Strategy, drawn


class Greedy(Strategy):
    """The likeliest token."""

    by_row = True

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        tokens = self.filtered(rows.logits(), rows.past).argmax(dim=-1)
        return Step.one(tokens, torch.ones(len(tokens), device=tokens.device))


class Sampler(Strategy):
    """A token drawn from what the filters leave."""

    by_row = True

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        return Step.one(*drawn(self.filtered(rows.logits(), rows.past), generator))


class MirostatSampler(Strategy):
    """Tokens of more surprisal than μ are dropped, and μ is steered so that those drawn come to τ bits on average
    (Basu et al. 2021, §5, in its second version, which needs no estimate of the distribution's shape). Each row has a μ."""

    by_row = True
    options: opt.Mirostat
    mu: Tensor | None = None

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        logits = self.filtered(rows.logits(), rows.past)
        if self.mu is None:
            self.mu = torch.full((len(logits),), 2 * self.options.mirostat_tau, device=logits.device)
        tokens, probs = drawn(self.cut(logits), generator)
        surprisal = -probs.log2()
        self.mu = self.mu - self.options.mirostat_eta * (surprisal - self.options.mirostat_tau)
        return Step.one(tokens, probs)

    def cut(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        assert self.mu is not None
        bits = -logits.log_softmax(dim=-1) / math.log(2)
        kept = (bits <= self.mu[:, None]) | (logits == logits.amax(dim=-1, keepdim=True))
        return logits.masked_fill(~kept, -torch.inf)

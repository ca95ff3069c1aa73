"""Strategies that look at one distribution at a time: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding import options as opt
from llm_lab.decoding.strategy import Sampler, Step, Strategy


class Greedy(Strategy):
    """The likeliest token."""

    def step(self, logits: Float[Tensor, "R V"], generator: torch.Generator) -> Step:
        tokens = logits.argmax(dim=-1)
        return Step(torch.arange(len(tokens), device=tokens.device), tokens, torch.ones_like(logits[:, 0]))


class TemperatureSampler(Sampler):
    """softmax(logits / temperature)."""

    options: opt.Temperature

    def filter(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return logits / self.options.temperature


class TopKSampler(Sampler):
    """The k likeliest tokens, renormalised (Fan et al. 2018, §5.2)."""

    options: opt.TopK

    def filter(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        logits = logits / self.options.temperature
        kth = logits.topk(min(self.options.k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < kth, -torch.inf)


class TopPSampler(Sampler):
    """The smallest set of tokens whose probabilities sum to at least p, renormalised (Holtzman et al. 2020, §3.1)."""

    options: opt.TopP

    def filter(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        logits = logits / self.options.temperature
        values, order = logits.sort(dim=-1, descending=True)
        probs = values.softmax(dim=-1)
        # A token is dropped when those likelier than it already sum to p; the likeliest never is.
        drop = probs.cumsum(dim=-1) - probs >= self.options.p
        drop[:, 0] = False
        return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)

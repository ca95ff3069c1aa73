"""How many floating-point operations a forward pass takes: those of matrix products, a multiply-add being 2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from llm_lab.models.experts import Experts
from llm_lab.models.options import PATTERNS, ModelConfig
from llm_lab.models.patterns import Pattern
from llm_lab.models.sparse import plan, worthwhile
from llm_lab.models.tiles import GATHER, allowed

_EXACT = 512  # tokens up to which a sparse layout is made to be counted; beyond, a sample of it
_SAMPLED = 64  # queries
_FARTHEST = 1 << 16  # tokens among which the sample is taken, however long the context


def of_maps(module: nn.Module) -> int:
    """The linear maps of a module, for one position. Of experts, those that a token is sent to, and the router."""
    total = 0
    for child in module.modules():
        if isinstance(child, Experts):
            weights = {name: p.numel() for name, p in child.named_parameters() if p.ndim > 1}
            router = sum(size for name, size in weights.items() if "router" in name)
            return 2 * (router + (sum(weights.values()) - router) * child.n_active // child.n_expert)
        if isinstance(child, nn.Linear):
            total += 2 * child.weight.numel()
    return total


@dataclass(frozen=True)
class Reading:
    """How many keys a query is compared with, on average at the full context: those computed, whatever is used of them."""

    keys: float | int
    full: float | int  # where attention is full

    def flops(self, config: ModelConfig) -> int:
        """Scores and weighted values of all heads, for one query."""
        return round(_per_key(config) * self.keys)

    def told(self, config: ModelConfig) -> str:
        """What a pattern saves, in words."""
        spent, full = (_per_key(config) * keys / 1e6 for keys in (self.keys, self.full))
        share = f"{self.keys / self.full:.0%}".replace("%", " %")
        return f"attends {share} of full: {spent:.2g} of {full:.2g} MFLOPs per token"


def _per_key(config: ModelConfig) -> int:
    return 2 * 2 * config.n_head * config.head_dim


@lru_cache(maxsize=64)
def reading(config: ModelConfig, causal: bool) -> Reading:
    """Fused attention leaves out what comes later, unless there is a mask: positions among the scores need one, and so
    does a pattern that is not worth its tiles."""
    n = config.max_seq_len
    full = n if not causal or config.position in ("alibi", "t5") else (n + 1) / 2
    if config.attention == "full":
        return Reading(full, full)
    config = replace(config, max_seq_len=min(n, _FARTHEST))
    pattern: Pattern = PATTERNS.load(config.attention)(config)
    if n > _EXACT:
        return Reading(_sampled(pattern, causal, config.max_seq_len), full)
    layout = plan(pattern, causal, n, torch.device("cpu"))
    return Reading(layout.share * n if worthwhile(layout) else n, full)


def _sampled(pattern: Pattern, causal: bool, n: int) -> float:
    """About how many keys the tile of a query reads, from some queries: their own, and one more for each other query of
    the tile. Tiles grow as `models.tiles` has them grow, as long as that takes less time."""
    query, key, total = torch.linspace(0, n - 1, _SAMPLED).long()[:, None], torch.arange(n), 0.0
    for part in pattern.parts():
        own = allowed(part.allowed, causal, query, key).sum(dim=1)
        mean, tile = float(own.float().mean()), pattern.config.sparse_block
        while tile < n and _time(mean, 2 * tile) < _time(mean, tile):
            tile *= 2
        total += float((own + tile - 1).clamp(max=n).float().mean())
    return min(total, float(n))


def _time(own: float, tile: int) -> float:
    return (tile + GATHER) * (own + tile - 1) / tile

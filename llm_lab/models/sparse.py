"""Attention that computes only what a pattern allows: tiles of queries against the keys that any of them reads.

On CPUs the keys of a tile are gathered, and what the rule forbids inside it is masked. On CUDA the same rule drives
FlexAttention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from llm_lab.models.patterns import Pattern
from llm_lab.models.softmax import joined
from llm_lab.models.tiles import Bias, allowed, grouped

_WORTH = 0.5  # share of all pairs above which gathering costs about what it saves; parts to be joined halve it (CPUs)


class Layout:
    """How attention by one pattern is computed over `n` positions.

    `share` is how many scores are computed, as a share of those of every position for every other.
    """

    def __init__(self, pattern: Pattern, causal: bool, n: int, device: torch.device) -> None:
        self.n, self.causal, self.pattern = n, causal, pattern
        block = min(pattern.config.sparse_block, n)
        self.groups = [grouped(part, causal, n, block, device) for part in pattern.parts()]
        every = [tiles for group in self.groups for tiles in group.tiles]
        self.share = sum(tiles.allowed.numel() for tiles in every) / n**2
        self.n_tiles = sum(len(tiles.queries) for tiles in every)
        self.blocks = self.block_mask(device) if device.type == "cuda" else None

    def attend(
        self,
        q: Float[Tensor, "B H T d"],
        k: Float[Tensor, "B G T d"],
        v: Float[Tensor, "B G T d"],
        scale: float,
        keep: Bool[Tensor, "B T"] | None = None,
        bias: Bias | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "B H T d"]:
        """softmax(q kᵀ · scale + bias) v over the allowed keys; of G heads of keys, each is read by H / G of queries.

        Where `keep` is False there is padding, which is read by itself alone. Dropout drops weights, as in fused
        attention.
        """
        # FlexAttention knows no dropout, and no heads narrower than 16.
        if self.blocks is not None and not dropout and q.shape[-1] >= 16:
            return self.flex(q, k, v, scale, keep, bias, self.blocks)
        flat = [x.flatten(0, 1) for x in (q, k, v)]
        masks = [[tiles.mask(q, keep, bias) for tiles in group.tiles] for group in self.groups]
        if len(self.groups) > 1:
            return joined(flat, self.groups, masks, scale, dropout).view(q.shape).to(q.dtype)
        group, own = self.groups[0], masks[0]
        grouped_heads = q.shape[1] != k.shape[1]
        rows = [
            F.scaled_dot_product_attention(
                tiles.query_rows(flat[0]), tiles.key_rows(flat[1]), tiles.key_rows(flat[2]), mask, dropout,
                scale=scale, enable_gqa=grouped_heads,
            )
            for tiles, mask in zip(group.tiles, own, strict=True)
        ]  # fmt: skip
        return group.ordered(rows).view(q.shape)

    def block_mask(self, device: torch.device) -> Any:
        """The pattern for FlexAttention."""
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(
            lambda b, h, query, key: allowed(self.pattern.allowed, self.causal, query, key),
            None, None, self.n, self.n, device=device,
        )  # fmt: skip

    def flex(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, keep: Tensor | None, bias: Bias | None, blocks: Any
    ) -> Float[Tensor, "B H T d"]:
        """The same by FlexAttention (Dong et al. 2024). What a batch and the positions add goes into the scores, so
        that the blocks are found once for all batches."""
        last = self.n - 1
        ids = torch.arange(2 * self.n - 1, device=q.device)[None]
        values = None if bias is None else bias(ids[:, last : self.n], ids)
        by_distance = None if values is None else values.flatten(1).contiguous()  # (H, 2n − 1), from −last to last
        attend = _flex(q.is_cuda)
        shared = q.shape[1] != k.shape[1]
        if keep is None and by_distance is None:
            return attend(q, k, v, None, blocks, scale, shared)
        return attend(
            q, k, v,
            lambda score, b, h, query, key: _scored(score, b, h, query, key, keep, by_distance),
            blocks, scale, shared,
        )  # fmt: skip


def _scored(
    score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor, keep: Tensor | None, by_distance: Tensor | None
) -> Tensor:
    """One score, with what its distance adds, or −inf where the key is padding and not the query itself."""
    if by_distance is not None:
        score = score + by_distance[h, key - query + by_distance.shape[1] // 2]
    return score if keep is None else torch.where(keep[b, key] | (query == key), score, -torch.inf)


_planned = lru_cache(maxsize=64)(Layout)


def plan(pattern: Pattern, causal: bool, n: int, device: torch.device) -> Layout:
    """The layout for `n` positions that read each other, or where causal those before; made once for equal patterns."""
    # Nothing for torch.compile to trace: it is made once and looked up.
    return torch.compiler.disable(_planned)(pattern, causal, n, device)


def worthwhile(layout: Layout) -> bool:
    """Whether the layout takes clearly less time than the whole square under a mask."""
    return layout.n_tiles >= 2 and layout.share < _WORTH / len(layout.groups)


def dense_mask(
    pattern: Pattern, causal: bool, n_query: int, n_key: int, device: torch.device
) -> Bool[Tensor, "1 1 q k"]:
    """The pattern as a mask; the queries are the last `n_query` of the `n_key` positions."""
    key = torch.arange(n_key, device=device)[None]
    return allowed(pattern.allowed, causal, key[:, n_key - n_query :].mT, key)[None, None]


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _flex(on_cuda: bool) -> Callable[..., Tensor]:
    """FlexAttention; step by step it would make the whole square of scores, so it is compiled, once."""
    from torch.nn.attention.flex_attention import flex_attention

    return _compiled() if on_cuda and not torch.compiler.is_compiling() else flex_attention

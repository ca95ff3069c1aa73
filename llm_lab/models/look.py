"""Who may read whom in one pass of a stack, worked out once for all of its layers: the batch's words, the model's own
pattern, and what positions add to the scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from llm_lab.data.batch import Attend, lower
from llm_lab.models.patterns import Pattern
from llm_lab.models.positions import Position
from llm_lab.models.sites import watched
from llm_lab.models.sparse import Layout, plan, worthwhile


@dataclass(frozen=True, eq=False)
class Look:
    """`mask` is True where a query may read a key, (b, 1, q, k), or what is added to the scores, (b, H, q, k)."""

    is_causal: bool = False
    mask: Tensor | None = None
    angles: tuple[Tensor, Tensor] | None = None
    layout: Layout | None = None  # of a sparse pattern, where it saves work
    keep: Bool[Tensor, "B T"] | None = None  # with a layout: what is not padding
    bias: Callable[[Any, Any], Any] | None = None  # with a layout: what positions add


def look(
    attend: Attend, pattern: Pattern, position: Position, ids: Int[Tensor, "b q"], n_query: int, n_key: int
) -> Look:
    """The queries are the last `n_query` of the `n_key` positions; `ids` are their position ids."""
    device, angles = ids.device, position.angles(ids)
    sparse = not pattern.covers(n_key)
    plain = attend.window is None and attend.prefix is None and attend.segments is None and attend.order is None
    # A probe wants every score: it is given the dense computation.
    if sparse and plain and n_query == n_key and not watched():
        layout = plan(pattern, attend.causal, n_key, device)
        if worthwhile(layout):
            return Look(angles=angles, layout=layout, keep=attend.keep, bias=position.bias)
    is_causal, mask = lower(attend, n_query, n_key, device)
    if not sparse and not position.biased:
        return Look(is_causal, mask, angles)
    key = torch.arange(n_key, device=device)[None, :]
    query = key[:, n_key - n_query :].mT
    if sparse:
        mask = _and(is_causal, mask, pattern.allowed(query, key)[None, None], query, key)
        is_causal = False
    bias = position.bias(query, key)
    if bias is not None:
        mask, is_causal = added(bias[None], _and(is_causal, mask, None, query, key)), False
    return Look(is_causal, mask, angles)


def added(bias: Tensor, mask: Tensor | None) -> Tensor:
    """What is added to the scores, with −inf where the mask forbids to read."""
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)


def _and(is_causal: bool, mask: Tensor | None, allowed: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    if is_causal:
        mask = (key <= query)[None, None]
    if mask is None or allowed is None:
        return mask if allowed is None else allowed
    return mask & allowed

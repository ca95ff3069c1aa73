"""Multi-head attention, grouped heads included: fused while nobody looks, step by step while a probe is open."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llm_lab.models.layers import FusedLinear
from llm_lab.models.options import ModelConfig
from llm_lab.models.positions import rotate
from llm_lab.models.sites import site, watched


@runtime_checkable
class Cache(Protocol):
    """Keys and values of what was read before; `decoding.cache` has the real one."""

    length: int  # positions held

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H_kv, T, d) and return all that is held, the new ones last."""


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v (Vaswani et al. 2017, §3.2.1)."""

    def __init__(self, config: ModelConfig, layer: int, path: str) -> None:
        super().__init__()
        self.layer, self.path = layer, path
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.kv_heads, config.head_dim
        self.scale = 1 / math.sqrt(self.d_head)
        self.eps = config.norm_eps
        self.qk_norm = config.qk_norm
        self.dropout = config.dropout
        sizes = [self.n_head * self.d_head, self.n_kv_head * self.d_head, self.n_kv_head * self.d_head]
        self.qkv = FusedLinear(config.d_model, sizes, bias=config.bias)
        self.out = nn.Linear(self.n_head * self.d_head, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        is_causal: bool,
        mask: Bool[Tensor, "b 1 T S"] | None,
        angles: tuple[Tensor, Tensor] | None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        B, T, _ = x.shape
        q, k, v = (
            part.view(B, T, -1, self.d_head).transpose(1, 2) for part in self.qkv(x).split(self.qkv.splits, dim=-1)
        )
        if self.qk_norm:  # without gains (Henry et al. 2020; Dehghani et al. 2023)
            q, k = F.rms_norm(q, (self.d_head,), eps=self.eps), F.rms_norm(k, (self.d_head,), eps=self.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        q, k, v = site(q, f"{self.path}.q"), site(k, f"{self.path}.k"), site(v, f"{self.path}.v")
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        attend = self._explicit if watched() else self._fused
        z = site(attend(q, k, v, is_causal, mask, dropout), f"{self.path}.z")
        out = self.out(z.transpose(1, 2).reshape(B, T, -1))
        if dropout:
            out = F.dropout(out, dropout)
        return site(out, f"{self.path}.out")

    def _fused(
        self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool, mask: Tensor | None, dropout: float
    ) -> Float[Tensor, "B H T d"]:
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal, scale=self.scale, enable_gqa=self.n_kv_head != self.n_head
        )

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, is_causal: bool, mask: Tensor | None, dropout: float
    ) -> Float[Tensor, "B H T d"]:
        repeat = self.n_head // self.n_kv_head
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        scores = q @ k.transpose(-1, -2) * self.scale
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        pattern = site(site(scores, f"{self.path}.scores").softmax(dim=-1), f"{self.path}.pattern")
        return F.dropout(pattern, dropout) @ v if dropout else pattern @ v

"""Multi-head attention, grouped heads included: fused while nobody looks, step by step while a probe is open."""

from __future__ import annotations

import contextlib
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.models.dropout import dropout
from llm_lab.models.layers import FusedLinear, IntoStream, RMSNorm, mixed
from llm_lab.models.look import Look
from llm_lab.models.options import ModelConfig
from llm_lab.models.positions import rotate
from llm_lab.models.sites import site, watched


@runtime_checkable
class Cache(Protocol):
    """Keys and values of what was read before; `decoding.cache` has the real one."""

    length: int  # positions held
    crossed: dict[int, tuple[Tensor, Tensor]]  # by layer, those of the encoder's output

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H_kv, T, d) and return all that is held, the new ones last."""


class Heads(nn.Module):
    """softmax(q kᵀ / √d) v by heads (Vaswani et al. 2017, §3.2.1): what self- and cross-attention have in common."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.kv_heads, config.head_dim
        self.scale = config.score_scale
        self.dropout, self.weights_dropout = config.dropout, config.weights_dropout
        self.out = IntoStream(self.n_head * self.d_head, config.d_model, bias=config.bias)

    def split(self, x: Float[Tensor, "B T HD"]) -> Float[Tensor, "B H T d"]:
        return x.view(*x.shape[:2], -1, self.d_head).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, look: Look, path: str) -> Float[Tensor, "B T D"]:
        """From queries, keys and values to what is added to the stream."""
        lost = self.weights_dropout if self.training else 0.0
        if look.layout is not None:
            z = look.layout.attend(q, k, v, self.scale, look.keep, look.bias, lost)
        else:
            z = (self._explicit if watched() else self._fused)(q, k, v, look, lost, path)
        z = site(z, f"{path}.z")
        out = self.out(z.transpose(1, 2).flatten(2))
        if self.training:
            out = dropout(out, self.dropout)
        return site(out, f"{path}.out")

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, look: Look, lost: float, path: str) -> Float[Tensor, "B H T d"]:
        mask = look.mask
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
        with torch.autocast("cpu", enabled=False) if mixed(q) else contextlib.nullcontext():
            return F.scaled_dot_product_attention(
                q, k, v, mask, lost, look.is_causal, scale=self.scale, enable_gqa=self.n_kv_head != self.n_head
            )

    def _explicit(
        self, q: Tensor, k: Tensor, v: Tensor, look: Look, lost: float, path: str
    ) -> Float[Tensor, "B H T d"]:
        repeat = self.n_head // self.n_kv_head
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        scores = q @ k.transpose(-1, -2) * self.scale
        mask = look.mask
        if look.is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        pattern = site(site(scores, f"{path}.scores").softmax(dim=-1), f"{path}.pattern")
        return dropout(pattern, lost) @ v


def _full(x: Tensor) -> Tensor:
    """In mixed precision on a CPU, what attention works on is float32 again: there the backward pass of the fused kernel
    takes three times as long in bfloat16 (measured with AVX-512), which is more than the products gain."""
    return x.float() if mixed(x) else x


class Attention(Heads):
    """Self-attention: the positions of one sequence read each other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = [self.n_head * self.d_head, self.n_kv_head * self.d_head, self.n_kv_head * self.d_head]
        self.qkv = FusedLinear(config.d_model, sizes, bias=config.bias)
        # Without gains: Henry et al. 2020; Dehghani et al. 2023.
        self.q_norm, self.k_norm = (
            RMSNorm(config, self.d_head, gain=config.qk_gain) if config.qk_norm else None for _ in range(2)
        )

    def query_weight(self) -> Float[Tensor, "HD D"]:
        """The rows that make queries."""
        return self.qkv.weight[: self.qkv.splits[0]]

    def forward(
        self, x: Float[Tensor, "B T D"], look: Look, path: str, layer: int = 0, cache: Cache | None = None
    ) -> Float[Tensor, "B T D"]:
        sizes = self.n_head, self.n_kv_head
        # Queries and keys are normalised and turned as one: half as many operations, which is what a short text costs.
        qk, v = self.split(_full(self.qkv(x))).split([sum(sizes), self.n_kv_head], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            alike = self.q_norm.weight is None
            qk = (
                self.q_norm(qk)
                if alike
                else torch.cat(
                    [n(p) for n, p in zip((self.q_norm, self.k_norm), qk.split(sizes, dim=1), strict=True)], dim=1
                )
            )
        if look.angles is not None:
            qk = rotate(qk, look.angles)
        q, k = qk.split(sizes, dim=1)
        q, k, v = site(q, f"{path}.q"), site(k, f"{path}.k"), site(v, f"{path}.v")
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        return self.attend(q, k, v, look, path)


class CrossAttention(Heads):
    """Each position of the decoder reads the encoder's output (Vaswani et al. 2017, §3.2.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.d_model, self.n_head * self.d_head, bias=config.bias)
        self.kv = FusedLinear(config.d_model, [self.n_kv_head * self.d_head] * 2, bias=config.bias)

    def query_weight(self) -> Float[Tensor, "HD D"]:
        """The rows that make queries."""
        return self.q.weight

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "M S D"],
        look: Look,
        path: str,
        layer: int = 0,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        q = site(self.split(_full(self.q(x))), f"{path}.q")
        if cache is not None and layer in cache.crossed:
            k, v = cache.crossed[layer]
        else:
            parts = _full(self.kv(memory)).split(self.kv.splits, dim=-1)
            k, v = (self.split(part).expand(len(x), -1, -1, -1) for part in parts)
            if cache is not None:
                cache.crossed[layer] = k, v
        k, v = site(k, f"{path}.k"), site(v, f"{path}.v")
        return self.attend(q, k, v, look, path)

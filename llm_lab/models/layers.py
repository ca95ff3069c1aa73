"""Norms, MLPs and the fused projection: the small parts of a block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.models.dropout import dropout
from llm_lab.models.options import ModelConfig
from llm_lab.models.products import product
from llm_lab.models.sites import site


class RMSNorm(nn.RMSNorm):
    """Root mean square normalisation with a gain (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, config: ModelConfig, width: int | None = None, gain: bool = True) -> None:
        super().__init__(width or config.d_model, eps=config.norm_eps, elementwise_affine=gain)

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        # Of mixed kinds there is no fused kernel on a GPU.
        return super().forward(x if self.weight is None else x.to(self.weight.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016)."""

    def __init__(self, config: ModelConfig, width: int | None = None) -> None:
        super().__init__(width or config.d_model, eps=config.norm_eps, bias=config.bias)


class Projection(nn.Linear):
    """A linear map, fast also for the few rows of a text that is written."""

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        return product(x, self.weight, self.bias)


class FusedLinear(Projection):
    """Several maps of one input as one product. `weight.splits` tells optimisers where one map ends."""

    def __init__(self, d_in: int, d_outs: Sequence[int], bias: bool) -> None:
        super().__init__(d_in, sum(d_outs), bias=bias)
        self.splits = tuple(d_outs)


class IntoStream(Projection):
    """A projection whose output is added to the residual stream: it starts small, or at zero."""


class MLP(nn.Module):
    """Widen, bend, narrow. A kind of MLP says how to bend, and whether a gate is multiplied in."""

    gated = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.ff_width
        self.up = FusedLinear(config.d_model, [width] * (2 if self.gated else 1), bias=config.bias)
        self.down = IntoStream(width, config.d_model, bias=config.bias)
        self.dropout = config.dropout

    def bend(self, pre: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "B T D"], path: str) -> Float[Tensor, "B T D"]:
        if self.gated:
            gate, up = self.up(x).chunk(2, dim=-1)
            post = self.bend(site(gate, f"{path}.pre")) * up
        else:
            post = self.bend(site(self.up(x), f"{path}.pre"))
        out = self.down(site(post, f"{path}.post"))
        if self.training:
            out = dropout(out, self.dropout)
        return site(out, f"{path}.out")


class ReLU2(MLP):
    """relu(x)² (So et al. 2021, Primer)."""

    def bend(self, pre: Tensor) -> Tensor:
        return F.relu(pre).square()


class ReLU(MLP):
    """max(0, x)."""

    def bend(self, pre: Tensor) -> Tensor:
        return F.relu(pre)


class GELU(MLP):
    """GELU in the tanh form that GPT-2 uses (Hendrycks & Gimpel 2016)."""

    def bend(self, pre: Tensor) -> Tensor:
        return F.gelu(pre, approximate="tanh")


class GELUErf(MLP):
    """GELU by the error function, as BERT (Hendrycks & Gimpel 2016)."""

    def bend(self, pre: Tensor) -> Tensor:
        return F.gelu(pre)


class GeGLU(MLP):
    """gelu(gate) · up, in the tanh form of T5 1.1 (Shazeer 2020)."""

    gated = True

    def bend(self, pre: Tensor) -> Tensor:
        return F.gelu(pre, approximate="tanh")


class SwiGLU(MLP):
    """silu(gate) · up (Shazeer 2020)."""

    gated = True

    def bend(self, pre: Tensor) -> Tensor:
        return F.silu(pre)


def mixed(x: Tensor) -> bool:
    """Whether the products around it are to be made in bfloat16, on a CPU."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Logits bent smoothly into (−cap, cap) (Gemma 2, §2)."""
    return cap * (logits / cap).tanh() if cap else logits


def init_std(config: ModelConfig) -> float:
    """Spread of the projections' first weights: 1/√d_model for the modern stack, GPT-2's 0.02 where biases are on."""
    return 0.02 if config.bias else 1 / math.sqrt(config.d_model)


def gelu_of(mlp: str) -> nn.GELU:
    """GELU in the form that the MLPs of that kind use: tanh's where theirs is, else the exact one."""
    return nn.GELU("tanh" if mlp in ("gelu", "geglu") else "none")

"""A convolutional language model: every position sees a fixed stretch of what is before it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llm_lab.baselines.base import Neural, numbers, part
from llm_lab.models.options import ModelConfig
from llm_lab.results import ModelPart


class Conv(Neural):
    """Causal convolutions with a gate, (X∗W + b) ⊗ σ(X∗V + c) (Dauphin et al. 2017, eq. 1), each added to the stream that
    it reads, after a norm. Their taps stand 1, 2, 4, … positions apart, beginning anew where a layer alone would reach
    past the context (van den Oord et al. 2016, §2.1). A position sees `reach(config)` tokens, itself included."""

    def layer(self, i: int) -> nn.Module:
        return GatedConv(self.config, dilations(self.config)[i])

    def layer_part(self, tokens: int) -> ModelPart:
        c = self.config
        sees = min(reach(c), c.max_seq_len)
        detail = f"gated, kernel {c.kernel}, dilation {_listed(dilations(c))}; sees {sees:,} token{'s' * (sees > 1)}"
        # Kept: the input, both halves of the gate, and their product.
        spent = 4 * c.d_model * c.d_model * c.kernel
        return part(
            "convolution", "convolution", detail, numbers(self.layers[0]), spent, 4 * c.d_model, tokens, c.n_layer
        )


class GatedConv(nn.Module):
    """One convolution whose output has a gate, padded at the left so that nobody sees what comes later."""

    def __init__(self, config: ModelConfig, dilation: int) -> None:
        super().__init__()
        d = config.d_model
        self.conv = nn.Conv1d(d, 2 * d, config.kernel, dilation=dilation, bias=config.bias)
        self.padding = (config.kernel - 1) * dilation

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return F.glu(self.conv(F.pad(x.mT, (self.padding, 0))), dim=1).mT


def dilations(config: ModelConfig) -> list[int]:
    """How far apart each layer's taps stand."""
    cycle = max(1, (config.max_seq_len - 1).bit_length())  # 2 ** cycle is the context, or more
    return [2 ** (i % cycle) for i in range(config.n_layer)]


def reach(config: ModelConfig) -> int:
    """The receptive field: how many tokens a position sees, itself included."""
    return 1 + (config.kernel - 1) * sum(dilations(config))


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) if len(steps) < 7 else f"1, 2, … {max(steps)}"

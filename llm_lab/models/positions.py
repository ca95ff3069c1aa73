"""How a token knows its place: each kind may add to the embeddings, or turn q and k, or neither."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.models.options import ModelConfig


class Position(nn.Module):
    """A kind of position that does nothing; kinds override one of the two."""

    def embed(self, x: Float[Tensor, "B T D"], ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        """The embeddings with their positions in them."""
        return x

    def angles(self, ids: Int[Tensor, "b T"]) -> tuple[Tensor, Tensor] | None:
        """cos and sin, (b, 1, T, d_head / 2), by which q and k are to be turned."""
        return None


class Learned(Position):
    """One learned vector for each position, added to the token's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.max_seq_len, config.d_model)

    def embed(self, x: Float[Tensor, "B T D"], ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        return x + self.table(ids)


class Rotary(Position):
    """Rotary positions (Su et al. 2021, §3.2), in the half-split layout: element i is paired with i + d/2."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = config.head_dim // 2
        frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(config.max_seq_len, dtype=torch.float64), frequency)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def angles(self, ids: Int[Tensor, "b T"]) -> tuple[Tensor, Tensor]:
        return self.cos[ids][:, None], self.sin[ids][:, None]


def rotate(x: Float[Tensor, "B H T d"], angles: tuple[Tensor, Tensor]) -> Float[Tensor, "B H T d"]:
    """Turn each pair (x_i, x_{i+d/2}) by its position's angle."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)

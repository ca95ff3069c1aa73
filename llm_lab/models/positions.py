"""How a token knows its place: each kind may add to the embeddings, turn q and k, or add to the scores, or none of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.models.options import ModelConfig


class Position(nn.Module):
    """A kind of position that does nothing; kinds override one of the three."""

    one_way = False  # nothing later than itself is ever read
    biased = False  # whether it adds to the scores

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def embed(self, x: Float[Tensor, "B T E"], ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T E"]:
        """The embeddings with their positions in them."""
        return x

    def angles(self, ids: Int[Tensor, "b T"]) -> tuple[Tensor, Tensor] | None:
        """cos and sin, (b, 1, T, d_head / 2), by which q and k are to be turned."""
        return None

    def bias(self, query: Int[Tensor, "*n q 1"], key: Int[Tensor, "*n 1 k"]) -> Float[Tensor, "H *n q k"] | None:
        """What is added to the scores of query positions for key positions, by head."""
        return None


class Learned(Position):
    """One learned vector for each position, added to the token's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.table = nn.Embedding(config.max_seq_len, config.embed_width)

    def embed(self, x: Float[Tensor, "B T E"], ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T E"]:
        return x + self.table(ids)


class Sinusoidal(Position):
    """sin and cos of geometric wavelengths, added to the embeddings (Vaswani et al. 2017, §3.5)."""

    waves: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.embed_width
        cos, sin = _waves(config.max_seq_len, [10000.0 ** (-i / width) for i in range(0, width, 2)])
        waves = torch.stack([sin, cos], dim=-1).flatten(1)  # in turn
        self.register_buffer("waves", waves, persistent=False)

    def embed(self, x: Float[Tensor, "B T E"], ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T E"]:
        return x + self.waves[ids]


class Rotary(Position):
    """Rotary positions (Su et al. 2021, §3.2), in the half-split layout: element i is paired with i + d/2."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half = config.head_dim // 2
        cos, sin = _waves(config.max_seq_len, [config.rope_theta ** (-i / half) for i in range(half)])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def angles(self, ids: Int[Tensor, "b T"]) -> tuple[Tensor, Tensor]:
        return self.cos[ids][:, None], self.sin[ids][:, None]


def _waves(length: int, frequencies: list[float]) -> tuple[Float[Tensor, "T F"], Float[Tensor, "T F"]]:
    """Cosine and sine of position × frequency, reckoned in float64. Of a model without weights they have no values: for a
    product on its device torch would import a compiler, a second long."""
    if torch.get_default_device().type == "meta":
        return torch.empty(length, len(frequencies)), torch.empty(length, len(frequencies))
    angle = torch.outer(torch.arange(length, dtype=torch.float64), torch.tensor(frequencies, dtype=torch.float64))
    return angle.cos().float(), angle.sin().float()


class ALiBi(Position):
    """Scores fall linearly with distance, each head at its own slope (Press et al. 2022, §3); both ways alike."""

    biased = True
    slopes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("slopes", torch.tensor(_slopes(config.n_head)), persistent=False)

    def bias(self, query: Int[Tensor, "*n q 1"], key: Int[Tensor, "*n 1 k"]) -> Float[Tensor, "H *n q k"]:
        distance = (query - key).abs()
        return -self.slopes.view(-1, *[1] * distance.ndim) * distance


class T5Relative(Position):
    """A learned bias for each head and each range of distance: near ones singly, far ones by powers (Raffel et al.
    2020, §2.1). Half of the ranges are for what comes later, unless nothing later is ever read."""

    biased = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.buckets, self.farthest = config.rel_buckets, config.rel_distance
        self.table = nn.Embedding(config.rel_buckets, config.n_head)

    def bucket(self, ahead: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The range that a key lies in that stands `ahead` positions after its query (negative: before it)."""
        if self.one_way:
            count, first, distance = self.buckets, torch.zeros_like(ahead), (-ahead).clamp(min=0)
        else:
            count = self.buckets // 2
            first, distance = (ahead > 0).long() * count, ahead.abs()
        exact = count // 2
        share = torch.log(distance.float().clamp(min=1) / exact) / math.log(self.farthest / exact)
        far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(distance < exact, distance, far)

    def bias(self, query: Int[Tensor, "*n q 1"], key: Int[Tensor, "*n 1 k"]) -> Float[Tensor, "H *n q k"]:
        return self.table(self.bucket(key - query)).movedim(-1, 0)


def _slopes(n_head: int) -> list[float]:
    """2^(−8 i / n) for n a power of two; else those of the power below, and every other one of the power above."""
    power = 2 ** math.floor(math.log2(n_head))
    found = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return found + [2 ** (-4 * (2 * i + 1) / power) for i in range(n_head - power)]


def rotate(x: Float[Tensor, "B H T d"], angles: tuple[Tensor, Tensor]) -> Float[Tensor, "B H T d"]:
    """Turn each pair (x_i, x_{i+d/2}) by its position's angle."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)

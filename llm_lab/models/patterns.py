"""Which positions a layer may read at all, as rules on position numbers; causality and padding are the batch's affair."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from llm_lab.models.options import ModelConfig

Rule = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the keys that a pattern allows, and which queries share most of them and so are computed together."""

    allowed: Rule
    stride: int = 1  # queries of the same residue modulo `stride` share their keys
    first: int = 0  # so many first positions read what others do not, and are computed on their own


class Pattern:
    """A rule of who may read whom. Two of one kind and the same sizes are equal, so that what is worked out from one
    is found again for the other."""

    sizes: ClassVar[tuple[str, ...]] = ()  # the fields of the config that the rule depends on
    relative: ClassVar[bool] = True  # the rule goes by distances alone: shifting all positions changes nothing

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._key = (type(self), *(getattr(config, name) for name in ("sparse_block", *self.sizes)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        """Elementwise, where the query position may read the key position; queries (…, q, 1) and keys (…, 1, k) give
        (…, q, k)."""
        raise NotImplementedError

    def covers(self, n: int) -> bool:
        """Whether all of `n` positions may read each other."""
        return False

    def parts(self) -> list[Part]:
        """The rule as rules that never allow the same pair, each with its own grouping of the queries."""
        return [Part(self.allowed)]


class Full(Pattern):
    """Every position reads every other."""

    def covers(self, n: int) -> bool:
        return True

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        return torch.ones_like(query - key, dtype=torch.bool)


class Window(Pattern):
    """The positions less than `window` away, itself included (Mistral 7B, §2; Beltagy et al. 2020, §3.1)."""

    sizes: ClassVar[tuple[str, ...]] = ("window",)

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        return (query - key).abs() < self.config.window

    def covers(self, n: int) -> bool:
        return n <= self.config.window


class Dilated(Pattern):
    """A window with gaps: every `stride`-th position, `window` of them to each side (Beltagy et al. 2020, §3.1)."""

    sizes: ClassVar[tuple[str, ...]] = ("window", "stride")

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        distance = (query - key).abs()
        return (distance % self.config.stride == 0) & (distance < self.config.window * self.config.stride)

    def parts(self) -> list[Part]:
        return [Part(self.allowed, stride=self.config.stride)]


class Strided(Pattern):
    """The positions less than `stride` away, and every `stride`-th one (Child et al. 2019, §4.2)."""

    sizes: ClassVar[tuple[str, ...]] = ("stride",)

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        return self._near(query, key) | self._far(query, key)

    def _near(self, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() < self.config.stride

    def _far(self, query: Tensor, key: Tensor) -> Tensor:
        distance = (query - key).abs()
        return (distance % self.config.stride == 0) & (distance >= self.config.stride)

    def parts(self) -> list[Part]:
        return [Part(self._near), Part(self._far, stride=self.config.stride)]


class Longformer(Window):
    """A window, and `n_global` first positions that read all and are read by all (Beltagy et al. 2020, §3.1). Their
    queries and keys come from the same projections as the others'."""

    sizes: ClassVar[tuple[str, ...]] = ("window", "n_global")
    relative: ClassVar[bool] = False

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        n = self.config.n_global
        return super().allowed(query, key) | (query < n) | (key < n)

    def parts(self) -> list[Part]:
        return [Part(self.allowed, first=self.config.n_global)]


class BigBird(Longformer):
    """As Longformer, and each block of `sparse_block` positions reads `n_random` other blocks (Zaheer et al. 2020, §2).

    The blocks are drawn once for all positions of the context, whatever the length of a text: so a cache, padding and
    a longer text change nothing. Those past the end of the text, or in a causal batch after the query, go unread.
    """

    sizes: ClassVar[tuple[str, ...]] = ("window", "n_global", "n_random", "max_seq_len")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._drawn: dict[torch.device, Tensor] = {}  # made when first asked for: a description alone takes no memory

    def allowed(self, query: Int[Tensor, "*q"], key: Int[Tensor, "*k"]) -> Bool[Tensor, "*n"]:
        block = self.config.sparse_block
        return super().allowed(query, key) | self._blocks(query.device)[query // block, key // block]

    def _blocks(self, device: torch.device) -> Bool[Tensor, "n n"]:
        if device not in self._drawn:
            n = -(-self.config.max_seq_len // self.config.sparse_block)
            self._drawn[device] = _random_blocks(n, self.config).to(device)
        return self._drawn[device]


def _random_blocks(n: int, config: ModelConfig) -> Bool[Tensor, "n n"]:
    """For each block of queries, the blocks of keys that were drawn: by Python's generator, which is the same in all
    versions and on all machines."""
    drawn = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        draw, found = random.Random(i), set[int]()
        while len(found) < min(config.n_random, n - 1):
            found |= {int(draw.random() * n)} - {i}
        drawn[i, sorted(found)] = True
    return drawn

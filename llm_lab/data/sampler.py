"""Which pieces of the text make a batch: a pure function of (seed, step), so that resuming needs one integer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llm_lab.data.arrays import Tokens
from llm_lab.errors import BadValue

HELD = 1 << 22  # places of an order that are held in memory; of a longer one, each is computed when it is asked for


class BlockSampler:
    """Blocks of `size` tokens that begin `step` apart, in an order shuffled anew each epoch; none twice before it ends.

    Each epoch cuts the text at another offset, so that no boundary is always the same, unless `shift` is off.
    """

    def __init__(self, tokens: Tokens, size: int, step: int, seed: int, shift: bool = True) -> None:
        self.ids, self.size, self.step, self.seed, self.shift = tokens.ids, size, step, seed, shift
        self.n_blocks = (len(tokens.ids) - size) // step + 1
        if self.n_blocks < 1:
            raise BadValue(
                f"the corpus is shorter than one block: {len(tokens.ids)} training tokens, and the context takes "
                f"{size}; use more text, or a shorter context such as --max_seq_len {max(1, (len(tokens.ids) - 1) // 2)}"
            )
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> tuple[int, np.ndarray | Scattered]:
        rng = np.random.default_rng((self.seed, epoch))
        slack = len(self.ids) - self.size - (self.n_blocks - 1) * self.step
        offset = int(rng.integers(0, slack + 1))
        return offset if self.shift else 0, shuffled(rng, self.n_blocks)

    def examples(self, first: int, count: int) -> list[np.ndarray]:
        """Examples number `first` to `first + count` of the endless stream, each (size,) of ids."""
        found = []
        for index in range(first, first + count):
            offset, order = self._epoch(index // self.n_blocks)
            start = offset + int(order[index % self.n_blocks]) * self.step
            found.append(np.asarray(self.ids[start : start + self.size]))
        return found


class DocumentSampler:
    """Whole documents, one an example, in an order shuffled anew each epoch."""

    def __init__(self, tokens: Tokens, seed: int) -> None:
        self.tokens, self.seed = tokens, seed
        self._epoch = lru_cache(maxsize=2)(
            lambda epoch: shuffled(np.random.default_rng((seed, epoch)), tokens.n_documents)
        )

    def examples(self, first: int, count: int) -> list[np.ndarray]:
        """Examples number `first` to `first + count` of the endless stream, each the ids of one document."""
        n = self.tokens.n_documents
        return [self.tokens.document(int(self._epoch(i // n)[i % n])) for i in range(first, first + count)]


class Scattered:
    """A random order of `range(n)` that takes no memory: a Feistel network over the next even number of bits, walked until
    it comes to a number below n (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", §3 and §5)."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.n, self.half = n, (n.bit_length() + 1) // 2
        self.keys = [int(key) for key in rng.integers(0, 1 << 62, 6)]

    def __getitem__(self, i: int) -> int:
        mask = (1 << self.half) - 1
        while True:
            left, right = i >> self.half, i & mask
            for key in self.keys:
                # a multiplication's middle bits depend on all of the number below them
                left, right = right, left ^ ((((right ^ key) * 0x9E3779B97F4A7C15) >> 32) & mask)
            i = left << self.half | right
            if i < self.n:
                return i


def shuffled(rng: np.random.Generator, n: int) -> np.ndarray | Scattered:
    """A random order of `range(n)`."""
    return rng.permutation(n) if n <= HELD else Scattered(rng, n)


def blocks(tokens: Tokens, size: int, step: int, limit: int | None = None) -> list[np.ndarray]:
    """The text in order, in blocks of up to `size` tokens that begin `step` apart; at most about `limit` tokens of it.
    Where blocks overlap by one token, each but the first is predicted once."""
    overlap = size - step
    stop = min(len(tokens.ids) - overlap, limit or len(tokens.ids))
    return [np.asarray(tokens.ids[i : min(i + size, stop + overlap)]) for i in range(0, stop, step)]


def documents(tokens: Tokens, limit: int | None = None) -> list[np.ndarray]:
    """The documents in order, at most about `limit` tokens of them and at least one."""
    count = int(np.searchsorted(tokens.offsets, limit, side="right")) - 1 if limit else tokens.n_documents
    return [tokens.document(i) for i in range(max(1, min(count, tokens.n_documents)))]

"""Which pieces of the text make a batch: a pure function of (seed, step), so that resuming needs one integer."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llm_lab.data.arrays import Tokens
from llm_lab.errors import BadValue


class BlockSampler:
    """Blocks of `length + 1` tokens, in an order shuffled anew each epoch; no token twice before the epoch ends.

    Each epoch cuts the text at another offset, so that no boundary is always the same.
    """

    def __init__(self, tokens: Tokens, length: int, seed: int) -> None:
        self.ids, self.length, self.seed = tokens.ids, length, seed
        self.n_blocks = (len(tokens.ids) - 1) // length
        if self.n_blocks < 1:
            raise BadValue(
                f"the corpus is shorter than one block: {len(tokens.ids)} training tokens, and the context takes "
                f"{length + 1}; use more text, or a shorter context such as --max_seq_len {max(1, (len(tokens.ids) - 1) // 2)}"
            )
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> tuple[int, np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        slack = len(self.ids) - 1 - self.n_blocks * self.length
        return int(rng.integers(0, slack + 1)), rng.permutation(self.n_blocks)

    def examples(self, first: int, count: int) -> list[np.ndarray]:
        """Examples number `first` to `first + count` of the endless stream, each (length + 1,) of ids."""
        found = []
        for index in range(first, first + count):
            offset, order = self._epoch(index // self.n_blocks)
            start = offset + int(order[index % self.n_blocks]) * self.length
            found.append(np.asarray(self.ids[start : start + self.length + 1]))
        return found


def blocks(tokens: Tokens, length: int, limit: int | None = None) -> list[np.ndarray]:
    """The text in order, in blocks of up to `length + 1` that overlap by one token, so that every token but the first
    is predicted once; at most about `limit` tokens of it."""
    stop = min(len(tokens.ids) - 1, limit or len(tokens.ids))
    return [np.asarray(tokens.ids[i : min(i + length, stop) + 1]) for i in range(0, stop, length)]

"""What tokens write, as bytes: which of them would complete a text, and whether a row holds one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor


class Spelling:
    """The bytes of each token; reserved tokens write none."""

    def __init__(self, spelled: Sequence[bytes]) -> None:
        self.spelled = list(spelled)
        self.completing_from = lru_cache(maxsize=4096)(self._completing_from)

    def text(self, ids: Sequence[int]) -> bytes:
        return b"".join([self.spelled[i] for i in ids])

    def end(self, ids: Sequence[int], size: int) -> bytes:
        """The last `size` bytes, or a few more, of what `ids` write."""
        parts: list[bytes] = []
        for i in reversed(ids):
            if size <= 0:
                break
            parts.append(self.spelled[i])
            size -= len(self.spelled[i])
        return b"".join(reversed(parts))

    def completing(self, ids: Sequence[int], words: tuple[str, ...]) -> Bool[Tensor, " V"]:
        """The tokens after which one of the words stands in the text that does not end with it already."""
        targets = [word.encode() for word in words]
        end = self.end(ids, max(map(len, targets)) - 1)
        # What matters of the text is its longest end that a word begins with.
        begun = (end[i:] for i in range(len(end)) if any(target[: len(end) - i] == end[i:] for target in targets))
        return self.completing_from(next(begun, b""), words)

    def _completing_from(self, before: bytes, words: tuple[str, ...]) -> Bool[Tensor, " V"]:
        targets = [word.encode() for word in words]
        starts = [max(0, len(before) - len(target) + 1) for target in targets]  # one that is there already is no news
        return torch.tensor(
            [
                bool(token)
                and any((before + token).find(target, at) >= 0 for target, at in zip(targets, starts, strict=True))
                for token in self.spelled
            ]
        )

    def ended(self, ids: Sequence[int], words: Sequence[str]) -> bool:
        """Whether the last token of `ids` completed one of the words."""
        for word in words:
            target = word.encode()
            if target in self.end(ids, len(target) - 1 + len(self.spelled[ids[-1]])):
                return True
        return False

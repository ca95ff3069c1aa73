"""Span corruption: spans are taken out, and the model writes what was taken (T5)."""

from __future__ import annotations

import numpy as np

from llm_lab.data.batch import Batch
from llm_lab.objectives import options as opt
from llm_lab.objectives.seq2seq import SourceToTarget
from llm_lab.tokenizers.tokenizer import Tokenizer


class SpanCorruption(SourceToTarget):
    """The source has a sentinel for each span that was taken out; the target is each sentinel with its span (Raffel et
    al. 2020, §3.1.4; lengths are split at random as in its released code). There are as many spans as there are
    sentinels at most: beyond that, spans get longer, and the card notes it.
    """

    parts = ("span_corruption",)
    target = "target token"
    options: opt.SpanCorruption

    def __init__(self, options: opt.SpanCorruption, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.sentinels, self.end = tokenizer.sentinels, self.special("eos")
        if not self.sentinels:
            self.special("extra_0")

    def counts(self, length: int) -> tuple[int, int]:
        """(tokens to take out, spans) of a piece of text."""
        noise = min(max(round(length * self.options.mask_rate), 1), max(1, length - 1))
        return noise, min(self._wanted(noise), noise, max(1, length - noise), len(self.sentinels))

    def _wanted(self, noise: int) -> int:
        return max(1, round(noise / self.options.mean_span))

    def take(self, block: int) -> tuple[int, int]:
        """The longest piece whose source, and whose target (or both, on one stack), fit the context."""
        self.need(block, 3 if self.two_stacks else 6)
        length = 2
        for size in range(2, 2 * block):
            noise, spans = self.counts(size)
            source, target = size - noise + spans + 1, noise + spans + 1
            if (max(source, target) if self.two_stacks else source + target) > block:
                break
            length = size
        return length, length

    def notes(self, block: int) -> list[str]:
        if not self._crowded(block):
            return []
        length, _ = self.take(block)
        noise, spans = self.counts(length)
        shorter = block // 2
        while shorter > 6 and self._crowded(shorter):
            shorter //= 2
        return [
            f"hidden spans are {noise / spans:.1f} tokens long on average and not {self.options.mean_span:g}: {noise} of {length} tokens are hidden, and each span needs one of the {len(self.sentinels)} sentinels; --max_seq_len {shorter} keeps them at {self.options.mean_span:g}"
        ]

    def _crowded(self, block: int) -> bool:
        """Whether there are fewer sentinels than spans that were asked for."""
        return self._wanted(self.counts(self.take(block)[0])[0]) > len(self.sentinels)

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        sources, targets = zip(*(self.corrupt(example, rng) for example in examples), strict=True)
        return self.batch(list(sources), list(targets))

    def corrupt(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) of one piece: kept and taken spans in turn, the first kept."""
        noise, spans = self.counts(len(ids))
        lengths = np.empty(2 * spans, np.int64)
        lengths[0::2], lengths[1::2] = _split(max(len(ids) - noise, 0), spans, rng), _split(noise, spans, rng)
        pieces = np.split(ids, np.cumsum(lengths)[:-1])
        source: list[np.ndarray] = []
        target: list[np.ndarray] = []
        for sentinel, before, taken in zip(self.sentinels, pieces[0::2], pieces[1::2], strict=False):
            source += [before, np.array([sentinel])]
            target += [np.array([sentinel]), taken]
        end = np.array([self.end])
        return np.concatenate([*source, end]).astype(np.int64), np.concatenate([*target, end]).astype(np.int64)


def _split(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `parts` numbers of at least 1, each such sum equally likely."""
    if total < parts:
        return np.bincount(np.arange(total) % parts, minlength=parts)
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.empty(0, np.int64)
    return np.diff(np.concatenate([[0], cuts, [total]]))

"""Masked language modelling: hidden tokens are predicted from both sides."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.objectives import options as opt
from llm_lab.objectives.objective import Objective, kept, rectangle
from llm_lab.tokenizers.tokenizer import Tokenizer


class Masking:
    """Which tokens are hidden, and what stands in their place (Devlin et al. 2019, §3.1): of the hidden ones 80 % become
    `<mask>`, 10 % a random token, 10 % stay. Reserved tokens are never hidden."""

    def __init__(self, options: opt.MaskedLM, tokenizer: Tokenizer) -> None:
        self.options, self.tokenizer = options, tokenizer
        self.mask, self.texts = tokenizer.special("mask"), tokenizer.text_ids
        self._special = np.isin(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(what the model reads, its targets) for one row of ids."""
        if self.options.masking == "static":  # a piece of text is masked in one way, whenever it is read
            rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(ids, np.int64).tobytes()))
        hidden = self.choose(ids, rng)
        seen, targets = ids.astype(np.int64), np.full(len(ids), IGNORE, np.int64)
        targets[hidden] = seen[hidden]
        fate = rng.random(len(hidden))
        masked, random = self.options.mask_share, self.options.random_share
        seen[hidden[fate < masked]] = self.mask
        changed = hidden[(fate >= masked) & (fate < masked + random)]
        seen[changed] = rng.choice(self.texts, len(changed))
        return seen, targets

    def choose(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The positions to hide: a `mask_rate` of the text (at least one), as tokens, whole words or spans."""
        text = np.flatnonzero(~self._special[ids])
        if not len(text):
            return text
        wanted = max(1, round(self.options.mask_rate * len(text)))
        if self.options.mask_unit == "token":
            return np.sort(rng.choice(text, wanted, replace=False))
        groups = self._words(ids, text) if self.options.mask_unit == "word" else self._spans(text, wanted, rng)
        chosen: list[np.ndarray] = []
        count = 0
        for group in rng.permutation(len(groups)) if self.options.mask_unit == "word" else range(len(groups)):
            if count + len(groups[group]) > wanted and count:
                continue  # a shorter one may still fit (as BERT's own code does)
            chosen.append(groups[group])
            count += len(groups[group])
            if count >= wanted:
                break
        return np.sort(np.concatenate(chosen))

    def _words(self, ids: np.ndarray, text: np.ndarray) -> list[np.ndarray]:
        starts = ~self.tokenizer.inside_word(ids)[text]
        starts[1:] |= np.diff(text) > 1
        starts[0] = True
        return np.split(text, np.flatnonzero(starts)[1:])

    def _spans(self, text: np.ndarray, wanted: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Spans of geometric length, at most ten tokens, that do not overlap (Joshi et al. 2020, §3.1)."""
        free = np.ones(len(text), bool)
        found: list[np.ndarray] = []
        left = wanted
        for _ in range(20 * wanted):
            if left <= 0:
                break
            length = min(int(rng.geometric(1 / self.options.mean_span)), 10, left)
            start = int(rng.integers(0, max(1, len(text) - length + 1)))
            if free[start : start + length].all():
                free[start : start + length] = False
                found.append(text[start : start + length])
                left -= length
        return found or [text[:1]]


class MaskedLM(Objective):
    """L = − mean log p(x_t | x with some hidden) over the hidden t, in nats (Devlin et al. 2019, §3.1).

    A row is `<cls>` text `<sep>`. Masks are drawn anew at each step (dynamic, Liu et al. 2019), or once for each piece.
    """

    parts: ClassVar[tuple[str, ...]] = ("mlm",)
    target = "masked token"
    options: opt.MaskedLM

    def __init__(self, options: opt.MaskedLM, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.masking = Masking(options, tokenizer)
        self.shift = options.masking == "dynamic"
        self.cls, self.sep = self.special("cls"), self.special("sep")

    def take(self, block: int) -> tuple[int, int]:
        self.need(block, 3)
        return block - 2, block - 2

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        rows = [np.concatenate([[self.cls], example, [self.sep]]) for example in examples]
        seen, targets = zip(*(self.masking(row, rng) for row in rows), strict=True)
        attend = Attend(causal=False, keep=kept(rows))
        return Batch(rectangle(list(seen), self.special("pad")), rectangle(list(targets), IGNORE), attend)

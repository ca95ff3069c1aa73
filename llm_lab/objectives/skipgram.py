"""Skip-gram with negative sampling: a word tells its neighbours from words drawn at random (word2vec)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives import options as opt
from llm_lab.objectives.objective import Objective, Parts, Trainee, rectangle, targets_of
from llm_lab.tokenizers.tokenizer import Tokenizer

POWER = 0.75  # of the counts that negatives are drawn by


class SkipGramNS(Objective):
    """L = − log σ(v′(o) · v(c)) − Σ_n log σ(− v′(n) · v(c)), in nats per pair of a centre c and a neighbour o
    (Mikolov et al. 2013b, eq. 4); a draw n that is o itself is left out, as in their program.

    Neighbours are up to `context` words to each side, how many is drawn for each centre (2013a, §3.2); before that,
    frequent words are left out of the text with probability 1 − √(`subsample` / frequency) (2013b, eq. 5). Reserved
    tokens are no words, and no pair reaches across one. The model keeps the counts.
    """

    parts = ("skipgram",)
    target = "pair"
    choices = False
    options: opt.SkipGram

    def __init__(self, options: opt.SkipGram, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.model: Any = None
        self._frequencies: np.ndarray | None = None

    def take(self, block: int) -> tuple[int, int]:
        return block, block

    def attach(self, model: LanguageModel) -> Trainee:
        self.model, self._frequencies = model, None
        return super().attach(model)

    def prepare(self, ids: np.ndarray) -> None:
        counts = np.bincount(ids, minlength=self.model.vocab_size)
        counts[sorted(self.tokenizer.special_ids)] = 0
        self.model.counts.copy_(torch.from_numpy(counts))
        self._frequencies = None
        share = self.kept(np.arange(len(counts))) if self.options.subsample else np.ones(len(counts))
        if (left := float((share * counts).sum())) < 0.01 * counts.sum():
            raise BadValue(
                f"subsample: {self.options.subsample:g} leaves about {left:,.0f} of {counts.sum():,} words, which is nothing to learn from; 1e-3 is usual for large vocabularies, 0 keeps all"
            )

    def kept(self, words: np.ndarray) -> np.ndarray:
        """With which probability each word stays in the text."""
        return np.minimum(1, np.sqrt(self.options.subsample / np.maximum(self.frequencies()[words], 1e-12)))

    def frequencies(self) -> np.ndarray:
        """(V,) each word's share of the text; all alike where none was counted."""
        if self._frequencies is None:
            counts = self.model.counts.cpu().double().numpy()
            if not counts.any():
                counts[self.tokenizer.text_ids] = 1
            self._frequencies = counts / counts.sum()
        return self._frequencies

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        """Each example's pairs as a row: the centres are `input_ids`, their neighbours `targets`."""
        lengths = [len(example) for example in examples]
        words = np.concatenate(examples).astype(np.int64)
        centres, others, rows = self.pairs_of(words, np.repeat(np.arange(len(examples)), lengths), rng)
        ends = np.cumsum(np.bincount(rows, minlength=len(examples)))[:-1]
        ids = rectangle(np.split(centres, ends), 0)
        batch = Batch(ids, rectangle(np.split(others, ends), IGNORE), Attend(causal=False))
        return replace(batch, negatives=torch.from_numpy(self.drawn((*ids.shape, self.options.negatives), rng)))

    def pairs_of(
        self, words: np.ndarray, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(centres, neighbours, rows) of a text (N,) that is in several rows, in the order of the rows."""
        special = np.isin(words, sorted(self.tokenizer.special_ids))
        piece = np.cumsum(special) + rows * (len(words) + 1)  # what a pair must have in common
        here = ~special
        if self.options.subsample:
            here &= rng.random(len(words)) < self.kept(words)
        words, rows, piece = words[here], rows[here], piece[here]
        reach = self.options.context
        far = np.concatenate([np.arange(-reach, 0), np.arange(1, reach + 1)])
        other = np.arange(len(words))[:, None] + far  # (n, 2 · reach)
        window = rng.integers(1, reach + 1, (len(words), 1))
        inside = (np.abs(far) <= window) & (other >= 0) & (other < len(words))
        other = other.clip(0, max(0, len(words) - 1))
        inside &= piece[other] == piece[:, None]
        centre = inside.nonzero()[0]
        return words[centre], words[other[inside]], rows[centre]

    def drawn(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Words drawn with probabilities proportional to count^0.75 (§2.2)."""
        steps = np.cumsum(self.frequencies() ** POWER)
        return np.searchsorted(steps, rng.random(shape) * steps[-1], side="right").clip(max=len(steps) - 1)

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        model: Any = trainee.model
        targets, negatives = targets_of(batch), batch.negatives
        assert isinstance(negatives, Tensor)
        right = model.scores(batch.input_ids, targets.clamp(min=0)[..., None])[..., 0]
        wrong = F.logsigmoid(-model.scores(batch.input_ids, negatives)) * (negatives != targets[..., None])
        counted = targets != IGNORE
        return {"skipgram": (-(F.logsigmoid(right) + wrong.sum(dim=-1)).mul(counted).sum(dim=1), counted.sum(dim=1))}

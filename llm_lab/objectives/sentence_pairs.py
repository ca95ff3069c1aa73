"""Whether two segments belong together: next-sentence and sentence-order prediction, alone or with masking."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives import options as opt
from llm_lab.objectives.mlm import Masking
from llm_lab.objectives.objective import Objective, Parts, Trainee, balance_of, kept, rectangle, row_losses, targets_of
from llm_lab.options import Options
from llm_lab.tokenizers.tokenizer import Tokenizer


class SentencePairs(Objective):
    """A row is `<cls>` A `<sep>` B `<sep>`; label 0 where B follows A in the text, 1 where it does not, half of each.

    A piece of text is cut in two, at the end of a sentence where one is near its middle. What reads the label is the
    pooled vector, or, without a pooler, the output at `<cls>`.
    """

    head: ClassVar[str]

    def __init__(self, options: Options, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.cls, self.sep = self.special("cls"), self.special("sep")
        self.masking = Masking(options, tokenizer) if isinstance(options, opt.MaskedLM) else None
        self.typed = False

    def take(self, block: int) -> tuple[int, int]:
        return max(2, block - 3), max(2, block - 3)

    def attach(self, model: LanguageModel) -> Trainee:
        trainee = super().attach(model)
        assert model.config is not None, "a model that reads both ways is one of ours"
        self.typed = model.config.n_token_type > 1
        trainee.extras[self.head] = nn.Linear(model.config.d_model, 2)
        nn.init.normal_(trainee.extras[self.head].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(trainee.extras[self.head].bias)  # type: ignore[arg-type]
        return trainee

    def pair(
        self, halves: list[tuple[np.ndarray, np.ndarray]], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Segments A and B of row i."""
        raise NotImplementedError

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        halves = [self._cut(example, rng) for example in examples]
        labels = rng.integers(0, 2, len(examples))
        rows, types = [], []
        for i, example in enumerate(examples):
            first, second = self.pair(halves, i, bool(labels[i]), rng)
            second = second[: max(1, len(example) - len(first))]
            rows.append(np.concatenate([[self.cls], first, [self.sep], second, [self.sep]]).astype(np.int64))
            types.append(np.repeat([0, 1], [len(first) + 2, len(second) + 1]))
        if self.masking is None:
            seen, targets = rows, None
        else:
            seen, hidden = (list(column) for column in zip(*(self.masking(row, rng) for row in rows), strict=True))
            targets = rectangle(hidden, IGNORE)
        return Batch(
            rectangle(seen, self.special("pad")),
            targets,
            Attend(causal=False, keep=kept(rows)),
            token_type_ids=rectangle(types, 0) if self.typed else None,
            labels=torch.from_numpy(labels),
        )

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        out = trainee.model(**batch.inputs())
        assert batch.labels is not None and out.hidden is not None
        whole = out.pooled if out.pooled is not None else out.hidden[:, 0]
        losses = F.cross_entropy(trainee.extras[self.head](whole).float(), batch.labels, reduction="none")
        found = {} if self.masking is None else {"mlm": row_losses(out.logits, targets_of(batch))}
        found[self.head] = losses, torch.ones_like(batch.labels)
        return found | balance_of(out.aux, len(batch.input_ids))

    def _cut(self, example: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n = len(example)
        if n < 2:
            return example, example
        low, high = max(1, n // 4), max(2, n - n // 4)
        ends = low + np.flatnonzero(self.tokenizer.ends_sentence(example[low - 1 : high - 1]))
        at = int(rng.choice(ends)) if len(ends) else int(rng.integers(low, high))
        return example[:at], example[at:]


class NextSentence(SentencePairs):
    """B follows A, or is from elsewhere (Devlin et al. 2019, §3.1, Task 2)."""

    parts: ClassVar[tuple[str, ...]] = ("nsp",)
    head = "nsp"
    target = "pair"
    choices = False
    least_batch = 2

    def pair(
        self, halves: list[tuple[np.ndarray, np.ndarray]], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        first, second = halves[i]
        if wrong and len(halves) > 1:
            second = halves[(i + int(rng.integers(1, len(halves)))) % len(halves)][1]
        return first, second

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        batch = super().collate(examples, rng, turn)
        if len(examples) == 1 and batch.labels is not None:  # there is no elsewhere: what follows is all there is
            batch.labels.zero_()
        return batch


class SentenceOrder(SentencePairs):
    """A and B as they stand in the text, or the other way round (Lan et al. 2020, §3.1)."""

    parts: ClassVar[tuple[str, ...]] = ("sop",)
    head = "sop"
    target = "pair"
    choices = False

    def pair(
        self, halves: list[tuple[np.ndarray, np.ndarray]], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return halves[i][::-1] if wrong else halves[i]


class MaskedNextSentence(NextSentence):
    """BERT's own: masked tokens and the next sentence, summed (Devlin et al. 2019, §A.2)."""

    parts = ("mlm", "nsp")
    target = "masked token"
    choices = True


class MaskedSentenceOrder(SentenceOrder):
    """ALBERT's own: masked tokens and the order of sentences, summed (Lan et al. 2020, §3.1)."""

    parts = ("mlm", "sop")
    target = "masked token"
    choices = True

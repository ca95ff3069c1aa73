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

Segment = tuple[int, int, int]  # the number of an example, and where in it the segment begins and ends


class SentencePairs(Objective):
    """A row is `<cls>` A `<sep>` B `<sep>`; label 0 where B follows A in the text, 1 where it does not, half of each.

    A and B are whole sentences, where a piece of text holds enough of them: what stands before the first and after the
    last is left out, for a segment that begins or ends within a sentence would tell how it was cut. A piece that holds
    too few is cut anywhere, whatever the label. What reads the label is the pooled vector, or, without a pooler, the
    output at `<cls>`.
    """

    head: ClassVar[str]

    def __init__(self, options: Options, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.cls, self.sep = self.special("cls"), self.special("sep")
        self.masking = Masking(options, tokenizer) if isinstance(options, opt.MaskedLM) else None
        self.static = isinstance(options, opt.MaskedLM) and options.masking == "static"
        self.shift = not self.static
        self.typed = False

    def take(self, block: int) -> tuple[int, int]:
        self.need(block, 5)
        return block - 3, block - 3

    def attach(self, model: LanguageModel) -> Trainee:
        trainee = super().attach(model)
        assert model.config is not None, "a model that reads both ways is one of ours"
        self.typed = model.config.n_token_type > 1
        trainee.extras[self.head] = nn.Linear(model.config.d_model, 2)
        nn.init.normal_(trainee.extras[self.head].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(trainee.extras[self.head].bias)  # type: ignore[arg-type]
        return trainee

    def pair(
        self, examples: list[np.ndarray], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[Segment, Segment]:
        """Segments A and B of row i."""
        raise NotImplementedError

    def sentence_ends(self, ids: np.ndarray) -> np.ndarray:
        """Where sentences end, each the number of tokens up to there. Signs in a row, and the `<eos>` behind them, are one
        end. The last token is none, since nobody sees what stands behind it."""
        ends = self.tokenizer.ends_sentence(ids) | (ids == self.tokenizer.end)
        return 1 + np.flatnonzero(ends[:-1] & ~ends[1:])

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        labels = rng.integers(0, 2, len(examples))
        pairs = [self.pair(examples, i, bool(wrong), rng) for i, wrong in enumerate(labels)]
        rows = [_row(examples, pair, self.cls, self.sep) for pair in pairs]
        seen, targets = (rows, None) if self.masking is None else self._masked(self.masking, examples, pairs, rows, rng)
        types = [np.repeat([0, 1], [stop - start + 2, end - begin + 1]) for (_, start, stop), (_, begin, end) in pairs]
        return Batch(
            rectangle(seen, self.special("pad")),
            None if targets is None else rectangle(targets, IGNORE),
            Attend(causal=False, keep=kept(rows)),
            token_type_ids=rectangle(types, 0) if self.typed else None,
            labels=torch.from_numpy(labels),
        )

    def _masked(
        self,
        masking: Masking,
        examples: list[np.ndarray],
        pairs: list[tuple[Segment, Segment]],
        rows: list[np.ndarray],
        rng: np.random.Generator,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(what the model reads, its targets) by row. Static masks are the piece's, wherever it is cut."""
        if not self.static:
            seen, hidden = zip(*(masking(row, rng) for row in rows), strict=True)
            return list(seen), list(hidden)
        read, wanted = (list(column) for column in zip(*(masking(example, rng) for example in examples), strict=True))
        return (
            [_row(read, pair, self.cls, self.sep) for pair in pairs],
            [_row(wanted, pair, IGNORE, IGNORE) for pair in pairs],
        )

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        out = trainee.model(**batch.inputs())
        assert batch.labels is not None and out.hidden is not None
        whole = out.pooled if out.pooled is not None else out.hidden[:, 0]
        losses = F.cross_entropy(trainee.extras[self.head](whole).float(), batch.labels, reduction="none")
        found = {} if self.masking is None else {"mlm": row_losses(out.logits, targets_of(batch))}
        found[self.head] = losses, torch.ones_like(batch.labels)
        return found | balance_of(out.aux, len(batch.input_ids))


def _row(texts: list[np.ndarray], pair: tuple[Segment, Segment], first: int, after: int) -> np.ndarray:
    """Segments of these texts with `first` before and `after` behind each."""
    one, other = (texts[i][start:stop] for i, start, stop in pair)
    return np.concatenate([[first], one, [after], other, [after]]).astype(np.int64)


def _near_middle(n: int, rng: np.random.Generator) -> int:
    """A place to cut n tokens at, as likely at one end of the middle half as at the other."""
    low = max(1, n // 4)
    return int(rng.integers(low, max(low, n - low) + 1))


class NextSentence(SentencePairs):
    """B follows A, or is from elsewhere (Devlin et al. 2019, §3.1, Task 2).

    A is what of a piece fits before a place near its middle, and B what fits in as many tokens as there are after it, of
    this piece or of another. So neither how long the segments are nor how they were cut depends on the label.
    """

    parts: ClassVar[tuple[str, ...]] = ("nsp",)
    head = "nsp"
    target = "pair"
    choices = False
    least_batch = 2

    def pair(
        self, examples: list[np.ndarray], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[Segment, Segment]:
        n = len(examples[i])
        at = _near_middle(n, rng)
        j = (i + int(rng.integers(1, len(examples)))) % len(examples) if len(examples) > 1 else i
        own, other = (self._sentences(examples[k], at, n - at) for k in (i, j))
        if own is None or other is None:  # all are cut anywhere as soon as one must be, also where one is not used
            size = len(examples[j])
            begin = min(at, max(0, size - (n - at)))
            own, other = (0, at, n), (0, begin, min(size, begin + n - at))
        start, cut, stop = own
        return (i, start, cut), (j, *other[1:]) if wrong else (i, cut, stop)

    def _sentences(self, ids: np.ndarray, at: int, room: int) -> tuple[int, int, int] | None:
        """(start, cut, stop) of whole sentences: those up to the last end before `at`, and those in `room` tokens after
        it; None where there are none on one side."""
        ends = self.sentence_ends(ids)
        before = ends[ends <= at]
        if len(before) < 2:
            return None
        start, cut = int(before[0]), int(before[-1])
        after = ends[(ends > cut) & (ends <= cut + room)]
        return (start, cut, int(after[-1])) if len(after) else None

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        batch = super().collate(examples, rng, turn)
        if len(examples) == 1 and batch.labels is not None:  # there is no elsewhere: what follows is all there is
            batch.labels.zero_()
        return batch


class SentenceOrder(SentencePairs):
    """A and B as they stand in the text, or the other way round (Lan et al. 2020, §3.1); a piece is parted at any end of
    a sentence, as in the released code."""

    parts: ClassVar[tuple[str, ...]] = ("sop",)
    head = "sop"
    target = "pair"
    choices = False

    def pair(
        self, examples: list[np.ndarray], i: int, wrong: bool, rng: np.random.Generator
    ) -> tuple[Segment, Segment]:
        ends, start, stop = self.sentence_ends(examples[i]), 0, len(examples[i])
        if len(ends) > 2:  # between them are two sentences
            start, cut, stop = int(ends[0]), int(rng.choice(ends[1:-1])), int(ends[-1])
        else:
            cut = _near_middle(stop, rng)
        halves = (i, start, cut), (i, cut, stop)
        return halves[::-1] if wrong else halves


class MaskedNextSentence(NextSentence):
    """BERT's own: masked tokens and the next sentence, summed (Devlin et al. 2019, §A.2). BERT read each piece with one of
    ten masks that were drawn before training (Liu et al. 2019, §4.1); here masks are drawn anew at each step, or with
    `masking` static once for each piece."""

    parts = ("mlm", "nsp")
    target = "masked token"
    choices = True


class MaskedSentenceOrder(SentenceOrder):
    """ALBERT's own: masked tokens and the order of sentences, summed (Lan et al. 2020, §3.1). ALBERT hid up to three
    neighbouring words together (§4.1); here `mask_unit` says what is hidden together, and a token is unless told."""

    parts = ("mlm", "sop")
    target = "masked token"
    choices = True

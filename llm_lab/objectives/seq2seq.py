"""From a source to a target: on an encoder and a decoder, or on one stack that reads the source both ways."""

from __future__ import annotations

import numpy as np
import torch

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives.objective import Objective, Trainee, kept, rectangle
from llm_lab.options import Options
from llm_lab.tokenizers.tokenizer import Tokenizer


class SourceToTarget(Objective):
    """L = − mean log p(y_t | y_<t, x), in nats per token of the target y (Sutskever et al. 2014, eq. 1).

    One stack reads source, `<bos>` and target as one sequence: the source both ways, the rest from left to right
    (Raffel et al. 2020, §3.2.2, "prefix LM").
    """

    def __init__(self, options: Options, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.start = tokenizer.start
        self.two_stacks = False
        self.context = 0

    def attach(self, model: LanguageModel) -> Trainee:
        self.two_stacks = model.config is not None and model.config.shape == "encoder_decoder"
        self.context = model.max_seq_len
        return super().attach(model)

    def batch(self, sources: list[np.ndarray], targets: list[np.ndarray]) -> Batch:
        """Sources and targets, each (length,) ids, as what the model at hand reads."""
        pad = self.special("pad")
        before = [np.concatenate([[self.start], target[:-1]]) for target in targets]
        if self.two_stacks:
            return Batch(
                rectangle(sources, pad),
                rectangle(targets, IGNORE),
                Attend(causal=False, keep=kept(sources)),
                decoder_ids=rectangle(before, pad),
            )
        rows = [np.concatenate(pair) for pair in zip(sources, before, strict=True)]
        wanted = [np.r_[np.full(len(s), IGNORE), t] for s, t in zip(sources, targets, strict=True)]
        prefix = torch.tensor([len(source) for source in sources])
        attend = Attend(causal=True, prefix=prefix, keep=kept(rows))
        return Batch(rectangle(rows, pad), rectangle(wanted, IGNORE), attend)


class Seq2Seq(SourceToTarget):
    """Pairs of texts, such as a sentence and its translation. What does not fit the context is cut at its end."""

    parts = ("seq2seq",)
    target = "target token"
    pairs = True
    longest: np.ndarray | None = None  # what each pair takes of a context, once the pairs are known

    def take(self, block: int) -> tuple[int, int]:
        return block, block

    def prepare(self, ids: np.ndarray) -> None:
        pairs = np.split(ids, np.flatnonzero(ids == self.tokenizer.end) + 1)
        at = [int((pair == self.special("sep")).argmax()) + 1 for pair in pairs if len(pair)]
        lengths = [len(pair) for pair in pairs if len(pair)]
        together = [max(s, n - s) if self.two_stacks else n for s, n in zip(at, lengths, strict=True)]
        self.longest = np.array(together)

    def notes(self, block: int) -> list[str]:
        if self.longest is None or not (cut := int((self.longest > block).sum())):
            return []
        return [
            f"{cut:,} of {len(self.longest):,} pairs are longer than the context of {block} tokens and are cut at their ends; --max_seq_len {self.longest.max()} holds all"
        ]

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        """Documents of source, `<sep>`, target and `<eos>`."""
        sources, targets = zip(*(self._parted(example) for example in examples), strict=True)
        return self.batch(list(sources), list(targets))

    def _parted(self, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.flatnonzero(example == self.special("sep"))
        if not len(at):
            raise BadValue(
                "data: seq2seq learns from pairs, and this text has none; give one with targets, such as stories --part english-french"
            )
        source, target = example[: at[0] + 1], example[at[0] + 1 :]
        half = self.context if self.two_stacks else max(1, self.context // 2)
        return source[:half], target[: half if self.two_stacks else max(1, self.context - min(len(source), half))]


class PrefixLM(SourceToTarget):
    """The beginning of a piece of text is read both ways, the rest predicted (Raffel et al. 2020, §3.2.3)."""

    parts = ("prefix_lm",)
    target = "predicted token"

    def take(self, block: int) -> tuple[int, int]:
        self.need(block, 2)
        return block, block

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        cuts = [int(rng.integers(1, len(example))) if len(example) > 1 else 1 for example in examples]
        pairs = [(e[:cut], e[cut:] if len(e) > 1 else e) for e, cut in zip(examples, cuts, strict=True)]
        return self.batch([source for source, _ in pairs], [target for _, target in pairs])

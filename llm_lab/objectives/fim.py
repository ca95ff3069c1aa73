"""Fill-in-the-middle: a causal model learns to write a middle, after it has read what stands before and after."""

from __future__ import annotations

import numpy as np

from llm_lab.data.batch import Batch
from llm_lab.objectives import options as opt
from llm_lab.objectives.clm import CausalLM
from llm_lab.tokenizers.tokenizer import Tokenizer


class FillInTheMiddle(CausalLM):
    """A `fim_rate` of the pieces is cut at two places, and read as ⟨prefix⟩ before ⟨suffix⟩ after ⟨middle⟩ middle `<eos>`
    (Bavarian et al. 2022, §3, "PSM"; `<eos>` is their <EOT>: it tells where the middle ends); the rest is plain text. The
    three marks are the first sentinels."""

    parts = ("fim",)
    covers = alike = False
    options: opt.FillInTheMiddle

    def __init__(self, options: opt.FillInTheMiddle, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.prefix, self.suffix, self.middle = (self.special(f"extra_{i}") for i in range(3))
        self.end = self.special("eos")

    def take(self, block: int) -> tuple[int, int]:
        self.need(block, 5)
        return block - 3, block - 4  # four marks more, and one token fewer is read than there are

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        chosen = rng.random(len(examples)) < self.options.fim_rate
        rows = [self.moved(example, rng) if yes else example for example, yes in zip(examples, chosen, strict=True)]
        return super().collate(rows, rng)

    def moved(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A piece with its middle at the end, a mark before each of its three parts, and `<eos>` after the last."""
        first, second = np.sort(rng.integers(0, len(ids) + 1, 2))
        before, middle, after = np.split(ids.astype(np.int64), [first, second])
        return np.concatenate([[self.prefix], before, [self.suffix], after, [self.middle], middle, [self.end]])

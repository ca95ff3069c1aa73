"""Causal language modelling: every position predicts the token after it."""

from __future__ import annotations

import numpy as np

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.objectives.objective import Objective, rectangle


class CausalLM(Objective):
    """L = − mean log p(x_t | x_<t), in nats per token (Radford et al. 2018, eq. 1)."""

    parts = ("clm",)
    covers = alike = True

    def take(self, block: int) -> tuple[int, int]:
        return block + 1, block

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        """Blocks of T + 1 ids as inputs and the targets one later. Padding is at the right, where causality hides it."""
        ids = rectangle([example[:-1] for example in examples], 0)
        return Batch(ids, rectangle([example[1:] for example in examples], IGNORE), Attend(causal=True))

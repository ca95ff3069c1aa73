"""Permutation language modelling: tokens are predicted in a random order, each from those before it in that order."""

from __future__ import annotations

import numpy as np
import torch

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.objectives import options as opt
from llm_lab.objectives.objective import Objective, rectangle


class PermutationLM(Objective):
    """L = − E_z mean log p(x_z_t | x_z_<t) over the last `predict_share` of a random order z, in nats (Yang et al. 2019,
    eq. 3 and §2.3, "partial prediction")."""

    parts = ("plm",)
    target = "predicted token"
    options: opt.PermutationLM

    def take(self, block: int) -> tuple[int, int]:
        return block, block

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        """`attend.order` is each token's rank; padding has the last ranks, so that nobody reads it."""
        longest = max(map(len, examples))
        ranks, targets = [], []
        for example in examples:
            n = len(example)
            rank = np.arange(longest)
            rank[:n] = rng.permutation(n)
            ranks.append(rank)
            wanted = max(1, round(n * self.options.predict_share))
            targets.append(np.where(rank[:n] >= n - wanted, example.astype(np.int64), IGNORE))
        order = torch.from_numpy(np.stack(ranks))
        return Batch(rectangle(list(examples), self.special("pad")), rectangle(targets, IGNORE), Attend(order=order))

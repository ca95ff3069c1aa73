"""Causal language modelling: every position predicts the token after it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives.objective import Trainee


class CausalLM:
    """L = − mean log p(x_t | x_<t), in nats per token (Radford et al. 2018, eq. 1)."""

    def attach(self, model: LanguageModel) -> Trainee:
        return Trainee(model, nn.ModuleDict())

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator | None = None) -> Batch:
        """Blocks of T + 1 ids as inputs and the targets one later; shorter ones are padded at the right."""
        length = max(len(example) for example in examples) - 1
        ids = torch.zeros(len(examples), length, dtype=torch.long)
        targets = torch.full((len(examples), length), IGNORE, dtype=torch.long)
        for row, example in enumerate(examples):
            block = torch.from_numpy(example.astype(np.int64))
            ids[row, : len(block) - 1], targets[row, : len(block) - 1] = block[:-1], block[1:]
        # Padding is at the right, where causality already hides it.
        return Batch(ids, targets, Attend(causal=True))

    def loss(self, trainee: Trainee, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(mean loss in nats per target, its named parts)."""
        logits = trainee.model(**batch.inputs()).logits
        loss = F.cross_entropy(logits.flatten(0, 1), _targets(batch).flatten(), ignore_index=IGNORE)
        return loss, {"clm": loss.detach()}

    def token_losses(self, model: LanguageModel, batch: Batch) -> Tensor:
        """Each target's −log p, (B, T) in nats; 0 where there is no target."""
        logits = model(**batch.inputs()).logits
        return F.cross_entropy(logits.transpose(1, 2), _targets(batch), ignore_index=IGNORE, reduction="none")

    def deliver(self, trainee: Trainee) -> LanguageModel:
        """The model that stays when training ends."""
        return trainee.model


def _targets(batch: Batch) -> Tensor:
    assert batch.targets is not None
    return batch.targets

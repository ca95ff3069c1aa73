"""Losses over text in order: what validation while training and evaluation after it both rest on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives.objective import Objective


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 products where the plan has them."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def block_losses(
    objective: Objective,
    model: LanguageModel,
    blocks: Sequence[np.ndarray],
    batch_size: int,
    device: torch.device,
    precision: str = "fp32",
) -> tuple[np.ndarray, np.ndarray]:
    """For each block the sum of its targets' losses in nats, and how many targets it has. Leaves the model's mode."""
    was_training = model.training
    model.eval()
    sums, counts = [], []
    try:
        with torch.no_grad():
            for start in range(0, len(blocks), batch_size):
                chosen = list(blocks[start : start + batch_size])
                batch = objective.collate(chosen, np.random.default_rng(start)).to(device)
                with autocast(device, precision):
                    losses = objective.token_losses(model, batch)
                sums.append(losses.sum(dim=1))
                counts += [len(block) - 1 for block in chosen]
    finally:
        model.train(was_training)
    return torch.cat(sums).cpu().double().numpy(), np.asarray(counts)

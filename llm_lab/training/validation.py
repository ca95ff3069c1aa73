"""Losses over text in order: what validation while training and evaluation after it both rest on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from llm_lab.data.arrays import Tokens
from llm_lab.data.sampler import blocks, documents
from llm_lab.models.language_model import evaluating
from llm_lab.objectives.objective import Objective, Trainee


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 products where the plan has them."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def pieces(objective: Objective, tokens: Tokens, block: int, limit: int | None = None) -> list[np.ndarray]:
    """The text in order, cut as the objective takes it; at most about `limit` tokens of it."""
    if objective.pairs:
        return documents(tokens, limit)
    size, step = objective.take(block)
    return [piece for piece in blocks(tokens, size, step, limit) if len(piece) > 1]


def block_losses(
    objective: Objective,
    trainee: Trainee,
    examples: Sequence[np.ndarray],
    batch_size: int,
    device: torch.device,
    precision: str = "fp32",
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each part of the loss and each example the sum of its targets' losses in nats, and how many targets it has.
    Leaves the model's mode."""
    # Where each batch's values go is there beforehand: small tensors kept from between a pass's large ones leave holes in the
    # heap that the next pass's do not fit, and it grows by a hundred times what is kept.
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad(), evaluating(trainee.model), evaluating(trainee.extras):
        for start in range(0, len(examples), batch_size):
            chosen = list(examples[start : start + batch_size])
            batch = objective.collate(chosen, np.random.default_rng(start)).to(device)
            with autocast(device, precision):
                parts = objective.losses(trainee, batch)
            for name, pair in parts.items():
                if name not in found:
                    found[name] = pair[0].new_zeros(len(examples)), pair[1].new_zeros(len(examples))
                for kept, value in zip(found[name], pair, strict=True):
                    kept[start : start + len(chosen)] = value
    return {name: (sums.cpu().double().numpy(), counts.cpu().numpy()) for name, (sums, counts) in found.items()}


def mean_losses(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The mean of each part over all its targets, in nats."""
    return {name: float(sums.sum() / max(1, counts.sum())) for name, (sums, counts) in found.items()}

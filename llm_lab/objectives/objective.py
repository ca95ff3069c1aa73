"""What an objective is: how examples become a batch, how a batch becomes a loss, and which model stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from llm_lab.data.batch import Batch
from llm_lab.models.language_model import LanguageModel


@dataclass(eq=False)
class Trainee:
    """What is trained: the model, and whatever an objective adds to it (heads, companions) under `extras`."""

    model: LanguageModel
    extras: nn.ModuleDict

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        named = [*self.model.named_parameters(), *((f"extras.{n}", p) for n, p in self.extras.named_parameters())]
        return [(name, p) for name, p in named if p.requires_grad]

    def train(self, mode: bool = True) -> None:
        self.model.train(mode)
        self.extras.train(mode)


@runtime_checkable
class Objective(Protocol):
    """The five things that training asks of an objective."""

    def attach(self, model: LanguageModel) -> Trainee:
        """The model with what the objective adds to it."""

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator) -> Batch:
        """Examples, (T + 1,) ids each, as one batch; `rng` is fixed by (seed, step, microbatch)."""

    def loss(self, trainee: Trainee, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(the mean loss in nats per target, its named parts)."""

    def token_losses(self, model: LanguageModel, batch: Batch) -> Tensor:
        """Each target's loss in nats, (B, T); 0 where there is no target."""

    def deliver(self, trainee: Trainee) -> LanguageModel:
        """The model that stays when training ends."""

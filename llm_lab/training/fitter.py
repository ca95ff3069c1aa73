"""Training of what has no gradients: one pass over the text, told in the events of the trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from llm_lab.data.arrays import Tokens
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.training.plan import Plan
from llm_lab.training.trainer import TrainEvent
from llm_lab.training.validation import block_losses, mean_losses, pieces


class Fitter:
    """Lets a model count its text (`model.fit(ids)`). Budgets do not bind it: it reads all of the text, once.

    `reads` are the options of training that make a difference.
    """

    resumable = False  # one pass has no middle to go on from
    reads: ClassVar[frozenset[str]] = frozenset({"batch_size", "device", "threads", "seed", "eval_tokens"})

    def __init__(
        self,
        trainee: Trainee,
        objective: Objective,
        train: Tokens,
        val: Tokens | None,
        plan: Plan,
        started: float | None = None,
    ) -> None:
        self.trainee, self.objective, self.plan, self.train, self.val = trainee, objective, plan, train, val
        self.started = time.perf_counter() if started is None else started
        self.optimizers: list[torch.optim.Optimizer] = []

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def request_stop(self) -> None:
        """One pass has no middle to end at."""

    request_save = request_stop

    def events(self) -> Iterator[TrainEvent]:
        """One step, one validation, and the end."""
        model: Any = self.trainee.model
        model.fit(self.train.ids)
        yield self._event("step", self._loss(self.train))
        if self.val is not None and len(self.val.ids) > 1:
            yield self._event("validation", self._loss(self.val))
        self.trainee.train(False)
        yield self._event("end", float("nan"), "finished")

    def _loss(self, tokens: Tokens) -> float:
        options, device = self.plan.options, torch.device(self.plan.device)
        examples = pieces(self.objective, tokens, self.plan.block, options.eval_tokens)
        return self.objective.total(
            mean_losses(block_losses(self.objective, self.trainee, examples, options.batch_size, device))
        )

    def _event(self, kind: str, loss: float, reason: str = "") -> TrainEvent:
        return TrainEvent(kind, 1, len(self.train.ids), self.seconds, loss, reason=reason)

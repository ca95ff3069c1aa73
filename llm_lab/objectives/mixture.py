"""Several objectives on one model: summed in each step, or one a step in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from llm_lab.data.batch import Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.objectives.objective import BALANCE, Objective, Parts, Trainee


@dataclass(frozen=True, eq=False)
class Batches:
    """A batch of each objective whose turn it is."""

    found: tuple[tuple[int, Batch], ...]

    def to(self, device: torch.device) -> Batches:
        return Batches(tuple((i, batch.to(device)) for i, batch in self.found))


class Mixture(Objective):
    """The weighted sum of objectives (`sum`), or one of them a step, each as often as its weight says (`turns`).

    Of parts that go by one name, the later ones are numbered.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float] = (), mix: str = "sum") -> None:
        if weights and len(weights) != len(objectives):
            raise BadValue(
                f"weights: {len(weights)} were given for {len(objectives)} objectives; give one for each, for example --weights {','.join('1' * len(objectives))}"
            )
        super().__init__(objectives[0].options, objectives[0].tokenizer)
        self.objectives = list(objectives)
        self.shares = list(weights) or [1.0] * len(objectives)
        self.mix = mix
        self.pairs = objectives[0].pairs  # type: ignore[misc]
        self.least_batch = max(one.least_batch for one in objectives)  # type: ignore[misc]
        self.shift = all(one.shift for one in objectives)
        first = objectives[0]
        self.covers, self.target, self.choices = first.covers, first.target, first.choices  # type: ignore[misc]
        self._names: list[dict[str, str]] = []
        taken: list[str] = []
        for one in objectives:
            names = {part: part if part not in taken else f"{part} {len(taken)}" for part in one.parts}
            taken += names.values()
            self._names.append(names)
        self.parts = tuple(taken)  # type: ignore[misc]
        self._turns: list[int] = []  # whose turn each step was, as far as anyone has asked
        self._had = np.zeros(len(objectives))  # how many of them each has had
        self._block = 0

    def take(self, block: int) -> tuple[int, int]:
        self._block = block
        sizes = [one.take(block) for one in self.objectives]
        return max(size for size, _ in sizes), max(step for _, step in sizes)

    def prepare(self, ids: np.ndarray) -> None:
        for one in self.objectives:
            one.prepare(ids)

    def notes(self, block: int) -> list[str]:
        return [note for one in self.objectives for note in one.notes(block)]

    def attach(self, model: LanguageModel) -> Trainee:
        extras = nn.ModuleDict()
        for i, one in enumerate(self.objectives):
            extras[str(i)] = one.attach(model).extras
            share = self.shares[i] if self.mix == "sum" else 1.0
            for part, name in self._names[i].items():
                self.weights[name] = share * one.weights.get(part, 1.0)
            self.weights[BALANCE] = one.weights.get(BALANCE, 0.0)
        return Trainee(model, extras)

    def whose(self, turn: int) -> int:
        """Whose turn it is at a step: of the one that is furthest behind its share of all steps so far."""
        shares, total = np.array(self.shares), sum(self.shares)
        while len(self._turns) <= turn:
            due = (len(self._turns) + 1) * shares - total * self._had
            self._turns.append(int(due.argmax()))
            self._had[self._turns[-1]] += 1
        return self._turns[turn]

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Any:
        chosen = range(len(self.objectives))
        if self.mix == "turns" and turn is not None:
            chosen = range((now := self.whose(turn)), now + 1)
        found = []
        for i in chosen:
            one = self.objectives[i]
            size = len(examples[0]) if one.pairs else one.take(self._block)[0]
            found.append((i, one.collate([example[:size] for example in examples], rng, turn)))
        return Batches(tuple(found))

    def losses(self, trainee: Trainee, batch: Any) -> Parts:
        found: Parts = {}
        for i, one in batch.found:
            extras: Any = trainee.extras[str(i)]
            parts = self.objectives[i].losses(Trainee(trainee.model, extras), one)
            found |= {self._names[i].get(name, name): value for name, value in parts.items()}
        return found

    def total(self, means: Mapping[str, float]) -> float:
        """Of turns the mean, each with its share, so that it is what steps come to on average."""
        if self.mix != "turns":
            return super().total(means)
        found = []
        for share, names in zip(self.shares, self._names, strict=True):
            own = {name: means[name] for name in names.values() if name in means}
            found += [(share, super().total(own))] if own else []
        return sum(share * total for share, total in found) / sum(share for share, _ in found)

    def deliver(self, trainee: Trainee) -> LanguageModel:
        return self.objectives[0].deliver(trainee)

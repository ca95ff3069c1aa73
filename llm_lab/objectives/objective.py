"""What an objective is: how examples become a batch, how a batch becomes losses, and which model stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.data.batch import IGNORE, Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.options import Options
from llm_lab.tokenizers.tokenizer import Tokenizer

Parts = dict[str, tuple[Tensor, Tensor]]  # by name, each row's sum of losses in nats and its number of targets, (B,)
BALANCE = "balance"  # the part that is the model's own affair: no loss on text


@dataclass(eq=False)
class Trainee:
    """What is trained: the model, and whatever an objective adds to it (heads, companions) under `extras`."""

    model: LanguageModel
    extras: nn.ModuleDict

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter once, also where an extra shares one with the model."""
        named = [*self.model.named_parameters(), *((f"extras.{n}", p) for n, p in self.extras.named_parameters())]
        seen: set[int] = set()
        return [(n, p) for n, p in named if p.requires_grad and not (id(p) in seen or seen.add(id(p)))]  # type: ignore[func-returns-value]

    def named_modules(self) -> list[tuple[str, nn.Module]]:
        """The modules under the names that begin those of their parameters."""
        extras = [(f"extras.{name}", module) for name, module in self.extras.named_modules() if name]
        return [*self.model.named_modules(), *extras]

    def train(self, mode: bool = True) -> None:
        self.model.train(mode)
        self.extras.train(mode)


class Objective:
    """Base of all objectives. A kind says what it takes of the text, how that becomes a batch, and what it counts.

    The tokenizer's specials are at hand as `self.special("mask")`; ids that are text as `self.words`.
    """

    parts: ClassVar[tuple[str, ...]] = ()  # the names of its losses, the chief one first
    target: ClassVar[str] = ""  # what one target of the chief loss is; "" for a token of the text
    covers: ClassVar[bool] = False  # every token of the text is a target once: its loss is the text's likelihood
    choices: ClassVar[bool] = True  # its chief loss is that of one choice among all tokens, so its exp is a perplexity
    pairs: ClassVar[bool] = False  # it learns from documents that have a source and a target
    alike: ClassVar[bool] = False  # all full batches have tensors of the same shapes
    least_batch: ClassVar[int] = 1
    shift: bool = True  # pieces are cut elsewhere in each epoch

    def __init__(self, options: Options, tokenizer: Tokenizer) -> None:
        self.options, self.tokenizer = options, tokenizer
        self.weights: dict[str, float] = {}  # of the parts in the sum; 1 where nothing is said

    def special(self, name: str) -> int:
        """The id of a reserved token; BadValue where the tokenizer has none of that name."""
        return self.tokenizer.special(name)

    def need(self, block: int, least: int) -> None:
        """BadValue where a context of `block` tokens cannot hold the shortest row, of `least`."""
        if block < least:
            raise BadValue(
                f"max_seq_len: {block} is too short for {' and '.join(self.parts)}, which takes {least} tokens at least; use --max_seq_len {least} or more"
            )

    # what training asks of it

    def take(self, block: int) -> tuple[int, int]:
        """(tokens of an example, tokens to the next one) for a context of `block`; BadValue where that is too short."""
        raise NotImplementedError

    def notes(self, block: int) -> list[str]:
        """What in a context of `block` is not as it was asked for, in a sentence each."""
        return []

    def prepare(self, ids: np.ndarray) -> None:
        """A look at all training ids before the first step."""

    def attach(self, model: LanguageModel) -> Trainee:
        """The model with what the objective adds to it."""
        if model.config is not None:
            self.weights[BALANCE] = model.config.router_loss
        return Trainee(model, nn.ModuleDict())

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        """Examples as one batch; `rng` is fixed by (seed, step, microbatch), `turn` is the step (None: a validation)."""
        raise NotImplementedError

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        """Each part's losses, by row."""
        out = trainee.model(**batch.inputs())
        return {self.parts[0]: row_losses(out.logits, targets_of(batch))} | balance_of(out.aux, len(batch.input_ids))

    def loss(self, trainee: Trainee, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """(what is minimised, its named parts: each the mean over its targets in nats)."""
        means = means_of(self.losses(trainee, batch))
        total = sum(self.weights.get(name, 1.0) * value for name, value in means.items())
        assert isinstance(total, Tensor)
        return total, {name: value.detach() for name, value in means.items()}

    def total(self, means: Mapping[str, float]) -> float:
        """The loss that a validation reports, from its parts' means: their weighted sum, without the experts' balance."""
        return sum(self.weights.get(name, 1.0) * value for name, value in means.items() if name != BALANCE)

    def deliver(self, trainee: Trainee) -> LanguageModel:
        """The model that stays when training ends."""
        return trainee.model


def row_losses(logits: Float[Tensor, "B U V"], targets: Int[Tensor, "B U"]) -> tuple[Tensor, Tensor]:
    """Each row's sum of −log p over its targets, in nats, and how many it has."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view(targets.shape).sum(dim=1), (targets != IGNORE).sum(dim=1)


def means_of(parts: Parts) -> dict[str, Tensor]:
    """The mean over all targets of the batch, by part; 0 where it has none."""
    return {name: sums.sum() / counts.sum().clamp(min=1) for name, (sums, counts) in parts.items()}


def balance_of(aux: Mapping[str, Tensor], rows: int, *others: Mapping[str, Tensor]) -> Parts:
    """The model's own losses as parts; those of its companions are added, so that they change nothing for the model."""
    summed = {name: sum((other[name] for other in others if name in other), value) for name, value in aux.items()}
    return {name: (value.expand(rows), torch.ones(rows, device=value.device)) for name, value in summed.items()}


def targets_of(batch: Batch) -> Tensor:
    assert batch.targets is not None
    return batch.targets


def rectangle(rows: list[np.ndarray], fill: int) -> Int[Tensor, "B T"]:
    """Rows of ids as one tensor, filled up at the right."""
    made = np.full((len(rows), max(1, *map(len, rows)) if rows else 1), fill, np.int64)
    for i, row in enumerate(rows):
        made[i, : len(row)] = row
    return torch.from_numpy(made)


def kept(rows: list[np.ndarray]) -> Tensor | None:
    """(B, T) True where a rectangle of these rows is no filling; None where all are as long."""
    lengths = torch.tensor([len(row) for row in rows])
    if bool((lengths == lengths[0]).all()):
        return None
    return torch.arange(int(lengths.max()))[None, :] < lengths[:, None]

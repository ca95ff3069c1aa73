"""Multi-token prediction: each position predicts several tokens ahead, by a head of its own for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_lab.data.batch import IGNORE, Attend, Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import POSITIONS
from llm_lab.models.positions import Position
from llm_lab.models.stack import Stack, mean_balance
from llm_lab.objectives import options as opt
from llm_lab.objectives.objective import Objective, Parts, Trainee, balance_of, rectangle, row_losses, targets_of
from llm_lab.tokenizers.tokenizer import Tokenizer


class _Head(Stack):
    """One block on the trunk's output (Gloeckle et al. 2024, §2); the output map is the model's own. What positions add to the
    embeddings the trunk has read."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        kind: type[Position] = POSITIONS.load(model.config.position)
        inside = kind.angles is not Position.angles or kind.bias is not Position.bias
        self.make_stack(model.config if inside else replace(model.config, position="none"), 1, "head.")

    def forward(self, hidden: Tensor, balances: list[Tensor] | None = None) -> Tensor:
        ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return self.run(hidden, Attend(), ids, balances=balances)


class MultiToken(Objective):
    """L = Σ_k − mean log p(x_t+k | x_<=t), k from 1 to `n_future` (Gloeckle et al. 2024, eq. 2). The heads beyond the
    first go when training ends."""

    options: opt.MultiToken
    covers = True

    def __init__(self, options: opt.MultiToken, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.parts = ("clm", *(f"+{k}" for k in range(2, options.n_future + 1)))  # type: ignore[misc]

    def take(self, block: int) -> tuple[int, int]:
        if self.options.n_future > block:
            raise BadValue(
                f"n_future: {self.options.n_future} tokens ahead are past a context of {block}; use --n_future {block}, or a longer --max_seq_len"
            )
        return block + 1, block

    def attach(self, model: LanguageModel) -> Trainee:
        trainee = super().attach(model)
        trainee.extras["future"] = nn.ModuleList(_Head(model) for _ in range(self.options.n_future - 1))
        for module in trainee.extras.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return trainee

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        ids = rectangle([example[:-1] for example in examples], 0)
        return Batch(ids, rectangle([example[1:] for example in examples], IGNORE), Attend(causal=True))

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        model: Any = trainee.model
        out = model(**batch.inputs())
        targets = targets_of(batch)
        found = {"clm": row_losses(out.logits, targets)}
        future: Any = trainee.extras["future"]
        balances: list[Tensor] = []
        for k, head in enumerate(future, 1):
            ahead = torch.full_like(targets, IGNORE)
            ahead[:, :-k] = targets[:, k:]
            found[self.parts[k]] = row_losses(model.logits(head(out.hidden, balances)), ahead)
        return found | balance_of(out.aux, len(targets), mean_balance(balances))

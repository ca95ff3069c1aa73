"""Optimisers over named parameters. Each group keeps its `peak_lr`, which the trainer scales by the schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_lab.models.layers import FusedLinear
from llm_lab.objectives.objective import Trainee
from llm_lab.training.options import TrainOptions

Named = Sequence[tuple[str, nn.Parameter]]


def adamw(trainee: Trainee, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """AdamW (Loshchilov & Hutter 2017); matrices and embeddings decay, gains and biases do not."""
    return [_adamw(trainee.parameters(), options.lr or 1e-3, options)]


def muon(trainee: Trainee, options: TrainOptions) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, output, gains and biases (Jordan et al. 2024)."""
    named, modules = trainee.parameters(), trainee.named_modules()
    edges = {f"{name}.weight" for name, module in modules if isinstance(module, nn.Embedding)}
    if hasattr(trainee.model, "unembed"):
        edges.add("unembed.weight")
    else:
        # The output is the last matrix that gives as many numbers as there are tokens, whatever a user's model calls it;
        # one inside a block may happen to be as wide.
        vocabulary = trainee.model.vocab_size
        wide = [name for name, p in named if p.ndim == 2 and p.shape[0] == vocabulary and name not in edges]
        edges |= set(wide[-1:])
    matrices = [(name, p) for name, p in named if p.ndim == 2 and name not in edges]
    rest = [(name, p) for name, p in named if not any(p is m for _, m in matrices)]
    splits = {f"{name}.weight": module.splits for name, module in modules if isinstance(module, FusedLinear)}
    splits |= {  # torch keeps a layer's gates as one matrix
        f"{name}.{key}": (module.hidden_size,) * (len(p) // module.hidden_size)
        for name, module in modules
        if isinstance(module, nn.RNNBase)
        for key, p in module.named_parameters(recurse=False)
        if key.startswith(("weight_ih", "weight_hh"))
    }
    found: list[torch.optim.Optimizer] = []
    if matrices:
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        found.append(Muon(matrices, splits, options.muon_lr, options.weight_decay, dtype=dtype))
    if rest:
        found.append(_adamw(rest, options.lr or 1e-2, options))
    return found


def _adamw(named: Named, lr: float, options: TrainOptions) -> torch.optim.AdamW:
    decayed = [p for _, p in named if p.ndim >= 2]
    plain = [p for _, p in named if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group | {"peak_lr": lr} for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=(options.beta1, options.beta2), eps=1e-10, fused=True)


def orthogonalize(x: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to a batch (N, r, c), by a quintic Newton–Schulz iteration (Jordan et al.
    2024): singular values end near 1, between about 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024). Matrices of one shape are orthogonalised in one batched product:
    one at a time costs a third of a small model's step. So does it in float32, where the other products are in bfloat16:
    `dtype` is that of the orthogonalisation, whose values are rough in any case. A fused projection is taken apart where its
    maps end, and the matrices of an LSTM where its gates do."""

    def __init__(
        self,
        named: Named,
        splits: Mapping[str, Sequence[int]],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        params = [{"params": [p for _, p in named], "peak_lr": lr}]
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype
        self._splits = {id(p): splits.get(name, (p.shape[0],)) for name, p in named}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            grads, held = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(held, grads, 1 - momentum)
            directions = torch._foreach_lerp(grads, held, momentum)  # Nesterov
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p, direction in zip(params, directions, strict=True):
                splits = self._splits[id(p)]
                for part, weight in zip(direction.split(splits), p.split(splits), strict=True):
                    by_shape.setdefault(part.shape, []).append((part, weight))
            for (rows, columns), pairs in by_shape.items():
                parts, weights = zip(*pairs, strict=True)
                updates = orthogonalize(torch.stack(parts).to(self._dtype)).to(weights[0].dtype)
                torch._foreach_add_(list(weights), list(updates.unbind()), alpha=-lr * max(1.0, rows / columns) ** 0.5)

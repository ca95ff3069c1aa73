"""What a user's own module costs, as torch counts it over one forward pass; it knows no config."""

from __future__ import annotations

import torch
from torch import nn

from llm_lab.models.reckoning import STATE_BYTES
from llm_lab.results import ModelPart


def module_parts(module: nn.Module, batch_size: int, length: int) -> list[ModelPart]:
    """The direct children of a user's module; FLOPs are counted by torch over one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[str, int] = {}
    handles = [
        child.register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, _size(o)))
        for name, child in module.named_modules()
        if not list(child.children())
    ]
    parameter = next(module.parameters(), None)
    ids = torch.zeros(1, length, dtype=torch.long, device=parameter.device if parameter is not None else "cpu")
    was_training = module.training
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(ids)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    flops = counter.get_flop_counts()
    seen: set[int] = set()
    found = []
    for name, child in module.named_children():
        own = [p for p in child.parameters() if id(p) not in seen]
        seen.update(id(p) for p in own)
        count = len(child) if isinstance(child, nn.ModuleList) and len(child) else 1
        spent = sum(
            sum(ops.values())
            for path, ops in flops.items()
            if path.split(".")[1:2] == [name] and (path.count(".") == (2 if count > 1 else 1))
        )
        activations = sum(size for path, size in kept.items() if path.split(".")[0] == name)
        size = sum(p.numel() for p in own)
        memory = size * STATE_BYTES + activations * 4 * batch_size
        found.append(ModelPart(name, type(child).__name__, count, size, spent // length, memory))
    return found


def _size(output: object) -> int:
    if isinstance(output, torch.Tensor):
        return output.numel()
    if isinstance(output, tuple | list):
        return sum(_size(item) for item in output)
    return 0

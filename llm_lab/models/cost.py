"""What a model costs before it exists: parameters, FLOPs and training memory, by part.

FLOPs count a multiply-add as 2, forward, for one token at the full context (half of it on average, where causal).
Memory is that of training in float32, as measured on CPUs, where it is within about half of the process's growth:

- each weight: itself, its gradient, two optimiser values, and its bytes when the model is saved;
- Muon's temporaries: five copies of the matrices of one shape, of which the largest are counted;
- the activations that the backward pass keeps, and its own gradients of one block;
- with dropout, off CUDA, attention's weights: fused attention has no dropout there, and T × T of them are kept;
- or, where it is more, one batch of the evaluation at the end, which reads more tokens at once than a small step does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from llm_lab import machine
from llm_lab.models.options import MLPS, ModelConfig
from llm_lab.results import ModelPart

_STATE_BYTES = 20  # weight, gradient, two optimiser values and the saved copy, in float32
_MUON_COPIES = 5  # the stacked matrices, the iterate, its square and their successors
EVALUATION_TOKENS = 8192  # in one forward pass of an evaluation


def taken(config: ModelConfig) -> tuple[int, int]:
    """Bytes that making the model takes at its peak: the weights, and the tables of positions."""
    weights = sum(part.parameters for part in parts(config, 1))
    untied = config.vocab_size * config.d_model if config.tie_embeddings else 0  # made, and let go when tied
    tables = 12 * config.max_seq_len * config.head_dim if config.position == "rotary" else 0  # computed in float64
    return 4 * (weights + untied), tables


def parts(config: ModelConfig, batch_size: int, device: str = "auto") -> list[ModelPart]:
    """The parts of a decoder from the input to the output. `device` is where it is trained."""
    c = config
    tokens = batch_size * c.max_seq_len
    d, ff, kv = c.d_model, c.ff_width, c.kv_heads * c.head_dim
    gated = 2 if getattr(MLPS.load(c.mlp), "gated", False) else 1
    norm = d * (2 if c.norm == "layernorm" and c.bias else 1)
    bias = int(c.bias)

    def part(name: str, detail: str, count: int, parameters: int, flops: int, kept: int, once: int = 0) -> ModelPart:
        """`kept` are the float32 activations a token leaves for the backward pass, in one such part; `once` are floats
        that are there in one of them at a time."""
        memory = count * (parameters * _STATE_BYTES + kept * 4 * tokens) + 4 * once
        return ModelPart(name, detail, count, count * parameters, count * flops, memory)

    attention = d * (d + 2 * kv) + d * d + bias * (2 * d + 2 * kv)
    mlp = d * ff * (gated + 1) + bias * (gated * ff + d)
    heads = f"{c.n_head} heads of {c.head_dim}" + (
        f", {c.kv_heads} for keys and values" if c.kv_heads != c.n_head else ""
    )
    # On average a causal position reads half of the context.
    looks = 2 * 2 * d * (c.max_seq_len + 1) // 2
    found = [part("embedding", f"{c.vocab_size:,} tokens × {d}", 1, c.vocab_size * d, 0, d)]
    if c.position == "learned":
        found.append(part("positions", f"learned, {c.max_seq_len} × {d}", 1, c.max_seq_len * d, d, d))
    extras = [c.position if c.position != "learned" else "", "QK norm" if c.qk_norm else ""]
    weights = c.n_head * c.max_seq_len if c.dropout and machine.device(device).type != "cuda" else 0  # of one query
    tables = c.max_seq_len * c.head_dim if c.position == "rotary" else 0
    stacks = d * d * c.n_layer * (4 if kv == d else 2), d * ff * c.n_layer * gated
    muon = [_MUON_COPIES * stack if stack == max(stacks) else 0 for stack in stacks]
    dropped = 1 if c.dropout else 0
    found += [
        part("attention norm", c.norm, c.n_layer, norm, 4 * d, d),
        part(
            "attention",
            ", ".join([heads, *filter(None, extras)]),
            c.n_layer,
            attention,
            2 * (attention - bias * (2 * d + 2 * kv)) + looks,
            (5 + dropped) * d + 4 * kv + 3 * weights,
            3 * weights * tokens + tables + muon[0],
        ),
        part("mlp norm", c.norm, c.n_layer, norm, 4 * d, d),
        part(
            "mlp",
            f"{c.mlp}, {d} → {ff} → {d}",
            c.n_layer,
            mlp,
            2 * d * ff * (gated + 1),
            (2 + gated) * ff + (1 + dropped) * d,
            (3 * ff + 4 * d) * tokens + (muon[1] if muon[1] > muon[0] else 0),
        ),
        part("final norm", c.norm, 1, norm, 4 * d, d),
    ]
    tied = c.tie_embeddings
    logits = part(
        "output",
        f"{d} → {c.vocab_size:,} tokens" + (", tied to the embedding" if tied else ""),
        1,
        0 if tied else c.vocab_size * d,
        2 * d * c.vocab_size,
        (5 if c.logit_softcap else 4) * c.vocab_size,
    )
    step = sum(one.memory - one.parameters * _STATE_BYTES for one in [*found, logits]) - 4 * max(muon)
    return _with_evaluation([*found, logits], c, gated, step)


def _with_evaluation(found: list[ModelPart], c: ModelConfig, gated: int, step: int) -> list[ModelPart]:
    """The parts, at its widest one with what the evaluation at the end takes more than the `step` bytes of a step's."""
    widest = {"output": 3 * c.vocab_size, "mlp": (2 + gated) * c.ff_width + 2 * c.d_model}
    name = max(widest, key=lambda part: widest[part])
    more = max(0, 4 * max(EVALUATION_TOKENS, c.max_seq_len) * widest[name] - step)
    return [replace(part, memory=part.memory + more) if part.name == name else part for part in found]


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
        memory = size * _STATE_BYTES + activations * 4 * batch_size
        found.append(ModelPart(name, type(child).__name__, count, size, spent // length, memory))
    return found


def _size(output: object) -> int:
    if isinstance(output, torch.Tensor):
        return output.numel()
    if isinstance(output, tuple | list):
        return sum(_size(item) for item in output)
    return 0

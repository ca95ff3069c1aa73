"""What a training will take of memory, before a byte of it is taken, and what would fit where that is too much: on a CPU the
system would kill the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from llm_lab import machine
from llm_lab.errors import BadValue
from llm_lab.models import cost
from llm_lab.models.bare import bare
from llm_lab.models.effects import EFFECTS
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig, abilities
from llm_lab.models.reckoning import STATE_BYTES
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.results import ModelPart
from llm_lab.training.options import TrainOptions
from llm_lab.training.plan import Plan

PROCESS = 130_000_000  # bytes that torch itself takes with its first step: modules, threads, kernels
STATE_COPIES = 3  # of weights and optimiser's values, in main memory while a state is written
_ROOM = 0.95  # of what is free is what a proposal may take: it is tried a little later
_SHARES = (
    1.0,
    0.75,
    0.5,
    0.375,
    0.25,
    0.125,
    0.0625,
)  # of layers and of width, among which a smaller model is looked for


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes on its device beyond what is taken already, and what is there."""

    bytes: int
    parameters: int
    there: machine.Memory

    def fits(self, room: float = 1.0) -> bool:
        return self.bytes <= room * self.there.available


def need(config: ModelConfig, options: TrainOptions, objective: Objective | None = None) -> Need:
    """Weights, gradients, optimiser's values and activations of a step, as `models.reckoning` counts them; what the objective
    adds; the evaluation at the end; on a CPU also torch itself, and the copies that a state is written from."""
    device = machine.device(options.device)
    parts = cost.parts(config, options.batch_size, options.device, options.optimizer)
    parameters, found = sum(part.parameters for part in parts), sum(part.memory for part in parts)
    blocks = sum(part.parameters for part in parts if part.block)
    if objective is not None and "gradients" in abilities(config):
        more, activations = _added(config, options, objective, parts)
        parameters, found = parameters + more, found + STATE_BYTES * more + activations
    if "gradients" in abilities(config):
        found += _beside(parameters, blocks, options, device)
    return Need(found, parameters, machine.device_memory(device))


def need_of_module(model: nn.Module, options: TrainOptions) -> Need:
    """Of a user's own module, whose activations nobody knows: gradients and optimiser's values; its weights are there."""
    device = machine.device(options.device)
    parameters = sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    there = 4 if device.type == "cpu" else 0
    found = (STATE_BYTES - there) * parameters + _beside(parameters, matrices, options, device)
    return Need(found, parameters, machine.device_memory(device))


def _beside(parameters: int, matrices: int, options: TrainOptions, device: torch.device) -> int:
    """Bytes beside what a parameter and its gradient take: fewer, since Muon keeps one value of a matrix where AdamW keeps
    two; more for the best weights, and on a CPU for writing states and for torch."""
    second = 4 * matrices if options.optimizer == "muon" else 0
    best = 4 * parameters if options.keep == "best" else 0
    if device.type != "cpu":
        # The copy that is saved is made in main memory where there is no room for it.
        return best - second - 4 * parameters
    state = 12 * parameters - second + best
    return best - second + STATE_COPIES * state - 4 * parameters + PROCESS


def _added(config: ModelConfig, options: TrainOptions, objective: Objective, parts: list[ModelPart]) -> tuple[int, int]:
    """Parameters that an objective adds to the model, and bytes of their activations: ELECTRA's generator, the heads of
    several tokens ahead."""
    with torch.device("meta"):
        trainee = objective.attach(bare(replace(config, n_layer=1, n_decoder_layer=1)))
    own = {id(p) for p in trainee.model.parameters()}
    parameters = sum(p.numel() for p in trainee.extras.parameters() if id(p) not in own)

    def kept(found: list[ModelPart]) -> int:
        return sum(part.memory - STATE_BYTES * part.parameters for part in found)

    activations = 0
    for module in trainee.extras.modules():
        if isinstance(module, LanguageModel) and module.config is not None:
            layers = replace(module.config, n_layer=config.n_layer)
            companion = cost.parts(layers, options.batch_size, options.device, "adamw")
            activations += kept(companion)
            # It was made with one block, as the model was.
            alike = cost.parts(module.config, options.batch_size)
            parameters += sum(part.parameters for part in companion) - sum(part.parameters for part in alike)
        elif isinstance(module, nn.ModuleList):  # heads, each a block and a turn of the output map
            head = kept([part for part in parts if part.block]) // config.n_layer
            activations += len(module) * (head + kept([part for part in parts if part.kind == "output"]))
    return parameters, activations


def check(config: ModelConfig, options: TrainOptions, objective: Objective | None = None, fixed: bool = False) -> Need:
    """BadValue where it does not fit; it says what does. `fixed`: the model's sizes are not to be chosen."""
    found = need(config, options, objective)
    if found.fits():
        return found
    tokens = f"batch_size {options.batch_size} × {config.max_seq_len} tokens"
    flags = _smaller(config, options, objective, fixed)
    would = f"{flags} fits" if flags else "nothing smaller of its kind fits either; a shorter --max_seq_len may"
    raise _refusal(found, options, tokens, would)


def check_module(model: nn.Module, options: TrainOptions) -> Need:
    """The same of a user's own module."""
    found = need_of_module(model, options)
    if found.fits():
        return found
    raise _refusal(found, options, "activations not counted", "a smaller one would do")


def _refusal(found: Need, options: TrainOptions, what: str, would: str) -> BadValue:
    there = found.there
    return BadValue(
        f"the model ({found.parameters / 1e6:,.1f} M parameters, {what}) needs about {found.bytes / 1e9:,.1f} GB to train, and "
        f"{there.available / 1e9:,.1f} GB of {there.total / 1e9:,.1f} GB are free on {machine.device(options.device)}; {would}"
    )


def _smaller(config: ModelConfig, options: TrainOptions, objective: Objective | None, fixed: bool) -> str:
    """Flags that fit: the largest batch that makes the same steps with more microbatches, else the largest model."""
    whole = options.batch_size * options.accumulate
    least = objective.least_batch if objective is not None else 1
    for size in range(options.batch_size - 1, least - 1, -1):
        if whole % size == 0:
            fewer = replace(options, batch_size=size, accumulate=whole // size)
            if need(config, fewer, objective).fits(_ROOM):
                return f"--batch_size {size} --accumulate {whole // size}"
    if fixed or "gradients" not in abilities(config):
        return ""
    fitting = [
        (found.parameters, flags)
        for flags in _sizes(config)
        if (found := need(replace(config, **flags), options, objective)).fits(_ROOM)
    ]
    if not fitting:
        return ""
    _, best = max(fitting, key=lambda one: one[0])
    return " ".join(f"--{name} {size}" for name, size in best.items())


def _sizes(config: ModelConfig) -> Iterator[dict[str, Any]]:
    """Fewer layers, and narrower: the sizes that change, as flags have them."""
    heads = 2 * config.n_head if "sites" in SHAPES.entry(config.shape).supports else 1  # a head is of an even width
    steps = {"n_layer": 1, "n_decoder_layer": 1, "d_model": heads, "d_ff": 2, "d_embed": 2}
    sizes = {name: size for name in steps if (size := getattr(config, name)) and EFFECTS[name].there(config)}
    for depth, width in itertools.product(_SHARES, _SHARES):
        found = {}
        for name, size in sizes.items():
            share = depth if name in ("n_layer", "n_decoder_layer") else width
            found[name] = max(steps[name], int(share * size) // steps[name] * steps[name])
        if changed := {name: size for name, size in found.items() if size != sizes[name]}:
            yield changed


# --- when it was too much after all -------------------------------------------------------------------------------------


def what_to_lower(plan: Plan) -> str:
    """One line for one whose step did not fit: the options that make the same step of smaller pieces."""
    size, whole = plan.options.batch_size, plan.options.batch_size * plan.options.accumulate
    fewer = next((n for n in range(size // 2, 0, -1) if whole % n == 0), 0)
    would = (
        f"--batch_size {fewer} --accumulate {whole // fewer}"
        if fewer
        else "a shorter --max_seq_len or a smaller --d_model"
    )
    return f"{plan.device} ran out of memory at batch_size {size}; {would} takes less"


def let_go(trainee: Trainee, optimizers: list[torch.optim.Optimizer]) -> None:
    """Gradients and optimiser's values away, and the weights off the device: a notebook keeps the last error, and by it
    whatever its functions had in hand."""
    optimizers.clear()
    for module in (trainee.model, trainee.extras):
        module.zero_grad(set_to_none=True)
        module.to("cpu")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""All that a run needs to go on from a step as if it had never stopped: tensors by name, and a few numbers. It knows no disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm_lab import machine
from llm_lab.errors import BadValue
from llm_lab.objectives.objective import Trainee

MODEL, EXTRAS, OPTIMIZER, BEST = "model.", "extras.", "optimizer.", "best."
BUFFER = "buffer."  # before the prefix of its module: one that the module keeps out of its state
PLAIN = "()"  # ends the key of what an optimiser holds as a plain number


@dataclass
class Progress:
    """How far a run is, as of a step's end. Random streams need no place in it: each step's come from its number."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # from the call
    seen: int = 0  # the last step that was validated
    last_eval: float = 0.0  # its seconds
    eval_time: float = 0.0  # what a validation costs, in seconds
    step_time: float = 0.0
    lr_scale: float = 1.0  # what a person made of the schedule
    late: float = 0.0  # seconds that had gone when the steps began, of a run that compiles them first
    shares: list[float] = field(default_factory=list)  # of a time budget: the checkpoints still to come
    best_loss: float | None = None


@dataclass(frozen=True)
class TrainState:
    """`tensors` are copies: model.…, extras.…, buffer.model.…, optimizer.<number>.<parameter>.<key>, best.<number>.… Those of a
    GPU are on it still where it has the room, so that the steps need not wait for them to come."""

    tensors: dict[str, Tensor]
    progress: Progress
    made: torch.cuda.Event | None = None  # when a GPU has made the copies

    def brought(self) -> dict[str, Tensor]:
        """The tensors on the CPU, once the device has made them; steps issued since then are not waited for. A GPU's copies are
        given up."""
        device = next((tensor.device for tensor in self.tensors.values() if tensor.is_cuda), None)
        if self.made is None or device is None:
            return self.tensors
        beside = machine.side_stream(device)
        beside.wait_event(self.made)
        with torch.cuda.stream(beside):
            return {name: self.tensors.pop(name).cpu() for name in list(self.tensors)}

    def numbers(self) -> dict[str, Any]:
        return asdict(self.progress)


def modules(trainee: Trainee) -> dict[str, torch.nn.Module]:
    return {MODEL: trainee.model, EXTRAS: trainee.extras}


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors that share memory (tied embeddings) the first."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if not tensor.numel() or key not in seen:
            found[name] = tensor
        seen.add(key)
    return found


def gather(
    trainee: Trainee, optimizers: Sequence[torch.optim.Optimizer], best: Sequence[Mapping[str, Tensor]] = ()
) -> dict[str, Tensor]:
    """Copies of all that a step changes. Tensors that share memory are there once. BadValue for what is neither a tensor
    nor a number."""
    held = {prefix: module.state_dict() for prefix, module in modules(trainee).items()}
    found = distinct({prefix + name: tensor for prefix, state in held.items() for name, tensor in state.items()})
    for prefix, module in modules(trainee).items():
        found |= {f"{BUFFER}{prefix}{name}": tensor for name, tensor in _kept_out(module).items()}
    names = {id(parameter): name for name, parameter in trainee.parameters()}
    for i, optimizer in enumerate(optimizers):
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                place = f"{OPTIMIZER}{i}.{names[id(parameter)]}.{key}"
                if isinstance(value, Tensor):
                    found[place] = value
                elif isinstance(value, bool | int | float):
                    found[place + PLAIN] = torch.tensor(
                        value, dtype=None if isinstance(value, bool | int) else torch.double
                    )
                elif value is not None:
                    raise BadValue(
                        f"{type(optimizer).__name__} holds {key}, a {type(value).__name__}, and only tensors and numbers can be saved"
                    )
    for i, state in enumerate(best):
        found |= {f"{BEST}{i}.{name}": tensor for name, tensor in state.items()}
    on_gpu = [tensor for tensor in found.values() if tensor.is_cuda]
    # The next step must find as much memory as the last one did.
    room = machine.device_memory(on_gpu[0].device).available if on_gpu else 0
    there = room > 2 * sum(tensor.nbytes for tensor in on_gpu)
    return {
        name: tensor.detach().to(tensor.device if there else "cpu", copy=True).contiguous()
        for name, tensor in found.items()
    }


def spread(tensors: Mapping[str, Tensor], trainee: Trainee, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put the tensors of `gather` where they came from. ValueError for one that has no place, or another shape."""
    for prefix, module in modules(trainee).items():
        own = module.state_dict()
        for name, tensor in _under(tensors, prefix).items():
            if name not in own or own[name].shape != tensor.shape:
                raise ValueError(f"{prefix}{name} {tuple(tensor.shape)} has no place in this model")
            own[name].copy_(tensor)
        buffers = _kept_out(module)
        for name, tensor in _under(tensors, BUFFER + prefix).items():
            if name not in buffers or buffers[name].shape != tensor.shape:
                raise ValueError(f"{BUFFER}{prefix}{name} {tuple(tensor.shape)} has no place in this model")
            buffers[name].copy_(tensor)
    parameters = dict(trainee.parameters())
    for i, optimizer in enumerate(optimizers):
        for name, tensor in _under(tensors, f"{OPTIMIZER}{i}.").items():
            owner, _, key = name.rpartition(".")
            parameter = parameters.get(owner)
            if parameter is None:
                raise ValueError(f"{OPTIMIZER}{i}.{name} has no place in this optimiser")
            held = tensor.item() if key.endswith(PLAIN) else tensor.to(parameter.device, copy=True)
            optimizer.state[parameter][key.removesuffix(PLAIN)] = held


def best_of(tensors: Mapping[str, Tensor], count: int, device: torch.device) -> list[dict[str, Tensor]]:
    """The state of each module at the lowest validation loss so far."""
    return [
        {name: tensor.to(device, copy=True) for name, tensor in _under(tensors, f"{BEST}{i}.").items()}
        for i in range(count)
    ]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _kept_out(module: torch.nn.Module) -> dict[str, Tensor]:
    """The buffers that a module keeps out of its state (`persistent=False`): a step may change them too. Those of our own
    models are tables that their sizes give."""
    if getattr(module, "config", None) is not None:
        return {}
    state = module.state_dict()
    return {name: buffer for name, buffer in module.named_buffers() if name not in state}

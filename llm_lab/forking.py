"""A run that begins with the weights of another model: what of the request must be that model's, and where it came from."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from llm_lab.errors import BadValue, show
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig, ModelOptions
from llm_lab.objectives.objective import Trainee
from llm_lab.options import specs
from llm_lab.registry import load
from llm_lab.store.lm import LM

FREE = ("dropout", "attention_dropout")  # of the model's options, those that no weight depends on


def check(base: LM, given: Mapping[str, Any]) -> None:
    """BadValue for an option that would ask for another model, or another tokenizer, than the one it begins with."""
    base.model.need_weights()
    if "gradients" not in base.model.supports:
        raise BadValue(f"from: {base.name} has no gradients, and cannot be trained further; a transformer would do")
    if given.get("model") is not None:
        raise BadValue(f"from: {base.name} brings its own model; leave out --model, or --from")
    own = base.model.config
    for key in ("preset", *specs(ModelOptions)):
        if key in given and key not in FREE:
            now = f"has {key} {getattr(own, key)}" if own is not None and hasattr(own, key) else "has its own"
            if own is None or getattr(own, key, None) != given[key]:
                raise BadValue(
                    f"{key}: {base.name}, which it begins with, {now}, and {show(given[key])} was asked for; leave {key} out, or train without --from"
                )
    tokenizer = given.get("tokenizer")
    made = getattr(tokenizer, "tokenizer", tokenizer)
    same = (
        tokenizer is None
        or tokenizer == base.tokenizer.kind
        or getattr(made, "fingerprint", "") == base.tokenizer.fingerprint
    )
    if not same or "vocab_size" in given:
        key = "vocab_size" if same else "tokenizer"
        raise BadValue(
            f"{key}: {base.name}, which it begins with, reads {base.tokenizer.vocab_size:,} tokens of its own ({base.tokenizer.kind}); leave {key} out"
        )


def config(base: LM, given: Mapping[str, Any]) -> ModelConfig | None:
    """Its sizes, with what may be changed; None of a class of the user's."""
    changed = {key: given[key] for key in FREE if key in given}
    return None if base.model.config is None else replace(base.model.config, **changed)


def begun(base: LM, sizes: ModelConfig | None) -> LanguageModel:
    """A copy of its model; `base` stays as it is."""
    if sizes is None or sizes == base.model.config:
        return copy.deepcopy(base.model)
    made: LanguageModel = load(SHAPES.entry(sizes.shape).target)(sizes)
    made.load_state_dict(base.model.state_dict())
    return made


def bring_extras(base: LM, trainee: Trainee) -> None:
    """The heads and companions that its objective added, where the new objective has the same."""
    ours, theirs = trainee.extras.state_dict(), base.extras.state_dict()
    same = {name: tensor for name, tensor in theirs.items() if name in ours and ours[name].shape == tensor.shape}
    trainee.extras.load_state_dict(same, strict=False)


def lineage(base: LM) -> dict[str, Any]:
    """What tells where a run began: the name, the run, the step, and the weights themselves."""
    step = base.step if base.step is not None or base.run is None else base.run.reached
    return {
        "name": base.name,
        "run": base.run.id if base.run else None,
        "step": step,
        "weights": digest(base.model, base.extras),
    }


def digest(*modules: nn.Module) -> str:
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def lost(base: LM | None, told: Mapping[str, Any] | None) -> str:
    """The weights that a run began with, in words, where they are on the disk no more: those of a run that went on."""
    if base is None or told is None or base.run is None or base.step is not None:
        return ""
    there = base.run.status == "finished" and base.run.reached == told["step"]
    return "" if there else f"{base.name} as it was after step {told['step']}"


def said(told: Mapping[str, Any]) -> str:
    """A lineage in words."""
    where = f"{told['name'].partition('@')[0]}@{told['step']}" if told.get("step") is not None else str(told["name"])
    return f"from {where}" + (f" (run {told['run']})" if told.get("run") else "")

"""A soup: one model whose weights are the mean of the weights of several (Wortsman et al. 2022, model soups)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_lab.errors import BadValue
from llm_lab.models.ensemble import shares
from llm_lab.results import Listing
from llm_lab.store.lm import LM, in_common

_SAME = (
    "chat_template",
    "corpus",
    "held_out",
    "objective",
    "objective_options",
    "mix",
    "weights",
    "model_type",
    "given",
    "sizes",
)


def soup(lms: Sequence[LM], name: str, weights: Sequence[float] | None = None) -> LM:
    """Σᵢ wᵢ θᵢ over all floating-point weights and buffers, those of heads included; others must be the same in all.

    Raises BadValue that names the first difference where the models are not of the same make. `info["soup"]` says what
    it was made of.
    """
    each = shares("weights", weights, len(lms))
    first, *others = lms
    for other in others:
        _need_same_make(first, other)
    parts = [_whole(lm) for lm in lms]
    made = copy.deepcopy(parts[0])  # the model and its heads at once, so that what they share stays shared
    states = [part.state_dict() for part in parts]
    for key, tensor in made.state_dict().items():
        found = [state[key] for state in states]
        if tensor.is_floating_point():
            mean = sum(share * one.to(tensor.device, torch.float64) for share, one in zip(each, found, strict=True))
            tensor.copy_(mean)  # type: ignore[arg-type]  # the sum of no tensors is 0, and there are some
        elif any(not torch.equal(one.to(tensor.device), tensor) for one in found):
            raise BadValue(
                f"model: {_name(key)} holds whole numbers that differ, and their mean means nothing; an ensemble of these models would do: lab.ensemble([a, b])"
            )
    model: Any = made["model"]
    extras: Any = made["extras"]
    model.about = {}
    model.eval()
    table = [_part(lm, share) for lm, share in zip(lms, each, strict=True)]
    info = in_common(lms, _SAME) | {"soup": table}
    lm = LM(name, model, first.tokenizer, info=info, extras=extras.eval())
    lm.report = _report(lm, lms, table, weights)
    return lm


def _whole(lm: LM) -> nn.ModuleDict:
    return nn.ModuleDict({"model": lm.model, "extras": lm.extras})


def _need_same_make(one: LM, other: LM) -> None:
    """BadValue with the first thing in which two models differ."""

    def refuse(what: str, theirs: Any, ours: Any) -> BadValue:
        return BadValue(
            f"model: {other.name} has {what} {theirs}, and {one.name} {ours}; weights can be averaged where all is the same. An ensemble asks for the same tokens alone: lab.ensemble([a, b])"
        )

    if other.tokenizer.fingerprint != one.tokenizer.fingerprint:
        raise BadValue(
            f"model: {other.name} has another tokenizer than {one.name}, so the same weights stand for different tokens; train it with --tokenizer @{one.name}"
        )
    pairs: list[tuple[str, Any, Any]] = [("the objective", ",".join(other.objectives), ",".join(one.objectives))]
    kinds = [type(getattr(lm.model, "module", lm.model)).__name__ for lm in (other, one)]
    pairs.append(("the class", kinds[0], kinds[1]))
    if one.model.config is not None and other.model.config is not None:
        ours, theirs = one.model.config.to_dict(), other.model.config.to_dict()
        pairs += [(key, theirs[key], value) for key, value in ours.items()]
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise refuse(what, theirs, ours)
    mine, yours = (_shapes(_whole(lm).state_dict()) for lm in (one, other))
    for key in {**mine, **yours}:
        if mine.get(key) != yours.get(key):
            raise refuse(_name(key), yours.get(key, "not"), mine.get(key, "not"))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Each tensor's shape and, where it shares memory with one before it (tied embeddings), that one's name."""
    seen: dict[int, str] = {}
    found = {}
    for key, tensor in state.items():
        tied = seen.setdefault(tensor.data_ptr(), key) if tensor.numel() else key
        found[key] = f"{tuple(tensor.shape)}" + (f" tied to {_name(tied)}" if tied != key else "")
    return found


def _name(key: str) -> str:
    return key.removeprefix("model.")


def _part(lm: LM, share: float) -> dict[str, Any]:
    """What is known of one of the models."""
    known: dict[str, Any] = {"name": lm.name, "weight": round(share, 6)}
    if lm.run is None:
        return known
    plan, request = lm.run.read("plan").get("options"), lm.run.read("request")
    known["run"] = lm.run.id
    if isinstance(plan, dict) and isinstance(plan.get("seed"), int) and request.get("model", "own") is None:
        known["seed"] = plan["seed"]  # which drew the first weights
    return known


def _report(lm: LM, lms: Sequence[LM], table: Sequence[dict[str, Any]], weights: Sequence[float] | None) -> Listing:
    seeds = [row.get("seed") for row in table]
    if None in seeds:
        origin = "Whether these models began from the same weights is not known."
    elif len(set(seeds)) == 1:
        origin = f"All began from the same first weights (seed {seeds[0]}), and parted at the first step."
    else:
        origin = f"These models began from different weights (seeds {', '.join(map(str, seeds))}): the mean of such models is usually worse than each of them."
    told = "" if weights is None else f", weights={tuple(weights)!r}"
    parts = ", ".join(one.called for one in lms)
    size = sum(p.numel() for p in lm.model.parameters())
    return Listing(
        title=lm.name,
        facts=["soup: the mean of weights", f"{size / 1e6:.3g} M parameters", f"context {lm.max_seq_len}"],
        columns=["part", "weight", "run", "seed", "trained on"],
        rows=[
            [row["name"], row["weight"], row.get("run", ""), row.get("seed", ""), str(one.info.get("corpus", ""))]
            for row, one in zip(table, lms, strict=True)
        ],
        caption=f"{origin} A soup helps where models were trained further from one trained model (Wortsman et al. 2022); lab.evaluate([{lm.name}, {parts}]) says whether this one does.",
        code=f"lab.soup([{parts}], name={lm.name!r}{told})",
    )

"""Tensors under a family's names to ours and back, by the families' tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_lab.errors import BadValue, listing
from llm_lab.models.hf.family import Family, From
from llm_lab.models.layers import FusedLinear
from llm_lab.models.options import MLPS, ModelConfig

_LAYER = re.compile(r"(?<=blocks\.)\d+(?=\.)")
# Buffers that older versions of transformers stored (masks, position ids, angles), and a T5 table that nothing reads.
_HARMLESS = re.compile(
    r"(^|\.)(attn\.(masked_)?bias|position_ids|token_type_ids|rotary_emb\.inv_freq"
    r"|layer\.1\.EncDecAttention\.relative_attention_bias\.weight)$"
)
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms, as TensorFlow calls them


class Shelf:
    """The tensors of a folder under the names that they have in a model with its head, in whatever way they are
    stored: without the base's name before them, or norms under old names. They are read one by one."""

    def __init__(self, family: Family, names: Collection[str], read: Callable[[str], Tensor]) -> None:
        heads = {name for rule in family.head.values() for name in (*rule.names, *rule.instead)}
        heads |= set(family.extras.values())
        self._read = read
        self.stored: dict[str, str] = {}
        for name in names:
            module, _, end = name.rpartition(".")
            plain = f"{module}.{_OLD_ENDS.get(end, end)}" if module else end
            whole = plain.startswith(family.base) or module in heads or plain in heads
            self.stored[plain if whole else family.base + plain] = name

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def read(self, name: str) -> Tensor:
        """In float32; BadValue where it is a quantised one."""
        tensor = self._read(self.stored[name])
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadValue(
                f"{self.stored[name]} holds {kind}: the weights are quantised, and this lab reads plain ones"
            )
        return tensor.float()


@dataclass(frozen=True)
class Origin:
    """Where one tensor of ours stands, as its `From` has it, with the names written out."""

    names: tuple[str, ...]
    also: tuple[str, ...]
    instead: tuple[str, ...]
    turned: bool
    past_padding: bool


def shape_of(family: Family, options: Mapping[str, Any], shelf: Shelf) -> dict[str, Any]:
    """What only the tensors tell of a model: whether it has an output, whether that is tied, whether it has a pooler."""
    found: dict[str, Any] = {}
    (embed,), (unembed,) = family.stack["embed"].names, family.head["unembed"].names
    embed, unembed, tied = f"{family.base}{embed}.weight", f"{unembed}.weight", bool(options["tie_embeddings"])
    before = [rule.names[0] for ours, rule in family.head.items() if ours.startswith("head.")]
    whole = all(f"{name}.weight" in shelf for name in before) and (tied or unembed in shelf)
    found["output"] = family.output if whole or "none" not in family.classes else "none"
    if tied and unembed in shelf and embed in shelf:
        # As transformers 5: two that differ are two, whatever the config says.
        tied = torch.equal(shelf.read(unembed), shelf.read(embed))
    found["tie_embeddings"] = tied and found["output"] != "none"
    found["output_bias"] = found["output"] == "mlm"
    if "pooler" not in family.fixed:
        found["pooler"] = f"{family.base}{family.stack['pooler.dense'].names[0]}.weight" in shelf
    return found


def origins(family: Family, config: ModelConfig, model: nn.Module) -> dict[str, Origin]:
    """For each tensor of a model of ours (which may be on `meta`), tied ones once, where it stands in a model with its
    head. BadValue for a tensor that the family has no name for."""
    found: dict[str, Origin] = {}
    gated = "gated" in MLPS[config.mlp].supports
    seen: set[int] = set()
    for ours, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        rule, prefix, end = _rule(family, ours)
        layer = _LAYER.search(ours)
        number = layer[0] if layer else ""

        def full(names: tuple[str, ...], prefix: str = prefix, end: str = end, n: str = number) -> tuple[str, ...]:
            return tuple(f"{prefix}{name.replace('*', n)}{end}" for name in names)

        names = rule.gated if rule.gated and gated else rule.names
        turned = rule.turned and tensor.ndim == 2
        found[ours] = Origin(full(names), full(rule.also), full(rule.instead), turned, rule.past_padding)
    return found


def _rule(family: Family, ours: str) -> tuple[From, str, str]:
    """The line for a tensor of ours, what stands before its names, and what follows them (`.weight`)."""
    module, _, end = ours.rpartition(".")
    for table, prefix in ((family.stack, family.base), (family.head, "")):
        for name, rest in ((ours, ""), (module, f".{end}")):
            for key in (name, _LAYER.sub("*", name)):
                if key in table:
                    return table[key], prefix, rest
    raise BadValue(f"{ours} has no name in transformers; use format='lab'")


def incoming(
    family: Family, config: ModelConfig, model: nn.Module, shelf: Shelf, rows_before: int
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of ours with its value, one at a time. BadValue, before the first, for names that are missing or that
    nobody knows; on the way for a shape that does not fit."""
    where = origins(family, config, model)
    places = {ours: _places(origin, shelf) for ours, origin in where.items()}
    missing = [name for ours, names in places.items() if not names for name in where[ours].names if name not in shelf]
    known = {name for origin in where.values() for name in (*origin.names, *origin.also, *origin.instead)}
    known |= {f"{name}.{end}" for name in family.extras.values() for end in ("weight", "bias")}
    known |= {f"{name}.weight" for name in family.head["unembed"].names}  # equal to the embeddings, where it is tied
    unknown = [stored for name, stored in shelf.stored.items() if name not in known and not _HARMLESS.search(name)]
    if missing:
        raise BadValue(f"{listing(missing, 3)} is missing; a whole copy of its folder would do")
    if unknown:
        raise BadValue(
            f"{listing(unknown, 3)} is nothing that this lab knows in such a model; the model without what was added to it would do"
        )
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for ours, origin in where.items():
        value = _value(shelf, places[ours], origin, rows_before)
        if tuple(value.shape) != sizes[ours]:
            raise BadValue(
                f"{origin.names[0]} has shape {tuple(value.shape)}, and by config.json {ours} has {sizes[ours]}; a whole copy of its folder would do"
            )
        yield ours, value


def _places(origin: Origin, shelf: Shelf) -> tuple[str, ...]:
    """The names under which a tensor is really stored; none where it is not."""
    if all(name in shelf for name in origin.names):
        return origin.names
    return next(((name,) for name in (*origin.also, *origin.instead) if name in shelf), ())


def _value(shelf: Shelf, places: tuple[str, ...], origin: Origin, rows_before: int) -> Tensor:
    parts = [shelf.read(name) for name in places]
    for other in origin.also:
        if other in shelf and other not in places and not torch.equal(shelf.read(other), parts[0]):
            raise BadValue(f"{places[0]} and {other} differ, and here they are one")
    value = torch.cat(parts) if len(parts) > 1 else parts[0]
    value = value.T if origin.turned else value
    return value[rows_before:] if origin.past_padding else value


def outgoing(
    family: Family, config: ModelConfig, model: nn.Module, extras: nn.ModuleDict, rows_before: int
) -> dict[str, Tensor]:
    """A model's tensors under the family's names, those of a model without a head where it has no output."""
    found: dict[str, Tensor] = {}
    state = model.state_dict()
    for ours, origin in origins(family, config, model).items():
        value = state[ours].detach().float().cpu()
        if origin.past_padding:
            value = torch.cat([value.new_zeros(rows_before, value.shape[1]), value])
        module = model.get_submodule(ours.rpartition(".")[0])
        fused = len(origin.names) > 1
        assert not fused or isinstance(module, FusedLinear)
        parts = value.split(module.splits) if fused else [value]  # type: ignore[arg-type]
        for name, part in zip(origin.names, parts, strict=True):
            found[name] = (part.T if origin.turned else part).contiguous()
        found |= {name: value.clone() for name in origin.instead}
    if config.output == "none":
        found = {name.removeprefix(family.base): value for name, value in found.items()}
    for ours, name in family.extras.items():
        if ours in extras:
            found |= {f"{name}.{end}": value.detach().float().cpu() for end, value in extras[ours].state_dict().items()}
    return found

"""config.json to our ModelConfig and back, by the families' tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_lab.errors import BadValue, listing, show
from llm_lab.models.hf.families import FAMILIES
from llm_lab.models.hf.family import Family
from llm_lab.models.hf.parts import Must, rows_before
from llm_lab.models.options import ModelConfig
from llm_lab.models.presets import PRESETS

_ALL = (Must("quantization_config", (None,)), Must("pruned_heads", ({}, None)))  # whatever the family
# How weights begin is nothing that a finished model shows.
_OF_TRAINING = frozenset({"zero_init"})


def family_of(about: Mapping[str, Any]) -> str:
    """The family's name in FAMILIES; BadValue where there is none for this model_type."""
    kind = about.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise BadValue(f"model_type {show(kind)} is none that this lab can read; it takes {listing(FAMILIES)}")
    return kind


def read_config(about: Mapping[str, Any]) -> dict[str, Any]:
    """Our options as a config.json has them; what only the tensors tell (output, pooler) is left out."""
    family: Family = FAMILIES.load(family_of(about))
    options = dict(family.fixed)
    for part in (*_ALL, *family.parts):
        options |= part.read(about)
    return options


def padding_rows(family: Family, about: Mapping[str, Any]) -> int:
    """How many rows of the table of positions are padding's."""
    return rows_before(about) if any(rule.past_padding for rule in family.stack.values()) else 0


def write_config(
    config: ModelConfig, ids: Mapping[str, int | None], prefer: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The family that has such a model, and its config.json; `ids` are the reserved tokens' (pad_token_id, …).

    Several may have it: then it is `prefer`, or the one whose preset is nearest. BadValue names what fits none.
    """
    found, near = {}, {}
    for name in FAMILIES:
        about, unfit = _written(FAMILIES.load(name), config)
        if not unfit:
            found[name] = about
        near[name] = unfit
    if not found:
        name = min(near, key=lambda one: (len(near[one]), -_alike(one, config)))
        raise BadValue(
            f"format 'hf': no family of transformers has such a model; the nearest is {name}, which has not {listing(near[name])}; use format='lab'"
        )
    name = prefer if prefer in found else max(found, key=lambda one: _alike(one, config))
    about = {"model_type": name, **found[name], "dtype": "float32", **ids}
    if before := padding_rows(FAMILIES.load(name), about):
        about |= {"pad_token_id": before - 1, "max_position_embeddings": config.max_seq_len + before}
    return name, about


def _written(family: Family, config: ModelConfig) -> tuple[dict[str, Any], list[str]]:
    """The keys, and what the family has no word for."""
    unfit = []
    stands_for = {"n_kv_head": config.n_head, "d_head": config.d_model // config.n_head, "d_embed": config.d_model}
    for option, value in family.fixed.items():
        ours = getattr(config, option)
        if option in _OF_TRAINING or ours == value or (value is None and ours == stands_for[option]):
            continue
        unfit.append(f"{option} {show(ours)}")
    if config.output not in family.classes:
        unfit.append(f"output {config.output!r}")
    elif config.output == "mlm" and not config.output_bias:
        unfit.append("output_bias False")
    about: dict[str, Any] = {"architectures": [family.classes.get(config.output, "")]}
    for part in family.parts:
        try:
            about |= part.write(config)
        except BadValue as error:
            unfit.append(str(error))
    return about, unfit


def _alike(name: str, config: ModelConfig) -> int:
    """In how many options a family's preset is like this model."""
    return sum(getattr(config, option) == value for option, value in PRESETS.load(name).overrides.items())

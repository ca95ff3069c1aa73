"""How keys of a config.json are options of ours, both ways: the pieces that a family's table is made of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llm_lab.errors import BadValue, listing, show
from llm_lab.models.options import ModelConfig

About = Mapping[str, Any]  # what a config.json holds

# Options that may be left to others, and what they come to.
_WORKED_OUT = {
    "n_kv_head": "kv_heads",
    "d_head": "head_dim",
    "d_ff": "ff_width",
    "d_embed": "embed_width",
    "n_decoder_layer": "decoder_layers",
    "attention_dropout": "weights_dropout",
}


@runtime_checkable
class Part(Protocol):
    """Some keys of config.json, and the options of ours that they are."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def options(self) -> tuple[str, ...]: ...

    def read(self, about: About) -> dict[str, Any]:
        """Our options; BadValue where the keys say what this lab does not have."""

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The keys; BadValue where the family has no word for it."""


@dataclass(frozen=True)
class Field:
    """One key that is one option; with `values`, the words of theirs for each of ours."""

    key: str
    option: str
    default: Any = None  # where config.json is silent
    values: Mapping[Any, Any] | None = None
    also: tuple[str, ...] = ()  # keys that are written alike
    least: int | None = None  # what a model of the family must have

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, *self.also)

    @property
    def options(self) -> tuple[str, ...]:
        return (self.option,)

    def read(self, about: About) -> dict[str, Any]:
        value = about.get(self.key)
        value = self.default if value is None else value
        if self.values is None:
            return {self.option: value}
        if not isinstance(value, Hashable) or value not in self.values:
            raise lacking(self.key, value, self.values)
        return {self.option: self.values[value]}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, _WORKED_OUT.get(self.option, self.option))
        if self.values is not None:
            words = [word for word, ours in self.values.items() if ours == value]
            if not words:
                raise BadValue(f"{self.option} {show(value)}")
            value = words[0]
        if self.least is not None and value < self.least:
            raise BadValue(f"{self.option} {show(value)}")
        return dict.fromkeys(self.keys, value)


@dataclass(frozen=True)
class Must:
    """A key that changes what a model computes, and may only say what this lab has. The first value is written."""

    key: str
    values: tuple[Any, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    options = ()

    def read(self, about: About) -> dict[str, Any]:
        value = about.get(self.key, self.values[0])
        if value not in self.values:
            raise lacking(self.key, value, self.values)
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {} if self.values[0] is None else {self.key: self.values[0]}


@dataclass(frozen=True)
class Rope:
    """Plain rotary positions, under the old keys (rope_theta, rope_scaling) or the new one (rope_parameters)."""

    default: float = 10000.0
    keys = ("rope_theta", "rope_scaling", "rope_parameters")
    options = ("rope_theta",)

    def read(self, about: About) -> dict[str, Any]:
        theta = about.get("rope_theta")
        for key in ("rope_scaling", "rope_parameters"):
            said = about.get(key) or {}
            if not isinstance(said, Mapping):
                raise lacking(key, said, ({"rope_type": "default"},))
            kind = said.get("rope_type", said.get("type", "default"))
            if kind != "default":
                raise lacking(f"{key}.rope_type", kind, ("default",))
            if said.get("partial_rotary_factor", 1.0) != 1.0:
                raise lacking(f"{key}.partial_rotary_factor", said["partial_rotary_factor"], (1.0,))
            theta = said.get("rope_theta", theta)
        return {"rope_theta": self.default if theta is None else theta}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        theta = config.rope_theta
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}


@dataclass(frozen=True)
class SlidingWindow:
    """Mistral's window, or none."""

    default: int | None = 4096
    keys = ("sliding_window",)
    options = ("attention", "window")

    def read(self, about: About) -> dict[str, Any]:
        window = about.get("sliding_window", self.default)
        return {"attention": "full"} if window is None else {"attention": "window", "window": window}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        if config.attention not in ("full", "window"):
            raise BadValue(f"attention {config.attention!r}")
        return {"sliding_window": config.window if config.attention == "window" else None}


@dataclass(frozen=True)
class Factorised:
    """ALBERT's embeddings: it maps them to the model's width always, and this lab only where the two differ."""

    keys = ("embedding_size",)
    options = ("d_embed",)

    def read(self, about: About) -> dict[str, Any]:
        width, model = about.get("embedding_size", 128), about.get("hidden_size", 4096)
        if width == model:
            raise BadValue(f"embedding_size {show(width)} is hidden_size too, and this lab takes another one")
        return {"d_embed": width}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        if config.embed_width == config.d_model:
            raise BadValue(f"d_embed {config.embed_width}, which is d_model too")
        return {"embedding_size": config.embed_width}


@dataclass(frozen=True)
class PositionsPastPadding:
    """RoBERTa's context: its table of positions begins with rows that only padding has."""

    keys = ("max_position_embeddings",)
    options = ("max_seq_len",)

    def read(self, about: About) -> dict[str, Any]:
        rows, before = about.get("max_position_embeddings", 512), rows_before(about)
        if not isinstance(rows, int) or rows <= before:
            raise lacking("max_position_embeddings", rows, (before + 512,))
        return {"max_seq_len": rows - before}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "max_position_embeddings": config.max_seq_len
        }  # the rows before it are added once padding's id is known


def rows_before(about: About) -> int:
    """How many rows of RoBERTa's table of positions come before the first position: padding's id and one."""
    padding = about.get("pad_token_id")
    padding = 1 if padding is None else padding
    if not isinstance(padding, int) or padding < 0:
        raise lacking("pad_token_id", padding, (1,))
    return padding + 1


_FEED_FORWARD = {
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_new": "gelu",
    "gated-gelu": "geglu",
    "gated-gelu_new": "geglu",
    "gated-silu": "swiglu",
}


@dataclass(frozen=True)
class FeedForward:
    """T5's MLP: `gated-gelu` means GELU in its tanh form, and an activation named apart is the one that counts."""

    keys = ("feed_forward_proj", "dense_act_fn", "is_gated_act")
    options = ("mlp",)

    def read(self, about: About) -> dict[str, Any]:
        word = about.get("feed_forward_proj") or "relu"
        if word != "gated-gelu" and (own := about.get("dense_act_fn")):
            gated = about.get("is_gated_act", str(word).startswith("gated-"))
            word = f"gated-{own}" if gated else own
        if word not in _FEED_FORWARD:
            raise lacking("feed_forward_proj", word, _FEED_FORWARD)
        return {"mlp": _FEED_FORWARD[word]}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        words = [word for word, ours in _FEED_FORWARD.items() if ours == config.mlp]
        if not words:
            raise BadValue(f"mlp {config.mlp!r}")
        return {"feed_forward_proj": words[0]}


@dataclass(frozen=True)
class T5Output:
    """T5 ties its output always and scales it; T5 1.1 does neither. One key stands for both in older files; which of
    them are tied can only be told from the tensors."""

    keys = ("tie_word_embeddings", "scale_decoder_outputs")
    options = ("tie_embeddings", "scale_logits")

    def read(self, about: About) -> dict[str, Any]:
        scaled = about.get("scale_decoder_outputs")
        if scaled is None:
            scaled = about.get("tie_word_embeddings") is not False
        return {"tie_embeddings": True, "scale_logits": scaled}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        tied = config.tie_embeddings or config.scale_logits
        return {"tie_word_embeddings": tied, "scale_decoder_outputs": config.scale_logits}


def lacking(key: str, value: Any, works: Any) -> BadValue:
    """The error for a key that says what this lab does not have."""
    return BadValue(f"{key} {show(value)} is not something this lab has; it takes {listing(map(show, works))}")

"""Which options have an effect only beside others; checked where somebody gave them. Configs that are loaded, and
presets, may state what is idle."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llm_lab.errors import BadValue, show
from llm_lab.models.options import PATTERNS, ModelConfig, ModelOptions
from llm_lab.options import specs


@dataclass(frozen=True)
class Effect:
    """An option has an effect where the option `of` has one of `values`; where there are none, where it is set at all."""

    of: str
    values: tuple[str, ...] = ()

    def there(self, config: ModelConfig) -> bool:
        value = getattr(config, self.of)
        return value in self.values if self.values else bool(value)


_STACKS = ("decoder", "encoder", "encoder_decoder", "permutation")
_LAYERS = (*_STACKS, "lstm", "conv")

EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(("d_model", "d_embed"), Effect("shape", (*_LAYERS, "skipgram"))),
    **dict.fromkeys(
        ("n_layer", "norm", "norm_eps", "bias", "dropout", "zero_init", "logit_softcap", "tie_embeddings")
        + ("output", "output_bias"),
        Effect("shape", _LAYERS),
    ),
    **dict.fromkeys(
        ("n_head", "n_kv_head", "d_head", "d_ff", "norm_place", "embed_norm", "position", "attention", "mlp")
        + ("n_expert", "qk_norm", "scale_scores", "scale_embeddings", "scale_logits", "share_layers", "n_token_type")
        + ("attention_dropout",),
        Effect("shape", _STACKS),
    ),
    "n_decoder_layer": Effect("shape", ("encoder_decoder",)),
    "pooler": Effect("shape", ("encoder", "decoder")),
    "order": Effect("shape", ("ngram",)),
    "kernel": Effect("shape", ("conv",)),
    "rope_theta": Effect("position", ("rotary",)),
    **dict.fromkeys(("rel_buckets", "rel_distance"), Effect("position", ("t5",))),
    "window": Effect("attention", ("window", "dilated", "longformer", "bigbird")),
    "stride": Effect("attention", ("strided", "dilated")),
    "n_global": Effect("attention", ("longformer", "bigbird")),
    "n_random": Effect("attention", ("bigbird",)),
    "sparse_block": Effect("attention", tuple(name for name in PATTERNS if name != "full")),
    **dict.fromkeys(("n_active", "router_loss"), Effect("n_expert")),
    "qk_gain": Effect("qk_norm"),
}


def check_effects(config: ModelConfig, given: Collection[str]) -> None:
    """BadValue where an option that was given has no effect in that config. None, false and 0 ask for nothing."""
    for name in given:
        effect, value = EFFECTS.get(name), getattr(config, name)
        if effect is None or not value or effect.there(config):
            continue
        wanted, example = f"--{effect.of}", specs(ModelOptions)[effect.of].show_example()
        if effect.values:
            wanted += f" {' or '.join(filter(None, [', '.join(effect.values[:-1]), effect.values[-1]]))}"
            example = f"--{effect.of} {effect.values[0]}"
        itself = f"--{name}" if value is True else f"--{name} {value}"
        raise BadValue(
            f"{name}: {show(value)} has an effect with {wanted}, and {effect.of} is {getattr(config, effect.of)}; leave it out, or use for example {example} {itself}"
        )

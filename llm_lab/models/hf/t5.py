"""T5 (Raffel et al. 2020), T5 1.1 and Flan-T5, as transformers has them."""

from __future__ import annotations

from llm_lab.models.hf.family import PLAIN, Family, From, names, without
from llm_lab.models.hf.parts import FeedForward, Field, Must, T5Output


def _t5_stack(name: str, mlp: int) -> dict[str, str | tuple[str, ...] | From]:
    """One of T5's two stacks; `mlp` is the MLP's number among the parts of a block."""
    block, own = f"{name}.blocks.*", f"{name}.block.*.layer"
    dense = f"{own}.{mlp}.DenseReluDense"
    return {
        f"{block}.attn.qkv": (f"{own}.0.SelfAttention.q", "k", "v"),
        f"{block}.attn.out": f"{own}.0.SelfAttention.o",
        f"{block}.attn_norm": f"{own}.0.layer_norm",
        f"{block}.mlp.up": From((f"{dense}.wi",), gated=(f"{dense}.wi_0", f"{dense}.wi_1")),
        f"{block}.mlp.down": f"{dense}.wo",
        f"{block}.mlp_norm": f"{own}.{mlp}.layer_norm",
        f"{name}.position.table": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{name}.norm": f"{name}.final_layer_norm",
    }


T5 = Family(
    base="",
    classes={"linear": "T5ForConditionalGeneration"},
    objective="span_corruption",
    fixed=without(PLAIN, "d_head", "scale_logits")
    | dict(shape="encoder_decoder", norm="rmsnorm", position="t5", bias=False, scale_scores=False),
    parts=(
        Field("vocab_size", "vocab_size", 32128),
        Field("d_model", "d_model", 512),
        Field("d_kv", "d_head", 64),
        Field("d_ff", "d_ff", 2048),
        Field("num_layers", "n_layer", 6),
        Field("num_decoder_layers", "n_decoder_layer"),
        Field("num_heads", "n_head", 8),
        Field("n_positions", "max_seq_len", 512),
        Field("relative_attention_num_buckets", "rel_buckets", 32),
        Field("relative_attention_max_distance", "rel_distance", 128),
        Field("layer_norm_epsilon", "norm_eps", 1e-6),
        Field("dropout_rate", "dropout", 0.1),
        FeedForward(),
        T5Output(),
        Must("is_decoder", (False,)),
    ),
    stack=names(
        {
            "embed": From(("shared",), also=("encoder.embed_tokens", "decoder.embed_tokens")),
            **_t5_stack("encoder", 1),
            **_t5_stack("decoder", 2),
            "decoder.blocks.*.cross.q": "decoder.block.*.layer.1.EncDecAttention.q",
            "decoder.blocks.*.cross.kv": ("decoder.block.*.layer.1.EncDecAttention.k", "v"),
            "decoder.blocks.*.cross.out": "decoder.block.*.layer.1.EncDecAttention.o",
            "decoder.blocks.*.cross_norm": "decoder.block.*.layer.1.layer_norm",
        }
    ),
    head=names({"unembed": "lm_head"}),
)

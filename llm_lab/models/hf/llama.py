"""LLaMA, Mistral and Qwen3, which differ in a few keys, as transformers has them."""

from __future__ import annotations

from typing import Any

from llm_lab.models.hf.family import PLAIN, Family, names
from llm_lab.models.hf.parts import Field, Must, Part, Rope, SlidingWindow


def _llama(
    name: str,
    *parts: Part,
    kv_heads: int | None = None,
    d_head: int | None = None,
    d_ff: int = 11008,
    context: int = 2048,
    **fixed: Any,
) -> Family:
    """LLaMA and those that were made after it: they differ in a few keys, and in what a silent config means."""
    own = {option for part in parts for option in part.options}
    plain = {key: value for key, value in PLAIN.items() if key not in {*own, "n_kv_head", "d_head"}}
    return Family(
        base="model.",
        classes={"linear": f"{name}ForCausalLM", "none": f"{name}Model"},
        objective="clm",
        fixed={**plain, "shape": "decoder", "norm": "rmsnorm", "position": "rotary", "bias": False, **fixed},
        parts=(
            Field("vocab_size", "vocab_size", 32000),
            Field("hidden_size", "d_model", 4096),
            Field("intermediate_size", "d_ff", d_ff),
            Field("num_hidden_layers", "n_layer", 32),
            Field("num_attention_heads", "n_head", 32),
            Field("num_key_value_heads", "n_kv_head", kv_heads),
            Field("head_dim", "d_head", d_head),
            Field("max_position_embeddings", "max_seq_len", context),
            Field("rms_norm_eps", "norm_eps", 1e-6),
            Field("hidden_act", "mlp", "silu", {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu"}),
            Field("attention_dropout", "attention_dropout", 0.0),
            Field("tie_word_embeddings", "tie_embeddings", False),
            Rope(),
            Must("partial_rotary_factor", (None, 1.0)),
            Must("attention_bias", (False,)),
            Must("mlp_bias", (False,)),
            *parts,
        ),
        stack=names(
            {
                "embed": "embed_tokens",
                "blocks.*.attn_norm": "layers.*.input_layernorm",
                "blocks.*.attn.qkv": ("layers.*.self_attn.q_proj", "k_proj", "v_proj"),
                "blocks.*.attn.q_norm": "layers.*.self_attn.q_norm",
                "blocks.*.attn.k_norm": "layers.*.self_attn.k_norm",
                "blocks.*.attn.out": "layers.*.self_attn.o_proj",
                "blocks.*.mlp_norm": "layers.*.post_attention_layernorm",
                "blocks.*.mlp.up": ("layers.*.mlp.gate_proj", "up_proj"),
                "blocks.*.mlp.down": "layers.*.mlp.down_proj",
                "norm": "norm",
            }
        ),
        head=names({"unembed": "lm_head"}),
    )


LLAMA = _llama("Llama")
MISTRAL = _llama("Mistral", SlidingWindow(), kv_heads=8, d_ff=14336, context=131072)
QWEN3 = _llama(
    "Qwen3",
    Must("use_sliding_window", (False,)),
    kv_heads=32,
    d_head=128,
    d_ff=22016,
    context=32768,
    qk_norm=True,
    qk_gain=True,
)

"""GPT-2 (Radford et al. 2019), as transformers has it."""

from __future__ import annotations

from llm_lab.models.hf.family import PLAIN, Family, From, names
from llm_lab.models.hf.parts import Field, Must

GPT2 = Family(
    base="transformer.",
    classes={"linear": "GPT2LMHeadModel", "none": "GPT2Model"},
    objective="clm",
    fixed={**PLAIN, "shape": "decoder", "norm": "layernorm", "position": "learned", "bias": True},
    parts=(
        Field("vocab_size", "vocab_size", 50257),
        Field("n_layer", "n_layer", 12),
        Field("n_head", "n_head", 12),
        Field("n_embd", "d_model", 768),
        Field("n_inner", "d_ff"),
        Field("n_positions", "max_seq_len", 1024, also=("n_ctx",)),
        Field("layer_norm_epsilon", "norm_eps", 1e-5),
        Field(
            "activation_function",
            "mlp",
            "gelu_new",
            {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf", "relu": "relu"},
        ),
        Field("resid_pdrop", "dropout", 0.1, also=("embd_pdrop",)),
        Field("attn_pdrop", "attention_dropout", 0.1),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Must("scale_attn_weights", (True,)),
        Must("scale_attn_by_inverse_layer_idx", (False,)),
        Must("add_cross_attention", (False,)),
    ),
    stack=names(
        {
            "embed": "wte",
            "position.table": "wpe",
            "blocks.*.attn_norm": "h.*.ln_1",
            "blocks.*.attn.qkv": From(("h.*.attn.c_attn",), turned=True),
            "blocks.*.attn.out": From(("h.*.attn.c_proj",), turned=True),
            "blocks.*.mlp_norm": "h.*.ln_2",
            "blocks.*.mlp.up": From(("h.*.mlp.c_fc",), turned=True),
            "blocks.*.mlp.down": From(("h.*.mlp.c_proj",), turned=True),
            "norm": "ln_f",
        }
    ),
    head=names({"unembed": "lm_head"}),
)

"""BERT, RoBERTa, ALBERT and DistilBERT, as transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_lab.models.hf.family import PLAIN, Family, From, names, without
from llm_lab.models.hf.parts import Factorised, Field, Must, Part, PositionsPastPadding

# What all readers of both ways have in common in our words.
_BOTH_WAYS: dict[str, Any] = PLAIN | dict(
    shape="encoder", norm="layernorm", norm_place="post", embed_norm=True, position="learned", bias=True
)
_EXACT_GELU = {"gelu": "gelu_erf"}
_BOTH_GELUS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}


def _bert_parts(
    positions: Part, activations: Mapping[Any, str], eps: float = 1e-12, **defaults: Any
) -> tuple[Part, ...]:
    """The keys that BERT, RoBERTa and ALBERT have alike. `defaults` are those in which ALBERT differs."""
    silent = dict(vocab_size=30522, hidden=768, inner=3072, heads=12, act="gelu", dropout=0.1) | defaults
    return (
        Field("vocab_size", "vocab_size", silent["vocab_size"]),
        Field("hidden_size", "d_model", silent["hidden"]),
        Field("intermediate_size", "d_ff", silent["inner"]),
        Field("num_hidden_layers", "n_layer", 12),
        Field("num_attention_heads", "n_head", silent["heads"]),
        Field("hidden_act", "mlp", silent["act"], activations),
        Field("layer_norm_eps", "norm_eps", eps),
        Field("type_vocab_size", "n_token_type", 2, least=1),
        Field("hidden_dropout_prob", "dropout", silent["dropout"]),
        Field("attention_probs_dropout_prob", "attention_dropout", silent["dropout"]),
        Field("tie_word_embeddings", "tie_embeddings", True),
        Must("position_embedding_type", (None, "absolute")),
        Must("is_decoder", (False,)),
        Must("add_cross_attention", (False,)),
        positions,
    )


_BERT_STACK: dict[str, str | tuple[str, ...] | From] = {
    "embed": "embeddings.word_embeddings",
    "position.table": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "blocks.*.attn.qkv": ("encoder.layer.*.attention.self.query", "key", "value"),
    "blocks.*.attn.out": "encoder.layer.*.attention.output.dense",
    "blocks.*.attn_norm": "encoder.layer.*.attention.output.LayerNorm",
    "blocks.*.mlp.up": "encoder.layer.*.intermediate.dense",
    "blocks.*.mlp.down": "encoder.layer.*.output.dense",
    "blocks.*.mlp_norm": "encoder.layer.*.output.LayerNorm",
    "pooler.dense": "pooler.dense",
}


_POSITIONS = Field("max_position_embeddings", "max_seq_len", 512)
BERT = Family(
    base="bert.",
    classes={"mlm": "BertForMaskedLM", "none": "BertModel"},
    objective="mlm",
    fixed=without(_BOTH_WAYS, "n_token_type", "pooler", "output_bias"),
    parts=_bert_parts(_POSITIONS, _BOTH_GELUS),
    stack=names(_BERT_STACK),
    head=names(
        {
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "unembed": "cls.predictions.decoder",
            "unembed.bias": From(("cls.predictions.decoder.bias",), instead=("cls.predictions.bias",)),
        }
    ),
    extras={"nsp": "cls.seq_relationship"},
    extra_classes={"nsp": "BertForPreTraining"},
)
ROBERTA = Family(
    base="roberta.",
    classes={"mlm": "RobertaForMaskedLM", "none": "RobertaModel"},
    objective="mlm",
    fixed=without(_BOTH_WAYS, "n_token_type", "pooler", "output_bias"),
    parts=_bert_parts(PositionsPastPadding(), _EXACT_GELU),
    stack=names({**_BERT_STACK, "position.table": From(("embeddings.position_embeddings",), past_padding=True)}),
    head=names(
        {
            "head.dense": "lm_head.dense",
            "head.norm": "lm_head.layer_norm",
            "unembed": "lm_head.decoder",
            "unembed.bias": From(("lm_head.decoder.bias",), instead=("lm_head.bias",)),
        }
    ),
)
_LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
ALBERT = Family(
    base="albert.",
    classes={"mlm": "AlbertForMaskedLM", "none": "AlbertModel"},
    objective="mlm",
    fixed=without(_BOTH_WAYS, "d_embed", "n_token_type", "pooler", "output_bias") | {"share_layers": True},
    parts=(
        *_bert_parts(
            _POSITIONS, _BOTH_GELUS, vocab_size=30000, hidden=4096, inner=16384, heads=64, act="gelu_new", dropout=0.0
        ),
        Factorised(),
        Must("num_hidden_groups", (1,)),
        Must("inner_group_num", (1,)),
    ),
    stack=names(
        {
            **{ours: theirs for ours, theirs in _BERT_STACK.items() if "*" not in ours},
            "embed_up": "encoder.embedding_hidden_mapping_in",
            "blocks.0.attn.qkv": (f"{_LAYER}.attention.query", "key", "value"),
            "blocks.0.attn.out": f"{_LAYER}.attention.dense",
            "blocks.0.attn_norm": f"{_LAYER}.attention.LayerNorm",
            "blocks.0.mlp.up": f"{_LAYER}.ffn",
            "blocks.0.mlp.down": f"{_LAYER}.ffn_output",
            "blocks.0.mlp_norm": f"{_LAYER}.full_layer_layer_norm",
            "pooler.dense": "pooler",
        }
    ),
    head=names(
        {
            "head.dense": "predictions.dense",
            "head.norm": "predictions.LayerNorm",
            "unembed": "predictions.decoder",
            "unembed.bias": From(("predictions.decoder.bias",), instead=("predictions.bias",)),
        }
    ),
    extras={"sop": "sop_classifier.classifier"},
    extra_classes={"sop": "AlbertForPreTraining"},
)
DISTILBERT = Family(
    base="distilbert.",
    classes={"mlm": "DistilBertForMaskedLM", "none": "DistilBertModel"},
    objective="mlm",
    fixed=without(_BOTH_WAYS, "output_bias") | {"norm_eps": 1e-12},
    parts=(
        Field("vocab_size", "vocab_size", 30522),
        Field("dim", "d_model", 768),
        Field("hidden_dim", "d_ff", 3072),
        Field("n_layers", "n_layer", 6),
        Field("n_heads", "n_head", 12),
        Field("activation", "mlp", "gelu", _EXACT_GELU),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.1),
        Field("tie_word_embeddings", "tie_embeddings", True),
        _POSITIONS,
    ),
    stack=names(
        {
            "embed": "embeddings.word_embeddings",
            "position.table": "embeddings.position_embeddings",
            "embed_norm": "embeddings.LayerNorm",
            "blocks.*.attn.qkv": ("transformer.layer.*.attention.q_lin", "k_lin", "v_lin"),
            "blocks.*.attn.out": "transformer.layer.*.attention.out_lin",
            "blocks.*.attn_norm": "transformer.layer.*.sa_layer_norm",
            "blocks.*.mlp.up": "transformer.layer.*.ffn.lin1",
            "blocks.*.mlp.down": "transformer.layer.*.ffn.lin2",
            "blocks.*.mlp_norm": "transformer.layer.*.output_layer_norm",
        }
    ),
    head=names({"head.dense": "vocab_transform", "head.norm": "vocab_layer_norm", "unembed": "vocab_projector"}),
)

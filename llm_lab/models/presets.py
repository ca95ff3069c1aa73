"""Named architectures: the options in which each differs from the defaults, and what each was made to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.models.effects import check_effects
from llm_lab.models.options import ModelConfig
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table


@dataclass(frozen=True)
class Preset:
    """An architecture at the size of its release, and its own objective; sizes are overridden for smaller ones."""

    overrides: dict[str, Any]
    objective: str = "clm"

    def config(self, vocab_size: int, **overrides: Any) -> ModelConfig:
        """The config with what was asked for in it; BadValue where some of that would have no effect."""
        made = ModelConfig(vocab_size=vocab_size, **{**self.overrides, **overrides})
        check_effects(made, overrides)
        return made


# What all models from before 2023 lack of the modern stack.
_PLAIN: dict[str, Any] = dict(qk_norm=False, logit_softcap=0.0, zero_init=False)
_GPT2: dict[str, Any] = dict(
    **_PLAIN,
    n_layer=12,
    n_head=12,
    d_model=768,
    max_seq_len=1024,
    norm="layernorm",
    position="learned",
    mlp="gelu",
    bias=True,
    tie_embeddings=True,
    dropout=0.1,
)
_BERT: dict[str, Any] = {
    **_GPT2,
    "shape": "encoder",
    "max_seq_len": 512,
    "norm_place": "post",
    "norm_eps": 1e-12,
    "embed_norm": True,
    "mlp": "gelu_erf",
    "n_token_type": 2,
    "pooler": True,
    "output": "mlm",
    "output_bias": True,
}
_LLAMA: dict[str, Any] = dict(
    **_PLAIN, n_layer=32, n_head=32, d_model=4096, d_ff=11008, max_seq_len=2048, mlp="swiglu", norm_eps=1e-6
)

PRESETS = Table(
    "preset",
    [
        Entry("modern", Preset({}), "fast and small: rotary, RMSNorm, squared ReLU, QK norm; 0.8 M parameters"),
        Entry(
            "transformer",
            Preset(
                dict(
                    **_PLAIN,
                    shape="encoder_decoder",
                    n_layer=6,
                    n_head=8,
                    d_model=512,
                    max_seq_len=512,
                    norm="layernorm",
                    norm_place="post",
                    position="sinusoidal",
                    mlp="relu",
                    bias=True,
                    tie_embeddings=True,
                    scale_embeddings=True,
                    dropout=0.1,
                ),
                "seq2seq",
            ),
            "the base model of 2017 (Vaswani et al.): encoder and decoder, 65 M parameters",
        ),
        Entry(
            "gpt2",
            Preset(_GPT2),
            "GPT-2 small as released (Radford et al. 2019): 124 M parameters; give sizes for a small one",
        ),
        Entry("bert", Preset(_BERT, "mlm_nsp"), "BERT base as released (Devlin et al. 2019): 110 M parameters"),
        Entry(
            "roberta",
            Preset({**_BERT, "norm_eps": 1e-5, "n_token_type": 1, "pooler": False}, "mlm"),
            "RoBERTa base (Liu et al. 2019): BERT without sentence pairs",
        ),
        Entry(
            "albert",
            Preset({**_BERT, "d_embed": 128, "share_layers": True, "mlp": "gelu", "dropout": 0.0}, "mlm_sop"),
            "ALBERT base (Lan et al. 2020): one block used 12 times, factorised embeddings, 12 M parameters",
        ),
        Entry(
            "distilbert",
            Preset({**_BERT, "n_layer": 6, "n_token_type": 0, "pooler": False}, "mlm"),
            "DistilBERT's architecture (Sanh et al. 2019): half of BERT's layers, 66 M parameters",
        ),
        Entry(
            "electra",
            Preset(
                {
                    **_BERT,
                    "n_head": 4,
                    "d_model": 256,
                    "d_embed": 128,
                    "pooler": False,
                    "output": "none",
                    "output_bias": False,
                    "tie_embeddings": False,
                },
                "rtd",
            ),
            "ELECTRA small's discriminator (Clark et al. 2020): 13 M parameters; rtd adds its generator",
        ),
        Entry(
            "xlnet",
            Preset(
                {
                    **_GPT2,
                    "shape": "permutation",
                    "max_seq_len": 512,
                    "norm_place": "post",
                    "norm_eps": 1e-12,
                    "position": "rotary",
                    "mlp": "gelu_erf",
                    "output_bias": True,
                },
                "plm",
            ),
            "in XLNet's style (Yang et al. 2019): two streams, any order; rotary in place of Transformer-XL's positions",
        ),
        Entry(
            "t5",
            Preset(
                dict(
                    **_PLAIN,
                    shape="encoder_decoder",
                    n_layer=6,
                    n_head=8,
                    d_model=512,
                    d_head=64,
                    d_ff=2048,
                    max_seq_len=512,
                    norm_eps=1e-6,
                    position="t5",
                    mlp="relu",
                    tie_embeddings=True,
                    scale_scores=False,
                    scale_logits=True,
                    dropout=0.1,
                ),
                "span_corruption",
            ),
            "T5 small as released (Raffel et al. 2020): 60 M parameters",
        ),
        Entry("llama", Preset(_LLAMA), "LLaMA 7B (Touvron et al. 2023): rotary, RMSNorm, SwiGLU"),
        Entry(
            "mistral",
            Preset(
                {
                    **_LLAMA,
                    "n_kv_head": 8,
                    "d_ff": 14336,
                    "max_seq_len": 32768,
                    "norm_eps": 1e-5,
                    "attention": "window",
                    "window": 4096,
                }
            ),
            "Mistral 7B (Jiang et al. 2023): LLaMA with grouped heads and a sliding window",
        ),
        Entry(
            "qwen3",
            Preset(
                {
                    **_LLAMA,
                    "n_layer": 28,
                    "n_head": 16,
                    "n_kv_head": 8,
                    "d_model": 1024,
                    "d_head": 128,
                    "d_ff": 3072,
                    "max_seq_len": 40960,
                    "rope_theta": 1e6,
                    "qk_norm": True,
                    "qk_gain": True,
                    "tie_embeddings": True,
                }
            ),
            "Qwen3 0.6B (Qwen team 2025): grouped heads, QK norm with gains",
        ),
        Entry(
            "lstm",
            Preset(dict(shape="lstm", n_layer=2, d_model=256, logit_softcap=0.0, zero_init=False, bias=True)),
            "a recurrent baseline (Hochreiter & Schmidhuber 1997)",
        ),
        Entry(
            "conv",
            Preset(dict(shape="conv", n_layer=6, d_model=192, logit_softcap=0.0, zero_init=False, bias=True)),
            "a convolutional baseline, gated (Dauphin et al. 2017)",
        ),
        Entry("ngram", Preset(dict(shape="ngram")), "a counting baseline: modified Kneser–Ney (Chen & Goodman 1999)"),
        Entry(
            "skipgram",
            Preset(dict(shape="skipgram", d_model=64), "skipgram"),
            "word vectors: skip-gram with negative sampling (Mikolov et al. 2013)",
        ),
    ],
)


@dataclass(frozen=True)
class PresetOptions(Options):
    room: ClassVar[str] = "model"
    preset: str = option("modern", "a named architecture; model options change it", choices=lambda: PRESETS)

"""The parts a model is made of, its sizes, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

NORMS = Table(
    "norm",
    [
        Entry("rmsnorm", "llm_lab.models.layers:RMSNorm", "root mean square only (Zhang & Sennrich 2019)"),
        Entry("layernorm", "llm_lab.models.layers:LayerNorm", "mean and variance (Ba et al. 2016)"),
    ],
)
POSITIONS = Table(
    "position",
    [
        Entry("rotary", "llm_lab.models.positions:Rotary", "q and k turned by their position (Su et al. 2021)"),
        Entry("learned", "llm_lab.models.positions:Learned", "a vector for each position, added to the embedding"),
    ],
)
MLPS = Table(
    "mlp",
    [
        Entry("relu2", "llm_lab.models.layers:ReLU2", "squared ReLU (So et al. 2021)"),
        Entry("gelu", "llm_lab.models.layers:GELU", "GELU, in GPT-2's tanh form"),
        Entry("relu", "llm_lab.models.layers:ReLU", "ReLU"),
        Entry("swiglu", "llm_lab.models.layers:SwiGLU", "gated SiLU (Shazeer 2020)"),
    ],
)
SHAPES = Table("shape", [Entry("decoder", "llm_lab.models.transformer:Decoder", "reads left to right, as GPT")])


@dataclass(frozen=True)
class ModelOptions(Options):
    """Everything of a model but its vocabulary. The defaults are the preset `modern`."""

    room: ClassVar[str] = "model"
    shape: str = option("decoder", "how the stack reads", choices=lambda: SHAPES)
    n_layer: int = option(4, "blocks", ge=1, also=("n_layers", "num_layers", "num_hidden_layers", "depth"))
    n_head: int = option(
        4, "attention heads of a block", ge=1, also=("n_heads", "num_heads", "num_attention_heads", "nhead")
    )
    n_kv_head: int | None = option(None, "heads that keys and values have", ge=1, auto="n_head", example="2")
    d_model: int = option(128, "width of the residual stream", ge=1, also=("n_embd", "embed_dim", "hidden_size", "dim"))
    d_ff: int | None = option(
        None,
        "width inside the MLP",
        ge=1,
        auto="4 × d_model",
        example="512",
        also=("ffn_dim", "intermediate_size", "n_inner"),
    )
    max_seq_len: int = option(
        128,
        "the context: the longest sequence it can read",
        unit="tokens",
        ge=1,
        also=("block_size", "context_length", "context_size", "seq_len", "n_ctx", "n_positions", "ctx_len"),
    )
    norm: str = option("rmsnorm", "normalisation", choices=lambda: NORMS)
    norm_eps: float = option(1e-5, "added to the variance before its root", gt=0)
    position: str = option("rotary", "how a token knows its place", choices=lambda: POSITIONS)
    rope_theta: float = option(10000.0, "base of rotary wavelengths", gt=0)
    mlp: str = option("relu2", "activation of the MLP", choices=lambda: MLPS)
    bias: bool = option(False, "biases in the linear maps and norms")
    qk_norm: bool = option(True, "normalise q and k of each head")
    logit_softcap: float = option(15.0, "logits are bent into ± this; 0 leaves them", ge=0)
    tie_embeddings: bool = option(False, "the output shares the input's embedding")
    zero_init: bool = option(True, "projections into the residual stream start at zero")
    dropout: float = option(0.0, "share of activations dropped while training", ge=0, lt=1)


@dataclass(frozen=True)
class ModelConfig(ModelOptions):
    """A model's whole description, from which it can be built again."""

    vocab_size: int = field(
        kw_only=True,
        metadata=option(
            256, "tokens in the vocabulary", ge=1, also=("n_vocab", "num_tokens", "num_embeddings")
        ).metadata,
    )

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_head

    @property
    def ff_width(self) -> int:
        return self.d_ff or 4 * self.d_model

    def validate(self) -> None:
        if self.d_model % self.n_head:
            fits = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0]
            near = min(fits, key=lambda h: abs(h - self.n_head))
            raise BadValue(
                f"d_model {self.d_model} does not divide by n_head {self.n_head}; use --n_head {near}, or --d_model {-(-self.d_model // self.n_head) * self.n_head}"
            )
        if self.n_head % self.kv_heads:
            raise BadValue(
                f"n_head {self.n_head} does not divide by n_kv_head {self.kv_heads}; use for example --n_kv_head 1"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise BadValue(
                f"position 'rotary' turns pairs, so d_model / n_head must be even, not {self.head_dim}; use --d_model {2 * self.n_head * max(1, self.head_dim // 2)} or --position learned"
            )


@dataclass(frozen=True)
class Preset:
    """A named architecture: the options in which it differs from the defaults."""

    overrides: dict[str, Any]

    def config(self, vocab_size: int, **overrides: Any) -> ModelConfig:
        return ModelConfig(vocab_size=vocab_size, **{**self.overrides, **overrides})


PRESETS = Table(
    "preset",
    [
        Entry("modern", Preset({}), "fast and small: rotary, RMSNorm, squared ReLU, QK norm; 0.8 M parameters"),
        Entry(
            "gpt2",
            Preset(
                dict(
                    n_layer=12,
                    n_head=12,
                    d_model=768,
                    max_seq_len=1024,
                    norm="layernorm",
                    position="learned",
                    mlp="gelu",
                    bias=True,
                    qk_norm=False,
                    logit_softcap=0.0,
                    tie_embeddings=True,
                    zero_init=False,
                    dropout=0.1,
                )
            ),
            "GPT-2 small as released (Radford et al. 2019): 124 M parameters; give sizes for a small one",
        ),
    ],
)


@dataclass(frozen=True)
class PresetOptions(Options):
    room: ClassVar[str] = "model"
    preset: str = option("modern", "a named architecture; model options change it", choices=lambda: PRESETS)

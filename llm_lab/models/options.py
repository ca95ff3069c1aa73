"""The parts a model is made of, and its sizes. `models.presets` has the named architectures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

SHAPES = Table(
    "shape",
    [
        Entry(
            "decoder",
            "llm_lab.models.decoder:Decoder",
            "one stack that predicts the next token, as GPT",
            supports=frozenset(
                {"next_token", "fill", "both_ways", "seq2seq", "cache", "sites", "embeddings", "gradients"}
            ),
        ),
        Entry(
            "encoder",
            "llm_lab.models.encoder:Encoder",
            "one stack that reads both ways, as BERT",
            supports=frozenset({"fill", "both_ways", "sites", "embeddings", "gradients"}),
        ),
        Entry(
            "encoder_decoder",
            "llm_lab.models.encoder_decoder:EncoderDecoder",
            "an encoder reads, a decoder writes and reads the encoder by cross attention, as T5",
            supports=frozenset({"seq2seq", "cache", "sites", "embeddings", "gradients"}),
        ),
        Entry(
            "permutation",
            "llm_lab.models.permutation:PermutationDecoder",
            "a decoder of two streams that predicts in any order, as XLNet",
            supports=frozenset({"next_token", "any_order", "sites", "embeddings", "gradients"}),
        ),
        Entry(
            "lstm",
            "llm_lab.baselines.lstm:LSTM",
            "a recurrent network: one token after the other",
            supports=frozenset({"next_token", "embeddings", "gradients"}),
        ),
        Entry(
            "conv",
            "llm_lab.baselines.conv:Conv",
            "causal convolutions, gated: sees as far as its layers reach",
            supports=frozenset({"next_token", "embeddings", "gradients"}),
        ),
        Entry(
            "ngram",
            "llm_lab.baselines.ngram:NGram",
            "counts of n-grams, smoothed by modified Kneser–Ney: no gradients, one pass",
            supports=frozenset({"next_token"}),
        ),
        Entry(
            "skipgram",
            "llm_lab.baselines.skipgram:SkipGram",
            "a vector for each token that predicts its neighbours (word2vec)",
            supports=frozenset({"neighbours", "embeddings", "gradients"}),
        ),
    ],
)
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
        Entry("sinusoidal", "llm_lab.models.positions:Sinusoidal", "fixed waves, added (Vaswani et al. 2017)"),
        Entry("alibi", "llm_lab.models.positions:ALiBi", "scores fall with distance (Press et al. 2022)"),
        Entry("t5", "llm_lab.models.positions:T5Relative", "a learned bias for each range of distance (T5)"),
        Entry("none", "llm_lab.models.positions:Position", "no position but what causality gives"),
    ],
)
MLPS = Table(
    "mlp",
    [
        Entry("relu2", "llm_lab.models.layers:ReLU2", "squared ReLU (So et al. 2021)"),
        Entry("gelu", "llm_lab.models.layers:GELU", "GELU, in GPT-2's tanh form"),
        Entry("gelu_erf", "llm_lab.models.layers:GELUErf", "GELU by the error function, as BERT"),
        Entry("relu", "llm_lab.models.layers:ReLU", "ReLU"),
        Entry("swiglu", "llm_lab.models.layers:SwiGLU", "gated SiLU (Shazeer 2020)", supports=frozenset({"gated"})),
        Entry("geglu", "llm_lab.models.layers:GeGLU", "gated GELU (Shazeer 2020)", supports=frozenset({"gated"})),
    ],
)
PATTERNS = Table(
    "attention",
    [
        Entry("full", "llm_lab.models.patterns:Full", "every position reads every other that it may"),
        Entry("window", "llm_lab.models.patterns:Window", "the nearest `window` positions (Mistral, Longformer)"),
        Entry("dilated", "llm_lab.models.patterns:Dilated", "a window with gaps of `stride` (Longformer §3.1)"),
        Entry("strided", "llm_lab.models.patterns:Strided", "a window, and every `stride`-th (Child et al. 2019)"),
        Entry("longformer", "llm_lab.models.patterns:Longformer", "a window, and `n_global` global positions"),
        Entry("bigbird", "llm_lab.models.patterns:BigBird", "a window, global positions, and random blocks"),
    ],
)
OUTPUTS = Table(
    "output",
    [
        Entry("linear", "llm_lab.models.heads:Linear", "one map to the vocabulary"),
        Entry("mlm", "llm_lab.models.heads:MaskedLM", "a dense layer, activation and norm first, as BERT"),
        Entry("none", "llm_lab.models.heads:Nothing", "no vocabulary: what is learned is in the hidden states"),
    ],
)


@dataclass(frozen=True)
class ModelOptions(Options):
    """Everything of a model but its vocabulary. The defaults are the preset `modern`."""

    room: ClassVar[str] = "model"
    shape: str = option("decoder", "how the stacks read", choices=lambda: SHAPES)
    n_layer: int = option(4, "blocks", ge=1, also=("n_layers", "num_layers", "num_hidden_layers", "depth"))
    n_decoder_layer: int | None = option(
        None, "blocks of the second stack, where there is one", ge=1, auto="n_layer", example="2"
    )
    n_head: int = option(
        4, "attention heads of a block", ge=1, also=("n_heads", "num_heads", "num_attention_heads", "nhead")
    )
    n_kv_head: int | None = option(
        None,
        "heads that keys and values have: fewer are grouped-query attention, one is multi-query",
        ge=1,
        auto="n_head",
        example="2",
        also=("num_key_value_heads", "n_kv_heads"),
    )
    d_model: int = option(128, "width of the residual stream", ge=1, also=("n_embd", "embed_dim", "hidden_size", "dim"))
    d_head: int | None = option(
        None, "width of a head", ge=1, auto="d_model / n_head", example="64", also=("head_dim", "d_kv")
    )
    d_ff: int | None = option(
        None,
        "width inside the MLP",
        ge=1,
        auto="4 × d_model",
        example="512",
        also=("ffn_dim", "intermediate_size", "n_inner"),
    )
    d_embed: int | None = option(
        None,
        "width of the token embeddings, mapped to d_model where it is another (ALBERT)",
        ge=1,
        auto="d_model",
        example="64",
        also=("embedding_size",),
    )
    max_seq_len: int = option(
        128,
        "the context: the longest sequence it can read",
        unit="tokens",
        ge=1,
        also=("block_size", "context_length", "context_size", "seq_len", "n_ctx", "n_positions", "ctx_len"),
    )
    norm: str = option("rmsnorm", "normalisation", choices=lambda: NORMS)
    norm_place: str = option(
        "pre", "where norms stand: before a part, after the sum, or around a part", choices=("pre", "post", "sandwich")
    )
    norm_eps: float = option(1e-5, "added to the variance before its root", gt=0)
    embed_norm: bool = option(False, "normalise the embeddings")
    position: str = option("rotary", "how a token knows its place", choices=lambda: POSITIONS)
    rope_theta: float = option(10000.0, "base of rotary wavelengths", gt=0)
    rel_buckets: int = option(32, "ranges of distance of position t5", ge=4)
    rel_distance: int = option(128, "distance from which on position t5 tells no more apart", unit="tokens", ge=4)
    attention: str = option("full", "which positions a layer may read at all", choices=lambda: PATTERNS)
    window: int = option(64, "reach of attention's window to each side, itself included", unit="tokens", ge=1)
    stride: int = option(8, "distance between what strided and dilated attention read", unit="tokens", ge=2)
    n_global: int = option(1, "first positions that read all and are read by all", ge=0)
    n_random: int = option(1, "random blocks that each block reads (bigbird)", ge=0)
    sparse_block: int = option(32, "block in which sparse attention is computed", unit="tokens", ge=4)
    mlp: str = option("relu2", "activation of the MLP", choices=lambda: MLPS)
    n_expert: int | None = option(
        None, "MLPs of a block, of which a router picks", ge=2, auto="one MLP, no router", example="8"
    )
    n_active: int = option(2, "experts that each token is sent to", ge=1)
    router_loss: float = option(0.01, "weight of the loss that balances the experts", ge=0)
    bias: bool = option(False, "biases in the linear maps and norms")
    qk_norm: bool = option(True, "normalise q and k of each head")
    qk_gain: bool = option(False, "the norm of q and k has a learned gain (Qwen3)")
    scale_scores: bool = option(True, "divide scores by √d_head (T5 does not)")
    logit_softcap: float = option(15.0, "logits are bent into ± this; 0 leaves them", ge=0)
    tie_embeddings: bool = option(False, "the output shares the input's embedding")
    scale_embeddings: bool = option(False, "multiply embeddings by √d_model (Vaswani et al. 2017)")
    scale_logits: bool = option(False, "divide what the output reads by √d_model (T5)")
    share_layers: bool = option(False, "all blocks are one and the same (ALBERT)")
    n_token_type: int = option(0, "kinds of segment that have an embedding (BERT: 2)", ge=0, also=("type_vocab_size",))
    pooler: bool = option(False, "a dense layer with tanh on the first position (BERT)")
    output: str = option("linear", "what gives the logits", choices=lambda: OUTPUTS)
    output_bias: bool = option(False, "a bias for each token's logit")
    order: int = option(5, "length of the longest n-grams (shape ngram)", ge=1, le=12)
    kernel: int = option(3, "positions that one convolution sees, itself included (shape conv)", ge=1)
    zero_init: bool = option(True, "projections into the residual stream start at zero")
    dropout: float = option(0.0, "share of activations dropped while training", ge=0, lt=1)
    attention_dropout: float | None = option(
        None,
        "share of attention's weights dropped while training; only at 0 has a CPU a fused kernel",
        ge=0,
        lt=1,
        auto="dropout",
        example="0",
        also=("attn_dropout", "attn_pdrop", "attention_probs_dropout_prob"),
    )


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
        return self.d_head or self.d_model // self.n_head

    @property
    def ff_width(self) -> int:
        return self.d_ff or 4 * self.d_model

    @property
    def embed_width(self) -> int:
        return self.d_embed or self.d_model

    @property
    def weights_dropout(self) -> float:
        """Of attention's weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def decoder_layers(self) -> int:
        return self.n_decoder_layer or self.n_layer

    @property
    def final_norm(self) -> bool:
        """Whether a norm stands after the last block: where the blocks themselves do not end with one."""
        return self.norm_place != "post"

    @property
    def score_scale(self) -> float:
        return self.head_dim**-0.5 if self.scale_scores else 1.0

    def validate(self) -> None:
        if self.d_head is None and self.d_model % self.n_head:
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
                f"position 'rotary' turns pairs, so a head's width must be even, not {self.head_dim}; use --d_model {2 * self.n_head * max(1, self.head_dim // 2)} or --position learned"
            )
        if self.position == "sinusoidal" and self.embed_width % 2:
            raise BadValue(
                f"position 'sinusoidal' has waves in pairs, so embeddings must have an even width, not {self.embed_width}; use for example --position rotary"
            )
        if self.shape == "permutation" and self.attention != "full":
            raise BadValue(
                f"attention {self.attention!r} cannot be read in any order; shape permutation takes --attention full"
            )
        if self.n_expert is not None and self.n_active > self.n_expert:
            raise BadValue(
                f"n_active {self.n_active} is more than the {self.n_expert} experts there are; use --n_active {self.n_expert} at most"
            )
        if self.position == "t5" and self.rel_buckets % 4:
            raise BadValue(f"rel_buckets {self.rel_buckets} does not divide by 4; use for example --rel_buckets 32")
        if self.position == "t5" and self.rel_distance <= self.rel_buckets // 2:
            raise BadValue(
                f"rel_distance {self.rel_distance} must be more than half of rel_buckets {self.rel_buckets}; use --rel_distance {4 * self.rel_buckets}"
            )


_OF_VOCABULARY = frozenset({"next_token", "fill", "seq2seq", "any_order", "cache"})


def abilities(config: ModelConfig) -> frozenset[str]:
    """What a model of that description can do: its shape's abilities, less those that need logits it does not give."""
    found = SHAPES.entry(config.shape).supports
    return found - _OF_VOCABULARY if config.output == "none" else found

"""What the baselines share: the way from ids to vectors and to logits, and how the costs of a part are reckoned."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models import flops
from llm_lab.models.attention import Cache
from llm_lab.models.dropout import dropout
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.models.layers import init_std, softcap
from llm_lab.models.options import NORMS, OUTPUTS, ModelConfig, abilities
from llm_lab.models.reckoning import STATE_BYTES
from llm_lab.results import ModelPart


class Baseline(LanguageModel):
    """A model to beat, built from a `ModelConfig`. It reads left to right whatever a batch's `attend` says, so that
    padding at the right is harmless; it has neither positions, segments nor a cache, and no sites."""

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.vocab_size, config.max_seq_len)
        self.supports = abilities(config)

    def check_length(self, length: int) -> None:
        if length > self.max_seq_len:
            raise BadValue(
                f"{length} tokens do not fit the context of {self.max_seq_len}; cut the text, or build with --max_seq_len {length}"
            )

    def sites(self) -> dict[str, str]:
        return {}


class Neural(Baseline):
    """Embeddings and output around layers that add to a residual stream; a kind says what a layer is."""

    supports = frozenset({"next_token", "embeddings", "gradients"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        c = config
        self.embed = nn.Embedding(c.vocab_size, c.embed_width)
        self.widen = nn.Linear(c.embed_width, c.d_model, bias=c.bias) if c.embed_width != c.d_model else nn.Identity()
        self.norms = nn.ModuleList(NORMS.load(c.norm)(c) for _ in range(c.n_layer))
        self.layers = nn.ModuleList(self.layer(i) for i in range(c.n_layer))
        self.norm = NORMS.load(c.norm)(c)
        self.head = OUTPUTS.load(c.output)(c)
        nn.init.normal_(self.embed.weight, std=0.02 if c.tie_embeddings else 1.0)
        if self.head.vocabulary:
            self.unembed = nn.Linear(c.embed_width, c.vocab_size, bias=c.output_bias)
            nn.init.normal_(self.unembed.weight, std=0.0 if c.zero_init else init_std(c))
            if c.tie_embeddings:
                self.unembed.weight = self.embed.weight

    def layer(self, i: int) -> nn.Module:
        """Layer number i."""
        raise NotImplementedError

    def apply_layer(self, layer: nn.Module, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """What a layer adds to the stream; no position may see a later one."""
        return layer(x)

    def layer_part(self, tokens: int) -> ModelPart:
        """What all layers cost at so many tokens a step."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        last: bool = False,
        **unused: Any,
    ) -> ModelOutput:
        """Logits, each from the tokens up to its position; `hidden` is the stream after the last norm."""
        self.check_length(input_ids.shape[1])
        x = self.widen(self.dropped(self.embed(input_ids)))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + self.dropped(self.apply_layer(layer, norm(x)))
        x = self.norm(x[:, -1:] if last else x)
        if not self.head.vocabulary:
            return ModelOutput(x.new_zeros(*x.shape[:2], 0).float(), x)
        return ModelOutput(softcap(self.unembed(self.head(x)).float(), self.config.logit_softcap), x)

    def dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout) if self.training else x

    def embedding_table(self) -> Float[Tensor, "V E"]:
        return self.embed.weight

    def parts(self, batch_size: int) -> list[ModelPart]:
        c, edge, size = self.config, self.config.embed_width, self.vocab_size
        add = partial(part, tokens=batch_size * self.max_seq_len)
        width, norm = c.d_model, dict(parameters=numbers(self.norm), flops=4 * c.d_model, kept=c.d_model)
        found = [add("embedding", "embedding", f"{size:,} tokens × {edge}", size * edge, 0, edge)]
        if edge != width:
            wide = flops.of_maps(self.widen)
            found.append(add("widen", "widen", f"{edge} → {width}", numbers(self.widen), wide, width))
        found += [
            add("norm", "layer norm", c.norm, **norm, count=c.n_layer),
            self.layer_part(batch_size * self.max_seq_len),
            add("norm", "final norm", c.norm, **norm),
        ]
        if narrow := numbers(self.head):
            found.append(add("head", "narrow", f"{width} → {edge}", narrow, flops.of_maps(self.head), edge))
        if self.head.vocabulary:
            detail = f"{edge} → {size:,} tokens" + (", tied to the embedding" if c.tie_embeddings else "")
            own = numbers(self.unembed) - (size * edge if c.tie_embeddings else 0)
            kept = (5 if c.logit_softcap else 4) * size
            found.append(add("output", "output", detail, own, flops.of_maps(self.unembed), kept))
        return found


def part(
    kind: str, name: str, detail: str, parameters: int, flops: int, kept: int, tokens: int, count: int | None = None
) -> ModelPart:
    """One part; or with a `count` as many, in the block that repeats. `kept` are the float32 activations that each
    leaves for the backward pass, for each of a step's `tokens`."""
    times = count or 1
    memory = times * (parameters * STATE_BYTES + kept * 4 * tokens)
    return ModelPart(name, detail, times, times * parameters, times * flops, memory, kind=kind, block=count is not None)


def numbers(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())

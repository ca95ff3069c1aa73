"""What all transformers of the lab share: from ids to embeddings, from the stream to logits, and the first weights."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.errors import BadValue
from llm_lab.models import cost
from llm_lab.models.attention import Attention, CrossAttention
from llm_lab.models.dropout import dropout
from llm_lab.models.heads import Pooler
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.layers import IntoStream, Projection, init_std, softcap
from llm_lab.models.options import NORMS, OUTPUTS, ModelConfig, abilities
from llm_lab.models.positions import Position
from llm_lab.models.sites import site
from llm_lab.results import ModelPart

machine.keep_to_own_cores()  # before the first model computes anything


class Transformer(LanguageModel):
    """Embeddings and output around one stack or two; a shape says how the stacks stand."""

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.vocab_size, config.max_seq_len)
        c = config
        self.embed = nn.Embedding(c.vocab_size, c.embed_width)
        if c.n_token_type:
            self.types = nn.Embedding(c.n_token_type, c.embed_width)
        self.embed_norm = NORMS.load(c.norm)(c, c.embed_width) if c.embed_norm else nn.Identity()
        self.embed_up = (
            nn.Linear(c.embed_width, c.d_model, bias=c.bias) if c.embed_width != c.d_model else nn.Identity()
        )
        self.head = OUTPUTS.load(c.output)(c)
        if c.pooler:
            self.pooler = Pooler(c)
        if self.head.vocabulary:
            self.unembed = Projection(c.embed_width, c.vocab_size, bias=c.output_bias)
        self.supports = abilities(c)

    def finish(self) -> None:
        """The first weights, once all parts are there; then the output is tied where it should be."""
        c, std = self.config, init_std(self.config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_embedding_std(c))
        for module in self.modules():
            if isinstance(module, Position):  # they stand beside tokens, or among scores: never large
                for table in (m for m in module.modules() if isinstance(m, nn.Embedding)):
                    nn.init.normal_(table.weight, std=min(0.02, _embedding_std(c)) if c.tie_embeddings else 1.0)
            if isinstance(module, IntoStream):
                if c.zero_init:
                    nn.init.zeros_(module.weight)
                else:  # the residual stream sums 2 · n_layer of them (Radford et al. 2019, §2.3)
                    nn.init.normal_(module.weight, std=std / (2 * c.n_layer) ** 0.5)
            if not c.scale_scores and isinstance(module, Attention | CrossAttention):
                # What scores are not divided by stands in the first queries instead (Raffel et al. 2020, as released).
                with torch.no_grad():
                    module.query_weight().mul_(c.head_dim**-0.5)
        if not self.head.vocabulary:
            return
        if c.tie_embeddings:
            self.unembed.weight = self.embed.weight
        elif c.zero_init:
            nn.init.zeros_(self.unembed.weight)

    def embedded(
        self,
        input_ids: Int[Tensor, "B T"],
        position: Position,
        ids: Int[Tensor, "b T"],
        token_type_ids: Int[Tensor, "B T"] | None = None,
        prefix: str = "",
    ) -> Float[Tensor, "B T D"]:
        """Tokens, their positions and their segments as the stream begins; `ids` are the positions'."""
        c = self.config
        x = self.embed(input_ids)
        if c.scale_embeddings:
            x = x * c.d_model**0.5
        x = position.embed(x, ids)
        if c.n_token_type:
            # Position by position the first kind, where nobody says otherwise.
            x = x + (self.types.weight[0] if token_type_ids is None else self.types(token_type_ids))
        elif token_type_ids is not None:
            raise BadValue("token_type_ids: this model has no segments; build it with --n_token_type 2")
        return site(self.entered(x), f"{prefix}embed")

    def entered(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B T D"]:
        """Normalised, dropped out and widened, as the shape has it."""
        x = self.embed_norm(x)
        if self.training:
            x = dropout(x, self.config.dropout)
        return self.embed_up(x)

    def logits(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """What the output makes of the last norm's."""
        if not self.head.vocabulary:
            return x.new_zeros(*x.shape[:2], 0)
        if self.config.scale_logits:
            x = x * self.config.d_model**-0.5
        return site(softcap(self.unembed(self.head(x)).float(), self.config.logit_softcap), "logits")

    def positions(self, length: int, past: int, ids: Tensor | None, device: torch.device) -> Int[Tensor, "b T"]:
        """Position ids: those given, or one after the other. BadValue where the context is too short. Only ids that are
        given are looked at, which waits for the device."""
        if past + length > self.max_seq_len:
            raise BadValue(
                f"{past + length} tokens do not fit the context of {self.max_seq_len}; cut the text, or build with --max_seq_len {past + length}"
            )
        if ids is None:
            return torch.arange(past, past + length, device=device)[None]
        low, high = (int(end) for end in ids.aminmax())
        if low < 0 or high >= self.max_seq_len:
            raise BadValue(
                f"position_ids: {low if low < 0 else high} is not in the context of {self.max_seq_len}; positions are 0 to {self.max_seq_len - 1}"
            )
        return ids

    def parts(self, batch_size: int) -> list[ModelPart]:
        return cost.parts(self.config, batch_size)

    def embedding_table(self) -> Float[Tensor, "V E"]:
        return self.embed.weight


def _embedding_std(config: ModelConfig) -> float:
    if config.scale_embeddings:  # multiplied by √d_model they are of size 1
        return config.d_model**-0.5
    # Tied embeddings are also the output's weights, which must start small; so are those that a companion's output has.
    shared = (config.tie_embeddings and not config.scale_logits) or config.output == "none"
    return 0.02 if shared else 1.0

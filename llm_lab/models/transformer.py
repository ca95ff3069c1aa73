"""The transformer: blocks of attention and MLP around a residual stream, from ids to logits. It knows no text and no loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.data.batch import Attend, lower
from llm_lab.errors import BadValue
from llm_lab.models import cost
from llm_lab.models.attention import Attention, Cache
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.models.layers import init_std, softcap
from llm_lab.models.options import MLPS, NORMS, POSITIONS, ModelConfig
from llm_lab.models.positions import Position
from llm_lab.models.sites import running, site
from llm_lab.results import ModelPart

machine.keep_to_own_cores()  # before the first model computes anything


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): normalisation before each part (Xiong et al. 2020)."""

    def __init__(self, config: ModelConfig, layer: int, path: str) -> None:
        super().__init__()
        self.path = path
        norm = NORMS.load(config.norm)
        self.attn_norm = norm(config)
        self.attn = Attention(config, layer, f"{path}.attn")
        self.mlp_norm = norm(config)
        self.mlp = MLPS.load(config.mlp)(config, f"{path}.mlp")

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        is_causal: bool,
        mask: Bool[Tensor, "b 1 T S"] | None,
        angles: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
    ) -> Float[Tensor, "B T D"]:
        x = site(x, f"{self.path}.resid_pre")
        x = site(x + self.attn(self.attn_norm(x), is_causal, mask, angles, cache), f"{self.path}.resid_mid")
        return site(x + self.mlp(self.mlp_norm(x)), f"{self.path}.resid_post")


class Decoder(LanguageModel):
    """A stack that predicts the next token, as GPT.

    Sites: `embed`, `blocks.{i}.…`, `final` (after the last norm), `logits`; `sites()` lists them with their shapes.
    """

    supports = frozenset({"next_token", "cache", "sites", "embeddings", "gradients"})
    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.vocab_size, config.max_seq_len)
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position: Position = POSITIONS.load(config.position)(config)
        self.blocks = nn.ModuleList(Block(config, i, f"blocks.{i}") for i in range(config.n_layer))
        self.norm = NORMS.load(config.norm)(config)
        self.unembed = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._init_weights()
        if config.tie_embeddings:
            self.unembed.weight = self.embed.weight

    def _init_weights(self) -> None:
        std = init_std(self.config)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (m for m in self.modules() if isinstance(m, nn.Embedding)):
            # Tied embeddings are also the output's weights, which must start small.
            nn.init.normal_(table.weight, std=0.02 if self.config.tie_embeddings else 1.0)
        for block in self.blocks:
            for last in (block.attn.out, block.mlp.down):  # type: ignore[union-attr]
                if self.config.zero_init:
                    nn.init.zeros_(last.weight)  # type: ignore[union-attr, arg-type]
                else:  # the residual stream sums 2 · n_layer of them (Radford et al. 2019, §2.3)
                    nn.init.normal_(last.weight, std=std / (2 * self.config.n_layer) ** 0.5)  # type: ignore[union-attr, arg-type]
        if self.config.zero_init and not self.config.tie_embeddings:
            nn.init.zeros_(self.unembed.weight)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        last: bool = False,
    ) -> ModelOutput:
        past = cache.length if cache is not None else 0
        T = input_ids.shape[1]
        if past + T > self.max_seq_len:
            raise BadValue(
                f"{past + T} tokens do not fit the context of {self.max_seq_len}; cut the text, or build with --max_seq_len {past + T}"
            )
        with running(self):
            is_causal, mask = lower(attend or Attend(), T, past + T, input_ids.device)
            if position_ids is None:
                position_ids = torch.arange(past, past + T, device=input_ids.device)[None]
            angles = self.position.angles(position_ids)
            x = site(self.position.embed(self.embed(input_ids), position_ids), "embed")
            for block in self.blocks:
                x = block(x, is_causal, mask, angles, cache)
            if last:
                x = x[:, -1:]
            x = site(self.norm(x), "final")
            logits = softcap(self.unembed(x).float(), self.config.logit_softcap)
            return ModelOutput(site(logits, "logits"))

    def parts(self, batch_size: int) -> list[ModelPart]:
        return cost.parts(self.config, batch_size)

    def sites(self) -> dict[str, str]:
        """As in the base; S in a shape are the positions attended to."""
        c = self.config
        qkv = {"q": f"(B, {c.n_head}, T, {c.head_dim})", "k": f"(B, {c.kv_heads}, T, {c.head_dim})"}
        qkv["v"] = qkv["k"]
        stream = f"(B, T, {c.d_model})"
        found = {"embed": stream}
        for i in range(c.n_layer):
            block = {"resid_pre": stream}
            block |= {f"attn.{name}": shape for name, shape in qkv.items()}
            block |= {f"attn.{name}": f"(B, {c.n_head}, T, S)" for name in ("scores", "pattern")}
            block |= {"attn.z": qkv["q"], "attn.out": stream, "resid_mid": stream}
            block |= {f"mlp.{name}": f"(B, T, {c.ff_width})" for name in ("pre", "post")}
            block |= {"mlp.out": stream, "resid_post": stream}
            found |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
        return found | {"final": stream, "logits": f"(B, T, {c.vocab_size})"}

"""One stack that reads what is before (GPT), or, where the batch says so, both ways."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.options import ModelConfig
from llm_lab.models.sites import running
from llm_lab.models.stack import Stack, block_sites, mean_balance
from llm_lab.models.transformer import Transformer


class Decoder(Stack, Transformer):
    """A stack that predicts the next token, as GPT.

    Sites: `embed`, `blocks.{i}.…`, `final` (after the last norm), `logits`; `sites()` lists them with their shapes.
    """

    def __init__(self, config: ModelConfig) -> None:
        Transformer.__init__(self, config)
        self.make_stack(config, config.n_layer)
        self.finish()

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
        ids = self.positions(input_ids.shape[1], past, position_ids, input_ids.device)
        with running(self):
            x = self.embedded(input_ids, self.position, ids, token_type_ids)
            balances: list[Tensor] = []
            x = self.run(x, attend or Attend(), ids, cache, last=last, balances=balances)
            pooled = self.pooler(x) if self.config.pooler and not last else None
            return ModelOutput(self.logits(x), x, pooled, mean_balance(balances))

    def sites(self) -> dict[str, str]:
        """As in the base; S in a shape are the positions attended to."""
        c = self.config
        stream = f"(B, T, {c.d_model})"
        found = {"embed": stream} | block_sites(c, c.n_layer) | {"final": stream}
        return found | ({"logits": f"(B, T, {c.vocab_size})"} if self.head.vocabulary else {})

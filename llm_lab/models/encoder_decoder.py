"""Two stacks: an encoder reads the source, a decoder writes and reads the encoder's output (Vaswani et al. 2017; T5)."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.options import ModelConfig
from llm_lab.models.sites import running
from llm_lab.models.stack import Memory, Stack, block_sites, mean_balance
from llm_lab.models.transformer import Transformer


class _Half(Stack):
    def __init__(self, config: ModelConfig, n_layer: int, prefix: str, cross: bool) -> None:
        super().__init__()
        self.make_stack(config, n_layer, prefix, cross)


class EncoderDecoder(Transformer):
    """Source ids to the encoder, target ids to the decoder; logits are the decoder's, each for its next token.

    Sites: `encoder.…` and `decoder.…`, in the decoder's blocks `cross.…` beside `attn.…`; `logits`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = _Half(config, config.n_layer, "encoder.", cross=False)
        self.decoder = _Half(config, config.decoder_layers, "decoder.", cross=True)
        self.decoder.position.one_way = True
        self.finish()

    def encode(
        self,
        input_ids: Int[Tensor, "B S"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b S"] | None = None,
        token_type_ids: Int[Tensor, "B S"] | None = None,
    ) -> Memory:
        """What the decoder reads of a source; it need be computed only once."""
        attend = attend or Attend(causal=False)
        ids = self.positions(input_ids.shape[1], 0, position_ids, input_ids.device)
        with running(self):
            x = self.embedded(input_ids, self.encoder.position, ids, token_type_ids, "encoder.")
            balances: list[Tensor] = []
            return Memory(self.encoder.run(x, attend, ids, balances=balances), attend, balances)

    def forward(
        self,
        input_ids: Int[Tensor, "M S"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "m S"] | None = None,
        token_type_ids: Int[Tensor, "M S"] | None = None,
        cache: Cache | None = None,
        last: bool = False,
        decoder_ids: Int[Tensor, "B U"] | None = None,
        memory: Memory | None = None,
    ) -> ModelOutput:
        """As in the base. `attend` is the encoder's; `memory` stands in for the source where it was read before."""
        if decoder_ids is None:
            raise BadValue("decoder_ids: an encoder-decoder needs what the decoder reads; give ids, (B, U)")
        memory = memory or self.encode(input_ids, attend, position_ids, token_type_ids)
        past = cache.length if cache is not None else 0
        ids = self.positions(decoder_ids.shape[1], past, None, decoder_ids.device)
        with running(self):
            x = self.embedded(decoder_ids, self.decoder.position, ids, None, "decoder.")
            balances: list[Tensor] = []
            x = self.decoder.run(x, Attend(), ids, cache, memory, last, balances=balances)
            # Both stacks count alike, however many layers each has.
            halves = [*mean_balance(memory.balances).values(), *mean_balance(balances).values()]
            return ModelOutput(self.logits(x), x, aux=mean_balance(halves))

    def sites(self) -> dict[str, str]:
        c = self.config
        source, stream = f"(B, S, {c.d_model})", f"(B, T, {c.d_model})"
        found = {"encoder.embed": source} | block_sites(c, c.n_layer, "encoder.") | {"encoder.final": source}
        found |= {"decoder.embed": stream} | block_sites(c, c.decoder_layers, "decoder.", cross=True)
        return found | {"decoder.final": stream, "logits": f"(B, T, {c.vocab_size})"}

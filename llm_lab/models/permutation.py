"""A decoder of two streams that predicts its tokens in any order (XLNet, Yang et al. 2019, §2.3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from llm_lab.data.batch import Attend, lower
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.look import Look, added
from llm_lab.models.options import ModelConfig
from llm_lab.models.sites import running
from llm_lab.models.stack import Stack, block_sites, mean_balance
from llm_lab.models.transformer import Transformer


class PermutationDecoder(Stack, Transformer):
    """The content stream reads tokens of the same or a lower rank; the query stream knows its place, not its token, and
    reads tokens of a lower rank (and itself, so that the first has something to read). Both run through the same
    weights, one behind the other: positions T to 2T of every site are the query stream.

    With an order in the batch, logits at i are for the token at i. Without one it reads from left to right, and they are
    for the token at i + 1, as any decoder's. Windows and segments bound what both streams of position i read; position
    ids count for every kind of position, alibi and t5 included.
    """

    def __init__(self, config: ModelConfig) -> None:
        Transformer.__init__(self, config)
        # The last token's successor has a place too, when it predicts from left to right.
        self.make_stack(replace(config, max_seq_len=config.max_seq_len + 1), config.n_layer)
        self.query = nn.Parameter(torch.empty(config.embed_width))
        nn.init.normal_(self.query, std=0.02)
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
        if cache is not None:
            raise BadValue("cache: two streams keep nothing of what they read; leave the cache out")
        attend = attend or Attend()
        if attend.prefix is not None or (not attend.causal and attend.order is None):
            what = "attend.causal: False" if attend.prefix is None else "attend.prefix"
            raise BadValue(
                f"{what} would show two streams the tokens that they predict; use an order, for example Attend(order=ranks), or a model of --shape decoder"
            )
        B, T = input_ids.shape
        ids = self.positions(T, 0, position_ids, input_ids.device)
        if attend.order is not None:
            rank, wanted, asked = attend.order, ids, attend.order
        else:  # who predicts the token after t reads up to t
            rank = torch.arange(T, device=ids.device).expand(B, T)
            wanted, asked = ids + 1, rank + 1
        places = torch.cat([ids, wanted], dim=1)
        with running(self):
            content = self.embedded(input_ids, self.position, ids, token_type_ids)
            blank = self.position.embed(self.query.expand(B, T, -1), wanted)
            x = torch.cat([content, self.entered(blank)], dim=1)
            mask = _streams(rank, asked, attend)
            bias = self.position.bias(places[:, :, None], places[:, None, :])
            seen = Look(
                mask=mask if bias is None else added(bias.movedim(0, 1), mask), angles=self.position.angles(places)
            )
            balances: list[Tensor] = []
            x = self.run(x, attend, places, seen=seen, balances=balances)[:, -1 if last else T :]
            return ModelOutput(self.logits(x), x, aux=mean_balance(balances))

    def sites(self) -> dict[str, str]:
        c = self.config
        stream, logits = f"(B, T, {c.d_model})", {"logits": f"(B, T, {c.vocab_size})"}
        found = {"embed": stream} | block_sites(c, c.n_layer) | {"final": stream}
        doubled = {name: shape.replace("T", "2*T").replace("S", "2*S") for name, shape in found.items()}
        return {"embed": stream} | {name: shape for name, shape in doubled.items() if name != "embed"} | logits


def _streams(rank: Int[Tensor, "B T"], asked: Int[Tensor, "B T"], attend: Attend) -> Bool[Tensor, "B 1 R R"]:
    """Who reads whom in both streams, content first: content that of the same or a lower rank, queries of a lower."""
    T = rank.shape[1]
    content = rank[:, None, :] <= rank[:, :, None]
    query = rank[:, None, :] < asked[:, :, None]
    readable = torch.cat([content, query], dim=1)
    _, near = lower(replace(attend, causal=False, order=None, keep=None), T, T, rank.device)  # window and segments
    if near is not None:
        readable = readable & near[:, 0].repeat(1, 2, 1)
    if attend.keep is not None:
        readable = readable & attend.keep[:, None, :]
    mask = torch.cat([readable, torch.zeros_like(readable)], dim=2)
    return (mask | torch.eye(2 * T, dtype=torch.bool, device=rank.device))[:, None]

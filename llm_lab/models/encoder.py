"""One stack that reads both ways (BERT)."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.decoder import Decoder
from llm_lab.models.language_model import ModelOutput


class Encoder(Decoder):
    """A stack that reads both ways, as BERT, with a pooler where it was asked for.

    Sites are the decoder's. `pooled` in the output is one vector for the whole sequence.
    """

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
            raise BadValue("cache: an encoder reads its whole input at once and keeps nothing; leave the cache out")
        attend = attend or Attend(causal=False)
        return super().forward(input_ids, attend, position_ids, token_type_ids, last=last)

"""Vectors of words, learned from their neighbours (word2vec): no text is predicted from them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.baselines.base import Baseline, part
from llm_lab.data.batch import Attend
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.options import ModelConfig
from llm_lab.results import ModelPart


class SkipGram(Baseline):
    """Two vectors for each token: one as the centre of a window, one as a neighbour (Mikolov et al. 2013b, §2).

    `counts` says how often the training text has each token: what negatives are drawn by, and which vectors have learned
    nothing.
    """

    supports = frozenset({"neighbours", "embeddings", "gradients"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size, width = config.vocab_size, config.embed_width
        self.centre, self.context = nn.Embedding(size, width), nn.Embedding(size, width)
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)  # as released
        nn.init.zeros_(self.context.weight)
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(size, dtype=torch.long))

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
        """For each token the scores of all as its neighbours (eq. 2 before its softmax); order means nothing."""
        chosen = input_ids[:, -1:] if last else input_ids
        return ModelOutput((self.centre(chosen) @ self.context.weight.mT).float())

    def scores(self, centres: Int[Tensor, "B P"], others: Int[Tensor, "B P N"]) -> Float[Tensor, "B P N"]:
        """v′(other) · v(centre), in float32."""
        return torch.einsum("bpe,bpne->bpn", self.centre(centres), self.context(others)).float()

    def embedding_table(self) -> Float[Tensor, "V E"]:
        return self.centre.weight

    def parts(self, batch_size: int) -> list[ModelPart]:
        size, width = self.vocab_size, self.config.embed_width
        tokens, detail = batch_size * self.max_seq_len, f"{size:,} tokens × {width}"
        return [
            part("embedding", "centre vectors", detail, size * width, 0, width, tokens),
            part("output", "context vectors", detail, size * width, 2 * size * width, 0, tokens),
        ]

"""Replaced-token detection: a small generator fills masks, and the model tells which tokens are not the text's (ELECTRA)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.data.batch import IGNORE, Batch, moved
from llm_lab.models.encoder import Encoder
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import ModelConfig
from llm_lab.objectives import options as opt
from llm_lab.objectives.mlm import MaskedLM
from llm_lab.objectives.objective import Parts, Trainee, balance_of, row_losses, targets_of
from llm_lab.tokenizers.tokenizer import Tokenizer


class Detector(nn.Module):
    """A dense layer, GELU, and one logit a token: whether it was replaced (as released)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense, self.out = nn.Linear(config.d_model, config.d_model), nn.Linear(config.d_model, 1)
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        return self.out(F.gelu(self.dense(hidden)))[..., 0]


class ReplacedTokens(MaskedLM):
    """L = L_mlm(generator) + λ · mean binary cross-entropy of "replaced" over all tokens (Clark et al. 2020, §3).

    The generator is a narrow encoder (`generator_share` of the width and heads) that shares the model's embeddings, and
    goes when training ends. Its output is tied to them where they start small; where they start at size 1, which would
    make its first guesses sure and wrong, it has a table of its own. Its draws are fixed by the batch, so that a step can be repeated.
    """

    parts = ("rtd", "mlm")
    target = "token"
    choices = False
    options: opt.ReplacedTokens

    def __init__(self, options: opt.ReplacedTokens, tokenizer: Tokenizer) -> None:
        super().__init__(options, tokenizer)
        self.weights["rtd"] = options.rtd_weight

    def attach(self, model: LanguageModel) -> Trainee:
        trainee = super().attach(model)
        config = model.config
        assert config is not None and isinstance(model.embed, nn.Embedding), (
            "a model that reads both ways is one of ours"
        )
        small = config.output == "none" or (config.tie_embeddings and not config.scale_logits)
        heads = max(1, round(config.n_head * self.options.generator_share))
        generator = Encoder(
            replace(
                config,
                shape="encoder",
                n_head=heads,
                n_kv_head=None,
                d_head=config.head_dim,
                d_model=heads * config.head_dim,
                d_embed=config.embed_width,
                d_ff=None,
                pooler=False,
                output="mlm",
                output_bias=True,
                tie_embeddings=small,
                scale_logits=False,
            )
        )
        generator.embed = model.embed
        if small:
            generator.unembed.weight = model.embed.weight
        trainee.extras["generator"] = generator
        trainee.extras["detector"] = Detector(config)
        return trainee

    def collate(self, examples: list[np.ndarray], rng: np.random.Generator, turn: int | None = None) -> Batch:
        batch = super().collate(examples, rng, turn)
        draws = torch.from_numpy(rng.random(tuple(batch.input_ids.shape)).astype(np.float32))
        return replace(batch, draws=draws)

    def losses(self, trainee: Trainee, batch: Batch) -> Parts:
        generator, detector = trainee.extras["generator"], trainee.extras["detector"]
        targets = targets_of(batch)
        assert batch.draws is not None
        made = generator(**batch.inputs())
        with torch.no_grad():
            words = moved(torch.from_numpy(self.tokenizer.text_ids), targets.device)
            sampled = drawn(made.logits, batch.draws, words)
        hidden = targets != IGNORE
        original = torch.where(hidden, targets, batch.input_ids)
        seen = torch.where(hidden, sampled, batch.input_ids)
        # A kept or random token under a target is not what the detector is asked about: it sees the generator's.
        out = trainee.model(**replace(batch, input_ids=seen).inputs())
        keep = None if batch.attend is None else batch.attend.keep
        counted = torch.ones_like(hidden) if keep is None else keep
        losses = F.binary_cross_entropy_with_logits(
            detector(out.hidden).float(), (seen != original).float(), reduction="none"
        )
        return {
            "rtd": ((losses * counted).sum(dim=1), counted.sum(dim=1)),
            "mlm": row_losses(made.logits, targets),
        } | balance_of(out.aux, len(targets), made.aux)


def drawn(
    logits: Float[Tensor, "B T V"], draws: Float[Tensor, "B T"], allowed: Int[Tensor, " A"]
) -> Int[Tensor, "B T"]:
    """A token from each distribution over the `allowed` ones, by uniform draws in [0, 1)."""
    steps = logits.float()[..., allowed].softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(steps, (draws * steps[..., -1])[..., None], right=True)[..., 0]
    return allowed[index.clamp(max=len(allowed) - 1)]

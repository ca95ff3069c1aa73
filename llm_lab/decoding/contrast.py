"""Strategies that set one opinion against another: what was written, a weaker model, the model's own early layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding import options as opt
from llm_lab.decoding.rows import Reader, Rows
from llm_lab.decoding.step import Step
from llm_lab.decoding.strategy import Strategy, drawn
from llm_lab.errors import BadValue
from llm_lab.models.decoder import Decoder
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.sites import Tape, opened
from llm_lab.models.stack import Stack
from llm_lab.models.transformer import Transformer


class ContrastiveSearch(Strategy):
    """Of the k likeliest tokens v the one with the largest (1 − α) p(v) − α max_j cos(h_v, h_j), h_j being the hidden
    states of the text and h_v the one that v would have (Su et al. 2022, eq. 5)."""

    by_row = True
    options: opt.ContrastiveSearch
    states: Float[Tensor, "R S D"] | None = None  # of the text so far, as they were when it was read

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        alpha = self.options.penalty_alpha
        logits = rows.read(1 if self.states is not None else min(rows.ids.shape[1], rows.model.max_seq_len))[:, -1]
        if rows.raw is None or rows.hidden is None:
            raise BadValue(
                "contrastive_search compares hidden states, and this model gives none; a model of the lab's own parts would do"
            )
        self.states = rows.hidden if self.states is None else torch.cat([self.states, rows.hidden], dim=1)
        raw = rows.raw = rows.raw[:, -1:]
        logits = self.filtered(logits, rows.past)
        probs, tokens = logits.softmax(dim=-1).topk(min(self.options.candidates, logits.shape[1]))
        cosine = F.normalize(rows.ahead(tokens), dim=-1) @ F.normalize(self.states, dim=-1).mT
        rows.raw = raw
        if rows.past.keep is not None:
            keep = rows.past.keep[:, -self.states.shape[1] :]
            cosine = cosine.masked_fill(~keep[:, None], -torch.inf)
        scores = (1 - alpha) * probs - alpha * cosine.amax(dim=-1)
        best = scores.masked_fill(probs == 0, -torch.inf).argmax(dim=-1, keepdim=True)
        return Step.one(tokens.gather(1, best)[:, 0], probs.gather(1, best)[:, 0])


class ContrastiveDecoding(Strategy):
    """Drawn from (1 + β) log p_expert − β log p_amateur, over the tokens with p_expert ≥ α max p_expert (Li et al. 2023;
    in the form of O'Brien and Lewis 2023, eq. 2)."""

    by_row = True
    options: opt.Contrastive
    reader: Reader | None = None

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        if self.other is None:
            raise AssertionError("an amateur is given when the strategy is made")
        if self.reader is None:
            self.reader = Reader(self.other, rows.begin, rows.new, rows.past.keep)
        expert = rows.logits()
        amateur = self.reader.read(rows.ids).logits[:, 0].index_fill(1, rows.banned, -torch.inf)
        logits = contrasted(expert, amateur, self.options.contrast_alpha, self.options.contrast_beta)
        return Step.one(*drawn(self.filtered(logits, rows.past), generator))


def contrasted(
    expert: Float[Tensor, "R V"], amateur: Float[Tensor, "R V"], alpha: float, beta: float
) -> Float[Tensor, "R V"]:
    """What the expert says more than the amateur, where the expert finds it plausible."""
    own, others = expert.log_softmax(dim=-1), amateur.log_softmax(dim=-1)
    plausible = own >= own.amax(dim=-1, keepdim=True) + math.log(alpha)
    return ((1 + beta) * own - beta * others).masked_fill(~plausible, -torch.inf)


class DoLa(Strategy):
    """Drawn from log p_last − log p_early, over the tokens with p_last ≥ α max p_last; the early layer is the one, of
    the lower or the upper half, whose prediction differs most from the last one's, by the Jensen–Shannon divergence
    (Chuang et al. 2024, §2.2–2.3). An early layer predicts by the model's own last norm and output."""

    by_row = True
    options: opt.DoLa

    def step(self, rows: Rows, generator: torch.Generator) -> Step:
        model, prefix, stack = _stack(rows.model)
        n = len(stack.places)
        if n < 2:
            raise BadValue(
                "dola contrasts the last layer with earlier ones, and this model has one; use --n_layer 2 or more"
            )
        half = n // 2
        layers = range(half) if self.options.dola_layers == "low" else range(min(half, n - 2), n - 1)
        names = [f"{prefix}blocks.{layer}.resid_post" for layer in layers]
        with opened(Tape(model, read=frozenset(names))) as tape:
            last = rows.logits()
        early = torch.stack([model.logits(stack.norm(tape.found[name][:, -1:]))[:, 0] for name in names])
        logits = matured(last, early.index_fill(2, rows.banned, -torch.inf), self.options.dola_alpha)
        return Step.one(*drawn(self.filtered(logits, rows.past), generator))


def matured(last: Float[Tensor, "R V"], early: Float[Tensor, "L R V"], alpha: float) -> Float[Tensor, "R V"]:
    """What the last layer says more than the early layer that differs most from it."""
    final, before = last.log_softmax(dim=-1), early.log_softmax(dim=-1)
    middle = torch.logsumexp(torch.stack([final.expand_as(before), before]), dim=0) - math.log(2)
    differs = 0.5 * (_divergence(final, middle) + _divergence(before, middle))
    chosen = before.gather(0, differs.argmax(dim=0)[None, :, None].expand(1, *last.shape))[0]
    plausible = final >= final.amax(dim=-1, keepdim=True) + math.log(alpha)
    return (final - chosen).masked_fill(~plausible, -torch.inf)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities."""
    return (p.exp() * (p - q)).nansum(dim=-1)


def _stack(model: LanguageModel) -> tuple[Transformer, str, Stack]:
    """The model under a condition, what its sites' names begin with, and the stack that writes."""
    inner = getattr(model, "inner", model)
    if isinstance(inner, EncoderDecoder):
        return inner, "decoder.", inner.decoder
    if isinstance(inner, Decoder):
        return inner, "", inner
    raise BadValue(
        "dola reads the model's own layers, and knows those of the lab's decoders and encoder-decoders alone"
    )

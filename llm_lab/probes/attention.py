"""Attention of every head of every layer over one text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.look import look
from llm_lab.models.sites import Tape, opened, running
from llm_lab.models.stack import Stack
from llm_lab.probes.options import AttentionOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.results import AttentionMaps

THUMBNAIL = 64  # pixels a side at most


def attention(reading: Reading, options: AttentionOptions) -> AttentionMaps:
    """The maps over one text; of two stacks, the encoder's. Keeps q and k, (L, H, T, d), what is added to their products
    where it is more than causality, and byte thumbnails."""
    model, batch, name = reading.model, reading.batch(), reading.name
    assert model.config is not None, "a model with sites is one of ours"
    shape, T = model.config.shape, batch.input_ids.shape[1]
    stack: Any = getattr(model, "encoder", model)
    layers = [f"{stack.prefix}blocks.{i}.attn" for i in range(model.config.n_layer)]
    found = record(model, batch, [f"{layer}.{x}" for layer in layers for x in ("q", "k")])
    # Of two streams in one, the first is the one that reads the text.
    q, k = (
        torch.stack([found[f"{layer}.{x}"][0, :, :T] for layer in layers]).float().cpu().numpy() for x in ("q", "k")
    )
    if not (np.isfinite(q).all() and np.isfinite(k).all()):
        raise BadValue(f"{name}'s {DIVERGED}")
    attend = batch.attend or Attend(causal=shape in ("decoder", "permutation"))
    causal, added = _added(model, stack, attend, T)
    maps = AttentionMaps(
        name=name,
        pieces=reading.pieces(),
        q=q,
        k=k,
        scale=model.config.score_scale,
        causal=causal,
        added=added,
        thumbnails=np.zeros(0, np.uint8),
    )
    n_layer, n_head, n_token, _ = maps.shape
    size = min(n_token, THUMBNAIL)
    maps.thumbnails = np.zeros((n_layer, n_head, size, size), np.uint8)
    for i in range(n_layer):
        for j in range(n_head):
            maps.thumbnails[i, j] = _reduce(maps.pattern(i, j), size)
    maps.live = options.live
    return maps


def _added(model: LanguageModel, stack: Stack, attend: Attend, n: int) -> tuple[bool, np.ndarray | None]:
    """Whether causality alone decides who reads whom; else what is added to the scores, (1 or H, T, T)."""
    ids = torch.arange(n, device=model.device)[None]
    with torch.no_grad(), opened(Tape(model)), running(model):  # while a probe is open, all is computed in full
        seen = look(attend, stack.pattern, stack.position, ids, n, n)
    mask = seen.mask
    if mask is None:
        return seen.is_causal, None
    added: Tensor = torch.zeros(mask.shape).masked_fill(~mask.cpu(), -torch.inf) if mask.dtype == torch.bool else mask
    return False, added[0].float().cpu().numpy()


def _reduce(pattern: np.ndarray, size: int) -> np.ndarray:
    """A (T, T) pattern as (size, size) bytes; where several weights share a pixel, the largest is kept."""
    n = len(pattern)
    edges = np.arange(size) * n // size
    reduced = np.maximum.reduceat(np.maximum.reduceat(pattern, edges, axis=0), edges, axis=1)
    return np.rint(reduced * 255).astype(np.uint8)

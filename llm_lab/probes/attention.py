"""Attention of every head of every layer over one text."""

from __future__ import annotations

import numpy as np
import torch

from llm_lab.data.batch import Batch
from llm_lab.models.decoder import Decoder
from llm_lab.probes.recording import record
from llm_lab.results import AttentionMaps, Piece

THUMBNAIL = 64  # pixels a side at most


def attention(model: Decoder, ids: list[int], pieces: list[Piece], name: str) -> AttentionMaps:
    """The maps over `ids`, at most `max_seq_len` of them. Keeps q and k, (L, H, T, d), and byte thumbnails."""
    device = model.device
    batch = Batch(torch.tensor([ids], dtype=torch.long, device=device))
    layers = range(model.config.n_layer)
    found = record(model, batch, [f"blocks.{i}.attn.{x}" for i in layers for x in ("q", "k")])
    q, k = (torch.stack([found[f"blocks.{i}.attn.{x}"][0] for i in layers]).float().cpu().numpy() for x in ("q", "k"))
    maps = AttentionMaps(
        name=name, pieces=pieces, q=q, k=k, scale=model.config.head_dim**-0.5, thumbnails=np.zeros(0, np.uint8)
    )
    n_layer, n_head, n_token, _ = maps.shape
    size = min(n_token, THUMBNAIL)
    maps.thumbnails = np.zeros((n_layer, n_head, size, size), np.uint8)
    for i in range(n_layer):
        for j in range(n_head):
            maps.thumbnails[i, j] = _reduce(maps.pattern(i, j), size)
    return maps


def _reduce(pattern: np.ndarray, size: int) -> np.ndarray:
    """A (T, T) pattern as (size, size) bytes; where several weights share a pixel, the largest is kept."""
    n = len(pattern)
    edges = np.arange(size) * n // size
    reduced = np.maximum.reduceat(np.maximum.reduceat(pattern, edges, axis=0), edges, axis=1)
    return np.rint(reduced * 255).astype(np.uint8)

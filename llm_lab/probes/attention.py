"""Attention of every head of every layer over one text, two texts, or a text and its source."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from llm_lab.data.batch import Attend, Batch, lower
from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.probes.options import AttentionOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.results import AttentionMaps
from llm_lab.results.attention import BLOCK, telling

THUMBNAIL = 64  # pixels a side at most


def attention(reading: Reading, options: AttentionOptions) -> AttentionMaps:
    """The maps of one stack. A model of one stack reads two texts as one sequence; of an encoder and a decoder the second
    text is what the decoder has written. Keeps q and k, byte thumbnails, and what is added to the scores by distance."""
    model, name = reading.model, reading.name
    config = model.config
    assert config is not None, "a model with sites is one of ours"
    two = config.shape == "encoder_decoder"
    stack = _stack(options.stack, two, len(reading.texts) > 1, name)
    parts: list[int] | None = None
    if two:
        batch, pieces = reading.batch(), reading.pieces()
        written = reading.written()
        batch = replace(batch, decoder_ids=written)
        queries = pieces if stack == "encoder" else reading.tokenizer.pieces(written[0].tolist())
        source = pieces if stack == "cross" else None
    else:
        sequence = reading.sequence()
        batch, queries, source = sequence.batch, sequence.pieces, None
        parts = sequence.parts if len(reading.texts) > 1 else None
    half: Any = getattr(model, "encoder" if stack == "encoder" else "decoder", model) if two else model
    layers = range(config.n_layer if not two or stack == "encoder" else config.decoder_layers)
    paths = [f"{half.prefix}blocks.{i}.{'cross' if stack == 'cross' else 'attn'}" for i in layers]
    seen = _Seen(len(queries), len(queries if source is None else source), stack == "cross")
    found = record(model, batch, [f"{path}.{x}" for path in paths for x in ("q", "k", "pattern")], take=seen)
    q, k, thumbnails = (np.stack([found[f"{path}.{x}"].numpy() for path in paths]) for x in ("q", "k", "pattern"))
    if not (np.isfinite(q).all() and np.isfinite(k).all()):
        raise BadValue(f"{name}'s {DIVERGED}")
    causal, bias, mask = (False, None, None) if stack == "cross" else _who_reads_whom(model, half, batch, len(queries))
    maps = AttentionMaps(
        name=name,
        pieces=queries,
        source=source,
        stack=stack,
        parts=parts,
        q=q,
        k=k,
        scale=config.score_scale,
        causal=causal,
        bias=bias,
        mask=mask,
        thumbnails=thumbnails,
        measures=np.stack([seen.measures[f"{path}.pattern"] for path in paths]),
        live=options.live,
    )
    if options.layers or options.heads:
        maps = maps.select(options.layers or None, options.heads or None)
    maps.opens = _opens(maps, options)
    return maps


def _opens(maps: AttentionMaps, options: AttentionOptions) -> tuple[int, int] | None:
    """The head that is shown large: the one asked for, of what is left open the most telling."""
    if options.layer is None and options.head is None:
        return None
    some = maps.select(*(None if one is None else [one] for one in (options.layer, options.head)))
    i, j = telling(some.measures)
    return some.layers[i], some.heads[j]


def _stack(asked: str | None, two: bool, several: bool, name: str) -> str:
    """Which of two stacks is meant: cross attention where the decoder has written something, else the encoder."""
    if not two:
        if asked is not None:
            raise BadValue(f"stack: {asked} is one of an encoder and a decoder, and {name} is one stack; leave it out")
        return ""
    return asked or ("cross" if several else "encoder")


class _Seen:
    """What is kept of a layer while the model runs: q and k, and of its pattern a thumbnail and each head's measures, so
    that no two layers' patterns are held at a time. Of two streams in one, the first is the one that reads the text."""

    def __init__(self, queries: int, keys: int, cross: bool) -> None:
        self.queries, self.keys, self.cross = queries, keys, cross
        self.measures: dict[str, np.ndarray] = {}

    def __call__(self, x: Tensor, site: str) -> Tensor:
        kind = site.rpartition(".")[2]
        if kind == "q":
            return x[0, :, : self.queries].float().cpu()
        if kind == "k":
            return x[0, :, : self.keys].float().cpu()
        pattern = x[0, :, : self.queries, : self.keys]
        self.measures[site] = measured(pattern, self.cross).cpu().numpy()
        return thumbnail(pattern).cpu()


def measured(pattern: Float[Tensor, "H T S"], cross: bool = False) -> Float[Tensor, "H 4"]:
    """Of each head, means over the queries: entropy in bits, attention to the previous token, the first, itself. The first
    query has nothing before it and does not count for the former two. Of another text (`cross`) the former and the last
    are of the same place there, and so mean nothing: 0."""
    pattern = pattern.float()
    entropy = torch.zeros(len(pattern), device=pattern.device)
    for rows in pattern.split(BLOCK, dim=1):  # its logarithms are as large as the pattern
        entropy += -torch.special.xlogy(rows, rows).sum(dim=(1, 2)) / np.log(2)
    entropy = (entropy / pattern.shape[1]).clamp(min=0)
    later = pattern[:, 1:]
    first = later[..., 0].mean(dim=1) if later.shape[1] else torch.ones_like(entropy)
    if cross:
        first = pattern[..., 0].mean(dim=1)
        return torch.stack([entropy, torch.zeros_like(first), first, torch.zeros_like(first)], dim=1)
    before = pattern.diagonal(offset=-1, dim1=1, dim2=2).mean(dim=1) if later.shape[1] else torch.zeros_like(entropy)
    return torch.stack([entropy, before, first, pattern.diagonal(dim1=1, dim2=2).mean(dim=1)], dim=1)


def thumbnail(pattern: Float[Tensor, "H T S"], side: int = THUMBNAIL) -> UInt8[Tensor, "H t s"]:
    """Patterns as bytes, at most `side` × `side`; where several weights share a pixel, the largest is kept."""
    for dim in (1, 2):
        n = pattern.shape[dim]
        if n > side:
            edges = [i * n // side for i in range(side + 1)]
            pattern = torch.stack([pattern.narrow(dim, a, b - a).amax(dim=dim) for a, b in pairwise(edges)], dim=dim)
    return (pattern.float() * 255).round().to(torch.uint8)


def _who_reads_whom(
    model: LanguageModel, half: Any, batch: Batch, n: int
) -> tuple[bool, np.ndarray | None, np.ndarray | None]:
    """(causal, bias, mask) of a stack over its own n positions, as `AttentionMaps` keeps them."""
    assert model.config is not None
    one_way = model.config.shape in ("decoder", "permutation")
    decoder = getattr(half, "prefix", "") == "decoder."
    attend = Attend() if decoder else batch.attend or Attend(causal=one_way)
    causal, mask = lower(attend, n, n, torch.device("cpu"))
    place = torch.arange(n)
    if not half.pattern.covers(n):
        with torch.no_grad():
            allowed = half.pattern.allowed(place[:, None].to(model.device), place[None].to(model.device)).cpu()
        mask = allowed[None, None] if mask is None else mask & allowed
    packed = None if mask is None else np.packbits(mask[0, 0].numpy(), axis=1)
    if not half.position.biased:
        return causal, None, packed
    with torch.no_grad():  # it depends on the distance alone: the last query's, then the first's
        near = half.position.bias(*(x.to(model.device) for x in (place[-1:, None], place[None])))[:, 0]
        far = half.position.bias(*(x.to(model.device) for x in (place[:1, None], place[None])))[:, 0]
    return causal, torch.cat([near, far[:, 1:]], dim=1).float().cpu().numpy(), packed

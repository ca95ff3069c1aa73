"""Queries that read about the same keys, in tiles: what sparse attention computes in one call; it computes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.models.patterns import Part, Rule

Bias = Callable[[Any, Any], Any]  # (…, q, 1) and (…, 1, k) to (H, …, q, k), by key − query alone; or to None

# Measured on CPUs, in score products of one head that take as long.
_CALL = 4096  # one more call
GATHER = 96  # one more key in a tile, forward and backward
_PAIRS = 2**20  # of a query and a key that are looked at together when tiles are made

_Rows = tuple[Tensor, Tensor]  # the queries of a tile, and the keys that any of them reads


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles with equally many queries and keys. One that has fewer repeats its last query, whose result nobody takes,
    or has keys that are not allowed."""

    queries: Int[Tensor, "N q"]
    keys: Int[Tensor, "N k"]
    allowed: Bool[Tensor, "N q k"]
    itself: Bool[Tensor, "N q k"]
    repeated: Bool[Tensor, "N q"]
    span: tuple[int, int] | None = None  # where the queries are one after the other: the first, and how many

    def query_rows(self, x: Float[Tensor, "BH T d"]) -> Float[Tensor, "N BH q d"]:
        """Of each tile its queries' rows; batch and heads are one dimension, so that tiles can be the other."""
        rows = x.narrow(1, *self.span) if self.span else x.index_select(1, self.queries.flatten())
        return rows.unflatten(1, self.queries.shape).transpose(0, 1)

    def key_rows(self, x: Float[Tensor, "BH T d"]) -> Float[Tensor, "N BH k d"]:
        return x.index_select(1, self.keys.flatten()).unflatten(1, self.keys.shape).transpose(0, 1)

    def mask(self, q: Float[Tensor, "B H T d"], keep: Tensor | None, bias: Bias | None) -> Tensor:
        """What may be read, (N, 1 or B·H, q, k), or what is added to the scores, with −inf where it may not."""
        values = None if bias is None else bias(self.queries[:, :, None], self.keys[:, None, :])
        allowed = self.allowed[:, None, None]  # (N, B, H, q, k)
        if keep is None and values is None:
            return allowed[:, 0]
        if keep is not None:  # padding reads itself: a row without any key would be NaN
            kept = keep[:, self.keys].transpose(0, 1)[:, :, None, None, :]
            allowed = (allowed & kept) | self.itself[:, None, None]
        if values is not None:
            allowed = values.transpose(0, 1)[:, None].to(q.dtype).masked_fill(~allowed, -torch.inf)
        return allowed.expand(-1, *q.shape[:2], -1, -1).flatten(1, 2)


@dataclass(frozen=True, eq=False)
class Group:
    """All positions in tiles, for one part of a pattern."""

    tiles: list[Tiles]
    back: Int[Tensor, " T"] | None  # the row of each position among those computed; None where they are in order
    n: int

    def ordered(self, rows: Sequence[Float[Tensor, "_ BH _ d"]]) -> Float[Tensor, "BH T d"]:
        """What was computed of each position, in the order of the text."""
        flat = [x.transpose(0, 1).flatten(1, 2) for x in rows]
        whole = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        return whole[:, : self.n] if self.back is None else whole.index_select(1, self.back)


def grouped(part: Part, causal: bool, n: int, block: int, device: torch.device) -> Group:
    """One part's tiles, `block` queries long or two, four, … times as long, where that is computed faster."""
    lanes = _cut(part, causal, n, block)
    while any(len(lane.tiles) > 1 for lane in lanes):
        longer = [lane.doubled() for lane in lanes]
        if sum(lane.cost for lane in longer) >= sum(lane.cost for lane in lanes):
            break
        lanes = longer
    made, order = [], []
    for size in dict.fromkeys(lane.size for lane in lanes):
        same = [(queries, read.nonzero()[:, 0]) for lane in lanes if lane.size == size for queries, read in lane.tiles]
        for bucket in _buckets(same, size):
            made.append(_tiles(part, causal, bucket, size, device))
            order += [F.pad(queries, (0, size - len(queries)), value=n) for queries, _ in bucket]
    rows = torch.cat(order)
    back = torch.empty(n + 1, dtype=torch.long)
    back[rows] = torch.arange(len(rows))  # those that fill a tile are written past the end
    in_order = torch.equal(back[:n], torch.arange(n))
    return Group(made, None if in_order else back[:n].to(device), n)


def allowed(rule: Rule, causal: bool, query: Tensor, key: Tensor) -> Tensor:
    """The rule, and under causality nothing later."""
    found = rule(query, key)
    return found & (key <= query) if causal else found


@dataclass(frozen=True, eq=False)
class _Lane:
    """Tiles that may be put together with their neighbours: their queries, and for every position whether it is read."""

    size: int
    tiles: list[_Rows]

    def doubled(self) -> _Lane:
        if len(self.tiles) == 1:
            return self
        pairs = [self.tiles[i : i + 2] for i in range(0, len(self.tiles), 2)]
        merged = [(torch.cat([q for q, _ in pair]), torch.stack([r for _, r in pair]).any(dim=0)) for pair in pairs]
        return _Lane(2 * self.size, merged)

    @property
    def cost(self) -> int:
        return sum((self.size + GATHER) * int(read.sum()) for _, read in self.tiles)


def _cut(part: Part, causal: bool, n: int, length: int) -> list[_Lane]:
    """Tiles of at most `length` queries."""
    first = 0 if causal else min(part.first, n)  # where causal, the first positions read no more than others
    position = torch.arange(n)
    runs = [(first, [position[:first]])] if first else []
    if part.stride == 1:
        starts = range(first // length * length, n, length)
        cut = [position[max(start, first) : start + length] for start in starts]
        runs.append((length, [queries for queries in cut if len(queries)]))
    else:
        longest = -(-n // part.stride)
        even = -(-longest // -(-longest // length))  # those of one residue are as long as each other
        runs += [(even, list(position[i :: part.stride].split(even))) for i in range(min(part.stride, n))]
    return [_Lane(size, list(zip(lane, _read(part, causal, n, lane), strict=True))) for size, lane in runs if lane]


def _read(part: Part, causal: bool, n: int, lane: list[Tensor]) -> list[Tensor]:
    """For each tile the positions that any of its queries reads; several tiles at once, as small steps are slow."""
    found: list[Tensor] = []
    key, together = torch.arange(n, dtype=torch.int32), max(1, _PAIRS // (n * len(lane[0])))
    for start in range(0, len(lane), together):
        some = lane[start : start + together]
        may = allowed(part.allowed, causal, torch.cat(some).int()[:, None], key)
        found += [rows.any(dim=0) for rows in may.split([len(queries) for queries in some])]
    return found


def _buckets(tiles: Sequence[_Rows], size: int) -> list[list[_Rows]]:
    """Tiles that are computed in one call, so that the keys that fill them up and the calls together cost least."""
    ordered = sorted(tiles, key=lambda tile: len(tile[1]))
    widths = [len(keys) for _, keys in ordered]
    ends = [i for i in range(1, len(ordered) + 1) if i == len(ordered) or widths[i] != widths[i - 1]]
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}  # by end: the cost up to there, and where its bucket starts
    for end in ends:
        filled = ((s, (end - s) * (size + GATHER) * widths[end - 1]) for s in (0, *ends) if s < end)
        best[end] = min((best[start][0] + _CALL + cost, start) for start, cost in filled)
    found, end = [], len(ordered)
    while end:
        start = best[end][1]
        found.append(sorted(ordered[start:end], key=lambda tile: int(tile[0][0])))
        end = start
    # In the order of the text, where that is possible: then nothing has to be put back in order afterwards.
    return sorted(found, key=lambda bucket: int(bucket[0][0][0]))


def _tiles(part: Part, causal: bool, bucket: Sequence[_Rows], size: int, device: torch.device) -> Tiles:
    width = max(1, *(len(keys) for _, keys in bucket))
    queries = torch.stack([torch.cat([q, q[-1:].expand(size - len(q))]) for q, _ in bucket])
    repeated = torch.stack([torch.arange(size) >= len(q) for q, _ in bucket])
    keys = torch.stack([F.pad(k, (0, width - len(k)), value=-1) for _, k in bucket])
    there = (keys >= 0)[:, None]
    keys = keys.clamp(min=0)
    row, column = queries[:, :, None], keys[:, None, :]
    may = allowed(part.allowed, causal, row, column) & there
    start, count = int(queries[0, 0]), queries.numel()
    span = (start, count) if torch.equal(queries.flatten(), torch.arange(start, start + count)) else None
    itself = may & (row == column)
    return Tiles(queries.to(device), keys.to(device), may.to(device), itself.to(device), repeated.to(device), span)

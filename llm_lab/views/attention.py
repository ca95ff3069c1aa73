"""Attention: all heads of all layers as small maps, one of them enlarged with its tokens; it computes no model."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_lab.results import AttentionMaps
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import bundle, card, columns, number, picture, small, visible

if TYPE_CHECKING:
    import numpy as np

Measures = list[list[tuple[float, float, float, float]]]  # by layer and head, see `facts`
LABELLED = 64  # tokens up to which every row and column is named
EXACT = 2**23  # weights up to which every head is computed in full to draw a view
DATA_BYTES = 130_000  # deflated maps that the script may carry; the whole view stays under 300 KB
GRID_BYTES = 36_000
SIDE = 340


@dataclass(frozen=True)
class Maps:
    """All heads as bytes (0–255 for 0–1): (L, H, t, t), where a cell is the largest of T/t × T/t weights."""

    cells: np.ndarray
    levels: int  # distinct values, 255 or 15


def maps(result: AttentionMaps) -> dict[str, str]:
    """The grid of heads, and the most telling one enlarged."""
    layers, heads, tokens, _ = result.shape
    measures = facts(result)
    layer, head = telling(measures)
    title = ["attention", f"{tokens:,} tokens", f"{layers} layers × {heads} heads"]
    says = describe(measures[layer][head], layer, head)
    how = "Each square is one head: queries down, keys across; the framed one is enlarged."
    grid, big = _grid(result, layer, head), _big(result, layer, head)
    still = columns(("1 1 300px", grid + small(how)), ("1 1 340px", big + small(says)))
    data, buffers = payload(result, measures, (layer, head))
    caption = (
        "A row is one token that reads (query), a column the token it reads from (key); the darker, the more of its "
        "attention. Each row sums to 1."
    )
    if data["side"] < tokens or data["levels"] < 255:
        caption += f" Maps reduced to {data['side']} × {data['side']} maxima, {data['levels'] + 1} levels; "
        caption += ".pattern(layer, head) is exact."
    body = live("attention", still, data, buffers)
    page = card(result.name, title, body, caption=caption)
    plain = [" · ".join([result.name, *title]), f"  most telling: {says}"]
    for name, index in (("the previous token", 1), ("the first", 2), ("itself", 3)):
        value, i, j = max((m[index], i, j) for i, row in enumerate(measures) for j, m in enumerate(row))
        plain.append(f"  most to {name}: layer {i} head {j}, {number(value, 2)}")
    return bundle("\n".join(plain), page)


def payload(
    result: AttentionMaps, measures: Measures | None = None, at: tuple[int, int] | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the module in static/attention.js needs: small data, and the maps as bytes."""
    layers, heads, *_ = result.shape
    measures = measures or facts(result)
    layer, head = at or telling(measures)
    kept = reduced(result, DATA_BYTES)
    data = {
        "layers": layers,
        "heads": heads,
        "side": kept.cells.shape[-1],
        "levels": kept.levels,
        "causal": bool(result.causal),
        "tokens": [visible(piece.text) for piece in result.pieces],
        "facts": [[[round(v, 4) for v in head] for head in row] for row in measures],
        "layer": layer,
        "head": head,
        "labelled": LABELLED,
    }
    return data, {"maps": kept.cells.tobytes()}


def facts(result: AttentionMaps) -> Measures:
    """Of each head, means over the queries: entropy in bits, attention to the previous token, the first, itself.

    Of a very large probe a sample of the queries is measured.
    """
    import numpy as np

    layers, heads, tokens, _ = result.shape
    table = []
    every = max(1, layers * heads * tokens * tokens // EXACT)
    rows = np.arange(0, tokens, every) if every > 1 else np.arange(tokens)
    later = rows[rows > 0]
    for layer in range(layers):
        line = []
        for head in range(heads):
            weights = _rows(result, layer, head, rows)
            entropy = -(weights * np.log2(np.maximum(weights, 1e-30))).sum(-1).mean()
            itself = weights[np.arange(len(rows)), rows].mean()
            after = weights[rows > 0]
            before = after[np.arange(len(later)), later - 1].mean() if len(later) else 0.0
            first = after[:, 0].mean() if len(later) else 1.0
            line.append((max(float(entropy), 0.0), float(before), float(first), float(itself)))
        table.append(line)
    return table


def telling(measures: Measures) -> tuple[int, int]:
    """The head to open with: the sharpest that does not merely look at the previous token, the first, or itself."""
    every = [(layer, head) for layer in range(len(measures)) for head in range(len(measures[0]))]

    def plainness(at: tuple[int, int]) -> tuple[bool, float]:
        entropy, *places = measures[at[0]][at[1]]
        return max(places) > 0.5, entropy

    return min(every, key=plainness)


def describe(measure: tuple[float, float, float, float], layer: int, head: int) -> str:
    """A head's facts in words."""
    entropy, *shares = (number(v, 2) for v in measure)
    places = ", ".join(
        f"to {where} {v}" for where, v in zip(("the previous token", "the first", "itself"), shares, strict=True)
    )
    return f"layer {layer} · head {head}: entropy {entropy} bits, {places}."


def reduced(result: AttentionMaps, budget: int) -> Maps:
    """All heads at the finest resolution whose deflated bytes fit the budget."""
    import numpy as np

    layers, heads, tokens, _ = result.shape
    steps: list[tuple[np.ndarray, int]] = []
    if layers * heads * tokens * tokens <= EXACT and tokens > result.thumbnails.shape[-1]:
        full = np.stack([[quantised(result.pattern(i, j)) for j in range(heads)] for i in range(layers)])
        steps.append((full, 255))
    cells = np.ascontiguousarray(result.thumbnails)
    while True:
        steps += [(cells, 255), (cells, 15)]
        if cells.shape[-1] <= 8:
            break
        cells = pooled(cells, (cells.shape[-1] + 1) // 2)
    for cells, levels in steps:
        kept = cells if levels == 255 else (np.round(cells / 17) * 17).astype(np.uint8)
        if cells.size <= 8 * EXACT and len(zlib.compress(kept.tobytes(), 6)) <= budget:
            break
    return Maps(kept, levels)


def quantised(weights: np.ndarray) -> np.ndarray:
    """Weights of 0–1 as bytes."""
    import numpy as np

    return np.round(weights * 255).astype(np.uint8)


def pooled(cells: np.ndarray, side: int) -> np.ndarray:
    """Maps (…, T, T) reduced to (…, side, side) by taking maxima."""
    import numpy as np

    tokens = cells.shape[-1]
    if side >= tokens:
        return cells
    starts = np.arange(side) * tokens // side
    return np.maximum.reduceat(np.maximum.reduceat(cells, starts, axis=-1), starts, axis=-2)


def _rows(result: AttentionMaps, layer: int, head: int, rows: np.ndarray) -> np.ndarray:
    if len(rows) == result.shape[2]:
        return result.pattern(layer, head)
    import numpy as np

    group = result.shape[1] // result.k.shape[1]
    scores = result.q[layer, head, rows] @ result.k[layer, head // group].T * result.scale
    if result.causal:
        scores = np.where(np.arange(result.shape[2]) <= rows[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def tile_size(heads: int) -> int:
    """Pixels of one small map, by how many stand in a row."""
    return min(max(400 // heads - 6, 18), 56)


def _grid(result: AttentionMaps, layer: int, head: int) -> str:
    import numpy as np

    layers, heads, *_ = result.shape
    tile, gap, left, top = tile_size(heads), 6, 50, 18
    kept = reduced(result, GRID_BYTES)
    cells = pooled(kept.cells, tile)
    side = cells.shape[-1]
    atlas = np.ascontiguousarray(cells.transpose(0, 2, 1, 3)).reshape(layers * side, heads * side)
    image = svg.shades(atlas, 0, 0, heads * side, layers * side, more='id="a"')
    body = f"<defs>{image}</defs>"
    for i in range(layers):
        body += svg.text(left - 7, top + i * (tile + gap) + tile / 2 + 4, f"layer {i}", anchor="end")
        for j in range(heads):
            x, y = left + j * (tile + gap), top + i * (tile + gap)
            body += (
                f'<svg x="{x}" y="{y}" width="{tile}" height="{tile}" viewBox="{j * side} {i * side} {side} {side}">'
                f'<use href="#a"/></svg>'
                f'<rect class="l" x="{x - 0.5}" y="{y - 0.5}" width="{tile + 1}" height="{tile + 1}"/>'
            )
    for j in range(heads):
        body += svg.text(left + j * (tile + gap) + tile / 2, top - 6, f"head {j}" if tile > 44 else j, anchor="middle")
    x, y = left + head * (tile + gap), top + layer * (tile + gap)
    body += f'<rect class="o" stroke-width="2.5" x="{x - 2}" y="{y - 2}" width="{tile + 4}" height="{tile + 4}"/>'
    width, height = left + heads * (tile + gap) + 2, top + layers * (tile + gap) + 2
    alt = f"Attention of {layers} layers × {heads} heads as small maps; layer {layer} head {head} is framed"
    return picture(svg.document(width, height, body), alt, width, height)


def _big(result: AttentionMaps, layer: int, head: int) -> str:
    weights = result.pattern(layer, head)
    tokens = len(weights)
    cells = pooled(quantised(weights), 256)
    labelled = tokens <= LABELLED
    cell = min(SIDE / max(tokens, 1), 26) if labelled else SIDE / tokens
    names = [_short(visible(piece.text)) for piece in result.pieces]
    fit = labelled and cell >= 5
    space = max((svg.width_of(name) for name in names), default=0) if fit else 0
    left, top = (max(space + 10, 16), max(space + 10, 16)) if fit else (18, 20)
    side = cell * tokens
    body = svg.shades(cells, left, top, side, side)
    body += f'<rect class="l" x="{left}" y="{top}" width="{side:g}" height="{side:g}"/>'
    small = f'style="font-size:{min(11, cell):.1f}px"'
    for i, name in enumerate(names if fit else ()):
        middle = (i + 0.5) * cell + min(11, cell) * 0.35
        body += svg.text(left - 5, top + middle, name, "t k", "end", small)
        x, y = left + middle, top - 5
        body += svg.text(x, y, name, "t k", "start", f'{small} transform="rotate(-90 {x:.1f} {y:.1f})"')
    if not fit:
        body += svg.text(left, top - 7, f"keys: {tokens:,} tokens →")
        body += svg.text(left - 6, top, "← queries", "m", "end", f'transform="rotate(-90 {left - 6} {top})"')
    width, height = round(left + side + 8), round(top + side + 8)
    alt = f"Attention of layer {layer} head {head}, {tokens} queries down, {tokens} keys across"
    return picture(svg.document(width, height, body), alt, width, height)


def _short(name: str, places: int = 14) -> str:
    while svg.width_of(name, 1) > places:
        name = name[:-2] + "…"
    return name

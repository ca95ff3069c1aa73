"""Attention: all heads of all layers as small maps, one of them enlarged with its tokens; it runs no model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_lab.results import AttentionMaps
from llm_lab.results.attention import telling
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import alone, bundle, card, columns, esc, fitting, number, picture, small

if TYPE_CHECKING:
    import numpy as np

LABELLED = 64  # tokens up to which every row and column is named
EXACT = 2**23  # weights up to which every head is computed in full to draw a view
DATA_BYTES = 100_000  # deflated maps that the script may carry; the whole view stays under 300 KB
GRID_BYTES = 36_000
VECTOR_BYTES = 70_000  # of q and k that the script may carry
SENT = 256  # cells a side of what a page is sent of single heads
ASKED = 2**26  # weights up to which heads are put together while a page waits
FINE_BYTES = 36_000  # deflated, of the head that opens
SIDE = 340


@dataclass(frozen=True)
class Maps:
    """All heads as bytes (0–255 for 0–1): (L, H, t, s), where a cell is the largest of T/t × S/s weights."""

    cells: np.ndarray
    levels: int  # steps between 0 and 1: 255 even ones, or 15 that are even in their roots


def maps(result: AttentionMaps) -> dict[str, str]:
    """The grid of heads, and the most telling one enlarged."""
    _, heads, tokens, keys = result.shape
    layer, head = opening(result)
    title = ["attention", *facts(result)]
    says = describe(result, layer, head)
    how = "Each square is one head: queries down, keys across; the framed one is enlarged."
    grid, big = _grid(result, layer, head), _big(result, layer, head)
    still = columns(("1 1 300px", grid + small(how)), ("1 1 340px", big + small(says)))
    caption = (
        "A row is one token that reads (query), a column the token it reads from (key); the darker, the more of its "
        "attention. Each row sums to 1."
    )
    if tokens * keys > result.thumbnails[0, 0].size:
        caption += " Maps may be reduced to maxima of their cells; .pattern(layer, head) is exact."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)

    def pages() -> Iterator[str]:
        for budget in (DATA_BYTES, DATA_BYTES // 3):
            yield card(
                result.name, title, live("attention", still, *payload(result, (layer, head), budget)), caption=caption
            )
        yield card(result.name, title, still, caption=caption)

    plain = [" · ".join([result.name, *title]), f"  most telling: {says}"]
    for name, index in (("the previous token", 1), ("the first", 2), ("itself", 3)):
        if result.stack == "cross" and index != 2:
            continue
        i, j = divmod(int(result.measures[..., index].argmax()), heads)
        where, share = named(result, i, j), number(float(result.measures[i, j, index]), 2)
        plain.append(f"  most to {name}: {where}, {share}")
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(pages()))


def opening(result: AttentionMaps) -> tuple[int, int]:
    """Where the layer and the head are held that are shown large."""
    if result.opens is None:
        return telling(result.measures)
    layer, head = result.opens
    return result.layers.index(layer), result.heads.index(head)


def named(result: AttentionMaps, i: int, j: int) -> str:
    """A head by its numbers in the model, from where it is held."""
    return f"layer {result.layers[i]} head {result.heads[j]}"


def facts(result: AttentionMaps) -> list[str]:
    """What the header line says after the kind."""
    layers, heads, tokens, keys = result.shape
    which = {"cross": "of a decoder to its source", "": ""}.get(result.stack, f"of the {result.stack}")
    read = f"{tokens:,} tokens read {keys:,}" if result.source is not None else f"{tokens:,} tokens"
    return [fact for fact in (which, read, f"{layers} layers × {heads} heads") if fact]


def payload(
    result: AttentionMaps, at: tuple[int, int] | None = None, budget: int = DATA_BYTES
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the module in static/attention.js needs: small data, the maps as bytes, the head that opens as finely as it is
    shown, and where there is room q and k."""
    layers, heads, *_ = result.shape
    layer, head = at or opening(result)
    kept = reduced(result, budget)
    whole = result.numel <= EXACT
    between = result.between() if result.parts is not None and whole else None
    data = {
        "layers": list(result.layers),
        "heads": list(result.heads),
        "down": kept.cells.shape[-2],
        "across": kept.cells.shape[-1],
        "levels": kept.levels,
        "causal": bool(result.causal),
        "tokens": [alone(piece.text) for piece in result.pieces],
        "source": None if result.source is None else [alone(piece.text) for piece in result.source],
        "parts": None if result.parts is None else list(result.parts),
        "between": None if between is None else _rounded(between.reshape(layers, heads, 4), 3),
        "facts": _rounded(result.measures, 4),
        "cross": result.stack == "cross",
        "scale": float(result.scale),
        "layer": layer,
        "head": head,
        "labelled": LABELLED,
        "width": result.q.shape[-1],
        "shared": heads // result.k.shape[1],
        "rolls": result.source is None and result.numel <= ASKED,
    }
    buffers = {"maps": kept.cells.tobytes()}
    if result.source is None and whole:
        buffers["rolled"] = pooled(quantised(result.aggregate("rollout")), kept.cells.shape[-1]).tobytes()
    finest = max(result.thumbnails.shape[-2:])
    if max(kept.cells.shape[-2:]) < max(result.shape[2:]):
        large = result.pattern(result.layers[layer], result.heads[head])
        for side in (SENT, SENT * 3 // 4, SENT // 2, finest):
            fine = quantised(pooled(large, side))
            if len(zlib.compress(fine.tobytes(), 6)) <= FINE_BYTES:
                break
        buffers["fine"], data["fine_shape"] = fine.tobytes(), list(fine.shape)
    vectors = _vectors(result)
    if vectors is not None:
        data["scales"] = [_rounded(scale, 6) for scale in vectors[1]]
        buffers["vectors"] = vectors[0]
    return data | {"sent": list(buffers)}, buffers


def _rounded(values: np.ndarray, places: int) -> Any:
    """Numbers as nested lists, rounded."""
    import numpy as np

    return np.round(values.astype(float), places).tolist()


def _vectors(result: AttentionMaps) -> tuple[bytes, list[np.ndarray]] | None:
    """q and k of every head as signed bytes, and what a byte of each is worth; None where they are too many."""
    import numpy as np

    if result.q.size + result.k.size > VECTOR_BYTES:
        return None
    parts, scales = [], []
    for values in (result.q, result.k):
        far = np.maximum(np.abs(values).max(axis=(2, 3)), 1e-12)
        parts.append(np.round(values / far[..., None, None] * 127).astype(np.int8).tobytes())
        scales.append(far / 127)
    return b"".join(parts), scales


def describe(result: AttentionMaps, layer: int, head: int) -> str:
    """A head's measures in words."""
    entropy, *shares = (number(float(v), 2) for v in result.measures[layer, head])
    named = zip(("the previous token", "the first", "itself"), shares, strict=True)
    places = [f"to {where} {v}" for where, v in named if result.stack != "cross" or where == "the first"]
    at = f"layer {result.layers[layer]} · head {result.heads[head]}"
    return f"{at}: entropy {entropy} bits, {', '.join(places)}."


def reduced(result: AttentionMaps, budget: int) -> Maps:
    """All heads at the finest resolution whose deflated bytes fit the budget."""
    import numpy as np

    *_, tokens, keys = result.shape
    steps: list[tuple[np.ndarray, int]] = []
    if result.numel <= EXACT and max(tokens, keys) > max(result.thumbnails.shape[-2:]):
        full = np.stack([[quantised(result.pattern(i, j)) for j in result.heads] for i in result.layers])
        steps.append((full, 255))
    side = max(result.thumbnails.shape[-2:])
    while True:
        cells = pooled(np.ascontiguousarray(result.thumbnails), side)  # at once: edges of edges would be others
        steps += [(cells, 255), (cells, 15)]
        if side <= 8:
            break
        side = (side + 1) // 2
    for cells, levels in steps:
        kept = cells if levels == 255 else coarse(cells)
        if cells.size <= 8 * EXACT and len(zlib.compress(kept.tobytes(), 6)) <= budget:
            break
    return Maps(kept, levels)


def quantised(weights: np.ndarray) -> np.ndarray:
    """Weights of 0–1 as bytes."""
    import numpy as np

    return np.round(weights * 255).astype(np.uint8)


def coarse(cells: np.ndarray) -> np.ndarray:
    """Bytes of 16 values, evenly apart in their roots: the weights of a long text are small, and are to be seen."""
    import numpy as np

    values = np.arange(256) / 255
    return np.round((np.round(values**0.5 * 15) / 15) ** 2 * 255).astype(np.uint8)[cells]


def pooled(cells: np.ndarray, side: int) -> np.ndarray:
    """Maps (…, T, S) reduced to at most `side` each way by taking maxima."""
    import numpy as np

    for axis in (-2, -1):  # rows first: they lie one after the other
        if (size := cells.shape[axis]) > side:
            cells = np.maximum.reduceat(cells, np.arange(side) * size // side, axis=axis)
    return cells


def layer_cells(result: AttentionMaps, layer: int) -> np.ndarray:
    """One layer's heads as bytes at up to SENT cells a side, (H, t, s): what a page is sent when the layer is looked at."""
    import numpy as np

    return np.stack([quantised(pooled(result.pattern(result.layers[layer], j), SENT)) for j in result.heads])


def together(result: AttentionMaps, how: str, layer: int | None) -> np.ndarray | None:
    """Heads as one map, of a layer or of all, as bytes at up to SENT cells a side, (t, s); None where that takes too long
    to wait for."""
    some = result if layer is None else result.select(layers=[result.layers[layer]])
    if some.numel > ASKED or (how == "rollout" and some.source is not None):
        return None
    return quantised(pooled(some.aggregate(how), SENT))


def tile_size(heads: int) -> int:
    """Pixels of one small map, by how many stand in a row."""
    return min(max(400 // heads - 6, 18), 56)


def _grid(result: AttentionMaps, layer: int, head: int) -> str:
    import numpy as np

    layers, heads, *_ = result.shape
    tile, gap, left, top = tile_size(heads), 6, 50, 18
    cells = pooled(reduced(result, GRID_BYTES).cells, tile)
    rows, side = cells.shape[-2:]
    atlas = np.ascontiguousarray(cells.transpose(0, 2, 1, 3)).reshape(layers * rows, heads * side)
    image = svg.shades(atlas, 0, 0, heads * side, layers * rows, more='id="a"')
    body = f"<defs>{image}</defs>"
    for i in range(layers):
        body += svg.text(left - 7, top + i * (tile + gap) + tile / 2 + 4, f"layer {result.layers[i]}", anchor="end")
        for j in range(heads):
            x, y = left + j * (tile + gap), top + i * (tile + gap)
            body += (
                f'<svg x="{x}" y="{y}" width="{tile}" height="{tile}" viewBox="{j * side} {i * rows} {side} {rows}" preserveAspectRatio="none">'
                f'<use href="#a"/></svg>'
                f'<rect class="l" x="{x - 0.5}" y="{y - 0.5}" width="{tile + 1}" height="{tile + 1}"/>'
            )
    for j in range(heads):
        name = f"head {result.heads[j]}" if tile > 44 else result.heads[j]
        body += svg.text(left + j * (tile + gap) + tile / 2, top - 6, name, anchor="middle")
    x, y = left + head * (tile + gap), top + layer * (tile + gap)
    body += f'<rect class="o" stroke-width="2.5" x="{x - 2}" y="{y - 2}" width="{tile + 4}" height="{tile + 4}"/>'
    width, height = left + heads * (tile + gap) + 2, top + layers * (tile + gap) + 2
    alt = f"Attention of {layers} layers × {heads} heads as small maps; {named(result, layer, head)} is framed"
    return picture(svg.document(width, height, body), alt, width, height)


def _big(result: AttentionMaps, layer: int, head: int) -> str:
    weights = result.pattern(result.layers[layer], result.heads[head])
    tokens, keys = weights.shape
    cells = quantised(pooled(weights, SENT))
    labelled = max(tokens, keys) <= LABELLED
    cell = min(SIDE / max(tokens, keys, 1), 26)
    queries, read = ([svg.short(alone(piece.text)) for piece in one] for one in (result.pieces, result.keys))
    fit = labelled and cell >= 5
    left = max((svg.width_of(name) for name in queries), default=0) + 10 if fit else 18
    top = max((svg.width_of(name) for name in read), default=0) + 10 if fit else 20
    wide, tall = cell * keys, cell * tokens
    body = svg.shades(cells, left, top, wide, tall)
    body += f'<rect class="l" x="{left:g}" y="{top:g}" width="{wide:g}" height="{tall:g}"/>'
    small = f'style="font-size:{min(11, cell):.1f}px"'
    if fit:
        for i, name in enumerate(queries):
            body += svg.text(left - 5, top + (i + 0.5) * cell + min(11, cell) * 0.35, name, "t k", "end", small)
        for i, name in enumerate(read):
            x, y = left + (i + 0.5) * cell + min(11, cell) * 0.35, top - 5
            body += svg.text(x, y, name, "t k", "start", f'{small} transform="rotate(-90 {x:.1f} {y:.1f})"')
    else:
        body += svg.text(left, top - 7, f"keys: {keys:,} tokens →")
        body += svg.text(left - 6, top, "← queries", "m", "end", f'transform="rotate(-90 {left - 6:g} {top:g})"')
    width, height = round(left + wide + 8), round(top + tall + 8)
    alt = f"Attention of {named(result, layer, head)}, {tokens} queries down, {keys} keys across"
    return picture(svg.document(width, height, body), alt, width, height)

"""Experts: who takes each token in every layer, and how evenly they are asked; it computes no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_lab.results import ExpertRouting
from llm_lab.views import svg
from llm_lab.views.card import bar, bundle, card, columns, number, picture, small, table, visible

if TYPE_CHECKING:
    import numpy as np

WIDTH = 625  # pixels of the picture at most
CELL, NARROW, ROW = 15.0, 8.0, 17.0
NAMED = 10.0  # pixels of a row from which on its token is named
TALLEST = 560.0  # pixels of all layers that stand one below the other
COLUMNS = 32  # experts in the table; .load has the rest


def routing(result: ExpertRouting) -> dict[str, str]:
    """Tokens down and experts across, a field for each layer; beside it each expert's load."""
    layers, tokens, experts = result.probs.shape
    facts = ["experts", f"{tokens:,} tokens", f"{layers} layers × {experts} experts", f"{result.n_active} take a token"]
    load, used = result.load, _used(result.load)
    image, pooled = _picture(result)
    how = "A row is one token, a column one expert; filled are those that took it, the fuller the surer the router."
    loads = small("share of each layer's choices, %") + _loads(load, used)
    even = f"Spread evenly, every expert has {number(100 / experts, 3)} %; a bar is a share against twice that. "
    caption = (
        "Shades are the router's probabilities before the choice. "
        + even
        + "“In use” is how many experts, equally asked, would be as spread (e to the entropy of the shares)."
    )
    if pooled:
        caption += " Where several tokens share a row of pixels, it shows the largest."
    if experts > COLUMNS:
        caption += f" The first {COLUMNS} experts are listed; .load has all."
    body = columns(("0 1 auto", image + small(how, 4)), ("1 1 380px", loads))
    plain = [" · ".join([result.name, *facts])]
    for i, (row, count) in enumerate(zip(load, used, strict=True)):
        most, least = int(row.argmax()), int(row.argmin())
        plain.append(
            f"  layer {i}: {number(float(count), 2)} of {experts} in use, most expert {most} "
            f"({_percent(row[most])} %), least expert {least} ({_percent(row[least])} %)"
        )
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def _used(load: np.ndarray) -> np.ndarray:
    """How many equally loaded experts have the same entropy, by layer."""
    import numpy as np

    return np.exp(-(load * np.log(np.maximum(load, 1e-30))).sum(axis=1))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _loads(load: np.ndarray, used: np.ndarray) -> str:
    experts = load.shape[1]
    rows: list[list[str | tuple[str, str]]] = [
        [
            f"layer&nbsp;{i}",
            f"{count:.1f}",
            *((_percent(share), bar(share * experts / 2)) for share in row[:COLUMNS]),
        ]
        for i, (row, count) in enumerate(zip(load, used, strict=True))
    ]
    return table(["expert", "in&nbsp;use", *map(str, range(min(experts, COLUMNS)))], rows)


def _picture(result: ExpertRouting) -> tuple[str, bool]:
    """The fields of all layers, and whether several tokens share a row of pixels."""
    layers, tokens, experts = result.probs.shape
    gap, top, between = 14, 34, 12
    names = [svg.short(visible(piece.text)) for piece in result.pieces]
    named = tokens * NAMED <= TALLEST
    left = (max((svg.width_of(name) for name in names), default=12) if named else 12) + 10
    room = WIDTH - left
    cell = min(CELL, (room - gap * layers) / experts / layers)
    if cell < NARROW:  # then not all layers stand side by side
        cell = max(min(NARROW, room / experts / 4), 2.0)
    field = cell * experts
    across = max(1, min(layers, int((room + gap) // (field + gap))))
    bands = -(-layers // across)
    height = min(ROW * tokens, max(TALLEST / bands, 60, tokens * NAMED * named))
    row, cells = height / max(tokens, 1), _cells(result, round(height))
    body = ""
    for i in range(layers):
        band, place = divmod(i, across)
        x, y = left + place * (field + gap), top + band * (height + top + between)
        body += svg.text(x, y - 20, f"layer {i}", "t")
        every = next((n for n in (1, 2, 4, 8, 16, 32) if cell * n >= 12), 64)
        for j in range(0, experts, every):
            body += svg.text(x + (j + 0.5) * cell, y - 5, j, "m", "middle", 'style="font-size:9px"')
        body += svg.shades(cells[i], x, y, field, height)
        if cell >= 8:
            body += "".join(f'<path class="l" d="M{x + j * cell:.1f} {y:g}v{height:g}"/>' for j in range(1, experts))
        body += f'<rect class="l" x="{x:g}" y="{y:g}" width="{field:g}" height="{height:g}"/>'
        if place:
            continue
        for t, name in enumerate(names if named else ()):
            size = f'style="font-size:{min(11, row - 1):.1f}px"'
            body += svg.text(left - 6, y + (t + 0.5) * row + min(11, row) * 0.35, name, "t k", "end", size)
        if not named:
            turned = f'transform="rotate(-90 {left - 7:g} {y:g})"'
            body += svg.text(left - 7, y, f"← {tokens:,} tokens", "m", "end", turned)
    width = round(left + across * (field + gap) - gap + 6)
    whole = round(bands * (height + top + between))
    alt = f"Of {tokens} tokens down, the experts across that took them, in {layers} layers of {experts} experts"
    return picture(svg.document(width, whole, body), alt, width, whole), cells.shape[1] < tokens


def _cells(result: ExpertRouting, most: int) -> np.ndarray:
    """(L, rows, E) bytes: the probabilities of the experts that were chosen. Where there are more tokens than `most`
    rows, a row shows the largest of its tokens."""
    import numpy as np

    probs, chosen = result.numpy(), result.chosen.astype(np.int64)
    taken = np.zeros_like(probs)
    np.put_along_axis(taken, chosen, np.take_along_axis(probs, chosen, axis=2), axis=2)
    tokens = probs.shape[1]
    if tokens > most:
        starts = np.arange(most) * tokens // most
        taken = np.maximum.reduceat(taken, starts, axis=1)
    return np.rint(taken * 255).astype(np.uint8)

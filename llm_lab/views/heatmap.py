"""Numbers over two axes as maps whose cells can be read one by one; it knows nothing of what the numbers are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_lab.results import Heatmap, Panel
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    alone,
    bundle,
    card,
    columns,
    esc,
    figures,
    fitting,
    number,
    picture,
    readable,
    small,
    visible,
)

if TYPE_CHECKING:
    import numpy as np

WIDTH, BESIDE = 1040, 640  # pixels that a map may take, alone and with figures beside it
CELL, LEAST, ROW = 46.0, 1.2, 21.0
WRITTEN = 600  # cells up to which each has its number, or text, in it
FAINT = 0.45  # of the ink's scale that cells with something written in them use, so that it can be read
TALLEST = 620.0
NAMED = 10.0  # pixels of a row or column from which on each is named
EXTREMES = 5
NOTHING = 1e-3  # of the largest number, below which a cell says 0


@dataclass(frozen=True)
class Drawn:
    """A panel as a picture, and where its cells are in it."""

    svg: str
    alt: str
    width: int
    height: int
    left: float
    top: float
    across: float  # pixels of a cell
    down: float


def heatmap(result: Heatmap) -> dict[str, str]:
    """The maps side by side where there is room, the largest numbers in words, and what was found beside them."""
    facts = [result.kind, *result.facts]
    ends = bounds(result)
    room = BESIDE if result.figures else WIDTH
    drawn = [draw(panel, result, own, room) for panel, own in zip(result.panels, ends, strict=True)]
    most = _extremes(result)
    key = _legend(*ends[0], result) if result.one_scale else ""
    shown = columns(
        *(
            (
                "0 1 auto",
                (small(f"<b>{esc(panel.title)}</b>") if panel.title else "")
                + picture(one.svg, one.alt, one.width, one.height)
                + ("" if result.one_scale else _legend(*own, result)),
            )
            for panel, one, own in zip(result.panels, drawn, ends, strict=True)
        )
    )
    words = small("Largest: " + "; ".join(f"{esc(where)} <b>{number(value, 3)}</b>" for where, value in most), 4)
    beside = figures((readable(name, " "), value) for name, value in result.figures) if result.figures else ""
    caption = "<br>".join([*([esc(result.caption)] if result.caption else []), *map(esc, result.notes)])

    def page(body: str) -> str:
        text = small("text read: " + esc(_text(result)), 6) if result.pieces else ""
        inside = columns(("3 1 420px", body), ("1 1 220px", beside)) if beside else body
        return card(result.name, facts, inside + text, caption=caption)

    def pages() -> Any:
        for notes in (True, False):
            data, buffers = _payload(result, drawn, notes)
            yield page(live("heatmap", shown + key + words, data, buffers))
        yield page(shown + key + words)

    plain = [" · ".join([result.name, *facts])]
    plain += [f"  {name:<29} {value}" for name, value in result.figures]
    plain += [f"  {where}: {number(value, 3)}" for where, value in most]
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(pages()))


def bounds(result: Heatmap) -> list[tuple[float, float]]:
    """The numbers that the ends of each panel's colours stand for; around zero where they are signed."""
    if result.bounds is not None:
        return [result.bounds] * len(result.panels)
    if result.one_scale:
        return [_ends(result.panels, result.signed)] * len(result.panels)
    return [_ends([panel], result.signed) for panel in result.panels]


def _ends(panels: Sequence[Panel], signed: bool) -> tuple[float, float]:
    import numpy as np

    known = np.concatenate([panel.values[np.isfinite(panel.values)].ravel() for panel in panels])
    if not len(known):
        return 0.0, 1.0
    if signed:
        far = float(np.abs(known).max()) or 1.0
        return -far, far
    low, high = min(float(known.min()), 0.0), float(known.max())
    return low, high if high > low else low + 1.0


def draw(panel: Panel, result: Heatmap, ends: tuple[float, float], room: float) -> Drawn:
    """One panel as a picture."""
    rows, across = panel.values.shape
    row_names = [svg.short(alone(name)) for name in panel.rows]
    column_names = [svg.short(alone(name)) for name in panel.columns]
    texts = panel.texts
    longest = max((svg.width_of(svg.short(visible(t), 10), 6.2) for line in texts or () for t in line), default=0)
    written = rows * across <= WRITTEN
    left = 12 + max((svg.width_of(name) for name in row_names), default=0)
    least = max(longest + 6, 30) if texts is not None else 40
    wide = max(min((room - left) / max(across, 1), max(CELL, least)), LEAST)
    written = written and wide >= least
    tall = max(min(ROW, TALLEST / max(rows, 1)), LEAST)
    written = written and tall >= 15
    turned = any(svg.width_of(name) > wide - 2 for name in column_names)
    label = max((svg.width_of(name) for name in column_names), default=0) if turned else 12
    top = label + 24
    width, height = left + wide * across + 8, top + tall * rows + 6
    levels = shade(panel.values, ends, result.signed, FAINT if written else 1.0)
    body = svg.text(2, 12, f"{result.axes[0]} ↓  {result.axes[1]} →" if any(result.axes) else "", "m")
    if levels.size:
        body += svg.shades(levels, left, top, wide * across, tall * rows, signed=result.signed)
    body += f'<rect class="l" x="{left:g}" y="{top:g}" width="{wide * across:g}" height="{tall * rows:g}"/>'
    for r in range(0, rows, max(1, math.ceil(NAMED / tall))):
        y = top + (r + 0.5) * tall + 4
        body += svg.text(left - 6, y, row_names[r], "t k", "end")
    for c in range(0, across, max(1, math.ceil((NAMED + 1) / wide))):
        x = left + (c + 0.5) * wide
        if turned:
            body += svg.text(
                x + 4, top - 5, column_names[c], "t k", "start", f'transform="rotate(-90 {x + 4:.1f} {top - 5:.1f})"'
            )
        else:
            body += svg.text(x, top - 6, column_names[c], "t k", "middle")
    if written:
        for r in range(rows):
            for c in range(across):
                x, y = left + (c + 0.5) * wide, top + (r + 0.5) * tall + 3.5
                value = float(panel.values[r, c])
                shown = svg.short(alone(texts[r][c]), 10) if texts is not None else _written(value, ends)
                body += svg.text(x, y, shown, "t k", "middle", 'style="font-size:10px"')
    what = f"{result.kind}{': ' + panel.title if panel.title else ''}"
    alt = f"{what}, {result.quantity}: {rows} × {across} cells, {result.axes[0] or 'rows'} down, {result.axes[1] or 'columns'} across"
    return Drawn(svg.document(width, height, body), alt, round(width), round(height), left, top, wide, tall)


def _written(value: float, ends: tuple[float, float]) -> str:
    """A number in its cell: 0 where it is too small to be seen against the largest; pointing at it says more."""
    return "0" if abs(value) < NOTHING * max(map(abs, ends)) else number(value, 2)


def shade(values: np.ndarray, ends: tuple[float, float], signed: bool, most: float = 1.0) -> np.ndarray:
    """Numbers as bytes for `svg.shades`; what is no number is left without ink."""
    import numpy as np

    low, high = ends
    if signed:
        level = np.nan_to_num(values / max(abs(low), abs(high)), nan=0.0)
        return (128 + np.round(127 * np.clip(level, -1, 1) * most)).astype(np.uint8)
    level = np.nan_to_num((values - low) / (high - low), nan=0.0)
    return np.round(255 * np.clip(level, 0, 1) * most).astype(np.uint8)


def _legend(low: float, high: float, result: Heatmap) -> str:
    """The colours from one end to the other, with the numbers that they stand for."""
    import numpy as np

    ramp = np.linspace(low, high, 96)[None]
    first, last = number(low, 2), number(high, 2)
    start = svg.width_of(first) + 8
    body = svg.text(2, 13, first, "m") + svg.shades(
        shade(ramp, (low, high), result.signed), start, 4, 96, 10, signed=result.signed
    )
    body += svg.text(start + 102, 13, f"{last}  {result.quantity}", "m")
    width = start + 112 + svg.width_of(f"{last}  {result.quantity}")
    return picture(
        svg.document(width, 18, body), f"Colours from {first} to {last}: {result.quantity}", round(width), 18
    )


def _extremes(result: Heatmap) -> list[tuple[str, float]]:
    """The cells with the largest numbers, by size where they are signed, in words."""
    import numpy as np

    found = []
    for panel in result.panels:
        size = np.abs(panel.values) if result.signed else panel.values
        for i in np.argsort(np.nan_to_num(size, nan=-np.inf), axis=None)[::-1][:EXTREMES]:
            r, c = np.unravel_index(i, panel.values.shape)
            if np.isfinite(panel.values[r, c]):
                where = (
                    f"{_named(result.axes[0], panel.rows, int(r))} · {_named(result.axes[1], panel.columns, int(c))}"
                )
                title = f"{panel.title}, " if panel.title and len(result.panels) > 1 else ""
                found.append((title + where, float(panel.values[r, c])))
    found.sort(key=lambda one: -abs(one[1]) if result.signed else -one[1])
    return found[:EXTREMES]


def _named(axis: str, names: Sequence[str], i: int) -> str:
    """A row or column as it is spoken of: head 3, mlp, “ the” (position 4)."""
    name = alone(names[i])
    if name.lstrip("−-").isdecimal():
        return f"{axis} {name}" if axis else name
    return name if sum(other == names[i] for other in names) == 1 else f"{name} ({axis or 'number'} {i})"


def _text(result: Heatmap) -> str:
    return readable("".join(piece.text for piece in result.pieces[:400]), "⏎")


def _payload(result: Heatmap, drawn: Sequence[Drawn], notes: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What static/heatmap.js needs: the pictures, where their cells are, the names; the numbers as floats."""
    import numpy as np

    def lines(texts: Any) -> list[list[str]] | None:
        return [[alone(text) for text in line] for line in texts] if texts is not None else None

    def notes_of(panel: Panel) -> list[list[str]] | None:
        return (
            [[readable(text) for text in line] for line in panel.notes] if panel.notes is not None and notes else None
        )

    panels = [
        {
            **vars(one),
            "title": visible(panel.title) if panel.title else "",
            "rows": [_named(result.axes[0], panel.rows, i) for i in range(len(panel.rows))],
            "columns": [_named(result.axes[1], panel.columns, i) for i in range(len(panel.columns))],
            "texts": lines(panel.texts),
            "notes": notes_of(panel),
        }
        for panel, one in zip(result.panels, drawn, strict=True)
    ]
    values = np.concatenate([panel.values.astype("<f4").ravel() for panel in result.panels])
    most = [[where, number(value, 3)] for where, value in _extremes(result)]
    data = {"panels": panels, "quantity": result.quantity, "signed": result.signed, "most": most}
    ends = [[number(low, 2), number(high, 2)] for low, high in bounds(result)]
    return data | {"ends": ends[:1] if result.one_scale else ends}, {"values": values.tobytes()}

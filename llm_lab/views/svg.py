"""Pieces of SVG pictures that bring their own ground, for light and dark pages; it knows no result."""

from __future__ import annotations

import base64
import html
import math
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from llm_lab.views.card import clean, png

if TYPE_CHECKING:
    import numpy as np

# A picture cannot see the page's theme; its viewer's preference it can, and it reads on either ground of its own.
STYLE = (
    ".g{fill:#fbfcfe}.t{fill:#1b2027}.m{fill:#566070}.l{stroke:#dde2ea;fill:none}.d{stroke:#566070;fill:none}"
    ".b{stroke:#2563cf;fill:none}.bf{fill:#2563cf}.bt{fill:#2563cf;fill-opacity:.13}.o{stroke:#c8640a;fill:none}.of{fill:#c8640a}"
    ".ot{fill:#c8640a;fill-opacity:.14}"
    "@media(prefers-color-scheme:dark){.g{fill:#151a20}.t{fill:#e8ebef}.m{fill:#a2acb9}.l{stroke:#2d343d}.d{stroke:#a2acb9}"
    ".b{stroke:#6ea2ff}.bf,.bt{fill:#6ea2ff}.o{stroke:#ffab5e}.of,.ot{fill:#ffab5e}}"
    "text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;font-size:11px}"
    ".k{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
)


def document(width: float, height: float, body: str) -> str:
    """A whole SVG picture with its ground."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">'
        f'<style>{STYLE}</style><rect class="g" width="{width:g}" height="{height:g}" rx="5"/>{body}</svg>'
    )


def text(x: float, y: float, content: object, kind: str = "m", anchor: str = "start", more: str = "") -> str:
    """A line of text; `kind` is its class (t, m, k)."""
    shown = html.escape(clean(content).replace("\n", "⏎").replace("\t", "␉"), quote=True)
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{shown}</text>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def tick_label(value: float, step: float) -> str:
    """A tick with the places that its step needs."""
    places = next((n for n in range(9) if abs(round(step, n) - step) < 1e-9 * abs(step)), 9)
    return f"{value:,.{places}f}".replace("-", "−")


def levels(marks: Sequence[float], y: Callable[[float], float], left: float, right: float) -> str:
    """A line across a chart at each mark of its vertical axis, and the mark at its left end; `y` places a value."""
    body = ""
    for mark in marks:
        label = tick_label(mark, marks[1] - marks[0] if len(marks) > 1 else mark)
        body += f'<path class="l" d="M{left} {y(mark):.1f}H{right}"/>'
        body += text(left - 7, y(mark) + 4, label, anchor="end")
    return body


def time_ticks(high: float, count: int = 5) -> list[float]:
    """Round times in seconds from 0 to `high`."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
    if high <= 5 or high > 86400 * count:
        return ticks(0, high, count)
    step = next((s for s in steps if high / s <= count + 0.5), 86400)
    return [float(i * step) for i in range(int(high / step + 1e-9) + 1)]


def width_of(label: str, per_char: float = 6.65) -> float:
    """About how wide a label is in 11 px monospace; East Asian wide characters take two places, accents none."""
    places = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label)
    return places * per_char


def path(points: Sequence[tuple[float, float]]) -> str:
    """The d of a line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def short(name: str, places: int = 14) -> str:
    """A label cut to that many places of monospace, with … where it is cut."""
    while width_of(name, 1) > places:
        name = name[:-2] + "…"
    return name


@cache
def _palette(signed: bool) -> np.ndarray:
    """One blue, from transparent; or orange, transparent in the middle, blue. A power below one lets small amounts be seen
    (the same as `ink` in shared.js)."""
    import numpy as np

    level = (np.arange(256) - 128) / 127 if signed else np.arange(256) / 255
    colours = np.empty((256, 4), np.uint8)
    colours[:, :3] = np.where(level[:, None] >= 0, (61, 125, 230), (224, 123, 26))
    colours[:, 3] = np.round(255 * np.minimum(np.abs(level), 1) ** 0.6)
    return colours


def shades(
    cells: np.ndarray, x: float, y: float, width: float, height: float, more: str = "", signed: bool = False
) -> str:
    """Bytes (h, w) as cells of one blue: 0 is transparent, 255 full; `signed` ones are orange below 128, blue above."""
    data = base64.b64encode(png(cells, _palette(signed))).decode()
    return (
        f'<image {more} x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )

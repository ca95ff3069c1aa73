"""The card that every view is drawn on, and how numbers, text and pictures are written; it knows no result."""

from __future__ import annotations

import base64
import html
import math
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from llm_lab.views.bundle import saving

# Survives JupyterLab's sanitiser: no custom properties, no text colour, translucent greys that suit any ground.
HAIR = "rgba(128,128,128,.35)"
MUTED = "opacity:.74"
CARD = (
    f"border:1px solid {HAIR};border-radius:8px;padding:12px 14px;margin:4px 0;max-width:1100px;"
    "font-size:13px;line-height:1.5"
)
MONO = "white-space:pre-wrap;overflow-wrap:break-word;font-family:monospace;background:none"
TABLE = "width:100%;border-collapse:collapse;table-layout:auto;margin:0;font-size:13px"
BREAK = "⏎\n"  # a line break that is seen, and breaks
MOST = 284_000  # bytes of a view, without the script that saves it as a picture
BLUE, ORANGE = "#3d7de6", "#e07b1a"

_NAMED = {0x7F: "␡", 0xAD: "⟨SHY⟩", 0x200B: "⟨ZWSP⟩", 0x200E: "⟨LRM⟩", 0x200F: "⟨RLM⟩", 0xFEFF: "⟨BOM⟩", 0x2028: "⟨LS⟩"}
_NAMED |= {0x2029: "⟨PS⟩", 0x202A: "⟨LRE⟩", 0x202B: "⟨RLE⟩", 0x202C: "⟨PDF⟩", 0x202D: "⟨LRO⟩", 0x202E: "⟨RLO⟩"}
_NAMED |= {0x2066: "⟨LRI⟩", 0x2067: "⟨RLI⟩", 0x2068: "⟨FSI⟩", 0x2069: "⟨PDI⟩", 0x61C: "⟨ALM⟩", 0xA0: "⍽"}
_NAMED |= {code: chr(0x2400 + code) for code in range(0x20)}
_NAMED |= {code: f"⟨U+{code:02X}⟩" for code in range(0x80, 0xA0)}
_KEEP = {code: name for code, name in _NAMED.items() if code not in (0x09, 0x0A, 0xA0)}
_SURROGATE = re.compile("[\ud800-\udfff\ufffe\uffff]")


def clean(text: object) -> str:
    """Text with its control characters named (␀, ⟨RLO⟩, …); line breaks and tabs stay."""
    return _SURROGATE.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", str(text).translate(_KEEP))


def visible(text: str) -> str:
    """One token as a person may read it on one line: ⏎ for a line break, every control by its name, never empty."""
    named = _SURROGATE.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", text.replace("\n", "⏎").translate(_NAMED))
    if named and unicodedata.combining(named[0]):
        named = "◌" + named  # a lone accent would sit on its neighbour
    return named or "∅"


def alone(text: str) -> str:
    """A token that stands by itself, as in a table: as `visible`, and ␣ where it is nothing but spaces."""
    return visible(text) if text.strip(" ") or not text else "␣" * len(text)


def readable(text: str, between: str = "\n") -> str:
    """A text whose lines are each as a person may read them; empty ones stay empty."""
    return between.join(visible(line) if line else "" for line in text.split("\n"))


def is_rtl(text: str) -> bool:
    """Whether the text holds a right-to-left letter, and so needs a box of its own."""
    return any(unicodedata.bidirectional(char) in ("R", "AL") for char in text)


def esc(text: object) -> str:
    """Any text, safe in HTML and in attributes."""
    return html.escape(clean(text), quote=True)


def number(value: float | None, digits: int = 4) -> str:
    """A number with that many significant digits, as people write it: 1.712, 0.0064, 12,300, 6.4e-7."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 15:
        mantissa, _, exponent = f"{value:.{max(digits - 1, 0)}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−", 1 if value < 0 else 0)
    return f"{value:,.{max(digits - 1 - size, 0)}f}".replace("-", "−")


def kept(text: str) -> str:
    """Text that stays on one line, whatever the width."""
    return esc(text).replace(" ", "&nbsp;")


def si(value: float) -> str:
    """A count: exact below 10,000, then 20.6 k, 0.84 M, 1.23 G."""
    if not math.isfinite(value):
        return number(value)
    if abs(value) < 10_000:
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else number(value, 3)
    for unit, scale in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if abs(value) < (500 if unit == "k" else 1000) * scale or unit == "T":
            return f"{value / scale:.2f} {unit}" if abs(value) < 10 * scale else f"{value / scale:,.1f} {unit}"
    raise AssertionError


def size(n_bytes: float) -> str:
    """Bytes: 812 B, 3.2 MB, 0.31 GB (powers of 1000)."""
    for unit, scale in (("B", 1.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)):
        if abs(n_bytes) < 1000 * scale or unit == "TB":
            break
    return f"{n_bytes:.0f} B" if unit == "B" else f"{number(n_bytes / scale, 3)} {unit}"


def clock(seconds: float) -> str:
    """Time: 0:41, 12:05, 1:02:33."""
    whole = int(max(seconds, 0) + 0.5) if math.isfinite(seconds) else 0
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def clip(text: str, limit: int, lines: int | None = None) -> str:
    """The beginning of a long text, with … where it is cut."""
    cut = text if lines is None else "\n".join(text.split("\n")[:lines])
    cut = cut[:limit]
    return cut if len(cut) == len(text) else cut.rstrip() + "…"


def card(
    name: str,
    facts: Iterable[str],
    body: str,
    *,
    caption: str = "",
    hint: str = "",
    progress: float | None = None,
    done: bool = True,
) -> str:
    """One card: a header line (name and facts are text), a body and a caption (HTML already).

    One that is `done`, and not redrawn while it grows, can be saved as a picture where scripts run.
    """
    line = ""
    if progress is not None:
        share = f"{100 * min(max(progress, 0), 1):.1f}%"
        ground = f"linear-gradient(to right,{BLUE} {share},rgba(128,128,128,.3) {share})"
        line = f'<div style="height:3px;border-radius:2px;margin-bottom:9px;background:{ground}"></div>'
    right = f'<span style="{MUTED}">{esc(hint)}</span>' if hint else ""
    head = (
        '<div style="display:flex;flex-wrap:wrap;gap:0 24px;justify-content:space-between;margin-bottom:8px">'
        f'<span><b style="font-size:14px">{esc(name)}</b>&nbsp; '
        f'<span style="{MUTED}">{" · ".join(esc(fact) for fact in facts if fact)}</span></span> {right}</div>'
    )
    foot = small(caption, 8) if caption else ""
    buttons = saving()[0] if done else ""
    return f'<div class="llm-lab-card" style="{CARD}">{line}{buttons}{head}{body}{foot}</div>'


def columns(*parts: tuple[str, str]) -> str:
    """Parts side by side where there is room, else one below the other; each with its share and width ("5 1 380px")."""
    inner = "".join(f'<div style="flex:{flex};overflow:auto">{content}</div>' for flex, content in parts if content)
    return f'<div style="display:flex;flex-wrap:wrap;gap:14px 28px;align-items:flex-start">{inner}</div>'


def small(content: str, above: int = 0) -> str:
    """A quiet line: a heading or a caption (HTML already)."""
    return f'<div style="{MUTED};font-size:12px;margin-top:{above}px">{content}</div>'


def figures(rows: Iterable[tuple[str, str]]) -> str:
    """Names and numbers, one pair a line (both text): a table of two columns."""
    left, right = f"{MUTED};text-align:left;font-weight:400;padding:2px 12px 2px 0", "text-align:right;padding:2px 0"
    return (
        f'<table style="{TABLE}"><tbody>'
        + "".join(
            f'<tr style="background:none"><th scope="row" style="{left}">{esc(name)}</th>'
            f'<td style="{right}">{esc(value)}</td></tr>'
            for name, value in rows
        )
        + "</tbody></table>"
    )


def bar(share: float) -> str:
    """The style of a cell whose ground is filled from the left to that share."""
    end = f"{100 * min(max(share, 0), 1):.1f}%"
    return f"background:linear-gradient(to right,rgba(61,125,230,.22) {end},rgba(61,125,230,0) {end})"


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, str]]],
    *,
    left: Iterable[int] = (0,),
    total: bool = False,
) -> str:
    """A plain table; headings and cells are HTML already, a cell may bring a style. Columns in `left` align left.

    `total` sets the last row apart.
    """
    lefts = set(left)

    def cell(tag: str, i: int, content: str | tuple[str, str], line: str) -> str:
        if isinstance(content, tuple):
            content, line = content[0], f"{line};{content[1]}"
        align = "left" if i in lefts else "right"
        return (
            f'<{tag} style="text-align:{align};padding:4px 8px;vertical-align:top;{line}">{content}</{tag.split()[0]}>'
        )

    head = "".join(
        cell(
            'th scope="col"',
            i,
            f'<span style="{MUTED};font-weight:400">{name}</span>',
            f"border-bottom:1px solid {HAIR}",
        )
        for i, name in enumerate(columns)
    )
    body, listed = "", list(rows)
    for r, row in enumerate(listed):
        last = r == len(listed) - 1
        line = (
            f"border-top:1px solid {HAIR}"
            if r and total and last
            else "border-top:1px solid rgba(128,128,128,.18)"
            if r
            else ""
        )
        body += '<tr style="background:none">' + "".join(cell("td", i, c, line) for i, c in enumerate(row)) + "</tr>"
    return (
        f'<div style="overflow-x:auto"><table style="{TABLE}">'
        f'<thead><tr style="background:none">{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def verbatim(text: str) -> str:
    """A text as it stands, in monospace, with a rule at its left; line breaks hold even without styles."""
    style = f"{MONO};font-size:12px;line-height:1.5;margin:2px 0;border-left:2px solid {HAIR};padding:0 0 0 8px"
    return f'<pre dir="auto" style="{style}">\n{esc(text)}</pre>'


def picture(image: str | bytes, alt: str, width: int, height: int) -> str:
    """An image inside the page: an SVG as text, or a PNG as bytes."""
    kind, raw = ("svg+xml", image.encode()) if isinstance(image, str) else ("png", image)
    data = base64.b64encode(raw).decode()
    return (
        f'<img src="data:image/{kind};base64,{data}" alt="{esc(alt)}" width="{width}" height="{height}" '
        f'style="width:{width}px;max-width:100%;height:auto;margin:0">'
    )


def png(pixels: Any, palette: Any = None) -> bytes:
    """A PNG from uint8 pixels: (h, w) grey, (h, w, 4) RGBA, or (h, w) indices into an (n, 4) RGBA palette."""
    import numpy as np

    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    height, width = pixels.shape[:2]
    colour = 3 if palette is not None else 6 if pixels.ndim == 3 else 0
    lines = np.zeros((height, 1 + pixels[0].size), np.uint8)  # each line opens with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))]
    if palette is not None:
        colours = np.asarray(palette, dtype=np.uint8)
        parts += [chunk(b"PLTE", colours[:, :3].tobytes()), chunk(b"tRNS", colours[:, 3].tobytes())]
    parts += [chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def fitting(pages: Iterable[str]) -> str:
    """The first page that is small enough to stand in a notebook; the last where none is."""
    page = ""
    for page in pages:
        if len(page.encode()) < MOST:
            break
    return page


def bundle(plain: str, page: str) -> dict[str, str]:
    """What a result shows itself as: text for terminals, its controls named, and HTML for notebooks.

    Cards inside that can be saved, results of their own among them, share one script.
    """
    place, script = saving()
    if place in page:
        page = page.replace(script, "") + script
    return {"text/plain": clean(plain), "text/html": page}

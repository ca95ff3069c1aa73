"""A lens: what every layer would predict at every token, as a grid, and how the layers near the end; it computes no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llm_lab.results import LogitLens, TunedLens
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import MOST, alone, bar, bundle, card, columns, esc, fitting, number, picture, small, table

if TYPE_CHECKING:
    import numpy as np

WIDTH = 1040.0  # pixels of the grid at most
ROW, LEAST, PLACES = 21.0, 26.0, 9  # a cell's height and least width; characters of a token in it
CELLS = 640  # of the picture; the script layer has the rest
FAINT = 0.45  # of the ink's scale: what is written on it can be read
# One rule for all cells, so that each is short.
CELL_STYLE = (
    ".c text{font-size:10px;font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
)
OPEN = 14  # layers up to which their numbers lie open
# Likeliest tokens, and positions, that the script layer carries: the first that fits.
CARRIED = ((10, None), (5, None), (3, None), (1, None), (1, 512), (1, 256), (1, 128), (1, 32))


def lens(result: LogitLens) -> dict[str, str]:
    """The grid, layers from bottom to top, and below it the layers' means."""
    facts = [result.kind, *result.facts]
    if isinstance(result, TunedLens):
        facts += [f"{result.step:,} of {result.steps:,} steps on {result.n_trained:,} tokens"]
    grid, shown = _grid(result)
    layers = columns(("0 1 auto", _chart(result)), ("1 1 380px", _numbers(result)))
    layers = f'<div style="margin-top:12px">{layers}</div>'
    done = not isinstance(result, TunedLens) or result.done

    def page(body: str, carried: int) -> str:
        cut = min(carried, len(result.pieces))
        less = f" This page has the first {cut:,} tokens; .to_pandas() has all." if cut < len(result.pieces) else ""
        caption = "<br>".join([esc(_caption(result) + less), *map(esc, result.notes)])
        progress = None if done else _progress(result)
        return card(result.name, facts, body + layers, caption=caption, progress=progress, done=done)

    def pages() -> Iterator[str]:
        for k, tokens in CARRIED if done else ():
            if len(result.layers) * (tokens or len(result.pieces)) * (5 * k + 12) > 2 * MOST:
                continue  # numbers hardly deflate
            yield page(live("lens", grid, *payload(result, k, tokens)), tokens or len(result.pieces))
        yield page(grid, shown)

    return bundle(_plain(result, facts), fitting(pages()))


def payload(result: LogitLens, k: int, tokens: int | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What static/lens.js needs: names and labels; the numbers as arrays (layer, position), of `tokens` positions."""
    import numpy as np

    top = result.top[:, :tokens, :k]
    ids, at = np.unique(top, return_inverse=True)
    data = {
        "layers": result.layers,
        "tokens": [alone(piece.text) for piece in result.pieces[:tokens]],
        "truth": [None if piece is None else alone(piece.text) for piece in result.truth[:tokens]],
        "right": _right(result)[:, :tokens].astype(int).tolist(),
        "names": [alone(result.names[int(i)]) for i in ids],
        "k": top.shape[2],
        "cell": _cell(result),
        "left": _left(result),
        "faint": FAINT,
        "worst": int(result.rank.max(initial=1)),
        "bothWays": result.both_ways,
    }
    numbers = {"topLogprob": result.top_logprob[:, :tokens, :k], "trueLogprob": result.true_logprob[:, :tokens]}
    numbers |= {"entropy": result.entropy[:, :tokens], "kl": result.kl[:, :tokens]}
    buffers = {name: _rounded(values).tobytes() for name, values in numbers.items()}
    return data, buffers | {
        "top": at.reshape(top.shape).astype("<u4").tobytes(),
        "rank": result.rank[:, :tokens].astype("<u4").tobytes(),
    }


def _rounded(values: np.ndarray) -> np.ndarray:
    """Floats with half of their mantissa, which are right to four digits and take less room deflated."""
    import numpy as np

    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return np.where(np.isnan(values), bits, (bits + 0x400) & ~np.uint32(0x7FF)).astype("<u4")


def _right(result: LogitLens) -> np.ndarray:
    """(L + 1, T): the likeliest token is the true one."""
    return result.rank == 1


def _caption(result: LogitLens) -> str:
    true = "the token itself" if result.both_ways else "the token that follows"
    what = "Each cell is the likeliest token if the model ended after that layer: its last norm and output read the stream there"
    if isinstance(result, TunedLens):
        what += ", behind an affine map that was trained for the layer"
    if all(piece is None for piece in result.truth):
        return f"{what}. Below stands the token that is read. Shade: its probability. KL(final ‖ layer) and entropy are in nats."
    return (
        f"{what}. Below stands the token that is read, above the true one ({true}); bold cells have it. "
        "Shade: the probability of the token shown. KL(final ‖ layer) and entropy are in nats."
    )


def _names(result: LogitLens) -> list[list[str]]:
    return [[svg.short(alone(result.names[int(i)]), PLACES) for i in line] for line in result.top[:, :, 0]]


def _cell(result: LogitLens) -> float:
    """The width of a cell: the longest token fits."""
    names = {name for line in _names(result) for name in line}
    names |= {svg.short(alone(p.text), PLACES) for p in (*result.pieces, *result.truth) if p is not None}
    return max(max((svg.width_of(name, 6.1) for name in names), default=0) + 8, LEAST)


def _left(result: LogitLens) -> float:
    return max(svg.width_of(name, 6.2) for name in [*result.layers, "true token"]) + 12


def _grid(result: LogitLens) -> tuple[str, int]:
    """The grid as a picture, broken into bands, and how many tokens it has."""
    import numpy as np

    rows, tokens = result.kl.shape
    cell, left = _cell(result), _left(result)
    across = max(min(int((WIDTH - left) / cell), tokens), 1)
    bands = min(-(-tokens // across), max(CELLS // (across * rows), 1))
    names, right = _names(result), _right(result)
    known = any(piece is not None for piece in result.truth)
    top, between = (36 if known else 16), 34
    height = rows * ROW
    probs = np.exp(result.top_logprob[:, :, 0])
    body = f"<style>{CELL_STYLE}</style>"
    for band in range(bands):
        y = top + band * (height + top + between - 16)
        here = range(band * across, min((band + 1) * across, tokens))
        cells = np.round(255 * FAINT * probs[::-1, here.start : here.stop]).astype(np.uint8)
        width = len(here) * cell
        body += svg.shades(cells, left, y, width, height)
        body += f'<rect class="l" x="{left:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        body += "".join(
            svg.text(left - 6, y + (rows - 1 - i) * ROW + 14, name, "m", "end") for i, name in enumerate(result.layers)
        )
        body += svg.text(left - 6, y + height + 15, "token read", "m", "end")
        if known:
            body += svg.text(left - 6, y - 6, "true token", "m", "end")
        body += '<g class="t c" text-anchor="middle">'
        for t in here:
            x = left + (t - here.start + 0.5) * cell
            for i in range(rows):
                bold = ' font-weight="700"' if right[i, t] else ""
                body += f'<text x="{x:.0f}" y="{y + (rows - 1 - i) * ROW + 14:.0f}"{bold}>{esc(names[i][t])}</text>'
            body += f'<text x="{x:.0f}" y="{y + height + 15:.0f}">{_label(result.pieces[t].text)}</text>'
            if (true := result.truth[t]) is not None:
                body += f'<text x="{x:.0f}" y="{y - 6:.0f}">{_label(true.text)}</text>'
        body += "</g>"
    shown = min(bands * across, tokens)
    width = round(left + min(across, tokens) * cell + 6)
    whole = round(bands * (height + top + between - 16) + 8)
    alt = f"{result.kind}: the likeliest token at each of {rows} layers up and {shown} tokens across"
    more = small(f"tokens 0 to {shown - 1} of {tokens:,}", 2) if shown < tokens else ""
    return picture(svg.document(width, whole, body), alt, width, whole) + more, shown


def _label(token: str) -> str:
    return esc(svg.short(alone(token), PLACES))


def _lines(result: LogitLens) -> list[tuple[str, np.ndarray, str]]:
    """KL by layer: (name, values, class)."""
    if isinstance(result, TunedLens):
        return [("logit lens", result.logit_kl, "o"), ("tuned lens", result.tuned_kl, "b")]
    return [("", result.kl.mean(axis=1), "b")]


def _chart(result: LogitLens) -> str:
    """KL and the true token's rank by layer."""
    means = result.means()
    text = "unseen" if isinstance(result, TunedLens) else "this"
    body = _plot(0, f"mean KL to the final, nats, on {text} text", _lines(result), log=False)
    width = PLOT
    if result.rank.any():
        body += _plot(PLOT, "median rank of the true token, this text", [("", means["rank"], "b")], log=True)
        width *= 2
    alt = "By layer, from the embedding to the last: mean KL to the final prediction" + (
        " and median rank of the true token" if result.rank.any() else ""
    )
    return picture(svg.document(width, TALL, body), alt, width, TALL)


PLOT, TALL = 270, 170


def _plot(left: float, title: str, lines: Sequence[tuple[str, np.ndarray, str]], log: bool) -> str:
    """A small line chart over the layers; a logarithmic one begins at 1."""
    count = len(lines[0][1])
    high = max(float(values.max()) for _, values, _ in lines)
    x0, x1, y0, y1 = left + 44.0, left + PLOT - 14.0, TALL - 32.0, 30.0
    if log:
        span = math.log10(max(high, 10.0))
        marks = [10.0**e for e in range(math.ceil(span) + 1) if e <= span]

        def up(value: float) -> float:
            return y0 + (y1 - y0) * math.log10(max(value, 1.0)) / span

    else:
        marks = svg.ticks(0, high or 1.0, 4)

        def up(value: float) -> float:
            return y0 + (y1 - y0) * value / (high or 1.0)

    def along(i: int) -> float:
        return x0 + (x1 - x0) * (i + 0.5) / count

    body = svg.text(left + 8, 16, title, "t")
    for mark in marks:
        label = number(mark, 2) if mark < 10 else f"{mark:,.0f}"
        body += f'<path class="l" d="M{x0:g} {up(mark):.1f}H{x1:g}"/>' + svg.text(
            x0 - 5, up(mark) + 4, label, "m", "end"
        )
    every = max(1, math.ceil(count * 22 / (x1 - x0)))
    for i in range(0, count, every):
        body += svg.text(along(i), y0 + 14, "emb" if i == 0 else i - 1, "m", "middle")
    body += svg.text(x1, y0 + 27, "layer", "m", "end")
    for n, (name, values, kind) in enumerate(lines):
        points = [(along(i), up(float(value))) for i, value in enumerate(values)]
        dash = ' stroke-dasharray="4 3"' if kind == "o" else ""
        body += f'<path class="{kind}" stroke-width="1.6"{dash} d="{svg.path(points)}"/>'
        body += "".join(f'<circle class="{kind}f" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in points)
        if name:
            y = y1 + 12 + 15 * n
            body += f'<path class="{kind}" stroke-width="1.6"{dash} d="M{x1 - 92:g} {y - 4:g}h18"/>'
            body += svg.text(x1 - 70, y, name)
    return body


def _numbers(result: LogitLens) -> str:
    """The same in numbers: a row for each layer, the last first."""
    means = result.means()
    known = result.rank.any()
    heads = ["after", "KL", "entropy", "agrees", *(["log&nbsp;p", "rank"] if known else [])]
    if isinstance(result, TunedLens):
        heads += [f"KL, logit lens, {result.n_measured:,} unseen", "KL, tuned, unseen"]
    most = float(means["kl"].max()) or 1.0
    rows: list[list[str | tuple[str, str]]] = []
    for i in reversed(range(len(result.layers))):
        row = {name: float(values[i]) for name, values in means.items()}
        line: list[str | tuple[str, str]] = [result.layers[i].replace(" ", "&nbsp;")]
        line += [
            (number(row["kl"], 3), bar(row["kl"] / most)),
            number(row["entropy"], 3),
            f"{100 * row['agrees']:.0f}&nbsp;%",
        ]
        line += [number(row["true_logprob"], 3), f"{row['rank']:,g}"] if known else []
        if isinstance(result, TunedLens):
            line += [number(float(result.logit_kl[i]), 3), number(float(result.tuned_kl[i]), 3)]
        rows.append(line)
    shown = " open" if len(rows) <= OPEN else ""
    words = "agrees: the likeliest token is the final one" + (
        "; log p and median rank of the true token" if known else ""
    )
    return f"<details{shown}><summary>means over this text, by layer</summary>{table(heads, rows)}{small(words, 4)}</details>"


def _progress(result: LogitLens) -> float | None:
    return result.step / max(result.steps, 1) if isinstance(result, TunedLens) else None


def _plain(result: LogitLens, facts: Sequence[str]) -> str:
    means = result.means()
    lines = [" · ".join([result.name, *facts])]
    for i in reversed(range(len(result.layers))):
        row = {name: float(values[i]) for name, values in means.items()}
        rank = f", median rank of the true token {row['rank']:,g}" if result.rank.any() else ""
        tuned = ""
        if isinstance(result, TunedLens):
            tuned = f"; unseen: logit lens {number(float(result.logit_kl[i]), 3)}, tuned {number(float(result.tuned_kl[i]), 3)}"
        lines.append(f"  {result.layers[i]:<10} KL {number(row['kl'], 3)} nats{rank}{tuned}")
    return "\n".join(lines + [f"  {note}" for note in result.notes])

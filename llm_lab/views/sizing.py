"""The predicted error of each size over the time that it is given, and the sizes that are chosen."""

from __future__ import annotations

import math

from llm_lab.results import SizePoint, Sizing
from llm_lab.views import svg
from llm_lab.views.card import bundle, card, columns, esc, kept, picture, si, small, table

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 66, 12, 26
NAMED = (10.0, 60.0, 300.0, 600.0, 3600.0)  # times whose choice is written out
LABELS = ((1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (28800, "8 h"))


def sizing(result: Sizing) -> dict[str, str]:
    """A line for each size, the least of them heavy; the choice for some times; how it is made."""
    facts = ["the model's size for the time that is given", f"{result.corpus}, {si(result.tokens)} {result.unit}s"]
    chosen = [(time, result.best(time)) for time in NAMED if result.seconds[0] <= time <= result.seconds[-1]]
    choices = [
        [
            kept(_clock(time)),
            f"<b>{kept(p.label)}</b>",
            str(p.max_seq_len),
            str(p.batch_size),
            _read(p, time, result.tokens),
        ]
        for time, p in chosen
    ]
    sizes = [
        [
            kept(p.label),
            si(p.parameters),
            si(p.tokens_per_second),
            "timed" if p.measured else "reckoned",
        ]
        for p in result.points
    ]
    alt = "predicted error over the time of training, a line for each size"
    body = columns(
        (
            "2 1 420px",
            small("<b>predicted nats per token above the best there could be</b>")
            + picture(chart(result), alt, WIDTH, HEIGHT)
            + table(["time", "layers × width", "context", "batch", "reads the text"], choices, left=(0, 1)),
        ),
        (
            "1 1 250px",
            table(["layers × width", "parameters", f"{result.unit}s/s", ""], sizes, left=(0, 3)),
        ),
    )
    caption = "<br>".join(map(esc, [result.rule, *result.notes]))
    page = card("doctor", facts, body, caption=caption)
    plain = [" · ".join(["doctor", *facts])]
    plain += [
        f"  {_clock(time):>7}  {p.label:<9} context {p.max_seq_len}, batch {p.batch_size}, reads the text {_read(p, time, result.tokens)}"
        for time, p in chosen
    ]
    plain += [
        f"  {p.label:<9} {si(p.parameters):>7} parameters {si(p.tokens_per_second):>7} {result.unit}s/s {'timed' if p.measured else 'reckoned'}"
        for p in result.points
    ]
    return bundle("\n".join([*plain, result.rule, *result.notes]), page)


def chart(result: Sizing) -> str:
    """Both axes logarithmic; each size is named where its line leaves the chart."""
    first, last = result.seconds[0], result.seconds[-1]
    lowest = [min(p.excess[i] for p in result.points) for i in range(len(result.seconds))]
    low, high = min(lowest) * 0.9, min(max(lowest) * 1.5, max(max(p.excess) for p in result.points))
    right = WIDTH - RIGHT

    def x(seconds: float) -> float:
        return LEFT + (right - LEFT) * math.log(seconds / first) / math.log(last / first)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * math.log(high / value) / math.log(high / low)

    marks = [m for m in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if low <= m <= high]
    body = ""
    for mark in marks:
        body += f'<path class="l" d="M{LEFT} {y(mark):.1f}H{right}"/>'
        body += svg.text(LEFT - 7, y(mark) + 4, f"{mark:g}", anchor="end")
    for time, label in LABELS:
        if first <= time <= last:
            body += svg.text(x(time), HEIGHT - 8, label, anchor="middle")
    ends: list[tuple[float, str]] = []
    for point in result.points:
        shown = [(x(s), y(e)) for s, e in zip(result.seconds, point.excess, strict=True) if low <= e <= high]
        if len(shown) < 2:
            continue
        look = "" if point.measured else 'stroke-dasharray="3 3"'
        body += f'<path class="b" stroke-opacity=".6" stroke-width="1.2" {look} d="{svg.path(shown)}"/>'
        ends.append((shown[-1][1], point.label))
    best = svg.path([(x(s), y(e)) for s, e in zip(result.seconds, lowest, strict=True)])
    body += f'<path class="o" stroke-width="2.4" stroke-linejoin="round" d="{best}"/>'
    places: list[float] = []
    for at, _ in sorted(ends):
        places.append(max(at, places[-1] + 12) if places else at)
    over = max(0.0, places[-1] - (HEIGHT - BOTTOM)) if places else 0.0
    for place, (_, label) in zip(places, sorted(ends), strict=True):
        body += svg.text(right + 5, place - over + 4, label, "t")
    return svg.document(WIDTH, HEIGHT, body)


def _clock(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _read(point: SizePoint, seconds: float, tokens: int) -> str:
    passes = seconds * point.tokens_per_second / tokens
    return f"{passes:,.2g} ×" if passes < 10 else f"{passes:,.0f} ×"

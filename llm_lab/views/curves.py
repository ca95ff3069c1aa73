"""Loss curves as a picture: the whole and, where there are several, its parts; it knows no card."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_lab.results import TrainingReport
from llm_lab.views import svg
from llm_lab.views.card import clip, clock, number

Curve = Sequence[tuple[int, float, float]]
WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 12, 26
NAMES = 82  # what the names of parts take at the right
DASHES = ("6 3", "2 3", "9 3 2 3", "1 4")  # of parts, in their order, beside the whole's solid line
MOST = 16  # parts that are drawn


def decimate(curve: Curve, limit: int = 300) -> list[tuple[int, float, float]]:
    """At most `limit` points of a curve, those of finite loss: of each stretch the lowest and highest, and the ends."""
    points = [p for p in curve if math.isfinite(p[2])]
    if len(points) <= limit:
        return points
    inner, n = points[1:-1], max((limit - 2) // 2, 1)
    kept = [points[0]]
    for i in range(n):
        part = inner[i * len(inner) // n : (i + 1) * len(inner) // n]
        if part:
            ends = {min(part, key=lambda p: p[2]), max(part, key=lambda p: p[2])}
            kept += sorted(ends)
    return [*kept, points[-1]]


def drawn(r: TrainingReport) -> dict[str, tuple[Curve, Curve]]:
    """The parts that are drawn, each with its curves in training and validation."""
    names = list(dict.fromkeys([*r.parts, *r.val_parts]))[:MOST]
    limit = max(300 // max(len(names), 1), 20)
    found = {name: (r.parts.get(name, []), r.val_parts.get(name, [])) for name in names}
    return {name: (decimate(train, limit), decimate(val, max(limit // 3, 8))) for name, (train, val) in found.items()}


def in_turns(r: TrainingReport) -> bool:
    """Whether each step has but one of the parts, so that its loss is that part's and a line of the whole says nothing."""
    return len(r.parts) > 1 and sum(len(curve) for curve in r.parts.values()) <= len(r.train)


def dash(i: int) -> str:
    return DASHES[i % len(DASHES)]


def _extent(r: TrainingReport, curves: Sequence[Curve]) -> tuple[float, float, float]:
    """(largest x, lowest loss, highest loss) that the chart spans."""
    x = 1 if r.by_time else 0
    points = [p for curve in curves for p in curve]
    reach = max((p[x] for p in points), default=0)
    budget = (r.budget_seconds if r.by_time else r.budget_steps) or 0
    span = max(reach, budget) if r.status in ("training", "paused") else reach
    losses = [p[2] for p in points]
    low, high = (min(losses), max(losses)) if losses else (0.0, 5.0)
    pad = max((high - low) * 0.05, abs(high) * 0.005, 1e-6)
    return max(span, 1e-9) if points or budget else 1.0, low - pad, high + pad


def chart(r: TrainingReport) -> str:
    """Training as lines, validation as dots; parts are fainter, dashed each in its way, and named at their right end."""
    train, val, parts = decimate(r.train), decimate(r.val, 100), drawn(r)
    at = 1 if r.by_time else 0
    span, low, high = _extent(r, [train, val, *(curve for pair in parts.values() for curve in pair)])
    right = WIDTH - RIGHT - (NAMES if parts else 0)

    def x(value: float) -> float:
        return LEFT + (right - LEFT) * value / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    body = ""
    marks = svg.ticks(low, high, 7) if train or val else []
    body += svg.levels(marks, y, LEFT, right)
    along = svg.time_ticks(span) if r.by_time else [t for t in svg.ticks(0, span) if t == int(t)]
    for tick in along:
        anchor = "end" if x(tick) > right - 30 and not parts else "middle"
        label = (clock(tick) if span > 120 else f"{tick:g} s") if r.by_time else f"{tick:,.0f}"
        label += " steps" if tick == along[-1] and not r.by_time else ""
        body += svg.text(x(tick), HEIGHT - 8, label, anchor=anchor)
    if not train and not val:
        body += svg.text(WIDTH / 2, HEIGHT / 2, "the first loss is on its way", anchor="middle")
    ends: list[tuple[float, str, str]] = []
    for i, (name, (curve, dots)) in enumerate(parts.items()):
        line = svg.path([(x(p[at]), y(p[2])) for p in curve])
        look = f'stroke-opacity=".62" stroke-dasharray="{dash(i)}"'
        body += f'<path class="b" stroke-width="1.2" {look} d="{line}"/>'
        body += "".join(f'<circle class="o" cx="{x(p[at]):.1f}" cy="{y(p[2]):.1f}" r="2.2"/>' for p in dots)
        if curve or dots:
            ends.append((y((curve or dots)[-1][2]), name, look))
    if not in_turns(r):
        line = svg.path([(x(p[at]), y(p[2])) for p in train])
        body += f'<path class="b" stroke-width="1.4" stroke-linejoin="round" d="{line}"/>'
        if parts and train:
            ends.append((y(train[-1][2]), "total", 'stroke-width="1.4"'))
    if len(train) == 1:
        body += f'<circle class="bf" cx="{x(train[0][at]):.1f}" cy="{y(train[0][2]):.1f}" r="2"/>'
    now = max((p[at] for p in [*train, *val]), default=0)
    if r.status == "training" and now:
        body += f'<path class="d" stroke-dasharray="2 3" d="M{x(now):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    body += "".join(f'<circle class="of" cx="{x(p[at]):.1f}" cy="{y(p[2]):.1f}" r="3.6"/>' for p in val)
    if val:
        running = r.status == "training"
        place = (x(now), TOP + 10.0) if running else (x(val[-1][at]), max(y(val[-1][2]) - 9, 12))
        dx, anchor = (-6, "end") if place[0] > right - 66 else (6, "start") if running else (0, "middle")
        body += svg.text(place[0] + dx, place[1], f"val {number(val[-1][2], 3)}", "t", anchor)
    return svg.document(WIDTH, HEIGHT, body + named(ends, right))


def overlaid(runs: Sequence[tuple[str, Curve, Curve]]) -> str:
    """The curves of several runs over their steps, (name, training, validation) of each: training faint, validation with
    dots, both dashed in the run's way, and named at their end."""
    most = max(300 // max(len(runs), 1), 60)
    shown = [(name, decimate(train, most), decimate(val, 100)) for name, train, val in runs]
    points = [p for _, *both in shown for curve in both for p in curve]
    span = max(1, *(p[0] for p in points))
    low, high = min(p[2] for p in points), max(p[2] for p in points)
    low, high = low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6
    right = WIDTH - RIGHT - NAMES

    def x(step: float) -> float:
        return LEFT + (right - LEFT) * step / span

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    body, ends = "", list[tuple[float, str, str]]()
    marks, along = svg.ticks(low, high, 7), [t for t in svg.ticks(0, span) if t == int(t)]
    body += svg.levels(marks, y, LEFT, right)
    for tick in along:
        body += svg.text(x(tick), HEIGHT - 8, f"{tick:,.0f}{' steps' if tick == along[-1] else ''}", anchor="middle")
    above = ""  # validation lies upon training
    for i, (name, train, val) in enumerate(shown):
        dashes = f'stroke-dasharray="{dash(i - 1) if i else "none"}"'
        look = f'stroke-width="1.5" {dashes}'
        line = svg.path([(x(p[0]), y(p[2])) for p in train])
        body += f'<path class="b" stroke-width="1" stroke-opacity=".5" {dashes} d="{line}"/>' if train else ""
        above += f'<path class="o" {look} d="{svg.path([(x(p[0]), y(p[2])) for p in val])}"/>' if val else ""
        above += "".join(f'<circle class="of" cx="{x(p[0]):.1f}" cy="{y(p[2]):.1f}" r="2.4"/>' for p in val)
        ends.append((y((val or train)[-1][2]), name, look))
    return svg.document(WIDTH, HEIGHT, body + above + named(ends, right, "o"))


def named(ends: list[tuple[float, str, str]], right: float, hue: str = "b", height: float = HEIGHT) -> str:
    """The names of curves, each with a piece of its line, at their right ends; moved apart where they would lie upon
    each other."""
    places: list[float] = []
    for wanted, *_ in sorted(ends):
        places.append(max(wanted, places[-1] + 12 if places else TOP))
    over = max(0.0, places[-1] - (height - BOTTOM)) if places else 0.0
    body = ""
    for place, (_, name, look) in zip(places, sorted(ends), strict=True):
        y = max(place - over, 8)
        body += f'<path class="{hue}" {look} d="M{right + 5} {y:.1f}h16"/>'
        body += svg.text(right + 25, y + 4, clip(name, 9), "t")
    return body

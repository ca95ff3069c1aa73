"""The card of a training run, while it goes on and after it; it draws a TrainingReport and trains nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_lab.results import TrainingReport
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    BLUE,
    MUTED,
    ORANGE,
    bundle,
    card,
    clip,
    clock,
    columns,
    esc,
    figures,
    number,
    picture,
    si,
    size,
    small,
    verbatim,
)

if TYPE_CHECKING:
    import plotly.graph_objects

Curve = Sequence[tuple[int, float, float]]
WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 12, 26
WORD = {"finished": "trained", "stopped": "paused", "restored": "trained, restored from the store"}


def report(result: TrainingReport) -> dict[str, str]:
    """The card: loss over time or steps, the numbers beside it, the newest sample.

    No plotly figure stands in the bundle: where both are there JupyterLab shows plotly's, and the card would be lost.
    `figure(result)` makes one for those who ask.
    """
    running = result.status == "training"
    alt = f"Loss of {result.name}, {result.unit}: {_trend(result)}"
    chart = picture(_chart(result), alt, WIDTH, HEIGHT)
    if not running and decimate(result.train):
        chart = live("training", chart, _data(result) | {"alt": alt})
    where = f"; {esc(result.val_on)}" if result.val_on else ""
    key = f"Loss in {esc(result.unit)}: {_mark(BLUE, 14, 3)} training (line), "
    key += f"{_mark(ORANGE, 8, 8)} validation (dots{where})."
    body = columns(
        ("5 1 380px", chart + small(key)), ("3 1 280px", figures(_figures(result)) + _samples(result, running))
    )
    facts = [WORD.get(result.status, result.status), *result.facts]
    hint = "■ interrupt saves and stops" if running else ""
    page = card(result.name, facts, body, caption=_foot(result), hint=hint, progress=_share(result))
    return bundle(_plain(result), page)


def figure(result: TrainingReport) -> plotly.graph_objects.Figure:
    """The loss curves as a plotly figure."""
    import plotly.graph_objects as go

    x = 1 if result.by_time else 0
    lines = [
        go.Scatter(x=[p[x] for p in curve], y=[p[2] for p in curve], name=name, mode=mode, line_color=colour)
        for curve, name, mode, colour in (
            (result.train, "training", "lines", "#2563cf"),
            (result.val, "validation", "lines+markers", "#c8640a"),
        )
    ]
    chart = go.Figure(lines)
    chart.update_layout(
        title=clip(result.name, 60),
        xaxis_title="seconds" if result.by_time else "step",
        yaxis_title=f"loss, {result.unit}",
        template="none",
    )
    return chart


def progress(result: TrainingReport) -> str:
    """The state of a run on one line."""
    parts = [result.name, result.status, f"step {_step(result)}", _time(result)]
    if result.train:
        parts.append(f"loss {number(result.train[-1][2])}")
    if result.val:
        parts.append(f"val {number(result.val[-1][2])}")
    if result.tokens_per_second:
        parts.append(f"{si(result.tokens_per_second)} tokens/s")
    return " · ".join(" ".join(part.split()) for part in parts)


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


def _mark(colour: str, width: int, height: int) -> str:
    style = f"display:inline-block;width:{width}px;height:{height}px;border-radius:4px;vertical-align:middle"
    return f'<span style="{style};background:{colour}"></span>'


def _time(r: TrainingReport) -> str:
    budget = r.by_time and r.budget_seconds and r.status != "finished"
    return f"{clock(r.seconds)} of {clock(r.budget_seconds or 0)}" if budget else clock(r.seconds)


def _step(r: TrainingReport) -> str:
    if not r.budget_steps or r.status in ("finished", "restored"):
        return f"{r.step:,}"
    return f"{r.step:,} of {'~' if r.by_time else ''}{r.budget_steps:,}"


def _share(r: TrainingReport) -> float | None:
    if r.status in ("finished", "restored"):
        return None
    if r.by_time and r.budget_seconds:
        return r.seconds / r.budget_seconds
    return r.step / r.budget_steps if r.budget_steps else None


def _figures(r: TrainingReport) -> list[tuple[str, str]]:
    rows = [("time", _time(r)), ("step", _step(r))]
    if r.tokens:
        epochs = f" ({number(r.epochs, 2)} epochs)" if r.epochs else ""
        rows.append(("tokens seen", f"{si(r.tokens)}{epochs}"))
    if r.tokens_per_second:
        rows.append(("speed", f"{si(r.tokens_per_second)} tokens/s"))
    if r.train:
        rows.append(("training loss", f"{number(r.train[-1][2])} {r.unit}"))
    final = dict(r.final)
    whole = final.pop("val_loss", final.pop("loss", None))
    if whole is not None:
        rows.append(("validation loss, whole split", f"{number(whole)} {r.unit}"))
    elif r.val:
        rows.append(("validation loss", f"{number(r.val[-1][2])} {r.unit}"))
    rows += [(name.replace("_", " "), number(value)) for name, value in final.items()]
    if r.lr or r.schedule:
        rows.append(("learning rate", " · ".join(part for part in (number(r.lr, 2), r.schedule) if part)))
    if r.memory:
        rows.append(("memory", size(r.memory) + (f" of {size(r.memory_total)}" if r.memory_total else "")))
    return rows


def _samples(r: TrainingReport, running: bool) -> str:
    if not r.samples:
        return ""

    def one(s: Any) -> str:
        when = clock(s.seconds) if r.by_time else f"step {s.step:,}"
        head = f"sample at {when}" + (f", “{esc(clip(s.prompt, 40, 1))}”" if s.prompt else "")
        return small(head, 8) + verbatim(clip(s.text.strip("\n"), 600, 8))

    page = one(r.samples[-1])
    earlier = r.samples[-6:-1]
    if earlier and not running:
        rest = "".join(one(s) for s in reversed(earlier))
        page += f'<details><summary style="{MUTED};font-size:12px">earlier samples</summary>{rest}</details>'
    return page


def _foot(r: TrainingReport) -> str:
    lines = [esc(note) for note in (r.notes[-4:] if r.status == "training" else r.notes)]
    if r.repeat and r.status != "training":
        lines.append(
            f'Repeats this run exactly: <code style="background:none;white-space:pre-wrap">{esc(r.repeat)}</code>'
        )
    return "<br>".join(lines)


def _trend(r: TrainingReport) -> str:
    points = decimate(r.train)
    if not points:
        return "no step yet"
    text = f"training from {number(points[0][2], 3)} to {number(points[-1][2], 3)} at step {points[-1][0]:,}"
    last = [p for p in r.val if math.isfinite(p[2])]
    return text + (f", validation {number(last[-1][2], 3)}" if last else "")


def _plain(r: TrainingReport) -> str:
    lines = [" · ".join([r.name, WORD.get(r.status, r.status), *r.facts])]
    lines += [f"  {name:<29} {value}" for name, value in _figures(r)]
    if r.samples:
        last = r.samples[-1]
        lines += [
            f"  sample at step {last.step:,}, after {clip(last.prompt, 40, 1)!r}:",
            *("    " + line for line in clip(last.text.strip("\n"), 300, 4).split("\n")),
        ]
    lines += [f"  {note}" for note in r.notes]
    return "\n".join([*lines, *([f"  repeat: {r.repeat}"] if r.repeat else [])])


def _extent(r: TrainingReport, train: Curve, val: Curve) -> tuple[float, float, float]:
    """(largest x, lowest loss, highest loss) that the chart spans."""
    x = 1 if r.by_time else 0
    points = [*train, *val]
    reach = max((p[x] for p in points), default=0)
    budget = (r.budget_seconds if r.by_time else r.budget_steps) or 0
    span = max(reach, budget) if r.status in ("training", "stopped") else reach
    losses = [p[2] for p in points]
    low, high = (min(losses), max(losses)) if losses else (0.0, 5.0)
    pad = max((high - low) * 0.05, abs(high) * 0.005, 1e-6)
    return max(span, 1e-9) if points or budget else 1.0, low - pad, high + pad


def _chart(r: TrainingReport) -> str:
    train, val = decimate(r.train), decimate(r.val, 100)
    at = 1 if r.by_time else 0
    span, low, high = _extent(r, train, val)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    body = ""
    marks = svg.ticks(low, high, 7) if train or val else []
    for tick in marks:
        body += f'<path class="l" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>'
        label = svg.tick_label(tick, marks[-1] - marks[-2] if len(marks) > 1 else tick)
        body += svg.text(LEFT - 7, y(tick) + 4, label, anchor="end")
    along = svg.time_ticks(span) if r.by_time else [t for t in svg.ticks(0, span) if t == int(t)]
    for tick in along:
        anchor = "end" if x(tick) > WIDTH - RIGHT - 30 else "middle"
        label = (clock(tick) if span > 120 else f"{tick:g} s") if r.by_time else f"{tick:,.0f}"
        label += " steps" if tick == along[-1] and not r.by_time else ""
        body += svg.text(x(tick), HEIGHT - 8, label, anchor=anchor)
    if not train and not val:
        body += svg.text(WIDTH / 2, HEIGHT / 2, "the first loss is on its way", anchor="middle")
    line = svg.path([(x(p[at]), y(p[2])) for p in train])
    body += f'<path class="b" stroke-width="1.4" stroke-linejoin="round" d="{line}"/>'
    if len(train) == 1:
        body += f'<circle class="bf" cx="{x(train[0][at]):.1f}" cy="{y(train[0][2]):.1f}" r="2"/>'
    now = max((p[at] for p in [*train, *val]), default=0)
    if r.status == "training" and now:
        body += f'<path class="d" stroke-dasharray="2 3" d="M{x(now):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
    body += "".join(f'<circle class="of" cx="{x(p[at]):.1f}" cy="{y(p[2]):.1f}" r="3.6"/>' for p in val)
    if val:
        running = r.status == "training"
        place = (x(now), TOP + 10.0) if running else (x(val[-1][at]), max(y(val[-1][2]) - 9, 12))
        dx, anchor = (-6, "end") if place[0] > WIDTH - 80 else (6, "start") if running else (0, "middle")
        body += svg.text(place[0] + dx, place[1], f"val {number(val[-1][2], 3)}", "t", anchor)
    return svg.document(WIDTH, HEIGHT, body)


def _data(r: TrainingReport) -> dict[str, Any]:
    def columns(curve: Curve) -> dict[str, list[float]]:
        return {
            "step": [p[0] for p in curve],
            "seconds": [round(p[1], 2) for p in curve],
            "loss": [float(f"{p[2]:.5g}") for p in curve],
        }

    return {
        "unit": r.unit,
        "byTime": r.by_time,
        "train": columns(decimate(r.train, 1500)),
        "val": columns(decimate(r.val, 500)),
    }

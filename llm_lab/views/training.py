"""The card of a training run, while it goes on and after it; it draws a TrainingReport and trains nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llm_lab.results import TrainingReport
from llm_lab.views import watched
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    BLUE,
    MOST,
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
    visible,
)
from llm_lab.views.curves import HEIGHT, WIDTH, Curve, chart, dash, decimate, drawn, in_turns

if TYPE_CHECKING:
    import plotly.graph_objects

WORD = {"finished": "trained", "restored": "trained, restored from the store"}
AGAIN = "shows this again, from any notebook of this folder"
_CODE = "background:none;padding:0;white-space:pre-wrap;overflow-wrap:anywhere"


def report(result: TrainingReport, elsewhere: bool = False) -> dict[str, str]:
    """The card: loss over time or steps, the numbers beside it, the newest sample. `elsewhere`: another process trains it.

    No plotly figure stands in the bundle: where both are there JupyterLab shows plotly's, and the card would be lost.
    `figure(result)` makes one for those who ask.
    """
    running = result.status == "training"
    alt = f"Loss of {result.name}, {result.unit}: {_trend(result)}"
    shown = picture(chart(result), alt, WIDTH, HEIGHT)
    if not running and decimate(result.train):
        shown = live("training", shown, _data(result) | {"alt": alt})
    where = f"; {esc(result.val_on)}" if result.val_on else ""
    unit = esc(result.unit)
    if result.parts:
        unit = f"nats, {'a part in each step' if in_turns(result) else 'the total and its parts'}"
    key = f"Loss in {unit}: {_mark(BLUE, 14, 3)} training (line{'s' * bool(result.parts)}), "
    key += f"{_mark(ORANGE, 8, 8)} validation (dots{where})."
    body = columns(
        ("5 1 380px", shown + small(key) + watched.charts(result)),
        ("3 1 280px", figures(_figures(result)) + _samples(result, running)),
    )
    if not running:
        body += watched.looks(result, MOST - len(body.encode()) - 20_000)
    word = _word(result, elsewhere)
    hint = "■ interrupt saves and stops" if running and not elsewhere else ""
    again = [f'<code style="{_CODE}">%attach {esc(result.name)}</code> {AGAIN}'] if elsewhere else []
    caption = "<br>".join([*_foot(result), *again])
    facts, share = [word, *result.facts], _share(result)
    page = card(result.name, facts, body, caption=caption, hint=hint, progress=share, done=not running)
    return bundle(_plain(result, word) + (f"\n  %attach {result.name} {AGAIN}" if elsewhere else ""), page)


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
    for i, (name, pair) in enumerate(drawn(result).items()):
        for curve, split, style in (
            (pair[0], "training", {"mode": "lines", "line_color": "#2563cf", "line_dash": _plotly(i)}),
            (pair[1], "validation", {"mode": "markers", "marker_symbol": "circle-open", "marker_color": "#c8640a"}),
        ):
            points = {"x": [p[x] for p in curve], "y": [p[2] for p in curve]}
            lines.append(go.Scatter(**points, **style, name=f"{clip(name, 40)}, {split}", opacity=0.62))
    made = go.Figure(lines)
    made.update_layout(
        title=clip(result.name, 60),
        xaxis_title="seconds" if result.by_time else "step",
        yaxis_title=f"loss, {result.unit}",
        template="none",
    )
    return made


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


def _plotly(i: int) -> str:
    """A part's dashes, as plotly writes them."""
    return ",".join(f"{length}px" for length in dash(i).split())


def _mark(colour: str, width: int, height: int) -> str:
    style = f"display:inline-block;width:{width}px;height:{height}px;border-radius:4px;vertical-align:middle"
    return f'<span style="{style};background:{colour}"></span>'


def _time(r: TrainingReport) -> str:
    budget = r.by_time and r.budget_seconds and r.status != "finished"
    if r.status == "training" and not r.by_time and r.budget_steps and r.step:  # at the speed of all steps so far
        return f"{clock(r.seconds)}, about {clock(r.seconds / r.step * (r.budget_steps - r.step))} to go"
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
    if r.train and not in_turns(r):
        rows.append(("training loss", f"{number(r.train[-1][2])} {'nats in all' if r.parts else r.unit}"))
    final = dict(r.final)
    whole = final.pop("val_loss", final.pop("loss", None))
    if whole is not None:
        rows.append(("validation loss, whole split", f"{number(whole)} {r.unit}"))
    elif r.val:
        rows.append(("validation loss", f"{number(r.val[-1][2])} {'nats in all' if r.parts else r.unit}"))
    for name, value in final.items():
        whole_split = ", whole split" if name.endswith(" loss") else ""
        rows.append((f"{name.replace('_', ' ')}{whole_split}", number(value)))
    for name in dict.fromkeys([*r.parts, *r.val_parts]):
        last = [
            f"{split} {number(curve[-1][2])}"
            for split, curve in (("train", r.parts.get(name)), ("val", r.val_parts.get(name)))
            if curve
        ]
        rows.append((f"part {clip(name, 40)}", " · ".join(last)))
    if r.lr or r.schedule:
        rows.append(("learning rate", " · ".join(part for part in (number(r.lr, 2), r.schedule) if part)))
    rows += watched.rows(r)
    if r.memory:
        rows.append(("memory", size(r.memory) + (f" of {size(r.memory_total)}" if r.memory_total else "")))
    if r.memory_need:
        rows.append(("memory, as estimated before", f"{size(r.memory_need)} of {size(r.memory_free)} free"))
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


def _word(r: TrainingReport, elsewhere: bool) -> str:
    return "training in the background" if elsewhere and r.status == "training" else WORD.get(r.status, r.status)


def _foot(r: TrainingReport) -> list[str]:
    lines = [esc(note) for note in (r.notes[-4:] if r.status == "training" else r.notes)]
    if r.repeat and r.status != "training":
        lines.append(f'Repeats this run exactly: <code style="{_CODE}">{esc(r.repeat)}</code>')
    return lines


def _trend(r: TrainingReport) -> str:
    points = decimate(r.train)
    if not points:
        return "no step yet"
    text = f"training from {number(points[0][2], 3)} to {number(points[-1][2], 3)} at step {points[-1][0]:,}"
    last = [p for p in r.val if math.isfinite(p[2])]
    return text + (f", validation {number(last[-1][2], 3)}" if last else "")


def _plain(r: TrainingReport, word: str) -> str:
    lines = [" · ".join([r.name, word, *r.facts])]
    lines += [f"  {name:<29} {value}" for name, value in _figures(r)]
    if r.samples:
        last = r.samples[-1]
        lines += [
            f"  sample at step {last.step:,}" + (f", after {clip(last.prompt, 40, 1)!r}:" if last.prompt else ":"),
            *("    " + line for line in clip(last.text.strip("\n"), 300, 4).split("\n")),
        ]
    lines += [f"  {note}" for note in r.notes]
    return "\n".join([*lines, *([f"  repeat: {r.repeat}"] if r.repeat else [])])


def _data(r: TrainingReport) -> dict[str, Any]:
    def columns(curve: Curve) -> dict[str, list[float]]:
        return {
            "step": [p[0] for p in curve],
            "seconds": [round(p[1], 2) for p in curve],
            "loss": [float(f"{p[2]:.5g}") for p in curve],
        }

    found: dict[str, Any] = {
        "unit": "nats" if r.parts else r.unit,
        "byTime": r.by_time,
        "turns": in_turns(r),
        "train": columns(decimate(r.train, 1500)),
        "val": columns(decimate(r.val, 500)),
    }
    names = drawn(r)
    limit = 1500 // max(len(names), 1)
    found["parts"] = [
        {
            "name": visible(name),
            "dash": dash(i),
            "train": columns(decimate(r.parts.get(name, []), limit)),
            "val": columns(decimate(r.val_parts.get(name, []), limit // 3)),
        }
        for i, name in enumerate(names)
    ]
    return found

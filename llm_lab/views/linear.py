"""Linear probes: how well each site is read, beside a control, as a picture and a table; it computes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from llm_lab.results import LinearProbe, SiteScore
from llm_lab.views import svg
from llm_lab.views.card import MUTED, bundle, card, clip, columns, esc, figures, number, picture, small, table, visible

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 96, 14, 40
CLASSES = 12
ROWS = 60


def linear_probe(result: LinearProbe) -> dict[str, str]:
    """Accuracy by site with its interval, the control's below it and the most frequent class as a line."""
    facts = ["linear probe", result.label, f"{len(result.classes)} classes", *result.facts]
    caption = (
        "Accuracy: the share of examples classified rightly while their passage was held out, ± half of the 95 % interval over passages. "
        "Balanced: the mean over the classes. "
        f"Control: the same classifier where {result.control} (Hewitt & Liang 2019): what it learns by heart. "
        "Selectivity: accuracy − control. The dashed line always says the most frequent class."
    )
    caption = "<br>".join(map(esc, [caption, *_cut(result), *result.notes]))
    shown = result.scores[:ROWS]
    image = picture(_chart(result, shown), _alt(result), WIDTH, HEIGHT) if shown else ""
    names = [
        (visible(clip(name, 30)), f"{n:,}")
        for name, n in list(zip(result.classes, result.counts, strict=True))[:CLASSES]
    ]
    beside = small("examples of each class") + figures(names)
    body = columns(("3 1 420px", image), ("1 1 180px", beside)) + _table(result, shown)
    plain = [" · ".join([result.name, *facts])]
    plain += [f"  {one.site}: {_line(one)}" for one in shown]
    plain += [f"  most frequent class {100 * result.majority:.1f} %", *(f"  {note}" for note in result.notes)]
    return bundle("\n".join(plain), card(result.name, facts, body, caption=caption))


def _line(one: SiteScore) -> str:
    told = (
        ("accuracy", one.accuracy, one.accuracy_interval),
        ("balanced", one.balanced_accuracy, one.balanced_interval),
        ("control", one.control_accuracy, one.control_interval),
        ("selectivity", one.selectivity, one.selectivity_interval),
    )
    return ", ".join(f"{name} {_share(value, half)}" for name, value, half in told)


def _share(value: float, half: float | None) -> str:
    return _percent(value) + ("" if half is None else f" ± {number(100 * half, 2)}") + " %"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "−")


def _cell(value: float, half: float | None, bold: bool = False) -> str:
    text = f"<b>{_percent(value)}</b>" if bold else _percent(value)
    return text + ("" if half is None else f' <span style="{MUTED}">±&nbsp;{number(100 * half, 2)}</span>')


def _table(result: LinearProbe, shown: Sequence[SiteScore]) -> str:
    best = max((one.accuracy for one in shown), default=0)
    rows: list[list[str | tuple[str, str]]] = [
        [
            f'<span style="font-family:monospace">{esc(one.site)}</span>',
            _cell(one.accuracy, one.accuracy_interval, one.accuracy == best),
            _cell(one.balanced_accuracy, one.balanced_interval),
            _cell(one.control_accuracy, one.control_interval),
            _cell(one.selectivity, one.selectivity_interval),
        ]
        for one in shown
    ]
    rows.append(["most frequent class", f"{100 * result.majority:.1f}", f"{100 / len(result.classes):.1f}", "", ""])
    return table(["site", "accuracy, %", "balanced, %", "control, %", "selectivity, %"], rows, total=True)


def _cut(result: LinearProbe) -> list[str]:
    notes = []
    if len(result.scores) > ROWS:
        notes.append(f"The first {ROWS} of {len(result.scores):,} sites are shown; .to_pandas() has all.")
    if len(result.classes) > CLASSES:
        notes.append(
            f"The first {CLASSES} of {len(result.classes):,} classes are listed; .classes and .counts have all."
        )
    return notes


def _alt(result: LinearProbe) -> str:
    best = max(result.scores, key=lambda one: one.accuracy)
    return (
        f"Accuracy of {visible(result.label)} at {len(result.scores)} sites: at most {100 * best.accuracy:.1f} % at {visible(best.site)}, "
        f"the most frequent class {100 * result.majority:.1f} %"
    )


def _short(site: str) -> str:
    found = re.search(r"blocks\.(\d+)\.", site)
    return found[1] if found else svg.short(site, 9)


def _chart(result: LinearProbe, shown: Sequence[SiteScore]) -> str:
    points = [v for one in shown for v in (one.accuracy, one.control_accuracy)]
    halves = [v or 0.0 for one in shown for v in (one.accuracy_interval, one.control_interval)]
    low = max(min([result.majority, *(p - h for p, h in zip(points, halves, strict=True))]) - 0.03, 0.0)
    high = min(max([result.majority, *(p + h for p, h in zip(points, halves, strict=True))]) + 0.03, 1.0)
    right = WIDTH - RIGHT
    step = (right - LEFT) / max(len(shown), 1)

    def x(i: int) -> float:
        return LEFT + (i + 0.5) * step

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(value, low), high)) / (high - low or 1.0)

    marks = svg.ticks(100 * low, 100 * high, 5)
    body = ""
    for tick in marks:
        label = svg.tick_label(tick, marks[1] - marks[0] if len(marks) > 1 else tick or 1)
        body += f'<path class="l" d="M{LEFT} {y(tick / 100):.1f}H{right}"/>'
        body += svg.text(LEFT - 7, y(tick / 100) + 4, label + (" %" if tick == marks[-1] else ""), anchor="end")
    body += f'<path class="d" stroke-dasharray="4 3" d="M{LEFT} {y(result.majority):.1f}H{right}"/>'
    curves = (
        ("accuracy", "b", [(one.accuracy, one.accuracy_interval) for one in shown]),
        ("control", "o", [(one.control_accuracy, one.control_interval) for one in shown]),
    )
    ends = [(y(result.majority), "majority", "m")]
    for name, hue, values in curves:
        body += f'<path class="{hue}" stroke-width="1.4" d="{svg.path([(x(i), y(v)) for i, (v, _) in enumerate(values)])}"/>'
        for i, (value, half) in enumerate(values):
            if half:
                body += f'<path class="{hue}" d="M{x(i):.1f} {y(value - half):.1f}V{y(value + half):.1f}"/>'
            mark = (
                f'<circle class="bf" cx="{x(i):.1f}" cy="{y(value):.1f}" r="3.2"/>'
                if hue == "b"
                else f'<rect class="of" x="{x(i) - 2.8:.1f}" y="{y(value) - 2.8:.1f}" width="5.6" height="5.6"/>'
            )
            body += mark
        ends.append((y(values[-1][0]), name, "t"))
    place = -1e9
    for wanted, name, kind in sorted(ends):
        place = max(wanted, place + 13)
        body += svg.text(right + 8, place + 4, name, kind)
    every = max(1, math.ceil(34 / step))
    for i, one in enumerate(shown):
        if i % every == 0:
            body += svg.text(x(i), HEIGHT - BOTTOM + 16, _short(one.site), anchor="middle")
    body += svg.text((LEFT + right) / 2, HEIGHT - 7, "layer", anchor="middle")
    return svg.document(WIDTH, HEIGHT, body)

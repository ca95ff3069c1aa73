"""What was watched while a model trained: small curves, a row for each, and the last state of what can be looked at."""

from __future__ import annotations

from typing import NamedTuple

from llm_lab.results import TrainingReport
from llm_lab.views import svg
from llm_lab.views.card import MUTED, clip, esc, number, picture, small
from llm_lab.views.curves import WIDTH, Curve, decimate

PLACES = ("layer", "head")  # keys that say where the number is, and are no curves
ACROSS, HIGH, GAP = 3, 92, 8  # charts in a row, their height and what lies between
MOST = 24  # charts
LINES = 8  # of one chart


class Watched(NamedTuple):
    """One watch: its curves by key ("" where it has but one), and where its number is at last."""

    name: str
    curves: dict[str, Curve]
    place: str

    @property
    def last(self) -> str:
        """The newest numbers, each after its key."""
        ends = [f"{key} {number(curve[-1][2])}".strip() for key, curve in self.curves.items()]
        shown = ends if len(ends) < 5 else [*ends[:2], "…", ends[-1]]
        return " · ".join(shown) + (f" ({self.place})" if self.place else "")


def watches(r: TrainingReport) -> list[Watched]:
    """The watches, in their order."""
    found: dict[str, dict[str, Curve]] = {}
    for column, curve in r.watched.items():
        name, _, key = column.partition(".")
        if curve:
            found.setdefault(name, {})[key] = curve
    made = []
    for name, keys in found.items():
        place = ", ".join(f"{key} {keys[key][-1][2]:.0f}" for key in PLACES if key in keys and "" in keys)
        made.append(Watched(name, {k: c for k, c in keys.items() if not (place and k in PLACES)}, place))
    return made


def rows(r: TrainingReport) -> list[tuple[str, str]]:
    """Names and numbers, and what watching cost."""
    found = [(clip(one.name.replace("_", " "), 40), clip(one.last, 80)) for one in watches(r)]
    spent = r.seconds - r.setup_seconds
    if r.watch_seconds and spent > r.watch_seconds:
        found.append(("watching took", f"{100 * r.watch_seconds / spent:.2g} % of the time, × {r.slowdown:.2f}"))
    return found


def charts(r: TrainingReport) -> str:
    """The curves, each in a small chart of its own scale."""
    shown = watches(r)[:MOST]
    if not shown:
        return ""
    width = (WIDTH - (ACROSS - 1) * GAP) / ACROSS
    at = 1 if r.by_time else 0
    reach = max(p[at] for one in shown for curve in one.curves.values() for p in curve) or 1
    body = "".join(
        _chart(one, i % ACROSS * (width + GAP), i // ACROSS * HIGH, width, at, reach) for i, one in enumerate(shown)
    )
    alt = "; ".join(f"{clip(one.name, 40)} {one.last}" for one in shown)
    high = -(-len(shown) // ACROSS) * HIGH
    over = "time" if r.by_time else "steps"
    told = "; ".join(
        f"{one.name.replace('_', ' ')}: {r.watching[one.name]}" for one in shown if r.watching.get(one.name)
    )
    says = f"Watched at each validation, over {over}; each on a scale of its own, its lowest and highest at the left."
    says = esc(says) + (f" {esc(told[0].upper() + told[1:])}." if told else "")
    return picture(svg.document(WIDTH, high, body), f"Watched: {alt}", WIDTH, high) + small(says)


def _chart(one: Watched, left: float, top: float, width: float, at: int, reach: float) -> str:
    curves = [decimate(curve, 120) for curve in list(one.curves.values())]
    if len(curves) > LINES:  # evenly among them, with the first and the last
        curves = [curves[i * (len(curves) - 1) // (LINES - 1)] for i in range(LINES)]
    values = [p[2] for curve in curves for p in curve]
    low, high = min(values), max(values)
    x0, x1, y0, y1 = left + 46, left + width - 8, top + 28, top + HIGH - 12
    flat = high - low < 1e-12 + 1e-9 * abs(high)

    def place(p: tuple[int, float, float]) -> tuple[float, float]:
        y = (y0 + y1) / 2 if flat else y1 - (y1 - y0) * (p[2] - low) / (high - low)
        return x0 + (x1 - x0) * p[at] / reach, y

    name = svg.short(one.name.replace("_", " "), 20)
    body = svg.text(left + 8, top + 17, name, "t")
    if len(one.curves) == 1:
        body += svg.text(x1, top + 17, number(curves[0][-1][2], 3), "m", "end")
    else:
        body += svg.text(x1, top + 17, f"{len(one.curves)} lines", "m", "end")
    for y, value in ((y0, high), (y1, low)):
        body += f'<path class="l" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>'
        if not (flat and y == y0):
            body += svg.text(x0 - 5, (y + 4) if not flat else (y0 + y1) / 2 + 4, number(value, 3), anchor="end")
    for i, curve in enumerate(curves):
        faint = 1.0 if len(curves) == 1 else 0.35 + 0.65 * i / (len(curves) - 1)
        line = svg.path([place(p) for p in curve])
        body += f'<path class="b" stroke-width="1.3" stroke-opacity="{faint:.2f}" d="{line}"/>'
        x, y = place(curve[-1])
        body += f'<circle class="bf" fill-opacity="{faint:.2f}" cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>'
    return body


def looks(r: TrainingReport, room: int) -> str:
    """The last state of what can be looked at, closed; what does not fit into so many bytes is named alone."""
    body = ""
    for name, (step, result) in r.looks.items():
        page = result._repr_mimebundle_()["text/html"]
        head = f"{esc(clip(name, 60))} at step {step:,}"
        if len(page.encode()) > room:
            body += small(f"{head}: lm.watched[{esc(repr(clip(name, 60)))}] shows it", 6)
            continue
        room -= len(page.encode())
        body += f'<details><summary style="{MUTED};font-size:12px">{head}</summary>{page}</details>'
    return body

"""Curves of what noise costs, and the swaps that cost most."""

from __future__ import annotations

from collections.abc import Sequence

from llm_lab.results import NoisePoint, Robustness, Swap
from llm_lab.views import svg
from llm_lab.views.card import alone, bundle, card, columns, esc, figures, number, picture, readable, small, table
from llm_lab.views.curves import BOTTOM, LEFT, NAMES, RIGHT, TOP, dash, named

WIDTH, HEIGHT = 500, 230

Values = Sequence[tuple[str, Sequence[tuple[float, float, float | None]]]]  # by noise: rate, value, interval


def robustness(result: Robustness) -> dict[str, str]:
    """Bits per byte and agreement over the rate of noise; the numbers; the worst swaps."""
    facts = ["robustness", *result.facts, *([] if result.done else ["so far"])]
    noises = list(dict.fromkeys(point.noise for point in result.points))
    points = {noise: [p for p in result.points if p.noise == noise] for noise in noises}
    costs = [(n, [(0.0, *result.clean), *((p.rate, p.bits_per_byte, p.interval) for p in points[n])]) for n in noises]
    alike = [(n, [(0.0, 1.0, None), *((p.rate, p.agreement, p.agreement_interval) for p in points[n])]) for n in noises]
    body = ""
    if noises:
        body = columns(
            *(
                (
                    "1 1 400px",
                    small(f"<b>{title}</b>") + picture(chart(values), f"{title} by noise and rate", WIDTH, HEIGHT),
                )
                for title, values in (("bits per byte", costs), ("agreement with the clean text", alike))
            )
        )
    rows = [("of the text as it is", f"{_pm(*result.clean)} bits per byte")]
    if result.worst is not None and result.random is not None:
        rows += [
            ("the worst swap of one token", f"+{_pm(*result.worst)}"),
            ("a random swap", f"{_signed(*result.random)}"),
        ]
    left = (
        table(["noise", "rate", "changed", "bits per byte", "agreement"], [_row(p) for p in result.points])
        if noises
        else ""
    )
    right = figures(rows) + (_swaps(result.swaps) if result.swaps else "")
    caption = (
        "Bits that a UTF-8 byte of the noised text costs, and the share of the places where a token begins in both texts"
        " at which the same token is the likeliest; ± is half of a 95 % confidence interval. A swap changes one token"
        " that is read, and the rise is of what the passage's own tokens cost, in bits per byte."
    )
    caption = "<br>".join(map(esc, [caption, *result.notes]))
    page = card(
        result.name, facts, body + columns(("2 1 380px", left), ("1 1 300px", right)), caption=caption, done=result.done
    )
    plain = [" · ".join([result.name, *facts]), *(f"  {name:<28} {value}" for name, value in rows)]
    plain += [
        f"  {p.noise:<9} {p.rate:>6.1%}  {_pm(p.bits_per_byte, p.interval)} bits per byte, {_percent(p)} alike"
        for p in result.points
    ]
    plain += [f"  {alone(s.token.text)} → {alone(s.by.text)}: +{number(s.rise, 3)}" for s in result.swaps]
    return bundle("\n".join([*plain, *(f"  {note}" for note in result.notes)]), page)


def chart(values: Values) -> str:
    """A line for each noise, dashed in its way and named at its end, with a bar for each interval."""
    points = [p for _, curve in values for p in curve if p[1] == p[1]]
    span = max((x for x, _, _ in points), default=1.0) or 1.0
    low = min((v - (i or 0) for _, v, i in points), default=0.0)
    high = max((v + (i or 0) for _, v, i in points), default=1.0)
    low, high = low - 0.04 * (high - low) - 1e-9, high + 0.04 * (high - low) + 1e-9
    right = WIDTH - RIGHT - NAMES

    def x(rate: float) -> float:
        return LEFT + (right - LEFT) * rate / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    body, ends = "", list[tuple[float, str, str]]()
    marks, along = svg.ticks(low, high, 6), svg.ticks(0, span)
    body += svg.levels(marks, y, LEFT, right)
    for tick in along:
        body += svg.text(x(tick), HEIGHT - 8, f"{tick:.0%}" if span >= 0.05 else f"{tick:.1%}", anchor="middle")
    for i, (name, curve) in enumerate(values):
        shown = [(rate, value, half) for rate, value, half in curve if value == value]
        if not shown:
            continue
        look = f'stroke-width="1.4" stroke-dasharray="{dash(i - 1) if i else "none"}"'
        body += f'<path class="b" {look} d="{svg.path([(x(rate), y(value)) for rate, value, _ in shown])}"/>'
        for rate, value, half in shown:
            body += f'<circle class="bf" cx="{x(rate):.1f}" cy="{y(value):.1f}" r="2.2"/>'
            if half:
                body += f'<path class="b" d="M{x(rate):.1f} {y(value - half):.1f}V{y(value + half):.1f}"/>'
        ends.append((y(shown[-1][1]), name, look))
    return svg.document(WIDTH, HEIGHT, body + (named(ends, right, height=HEIGHT) if ends else ""))


def _row(point: NoisePoint) -> list[str | tuple[str, str]]:
    return [
        esc(point.noise),
        f"{point.rate:.1%}",
        f"{point.changed:.1%}",
        _pm(point.bits_per_byte, point.interval),
        _percent(point),
    ]


def _swaps(found: Sequence[Swap]) -> str:
    rows: list[list[str | tuple[str, str]]] = [
        [
            f'<span dir="auto" style="font-family:monospace">{esc(readable("".join(p.text for p in swap.before), "⏎"))} <b>{esc(alone(swap.token.text))}</b></span>',
            f'<span dir="auto" style="font-family:monospace">{esc(alone(swap.by.text))}</span>',
            f"+{number(swap.rise, 3)}",
        ]
        for swap in found
    ]
    return table(["the worst: behind …, this token", "becomes", "rise"], rows)


def _pm(value: float, interval: float | None) -> str:
    return number(value, 3) + (f" ± {number(interval, 2)}" if interval is not None else "")


def _signed(value: float, interval: float | None) -> str:
    return ("+" if value >= 0 else "") + _pm(value, interval)


def _percent(point: NoisePoint) -> str:
    spread = f" ± {100 * point.agreement_interval:.1f}" if point.agreement_interval is not None else ""
    return f"{100 * point.agreement:.1f}{spread} %" if point.agreement == point.agreement else "–"

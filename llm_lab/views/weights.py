"""Weights as a table that sorts: numbers, a histogram and the singular values of each; it computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llm_lab.results import WeightFacts, WeightRow, WeightTable
from llm_lab.views.bundle import live
from llm_lab.views.card import BLUE, ORANGE, bundle, card, esc, fitting, number, picture, readable, table, visible

WIDTH, HEIGHT = 104, 30  # pixels of a chart
POINTS = 40  # singular values that are drawn, spread evenly over their ranks
LISTED = 40  # rows in plain text

Numbers = Callable[[WeightFacts], float]


@dataclass(frozen=True)
class Column:
    """A column of numbers: what it is called, whose they are, how one is written, and what it means."""

    name: str
    value: Numbers
    show: Callable[[float], str]
    about: str


def _digits(n: int) -> Callable[[float], str]:
    return lambda value: number(value, n)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


_SPREAD = (
    Column("mean", lambda f: f.mean, _digits(2), "mean of its numbers"),
    Column("std", lambda f: f.std, _digits(3), "standard deviation of its numbers"),
    Column("min", lambda f: f.low, _digits(2), "smallest number"),
    Column("max", lambda f: f.high, _digits(2), "largest number"),
    Column("near 0", lambda f: f.near_zero, _percent, "share of its numbers below a hundredth of their root mean square"),
    Column("kurtosis", lambda f: f.kurtosis, _digits(2), "above that of a normal distribution: large where a few are far out"),
)  # fmt: skip
_SPECTRUM = (
    Column("largest", lambda f: f.spectral_norm, _digits(3), "largest singular value, the spectral norm"),
    Column(
        "stable rank",
        lambda f: f.stable_rank,
        _digits(3),
        "sum of the squared singular values over the largest squared",
    ),
    Column("effective rank", lambda f: f.effective_rank, _digits(3), "e to the entropy of the singular values"),
    Column("condition", lambda f: f.condition, _digits(2), "largest singular value over the smallest"),
    Column("α", lambda f: f.alpha, _digits(3), "exponent of the tail of the squared singular values; of 50 or more"),
)
_SLOPE = (
    Column("gradient", lambda f: f.gradient, _digits(2), "norm of the loss's gradient"),
    Column("gradient / weight", lambda f: f.gradient_ratio, _digits(2), "norm of the gradient over that of the weight"),
    Column("noise scale", lambda f: f.noise_scale, _digits(2), "tokens of a batch whose noise is as large as the gradient"),
)  # fmt: skip


def weights(result: WeightTable) -> dict[str, str]:
    """A row a weight; of two models two lines in each cell, the first's above."""
    two = len(result.models) > 1
    sloped = bool(result.losses)
    columns = [*_SPREAD, *_SPECTRUM, *(_SLOPE if sloped else ())]
    facts = ["weights", f"{len(result.rows)} {'weight' if len(result.rows) == 1 else 'weights'}"]
    if sloped:
        losses = " and ".join(number(loss) for loss in result.losses)
        facts.append(f"loss {losses} nats over {' and '.join(f'{n:,}' for n in result.tokens)} tokens")
    name = ", ".join(result.models)
    caption = _caption(result, two, sloped)

    def page(shown: int, script: bool) -> str:
        left = "" if shown >= len(result.rows) else f"<br>The first {shown} of {len(result.rows)} weights are listed without scripts; .to_pandas() has all."  # fmt: skip
        still = _table(result, result.rows[:shown], columns)
        body = live("weights", still, _payload(result, columns)) if script else still
        return card(name, facts, body, caption=caption + left)

    def pages() -> Iterator[str]:
        for script in (True, False):
            for shown in (len(result.rows), 100, 80, 60, 40, 20):
                if shown <= len(result.rows):
                    yield page(shown, script)

    plain = [" · ".join([name, *facts])]
    for row in result.rows[:LISTED]:
        said = ", ".join(_line(one) for one in row.facts)
        apart = f", distance {number(row.distance, 2)}" if two else ""
        plain.append(f"  {visible(row.name):<32} {_shape(row.shape):>12}  {said}{apart}")
    if len(result.rows) > LISTED:
        plain.append(f"  {len(result.rows) - LISTED} more are in .to_pandas()")
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(pages()))


def _caption(result: WeightTable, two: bool, sloped: bool) -> str:
    first = esc(result.models[0])
    other = esc(result.models[-1]) if two else "a model of these sizes before training"
    drawn = f"Blue is {first}, the orange line {other}. " if two or any(row.fresh for row in result.rows) else ""
    text = (
        drawn
        + "Histograms reach to five standard deviations; singular values stand from the largest to the smallest, from 0. "
    )
    text += (
        "A stable or effective rank far below a weight's smaller side means that few directions do most of its work."
    )
    if two:
        text += (
            f" Of two numbers the upper is {first}’s; distance is the norm of their difference over that of {first}’s."
        )
    if sloped:
        text += " Gradients are of the loss that it was trained by; noise scale is in tokens."
    return text + "".join(f"<br>{esc(note)}" for note in result.notes)


def _line(facts: WeightFacts) -> str:
    said = f"std {number(facts.std, 3)}"
    if not math.isnan(facts.spectral_norm):
        said += f", largest {number(facts.spectral_norm, 3)}, stable rank {number(facts.stable_rank, 3)}"
    if not math.isnan(facts.gradient):
        said += f", gradient {number(facts.gradient, 2)}"
    return said


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _other(row: WeightRow) -> WeightFacts | None:
    """Whose line stands beside the first model's."""
    return row.facts[1] if len(row.facts) > 1 else row.fresh


def _shown(row: WeightRow, column: Column) -> list[str]:
    return [column.show(column.value(facts)) for facts in row.facts]


def _table(result: WeightTable, rows: Sequence[WeightRow], columns: Sequence[Column]) -> str:
    titles = ["weight", "shape", "numbers", *(c.name for c in _SPREAD), "singular values"]
    titles += [c.name for c in columns[len(_SPREAD) :]] + (["distance"] if len(result.models) > 1 else [])
    lines = []
    for row in rows:
        cells = ["<br>".join(esc(text) for text in _shown(row, column)) for column in columns]
        charts = [picture(made, alt, WIDTH, HEIGHT) if made else "" for made, alt in _charts(row)]
        line = [esc(visible(row.name)), _shape(row.shape), charts[0], *cells[: len(_SPREAD)], charts[1]]
        line += cells[len(_SPREAD) :] + ([number(row.distance, 2)] if len(result.models) > 1 else [])
        lines.append(line)
    return table([esc(title).replace(" ", "&nbsp;") for title in titles], lines)


def _charts(row: WeightRow) -> list[tuple[str, str]]:
    """The histogram and the singular values as pictures, and what they are."""
    own, other = row.facts[0], _other(row)
    pairs = [(own.histogram, other.histogram if other else ()), (own.singular, other.singular if other else ())]
    named = [f"Histogram of {row.name}", f"Singular values of {row.name}, the largest first"]
    return [
        (_chart(_points(a, i), _points(b, i), whole=bool(i)), readable(alt))
        for i, ((a, b), alt) in enumerate(zip(pairs, named, strict=True))
    ]


def _points(values: Any, ranks: int) -> list[float]:
    """The heights that are drawn: all of a histogram, of singular values some."""
    count = len(values)
    if ranks and count > POINTS:
        return [float(values[round(i * (count - 1) / (POINTS - 1))]) for i in range(POINTS)]
    return [float(value) for value in values]


def _chart(own: Sequence[float], other: Sequence[float], whole: bool) -> str:
    """A filled shape and a line over it, both from 0 to the largest of all, or, where not the whole line need be seen,
    of the shape; empty where there is nothing to draw."""
    top = max([*own, *(other if whole else ())], default=0.0)
    if len(own) < 2 or not 0 < top < math.inf:
        return ""

    def path(heights: Sequence[float]) -> str:
        step = (WIDTH - 2) / (len(heights) - 1)
        return "L".join(
            f"{1 + i * step:.0f} {HEIGHT - 1 - (HEIGHT - 3) * min(h / top, 1.05):.1f}" for i, h in enumerate(heights)
        )

    shape = f'<path fill="{BLUE}" fill-opacity=".3" stroke="{BLUE}" d="M1 {HEIGHT - 1}L{path(own)}L{WIDTH - 1} {HEIGHT - 1}z"/>'
    if len(other) > 1:
        shape += f'<path fill="none" stroke="{ORANGE}" stroke-width="1.3" d="M{path(other)}"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">{shape}</svg>'


def _payload(result: WeightTable, columns: Sequence[Column]) -> dict[str, Any]:
    """What static/weights.js needs: columns, and the rows' texts, numbers and pictures."""
    two = len(result.models) > 1
    rows = [
        {
            "name": visible(row.name),
            "shape": _shape(row.shape),
            "size": math.prod(row.shape),
            "shown": [_shown(row, column) for column in columns] + ([[number(row.distance, 2)]] if two else []),
            "values": [_finite(column.value(row.facts[0])) for column in columns] + ([_finite(row.distance)] if two else []),
            "charts": [{"svg": made, "alt": alt} for made, alt in _charts(row)],
        }
        for row in result.rows
    ]  # fmt: skip
    titles = [{"name": column.name, "title": column.about} for column in columns]
    titles += [{"name": "distance", "title": "norm of the difference over the first's"}] if two else []
    return {"columns": titles, "rows": rows, "spread": len(_SPREAD), "size": [WIDTH, HEIGHT]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else 1e308 if value > 0 else None

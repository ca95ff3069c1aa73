"""The benchmark as a table: what was measured, how it spread, and which goals are reached."""

from __future__ import annotations

from llm_lab.results import Bench, BenchLine
from llm_lab.views.card import MUTED, bundle, card, esc, kept, number, table


def bench(result: Bench) -> dict[str, str]:
    """A row a figure, in the order of the parts."""
    facts = ["benchmark", *result.facts]
    rows: list[list[str | tuple[str, str]]] = []
    plain = [" · ".join(["doctor", *facts])]
    part = ""
    for line in result.lines:
        mark = {True: "reached", False: "<b>missed</b>", None: ""}[line.reached]
        what = esc(line.what) + (
            f'<br><span style="{MUTED};font-size:12px">{esc(line.note)}</span>' if line.note else ""
        )
        rows.append(
            [
                esc(line.part) if line.part != part else "",
                what,
                kept(_value(line)),
                kept(_spread(line)),
                kept(_goal(line)),
                mark,
            ]
        )
        part = line.part
        said = mark.replace("<b>", "").replace("</b>", "").upper() if line.reached is False else mark
        plain.append(
            f"  {line.part:<10} {line.what:<58} {_value(line):>14} {_spread(line):<16} {_goal(line):<9} {said}".rstrip()
        )
        plain += [f"  {'':<10}   {line.note}"] if line.note else []
    caption = "<br>".join(map(esc, result.notes))
    page = card(
        "doctor",
        facts,
        table(["", "what", "median", "quartiles", "goal", ""], rows, left=(0, 1, 3, 5)),
        caption=caption,
    )
    return bundle("\n".join([*plain, *result.notes]), page)


def _value(line: BenchLine) -> str:
    if line.value is None:
        return "–"
    return _said(line.value, line.unit)


def _said(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "nats":
        return f"{value:.4f} nats"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else number(value, 3)
    return f"× {shown}" if unit == "×" else f"{shown} {unit}"


def _spread(line: BenchLine) -> str:
    if line.low is None or line.high is None:
        return ""
    low, high = (_said(v, line.unit).removeprefix("× ").removesuffix(f" {line.unit}") for v in (line.low, line.high))
    return f"{low} to {high}"


def _goal(line: BenchLine) -> str:
    return "" if line.goal is None else ("≥ " if line.least else "≤ ") + _said(line.goal, line.unit).removeprefix("× ")

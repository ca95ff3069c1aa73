"""Models side by side by how they were trained: a table, their validation curves, and the options that differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llm_lab.results import RunComparison, RunFacts
from llm_lab.views import curves
from llm_lab.views.bundle import live
from llm_lab.views.card import bundle, card, clip, clock, columns, esc, number, picture, si, small, table, visible

# A fact of each model: its heading, what it is, how it is written (None for text), and which is better.
FACTS: tuple[tuple[str, Callable[[RunFacts], Any], Callable[[Any], str] | None, str], ...] = (
    ("model", lambda one: one.name, None, ""),
    ("preset", lambda one: one.preset, None, ""),
    ("parameters", lambda one: one.parameters, si, ""),
    ("corpus", lambda one: one.corpus, None, ""),
    ("objective", lambda one: one.objective, None, ""),
    ("steps", lambda one: one.steps, lambda n: f"{n:,}", ""),
    ("tokens", lambda one: one.tokens, si, ""),
    ("time", lambda one: one.seconds, clock, "low"),
    ("tokens/s", lambda one: one.tokens_per_second, si, "high"),
    ("train loss", lambda one: one.train_loss, number, "low"),
    ("val loss", lambda one: one.val_loss, number, "low"),
    ("bits/byte", lambda one: one.bits_per_byte, number, "low"),
)
CURVES = 12  # that are drawn
LONG = 60  # characters of an option's value
WATCHED = 60  # numbers that were watched


def comparison(result: RunComparison) -> dict[str, str]:
    """The table, the curves, the options that differ."""
    names = [one.name for one in result.models]
    values = [[_value(fact(one)) for _, fact, _, _ in FACTS] for one in result.models]
    shown = [[_shown(value, show) for value, (_, _, show, _) in zip(row, FACTS, strict=True)] for row in values]
    lefts = [i for i, (_, _, show, _) in enumerate(FACTS) if show is None]
    still = table([head for head, *_ in FACTS], [[esc(visible(cell)) for cell in row] for row in shown], left=lefts)
    data = {
        "label": "How the models were trained",
        "columns": [{"name": head, "text": show is None, "better": better} for head, _, show, better in FACTS],
        "rows": [
            {"shown": [visible(cell) for cell in row], "values": own} for row, own in zip(shown, values, strict=True)
        ],
    }
    differ = [
        [esc(name), *(esc(visible(clip("–" if value is None else str(value), LONG))) for value in each)]
        for name, each in result.differ.items()
    ]
    drawn = [(one.name, one.val) for one in result.models if any(math.isfinite(p[2]) for p in one.val)]
    body = live("sorting", still, data)
    body += columns(
        ("3 1 400px", small("validation loss, by step", 10) + _chart(drawn[:CURVES]) if drawn else ""),
        ("2 1 320px", small("options that differ", 10) + table(["option", *map(esc, names)], differ) if differ else ""),
    )
    watched = list(dict.fromkeys(name for one in result.models for name in one.watched))[:WATCHED]
    seen = [[name, *(number(one.watched.get(name)) for one in result.models)] for name in watched]
    if seen:
        cells = [[esc(visible(clip(cell, LONG))) for cell in row] for row in seen]
        body += small("watched, at last", 10) + table(["", *map(esc, names)], cells)
    caption = "Train loss: of the last step. Val loss and bits per byte: over the whole held-out text. "
    caption += "Curves: on the slice of it that was read meanwhile, in each run's own unit."
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    title = clip(", ".join(names), 80)
    plain = [f"{title} · compare · {len(names)} runs", *_lines([[head for head, *_ in FACTS], *shown])]
    plain += _lines([[name, *map(str, each)] for name, each in result.differ.items()])
    plain += _lines(seen)
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), card(title, ["compare", f"{len(names)} runs"], body, caption=caption))


def _value(value: Any) -> float | str | None:
    """What a cell is sorted by."""
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    return value if value is None else visible(str(value))


def _shown(value: float | str | None, show: Callable[[Any], str] | None) -> str:
    if value is None:
        return "–"
    return clip(str(value), 40) if show is None else show(value)


def _chart(drawn: list[tuple[str, list[tuple[int, float, float]]]]) -> str:
    alt = "validation loss of each run at its end: " + ", ".join(f"{name} {number(c[-1][2])}" for name, c in drawn)
    return picture(curves.validations(drawn), alt, curves.WIDTH, curves.HEIGHT)


def _lines(rows: list[list[str]]) -> list[str]:
    rows = [[clip(cell, 24, 1) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]

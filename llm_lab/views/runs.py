"""Runs: those that are here, as a table; and models side by side by how they were trained, with their curves and the
options that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from llm_lab.results import RunComparison, RunFacts, RunRow, RunTable
from llm_lab.views import curves
from llm_lab.views.bundle import live
from llm_lab.views.card import bundle, card, clip, clock, columns, esc, number, picture, si, size, small, table, visible
from llm_lab.views.curves import Curve

# A fact of each model: its heading, what it is, how it is written (None for text), and which is better.
FACTS: tuple[tuple[str, Callable[[RunFacts], Any], Callable[[Any], str] | None, str], ...] = (
    ("model", lambda one: one.name, None, ""),
    ("run", lambda one: one.run or None, None, ""),
    ("status", lambda one: one.status or None, None, ""),
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
# A column of the table of runs: its heading, how it is written, what it is sorted by, and which is better.
LISTED: tuple[tuple[str, Callable[[RunRow], str], Callable[[RunRow], Any], str], ...] = (
    ("name", lambda one: one.name, lambda one: one.name, "text"),
    ("run", lambda one: one.run, lambda one: one.run, "text"),
    ("from", lambda one: _parent(one), lambda one: _parent(one) or None, "text"),
    ("status", lambda one: _status(one), lambda one: _status(one), "text"),
    ("corpus", lambda one: one.corpus or "–", lambda one: one.corpus, "text"),
    ("parameters", lambda one: _or_dash(one.parameters, si), lambda one: one.parameters, ""),
    ("steps", lambda one: _or_dash(one.steps, lambda n: f"{n:,}"), lambda one: one.steps, ""),
    ("held-out loss", lambda one: number(one.loss), lambda one: one.loss, "low"),
    ("when", lambda one: _moment(one.when), lambda one: one.when, ""),
    ("size", lambda one: size(one.size), lambda one: one.size, ""),
    (
        "where",
        lambda one: one.folder if one.elsewhere else "",
        lambda one: one.folder if one.elsewhere else None,
        "text",
    ),
)
RUNS = 150  # that are drawn
CURVES = 12  # that are drawn
LONG = 60  # characters of an option's value
WATCHED = 60  # numbers that were watched


def runs(result: RunTable) -> dict[str, str]:
    """The runs in the order that they come in; what no run has is no column."""
    shown = result.rows[:RUNS]
    needed = {"from": any(one.parent for one in shown), "where": any(one.elsewhere for one in shown)}
    parts = [part for part in LISTED if needed.get(part[0], True)]
    cells = [[_cell(write(one), head) for head, write, _, _ in parts] for one in shown]
    lefts = {i for i, (*_, kind) in enumerate(parts) if kind == "text"}
    still = table(
        [head for head, *_ in parts],
        [
            [(esc(cell), _WRAP if parts[i][0] == "where" else "white-space:nowrap") for i, cell in enumerate(row)]
            for row in cells
        ],
        left=lefts,
    )
    data = {
        "label": "Runs",
        "columns": [
            {"name": head, "text": kind == "text", "better": kind if kind == "low" else "high", "wrap": head == "where"}
            for head, _, _, kind in parts
        ],
        "rows": [
            {"shown": row, "values": [_value(value(one)) for _, _, value, _ in parts]}
            for row, one in zip(cells, shown, strict=True)
        ],
    }
    whole = sum(one.size for one in result.rows)
    facts = [f"{len(result.rows):,} runs" if len(result.rows) != 1 else "1 run", size(whole), f"in {result.store}"]
    facts[1] += f"; {size(result.free)} free" if result.free is not None else ""
    more = (
        f"The first {RUNS} of {len(result.rows):,} are shown; lab.runs() has all. " if len(result.rows) > RUNS else ""
    )
    caption = f"{more}Loss in nats per token over the whole held-out text. A model comes back by its name or run: lab.load(name)."
    if not result.rows:
        caption = "" if result.notes else "There is no run yet; %%pretrain bard makes one."
    lines = [caption, *result.notes] if caption else result.notes
    page = card("runs", facts, live("sorting", still, data) if shown else "", caption="<br>".join(map(esc, lines)))
    plain = [
        " · ".join(["runs", *facts]),
        *(_lines([[head for head, *_ in parts], *cells], 60) if shown else []),
        *lines,
    ]
    return bundle("\n".join(plain), page)


_WRAP = "overflow-wrap:anywhere;min-width:8em"


def _cell(text: str, head: str) -> str:
    return visible(clip(text, 300 if head == "where" else 40)) if text else ""


def _parent(one: RunRow) -> str:
    """What a run was forked from: "bard 3f2a9c@500"."""
    step = "" if one.parent_step is None else f"@{one.parent_step}"
    return f"{one.parent_name or ''} {one.parent}{step}".strip() if one.parent else ""


def _status(one: RunRow) -> str:
    """Its status, and of one that is not over how far it came: "paused at 812 of 2,000"."""
    if one.status in ("finished", "failed") or one.steps is None:
        return one.status
    done = f"{one.status} at {one.steps:,}"
    if one.planned_steps:
        return f"{done} of {one.planned_steps:,}"
    if one.planned_seconds and one.seconds is not None:
        return f"{done}, {clock(one.seconds)} of {clock(one.planned_seconds)}"
    return done


def _moment(seconds: float | None) -> str:
    """A time of this machine's clock, to the minute."""
    try:
        return "–" if seconds is None else f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
    except (OverflowError, OSError, ValueError):
        return "–"


def _or_dash(value: Any, write: Callable[[Any], str]) -> str:
    return "–" if value is None else write(value)


def comparison(result: RunComparison) -> dict[str, str]:
    """The table, the curves, the options that differ."""
    told = [one.name for one in result.models]
    names = [f"{one.name} {one.run}" if told.count(one.name) > 1 and one.run else one.name for one in result.models]
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
        [name, *("–" if value is None else clip(str(value), LONG) for value in each)]
        for name, each in result.differ.items()
    ]
    cells = [[esc(visible(cell)) for cell in row] for row in differ]
    finite = [
        (n, [p for p in one.train if math.isfinite(p[2])], [p for p in one.val if math.isfinite(p[2])])
        for n, one in zip(names, result.models, strict=True)
    ]
    drawn = [one for one in finite if one[1] or one[2]]
    body = live("sorting", still, data)
    body += columns(
        (
            "3 1 400px",
            small("loss by step: training faint, validation dotted", 10) + _chart(drawn[:CURVES]) if drawn else "",
        ),
        ("2 1 320px", small("options that differ", 10) + table(["option", *map(esc, names)], cells) if differ else ""),
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
    plain += _lines([["option", *names], *differ]) if differ else []
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


def _chart(drawn: Sequence[tuple[str, Curve, Curve]]) -> str:
    ends = (f"{name} {number((val or train)[-1][2])}" for name, train, val in drawn)
    alt = "loss of each run at its end, of validation where there is one: " + ", ".join(ends)
    return picture(curves.overlaid(drawn), alt, curves.WIDTH, curves.HEIGHT)


def _lines(rows: list[list[str]], most: int = 24) -> list[str]:
    rows = [[clip(cell, most, 1) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]

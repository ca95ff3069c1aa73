"""Strategies side by side: a table of what they measure, a chart of likely against varied, and what each wrote."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_lab.results import Compared, Comparison
from llm_lab.views import beams, svg
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    BREAK,
    MONO,
    bundle,
    card,
    clip,
    columns,
    esc,
    fitting,
    number,
    readable,
    si,
    small,
    table,
    visible,
)

WIDTH, HEIGHT = 400, 250
ROWS = 60  # of the static table
TEXTS = 40  # shown in full there; of more, the first of each row
LENGTH = 600  # characters of one of them
ROOM = 80_000  # characters of all texts in the script layer
TREES = 90_000  # bytes of all pictures of beams


@dataclass(frozen=True)
class Measure:
    """A column of numbers: which of a cell's, how it is written, what more of it means, which is better, its span."""

    key: str
    name: str
    show: Callable[[float], str]
    about: str
    more: str
    better: str = ""
    range: tuple[float, float] | None = None


def _digits(n: int) -> Callable[[float], str]:
    return lambda value: number(value, n)


# Hyphens that no line is broken at.
MEASURES = (
    Measure("logprob", "log\u2011prob", _digits(3), "nats per token, by the model itself", "likelier", "high"),
    Measure("entropy", "entropy", _digits(3), "of the model's distributions, nats per token", "less sure"),
    Measure("distinct_1", "distinct\u20111", _digits(2), "different tokens over all", "more varied", "high", (0, 1)),
    Measure("distinct_2", "distinct\u20112", _digits(2), "different pairs over all", "more varied", "high", (0, 1)),
    Measure("repetition", "repeated", _digits(2), "groups of four that came before", "repeats more", "low", (0, 1)),
    Measure("self_bleu", "self\u2011BLEU", _digits(2), "likeness of a row's texts", "more alike", "low", (0, 100)),
    Measure("tokens_per_second", "tokens/s", si, "as they were written here", "faster", "high"),
)
UP, ACROSS = 0, 3  # of the chart: likely against varied


def comparison(result: Comparison) -> dict[str, str]:
    """The numbers, the chart, the texts."""
    several = len(result.models) > 1
    named = [f"{_named(cell.strategy)} · {cell.model}" if several else _named(cell.strategy) for cell in result.cells]
    return bundle(_plain(result, named), fitting(_page(result, named, share) for share in (1, 4, 16)))


def _page(result: Comparison, named: Sequence[str], share: int) -> str:
    """The card, its texts and pictures cut to a share of what they may take."""
    cells, prompts = result.cells, len(result.prompts)
    wanted = len(result.models) * len(result.strategies) * prompts
    facts = ["compare", ", ".join(result.models), _counted(result)]
    facts += [f"{prompts} prompts"] if prompts > 1 else []
    facts += [f"{cells[0].n_tokens // max(len(cells[0].texts), 1):,} tokens" if cells else ""]
    caption = (
        "Log-prob and entropy: nats per token, by the model itself at temperature 1. Distinct: different tokens, and "
        "pairs of tokens, over all. Repeated: share of the groups of four that a text had before. Self-BLEU: how alike "
        "the texts of one row are, 100 for the same."
    )
    hint = "" if result.done else f"writing… {len(cells)} of {wanted} · ■ keeps what is there"
    notes = list(result.notes)
    trees = _trees(cells, named, TREES // share if result.done else 0, notes)
    body = columns(
        ("1 1 290px", _chart(cells, named) if cells else ""),
        ("3 1 640px", _table(result, named)),
    )
    body += _texts(result, named, trees)
    if len(cells) > ROWS:
        body += small(f"The first {ROWS} of {len(cells)} rows; .to_pandas() has all.")
    if result.done and cells:
        data, cut = _data(result, named, trees, ROOM // share)
        body = live("comparison", body, data)
        notes += [f"texts are cut to {cut:,} characters here; .to_pandas() has them whole"] if cut else []
    caption += "".join(f"<br>{esc(note)}" for note in notes)
    return card(", ".join(result.models), facts, body, caption=caption, hint=hint, done=result.done)


def _table(result: Comparison, named: Sequence[str]) -> str:
    several = len(result.prompts) > 1
    heads = ["strategy", *(["prompt"] if several else []), *(measure.name for measure in MEASURES)]
    rows = [
        [
            esc(name),
            *([esc(visible(clip(result.prompts[cell.prompt], 24, 1)))] if several else []),
            *(measure.show(getattr(cell, measure.key)) for measure in MEASURES),
        ]
        for name, cell in list(zip(named, result.cells, strict=True))[:ROWS]
    ]
    return table(heads, rows, left=range(len(heads) - len(MEASURES)))


def _trees(cells: Sequence[Compared], named: Sequence[str], room: int, notes: list[str]) -> dict[int, beams.Picture]:
    """The pictures of beam searches that there is room for, by the number of their cell; others are noted."""
    found: dict[int, beams.Picture] = {}
    for i, cell in enumerate(cells):
        picture = beams.picture(cell.beams) if room else None
        if picture is None:
            continue
        room -= len(picture.svg)
        if room < 0:
            notes.append(f"the beams of {named[i]} and those after it are not drawn; %generate draws them")
            break
        found[i] = picture
    return found


def _data(
    result: Comparison, named: Sequence[str], trees: Mapping[int, beams.Picture], room: int
) -> tuple[dict[str, Any], int]:
    """What the script layer shows, and the length that texts were cut to, 0 where all are whole."""
    count = sum(len(cell.texts) for cell in result.cells)
    most = max(room // max(count, 1), 200)  # characters of a text
    each = max(room // most // max(len(result.cells), 1), 1)  # texts of a row
    rows = []
    for i, (name, cell) in enumerate(zip(named, result.cells, strict=True)):
        values = [float(getattr(cell, measure.key)) for measure in MEASURES]
        picture = trees.get(i)
        rows.append(
            {
                "name": visible(name),
                "model": visible(cell.model),
                "prompt": cell.prompt,
                "about": visible(_about(cell)),
                "notes": [visible(note) for note in cell.notes],
                "shown": [measure.show(value) for measure, value in zip(MEASURES, values, strict=True)],
                "values": [float(f"{value:.5g}") if math.isfinite(value) else None for value in values],
                "texts": [readable(clip(text, most), BREAK) for text in cell.texts[:each]],
                "first": visible(clip(cell.texts[0].strip(), 60)) if cell.texts else "",
                "left": len(cell.texts[each:]),
                "beams": vars(picture) if picture is not None else None,
            }
        )
    cut = any(len(text) > most for cell in result.cells for text in cell.texts)
    return {
        "measures": [
            {"name": one.name, "title": one.about, "more": one.more, "better": one.better, "range": one.range}
            for one in MEASURES
        ],
        "rows": rows,
        "prompts": [visible(clip(prompt, 60)) for prompt in result.prompts],
        "models": [visible(name) for name in result.models],
        "axes": [ACROSS, UP],
    }, most if cut else 0


def _counted(result: Comparison) -> str:
    count = len(result.strategies)
    return f"{count} strateg{'ies' if count != 1 else 'y'}"


def _named(strategy: str) -> str:
    """A strategy with its options, in words: "top_p, p 0.5", "temperature 1.5"."""
    name, *options = strategy.split(":")
    words = [option.strip().removeprefix(f"{name}_").replace("=", " ", 1) for option in options]
    if words and words[0].startswith(f"{name} "):
        return ", ".join(words)
    return ", ".join([name, *words])


def _about(cell: Compared) -> str:
    """All that was set, the seed, and how much was written."""
    options = [f"{name} {clip(_word(value), 200)}" for name, value in cell.options.items() if value is not None]
    texts = f"{len(cell.texts)} text{'s' * (len(cell.texts) != 1)}, {cell.n_tokens:,} tokens"
    return ", ".join([*options, f"seed {cell.seed}", texts])


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _texts(result: Comparison, named: Sequence[str], trees: Mapping[int, beams.Picture]) -> str:
    """What was written, strategy by strategy, prompts set apart; how it was set stands above it."""
    many = sum(len(cell.texts) for cell in result.cells) > TEXTS
    page = ""
    for at, prompt in enumerate(result.prompts):
        rows: list[tuple[str | tuple[str, str], ...]] = []
        for i, (name, cell) in enumerate(list(zip(named, result.cells, strict=True))[:ROWS]):
            if cell.prompt != at:
                continue
            texts = cell.texts[:1] if many else cell.texts
            shown = small("".join(f"{esc(line)}<br>" for line in [_about(cell), *cell.notes]))
            shown += "".join(
                f'<pre style="{MONO};font-size:12px;line-height:1.5;margin:0 0 5px;padding:0">{esc(readable(clip(text, LENGTH), BREAK))}</pre>'
                for text in texts
            )
            shown += beams.boxed(trees[i]) if i in trees else ""
            rows.append((esc(name), (shown, "width:85%;max-width:0")))  # so that a wide picture scrolls, not the table
        if rows:
            page += small(f"after “{esc(visible(clip(prompt, 120, 1)))}”", 10) + table(
                ["strategy", "writes"], rows, left=(0, 1)
            )
    return page


def _chart(cells: Sequence[Compared], named: Sequence[str]) -> str:
    """Each strategy as a point: how varied (distinct-2) across, how likely (log-prob) up; means over prompts."""
    points: dict[str, list[Compared]] = {}
    for name, cell in zip(named, cells, strict=True):
        if math.isfinite(cell.logprob) and math.isfinite(cell.distinct_2):
            points.setdefault(name, []).append(cell)
    if not points:
        return ""
    across = {name: sum(c.distinct_2 for c in own) / len(own) for name, own in points.items()}
    up = {name: sum(c.logprob for c in own) / len(own) for name, own in points.items()}
    low, high = _span(list(up.values()))
    left, bottom, top, right = 46, HEIGHT - 34, 14, WIDTH - 14

    def place(name: str) -> tuple[float, float]:
        return left + across[name] * (right - left), bottom - (up[name] - low) / (high - low) * (bottom - top)

    body = ""
    steps = svg.ticks(low, high, 4)
    for value in steps:
        y = bottom - (value - low) / (high - low) * (bottom - top)
        label = svg.tick_label(value, steps[1] - steps[0] if len(steps) > 1 else 1.0)
        body += f'<path class="l" d="M{left} {y:.1f}H{right}"/>' + svg.text(left - 6, y + 4, label, anchor="end")
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + value * (right - left)
        body += f'<path class="l" d="M{x:.1f} {top}V{bottom}"/>' + svg.text(
            x, bottom + 14, f"{value:g}", anchor="middle"
        )
    body += svg.text(
        (left + right) / 2, HEIGHT - 5, f"{MEASURES[ACROSS].name}: {MEASURES[ACROSS].more} →", anchor="middle"
    )
    body += svg.text(
        12,
        (top + bottom) / 2,
        f"{MEASURES[UP].name}: {MEASURES[UP].more} →",
        anchor="middle",
        more=f'transform="rotate(-90 12 {(top + bottom) / 2:.0f})"',
    )
    taken: list[tuple[float, float]] = []
    for name in sorted(points, key=lambda one: place(one)[1]):
        x, y = place(name)
        label = clip(name, 30)
        end = x + 9 + svg.width_of(label, 6.2) > WIDTH  # no room on the right
        ty = y + 4
        while any(abs(ty - other) < 12 and abs(x - at) < 150 for at, other in taken):
            ty += 12
        taken.append((x, ty))
        body += f'<circle class="bf" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        body += svg.text(x - 9 if end else x + 9, min(ty, bottom - 2), label, "t", "end" if end else "start")
    picture = base64.b64encode(svg.document(WIDTH, HEIGHT, body).encode()).decode()
    alt = "; ".join(f"{name}: log-prob {number(up[name], 3)}, distinct-2 {number(across[name], 2)}" for name in points)
    return f'<img src="data:image/svg+xml;base64,{picture}" alt="{esc(alt)}" width="{WIDTH}" height="{HEIGHT}" style="width:100%;max-width:{WIDTH * 1.2:.0f}px;height:auto">'


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max((high - low) * 0.12, 0.05)
    return low - room, high + room


def _plain(result: Comparison, named: Sequence[str]) -> str:
    lines = [f"compare · {', '.join(result.models)} · {_counted(result)}"]
    lines += [f"  {'strategy':<28} log-prob  entropy  distinct-1  distinct-2  repeated  self-BLEU  tokens/s"]
    lines += [
        f"  {clip(name, 28):<28} {number(c.logprob, 3):>8}  {number(c.entropy, 3):>7}  {number(c.distinct_1, 2):>10}"
        f"  {number(c.distinct_2, 2):>10}  {number(c.repetition, 2):>8}  {number(c.self_bleu, 2):>9}  {si(c.tokens_per_second):>8}"
        for name, c in zip(named, result.cells, strict=True)
    ]
    for name, cell in zip(named, result.cells, strict=True):
        lines += [f"  {name}: {visible(clip(cell.texts[0], 160))}"] if cell.texts else []
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])

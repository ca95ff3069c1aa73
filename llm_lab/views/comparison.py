"""Strategies side by side: a table of what they measure, a chart of likely against varied, and what each wrote."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

from llm_lab.results import Compared, Comparison
from llm_lab.views import svg
from llm_lab.views.card import MONO, bundle, card, clip, columns, esc, number, si, small, table, visible

WIDTH, HEIGHT = 400, 250
TEXTS = 40  # shown in full; of more, the first of each cell
LENGTH = 600  # characters of one text


def comparison(result: Comparison) -> dict[str, str]:
    """The numbers, the chart, the texts."""
    cells = result.cells
    several = len(result.models) > 1
    named = [f"{_named(cell.strategy)} · {cell.model}" if several else _named(cell.strategy) for cell in cells]
    prompts = len(result.prompts)
    heads = ["strategy", *(["prompt"] if prompts > 1 else [])]
    # Hyphens that no line is broken at.
    heads += [
        "log\u2011prob",
        "entropy",
        "distinct\u20111",
        "distinct\u20112",
        "repeated",
        "self\u2011BLEU",
        "tokens/s",
    ]
    rows = [
        [
            f'<span title="{esc(_options(cell))}">{esc(name)}</span>',
            *([esc(visible(clip(result.prompts[cell.prompt], 24, 1)))] if prompts > 1 else []),
            number(cell.logprob, 3),
            number(cell.entropy, 3),
            number(cell.distinct_1, 2),
            number(cell.distinct_2, 2),
            number(cell.repetition, 2),
            number(cell.self_bleu, 2),
            si(cell.tokens_per_second),
        ]
        for name, cell in zip(named, cells, strict=True)
    ]
    wanted = len(result.models) * len(result.strategies) * prompts
    facts = ["compare", ", ".join(result.models), f"{len(result.strategies)} strategies"]
    facts += [f"{prompts} prompts"] if prompts > 1 else []
    facts += [f"{cells[0].n_tokens // max(len(cells[0].texts), 1):,} tokens" if cells else ""]
    body = columns(
        ("1 1 290px", _chart(cells, named) if cells else ""),
        ("3 1 640px", table(heads, rows, left=range(len(heads) - 7))),
    )
    body += _texts(result, named)
    caption = (
        "Log-prob and entropy: nats per token, by the model itself at temperature 1. Distinct: different tokens, and "
        "pairs of tokens, over all. Repeated: share of the groups of four that a text had before. Self-BLEU: how alike "
        "the texts of one row are, 100 for the same."
    )
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    hint = "" if result.done else f"writing… {len(cells)} of {wanted}"
    page = card(", ".join(result.models), facts, body, caption=caption, hint=hint)
    return bundle(_plain(result, named), page)


def _named(strategy: str) -> str:
    """A strategy with its options, in words: "top_p, p 0.5", "temperature 1.5"."""
    name, *options = strategy.split(":")
    words = [option.strip().removeprefix(f"{name}_").replace("=", " ", 1) for option in options]
    if words and words[0].startswith(f"{name} "):
        return ", ".join(words)
    return ", ".join([name, *words])


def _options(cell: Compared) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.options.items()) + f", seed {cell.seed}"


def _texts(result: Comparison, named: Sequence[str]) -> str:
    """What was written, strategy by strategy, prompts set apart."""
    many = sum(len(cell.texts) for cell in result.cells) > TEXTS
    page = ""
    for i, prompt in enumerate(result.prompts):
        rows = []
        for name, cell in zip(named, result.cells, strict=True):
            if cell.prompt != i:
                continue
            texts = cell.texts[:1] if many else cell.texts
            shown = "".join(
                f'<pre style="{MONO};font-size:12px;line-height:1.5;margin:0 0 5px;padding:0">{esc(_visible(clip(text, LENGTH)))}</pre>'
                for text in texts
            )
            rows.append([esc(name), shown])
        if rows:
            page += small(f"after “{esc(visible(clip(prompt, 120, 1)))}”", 10) + table(
                ["strategy", "writes"], rows, left=(0, 1)
            )
    return page


def _visible(text: str) -> str:
    return "\n".join(visible(line) if line else "" for line in text.split("\n"))


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
    body += svg.text((left + right) / 2, HEIGHT - 5, "distinct-2: more varied →", anchor="middle")
    body += svg.text(
        12,
        (top + bottom) / 2,
        "log-prob: likelier →",
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
    lines = [f"compare · {', '.join(result.models)} · {len(result.strategies)} strategies"]
    lines += [f"  {'strategy':<28} log-prob  entropy  distinct-1  distinct-2  repeated  self-BLEU  tokens/s"]
    lines += [
        f"  {clip(name, 28):<28} {number(c.logprob, 3):>8}  {number(c.entropy, 3):>7}  {number(c.distinct_1, 2):>10}"
        f"  {number(c.distinct_2, 2):>10}  {number(c.repetition, 2):>8}  {number(c.self_bleu, 2):>9}  {si(c.tokens_per_second):>8}"
        for name, c in zip(named, result.cells, strict=True)
    ]
    for name, cell in zip(named, result.cells, strict=True):
        lines += [f"  {name}: {visible(clip(cell.texts[0], 160))}"] if cell.texts else []
    return "\n".join([*lines, *(f"  {note}" for note in result.notes)])

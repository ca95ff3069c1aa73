"""Every head as a row of numbers with the name that follows from them, and each score as a small map; it computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_lab.results import HeadTable
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import bar, bundle, card, esc, fitting, number, picture, small, table
from llm_lab.views.heatmap import shade

ROWS = 40  # of the static table
WIDTH, CELL, LEAST = 1040.0, 16.0, 6.0
TALLEST = 300.0  # pixels of a map

SHOWN = {  # in the order that they stand in: what a column is called, and what it is
    "induction": ("induction", "attention to the token after the earlier occurrence of this one, on repeats"),
    "duplicate_token": ("duplicate", "attention to the earlier occurrence of this token, on repeats"),
    "previous_token": ("previous", "attention to the token before"),
    "next_token": ("next", "attention to the token after"),
    "first_token": ("first", "attention to the first token"),
    "self": ("itself", "attention to the token itself"),
    "near": ("near", "attention to tokens at most four away, itself included"),
    "entropy": ("entropy", "of the attention of one query, bits"),
    "distance": ("distance", "to what is read, mean, tokens"),
}
PLAIN = ("entropy", "distance")  # no shares of attention


def heads(result: HeadTable) -> dict[str, str]:
    """The maps of the scores, and a table that sorts."""
    layers, count = result.shape
    facts = ["heads", f"{layers} layers × {count} heads", *([result.stack] if result.stack else []), *result.facts]
    names = [name for name in SHOWN if name in result.scores]
    every = [(i, j) for i in range(layers) for j in range(count)]
    at = every
    if len(every) > ROWS:  # those that have a name of their own first
        at = sorted(every, key=lambda ij: (result.roles[ij[0]][ij[1]][0] in ("broad", "local", "mixed"), ij))[:ROWS]
    drawn = _maps(result, [name for name in names if name not in PLAIN])
    image = picture(drawn["svg"], drawn["alt"], drawn["width"], drawn["height"])
    caption = "".join(f"{esc(line)}<br>" for line in [result.caption, *result.notes] if line).removesuffix("<br>")

    def page(rows: int, script: bool) -> str:
        body = small("Each square is a head: layers down, heads across; 1 is full.") + image
        body += _table(result, names, at[:rows])
        if rows < len(every):
            body += small(
                f"{min(rows, len(at))} of {len(every):,} heads, those with a name first; .to_pandas() has all."
            )
        if script:
            body = live("heads", body, _data(result, names, every, drawn))
        return card(result.name, facts, body, caption=caption)

    plain = [" · ".join([result.name, *facts])]
    named: dict[str, list[str]] = {}
    for i, j in every:
        named.setdefault(", ".join(result.roles[i][j]), []).append(f"{i}.{j}")
    plain += [f"  {role}: {', '.join(where[:16])}{' …' * (len(where) > 16)}" for role, where in named.items()]
    best = {name: max(every, key=lambda ij: float(result.scores[name][ij])) for name in names if name not in PLAIN}
    plain += [
        f"  most {SHOWN[name][0]}: layer {i} head {j}, {number(float(result.scores[name][i, j]), 2)}"
        for name, (i, j) in best.items()
    ]
    plain += [f"  {note}" for note in result.notes]
    pages = (page(*size) for size in ((ROWS, True), (12, True), (ROWS, False)))
    return bundle("\n".join(plain), fitting(pages))


def _table(result: HeadTable, names: list[str], at: list[tuple[int, int]]) -> str:
    rows: list[list[str | tuple[str, str]]] = [
        [
            f"{i}.{j}",
            esc(", ".join(result.roles[i][j])),
            *(_cell(name, float(result.scores[name][i, j]), result.chance) for name in names),
        ]
        for i, j in at
    ]
    rows.append(["chance", "reads all evenly", *(_written(name, result.chance[name]) for name in names)])
    return table(["head", "seems to be", *(SHOWN[name][0] for name in names)], rows, left=(0, 1), total=True)


def _cell(name: str, value: float, chance: Mapping[str, float]) -> str | tuple[str, str]:
    if name == "distance":
        return _written(name, value)
    return _written(name, value), bar(value / (chance[name] or 1.0) if name == "entropy" else value)


def _written(name: str, value: float) -> str:
    return number(value, 3) if name in PLAIN else f"{value:.2f}"


def _data(result: HeadTable, names: list[str], every: list[tuple[int, int]], drawn: dict[str, Any]) -> dict[str, Any]:
    """What static/heads.js needs."""
    return {
        "picture": drawn,
        "columns": [{"name": SHOWN[name][0], "title": SHOWN[name][1]} for name in names],
        "chance": [_written(name, result.chance[name]) for name in names],
        "rows": [
            {
                "layer": i,
                "head": j,
                "roles": list(result.roles[i][j]),
                "shown": [_written(name, float(result.scores[name][i, j])) for name in names],
                "values": [float(f"{float(result.scores[name][i, j]):.5g}") for name in names],
                "full": [_full(name, float(result.scores[name][i, j]), result.chance) for name in names],
            }
            for i, j in every
        ],
    }


def _full(name: str, value: float, chance: Mapping[str, float]) -> float:
    """How far the bar of a cell goes, 0 to 1."""
    if name == "distance":
        return 0.0
    return round(min(max(value / (chance[name] or 1.0) if name == "entropy" else value, 0.0), 1.0), 3)


def _maps(result: HeadTable, names: list[str]) -> dict[str, Any]:
    """Each score as a map of layers × heads."""
    layers, count = result.shape
    left, gap, top = 16, 14, 30
    cell = max(LEAST, min(CELL, TALLEST / layers, (WIDTH / len(names) - left - gap) / count))
    wide = max(cell * count, 62.0) + left + gap
    across = max(1, min(len(names), int((WIDTH + 1) // wide)))
    high = top + cell * layers + 8
    body = ""
    for n, name in enumerate(names):
        band, place = divmod(n, across)
        x, y = left + place * wide, band * high + top
        body += svg.text(x, y - 16, SHOWN[name][0], "t")
        body += svg.shades(shade(result.scores[name], (0.0, 1.0), False), x, y, cell * count, cell * layers)
        body += f'<rect class="l" x="{x:g}" y="{y:g}" width="{cell * count:g}" height="{cell * layers:g}"/>'
        size = 'style="font-size:9px"'
        for i in range(0, layers, max(1, round(10 / cell))):
            body += svg.text(x - 4, y + (i + 0.5) * cell + 3.5, i, "m", "end", size)
        for j in range(0, count, max(1, round(14 / cell))):
            body += svg.text(x + (j + 0.5) * cell, y - 4, j, "m", "middle", size)
    width, height = round(across * wide + 4), round(-(-len(names) // across) * high)
    alt = f"Maps of {', '.join(SHOWN[name][0] for name in names)}: {layers} layers down, {count} heads across"
    return {"svg": svg.document(width, height, body), "alt": alt, "width": width, "height": height}

"""Units of a model with the passages that they answer to: a table to choose from, one unit enlarged; it computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llm_lab.results import Passage, Passages, Piece, Unit
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    MONO,
    alone,
    bar,
    bundle,
    card,
    columns,
    esc,
    figures,
    fitting,
    is_rtl,
    number,
    readable,
    small,
    table,
    visible,
)
from llm_lab.views.scores import LEVELS, ground

if TYPE_CHECKING:
    import numpy as np

UNITS, ENLARGED = 60, 3  # that are drawn; that stand enlarged in the static layer
LISTED = 24  # in its table
PASSAGES = 4  # of each, there
FIGURES = 3  # one below the other
PRE = f"{MONO};font-size:12px;line-height:1.6;margin:1px 0;padding:0;display:inline"


def passages(result: Passages) -> dict[str, str]:
    """The units in a table with their numbers; of the first ones, and of any that is chosen, passages and tokens."""
    facts = [result.kind, *result.facts]
    rows = [(readable(name, " "), value) for name, value in result.figures]
    together = columns(*(("1 1 240px", figures(rows[i : i + FIGURES])) for i in range(0, len(rows), FIGURES)))
    cut = _cut(result)
    caption = "<br>".join(esc(line) for line in [result.caption, *_meanings(result), *cut, *result.notes] if line)

    def pages() -> Iterator[str]:
        for units, most in ((UNITS, 50), (UNITS // 2, 16), (UNITS // 4, 8), (4, 4)):
            shown = result.units[:units]
            body = _still(result, shown)
            if shown and result.done:
                body = live("passages", body, *_payload(result, shown, most))
            yield card(result.name, facts, (together if rows else "") + body, caption=caption, done=result.done)

    plain = [" · ".join([result.name, *facts]), *(f"  {name:<34} {value}" for name, value in result.figures)]
    for unit in result.units[:LISTED]:
        tokens = ", ".join(alone(piece.text) for piece, _ in unit.tokens[:5])
        numbers = ", ".join(f"{name} {number(value, 3)}" for name, value in unit.stats.items())
        plain.append(f"  {unit.name}: {numbers}" + (f"; most at {tokens}" if tokens else ""))
        plain += ["    " + "".join(_marked(passage)) for passage in unit.passages[:1]]
    plain += [f"  {note}" for note in [*cut, *result.notes]]
    return bundle("\n".join(plain), fitting(pages()))


def _marked(passage: Passage) -> Iterator[str]:
    for t, piece in enumerate(passage.pieces):
        yield f"[{visible(piece.text)}]" if t == passage.peak else visible(piece.text)


def _meanings(result: Passages) -> list[str]:
    if not result.units:
        return []
    return ["Of each: " + "; ".join(f"“{name}”, {what}" for name, what in result.columns.items()) + "."]


def _cut(result: Passages) -> list[str]:
    if len(result.units) <= LISTED:
        return []
    return [f"Where no script runs, the first {LISTED} of {len(result.units):,} are listed; .to_pandas() has all."]


def _still(result: Passages, units: Sequence[Unit]) -> str:
    if not units:
        return ""
    first = max((float(unit.stats.get("largest", 0)) for unit in units), default=0) or 1.0
    rows: list[list[str | tuple[str, str]]] = [
        [
            f"<b>{esc(readable(unit.name, ' '))}</b>",
            *(
                (number(unit.stats[name], 3), bar(unit.stats[name] / first if name == "largest" else 0))
                for name in result.columns
            ),
            f'<span style="font-family:monospace">{_words(unit.tokens[:4])}</span>',
        ]
        for unit in units[:LISTED]
    ]
    listed = table(["", *map(esc, result.columns), "most active at"], rows, left=(0, len(result.columns) + 1))
    return listed + "".join(_enlarged(unit) for unit in units[:ENLARGED])


def _words(found: Sequence[tuple[Piece, float]]) -> str:
    return " ".join(f'<bdi title="{number(value, 3)}">{esc(alone(piece.text))}</bdi>' for piece, value in found)


def _enlarged(unit: Unit) -> str:
    scale = _scale(unit)
    rows: list[list[str | tuple[str, str]]] = [
        [(number(float(one.values[one.peak]), 3), "width:54px"), f'<pre style="{PRE}">{_shaded(one, scale)}</pre>']
        for one in unit.passages[:PASSAGES]
    ]
    told = [("raises", unit.promoted), ("lowers", unit.suppressed)]
    words = "".join(
        small(f'{name} &nbsp;<span style="font-family:monospace">{_words(found)}</span>')
        for name, found in told
        if found
    )
    head = small(f"<b>{esc(readable(unit.name, ' '))}</b>", 10)
    return head + table(["peak", "passage"], rows, left=(1,)) + words


def _scale(unit: Unit) -> float:
    """The largest size of an activation in a unit's passages."""
    return max((float(abs(one.values).max()) for one in unit.passages), default=0.0) or 1.0


def _shaded(passage: Passage, scale: float) -> str:
    """The passage with a ground for each run of tokens of one level; the peak is framed."""
    made, run, colour = "", "", "none"

    def close() -> str:
        return run if colour == "none" else f'<span style="background:{colour}">{run}</span>'

    for t, piece in enumerate(passage.pieces):
        shown = esc(visible(piece.text)) if t != passage.peak else ""
        if is_rtl(piece.text):
            shown = f"<bdi>{shown}</bdi>"
        value = float(passage.values[t])
        now = ground(round(value / scale * LEVELS / 2) * 2 / LEVELS, 1.0)
        if t == passage.peak:
            frame = f'<b style="background:{now};outline:1px solid rgba(224,123,26,.9)">{esc(visible(piece.text))}</b>'
            made, run, colour = made + close() + frame, "", "none"
        elif now != colour:
            made, run, colour = made + close(), shown, now
        else:
            run += shown
    return made + close()


def _payload(result: Passages, units: Sequence[Unit], most: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What static/passages.js needs: the units with their numbers; texts once each; activations as bytes of the scale."""
    import numpy as np

    tokens: dict[str, int] = {}  # each text of a token once
    shown: list[list[int]] = []

    def index(piece: Piece) -> int:
        return tokens.setdefault(visible(piece.text), len(tokens))

    def words(found: Sequence[tuple[Piece, float]]) -> list[list[Any]]:
        return [[alone(piece.text), number(value, 3)] for piece, value in found]

    levels: list[np.ndarray] = []
    data = []
    for unit in units:
        scale = _scale(unit)
        told = []
        for one in unit.passages[:most]:
            told.append([len(one.pieces), one.peak, one.position, number(float(one.values[one.peak]), 3)])
            shown.append([index(piece) for piece in one.pieces])
            levels.append(np.rint(np.clip(one.values / scale, -1, 1) * 127).astype(np.int8))
        data.append(
            {
                "name": readable(unit.name, " "),
                "shown": [number(unit.stats[name], 3) for name in result.columns],
                "values": [_finite(unit.stats[name]) for name in result.columns],
                "scale": scale,
                "passages": told,
                "tokens": words(unit.tokens),
                "raises": words(unit.promoted),
                "lowers": words(unit.suppressed),
            }
        )
    flat = np.array([i for row in shown for i in row], "<u4")
    values = np.concatenate([*levels, np.zeros(0, np.int8)])
    columns = [{"name": name, "title": what} for name, what in result.columns.items()]
    texts = list(tokens)
    rtl = [i for i, text in enumerate(texts) if is_rtl(text)]
    state = {"units": data, "columns": columns, "texts": texts, "rtl": rtl}
    return state, {"ids": flat.tobytes(), "levels": values.tobytes()}


def _finite(value: float) -> float | None:
    return float(value) if value == value and abs(value) != float("inf") else None

"""Nearest tokens of words and analogies as tables with bars; it computes nothing."""

from __future__ import annotations

from llm_lab.results import Neighbours, Piece
from llm_lab.views.card import bar, bundle, card, clip, columns, esc, number, table, visible

SHOWN = 24  # tables; .to_pandas() has the rest


def neighbours(result: Neighbours) -> dict[str, str]:
    """A table for each word or analogy, the nearest token first."""
    one, several = ("word", "words") if result.kind == "neighbours" else ("analogy", "analogies")
    facts = [
        result.kind,
        f"{len(result.asked):,} {one if len(result.asked) == 1 else several}",
        f"{result.n_tokens:,} vectors of {result.width:,} numbers",
    ]
    rows = list(zip(result.asked, result.pieces, result.similarity, strict=True))
    body = columns(*(("1 1 190px", _table(*row)) for row in rows[:SHOWN]))
    caption = (
        "The cosine of the angle between two vectors: 1 is the same direction, 0 a right angle. A bar is that, from 0."
    )
    if result.kind == "analogies":
        caption = "Nearest to the sum of the vectors, the three words themselves left out. " + caption
    more = [f"{len(rows) - SHOWN:,} more are in .to_pandas()"] if len(rows) > SHOWN else []
    notes = [*more, *result.notes]
    page = card(result.name, facts, body, caption=caption + "".join(f"<br>{esc(note)}" for note in notes))
    plain = [" · ".join([result.name, *facts])]
    for asked, pieces, values in rows[:SHOWN]:
        near = ", ".join(f"{_shown(piece)} {number(v, 2)}" for piece, v in zip(pieces, values, strict=True))
        plain.append(f"  {visible(clip(asked, 60))}: {near or 'none'}")
    plain += [f"  {note}" for note in notes]
    return bundle("\n".join(plain), page)


def _table(asked: str, pieces: list[Piece], values: list[float]) -> str:
    rows: list[list[str | tuple[str, str]]] = [
        [f'<span dir="auto" style="font-family:monospace">{esc(_shown(piece))}</span>', (number(value, 3), bar(value))]
        for piece, value in zip(pieces, values, strict=True)
    ]
    return table([f'<b dir="auto">{esc(visible(clip(asked, 60)))}</b>', "cosine"], rows)


def _shown(piece: Piece) -> str:
    """A token without the space that only parts it from the word before; one that is a space alone keeps it."""
    return visible(piece.text.removeprefix(" ") or "␣")

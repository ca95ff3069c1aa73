"""A text whose tokens are shaded by numbers; it computes none of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llm_lab.results import Piece, TokenScores
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    BREAK,
    MONO,
    MUTED,
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

if TYPE_CHECKING:
    import numpy as np

PRE = f"{MONO};font-size:13px;line-height:1.85;margin:2px 0 6px;padding:0"
TOKENS = 3000  # drawn; .to_pandas() has the rest
TOP = 6
LEVELS = 10
INK = 0.62  # of a token with the largest number


def scores(result: TokenScores) -> dict[str, str]:
    """The text once for each method, shaded, and beside it the tokens with the largest numbers."""
    facts = [result.kind, *result.facts]
    caption = "<br>".join(
        [*([esc(result.caption)] if result.caption else []), *map(esc, [*_cut(result), *result.notes])]
    )
    beside = figures((readable(name, " "), value) for name, value in result.figures) if result.figures else ""

    def pages() -> Iterator[str]:
        for room in (TOKENS, TOKENS // 3, TOKENS // 10):
            still = "".join(_method(result, name, values, room) for name, values in result.scores.items())
            still += small(_legend(result))
            body = live("scores", still, *_payload(result, room))
            about = small(esc(f"of {readable(result.about, '⏎')}")) if result.about else ""
            inside = columns(("3 1 420px", about + body), ("1 1 220px", beside)) if beside else about + body
            yield card(result.name, facts, inside, caption=caption)

    plain = [" · ".join([result.name, *facts]), *([f"  of {readable(result.about, '⏎')}"] if result.about else [])]
    plain += [f"  {name:<29} {value}" for name, value in result.figures]
    for name, values in result.scores.items():
        most = ", ".join(
            f"{alone(result.pieces[t].text)} ({t}) {number(float(values[t]), 3)}"
            for t in largest(values, result.signed)
        )
        plain.append(f"  {name}: {most}")
    plain += [f"  {note}" for note in result.notes]
    return bundle("\n".join(plain), fitting(pages()))


def largest(values: np.ndarray, signed: bool, count: int = TOP) -> list[int]:
    """The positions of the largest numbers, by size where they are signed."""
    import numpy as np

    size = np.nan_to_num(np.abs(values) if signed else values, nan=-np.inf)
    return [int(t) for t in np.argsort(-size, kind="stable")[:count] if np.isfinite(values[t])]


def shaded(pieces: Sequence[Piece], values: np.ndarray, scale: float, marked: frozenset[int] = frozenset()) -> str:
    """Tokens on grounds by their numbers against `scale`: blue above zero, orange below (HTML). `marked` ones are framed."""
    spans = []
    for t, (piece, value) in enumerate(zip(pieces, values.tolist(), strict=True)):
        shown = visible(piece.text).replace("⏎", BREAK) if "\n" in piece.text else visible(piece.text)
        frame = ";outline:1px solid rgba(224,123,26,.9)" if t in marked else ""
        rtl = " dir=auto" if is_rtl(piece.text) else ""
        spans.append(
            f'<span{rtl} style="background:{ground(value, scale)};border-radius:2px{frame}" title="{number(value, 3)}">{esc(shown)}</span>'
        )
    return "".join(spans)


def ground(value: float, scale: float) -> str:
    """The colour behind a number: the fuller the larger."""
    if value != value or not scale:
        return "none"
    level = round(min(abs(value) / scale, 1.0) * LEVELS)
    colour = "61,125,230" if value >= 0 else "224,123,26"
    return f"rgba({colour},{level / LEVELS * INK:.2f})" if level else "none"


def scale_of(values: np.ndarray) -> float:
    """The largest size of the numbers."""
    import numpy as np

    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _method(result: TokenScores, name: str, values: np.ndarray, room: int) -> str:
    text = shaded(result.pieces[:room], values[:room], scale_of(values))
    rows: list[list[str | tuple[str, str]]] = [
        [
            f'<span dir="auto" style="font-family:monospace">{esc(alone(result.pieces[t].text))}</span>',
            str(t),
            (
                number(float(values[t]), 3) + _error(result, name, t),
                bar(abs(float(values[t])) / (scale_of(values) or 1.0)),
            ),
        ]
        for t in largest(values, result.signed)
    ]
    head = small(f"<b>{esc(readable(name, ' '))}</b>", 4) if len(result.scores) > 1 else ""
    more = "…" if len(result.pieces) > room else ""
    left = f'<pre style="{PRE}">\n{text}{more}</pre>'
    return head + columns(("3 1 360px", left), ("1 1 200px", table(["token", "position", esc(result.quantity)], rows)))


def _error(result: TokenScores, name: str, t: int) -> str:
    """A number's standard error, where it was drawn."""
    return f" ± {number(float(result.errors[name][t]), 2)}" if name in result.errors else ""


def _legend(result: TokenScores) -> str:
    def ramp(sign: int) -> str:
        steps = range(LEVELS + 1) if sign > 0 else range(LEVELS, -1, -1)
        return "".join(f'<span style="background:{ground(sign * i / LEVELS, 1.0)}">&nbsp;</span>' for i in steps)

    low = f"below zero&nbsp;{ramp(-1)}&nbsp;0&nbsp;" if result.signed else "0&nbsp;"
    return f'<span style="{MUTED}">{low}{ramp(1)}&nbsp;the largest {esc(result.quantity)} of the text</span>'


def _cut(result: TokenScores) -> list[str]:
    if len(result.pieces) <= TOKENS:
        return []
    return [f"Only the first {TOKENS:,} of {len(result.pieces):,} tokens are drawn; .to_pandas() has all."]


def _payload(result: TokenScores, room: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What static/scores.js needs: the tokens, and the numbers as floats by method."""
    import numpy as np

    pieces = result.pieces[:room]
    data = {
        "text": [visible(p.text).replace("⏎", BREAK) if "\n" in p.text else visible(p.text) for p in pieces],
        "names": [alone(p.text) for p in pieces],
        "rtl": [t for t, p in enumerate(pieces) if is_rtl(p.text)],
        "methods": [readable(name, " ") for name in result.scores],
        "scales": [scale_of(values) for values in result.scores.values()],
        "quantity": result.quantity,
        "signed": result.signed,
        "cut": len(result.pieces) > room,
    }
    values = np.stack([values[:room].astype("<f4") for values in result.scores.values()])
    return data, {"values": values.tobytes()}

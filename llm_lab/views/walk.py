"""One token on its way through a model: a row a step, its formula beside its numbers; it computes no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llm_lab.results import Step, Walk
from llm_lab.views import svg
from llm_lab.views.bundle import live
from llm_lab.views.card import (
    HAIR,
    alone,
    bar,
    bundle,
    card,
    esc,
    fitting,
    is_rtl,
    number,
    picture,
    small,
    table,
    visible,
)
from llm_lab.views.heatmap import shade

if TYPE_CHECKING:
    import numpy as np

STRIP, THICK = 560, 18  # pixels of a vector drawn
NUMBERS = 6  # of a vector that are written out
TOKENS = 8  # of a text, the largest, that a step lists
AROUND = 400  # tokens of the text that stand at the top


def walk(result: Walk) -> dict[str, str]:
    """The text with the token that is followed, then every step of one layer and head, top to bottom."""
    followed = alone(result.pieces[result.position].text)
    facts = [
        "walk",
        f"token {result.position} “{followed}”",
        f"layer {result.layer} of {result.layers}",
        f"head {result.head} of {result.heads}",
    ]
    caption = (
        "Each row is one step: its formula, and the numbers that it gave. In a strip each field is one number, blue above "
        "zero, orange below, the fuller the larger within the strip; |x| is the length of the vector."
    )
    caption += "".join(f"<br>{esc(note)}" for note in result.notes)
    still = _text(result) + _still(result)

    def pages() -> Iterator[str]:
        for layers in (range(result.layers), [result.layer]):
            yield card(result.name, facts, live("walk", still, *_payload(result, list(layers))), caption=caption)
        yield card(result.name, facts, still, caption=caption)

    plain = [" · ".join([result.name, *facts])]
    for step in result.steps:
        plain.append(f"  {step.title:<28} {step.formula}")
        plain.append(f"  {'':<28} {_plain(result, step)}")
    return bundle("\n".join(plain), fitting(pages()))


def _text(result: Walk) -> str:
    """The text, the token that is followed framed."""
    first = max(result.position - AROUND // 2, 0)
    spans = []
    for t, piece in list(enumerate(result.pieces))[first : first + AROUND]:
        rtl = " dir=auto" if is_rtl(piece.text) else ""
        style = "outline:2px solid rgba(224,123,26,.9);border-radius:2px" if t == result.position else ""
        shown = visible(piece.text)
        spans.append(f'<span{rtl} style="{style}">{f"<b>{esc(shown)}</b>" if style else esc(shown)}</span>')
    before, after = "…" if first else "", "…" if first + AROUND < len(result.pieces) else ""
    return f'<div style="font-family:monospace;margin-bottom:8px">{before}{"".join(spans)}{after}</div>'


def _still(result: Walk) -> str:
    return "".join(
        f'<div style="display:flex;flex-wrap:wrap;gap:4px 24px;border-top:1px solid {HAIR};padding:7px 0">'
        f'<div style="flex:1 1 250px"><b>{esc(step.title)}</b><br><code style="background:none">{esc(step.formula)}</code>'
        f"{small(esc(step.words)) if step.words else ''}</div>"
        f'<div style="flex:2 1 420px;overflow:auto">{_numbers(result, step)}</div></div>'
        for step in result.steps
    )


def _numbers(result: Walk, step: Step) -> str:
    values = step.at(result.layer, result.head)
    if step.over == "numbers":
        return strip(values, step.title) + small(esc(_vector(values)))
    names, order = _named(result, step), _order(result, step, values)
    top = float(values[order].max()) if len(order) else 1.0
    rows: list[list[str | tuple[str, str]]] = [
        [
            f'<span dir="auto" style="font-family:monospace">{esc(names[i])}</span>',
            str(i) if step.over != "candidates" else "",
            (number(float(values[i]), 4), bar(float(values[i]) / top) if _shares(step) and top > 0 else ""),
        ]
        for i in order
    ]
    title = {"tokens": "token", "source": "source", "experts": "expert", "candidates": "candidate"}[step.over]
    more = len([v for v in values if v > -1e30]) - len(order)
    rest = small(f"and {more:,} more") if more > 0 else ""
    inner = table([title, "position" if step.over in ("tokens", "source") else "", "value"], rows)
    return f'<div style="max-width:400px">{inner}{rest}</div>'


def strip(values: np.ndarray, title: str) -> str:
    """A vector as fields of two hues (HTML)."""
    far = float(abs(values).max(initial=0.0)) or 1.0
    image = svg.shades(shade(values[None], (-far, far), True), 0, 0, STRIP, THICK, signed=True)
    frame = f'<rect class="l" x="0.5" y="0.5" width="{STRIP - 1}" height="{THICK - 1}"/>'
    alt = f"{title}: {len(values)} numbers from {number(float(values.min()), 3)} to {number(float(values.max()), 3)}"
    return picture(svg.document(STRIP, THICK, image + frame), alt, STRIP, THICK)


def _vector(values: np.ndarray) -> str:
    """A vector in words: its first numbers, and its length."""
    first = ", ".join(number(float(v), 3) for v in values[:NUMBERS])
    more = f", … ({len(values):,} numbers)" if len(values) > NUMBERS else ""
    return f"{first}{more}   |x| = {number(float((values.astype(float) ** 2).sum()) ** 0.5, 4)}"


def _order(result: Walk, step: Step, values: np.ndarray) -> list[int]:
    """What of a step is listed: the largest, of scores those with the most attention; in the order of the text."""
    import numpy as np

    if step.over == "candidates":
        return list(range(len(values)))
    weights = values
    if step.key.endswith("scores"):
        weights = result[step.key.replace("scores", "pattern")][result.layer, result.head]
    chosen = np.argsort(-weights, kind="stable")[:TOKENS]
    return sorted(int(i) for i in chosen if np.isfinite(values[i]))


def _named(result: Walk, step: Step) -> list[str]:
    if step.over == "experts":
        return [f"expert {i}" for i in range(step.values.shape[-1])]
    pieces = {"tokens": result.pieces, "source": result.source, "candidates": result.candidates}[step.over]
    return [alone(piece.text) for piece in pieces]


def _shares(step: Step) -> bool:
    """Whether its numbers are shares, which bars may show."""
    return step.key.endswith(("pattern", "probabilities", "router"))


def _plain(result: Walk, step: Step) -> str:
    values = step.at(result.layer, result.head)
    if step.over == "numbers":
        return _vector(values)
    names = _named(result, step)
    return ", ".join(f"{names[i]} {number(float(values[i]), 3)}" for i in _order(result, step, values))


def _payload(result: Walk, layers: list[int]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What static/walk.js needs: the steps in words, and their numbers as halves, those of `layers`."""
    import numpy as np

    steps, parts, first = [], [], 0
    for step in result.steps:
        values = step.values if step.per == "model" else step.values[layers]
        kept = np.clip(np.nan_to_num(values, neginf=-np.inf), -65504, 65504).astype("<f2")
        kept[np.isneginf(values)] = -np.inf
        steps.append(
            {
                "key": step.key,
                "title": step.title,
                "formula": step.formula,
                "words": step.words,
                "per": step.per,
                "over": step.over,
                "shares": _shares(step),
                "length": values.shape[-1],
                "first": first,
            }
        )
        first += kept.size
        parts.append(kept.ravel())
    start = max(result.position - AROUND // 2, 0)
    data = {
        "steps": steps,
        "layers": layers,
        "heads": result.heads,
        "layer": result.layer,
        "head": result.head,
        "position": result.position,
        "start": start,
        "around": AROUND,
        "tokens": [visible(piece.text) for piece in result.pieces],
        "names": [alone(piece.text) for piece in result.pieces],
        "source": [alone(piece.text) for piece in result.source],
        "candidates": [alone(piece.text) for piece in result.candidates],
        "listed": TOKENS,
    }
    return data, {"values": np.concatenate(parts).tobytes()}

"""A text before and after it was changed, and the answers to both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llm_lab.results import Counterfactual, Piece
from llm_lab.views.card import (
    BREAK,
    MONO,
    alone,
    bar,
    bundle,
    card,
    columns,
    esc,
    fitting,
    is_rtl,
    readable,
    small,
    table,
    visible,
)

PRE = f"{MONO};font-size:13px;line-height:1.75;margin:2px 0 6px;padding:0"
AROUND = (2000, 300, 60, 10)  # tokens beside a change that are drawn, in pages that get smaller
CHANGES = 40  # that are drawn; .to_pandas() has the rest
MARK = "background:rgba(224,123,26,.25);outline:1px solid rgba(224,123,26,.9);border-radius:2px"


def counterfactual(result: Counterfactual) -> dict[str, str]:
    """Both texts with the changed tokens marked, the changes as a list, and the answers before and after."""
    facts = ["counterfactual", *result.facts]
    drawn = result.changes[:CHANGES]
    changes = table(
        ["position", "token", "becomes"],
        [[str(t), _token(result.pieces[t]), _token(result.edited[t])] for t in drawn],
    )
    answers = table(
        [f"answer {esc(result.about)}", "before", "after"],
        [[_token(piece), (f"{old:.2%}", bar(old)), (f"{new:.2%}", bar(new))] for piece, old, new in result.answers],
    )
    verdict = _verdict(result)
    cut = len(result.changes) - len(drawn)
    left = [f"Drawn are the first {CHANGES} changes; .to_pandas() has the other {cut:,}."] if cut else []
    caption = "<br>".join(map(esc, [_caption(result), *left, *result.notes]))

    def pages() -> Iterator[str]:
        for around in AROUND:
            texts = small("as it was") + _text(result.pieces, drawn, around)
            texts += small("changed", 4) + _text(result.edited, drawn, around)
            right = small(f"<b>{esc(verdict)}</b>") + answers
            yield card(
                result.name, facts, columns(("2 1 380px", texts + changes), ("1 1 260px", right)), caption=caption
            )

    plain = [" · ".join([result.name, *facts]), f"  {verdict} {result.about}"]
    plain += [
        f"  position {t}: {alone(result.pieces[t].text)} becomes {alone(result.edited[t].text)}" for t in result.changes
    ]
    plain += [f"  {alone(piece.text):<12} {old:>8.2%} {new:>8.2%}" for piece, old, new in result.answers]
    plain += [f"  {readable(result.edited_text, '⏎')}", f"  {_caption(result)}", *(f"  {n}" for n in result.notes)]
    return bundle("\n".join(plain), fitting(pages()))


def _verdict(result: Counterfactual) -> str:
    before, after = f"“{alone(result.before.text)}”", f"“{alone(result.after.text)}”"
    if result.flipped or result.before.id != result.after.id:
        return f"{before} becomes {after}"
    return f"it stays {before}"


def _caption(result: Counterfactual) -> str:
    found = "The prediction is not as it was asked for. "
    if result.flipped:
        found = "No part of the changes would do. " if len(result.changes) > 1 else ""
    return f"Probabilities of the answer before and after the changes. {found}{result.passes:,} texts were run for it."


def _token(piece: Piece) -> str:
    return f'<span dir="auto" style="font-family:monospace">{esc(alone(piece.text))}</span>'


def _text(pieces: Sequence[Piece], changes: Sequence[int], around: int) -> str:
    """Tokens, the changed ones marked; of a long text what stands about the changes."""
    near = {t for change in changes or [len(pieces) - 1] for t in range(change - around, change + around + 1)}
    body, skipped = "", False
    for t, piece in enumerate(pieces):
        if t not in near:
            body += "" if skipped else " … "
            skipped = True
            continue
        skipped = False
        shown = visible(piece.text).replace("⏎", BREAK) if "\n" in piece.text else visible(piece.text)
        marked = f' style="{MARK}"' if t in changes else ""
        rtl = " dir=auto" if is_rtl(piece.text) else ""
        body += (
            f"<b{rtl}{marked}>{esc(shown)}</b>" if marked else f"<span{rtl}>{esc(shown)}</span>" if rtl else esc(shown)
        )
    return f'<pre style="{PRE}">\n{body}</pre>'

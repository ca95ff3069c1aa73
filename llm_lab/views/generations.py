"""What was written after each of several prompts: a table of texts, each as likely as its number says."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llm_lab.results import Generations, mean
from llm_lab.views.card import MONO, bundle, card, clip, esc, fitting, number, readable, small, table, visible

SHOWN = 30  # prompts; .to_pandas() has all
TEXTS = 600  # of all prompts together
LENGTH = 500  # characters of one text
PLAIN = 60  # texts for terminals
NOTES = 20


def generations(result: Generations) -> dict[str, str]:
    """A row a prompt: its texts, and the mean surprisal of their tokens."""
    shown = list(result)[:SHOWN]
    facts = ["generate", f"{len(result.prompts):,} prompts"]
    if shown:
        one = shown[0]
        options = ", ".join(f"{key} {clip(str(value), 200)}" for key, value in one.options.items())
        facts += [f"{one.strategy} {options}".strip(), f"seed {result.seed}"]
    notes = [*result.notes, *dict.fromkeys(note for one in shown for note in one.notes)]
    notes[NOTES:] = [f"and {len(notes) - NOTES:,} notes more"] if len(notes) > NOTES else []
    most = max((len(one.texts) for one in shown), default=0)
    page = fitting(
        _page(result, facts, notes, each, length) for each, length in _sizes(min(most, TEXTS // max(1, len(shown))))
    )
    plain = [" · ".join([result.name, *facts])]
    each = max(1, PLAIN // max(1, len(shown)))
    for one in shown:
        begins = visible(clip(one.prompt, 60, 1))
        plain += [f"  {begins} → {visible(clip(text, 160))}" for text in one.continuations[:each]]
    if most > each:
        plain.append(f"  the first {each} of {most} texts after each; .to_pandas() has all")
    return bundle("\n".join([*plain, *(f"  {note}" for note in notes)]), page)


def _sizes(each: int) -> Iterator[tuple[int, int]]:
    """(texts of a prompt, characters of one) for pages that are smaller and smaller."""
    while each > 1:
        yield each, LENGTH
        each //= 2
    for share in (1, 2, 4, 8):
        yield 1, LENGTH // share


def _page(result: Generations, facts: list[str], notes: list[str], each: int, length: int) -> str:
    shown = list(result)[:SHOWN]
    rows = [
        [
            _block(one.prompt, length) if i == 0 else "",
            _block(text, length),
            number(-mean(logs) / math.log(2), 3),
        ]
        for one in shown
        for i, (text, logs) in enumerate(list(zip(one.continuations, one.logprob, strict=True))[:each])
    ]
    body = table(["prompt", "writes", "bits per token"], rows, left=(0, 1)) if rows else small("nothing is written yet")
    caption = "Bits per token: how surprised the model was, by itself at temperature 1. gens[0] shows the first, token by token."
    most = max((len(one.texts) for one in shown), default=0)
    left_out = [f"{SHOWN} of {len(result):,} prompts"] if len(result) > SHOWN else []
    left_out += [f"{each} of {most:,} texts after each"] if most > each else []
    left_out += [f"{length} characters of a text"] if length < LENGTH else []
    if left_out:
        caption += f"<br>Drawn are the first {', '.join(left_out)}; .to_pandas() has all."
    caption += "".join(f"<br>{esc(note)}" for note in notes)
    hint = "" if result.done else f"writing… {sum(one.done for one in result):,} of {len(result.prompts):,}"
    return card(result.name, facts, body, caption=caption, hint=hint, done=result.done)


def _block(text: str, length: int) -> str:
    """A text in a cell, with the breaks it has."""
    style = f"{MONO};font-size:12px;line-height:1.5;margin:0 0 4px;padding:0"
    return f'<pre dir="auto" style="{style}">{esc(readable(clip(text, length)))}</pre>'

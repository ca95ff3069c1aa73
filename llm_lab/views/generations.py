"""What was written after each of several prompts: a table of texts, each as likely as its number says."""

from __future__ import annotations

import math

from llm_lab.results import Generations, mean
from llm_lab.views.card import MONO, bundle, card, clip, esc, number, small, table, visible

SHOWN = 30  # prompts; .to_pandas() has all
LENGTH = 500  # characters of one text


def generations(result: Generations) -> dict[str, str]:
    """A row a prompt: its texts, and the mean surprisal of their tokens."""
    shown = list(result)[:SHOWN]
    facts = ["generate", f"{len(result.prompts):,} prompts"]
    if shown:
        one = shown[0]
        options = ", ".join(f"{key} {value}" for key, value in one.options.items())
        facts += [f"{one.strategy} {options}".strip(), f"seed {result.seed}"]
    rows = [
        [_block(one.prompt) if i == 0 else "", _block(text), number(-mean(logs) / math.log(2), 3)]
        for one in shown
        for i, (text, logs) in enumerate(zip(one.continuations, one.logprob, strict=True))
    ]
    body = table(["prompt", "writes", "bits per token"], rows, left=(0, 1)) if rows else small("nothing is written yet")
    caption = "Bits per token: how surprised the model was, by itself at temperature 1. gens[0] shows the first, token by token."
    if len(result) > SHOWN:
        caption += f"<br>The first {SHOWN} of {len(result):,} are drawn; .to_pandas() has all."
    notes = [*result.notes, *dict.fromkeys(note for one in shown for note in one.notes)]
    caption += "".join(f"<br>{esc(note)}" for note in notes)
    hint = "" if result.done else f"writing… {sum(one.done for one in result):,} of {len(result.prompts):,}"
    page = card(result.name, facts, body, caption=caption, hint=hint)
    plain = [" · ".join([result.name, *facts])]
    plain += [
        f"  {visible(clip(one.prompt, 60, 1))} → {visible(clip(text, 160))}"
        for one in shown
        for text in one.continuations
    ]
    return bundle("\n".join([*plain, *(f"  {note}" for note in notes)]), page)


def _block(text: str) -> str:
    """A text in a cell, with the breaks it has."""
    style = f"{MONO};font-size:12px;line-height:1.5;margin:0 0 4px;padding:0"
    lines = [visible(line) if line else "" for line in clip(text, LENGTH).split("\n")]
    return f'<pre dir="auto" style="{style}">{esc(chr(10).join(lines))}</pre>'

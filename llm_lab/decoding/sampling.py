"""What a model in training shows of itself: it writes, or fills in what is hidden of a held-out text, as it learns to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from llm_lab.data.arrays import Tokens
from llm_lab.data.batch import IGNORE, Batch
from llm_lab.decoding.conditioned import FROM_SOURCE, Conditioned
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import Greedy as GreedyOptions
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.samplers import Greedy
from llm_lab.decoding.writer import Writer
from llm_lab.decoding.writing import write
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.objectives.objective import Objective
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.validation import pieces


def sample(
    lm: Writer, objective: Objective, held_out: Tokens, prompt: str | None, length: int, seed: int
) -> tuple[str, str] | None:
    """(prompt, text) of about `length` tokens; None where a model of that kind has nothing to show."""
    if "next_token" in lm.supports and not objective.pairs:
        if prompt is None:
            prompt = _beginning(lm.tokenizer, held_out)
        if lm.objectives[0] in FROM_SOURCE:  # a source must fit, with room to write
            prompt = lm.tokenizer.decode(lm.tokenizer.encode(prompt)[: max(1, lm.model.max_seq_len // 2 - 1)]) or "\n"
        text = write(lm, prompt, max_new_tokens=length, seed=seed).text
        return prompt, text.removeprefix(prompt)
    examples = pieces(objective, held_out, lm.model.max_seq_len, 4 * lm.model.max_seq_len)
    if not examples:
        return None
    batch = objective.collate(examples[:1], np.random.default_rng(seed))
    if not isinstance(batch, Batch):  # a mixture shows the objective that it begins with
        batch = batch.found[0][1]
    batch = batch.to(lm.device)
    if isinstance(lm.model, EncoderDecoder):
        return "", _answered(lm, batch, length)
    return ("", _filled(lm, batch, length)) if "fill" in lm.supports and batch.targets is not None else None


def _beginning(tokenizer: Tokenizer, held_out: Tokens) -> str:
    start = tokenizer.decode([int(i) for i in held_out.ids[:200]])
    whole_lines = [line for line in start.splitlines()[1:] if line.strip()]
    return (whole_lines[0] if whole_lines else start)[:24] or "\n"


def _answered(lm: Writer, batch: Batch, length: int) -> str:
    """The source, and what the decoder writes to it."""
    assert isinstance(lm.model, EncoderDecoder)
    tokenizer, model = lm.tokenizer, Conditioned(lm.model, batch.input_ids, batch.attend)
    stop = {tokenizer.specials["eos"]} if "eos" in tokenizer.specials else set()
    banned = tokenizer.special_ids - set(tokenizer.sentinels)
    rows = Rows(model, torch.tensor([[tokenizer.start]], device=lm.device), length, banned, stop)
    greedy = Greedy(GreedyOptions())
    for _ in decode(rows, greedy, torch.Generator(lm.device)):
        pass
    written = rows.text(0).ids
    target = [] if batch.targets is None else [int(i) for i in batch.targets[0]]
    lines = {"read": batch.input_ids[0].tolist(), "writes": written, "text": target}
    return "\n".join(f"{name}: {_shown(tokenizer, ids, length)}" for name, ids in lines.items())


def _filled(lm: Writer, batch: Batch, length: int) -> str:
    """The text as it is read, and with what the model puts where something was hidden, in brackets."""
    model, tokenizer = lm.model, lm.tokenizer
    was_training = model.training
    model.eval()
    with torch.no_grad():
        row = replace(batch, labels=None)
        logits = model(**row.inputs()).logits[0]
    model.train(was_training)
    logits = logits.index_fill(1, torch.tensor(sorted(tokenizer.special_ids), device=logits.device), -torch.inf)
    ids, guesses = batch.input_ids[0].tolist(), logits.argmax(dim=-1).tolist()
    assert batch.targets is not None
    hidden = (batch.targets[0] != IGNORE).tolist()
    filled = "".join(
        f"[{tokenizer.pieces([guess])[0].text}]" if yes else _shown(tokenizer, [i], 1)
        for i, guess, yes in list(zip(ids, guesses, hidden, strict=True))[:length]
    )
    return f"read: {_shown(tokenizer, ids, length)}\nfills: {filled}"


def _shown(tokenizer: Tokenizer, ids: Sequence[int], limit: int) -> str:
    """Ids as text in which hidden tokens are boxes and sentinels are numbered; other reserved ones are left out."""
    names = {
        i: "▢" if name == "mask" else f"⟨{name[6:]}⟩"
        for name, i in tokenizer.specials.items()
        if name == "mask" or name.startswith("extra_")
    }
    parts, run = [], list[int]()
    for i in [i for i in ids if i >= 0][:limit]:
        if i in names:
            parts += [tokenizer.decode(run), names[i]]
            run = []
        else:
            run.append(i)
    return "".join([*parts, tokenizer.decode(run)])

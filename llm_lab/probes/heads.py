"""What each attention head does, as numbers: where it reads over texts and over repeated random tokens, and the name that
follows from them. It works a layer at a time and keeps no pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue
from llm_lab.probes.options import HeadsOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.results import HeadTable
from llm_lab.store.lm import LM

NEAR = 4  # tokens away that are still local
BLOCK = 512  # tokens of a corpus that are read at a time, at most
REPEATED = 64  # tokens of a random block, at most
ROWS = 8  # repeated sequences in one pass
SHOWS = 0.4  # attention from which on a head is named by where it goes
LOCAL, BROAD = 0.7, 0.8

# By what a head is named where the score is SHOWS or more; how it acts on repeats tells more than where it rests without.
ROLES = {
    "induction": "induction",
    "duplicate_token": "duplicate token",
    "previous_token": "previous token",
    "next_token": "next token",
    "first_token": "first token",
    "self": "itself",
}


def text_scores(pattern: Float[Tensor, "B H T S"]) -> dict[str, Float[Tensor, " H"]]:
    """Means over the queries of a pattern whose queries and keys are the same T ≥ 2 tokens, by head. The first query is
    left out, which in a causal model has only itself to read.

    entropy (bits), distance (mean, in tokens), near (attention to tokens at most 4 away, itself included),
    previous_token, next_token, first_token, self (attention, 0 to 1).
    """
    p = pattern[:, :, 1:].float()
    T = pattern.shape[-1]
    far = (torch.arange(1, T, device=p.device)[:, None] - torch.arange(T, device=p.device)).abs()
    found = {
        "entropy": torch.special.entr(p).sum(-1) / math.log(2),
        "distance": (p * far).sum(-1),
        "near": (p * (far <= NEAR)).sum(-1),
        "previous_token": p.diagonal(0, -2, -1),
        "next_token": pattern.diagonal(1, -2, -1).float(),
        "first_token": p[..., 0],
        "self": p.diagonal(1, -2, -1),
    }
    return {name: values.mean((0, 2)) for name, values in found.items()}


def repeat_scores(pattern: Float[Tensor, "B H T S"], length: int) -> dict[str, Float[Tensor, " H"]]:
    """Of a pattern over a block of `length` tokens and its repetition, T = 2 · length, means over the repetition by head.

    induction: attention to the token after the earlier occurrence of the query's own (Olsson et al. 2022, "prefix
    matching"). duplicate_token: attention to that occurrence (Wang et al. 2022, §3).
    """
    return {
        "duplicate_token": pattern.diagonal(-length, -2, -1).float().mean((0, 2)),
        "induction": pattern.diagonal(1 - length, -2, -1)[..., 1:].float().mean((0, 2)),
    }


def head_scores(
    lm: LM, blocks: Iterable[Int[Tensor, "B T"]] | None = None, repeats: int = 16, seed: int = 0
) -> dict[str, Float[np.ndarray, "L H"]]:
    """All of `text_scores` over blocks of ids and of `repeat_scores` over so many random sequences, (L, H) float32 each.
    Without blocks the first are over the random sequences as well. Of two stacks, the encoder's."""
    *_, (found, _, _) = _measured(lm, blocks, repeats, seed)
    return found


def repeated(lm: LM, count: int, seed: int = 0, length: int | None = None) -> Int[Tensor, "count T"]:
    """Random blocks of the model's own tokens, each twice in a row, on its device. A block has no token twice, so that
    each has one earlier occurrence; its length is half the context, 64 tokens or the vocabulary, what is least."""
    words = torch.from_numpy(lm.tokenizer.text_ids)
    words = words[words < lm.model.vocab_size]
    most = min(lm.max_seq_len // 2, REPEATED, len(words))
    length = most if length is None else length
    if not 3 <= length <= most:  # in shorter ones the token after the earlier occurrence is the previous token
        raise BadValue(
            f"repeats: a block of {length} tokens cannot be repeated here; 3 are needed at least, twice in a context of {lm.max_seq_len}, and {len(words)} tokens are known"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = [words[torch.randperm(len(words), generator=generator)[:length]] for _ in range(count)]
    return torch.stack([row.repeat(2) for row in rows]).to(lm.device)


def heads(reading: Reading, options: HeadsOptions) -> Iterator[HeadTable]:
    """The statistics of every head, and its names. Grows as the corpus is read; an interrupt keeps what was read."""
    lm = reading.lm
    lengths: list[int] = []

    def blocks() -> Iterator[Int[Tensor, "B T"]]:
        given = (reading.ids(i) for i in range(len(reading.texts)))
        for ids in given if reading.texts else reading.blocks(options.corpus, options.max_tokens, length=BLOCK):
            if ids.shape[1] > 1:
                lengths.append(ids.shape[1])
                yield ids

    source = f"{len(reading.texts)} text{'s' * (len(reading.texts) != 1)}" if reading.texts else "the corpus"
    if options.corpus is None and not reading.texts:
        source = "the held-out text"
    drawn = [f"{options.repeats} repeated random sequences"] if options.repeats else []
    table: HeadTable | None = None
    try:
        for scores, chance, length in _measured(lm, blocks(), options.repeats, options.seed):
            table = HeadTable(
                name=lm.name,
                facts=[f"{sum(lengths):,} tokens of {source}", *drawn],
                stack="encoder" if hasattr(lm.model, "encoder") else "",
                scores=scores,
                chance=chance,
                roles=roles(scores, chance),
                caption=_caption(length, "next_token" in scores),
            )
            yield table
    except KeyboardInterrupt:
        if table is None:
            raise
        table.notes.append("interrupted: it is over what was read until then")
        yield table
    if table is None:
        raise BadValue("text: one token has no other to read; give two at least")


def roles(scores: Mapping[str, Float[np.ndarray, "L H"]], chance: Mapping[str, float]) -> list[list[list[str]]]:
    """The names of every head, by layer, the most telling first. A head is named by each score of ROLES that is 0.4 or
    more and twice what even attention would have; where there is none, it is local with 0.7 of its attention on the 4
    nearest tokens on each side (and twice chance), broad with an entropy of 0.8 of an even head's or more, else mixed."""
    layers, heads = next(iter(scores.values())).shape
    return [
        [_named({name: float(values[i, j]) for name, values in scores.items()}, chance) for j in range(heads)]
        for i in range(layers)
    ]


def _named(score: Mapping[str, float], chance: Mapping[str, float]) -> list[str]:
    shown = [name for name in ROLES if name in score and score[name] >= max(SHOWS, min(2 * chance[name], 0.9))]
    repeats = [name for name in shown if name in ("induction", "duplicate_token")]
    others = [name for name in shown if name not in repeats]
    names = [ROLES[name] for part in (repeats, others) for name in sorted(part, key=lambda name: -score[name])]
    if names:
        return names
    if score["entropy"] >= BROAD * chance["entropy"]:
        return ["broad"]
    return ["local" if score["near"] >= max(LOCAL, min(2 * chance["near"], 0.9)) else "mixed"]


def _caption(length: int, both: bool) -> str:
    on_repeats = (
        f"On random blocks of {length} tokens and their repetition: duplicate is to the earlier occurrence of a token, "
        "induction to the token after it (Olsson et al. 2022). "
    )
    return (
        "Means over the queries: entropy in bits, distance in tokens; the other scores are attention, 0 to 1: to the previous token, "
        f"{'the next one, ' if both else ''}the first, itself, and at most {NEAR} tokens away (near). "
        f"{on_repeats if length else ''}A head is named by a score of {SHOWS} or more that is twice chance; else local where "
        f"near is {LOCAL} or more, broad where the entropy is {BROAD} of an even head's or more. Chance is a head that reads all it may evenly."
    )


# --- measuring ------------------------------------------------------------------------------------------------------

Found = tuple[dict[str, np.ndarray], dict[str, float]]  # scores by name, (L, H), and those of a head that reads evenly


def _measured(
    lm: LM, blocks: Iterable[Int[Tensor, "B T"]] | None, repeats: int, seed: int
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, float], int]]:
    """What was found so far, block by block, and the length of the random blocks."""
    found: Found = {}, {}
    length, texts = 0, blocks or ()
    if repeats:
        rows = repeated(lm, repeats, seed).split(ROWS)
        length = rows[0].shape[1] // 2
        *_, found = _means(lm, rows, lambda pattern: repeat_scores(pattern, length))
        texts = rows if blocks is None else blocks
    for on_text, even in _means(lm, texts, text_scores):
        if not even["next_token"]:  # nobody may read what comes
            del on_text["next_token"], even["next_token"]
        yield on_text | found[0], even | found[1], length


def _means(lm: LM, blocks: Iterable[Tensor], score: Callable[[Tensor], dict[str, Tensor]]) -> Iterator[Found]:
    """Means over the blocks so far, each as heavy as it has tokens."""
    sums: dict[str, np.ndarray] = {}
    evens: dict[str, float] = {}
    count = 0
    for ids in blocks:
        found, even = _scored(lm, ids, score)
        count += ids.numel()
        sums = {name: ids.numel() * values + sums.get(name, 0.0) for name, values in found.items()}
        evens = {name: ids.numel() * value + evens.get(name, 0.0) for name, value in even.items()}
        yield (
            {name: (values / count).astype(np.float32) for name, values in sums.items()},
            {name: value / count for name, value in evens.items()},
        )


def _scored(lm: LM, ids: Int[Tensor, "B T"], score: Callable[[Tensor], dict[str, Tensor]]) -> Found:
    """The scores of every head over some ids; a layer's patterns are gone when the next layer's are made."""
    model, T = lm.model, ids.shape[1]
    assert model.config is not None, "a model with sites is one of ours"
    stack: Any = getattr(model, "encoder", model)
    layers = [f"{stack.prefix}blocks.{i}.attn" for i in range(model.config.n_layer)]
    names: list[str] = []

    def take(x: Tensor, site: str) -> Tensor:
        x = x[:, :, :T, :T]  # of two streams in one, the first is the one that reads the text
        if site.endswith("scores"):  # what may be read at all, evenly
            readable = x.isfinite().float()
            x = readable / readable.sum(-1, keepdim=True)
        found = score(x)
        names[:] = found
        return torch.stack(list(found.values()))  # (names, H)

    sites = [f"{layers[0]}.scores", *(f"{layer}.pattern" for layer in layers)]
    first, *found = record(model, lm.batch(ids), sites, take=take).values()
    values = torch.stack(found, dim=1).cpu().double().numpy()  # (names, L, H)
    if not np.isfinite(values).all():
        raise BadValue(f"{lm.name}'s {DIVERGED}")
    even = first.mean(dim=1).tolist()
    return dict(zip(names, values, strict=True)), dict(zip(names, even, strict=True))

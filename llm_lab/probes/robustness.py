"""What typing errors cost a model, and what one wrong token can."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.errors import DIVERGED, BadValue
from llm_lab.models.cost import at_once
from llm_lab.models.language_model import evaluating
from llm_lab.probes.answers import sayable
from llm_lab.probes.counterfactual import changed, swaps
from llm_lab.probes.inputs import Inputs
from llm_lab.probes.options import RobustnessOptions
from llm_lab.probes.reading import Reading, fills
from llm_lab.results import NoisePoint, Robustness, Swap, mean_interval, ratio_interval
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import Tokenizer

ASKED = 8  # a model that fills in gaps is asked for every so-manieth token at once
SWAPPED = 16  # passages in which tokens are swapped
RANDOM = 16  # random swaps of each
SHOWN, BEFORE = 5, 12  # worst swaps, and tokens before them
_ROWS = (("1234567890", -0.5), ("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_KEYS = {key: (x + shift, float(y)) for y, (row, shift) in enumerate(_ROWS) for x, key in enumerate(row)}
BESIDE = {
    key: "".join(other for other, b in _KEYS.items() if other != key and math.dist(a, b) < 1.3)
    for key, a in _KEYS.items()
}


@dataclass(frozen=True, eq=False)
class Passage:
    """A text as tokens, and where in its characters each stands."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Guesses:
    """What a model predicted in a passage: by where the token begins the likeliest token there; and the whole's cost."""

    likeliest: dict[int, int]
    nats: float
    n_bytes: int


def robustness(reading: Reading, options: RobustnessOptions) -> Iterator[Robustness]:
    """Bits per byte and agreement at every noise and rate, then the worst swap of one token that the gradient finds
    (Ebrahimi et al. 2018) and swaps at random. It reads a text, or without one a corpus, in passages of half the context."""
    lm = reading.lm
    if not lm.supports & {"next_token", "fill"}:
        raise BadValue(
            f"probe robustness: {lm.name} predicts no tokens of the text that it reads; a model of objective clm or mlm would do"
        )
    passages = [passage for passage in _passages(reading, options) if len(passage.ids) > 1]
    if not passages:
        raise BadValue("text: it has fewer than 2 tokens, so that none is predicted from others; give a longer one")
    clean = guesses(lm, passages)
    value, interval = _bits([[one] for one in clean])
    if not math.isfinite(value):
        raise BadValue(f"{lm.name}'s {DIVERGED}")
    n_chars = sum(len(passage.text) for passage in passages)
    result = Robustness(
        name=lm.name,
        facts=[f"{len(passages):,} passage{'s' * (len(passages) > 1)}, {n_chars:,} characters", f"seed {options.seed}"],
        clean=(value, interval),
        points=[],
        done=False,
    )
    yield result
    noises = list(dict.fromkeys(options.noise))
    for i, noise in enumerate(noises):
        for j, rate in enumerate(sorted(set(options.rates))):
            rng = np.random.default_rng([options.seed, i, j])
            result = replace(
                result, points=[*result.points, _point(lm, passages, clean, noise, rate, options.draws, rng)]
            )
            yield result
    tried = (_swapped(lm, passage, options, k) for k, passage in enumerate(passages[:SWAPPED]))
    found = [one for one in tried if one is not None]
    if found:
        result = replace(
            result,
            worst=mean_interval([swap.rise for swap, _ in found]),
            random=mean_interval([rise for _, rise in found]),
            swaps=sorted((swap for swap, _ in found), key=lambda swap: -swap.rise)[:SHOWN],
        )
    notes = ["One passage alone: its intervals are over the draws of the noise."] if len(passages) == 1 else []
    yield replace(result, notes=notes, done=True)


def noised(text: str, noise: str, rate: float, rng: np.random.Generator) -> tuple[str, np.ndarray, int]:
    """(the text with rate · n of its n characters changed, or as many as suit, a part of one being one as often; where
    each of the n + 1 places between characters is in it; how many were changed).

    swap: with the next one, where it is another; delete; insert: one of the text's own before it; keyboard: the key
    beside it, of its case.
    """
    n = len(text)
    suits: Callable[[int], bool] = {
        "swap": lambda i: i + 1 < n and text[i] != text[i + 1],
        "keyboard": lambda i: text[i].lower() in BESIDE,
    }.get(noise, lambda i: True)
    most = math.floor(rate * n + rng.random())
    hit: set[int] = set()
    for i in rng.permutation(n).tolist():
        if len(hit) == most:
            break
        if suits(i) and not (noise == "swap" and {i - 1, i + 1} & hit):
            hit.add(i)
    made: list[str] = []
    places = np.zeros(n + 1, dtype=np.int64)
    length = 0
    for i, char in enumerate(text):
        out = char
        if noise == "swap":
            out = text[i + 1] if i in hit else text[i - 1] if i - 1 in hit else char
        elif i in hit and noise == "delete":
            out = ""
        elif i in hit and noise == "insert":
            out = text[int(rng.integers(n))] + char
        elif i in hit:
            beside = BESIDE[char.lower()]
            key = beside[int(rng.integers(len(beside)))]
            out = key.upper() if char.isupper() else key
        made.append(out)
        length += len(out)
        places[i + 1] = length
    return "".join(made), places, len(hit)


def guesses(lm: LM, passages: Sequence[Passage], asked: Sequence[set[int] | None] | None = None) -> list[Guesses]:
    """What a model predicts in passages: each token from those before; of a model that fills in gaps the tokens that
    begin at the characters `asked`, or every eighth, all hidden at once."""
    both, mask = fills(lm), lm.tokenizer.specials.get("mask", 0)
    wanted = [_wanted(passage, None if asked is None else asked[k], both) for k, passage in enumerate(passages)]
    found: list[Guesses | None] = [None] * len(passages)
    order = sorted(range(len(passages)), key=lambda k: len(passages[k].ids))
    can = ~sayable(lm.model, lm.tokenizer)
    while order:
        longest = len(passages[order[-1]].ids)
        count = at_once(lm.model.vocab_size, longest)
        some, order = order[-count:], order[:-count]
        rows = torch.zeros(len(some), longest, dtype=torch.long)
        for r, k in enumerate(some):
            rows[r, : len(passages[k].ids)] = torch.tensor(passages[k].ids)
            if both:
                rows[r, wanted[k]] = mask
        with torch.no_grad(), evaluating(lm.model):
            logits = lm.model(rows.to(lm.device), **_attend(both, [len(passages[k].ids) for k in some], lm)).logits
            logs = logits.log_softmax(dim=-1)
            likeliest = logits.masked_fill(can, -torch.inf).argmax(dim=-1)
        for r, k in enumerate(some):
            passage, tokens = passages[k], wanted[k]
            at = torch.tensor(tokens, dtype=torch.long, device=logs.device) - (0 if both else 1)
            right = torch.tensor([passage.ids[t] for t in tokens], dtype=torch.long, device=logs.device)
            nats = -logs[r, at].gather(1, right[:, None]).double().sum() if tokens else torch.zeros(())
            starts = [passage.spans[t][0] for t in tokens]
            found[k] = Guesses(
                dict(zip(starts, likeliest[r, at].tolist(), strict=True)), float(nats), _n_bytes(passage, tokens, both)
            )
    return [one for one in found if one is not None]


def _wanted(passage: Passage, asked: set[int] | None, both: bool) -> list[int]:
    """The tokens of a passage that are predicted."""
    n = len(passage.ids)
    if not both:
        return list(range(1, n))
    if asked is None:
        return list(range(min(ASKED // 2, n - 1), n, ASKED))
    return [t for t, (start, _) in enumerate(passage.spans) if start in asked]


def _attend(both: bool, lengths: Sequence[int], lm: LM) -> dict[str, Any]:
    """Who reads whom: of rows that are filled up, nobody what fills them."""
    if not both:
        return {}
    keep = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"attend": Attend(causal=False, keep=None if bool(keep.all()) else keep.to(lm.device))}


def _n_bytes(passage: Passage, tokens: Sequence[int], both: bool) -> int:
    """UTF-8 bytes of the text behind the tokens that are predicted."""
    if both:
        return sum(len(passage.text[a:b].encode()) for a, b in (passage.spans[t] for t in tokens))
    return len(passage.text[passage.spans[0][1] : passage.spans[-1][1]].encode())


def _passages(reading: Reading, options: RobustnessOptions) -> Iterator[Passage]:
    lm, tokenizer = reading.lm, reading.tokenizer
    length = max(lm.max_seq_len // 2, 2)
    if reading.texts:
        text = reading.texts[0]
        spans = passage_of(text, tokenizer, options.max_tokens).spans
        edges = [*(start for start, _ in spans[::length]), spans[-1][1] if spans else 0]
        texts = [text[a:b] for a, b in itertools.pairwise(edges)]
    else:
        blocks = reading.blocks(options.corpus, options.max_tokens, length=length)
        texts = [tokenizer.decode(block[0].tolist()) for block in blocks]
    for text in texts:
        yield passage_of(text, tokenizer, lm.max_seq_len)


def passage_of(text: str, tokenizer: Tokenizer, most: int) -> Passage:
    """A text as a passage, cut where it has more tokens than may be."""
    read = tokenizer.backend.encode(text, add_special_tokens=False)
    unknown = tokenizer.specials.get("unk")
    known = [
        (unknown if i in tokenizer.special_ids else i, span) for i, span in zip(read.ids, read.offsets, strict=True)
    ]
    kept = [(i, span) for i, span in known if i is not None][:most]
    return Passage(text, [i for i, _ in kept], [span for _, span in kept])


def _point(
    lm: LM,
    passages: Sequence[Passage],
    clean: Sequence[Guesses],
    noise: str,
    rate: float,
    draws: int,
    rng: np.random.Generator,
) -> NoisePoint:
    """One noise at one rate, over all passages and draws."""
    made = [(k, noised(passages[k].text, noise, rate, rng)) for _ in range(draws) for k in range(len(passages))]
    texts = [passage_of(text, lm.tokenizer, lm.max_seq_len) for _, (text, _, _) in made]
    asked = [{int(places[start]) for start in clean[k].likeliest} for k, (_, places, _) in made]
    kept = [i for i, passage in enumerate(texts) if len(passage.ids) > 1]
    found = dict(zip(kept, guesses(lm, [texts[i] for i in kept], [asked[i] for i in kept]), strict=True))
    units = len(passages) if len(passages) > 1 else draws
    grouped: list[list[Guesses]] = [[] for _ in range(units)]
    same, compared = np.zeros(units), np.zeros(units)
    for i, (k, (_, places, _)) in enumerate(made):
        if i not in found:
            continue
        unit = k if len(passages) > 1 else i
        grouped[unit].append(found[i])
        for start, token in clean[k].likeliest.items():
            other = found[i].likeliest.get(int(places[start]))
            if other is not None:
                same[unit] += other == token
                compared[unit] += 1
    value, interval = _bits(grouped)
    agreement, spread = ratio_interval(same.tolist(), compared.tolist())
    changes = sum(hits for _, (_, _, hits) in made) / max(draws * sum(len(p.text) for p in passages), 1)
    return NoisePoint(noise, rate, changes, value, interval, agreement, spread, int(compared.sum()))


def _bits(grouped: Sequence[Sequence[Guesses]]) -> tuple[float, float | None]:
    """Bits per byte over all, and half of the 95 % confidence interval, the groups being independent."""
    sums = [sum(one.nats for one in group) / math.log(2) for group in grouped]
    return ratio_interval(sums, [sum(one.n_bytes for one in group) for group in grouped])


def _swapped(lm: LM, passage: Passage, options: RobustnessOptions, k: int) -> tuple[Swap, float] | None:
    """(the worst swap of one token that was found, the mean rise of random ones). What is predicted stays the passage's
    own tokens: only what is read changes. None where it has but reserved tokens."""
    inputs, wanted, cost = _costing(lm, passage)
    if not bool(inputs.free.any()):
        return None
    tokens = torch.from_numpy(lm.tokenizer.text_ids).to(lm.device)
    gains = swaps(inputs, cost, inputs.ids, tokens)
    most = min(options.candidates, int(gains.isfinite().sum()))
    tried = [(int(c) // len(tokens), int(tokens[int(c) % len(tokens)])) for c in gains.flatten().topk(most).indices]
    rng = np.random.default_rng([options.seed, 1 << 20, k])
    places = inputs.free.nonzero()[:, 0].tolist()
    drawn = []
    for _ in range(RANDOM):
        t = places[int(rng.integers(len(places)))]
        others = tokens[tokens != inputs.ids[t]]
        drawn.append((t, int(others[int(rng.integers(len(others)))])))
    rows = torch.stack([inputs.ids, *(changed(inputs.ids, [one]) for one in tried + drawn)])
    per_byte = math.log(2) * _n_bytes(passage, wanted, fills(lm))
    costs = torch.cat([cost(inputs.logits(part)) for part in rows.split(inputs.rows)]).double().cpu()
    rises = ((costs[1:] - costs[0]) / per_byte).tolist()
    best = max(range(len(tried)), key=lambda i: rises[i])
    t, token = tried[best]
    old, new = lm.tokenizer.pieces([int(inputs.ids[t]), token])
    swap = Swap(lm.tokenizer.pieces(inputs.ids[max(0, t - BEFORE) : t]), old, new, rises[best])
    return swap, sum(rises[len(tried) :]) / len(drawn)


def _costing(lm: LM, passage: Passage) -> tuple[Inputs, list[int], Callable[[Tensor], Tensor]]:
    """A passage as inputs, the tokens of it that are predicted, and what they cost by the logits, (R,) nats."""
    both = fills(lm)
    wanted = _wanted(passage, None, both)
    row = torch.tensor([passage.ids], device=lm.device)
    right = row[0, wanted]
    if both:
        row[0, wanted] = lm.tokenizer.special("mask")
    model: Any = lm.model
    inputs = Inputs(model, lm.batch(row), lm.tokenizer.pieces(row[0]), slice(None))
    at = torch.tensor(wanted, device=lm.device) - (0 if both else 1)

    def cost(logits: Tensor) -> Tensor:
        logs = logits[:, at].log_softmax(dim=-1)
        return -logs.gather(2, right.expand(len(logs), -1)[..., None])[..., 0].sum(dim=1)

    return inputs, wanted, cost

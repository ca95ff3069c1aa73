"""From a prompt to a Generation: text in, the loop's tokens collected as readable pieces, text out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from llm_lab import machine
from llm_lab.decoding.choosing import SECOND, Choice, choose
from llm_lab.decoding.conditioned import FROM_SOURCE, conditioned, reads_source
from llm_lab.decoding.constraints import Constraint, constraint, spelled
from llm_lab.decoding.infill import infill
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import STRATEGIES
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.statistics import statistics
from llm_lab.decoding.strategy import Strategy
from llm_lab.decoding.writer import REFRESH_SECONDS, Writer, need_same_tokens
from llm_lab.errors import BadType, BadValue, show
from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel
from llm_lab.results import Generation, TokenStatistics
from llm_lab.tokenizers.tokenizer import Tokenizer

_SAMPLED = 12  # vectors of the vocabulary's size that choosing a token holds: logits, sorted, summed, their indices, …
_RECORDED = 400  # bytes a token takes as Python holds it: its piece, its two probabilities


@dataclass
class _Job:
    """One prompt, ready to be continued."""

    lm: Writer
    choice: Choice
    rows: Rows
    strategy: Strategy
    generator: torch.Generator
    ended: Callable[[list[int]], bool] | None
    result: Generation
    shown_prompt: str | None  # None where the prompt is a source: then what was written stands for itself
    prompt_ids: list[int]


def stream(
    lm: Writer,
    prompt: str,
    *,
    begin: Sequence[int] = (),
    ids: Sequence[int] | None = None,
    ends: Sequence[int] = (),
    **options: Any,
) -> Generator[Generation, None, None]:
    """The generation as it grows, a few states a second; the last one is `done`. Its `seed` repeats it.

    `begin` are the first tokens of what is written, given instead of chosen; `ids` the prompt's where they are not those
    of its text; `ends` reserved tokens that end the text besides its usual end.
    """
    if "fills" in STRATEGIES.entry(options.get("strategy") or usual(lm)).supports:
        yield from infill(lm, prompt, **options)
        return
    job = _prepare(lm, prompt, options, ids, ends)
    _check_begin(job, begin)
    result, n = job.result, job.choice.general.n
    began = shown = time.perf_counter()
    waited = 0.0  # the time that whoever shows the stream takes is not the model's
    tokens = 0
    try:
        for rows in decode(job.rows, job.strategy, job.generator, job.ended, begin):
            tokens = rows.written
            now = time.perf_counter()
            if now - shown > REFRESH_SECONDS:
                _fill(job, n, now - began - waited)
                yield result
                shown = time.perf_counter()
                waited += shown - now
                if result.stopping:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:  # what was written stays
        result.notes.append(f"interrupted after {tokens} tokens")
        result.interrupted = True
        result.stopping = False
    _fill(job, n, time.perf_counter() - began - waited)
    result.beams = job.strategy.beams(job.rows, lm.tokenizer)
    result.notes += job.strategy.notes()
    begun = job.rows.ids[0, : job.rows.begin].tolist()
    result.actions["statistics"] = partial(_statistics, lm.model.weakly(), lm.tokenizer, prompt, _objective(lm), begun)
    result.done = True
    yield result


def before_last(states: Generator[Generation, None, None]) -> Generator[Generation, None, Generation]:
    """What `stream` gives but for its last state, which is returned. An interrupt that comes while one is drawn is handed
    on to it, and it ends there."""
    for state in states:
        if state.done:
            return state
        try:
            yield state
        except KeyboardInterrupt as interrupt:
            return states.throw(interrupt)
    raise AssertionError("the last state is done")


def _statistics(
    reference: Callable[[], LanguageModel | None],
    tokenizer: Tokenizer,
    prompt: str,
    objective: str,
    begun: list[int],
    written: list[list[int]],
) -> list[TokenStatistics]:
    """Those of each text, while the model is there."""
    model = reference()
    if model is None:
        return []
    if objective in FROM_SOURCE:
        model = conditioned(model, tokenizer, prompt, objective)[0]
    found = [statistics(model, begun + ids, len(begun)) for ids in written]
    top = sorted({int(i) for one in found for i in one.top.flat if i < tokenizer.vocab_size})
    names = {piece.id: piece.text for piece in tokenizer.pieces(top)}
    return [replace(one, names=names) for one in found]


def _prepare(
    lm: Writer, prompt: str, options: dict[str, Any], given: Sequence[int] | None, ends: Sequence[int]
) -> _Job:
    """All that is checked and made before the first token."""
    choice = choose(options)
    general = choice.general
    if not lm.supports & {"next_token", "seq2seq"}:
        raise BadValue(
            f"strategy: {choice.name} writes on, and {lm.name} only fills in what is hidden; use --strategy fill or gibbs"
        )
    seed = general.seed if general.seed is not None else secrets.randbelow(2**31)
    tokenizer, objective, notes = lm.tokenizer, _objective(lm), list[str](lm.model.about.get("notes", ()))
    model, start, ids = beginning(lm, prompt, given)
    source = objective in FROM_SOURCE
    unknown = sorted({piece.text for piece in tokenizer.pieces(ids) if piece.unknown})
    if unknown:
        notes.append(f"the tokenizer does not know all of the prompt ({tokenizer.round_trip(prompt)})")
    if not ids:
        notes.append("no prompt was given: the model begins after a line break")
    context: int = model.max_seq_len
    kept = max(1, context // 2) if "cache" in model.supports else context
    new = general.max_new_tokens
    if reads_source(model) and len(start) + new > context:  # the source must stay in sight
        new = context - len(start)
        if new < 1:
            raise BadValue(
                f"prompt: its {len(ids)} tokens leave no room to write in the context of {context}; shorten it"
            )
        notes.append(f"the text ends at the context of {context} tokens, of which the source takes {len(ids)}")
    if len(start) > context:
        notes.append(f"the prompt has {len(start)} tokens and the context {context}: the model reads the last {kept}")
    elif len(start) + new > context and kept < context:
        notes.append(f"past the context of {context} tokens, the last {kept} are read again and the writing goes on")
    ended = "eos" in tokenizer.specials and (lm.info.get("ends") or source)
    stop = sorted({*ends, *([tokenizer.specials["eos"]] if ended else [])})
    banned = tokenizer.special_ids - set(tokenizer.sentinels if objective == "span_corruption" else [])
    banned |= set(range(tokenizer.vocab_size, model.vocab_size))  # rows of a table that was rounded up
    must = constraint(choice.constraint, tokenizer, new, stop, model.vocab_size)
    strategy = choice.strategy(must)
    strategy.other = _second(lm, choice, prompt, objective)
    n = strategy.rows(general.n)
    _check_memory(lm, n, len(start), new, len(ids) if source else 0)
    spelling = spelled(tokenizer, model.vocab_size, "bad_words") if "bad_words" in choice.filters else None
    rows = torch.tensor([start] * n, dtype=torch.long, device=lm.device)
    return _Job(
        lm,
        choice,
        Rows(model, rows, new, banned, stop, spelling=spelling),
        strategy,
        torch.Generator(lm.device).manual_seed(seed),
        _ending(general.stop, must, tokenizer),
        Generation(
            name=lm.name,
            prompt=prompt,
            prompt_pieces=tokenizer.pieces(ids),
            pieces=[],
            logprob=[[] for _ in range(general.n)],
            chosen_prob=[[] for _ in range(general.n)],
            texts=[],
            strategy=choice.name,
            options=choice.shown,
            seed=seed,
            tokens_per_second=0.0,
            done=False,
            notes=notes,
        ),
        None if source else prompt,
        ids,
    )


def _check_begin(job: _Job, begin: Sequence[int]) -> None:
    """Refuse a beginning that ends in a token which could not have been written there."""
    if not begin:
        return
    last, must = begin[-1], job.strategy.constraint
    (piece,) = job.lm.tokenizer.pieces([last])
    if last in job.rows.banned.tolist():
        raise BadValue(f"token: {show(piece.text)} is reserved, and is never written; another one would do")
    if isinstance(must, Constraint):
        left = job.rows.new - len(begin) + 1
        if not bool(must.allowed(must.state(tuple(begin[:-1])), left)[last]):
            raise BadValue(f"token: {show(piece.text)} leads to no text that is what it must be; another one would do")


def beginning(
    lm: Writer, prompt: str, given: Sequence[int] | None = None
) -> tuple[LanguageModel, list[int], list[int]]:
    """(a model of the next token, what stands there when it begins to write, the prompt's ids). `given` are those where
    they are not the ids of its text."""
    if (objective := _objective(lm)) in FROM_SOURCE:
        return conditioned(lm.model, lm.tokenizer, prompt, objective)
    ids = lm.tokenizer.encode(prompt) if given is None else list(given)
    return lm.model, ids or lm.tokenizer.encode("\n") or [lm.tokenizer.start], ids


def usual(lm: Writer) -> str:
    """The strategy where none is asked for."""
    return "fill" if "fill" in lm.supports and not lm.supports & {"next_token", "seq2seq"} else "top_p"


def _objective(lm: Writer) -> str:
    return str(lm.info.get("objective", "clm")).split(",")[0]


def _second(lm: Writer, choice: Choice, prompt: str, objective: str) -> LanguageModel | None:
    """The second model of a strategy that works with two, ready to read what the first one does."""
    name = next((name for name in SECOND if hasattr(choice.own, name)), None)
    if name is None:
        return None
    other = getattr(choice.own, name)
    if other is None:
        raise BadType(f"{choice.name} needs a second model, for example --{name} @small; it has the same tokenizer")
    if not isinstance(other, Writer):
        raise BadType(f"{name}: {show(other)} is {type(other).__name__}; an LM with the same tokenizer would do")
    need_same_tokens(name, lm, other)
    if (_objective(other) in FROM_SOURCE) != (objective in FROM_SOURCE):
        raise BadValue(
            f"{name}: {other.name} was trained for {_objective(other)} and {lm.name} for {objective}: one writes from a source and the other does not"
        )
    if objective in FROM_SOURCE:
        return conditioned(other.model, other.tokenizer, prompt, _objective(other))[0]
    return other.model


def _ending(
    words: tuple[str, ...] | None, must: Constraint | None, tokenizer: Tokenizer
) -> Callable[[list[int]], bool] | None:
    """Whether what was written is at its end: it holds a word that ends it, or is complete."""
    if words is None and must is None:
        return None
    longest = max((len(word.encode()) for word in words or ()), default=0)

    def ended(ids: list[int]) -> bool:
        if must is not None and must.ended(ids):
            return True
        # Each token but reserved ones writes a byte at least.
        text = tokenizer.decode(ids[-longest - 8 :]) if words else ""
        return any(word in text for word in words or ())

    return ended


def _check_memory(lm: Writer, n: int, prompt: int, new: int, source: int = 0) -> None:
    """Refuse more texts than memory holds before any of it is taken: on a CPU the system would kill the kernel.

    `source` are the tokens that an encoder has read: once for all texts, but each keeps its keys and values.
    """
    model = lm.model
    taken = _numbers(model, "cache" in model.supports, min(model.max_seq_len, prompt + new), prompt, new, source)
    on_device = 4 * (taken + _SAMPLED * model.vocab_size) + 2 * 8 * (prompt + new)
    on_host = _RECORDED * new
    where = lm.device
    if where.type == "cpu":
        needs = [(on_device + on_host, machine.memory().available, "")]
    else:
        needs = [
            (on_device, machine.device_memory(where).available, f" on {where}"),
            (on_host, machine.memory().available, ""),
        ]
    for row, free, place in needs:
        if n * row > free:
            fits = int(0.8 * free) // row
            works = f"--n {fits}" if fits else "a smaller --max_new_tokens"
            raise BadValue(
                f"n: {n:,} texts of {new:,} tokens need about {n * row / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free{place}; {works} would fit"
            )


def _numbers(model: LanguageModel, cached: bool, context: int, prompt: int, new: int, source: int) -> int:
    """The numbers that a text takes while it is read, of which up to `context` tokens are read at a time."""
    if isinstance(model, Ensemble):
        return sum(model.vocab_size + _numbers(one, cached, context, prompt, new, source) for one in model.members)
    config = model.config
    if not cached or config is None:  # all is read again for each token, and all logits are computed
        return 2 * context * model.vocab_size
    two = config.shape == "encoder_decoder"
    each = 2 * (config.decoder_layers if two else config.n_layer) * config.kv_heads * config.head_dim
    read = min(prompt, context) * (2 * config.ff_width + 8 * config.d_model)  # one block's activations over the prompt
    held = each * (context + (source if two else 0))
    # Past the context a second one is filled before the first is let go.
    return read + held * (2 if prompt + new > context else 1)


def _fill(job: _Job, n: int, seconds: float) -> None:
    """Write what there is into the result."""
    result, tokenizer, prompt, ids = job.result, job.lm.tokenizer, job.shown_prompt, job.prompt_ids
    texts = job.strategy.texts(job.rows, n)
    written = [one.ids for one in texts]
    result.logprob, result.chosen_prob = [one.logprob for one in texts], [one.chosen_prob for one in texts]
    result.scores = [one.score for one in texts if one.score is not None]
    result.end_logprob = [one.end for one in texts]
    result.pieces = [tokenizer.pieces(one) for one in written]
    # Where the tokenizer cannot give the prompt back as it was, the prompt itself stands before what was written.
    exact = prompt is not None and tokenizer.decode(ids) == prompt
    before = [] if prompt is None else ids
    result.texts = [
        tokenizer.decode(ids + one) if exact else (prompt or "") + tokenizer.decode(one, after=before)
        for one in written
    ]
    result.tokens_per_second = sum(map(len, written)) / seconds if seconds > 0 else 0.0


def write(lm: Writer, prompt: str, **options: Any) -> Generation:
    """The finished generation."""
    *_, last = stream(lm, prompt, **options)
    return last

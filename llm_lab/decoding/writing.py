"""From a prompt to a Generation: text in, the loop's tokens collected as readable pieces, text out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from llm_lab import machine
from llm_lab.decoding.choosing import SECOND, Choice, choose
from llm_lab.decoding.conditioned import FROM_SOURCE, conditioned, middle_ids, reads_source
from llm_lab.decoding.constraints import Constraint, constraint, spelled
from llm_lab.decoding.infill import infill
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import STRATEGIES
from llm_lab.decoding.pace import paced
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.spelling import Spelling
from llm_lab.decoding.statistics import statistics
from llm_lab.decoding.strategy import Generators, Strategy
from llm_lab.decoding.writer import Writer, need_same_tokens
from llm_lab.errors import BadType, BadValue, show
from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel
from llm_lab.results import Generation, TokenStatistics
from llm_lab.tokenizers.tokenizer import Tokenizer

_S = TypeVar("_S")

MOST_SEEDS = 2**63
_SAMPLED = 12  # vectors of the vocabulary's size that choosing a token holds: logits, sorted, summed, their indices, …
_RECORDED = 400  # bytes a token takes as Python holds it: its piece, its two probabilities


@dataclass(frozen=True, eq=False)
class Setting:
    """What holds whatever the prompt is: what was asked for, what is never written, what ends a text."""

    lm: Writer
    choice: Choice
    seed: int
    objective: str
    stop: list[int]
    banned: set[int]
    must: Constraint | None
    spelling: Spelling | None


@dataclass(frozen=True, eq=False)
class Asked:
    """One prompt as the model reads it, and the result that its texts become."""

    model: LanguageModel
    start: list[int]  # what is written after
    new: int  # tokens to write at most
    source: int  # tokens that an encoder has read
    ids: list[int]  # the prompt's
    shown: str | None  # None where the prompt is a source: then what was written stands for itself
    result: Generation


@dataclass(frozen=True, eq=False)
class Job:
    """One prompt, or several, ready to be continued: n rows for each, one after the other."""

    setting: Setting
    asked: Sequence[Asked]
    rows: Rows
    strategy: Strategy
    must: Constraint | None
    generator: torch.Generator


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
    if fills(lm, options):
        yield from infill(lm, prompt, **options)
        return
    how = setting(lm, options, ends)
    one = read(how, prompt, given=ids)
    job = prepare(how, [one])
    _check_begin(job, begin)
    yield from grow(job, one.result, begin)


def fills(lm: Writer, options: Mapping[str, Any]) -> bool:
    """Whether places in the prompt are filled in, by a loop of its own."""
    return "fills" in STRATEGIES.entry(options.get("strategy") or usual(lm)).supports


def grow(job: Job, shown: _S, begin: Sequence[int] = ()) -> Generator[_S, None, None]:
    """Write; gives `shown` a few times a second, its results being up to date, and when they are `done`."""
    ended = _ending(job.setting.choice.general.stop, job.must, job.setting.lm.tokenizer)
    steps = (rows.written for rows in decode(job.rows, job.strategy, job.generator, ended, begin))
    results = [one.result for one in job.asked]
    yield from paced(steps, results, lambda _, seconds: _fill(job, seconds), shown, "tokens")
    lm, objective = job.setting.lm, job.setting.objective
    for one in job.asked:
        one.result.beams = job.strategy.beams(job.rows, lm.tokenizer)
        one.result.notes += job.strategy.notes()
        one.result.actions["statistics"] = partial(
            _statistics, lm.model.weakly(), lm.tokenizer, one.result.prompt, objective, one.start
        )
        one.result.done = True
    yield shown


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


def setting(lm: Writer, options: Mapping[str, Any], ends: Sequence[int] = ()) -> Setting:
    """All that is checked and made once, whatever the prompts are."""
    choice = choose(options)
    if not lm.supports & {"next_token", "seq2seq"}:
        raise BadValue(
            f"strategy: {choice.name} writes on, and {lm.name} only fills in what is hidden; use --strategy fill or gibbs"
        )
    general, tokenizer, objective = choice.general, lm.tokenizer, lm.objectives[0]
    taught = lm.info.get("ends") or objective in (*FROM_SOURCE, "fim")
    ended = "eos" in tokenizer.specials and taught
    stop = sorted({*ends, *([tokenizer.specials["eos"]] if ended else [])})
    banned = tokenizer.special_ids - set(tokenizer.sentinels if objective == "span_corruption" else [])
    banned |= set(range(tokenizer.vocab_size, lm.model.vocab_size))  # rows of a table that was rounded up
    return Setting(
        lm,
        choice,
        general.seed if general.seed is not None else secrets.randbelow(2**31),
        objective,
        stop,
        set(banned),
        constraint(choice.constraint, tokenizer, general.max_new_tokens, stop, lm.model.vocab_size),
        spelled(tokenizer, lm.model.vocab_size, "bad_words") if "bad_words" in choice.filters else None,
    )


def read(how: Setting, prompt: str, number: int = 0, given: Sequence[int] | None = None) -> Asked:
    """A prompt as ids, those `given` where there are some, with what its reader should know of it. Of several, each has the
    seed of the first and its number."""
    lm, general = how.lm, how.choice.general
    source = how.objective in FROM_SOURCE or (how.objective == "fim" and given is None and "<mask>" in prompt)
    tokenizer, notes = lm.tokenizer, list[str](lm.model.about.get("notes", ()))
    model, start, ids = beginning(lm, prompt, given)
    if any(piece.unknown for piece in tokenizer.pieces(ids)):
        notes.append(f"the tokenizer does not know all of the prompt ({tokenizer.round_trip(prompt)})")
    if not ids:
        notes.append("no prompt was given: the model begins after a line break")
    if how.objective == "span_corruption" and "<extra_" not in prompt:
        notes.append("this model writes what stands for <extra_0>, <extra_1>, … in its prompt, and there is none in it")
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
    result = Generation(
        name=lm.name,
        prompt=prompt,
        prompt_pieces=tokenizer.pieces(ids),
        pieces=[],
        logprob=[],
        chosen_prob=[],
        texts=[],
        strategy=how.choice.name,
        options=how.choice.shown,
        seed=(how.seed + number) % MOST_SEEDS,
        tokens_per_second=0.0,
        from_source=source,
        done=False,
        notes=notes,
    )
    return Asked(model, start, new, len(ids) if source else 0, ids, None if source else prompt, result)


def prepare(how: Setting, asked: Sequence[Asked]) -> Job:
    """The rows of one prompt; or of several, shorter ones filled up on the left, where the strategy chooses by row."""
    lm, general, first = how.lm, how.choice.general, asked[0]
    must = how.must
    if first.new < general.max_new_tokens:  # so what must be is met sooner
        must = constraint(how.choice.constraint, lm.tokenizer, first.new, how.stop, lm.model.vocab_size)
    if must is not None:
        must.forget()
    strategy = how.choice.strategy(must)
    strategy.other = second(how, first)
    n = strategy.rows(general.n)
    longest = max(len(one.start) for one in asked)
    _check_memory(lm, n * len(asked), longest, first.new, first.source)
    rows = [[0] * (longest - len(one.start)) + one.start for one in asked for _ in range(n)]
    kept = [[False] * (longest - len(one.start)) + [True] * len(one.start) for one in asked for _ in range(n)]
    keep = None if all(map(all, kept)) else torch.tensor(kept, device=lm.device)
    ids = torch.tensor(rows, dtype=torch.long, device=lm.device)
    return Job(
        how,
        asked,
        Rows(first.model, ids, first.new, how.banned, how.stop, keep, how.spelling),
        strategy,
        must,
        torch.Generator(lm.device).manual_seed(first.result.seed)
        if len(asked) == 1
        else Generators(lm.device, [one.result.seed for one in asked]),
    )


def _check_begin(job: Job, begin: Sequence[int]) -> None:
    """Refuse a beginning that ends in a token which could not have been written there."""
    if not begin:
        return
    last, must = begin[-1], job.strategy.constraint
    (piece,) = job.setting.lm.tokenizer.pieces([last])
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
    if (objective := lm.objectives[0]) in FROM_SOURCE:
        return conditioned(lm.model, lm.tokenizer, prompt, objective)
    middle = middle_ids(prompt, lm.tokenizer) if objective == "fim" and given is None else None
    ids = middle or (lm.tokenizer.encode(prompt) if given is None else list(given))
    return lm.model, ids or lm.tokenizer.encode("\n") or [lm.tokenizer.start], ids


def usual(lm: Writer) -> str:
    """The strategy where none is asked for."""
    return "fill" if "fill" in lm.supports and not lm.supports & {"next_token", "seq2seq"} else "top_p"


def second(how: Setting, one: Asked) -> LanguageModel | None:
    """The second model of a strategy that works with two, ready to read what the first one does."""
    lm, choice, objective = how.lm, how.choice, how.objective
    name = next((name for name in SECOND if hasattr(choice.own, name)), None)
    if name is None:
        return None
    other = getattr(choice.own, name)
    if other is None:
        raise BadType(f"{choice.name} needs a second model, for example --{name} @small; it has the same tokenizer")
    if not isinstance(other, Writer):
        raise BadType(f"{name}: {show(other)} is {type(other).__name__}; an LM with the same tokenizer would do")
    need_same_tokens(name, lm, other)
    if (other.objectives[0] in FROM_SOURCE) != (objective in FROM_SOURCE):
        raise BadValue(
            f"{name}: {other.name} was trained for {other.objectives[0]} and {lm.name} for {objective}: one writes from a source and the other does not"
        )
    if objective in FROM_SOURCE:
        return conditioned(other.model, other.tokenizer, one.result.prompt, other.objectives[0])[0]
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


def before_end(text: str, stop: Sequence[str]) -> str:
    """What was written before the first of the texts that end it."""
    return text[: min((at for word in stop if (at := text.find(word)) >= 0), default=len(text))]


def _check_memory(lm: Writer, rows: int, prompt: int, new: int, source: int = 0) -> None:
    """Refuse more texts than memory holds before any of it is taken: on a CPU the system would kill the kernel."""
    for row, free, place in _needed(lm, prompt, new, source):
        if rows * row > free:
            fits = int(0.8 * free) // row
            works = f"--n {fits}" if fits else "a smaller --max_new_tokens"
            raise BadValue(
                f"n: {rows:,} texts of {new:,} tokens need about {rows * row / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free{place}; {works} would fit"
            )


def fitting(lm: Writer, prompt: int, new: int) -> int:
    """How many texts fit into memory with room to spare; 1 at least."""
    return max(1, min(int(0.8 * free) // row for row, free, _ in _needed(lm, prompt, new)))


def _needed(lm: Writer, prompt: int, new: int, source: int = 0) -> list[tuple[int, int, str]]:
    """(bytes that a text takes, bytes that are free, where), for each memory that it takes.

    `source` are the tokens that an encoder has read: once for all texts, but each keeps its keys and values.
    """
    model = lm.model
    taken = _numbers(model, "cache" in model.supports, min(model.max_seq_len, prompt + new), prompt, new, source)
    on_device = 4 * (taken + _SAMPLED * model.vocab_size) + 2 * 8 * (prompt + new)
    on_host = _RECORDED * new
    where = lm.device
    if where.type == "cpu":
        return [(on_device + on_host, machine.memory().available, "")]
    return [
        (on_device, machine.device_memory(where).available, f" on {where}"),
        (on_host, machine.memory().available, ""),
    ]


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


def _fill(job: Job, seconds: float) -> None:
    """Write what there is into the results."""
    tokenizer, n = job.setting.lm.tokenizer, job.setting.choice.general.n
    texts = job.strategy.texts(job.rows, n * len(job.asked))
    speed = sum(len(one.ids) for one in texts) / seconds if seconds > 0 else 0.0
    for i, one in enumerate(job.asked):
        result, own = one.result, texts[i * n : (i + 1) * n]
        written = [text.ids for text in own]
        result.logprob, result.chosen_prob = [text.logprob for text in own], [text.chosen_prob for text in own]
        result.scores = [text.score for text in own if text.score is not None]
        result.end_logprob = [text.end for text in own]
        result.pieces = [tokenizer.pieces(ids) for ids in written]
        # Where the tokenizer cannot give the prompt back as it was, the prompt itself stands before what was written.
        exact = one.shown is not None and tokenizer.decode(one.ids) == one.shown
        before = [] if one.shown is None else one.ids
        result.texts = [
            tokenizer.decode(one.ids + ids) if exact else (one.shown or "") + tokenizer.decode(ids, after=before)
            for ids in written
        ]
        result.tokens_per_second = speed


def write(lm: Writer, prompt: str, **options: Any) -> Generation:
    """The finished generation."""
    *_, last = stream(lm, prompt, **options)
    return last

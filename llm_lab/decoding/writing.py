"""From a prompt to a Generation: text in, the loop's tokens collected as readable pieces, text out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from llm_lab import machine
from llm_lab.decoding.conditioned import FROM_SOURCE, conditioned
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import STRATEGIES, GenerateOptions, strategy_options
from llm_lab.decoding.strategy import Strategy
from llm_lab.errors import BadType, BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.options import distribute, specs
from llm_lab.results import Generation
from llm_lab.tokenizers.tokenizer import Tokenizer

REFRESH_SECONDS = 0.4  # between two states of a stream
_SAMPLED = 12  # vectors of the vocabulary's size that choosing a token holds: logits, sorted, summed, their indices, …
_RECORDED = 400  # bytes a token takes as Python holds it: its piece, its two probabilities


@runtime_checkable
class Writer(Protocol):
    """What writes: an LM."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    info: dict[str, Any]

    @property
    def device(self) -> torch.device: ...

    @property
    def supports(self) -> frozenset[str]: ...


def choose(options: dict[str, Any]) -> tuple[GenerateOptions, Strategy, dict[str, Any]]:
    """The generation's options, the strategy made, and its own options as they are shown.

    Raises BadType for an option that belongs to another strategy.
    """
    distribute((GenerateOptions, *strategy_options()), options, "generate")  # names and values first
    general = GenerateOptions(**{key: value for key, value in options.items() if key in specs(GenerateOptions)})
    entry = STRATEGIES.entry(general.strategy)
    own = specs(entry.options) if entry.options else {}
    given = {key: value for key, value in options.items() if key not in specs(GenerateOptions)}
    for key in given:
        if key not in own:
            others = [name for name, e in STRATEGIES.items() if e.options and key in specs(e.options)]
            raise BadType(
                f"{key} is an option of {' and '.join(others)}, and the strategy is {general.strategy}; add for example --strategy {others[0]}"
            )
    assert entry.options is not None
    made = entry.options(**given)
    return general, entry.load()(made), made.to_dict()


def stream(lm: Writer, prompt: str, **options: Any) -> Iterator[Generation]:
    """The generation as it grows, a few states a second; the last one is `done`. Its `seed` repeats it."""
    general, strategy, own = choose(options)
    seed = general.seed if general.seed is not None else secrets.randbelow(2**31)
    tokenizer, notes = lm.tokenizer, []
    model = lm.model
    objective = lm.info.get("objective", "clm").split(",")[0]
    begins: list[int] = []
    if objective in FROM_SOURCE:
        model, begins, ids = conditioned(model, tokenizer, prompt, objective)
    else:
        ids = tokenizer.encode(prompt)
    unknown = sorted({piece.text for piece in tokenizer.pieces(ids) if piece.unknown})
    if unknown:
        loss = tokenizer.round_trip(prompt)
        notes.append(f"the tokenizer does not know all of the prompt ({loss})")
    start = begins or ids or tokenizer.encode("\n") or [tokenizer.start]
    if not ids:
        notes.append("no prompt was given: the model begins after a line break")
    context: int = model.max_seq_len
    kept = max(1, context // 2) if "cache" in model.supports else context
    if len(start) > context:
        notes.append(f"the prompt has {len(start)} tokens and the context {context}: the model reads the last {kept}")
    elif len(start) + general.max_new_tokens > context and kept < context:
        notes.append(f"past the context of {context} tokens, the last {kept} are read again and the writing goes on")
    ends = "eos" in tokenizer.specials and (lm.info.get("ends") or objective in FROM_SOURCE)
    stop = {tokenizer.specials["eos"]} if ends else set()
    banned = tokenizer.special_ids - set(tokenizer.sentinels if objective == "span_corruption" else [])
    banned |= set(range(tokenizer.vocab_size, model.vocab_size))  # rows of a table that was rounded up
    _check_memory(lm, general.n, len(start), general.max_new_tokens, len(ids) if begins else 0)
    result = Generation(
        name=lm.name,
        prompt=prompt,
        prompt_pieces=tokenizer.pieces(ids),
        pieces=[],
        logprob=[[] for _ in range(general.n)],
        chosen_prob=[[] for _ in range(general.n)],
        texts=[],
        strategy=general.strategy,
        options=own,
        seed=seed,
        tokens_per_second=0.0,
        done=False,
        notes=notes,
    )
    written: list[list[int]] = [[] for _ in range(general.n)]
    generator = torch.Generator(lm.device).manual_seed(seed)
    rows = torch.tensor([start] * general.n, dtype=torch.long, device=lm.device)
    began = shown = time.perf_counter()
    waited = 0.0  # the time that whoever shows the stream takes is not the model's
    try:
        for token in decode(model, rows, strategy, general.max_new_tokens, generator, banned, stop):
            columns = (token.tokens.tolist(), token.logprob.tolist(), token.chosen_prob.tolist(), token.alive.tolist())
            for row, (chosen, logprob, prob, alive) in enumerate(zip(*columns, strict=True)):
                if alive and chosen not in stop:
                    written[row].append(chosen)
                    result.logprob[row].append(logprob)
                    result.chosen_prob[row].append(prob)
            now = time.perf_counter()
            if now - shown > REFRESH_SECONDS:
                _fill(result, tokenizer, None if begins else prompt, ids, written, now - began - waited)
                yield result
                shown = time.perf_counter()
                waited += shown - now
    except KeyboardInterrupt:  # what was written stays; a token that came half-way does not
        for ids_, logs, probs in zip(written, result.logprob, result.chosen_prob, strict=True):
            whole = min(len(ids_), len(logs), len(probs))
            del ids_[whole:], logs[whole:], probs[whole:]
        notes.append(f"interrupted after {max(map(len, written))} tokens")
    _fill(result, tokenizer, None if begins else prompt, ids, written, time.perf_counter() - began - waited)
    result.done = True
    yield result


def _check_memory(lm: Writer, n: int, prompt: int, new: int, source: int = 0) -> None:
    """Refuse more texts than memory holds before any of it is taken: on a CPU the system would kill the kernel.

    `source` are the tokens that an encoder has read: once for all texts, but each keeps its keys and values.
    """
    model, config = lm.model, lm.model.config
    length = min(prompt, model.max_seq_len)
    if "cache" in model.supports and config is not None:
        two = config.shape == "encoder_decoder"
        each = 2 * (config.decoder_layers if two else config.n_layer) * config.kv_heads * config.head_dim
        read = length * (2 * config.ff_width + 8 * config.d_model)  # one block's activations over the prompt
        held = each * (min(prompt + new, model.max_seq_len) + (source if two else 0))
        if prompt + new > model.max_seq_len:
            held *= 2  # past the context a second one is filled before the first is let go
    else:  # all is read again for each token, and all logits are computed
        length = min(prompt + new, model.max_seq_len)
        read, held = 2 * length * model.vocab_size, 0
    on_device = 4 * (read + held + _SAMPLED * model.vocab_size) + 2 * 8 * (prompt + new)
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


def _fill(
    result: Generation,
    tokenizer: Tokenizer,
    prompt: str | None,
    ids: list[int],
    written: list[list[int]],
    seconds: float,
) -> None:
    """`prompt` is None where it is a source: then what was written stands for itself."""
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

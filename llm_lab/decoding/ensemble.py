"""Several models that write as one: by an average of what they say of each next token, or by a vote on finished texts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llm_lab.decoding.conditioned import FROM_SOURCE
from llm_lab.decoding.options import ENSEMBLES, FILLS, JUDGES, STRATEGIES, EnsembleOptions
from llm_lab.decoding.regrow import growing
from llm_lab.decoding.statistics import log_probs
from llm_lab.decoding.writer import need_same_tokens
from llm_lab.decoding.writing import before_last, beginning, stream, usual
from llm_lab.errors import BadType, BadValue, listing
from llm_lab.models.ensemble import Ensemble, shares
from llm_lab.results import Generation, TokenStatistics
from llm_lab.store.lm import LM, in_common

_ABOUT = ("corpus", "held_out", "chat_template")
_TRAINED = ("objective", "objective_options", "mix", "weights")  # what says how a model was trained
_TASKS = {"next_token": "clm", "fill": "mlm"}  # what models that were trained in different ways may have in common


def stream_of(lms: Sequence[LM], how: EnsembleOptions) -> Callable[[str, Mapping[str, Any]], Iterator[Generation]]:
    """What writes from a prompt, given options: one model, or several in the way that was chosen."""
    if len(lms) == 1:
        for name, value in how.to_dict().items():
            if value is not None:
                raise BadType(f"{name} is for several models, and there is {lms[0].name} alone; name more: a,b")
        return partial(growing, lms[0])
    chosen = ENSEMBLES.entry(how.ensemble or "probs")
    if chosen.supports & JUDGES:
        return partial(chosen.load(), lms, how.ensemble_weights)
    return partial(growing, join(lms, chosen.name, how.ensemble_weights, "ensemble_weights"))


def join(
    lms: Sequence[LM], average: str, weights: Sequence[float] | None, argument: str = "weights", name: str | None = None
) -> LM:
    """The models as one LM; `argument` is what the weights are called. BadValue where they do not go together, or where
    the average is none of the next token."""
    entry = ENSEMBLES.entry(average)
    if entry.supports & JUDGES:
        raise BadValue(
            f'average: {average!r} judges finished texts and says nothing of a next token; use it as lab.generate([a, b], "ROMEO:", ensemble={average!r})'
        )
    info, each = _common(lms), shares(argument, weights, len(lms))
    model = Ensemble([lm.model for lm in lms], entry.load(), each)
    told = "" if weights is None else f", weights={tuple(weights)!r}"
    model.about = {
        "name": name or " + ".join(lm.name for lm in lms),
        "title": "ensemble",
        "code": f"lab.ensemble([{', '.join(lm.called for lm in lms)}], average={average!r}{told})",
        "notes": [f"{_counted(lms, each)} as one: {entry.help}"],
    }
    return LM(model.about["name"], model, lms[0].tokenizer, info=info)


def _counted(lms: Sequence[LM], each: Sequence[float]) -> str:
    return listing(f"{lm.name} ({share:.0%})" for lm, share in zip(lms, each, strict=True))


def _common(lms: Sequence[LM]) -> dict[str, Any]:
    """How the models were trained, as far as they have it in common. BadValue that says what keeps them apart."""
    first, *others = lms
    for other in others:
        need_same_tokens("model", first, other)
        if other.device != first.device:
            raise BadValue(
                f"model: {other.name} is on {other.device} and {first.name} on {first.device}; {other.name}.model.to({str(first.device)!r}) would do"
            )
        if _way(other) != _way(first):
            raise BadValue(
                f"model: {other.name} {_way(other)}, and {first.name} {_way(first)}; models that write in the same way would do"
            )
    able = frozenset.intersection(*(lm.supports for lm in lms))
    tasks = [task for ability, task in _TASKS.items() if ability in able]
    if not tasks and "seq2seq" not in able:
        has = "; ".join(f"{lm.name} has: {listing(sorted(lm.supports))}" for lm in lms)
        raise BadValue(
            f"model: there is no kind of writing that all of them can do ({has}); models of one objective would do"
        )

    alike = all(lm.info.get(key) == first.info.get(key) for lm in others for key in _TRAINED)
    if alike and not any(len(lm.extras) for lm in lms):
        return in_common(lms, (*_ABOUT, *_TRAINED))
    objective = first.objectives[0] if first.objectives[0] in FROM_SOURCE else ",".join(tasks)
    return in_common(lms, _ABOUT) | {"objective": objective}


def _way(lm: LM) -> str:
    """What it begins to write with: rows of one ensemble hold the same tokens."""
    if lm.objectives[0] not in FROM_SOURCE:
        return "continues a text, or fills it in"
    stacks = "one stack" if "next_token" in lm.model.supports else "two stacks"
    return f"writes from a source, as {lm.objectives[0]} has it, with {stacks}"


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A finished text, who wrote it, and what all think of it."""

    by: list[LM]  # those that wrote the same
    found: Generation
    sample: int
    score: float


def vote(
    lms: Sequence[LM], weights: Sequence[float] | None, prompt: str, options: Mapping[str, Any]
) -> Iterator[Generation]:
    """Each model writes its n texts, and the n best of them all stay, best first, each once. A text's score is the mean
    over the models, by their weights, of its log-probability a token, in nats, the token that ended it included.

    The last state is the result; those before are of the model that is writing. `logprob` and the statistics of a text
    are those of the model that wrote it.
    """
    _common(lms)
    each = shares("ensemble_weights", weights, len(lms))
    for lm in lms:
        strategy = options.get("strategy") or usual(lm)
        if STRATEGIES.entry(strategy).supports & FILLS:
            raise BadValue(
                f"ensemble: vote scores texts that are written from left to right, and {strategy} fills in; use --ensemble probs"
            )
    began = time.perf_counter()
    if options.get("seed") is None:
        options = {**options, "seed": secrets.randbelow(2**31)}
    written: list[tuple[LM, Generation]] = []
    for lm in lms:
        found = yield from before_last(stream(lm, prompt, **options))
        written.append((lm, found))
        if found.interrupted:  # the others do not begin
            break
    candidates = _scored(lms, each, prompt, written)
    n = max(len(found.pieces) for _, found in written)
    best = sorted(candidates, key=lambda one: -one.score)[:n]
    told = [
        f"text {i} is {' and '.join(lm.name for lm in one.by)}'s ({one.score:.3f})" for i, one in enumerate(best, 1)
    ]
    fewer = [f"{n} texts were asked for, and no more than {len(best)} are different"] if len(best) < n else []
    yield replace(
        written[0][1],
        name=" + ".join(lm.name for lm in lms),
        pieces=[one.found.pieces[one.sample] for one in best],
        logprob=[one.found.logprob[one.sample] for one in best],
        chosen_prob=[one.found.chosen_prob[one.sample] for one in best],
        texts=[one.found.texts[one.sample] for one in best],
        tokens_per_second=sum(len(ids) for _, found in written for ids in found.tokens) / (time.perf_counter() - began),
        scores=[one.score for one in best],
        end_logprob=[one.found.end_logprob[one.sample] for one in best],
        beams=None,
        interrupted=any(found.interrupted for _, found in written),
        actions={"statistics": partial(_statistics, [(one.found, one.sample) for one in best])},
        notes=[
            *dict.fromkeys(note for _, found in written for note in found.notes),
            *fewer,
            f"the best of {len(candidates)} texts by the mean over {_counted(lms, each)} of the log-probability a token, in nats: {listing(told)}",
            "what is shown of a token is what the model thought that wrote it",
        ],
    )


def _scored(
    lms: Sequence[LM], each: Sequence[float], prompt: str, written: Sequence[tuple[LM, Generation]]
) -> list[_Candidate]:
    readers = [beginning(lm, prompt)[:2] for lm in lms]
    found: dict[tuple[int, ...], _Candidate] = {}
    for by, texts in written:
        for sample, ids in enumerate(texts.tokens):
            unended = texts.end_logprob[sample] is None
            if (again := found.get((*ids, unended))) is not None:  # it was written before, perhaps by another model
                again.by.extend([by] if by not in again.by else [])
                continue
            whole = ids if unended else [*ids, by.tokenizer.specials["eos"]]
            sums = [sum(log_probs(model, start + whole, len(start))) for model, start in readers]
            total = sum(share * one for share, one in zip(each, sums, strict=True))
            found[*ids, unended] = _Candidate([by], texts, sample, total / max(1, len(whole)))
    return list(found.values())


def _statistics(chosen: Sequence[tuple[Generation, int]], written: list[list[int]]) -> list[TokenStatistics]:
    """Those of each text that is `written`; none where the models are gone."""
    found = [(texts.statistics, sample) for texts, sample in chosen]
    return [known[sample] for known, sample in found] if all(known for known, _ in found) else []

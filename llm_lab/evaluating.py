"""Models measured on one text, or each on what it was held out: which text, what it says of each, what to be careful of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_lab.corpora.open import open_corpus
from llm_lab.corpora.options import opening
from llm_lab.data.arrays import tokenize
from llm_lab.errors import DIVERGED, BadValue, listing
from llm_lab.metrics.evaluate import evaluate as measure
from llm_lab.metrics.evaluate import likelihoods
from llm_lab.metrics.options import METRICS
from llm_lab.objectives.make import check_text
from llm_lab.options import distribute
from llm_lab.results import Evaluation
from llm_lab.store import runs as store
from llm_lab.store import texts
from llm_lab.store.lm import LM, called
from llm_lab.verbs import VERBS


def evaluate(lms: Sequence[LM], data: Any, options: Mapping[str, Any]) -> Evaluation:
    """`data` is whatever `open_corpus` takes, or None for each model's own held-out text."""
    chosen, *_ = distribute(VERBS["evaluate"].options, options, "evaluate")
    source = opening(options)
    if not chosen.metrics:
        raise BadValue(f"metrics: it names none; there is: {listing(METRICS)}")
    if data is None and source:
        raise BadValue(
            f"{listing(source)}: says how `data` is read, and none was given; each model's held-out text needs no more"
        )
    text = None if data is None else open_corpus(data, **source)
    scores, told = [], []
    notes: list[str] = []
    for lm in lms:
        unit, objective = lm.tokenizer.unit, lm.objective()
        if text is None:
            tokens = texts.held_out(lm, [store.cache(make=False)], "data")
            told.append(f"{lm.info.get('corpus')}, held-out {len(tokens):,} {unit}s")
        else:
            check_text(objective, lm.objectives, text)
            tokens = tokenize(texts.as_trained(lm, text, notes), lm.tokenizer, store.cache())
            told.append(f"{text.name}, {text.n_chars:,} characters")
        notes += _what_is_lost(lm, tokens.ids, chosen.metrics)
        trainee = lm.trainee(objective)
        if objective.pairs:
            objective.prepare(tokens.ids)
            notes += [f"{lm.name}: {note}" for note in objective.notes(lm.model.max_seq_len)]
        found = measure(likelihoods(lm.name, trainee, objective, tokens, unit), chosen.metrics)
        scores += found
        if any(math.isnan(score.value) for score in found):
            notes.append(f"{lm.name}'s {DIVERGED}")
        gone = [
            metric
            for metric in (chosen.metrics if options.get("metrics") else ())
            if metric not in {score.metric for score in found}
        ]
        if gone:
            notes.append(
                f"{lm.name}: {listing(gone)} is left out: the loss of {listing(lm.objectives)} is no likelihood of a text"
            )
    if len({lm.tokenizer.fingerprint for lm in lms}) > 1:
        notes.append("the models' tokenizers differ: compare bits_per_byte, not loss or perplexity")
    same_text = data is not None or len({lm.info.get("held_out", "").split("-")[0] for lm in lms}) == 1
    if not same_text:
        notes.append("each model was measured on its own held-out text: give `data` to compare them on one")
    names = [lm.name for lm in lms]
    what = [] if data is None else [repr(data) if isinstance(data, str) else "data"]
    return Evaluation(
        models=names,
        data="; ".join(dict.fromkeys(told)),
        comparable=same_text,
        scores=scores,
        notes=notes,
        code=f"lab.evaluate({', '.join([called(lms), *what, *(f'{key}={value!r}' for key, value in options.items())])})",
    )


def _what_is_lost(lm: LM, ids: Any, metrics: Sequence[str]) -> list[str]:
    """What a tokenizer drops of the text, since no metric counts it."""
    unknown = int((ids == lm.tokenizer.specials.get("unk", -1)).sum())
    notes: list[str] = []
    if unknown:
        notes.append(
            f"{lm.name}'s tokenizer does not know {unknown / len(ids):.2%} of the tokens ({unknown:,}), which count as one token whatever they hide: its scores are better than they should be"
        )
    if lm.tokenizer.kind == "wordpiece" and "bits_per_byte" in metrics:
        notes.append(
            f"{lm.name}'s wordpiece tokenizer loses spaces and line breaks: its bits_per_byte leaves them out, so it compares with the same tokenizer alone"
        )
    return notes

"""Prompts as experiments: templates filled from the rows of a table, each model asked for every row, the answers measured."""

from __future__ import annotations

import inspect
import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_lab.decoding.conditioned import FROM_SOURCE, source_ids
from llm_lab.decoding.infill import gaps_in
from llm_lab.decoding.options import DRAWS, FILLS, STRATEGIES
from llm_lab.decoding.together import stream_all
from llm_lab.decoding.writing import before_end
from llm_lab.errors import BadType, BadValue, LabError, listing, show
from llm_lab.filling import Rows, filled, named, separator_of, unescaped
from llm_lab.metrics.continuations import check_continuation, continuation_logprobs
from llm_lab.metrics.options import ANSWERS, GIVEN, SHARE
from llm_lab.options import distribute
from llm_lab.results import ANSWER_COLUMNS, Answer, Generation, Prompt, PromptResults, mean
from llm_lab.store.lm import LM
from llm_lab.templates import Template
from llm_lab.verbs import VERBS, PromptOptions

if TYPE_CHECKING:
    from llm_lab.decoding.writer import Writer

PREVIEWED = 3  # rows
_CHOSEN_AT_A_TIME = 16  # rows whose choices are scored between two states of the result
_OWN = ("on", "target", "examples", "shots", "separator", "target_delimiter", "metrics", "choices")  # not of decoding


def prepare(name: str, texts: Sequence[str], options: Mapping[str, Any]) -> tuple[Prompt, PromptOptions, Rows | None]:
    """The prompt with a preview of its first rows, what was asked for, and the rows where there are some."""
    own, *_ = distribute(VERBS["prompt"].options_for(options), options, "prompt")
    own = unescaped(own)
    templates = [Template.read(text) for text in texts]
    if not templates:
        raise BadValue('template: the list is empty; for example "Translate: {{english}}"')
    if len({template.text for template in templates}) < len(templates):
        raise BadValue("template: one of them is given twice; change it, or leave it out")
    plain = {key: value for key, value in options.items() if not isinstance(value, LM)}
    prompt = Prompt(name=name, templates=templates, options=plain)
    prompt.notes += [
        f"template {i} has no slots: it is the same for every row"
        for i, template in enumerate(templates, 1)
        if not template.fields
    ]
    if own.on is None:
        return prompt, own, None
    rows = filled(templates, own, prompt.notes)
    prompt.preview = rows.prompts[0][:PREVIEWED]
    return prompt, own, rows


def again(options: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What adds the second models of these options to others, as long as they are there: it keeps none."""
    second = {key: value.weakly() for key, value in options.items() if isinstance(value, LM)}

    def added(others: Mapping[str, Any]) -> dict[str, Any]:
        models = {key: reference() for key, reference in second.items() if key not in others}
        for key in (key for key, model in models.items() if model is None):
            raise BadValue(f"{key}: the model that it was is gone; load it, and give it here, for example {key}=small")
        return {**models, **others}

    return added


def run(
    prompt: Prompt, own: PromptOptions, rows: Rows, lms: Sequence[LM], given: Mapping[str, Any]
) -> Iterator[PromptResults]:
    """The results as they grow, decoded by what of the `given` options is for that. An interrupt keeps the rows that are
    done; so does a model that fails after others have answered."""
    notes = list(prompt.notes)
    metrics = _metrics(own, rows, notes)
    options = {key: value for key, value in given.items() if key not in _OWN}
    if own.choices and (writing := [name for name in options if name != "seed"]):
        raise BadType(f"{writing[0]}: it is for writing, and choices are compared; leave one of them out")
    drawn = bool(STRATEGIES.entry(own.strategy).supports & DRAWS) and not own.choices
    seed = (secrets.randbelow(2**31) if own.seed is None else own.seed) if drawn else None
    options |= {} if seed is None else {"seed": seed}
    result = PromptResults(
        prompt=prompt,
        models=_numbered([lm.name for lm in lms]),
        frame=rows.frame,
        labels=rows.labels,
        values=[{field: str(row[field]) for field in prompt.fields} for row in rows.values],
        targets=rows.targets,
        metrics={name: metric.unit for name, metric in metrics.items()},
        facts=_facts(own, rows, all(map(_writes, lms))),
        seed=seed,
        notes=notes,
    )
    if renamed := result.renamed:
        others = listing(f"{old} as {new}" for old, new in renamed.items())
        result.notes.append(f"columns of the rows that have a name of ours stand in .to_pandas() as others: {others}")
    said: dict[str, _Note] = {}
    for lm in lms:
        _check_model(lm, own, metrics, rows)
    try:
        for m, t in result.kinds:
            asked = _Asked(lms[m], own, rows, t, options, said)
            try:
                for some in asked.chosen() if own.choices else asked.written():
                    scored = _scored(some, asked, metrics)
                    result.answers += [
                        Answer(template=t, model=m, prompt=rows.prompts[t - 1][one.row], scores=scores, **vars(one))
                        for one, scores in zip(some, scored, strict=True)
                    ]
                    result.shares = frozenset(name for name, metric in metrics.items() if metric.is_share)
                    # Batches are of prompts of like lengths; a reader wants the rows as they are.
                    result.answers.sort(key=lambda one: (one.model, one.template, one.row, one.sample))
                    yield result
            except (LabError, RuntimeError, MemoryError) as error:  # RuntimeError: what torch says of memory, too
                if not result.answers:
                    raise
                which = f", template {t}" if len(prompt.templates) > 1 else ""
                result.notes.append(f"{result.models[m]}{which} failed ({_said(error)}); what was answered is kept")
    except KeyboardInterrupt:
        each = {(answer.model, answer.template, answer.row) for answer in result.answers}
        result.notes.append(f"interrupted: {len(each):,} of {result.wanted:,} were asked, and are kept")
    result.notes += [f"{named([rows.labels[i] for i in sorted(note.rows)])}: {note.text}" for note in said.values()]
    result.done = True
    yield result


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which several are the same get numbers: lm (1), lm (2)."""
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]


# the answers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Text:
    """An answer before it is measured."""

    row: int
    sample: int
    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class _Note:
    """What is to be said of some rows."""

    text: str
    rows: set[int]


@dataclass(frozen=True, eq=False)
class _Asked:
    """One model and one template."""

    lm: LM
    own: PromptOptions
    rows: Rows
    template: int
    options: Mapping[str, Any]
    notes: dict[str, _Note]  # by what they have in common

    @property
    def prompts(self) -> list[str]:
        return self.rows.prompts[self.template - 1]

    def written(self) -> Iterator[list[_Text]]:
        """What the model writes, as rows are done. Raises KeyboardInterrupt once those of an interrupt are kept."""
        seen: set[int] = set()
        options = dict(self.options)
        stop = self.own.stop or ((separator_of(self.own),) if self.rows.shots and separator_of(self.own) else ())
        if _writes(self.lm) and not STRATEGIES[self.own.strategy].supports & FILLS:
            options |= {"strategy": self.own.strategy, "max_new_tokens": self.own.max_new_tokens}
            options |= {"stop": stop} if stop else {}
        for found in stream_all(self.lm, self.prompts, **options):
            new = [i for i, one in found.written.items() if one.done and not one.interrupted and i not in seen]
            seen |= set(new)
            for i in new:
                for note in found.written[i].notes:
                    self.note(note, i)
            if new:
                yield [text for i in sorted(new) for text in _texts(self.lm, i, found.written[i], stop)]
            if found.interrupted:
                raise KeyboardInterrupt

    def chosen(self) -> Iterator[list[_Text]]:
        """The choice that is likeliest after each prompt: by the sum of its tokens' log-probabilities."""
        choices, prompts = self.own.choices, self.prompts
        for first in range(0, len(prompts), _CHOSEN_AT_A_TIME):
            rows = range(first, min(first + _CHOSEN_AT_A_TIME, len(prompts)))
            found = self.logprobs([(i, choice) for i in rows for choice in choices])
            some = []
            for at, i in enumerate(rows):
                each = found[at * len(choices) : (at + 1) * len(choices)]
                # What has no tokens here, read with the prompt, would be likelier than all that has some.
                best = max(range(len(choices)), key=lambda k: sum(each[k]) if each[k] else -math.inf)
                some.append(_Text(i, 0, choices[best], mean(each[best])))
            yield some

    def logprobs(self, pairs: Sequence[tuple[int, str]]) -> list[list[float]]:
        """Of each text's tokens, after the prompt of that row."""
        for i in dict.fromkeys(i for i, _ in pairs) if self.own.choices else ():
            self.check_length(i)
        delimiter = _delimiter(self.lm, self.rows, self.template)
        return continuation_logprobs(self.lm, [(self.prompts[i], delimiter + text) for i, text in pairs])

    def check_length(self, row: int) -> None:
        ids, context = len(self.lm.tokenizer.encode(self.prompts[row])), self.lm.max_seq_len
        if ids >= context and not _from_source(self.lm):
            self.note(f"the prompt has {ids} tokens and the context {context}: the model reads its end", row)

    def note(self, text: str, row: int, kind: str = "") -> None:
        """Notes of a kind are one note, the first; so are those that differ in numbers alone."""
        self.notes.setdefault(kind or re.sub(r"\d+", "#", text), _Note(text, set())).rows.add(row)

    def leave_out(self, metric: str, why: str, row: int) -> None:
        self.note(f"{metric} {why}, and its mean leaves the row out", row, f"{metric} {why.split(' (')[0]}")


def _texts(lm: Writer, row: int, found: Generation, stop: Sequence[str]) -> list[_Text]:
    """The samples of one row: what was written, up to what ended it; or what was filled in."""
    texts = found.continuations
    if not found.continues:
        filled = [
            [piece.id for piece, x in zip(pieces, logs, strict=True) if not math.isnan(x)]
            for pieces, logs in zip(found.pieces, found.logprob, strict=True)
        ]
        texts = [lm.tokenizer.decode(ids) for ids in filled]
    made = []
    for sample, (text, logs) in enumerate(zip(texts, found.logprob, strict=True)):
        made.append(_Text(row, sample, before_end(text, stop).strip(), mean(logs)))
    return made


def _from_source(lm: LM) -> bool:
    return lm.objectives[0] in FROM_SOURCE


def _delimiter(lm: LM, rows: Rows, template: int) -> str:
    """What stands between a prompt and what is right; nothing, where the prompt is a source."""
    return "" if _from_source(lm) else rows.delimiters[template - 1]


def _writes(lm: LM) -> bool:
    return bool(lm.supports & {"next_token", "seq2seq"})


def _check_model(lm: LM, own: PromptOptions, metrics: Mapping[str, _Metric], rows: Rows) -> None:
    """Refuse what a model cannot do before any is asked."""
    judged = next((name for name, metric in metrics.items() if metric.function is None), "")
    if not _writes(lm):
        needs = "choices" if own.choices else judged or ("shots" if rows.shots else "")
        if needs or "fill" not in lm.supports:
            lm.need("next_token", needs or "prompt", "a model trained with objective clm would do")
    for choice in own.choices:
        if not choice.strip() or not lm.tokenizer.encode(choice):
            raise BadValue(f"choices: {show(choice)} is nothing that {lm.name} could say; leave it out")
    fills = not own.choices and (not _writes(lm) or bool(STRATEGIES[own.strategy].supports & FILLS))
    for t, prompts in enumerate(rows.prompts, 1):
        for i, (label, prompt) in enumerate(zip(rows.labels, prompts, strict=True)):
            if _from_source(lm):
                _check_source(lm, prompt, label, bool(own.choices))
            if fills:
                try:
                    gaps_in(lm, prompt)
                except BadValue as error:
                    raise BadValue(f"row {label}: {error}") from None
            texts = [("choices", choice) for choice in own.choices]
            texts += [("target", rows.targets[i])] if judged else []
            for argument, text in texts:
                check_continuation(lm, prompt, _delimiter(lm, rows, t) + text, f"row {label}: {argument}")


def _check_source(lm: LM, prompt: str, label: str, chosen: bool) -> None:
    size = len(source_ids(prompt, lm.tokenizer, lm.objectives[0]))
    # One stack reads the source, what begins the text, and the text.
    room = lm.max_seq_len - (2 if "next_token" in lm.model.supports and not chosen else 0)
    if not prompt or size > room:
        why = f"its {size} tokens do not fit the context of {lm.max_seq_len}" if prompt else "it is empty"
        raise BadValue(f"row {label}: the prompt is a source for {lm.name}, and {why}; change or drop that row")


# the metrics ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Metric:
    """How answers are measured."""

    function: Callable[[str, str], Any] | None  # of (text, target); None for what the model itself says of the target
    unit: str = ""
    share: bool = False  # 0 or 1 for each answer
    given: set[type] = field(default_factory=set)  # the types of what a function of the user's gave

    @property
    def is_share(self) -> bool:
        """Known to be 0 or 1: one of ours that is, or one that says True or False."""
        return self.share or (bool(self.given) and all(issubclass(one, bool | np.bool_) for one in self.given))


_UNITS = {"chrf": "0–100", "bleu": "0–100", "target_logprob": "nats/token"}  # of the lab's own that are not 0–1


def _metrics(own: PromptOptions, rows: Rows, notes: list[str]) -> dict[str, _Metric]:
    """The metrics by the names of their columns."""
    asked = own.metrics or (("exact_match",) if own.target is not None else ())
    found: dict[str, _Metric] = {}
    for one in asked:
        if isinstance(one, str):
            entry, name = ANSWERS.entry(one), one
            function = None if entry.supports & GIVEN else entry.load()
            made = _Metric(function, _UNITS.get(name, "0–1"), bool(entry.supports & SHARE))
        elif callable(one):
            name, made = getattr(one, "__name__", type(one).__name__), _Metric(one)
            _check_arguments(one, name)
            if name in ANSWER_COLUMNS:
                notes.append(f"the metric {name} is called metric_{name}, since the answers have a {name} of their own")
                name = f"metric_{name}"
        else:
            raise BadType(
                f"metrics: {show(one)} is {type(one).__name__}; it takes a function of (text, target), or one of {listing(ANSWERS)}"
            )
        if name in found:
            raise BadValue(f"metrics: {name} is given twice; leave one out")
        found[name] = made
    if found and not rows.targets:
        raise BadValue(
            f"metrics: {next(iter(found))} needs what is right; name its column, for example --target {rows.frame.columns[-1]!s}"
        )
    return found


def _check_arguments(function: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(function).bind("", "")
    except TypeError as error:
        raise BadType(f"metrics: {name} cannot be called with a text and a target ({error})") from None
    except ValueError:  # a built-in one that does not say
        pass


def _scored(some: Sequence[_Text], asked: _Asked, metrics: Mapping[str, _Metric]) -> list[dict[str, float]]:
    """Every metric of each text; nan where it cannot be told, which a note says."""
    given: dict[int, float] = {}
    for name in (name for name, metric in metrics.items() if metric.function is None):
        given = _given(name, asked, sorted({one.row for one in some}))
    return [
        {
            name: given[one.row] if metric.function is None else _value(name, metric, asked, one)
            for name, metric in metrics.items()
        }
        for one in some
    ]


def _given(name: str, asked: _Asked, rows: Sequence[int]) -> dict[int, float]:
    """How likely the model finds each row's target, the mean of its tokens."""
    targets = asked.rows.targets
    found = dict.fromkeys(rows, math.nan)
    try:
        full = [i for i in rows if targets[i]]
        found |= {i: mean(logs) for i, logs in zip(full, asked.logprobs([(i, targets[i]) for i in full]), strict=True)}
    except (LabError, RuntimeError) as error:
        for i in rows:
            asked.leave_out(name, f"failed ({_said(error)})", i)
        return found
    for i in (i for i in rows if math.isnan(found[i])):
        asked.leave_out(name, "is no number, since the target is empty" if not targets[i] else "is no number", i)
    return found


def _value(name: str, metric: _Metric, asked: _Asked, one: _Text) -> float:
    """What its function gives, as a number."""
    assert metric.function is not None, "what the model says is scored apart"
    why = "is no number (nan)"
    try:
        given = metric.function(one.text, asked.rows.targets[one.row])
        metric.given.add(type(given))
    except Exception as error:
        given, why = math.nan, f"failed ({_said(error)})"
    try:
        value = float(given)
    except (TypeError, ValueError):
        value, why = math.nan, f"gave {show(given)}, {type(given).__name__} and no number"
    if math.isnan(value):
        asked.leave_out(name, why, one.row)
    return value


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, LabError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def _facts(own: PromptOptions, rows: Rows, writes: bool) -> list[str]:
    """What decides the answers, in words."""
    facts = [f"{rows.shots} example{'s' * (rows.shots != 1)}"] if rows.shots else []
    if own.choices:
        return [*facts, f"the likeliest of {listing(own.choices, 6)}"]
    if not writes:
        return [*facts, "fill" if own.strategy == "greedy" else own.strategy]
    return [*facts, own.strategy, f"at most {own.max_new_tokens} tokens"]

"""Prompts as experiments: templates filled from the rows of a table, each model asked for every row, the answers measured."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_lab.decoding.conditioned import FROM_SOURCE, source_ids
from llm_lab.decoding.options import DRAWS, FILLS, STRATEGIES
from llm_lab.decoding.together import stream_all
from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.filling import Rows, filled, separator_of, unescaped
from llm_lab.metrics.options import ANSWERS, GIVEN
from llm_lab.options import distribute
from llm_lab.results import Answer, Generation, Prompt, PromptResults, mean
from llm_lab.store.lm import LM
from llm_lab.templates import Template
from llm_lab.verbs import VERBS, PromptOptions

if TYPE_CHECKING:
    from llm_lab.decoding.writer import Writer

PREVIEWED = 3  # rows
_CHOSEN_AT_A_TIME = 16  # rows whose choices are scored between two states of the result
_OWN = ("on", "target", "examples", "shots", "separator", "target_delimiter", "metrics", "choices")  # not of decoding
_NOTED = 3  # rows that a note names

Metric = Callable[[str, str], float]


def prepare(name: str, texts: Sequence[str], options: Mapping[str, Any]) -> tuple[Prompt, PromptOptions, Rows | None]:
    """The prompt with a preview of its first rows, what was asked for, and the rows where there are some."""
    own, *_ = distribute(VERBS["prompt"].options_for(options), options, "prompt")
    own = unescaped(own)
    templates = [Template.read(text) for text in texts]
    if not templates:
        raise BadValue('template: the list is empty; for example "Translate: {{english}}"')
    if len({template.text for template in templates}) < len(templates):
        raise BadValue("template: one of them is given twice; change it, or leave it out")
    prompt = Prompt(name=name, templates=templates, options=dict(options))
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


def run(prompt: Prompt, own: PromptOptions, rows: Rows, lms: Sequence[LM]) -> Iterator[PromptResults]:
    """The results as they grow; an interrupt keeps the rows that are done."""
    metrics = _metrics(own, rows)
    options = {key: value for key, value in prompt.options.items() if key not in _OWN}
    if own.choices and (writing := [name for name in options if name != "seed"]):
        raise BadType(f"{writing[0]}: it is for writing, and choices are compared; leave one of them out")
    drawn = bool(STRATEGIES.entry(own.strategy).supports & DRAWS) and not own.choices
    seed = (secrets.randbelow(2**31) if own.seed is None else own.seed) if drawn else None
    options |= {} if seed is None else {"seed": seed}
    result = PromptResults(
        prompt=prompt,
        models=[lm.name for lm in lms],
        frame=rows.frame,
        labels=rows.labels,
        values=[{field: str(row[field]) for field in prompt.fields} for row in rows.values],
        targets=rows.targets,
        metrics={name: _unit(name) for name in metrics},
        facts=_facts(own, rows, all(map(_writes, lms))),
        seed=seed,
        notes=list(prompt.notes),
    )
    if renamed := result.renamed:
        said = listing(f"{old} as {new}" for old, new in renamed.items())
        result.notes.append(f"columns of the rows that have a name of ours stand in .to_pandas() as others: {said}")
    notes: dict[str, list[str]] = {}
    for lm in lms:
        _check_model(lm, own, metrics, rows)
    try:
        for m, lm in enumerate(lms):
            for t in range(1, len(prompt.templates) + 1):
                asked = _Asked(lm, own, rows, t, options, notes)
                for some in asked.chosen() if own.choices else asked.written():
                    scored = _scored(some, asked, metrics)
                    result.answers += [
                        Answer(template=t, model=m, prompt=rows.prompts[t - 1][one.row], scores=scores, **vars(one))
                        for one, scores in zip(some, scored, strict=True)
                    ]
                    # Batches are of prompts of like lengths; a reader wants the rows as they are.
                    result.answers.sort(key=lambda one: (one.model, one.template, one.row, one.sample))
                    yield result
    except KeyboardInterrupt:
        each = {(answer.model, answer.template, answer.row) for answer in result.answers}
        result.notes.append(f"interrupted: {len(each):,} of {result.wanted:,} were asked, and are kept")
    order = {label: i for i, label in enumerate(rows.labels)}
    result.notes += [f"{_named(sorted(labels, key=order.__getitem__))}: {note}" for note, labels in notes.items()]
    result.done = True
    yield result


# the answers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Text:
    """An answer before it is measured."""

    row: int
    sample: int
    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class _Asked:
    """One model and one template."""

    lm: LM
    own: PromptOptions
    rows: Rows
    template: int
    options: Mapping[str, Any]
    notes: dict[str, list[str]]  # what is to be said, and of which rows

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
            if any(one.interrupted for one in found):
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
                best = max(range(len(choices)), key=lambda k: sum(each[k]))
                some.append(_Text(i, 0, choices[best], mean(each[best])))
            yield some

    def logprobs(self, pairs: Sequence[tuple[int, str]]) -> list[list[float]]:
        """Of each text's tokens, after the prompt of that row."""
        score = ANSWERS.load("target_logprob")
        delimiter = "" if _from_source(self.lm) else self.rows.delimiters[self.template - 1]
        for i in dict.fromkeys(i for i, _ in pairs) if self.own.choices else ():
            self.check_length(i)
        return score(self.lm, [(self.prompts[i], delimiter + text) for i, text in pairs])

    def check_length(self, row: int) -> None:
        ids, context = len(self.lm.tokenizer.encode(self.prompts[row])), self.lm.max_seq_len
        if ids >= context and not _from_source(self.lm):
            self.note(f"the prompt has {ids} tokens and the context {context}: the model reads its end", row)

    def note(self, note: str, row: int) -> None:
        """Notes that differ in numbers alone are one note."""
        alike = next((one for one in self.notes if _numbers(one) == _numbers(note)), note)
        label = self.rows.labels[row]
        if label not in (said := self.notes.setdefault(alike, [])):
            said.append(label)


def _numbers(note: str) -> str:
    return re.sub(r"\d+", "#", note)


def _named(labels: Sequence[str]) -> str:
    more = len(labels) - _NOTED
    return f"row{'s' * (len(labels) > 1)} {', '.join(labels[:_NOTED])}" + (f" and {more:,} more" if more > 0 else "")


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
        end = min([at for word in stop if (at := text.find(word)) >= 0], default=len(text))
        made.append(_Text(row, sample, text[:end].strip(), mean(logs)))
    return made


def _from_source(lm: LM) -> bool:
    return lm.objectives[0] in FROM_SOURCE


def _writes(lm: LM) -> bool:
    return bool(lm.supports & {"next_token", "seq2seq"})


def _check_model(lm: LM, own: PromptOptions, metrics: Mapping[str, Metric | None], rows: Rows) -> None:
    """Refuse what a model cannot do before any is asked."""
    if not _writes(lm):
        needs = (
            "choices"
            if own.choices
            else "target_logprob"
            if None in metrics.values()
            else "shots"
            if rows.shots
            else ""
        )
        if needs or "fill" not in lm.supports:
            lm.need("next_token", needs or "prompt", "a model trained with objective clm would do")
    if _from_source(lm):
        for prompts in rows.prompts:
            for label, prompt in zip(rows.labels, prompts, strict=True):
                size = len(source_ids(prompt, lm.tokenizer, lm.objectives[0]))
                if not prompt or size > lm.max_seq_len:
                    why = f"its {size} tokens do not fit the context of {lm.max_seq_len}" if prompt else "it is empty"
                    raise BadValue(
                        f"row {label}: the prompt is a source for {lm.name}, and {why}; change or drop that row"
                    )


# the metrics ------------------------------------------------------------------------------------------------------------


def _metrics(own: PromptOptions, rows: Rows) -> dict[str, Metric | None]:
    """The metrics by name; None for what needs the model."""
    asked = own.metrics or (("exact_match",) if own.target is not None else ())
    found: dict[str, Metric | None] = {}
    for one in asked:
        if isinstance(one, str):
            entry = ANSWERS.entry(one)
            name, function = one, None if entry.supports & GIVEN else entry.load()
        elif callable(one):
            name, function = getattr(one, "__name__", type(one).__name__), partial(_called, one)
        else:
            raise BadType(
                f"metrics: {show(one)} is {type(one).__name__}; it takes a function of (text, target), or one of {listing(ANSWERS)}"
            )
        if name in found:
            raise BadValue(f"metrics: {name} is given twice; leave one out")
        found[name] = function
    if found and not rows.targets:
        raise BadValue(
            f"metrics: {next(iter(found))} needs what is right; name its column, for example --target {rows.frame.columns[-1]!s}"
        )
    return found


def _called(function: Callable[..., Any], text: str, target: str) -> float:
    """What a user's function gives, as a number."""
    name = getattr(function, "__name__", type(function).__name__)
    try:
        value = function(text, target)
    except Exception as error:
        raise BadValue(
            f"metrics: {name} failed on text {show(text, 30)} and target {show(target, 30)}: {type(error).__name__}: {error}"
        ) from error
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadType(
            f"metrics: {name} gave {show(value)}, {type(value).__name__}; a number would do, the larger the better"
        ) from None


def _scored(some: Sequence[_Text], asked: _Asked, metrics: Mapping[str, Metric | None]) -> list[dict[str, float]]:
    """Every metric of each text."""
    targets = asked.rows.targets
    given: dict[int, float] = {}
    if None in metrics.values():
        rows = sorted({one.row for one in some})
        found = asked.logprobs([(i, targets[i]) for i in rows])
        given = {i: mean(logs) for i, logs in zip(rows, found, strict=True)}
    return [
        {
            name: given[one.row] if function is None else function(one.text, targets[one.row])
            for name, function in metrics.items()
        }
        for one in some
    ]


def _unit(name: str) -> str:
    return {"chrf": "0–100", "bleu": "0–100", "target_logprob": "nats/token"}.get(
        name, "0–1" if name in ANSWERS else ""
    )


def _facts(own: PromptOptions, rows: Rows, writes: bool) -> list[str]:
    """What decides the answers, in words."""
    facts = [f"{rows.shots} example{'s' * (rows.shots != 1)}"] if rows.shots else []
    if own.choices:
        return [*facts, f"the likeliest of {listing(own.choices, 6)}"]
    if not writes:
        return [*facts, "fill" if own.strategy == "greedy" else own.strategy]
    return [*facts, own.strategy, f"at most {own.max_new_tokens} tokens"]

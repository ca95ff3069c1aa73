"""Strategies, prompts and models side by side: every one writes from every prompt, and what it wrote is measured; and
models by the runs that made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

from llm_lab.decoding.choosing import SECOND
from llm_lab.decoding.options import DRAWS, FILLS, FILTERS, STRATEGIES, ConstraintOptions, GenerateOptions
from llm_lab.decoding.writing import write
from llm_lab.errors import BadType, BadValue, LabError, printable, show
from llm_lab.metrics.diversity import distinct, repetition, self_bleu
from llm_lab.models.presets import PresetOptions
from llm_lab.options import specs
from llm_lab.results import Compared, Comparison, Generation, RunComparison, RunFacts, mean
from llm_lab.store.events import number, table
from llm_lab.store.lm import LM, load_tokenizer
from llm_lab.store.runs import COLUMNS, Run, parameters

if TYPE_CHECKING:
    import pandas as pd

Point = tuple[int, float, float]  # (step, seconds, loss)
CURVE = 5000  # points of a curve that are kept, at most twice as many


def setting(value: Any) -> tuple[str, dict[str, Any]]:
    """(name, options) of a strategy that was asked for: `"top_p"`, `"top_p:p=0.5:temperature=0.8"`, or a dict with
    `strategy` in it. Raises BadValue or BadType where it is none of them."""
    if isinstance(value, Mapping):
        given = dict(value)
        name = given.get("strategy", "top_p")
        STRATEGIES.entry(name)
        words = ":".join(f"{key}={_shown(one)}" for key, one in given.items() if key != "strategy")
        return f"{name}{':' if words else ''}{words}", {"strategy": name, **given}
    if not isinstance(value, str):
        raise BadType(
            f'strategies: {show(value)} is {type(value).__name__}; a name such as "top_p:p=0.5", or a dict, would do'
        )
    name, *parts = value.strip().split(":")
    STRATEGIES.entry(name)
    given = {"strategy": name}
    for word in parts:
        key, equals, one = word.partition("=")
        if not equals or not key.strip() or not one.strip():
            raise BadValue(
                f"strategies: {show(word)} of {show(value)} is no option with a value; for example top_p:p=0.5"
            )
        given[key.strip()] = one.strip()
    return value.strip(), given


def _shown(value: Any) -> str:
    return str(getattr(value, "name", value))


def compare(
    lms: Sequence[LM], prompts: Sequence[str], strategies: Sequence[Any], shared: Mapping[str, Any]
) -> Iterator[Comparison]:
    """The comparison as it grows, one cell at a time; the last is whole, or ends at an interrupt. `shared` are options of
    all; a strategy that has no use for one goes without it."""
    settings = [(name, *_for(own, shared)) for name, own in map(setting, strategies)]
    names = [name for name, *_ in settings]
    if len(set(names)) < len(names):
        raise BadValue("strategies: one of them is named twice; give it other options, for example top_p,top_p:p=0.5")
    seeded = {"seed": shared["seed"]} if shared.get("seed") is not None else {}
    notes = [f"{name} has no use for {', '.join(left_out)}" for name, _, left_out in settings if left_out]
    result = Comparison(models=[lm.name for lm in lms], prompts=list(prompts), strategies=names, cells=[], notes=notes)
    wanted, whole = list(product(lms, settings, range(len(prompts)))), 0
    try:
        for lm, (name, options, _), i in wanted:
            found = write(lm, prompts[i], **{**options, **seeded})
            if any(found.tokens) or not found.interrupted:
                result.cells.append(_measured(found, lm, name, i))
            if found.interrupted:
                raise KeyboardInterrupt
            whole += 1
            yield result
    except KeyboardInterrupt:  # what was written stays
        if whole < len(wanted):
            unfinished = "; the last is unfinished" if len(result.cells) > whole else ""
            notes.append(f"interrupted after {whole} of {len(wanted)}{unfinished}")
    result.done = True
    yield result


def _for(own: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A strategy's options with those of the shared ones that it takes, and the names of the others."""
    entry = STRATEGIES.entry(own["strategy"])
    takes = {*specs(GenerateOptions), *specs(entry.options), *specs(ConstraintOptions)}
    takes |= {name for name, line in FILTERS.items() if entry.supports & DRAWS or not line.supports & DRAWS}
    if entry.supports & FILLS:
        takes -= {*specs(ConstraintOptions), "max_new_tokens", "stop", *(() if entry.supports & DRAWS else ("n",))}
    given = {name: value for name, value in shared.items() if name in takes and name not in SECOND}
    seconds = {name: shared[name] for name in SECOND if name in shared and name in specs(entry.options)}
    left_out = [name for name in shared if name not in takes and name not in {*SECOND, "max_new_tokens", "n"}]
    return {**given, **seconds, **own}, left_out


def _measured(found: Generation, lm: LM, name: str, prompt: int) -> Compared:
    """One cell: what was written, and its numbers."""
    written = found.tokens
    texts = found.continuations
    return Compared(
        model=lm.name,
        strategy=name,
        prompt=prompt,
        options=dict(found.options),
        texts=texts,
        logprob=mean(x for sample in found.logprob for x in sample),
        entropy=mean(float(x) for one in found.statistics for x in one.entropy),
        distinct_1=distinct(written, 1),
        distinct_2=distinct(written, 2),
        repetition=repetition(written),
        self_bleu=self_bleu(texts),
        n_tokens=sum(map(len, written)),
        tokens_per_second=found.tokens_per_second,
        seed=found.seed,
        notes=found.notes,
        beams=found.beams,
    )


def compare_runs(models: Sequence[LM | tuple[Run, int | None]], notes: Sequence[str] = ()) -> RunComparison:
    """Models by how they were trained; one that has no run says so. A run (with the step of a checkpoint, or None) is read
    from its files, whatever became of it, and no weights are loaded."""
    found = [_of_model(one) if isinstance(one, LM) else _of_run(*one) for one in models]
    begun = [not isinstance(one, LM) and not one[0].has("model.json") for one in models]  # has not said all yet
    differ: dict[str, list[Any]] = {}
    for name in dict.fromkeys(name for one in found for name in one.options):
        each = [one.options.get(name) for one in found]
        told = [value for one, value, early in zip(found, each, begun, strict=True) if name in one.options or not early]
        if any(value != told[0] for value in told):
            differ[name] = each
    said = [*notes, *(f"{one.name} has no run: how it was trained is not known" for one in found if not one.run)]
    if len({one.unit for one in found if one.val and one.unit}) > 1:
        said.append("their losses count different tokens, so compare bits per byte")
    if len({one.corpus for one in found if one.run}) > 1:
        said.append("they were trained, and measured, on different texts; %evaluate measures them on one")
    return RunComparison(models=found, differ=differ, notes=said)


def _of_model(lm: LM) -> RunFacts:
    config = lm.model.config
    return _facts(
        lm.name,
        lm.run,
        lm.step,
        parameters=sum(p.numel() for p in lm.model.parameters()),
        info=lm.info,
        sizes={
            **(config.to_dict() if config is not None else {}),
            "vocab_size": lm.tokenizer.vocab_size,
            "tokenizer": lm.tokenizer.kind,
        },
        unit=f"nats/{lm.tokenizer.unit}",
    )


def _of_run(run: Run, step: int | None) -> RunFacts:
    """A run that is not loaded: before it has written what its model is, the options that it was asked for stand for it."""
    about, request = run.read("model"), run.read("request")
    asked, config, corpus = (table(one) for one in (request.get("options"), about.get("config"), request.get("corpus")))
    cut: dict[str, Any] = {}
    with suppress(LabError):  # it has none yet, or a damaged one
        tokenizer = load_tokenizer(run.folder)
        cut = {"vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.kind}
    return _facts(
        run.name if step is None else f"{run.name}@{step}",
        run,
        step,
        parameters=parameters(run),
        info={"corpus": corpus.get("name"), **table(about.get("info"))},
        sizes={**asked, **config, **cut},
        unit="",
    )


def _facts(
    name: str,
    run: Run | None,
    step: int | None,
    *,
    parameters: int | None,
    info: Mapping[str, Any],
    sizes: Mapping[str, Any],
    unit: str,
) -> RunFacts:
    """What the files of a run tell of it, any of which may be missing or damaged, beside what is known of its model."""
    request, plan, status, report = (run.read(part) if run else {} for part in ("request", "plan", "status", "report"))
    final, asked, own = (table(one) for one in (status.get("final"), request.get("options"), request.get("model")))
    settled: dict[str, Any] = {
        part: plan[part] for part in ("steps", "seconds", "device", "precision", "threads") if part in plan
    }
    train, val = list[Point](), list[Point]()
    watched, last = dict[str, float](), {}
    if run:
        history = run.history
        history = history if step is None else history[history["step"] <= step]
        seen = history.drop(
            columns=[part for part in history if part in COLUMNS or str(part).startswith(("train_", "val_"))]
        )
        watched = {str(part): float(column.dropna().iloc[-1]) for part, column in seen.items() if column.notna().any()}
        train, val = (_curve(history[["step", "seconds", loss]].dropna()) for loss in ("train_loss", "val_loss"))
        last = {part: number(float(history[part].max())) for part in ("tokens", "seconds")} if len(history) else {}
        last |= {"steps": train[-1][0] if train else 0}
    preset = own.get("class") or asked.get("preset") or specs(PresetOptions)["preset"].default
    # Of a run that goes on, or died, the status says what it had come to before.
    rests = status if run and run.status in ("finished", "paused") else {}
    counts = {part: number(rests.get(part)) for part in ("steps", "tokens", "seconds")}
    counts = {part: last.get(part) if value is None else value for part, value in counts.items()}
    if step is not None:  # of a checkpoint what its run had come to then
        counts, final = {**last, "steps": step}, {}
    parent = table(request.get("from"))
    lineage = {"from": f"{parent.get('run')}@{parent.get('step')}"} if parent else {}
    return RunFacts(
        name=name,
        run=run.id if run else "",
        status=run.status if run else "",
        preset=str(preset) if run else None,
        parameters=parameters,
        corpus=_word(info.get("corpus")),
        objective=_word(info.get("objective")),
        unit=_word(report.get("unit")) or unit,
        steps=_whole(counts.get("steps")),
        tokens=_whole(counts.get("tokens")),
        seconds=counts.get("seconds"),
        train_loss=train[-1][2] if train else None,
        val_loss=number(final.get("loss")),
        bits_per_byte=number(final.get("bits_per_byte")),
        train=train[:: 1 + len(train) // CURVE],
        val=val,
        options={
            **sizes,
            **{part: info[part] for part in ("objective", "corpus") if part in info},
            **table(info.get("objective_options")),
            **table(plan.get("options")),
            **settled,
            **lineage,
        },
        watched=watched,
    )


def _curve(frame: pd.DataFrame) -> list[Point]:
    return [(int(step), float(seconds), float(loss)) for step, seconds, loss in frame.itertuples(index=False)]


def _word(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)

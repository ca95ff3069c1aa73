"""Strategies, prompts and models side by side: every one writes from every prompt, and what it wrote is measured; and
models by the runs that made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from llm_lab.decoding.choosing import SECOND
from llm_lab.decoding.options import DRAWS, FILLS, FILTERS, STRATEGIES, ConstraintOptions, GenerateOptions
from llm_lab.decoding.writing import write
from llm_lab.errors import BadType, BadValue, show
from llm_lab.metrics.diversity import distinct, repetition, self_bleu
from llm_lab.models.presets import PresetOptions
from llm_lab.options import specs
from llm_lab.results import Compared, Comparison, Generation, RunComparison, RunFacts, mean
from llm_lab.store.events import number
from llm_lab.store.lm import LM
from llm_lab.store.runs import COLUMNS


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


def compare_runs(lms: Sequence[LM], notes: Sequence[str] = ()) -> RunComparison:
    """Models by how they were trained; one that has no run says so."""
    found = [_facts(lm) for lm in lms]
    names = dict.fromkeys(name for one in found for name in one.options)
    values = {name: [one.options.get(name) for one in found] for name in names}
    differ = {name: each for name, each in values.items() if any(one != each[0] for one in each)}
    said = [*notes, *(f"{one.name} has no run: how it was trained is not known" for one in found if not one.run)]
    if len({one.unit for one in found if one.val}) > 1:
        said.append("their losses count different tokens, so compare bits per byte")
    if len({one.corpus for one in found if one.run}) > 1:
        said.append("they were trained, and measured, on different texts; %evaluate measures them on one")
    return RunComparison(models=found, differ=differ, notes=said)


def _facts(lm: LM) -> RunFacts:
    """What an LM and the files of its run tell; any of them may be missing or damaged."""
    read = lm.run.read if lm.run else lambda part: {}
    request, plan, status, report = (read(part) for part in ("request", "plan", "status", "report"))
    final, asked, own = (_table(one) for one in (status.get("final"), request.get("options"), request.get("model")))
    config = lm.model.config
    settled: dict[str, Any] = {
        name: plan[name] for name in ("steps", "seconds", "device", "precision", "threads") if name in plan
    }
    train, val = list[float](), list[tuple[int, float, float]]()
    watched: dict[str, float] = {}
    if lm.run:
        history = lm.history
        seen = history.drop(
            columns=[name for name in history if name in COLUMNS or str(name).startswith(("train_", "val_"))]
        )
        watched = {str(name): float(column.dropna().iloc[-1]) for name, column in seen.items() if column.notna().any()}
        train = history["train_loss"].dropna().tolist()
        kept = history[["step", "seconds", "val_loss"]].dropna()
        val = [(int(step), float(seconds), float(loss)) for step, seconds, loss in kept.itertuples(index=False)]
    preset = own.get("class") or asked.get("preset") or specs(PresetOptions)["preset"].default
    counts = {name: number(status.get(name)) for name in ("steps", "tokens", "seconds")}
    if lm.step is not None:  # of a checkpoint what its run had come to then
        last = history[["tokens", "seconds"]].max()
        counts, final = {"steps": lm.step, "tokens": float(last["tokens"]), "seconds": float(last["seconds"])}, {}
    return RunFacts(
        name=lm.name,
        run=lm.run.id if lm.run else "",
        preset=str(preset) if lm.run else None,
        parameters=sum(p.numel() for p in lm.model.parameters()),
        corpus=lm.info.get("corpus"),
        objective=lm.info.get("objective"),
        unit=str(report.get("unit") or f"nats/{lm.tokenizer.unit}"),
        steps=None if counts["steps"] is None else int(counts["steps"]),
        tokens=None if counts["tokens"] is None else int(counts["tokens"]),
        seconds=counts["seconds"],
        train_loss=train[-1] if train else None,
        val_loss=number(final.get("loss")),
        bits_per_byte=number(final.get("bits_per_byte")),
        val=val,
        options={
            **(config.to_dict() if config is not None else {}),
            "vocab_size": lm.tokenizer.vocab_size,
            "tokenizer": lm.tokenizer.kind,
            **{name: lm.info[name] for name in ("objective", "corpus") if name in lm.info},
            **_table(lm.info.get("objective_options")),
            **_table(plan.get("options")),
            **settled,
        },
        watched=watched,
    )


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

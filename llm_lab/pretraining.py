"""One pretraining, from request to LM: finds what was left of it or has it finished, plans, and makes the session that
carries it out."""

from __future__ import annotations

import contextlib
import copy
import os
import time
import traceback
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm_lab import forking, machine, memory, sizing
from llm_lab.background import begin
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.open import open_corpus
from llm_lab.corpora.options import CorpusOptions, opening
from llm_lab.data.arrays import tokenize
from llm_lab.errors import BadValue, LabError, listing
from llm_lab.jobs import check_job, read_job, write_job
from llm_lab.loggers.options import LogOptions
from llm_lab.models.adapted import adapt
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.objectives.make import check_pair, check_text
from llm_lab.options import specs
from llm_lab.probes.options import WatchOptions, watch_name
from llm_lab.probes.watches import measured
from llm_lab.registry import load
from llm_lab.request import Request, default_corpus, source
from llm_lab.results import Sizing, TrainingReport
from llm_lab.session import Session
from llm_lab.store import control, runs
from llm_lab.store.files import sweep
from llm_lab.store.lm import LM, load_run
from llm_lab.store.typed import build
from llm_lab.tokenizers.options import TokenizerOptions
from llm_lab.tokenizers.tokenizer import Tokenizer, train
from llm_lab.training.fitter import Fitter
from llm_lab.training.options import BUDGETS, BudgetOptions, CheckpointOptions, SampleOptions, TrainOptions
from llm_lab.training.plan import Plan, applied, resolve
from llm_lab.training.trainer import Trainer
from llm_lab.verbs import RunOptions, SaveOptions

CHAR_LIMIT = 5_000_000  # bytes; a larger corpus is cut by bpe unless told


def pretrain(
    corpus: Any, name: str, options: dict[str, Any], display: bool = True, started: float | None = None
) -> LM | runs.Run:
    """Train a model from nothing, or go on with an identical request that was left on its way. The clock of a time budget
    runs from `started`, or from here. `display` draws the card. One that goes to the background gives its run."""
    started = time.perf_counter() if started is None else started
    request = Request(name, corpus, options)
    notes = list(request.notes)
    run_options: RunOptions = request[RunOptions]
    text = default_corpus(notes) if corpus is None else open_corpus(corpus, **opening(request.given))
    request.corpus = text.name if corpus is None else corpus
    own = run_options.model
    # What a user's model computes is a part of the request, so it has to be made before the request is known.
    session = None if own is None else _prepare(request, text, notes, started)
    identity = request.identity(text, session.lm.model if session else None)
    found = None if run_options.fresh else runs.find_identical(name, identity)
    status = found.status if found else ""
    if found and status == "training":
        if request[SaveOptions].background and found.read("status").get("background"):
            return found  # all cells run again while it trains: it is watched again
        raise runs.busy(found)
    if found and status == "finished" and not isinstance(own, nn.Module):
        return _restored(found, request, display)
    left = found if status != "finished" else None  # on its way, and nobody is at it
    if request[SaveOptions].background:
        return _in_background(request, text, identity, left)
    if left:
        with runs.hold(left):
            control.forget(left)
            left.note(background=False)
            return carry_out(_prepare(request, text, notes, started, left), left, display)
    session = session or _prepare(request, text, notes, started)
    with applied(session.plan):
        session.begin()  # before there is a run, so that a watch that cannot be leaves none behind
    run = runs.create(name, identity, run_options.fresh)
    with runs.hold(run):
        # A text without a name, and a model to begin with, are the cell's own: they are not copied for this.
        if isinstance(request.corpus, str | Path) and request.base is None:
            with contextlib.suppress(LabError):
                write_job(run, request, text)
        return carry_out(session, run, display)


def _in_background(request: Request, text: Corpus, identity: dict[str, Any], left: runs.Run | None) -> runs.Run:
    """The run, with a process that trains it: a new one, or the one that was left on its way."""
    check_job(request)
    if left is None:
        left = runs.create(request.name, identity, request[RunOptions].fresh)
    with runs.hold(left):
        write_job(left, request, text)  # also of one that a cell began: how it is saved and logged may have changed
    begin(left)
    return left


def carry_on(run: runs.Run) -> LM:
    """Train a run in this process by what its folder says alone, from where it is."""
    started = time.perf_counter()
    with runs.hold(run):
        try:
            request, text = read_job(run)
            _refuse_changed(run, request, text)
            notes = list(request.notes)
            session = _prepare(request, text, notes, started, run if run.states else None)
            if not run.states:
                with applied(session.plan):
                    session.begin()
        except BaseException as error:
            why = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
            run.set_status(run.ended_by(error), why=why)
            raise
        return carry_out(session, run, display=False)


def _share_cores(request: Request, notes: list[str]) -> None:
    """Leave their part of the cores to the runs that other processes are training."""
    training = [run for run in runs.all_runs() if run.status == "training"]
    others = [run for run in training if run.read("status").get("pid") != os.getpid()]
    if others and request.share_cores(machine.cores(), len(others) + 1):
        notes.append(
            f"the cores are shared with {listing((one.name for one in others), 3)}, training now; --threads takes more"
        )


def _refuse_changed(run: runs.Run, request: Request, text: Corpus) -> None:
    """BadValue where the files that a job names are no longer those that its run was asked for with."""
    asked = run.read("request")
    corpus, model = asked.get("corpus"), asked.get("model")
    changed = ""
    if isinstance(corpus, dict) and corpus.get("fingerprint") != text.fingerprint:
        changed = f"its text ({text.name})"
    if isinstance(model, dict) and model.get("source") != source(request[RunOptions].model):
        changed = f"the class {model.get('class')}"
    if changed:
        raise BadValue(
            f"{changed} has changed since run {run.id} of {run.name} was begun; put it back as it was, or run the cell again, which makes a new run"
        )


def carry_out(session: Session, run: runs.Run, display: bool) -> LM:
    """The session's run, from where it is to its end; what ends it otherwise is in its status."""
    sweep(run.path)
    run.set_status("training", resumed=time.time(), why=None, signal=None)
    try:
        with applied(session.plan):
            if session.first is None:
                session.resume(run)
            return session.carry_out(run, display)
    except BaseException as error:
        full = machine.out_of_memory(error)
        why = memory.what_to_lower(session.plan) if full else f"{type(error).__name__}: {error}"
        if run.read("status").get("status") == "training":  # else it was over, and that is written down
            with contextlib.suppress(LabError):
                run.set_status(run.ended_by(error), why=why)
        if not full:
            raise
        traceback.clear_frames(error.__traceback__)
    # Out here, since an error keeps the one that it is raised within, and that one's traceback the tensors of the step: the
    # device would be full for as long as somebody could look at it. So would the frames of this one, which have the session.
    memory.let_go(session.trainer.trainee, session.trainer.optimizers)
    vars(session).clear()
    states = run.states
    raise BadValue(why + (f"; its state after step {states[-1]} is on the disk" if states else ""))


def _restored(run: runs.Run, request: Request, display: bool) -> LM:
    lm = restore(run, request[RunOptions].model)
    watches = [watch_name(watch) for watch in request[WatchOptions].watch]
    numbers = {column.partition(".")[0] for column in getattr(lm.report, "watched", ())}
    if isinstance(lm.report, TrainingReport) and (lost := [name for name in watches if name not in numbers]):
        lm.report.notes.append(f"what {listing(lost)} found to look at was not kept; --fresh trains, and looks, again")
    given = [key for key in specs(SampleOptions) if key in request.given]
    if given and isinstance(lm.report, TrainingReport):
        lm.report.notes.append(f"the samples are those of that run: {listing(given)} changes what a new one shows")
    if (log := request[LogOptions].log) and isinstance(lm.report, TrainingReport):
        lm.report.notes.append(f"nothing was trained, so nothing was told to {listing(log)}")
    if display and lm.report is not None:
        load("llm_lab.views.live:show")(lm.report)
    return lm


def restore(run: runs.Run, model: Any = None) -> LM:
    """The LM of a finished run, as it was. From now on its name means this run again."""
    lm = load_run(run, model)
    with contextlib.suppress(LabError, OSError):  # a store may be read-only
        run.note(restored=time.time())
    if isinstance(lm.report, TrainingReport):
        lm.report.status = "restored"
        lm.report.notes.append(f"restored from run {run.id}: an identical request had finished; --fresh trains again")
    return lm


def _prepare(
    request: Request, corpus: Corpus, notes: list[str], started: float, resumed: runs.Run | None = None
) -> Session:
    """Everything up to the first step: tokenizer, arrays, plan, memory check, model, trainer. Of a run that goes on, the
    tokenizer and the plan are its own."""
    if resumed is None:
        _share_cores(request, notes)
    train_text, val_text = corpus.split(request[CorpusOptions].split)
    if resumed is not None:
        tokenizer = Tokenizer.load(resumed.path / "tokenizer.json")
    elif request.base is not None:
        tokenizer = request.base.tokenizer
    else:
        tokenizer = _tokenizer(request[TokenizerOptions], corpus, train_text)
    folder = runs.cache()
    data, held_out = (tokenize(part, tokenizer, folder) for part in (train_text, val_text))
    begun = planned(resumed) if resumed is not None else None
    if begun is not None:
        request.resize(begun.sizes)
    elif request.unsized:
        notes.append(sizing.fit(request, tokenizer, data, started))
    options: TrainOptions = request[TrainOptions]
    config: ModelConfig = request.config(tokenizer.vocab_size)
    own = request[RunOptions].model
    shape = getattr(own, "config", None)
    if isinstance(own, LanguageModel):
        own.need_weights()
    objective = request.objective(tokenizer)
    check_text(objective, request.objectives, corpus)
    need = None
    if not request.own or isinstance(shape, ModelConfig):
        need = memory.check(shape or config, options, objective, fixed=shape is not None or request.base is not None)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        if request.base is None:
            model = _model(own, config, request.given)
        else:
            model = forking.begun(request.base, None if request.own else config)
        if model.config is not None:
            check_pair(request.objectives, model.config)
        need = need or memory.check_module(model, options)
        trainee = objective.attach(model)
        if request.base is not None:
            forking.bring_extras(request.base, trainee)
    replay = request[RunOptions].replay
    trace = runs.find(replay) if replay else None
    replayed = (trace.learning_rates(), trace.eval_steps()) if trace else ((), frozenset())
    width = config.d_model if model.config is None else model.config.d_model
    block = min(config.max_seq_len, model.max_seq_len)
    advance = len(data) / data.n_documents if objective.pairs else objective.take(block)[1]
    kept = request[CheckpointOptions]
    c = model.config
    alike = objective.alike and c is not None and c.n_expert is None and c.attention == "full"
    plan = resolve(request[BudgetOptions], options, block, len(data), width, replay, replayed, advance, kept, alike)
    plan = replace(plan, sizes=request.sizes)
    if plan.compiled and request.sizes:
        notes.append("its steps are compiled, and faster than those that its size was chosen by")
    if begun is not None:  # what stands in the trace of a run that it replays comes from a new plan
        plan = replace(begun, learning_rates=plan.learning_rates, eval_steps=plan.eval_steps)
    model.to(plan.device)
    if options.batch_size < objective.least_batch:
        raise BadValue(
            f"batch_size: {options.batch_size} is too small for {listing(request.objectives)}, which compares sequences of one batch; use --batch_size {objective.least_batch} or more"
        )
    trainee.extras.to(plan.device)
    objective.prepare(data.ids)
    notes += objective.notes(block)
    trainer: Trainer | Fitter
    if "gradients" in model.supports:
        measure = measured(request[WatchOptions].watch)
        trainer = Trainer(trainee, objective, data, held_out, plan, started, measure)
    else:
        trainer = Fitter(trainee, objective, data, held_out, plan, started)
        trains = {*BUDGETS, *specs(TrainOptions), *specs(CheckpointOptions)}
        idle = [key for key in request.given if key in trains - Fitter.reads]
        notes += [f"the text is counted once: {listing(idle)} has no effect"] if idle else []
    session = Session(request, corpus, tokenizer, config, plan, trainer, data, held_out, notes)
    session.card.memory_need, session.card.memory_free = need.bytes, need.there.available
    return session


def sizes(corpus: Any) -> Sizing:
    """What models of several sizes would come to on a text, in times from seconds to hours, on this machine."""
    notes: list[str] = []
    text = default_corpus(notes) if corpus is None else open_corpus(corpus)
    request = Request("doctor", text.name, {})
    train_text, _ = text.split(request[CorpusOptions].split)
    tokenizer = _tokenizer(request[TokenizerOptions], text, train_text)
    found = sizing.over_time(request, tokenizer, tokenize(train_text, tokenizer, runs.cache()))
    found.corpus, found.notes = text.name, [*notes, *found.notes]
    return found


def planned(run: runs.Run) -> Plan:
    """The plan that a run was begun with, but for the learning rates of a run that it replays; BadValue where it is damaged."""
    try:
        found = build(Plan, run.read("plan"), skip=frozenset({"learning_rates", "eval_steps"}))
    except ValueError as error:
        raise BadValue(f"{run.path / 'plan.json'} is damaged: {error}; --fresh trains anew") from None
    device = machine.device(found.device)
    asked = found.options.compile
    return replace(found, compiled=found.compiled and machine.compiles(device) if asked is None else asked)


def _model(own: Any, config: ModelConfig, given: Collection[str]) -> LanguageModel:
    """A new model; the user's own where there is one. One that `build` made is copied, so that it stays as it is."""
    if own is None:
        return load(SHAPES.entry(config.shape).target)(config)
    if isinstance(getattr(own, "config", None), ModelConfig):
        if own.vocab_size != config.vocab_size:
            raise BadValue(
                f"model: it was built for {own.vocab_size} tokens, and the tokenizer has {config.vocab_size}; build it with --vocab_size {config.vocab_size}"
            )
        return copy.deepcopy(own)
    return adapt(own, config, given)


def _tokenizer(options: TokenizerOptions, corpus: Corpus, train_text: Corpus) -> Tokenizer:
    if isinstance(options.tokenizer, Tokenizer):
        return options.tokenizer
    kind: Any = options.tokenizer or ("char" if corpus.n_bytes < CHAR_LIMIT else "bpe")
    # An alphabet gives nothing of the held-out text away; learned merges would.
    return train(corpus if kind == "char" else train_text, kind, options.vocab_size)

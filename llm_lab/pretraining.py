"""One pretraining, from request to LM: resolves the request, plans, drives the trainer, and passes its events to the
store and to the card that is shown. It knows no notebook; who draws the card is named by an entry string."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, TextIO

import torch
from torch import nn

from llm_lab import machine
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.open import open_corpus
from llm_lab.corpora.options import CorpusOptions, opening
from llm_lab.data.arrays import Tokens, tokenize
from llm_lab.decoding.sampling import sample
from llm_lab.errors import BadValue, LabError, listing
from llm_lab.loggers.loggers import Loggers
from llm_lab.loggers.options import LogOptions
from llm_lab.metrics.evaluate import evaluate, likelihoods
from llm_lab.models import cost
from llm_lab.models.adapted import adapt
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.models.presets import PresetOptions
from llm_lab.objectives.make import check_pair, check_text
from llm_lab.objectives.options import ObjectiveOptions
from llm_lab.options import specs
from llm_lab.probes.options import WATCHES, WatchOptions, watch_name
from llm_lab.probes.watches import Watcher, measured
from llm_lab.registry import load
from llm_lab.request import STANDS_FOR, Request, default_corpus, repeat_line
from llm_lab.results import Sample, TrainingReport
from llm_lab.store import runs
from llm_lab.store.lm import LM, load_run
from llm_lab.tokenizers.options import TokenizerOptions
from llm_lab.tokenizers.tokenizer import Tokenizer, train
from llm_lab.training.fitter import Fitter
from llm_lab.training.options import BUDGETS, BudgetOptions, CheckpointOptions, SampleOptions, TrainOptions
from llm_lab.training.plan import Plan, applied, resolve
from llm_lab.training.trainer import Trainer, TrainEvent
from llm_lab.verbs import RunOptions

CHAR_LIMIT = 5_000_000  # bytes; a larger corpus is cut by bpe unless told
SAMPLE_EVERY = 3  # validations between two samples
FLUSH_SECONDS = 1.0
READ = 24  # tokens of the held-out text that a watched kind of probe reads


def pretrain(corpus: Any, name: str, options: dict[str, Any], display: bool = True) -> LM:
    """Train a model from nothing. The clock of a time budget runs from here. `display` draws the card."""
    started = time.perf_counter()
    request = Request(name, corpus, options)
    notes = list(request.notes)
    run_options: RunOptions = request[RunOptions]
    text = default_corpus(notes) if corpus is None else open_corpus(corpus, **opening(request.given))
    request.corpus = text.name if corpus is None else corpus
    own = run_options.model
    # What a user's model computes is a part of the request, so it has to be made before the request is known.
    session = None if own is None else _prepare(request, text, notes, started)
    identity = request.identity(text, session.lm.model if session else None)
    if not run_options.fresh and not isinstance(own, nn.Module) and (found := runs.find_identical(name, identity)):
        lm = restore(found, own)
        watches = [watch_name(watch) for watch in request[WatchOptions].watch]
        numbers = {column.partition(".")[0] for column in getattr(lm.report, "watched", ())}
        if isinstance(lm.report, TrainingReport) and (lost := [name for name in watches if name not in numbers]):
            lm.report.notes.append(
                f"what {listing(lost)} found to look at was not kept; --fresh trains, and looks, again"
            )
        given = [key for key in specs(SampleOptions) if key in request.given]
        if given and isinstance(lm.report, TrainingReport):
            lm.report.notes.append(f"the samples are those of that run: {listing(given)} changes what a new one shows")
        if (log := request[LogOptions].log) and isinstance(lm.report, TrainingReport):
            lm.report.notes.append(f"nothing was trained, so nothing was told to {listing(log)}")
        if display and lm.report is not None:
            load("llm_lab.views.live:show")(lm.report)
        return lm
    session = session or _prepare(request, text, notes, started)
    with applied(session.plan):
        session.look()  # before there is a run, so that a watch that cannot be leaves none behind
    run = runs.create(name, identity)
    try:
        with applied(session.plan):
            return session.carry_out(run, display)
    except BaseException as error:
        run.set_status("failed", why=f"{type(error).__name__}: {error}")
        if isinstance(error, torch.OutOfMemoryError):
            # The traceback would keep the step's tensors alive (and the device full) as long as it is looked at.
            session.trainer.optimizers.clear()
            size = session.plan.options.batch_size
            raise BadValue(
                f"the device ran out of memory at batch_size {size}; use a smaller one, for example "
                f"--batch_size {max(1, size // 2)} --accumulate 2"
            ) from None
        raise


def restore(run: runs.Run, model: Any = None) -> LM:
    """The LM of a finished run, as it was. From now on its name means this run again."""
    lm = load_run(run, model)
    with contextlib.suppress(LabError, OSError):  # a store may be read-only
        run.set_status(run.status, restored=time.time())
    if isinstance(lm.report, TrainingReport):
        lm.report.status = "restored"
        lm.report.notes.append(f"restored from run {run.id}: an identical request had finished; --fresh trains again")
    return lm


def _prepare(request: Request, corpus: Corpus, notes: list[str], started: float) -> _Session:
    """Everything up to the first step: tokenizer, arrays, plan, memory check, model, trainer."""
    options: TrainOptions = request[TrainOptions]
    loggers = Loggers(request[LogOptions].log)  # a library that is missing is said before anything is read
    train_text, val_text = corpus.split(request[CorpusOptions].split)
    tokenizer = _tokenizer(request[TokenizerOptions], corpus, train_text)
    config: ModelConfig = request.config(tokenizer.vocab_size)
    folder = runs.cache()
    data, held_out = (tokenize(part, tokenizer, folder) for part in (train_text, val_text))
    own = request[RunOptions].model
    shape = getattr(own, "config", None)
    if isinstance(own, LanguageModel):
        own.need_weights()
    if own is None or isinstance(shape, ModelConfig):
        check_memory(shape or config, options)
    objective = request.objective(tokenizer)
    check_text(objective, request.objectives, corpus)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = _model(own, config, request.given)
        if model.config is not None:
            check_pair(request.objectives, model.config)
        trainee = objective.attach(model)
    replay = request[RunOptions].replay
    trace = runs.find(replay) if replay else None
    replayed = (trace.learning_rates(), trace.eval_steps()) if trace else ((), frozenset())
    width = config.d_model if model.config is None else model.config.d_model
    block = min(config.max_seq_len, model.max_seq_len)
    advance = len(data) / data.n_documents if objective.pairs else objective.take(block)[1]
    kept = request[CheckpointOptions]
    plan = resolve(request[BudgetOptions], options, block, len(data), width, replay, replayed, advance, kept)
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
    return _Session(request, corpus, tokenizer, config, plan, trainer, data, held_out, notes, loggers)


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


def check_memory(config: ModelConfig, options: TrainOptions) -> None:
    """Refuse a model that cannot fit before a byte of it is taken: on a CPU the system would kill the kernel."""
    parts = cost.parts(config, options.batch_size, options.device)
    device = machine.device(options.device)
    need, there = sum(part.memory for part in parts), machine.device_memory(device)
    if need > there.available:
        size = sum(part.parameters for part in parts) / 1e6
        raise BadValue(
            f"the model ({size:,.1f} M parameters, batch_size {options.batch_size} × {config.max_seq_len} tokens) needs about "
            f"{need / 1e9:,.1f} GB to train, and {there.available / 1e9:,.1f} GB of {there.total / 1e9:,.1f} GB are free on "
            f"{device}; use a smaller --batch_size, --d_model or --n_layer"
        )


class _Session:
    """The parts of one training and the loop over its events."""

    def __init__(
        self,
        request: Request,
        corpus: Corpus,
        tokenizer: Tokenizer,
        config: ModelConfig,
        plan: Plan,
        trainer: Trainer | Fitter,
        data: Tokens,
        held_out: Tokens,
        notes: list[str],
        loggers: Loggers,
    ) -> None:
        self.request, self.tokenizer, self.plan, self.trainer = request, tokenizer, plan, trainer
        self.loggers = loggers
        self.data, self.held_out = data, held_out
        self.samples: SampleOptions = request[SampleOptions]
        model = trainer.trainee.model
        ends = len(corpus.documents) > 1
        self.info = {
            "corpus": corpus.name,
            "objective": ",".join(request.objectives),
            "objective_options": request.objective_options,
            "mix": request[ObjectiveOptions].mix,
            "weights": list(request[ObjectiveOptions].weights),
            "ends": ends,
            "held_out": held_out.key,
            "given": [key for key in request.given if key in config.to_dict()],
            "sizes": {key: value for key, value in config.to_dict().items() if key != "vocab_size"},
        }
        self.lm = LM(request.name, model, tokenizer, info=self.info, extras=trainer.trainee.extras)
        text = self.samples.sample_prompt or tokenizer.decode([int(i) for i in held_out.ids[:READ]])
        watched = held_out.ids if len(held_out) > 1 else data.ids
        self.watcher = Watcher(request[WatchOptions].watch, self.lm, watched, text)
        self.kept: list[int] = []  # sizes of checkpoints, in bytes
        experts = model.config is not None and model.config.n_expert is not None
        self.several = len(trainer.objective.parts) > 1 or experts  # parts of the loss, each with a curve of its own
        unit = tokenizer.unit
        size = sum(p.numel() for p in model.parameters()) / 1e6
        own = request[RunOptions].model
        self.card = TrainingReport(
            name=request.name,
            status="training",
            facts=[
                request[PresetOptions].preset if own is None else type(getattr(model, "module", model)).__name__,
                *_learned(request),
                f"{size:.3g} M parameters" if size else "counts, no parameters",
                f"{corpus.name}, {tokenizer.kind}",
                f"{plan.device} {plan.threads} thread{'s' * (plan.threads != 1)}, {plan.precision}"
                if plan.device == "cpu"
                else f"{plan.device}, {plan.precision}",
                f"seed {plan.options.seed}",
            ],
            unit=f"nats/{trainer.objective.target or unit}",
            watching={name: WATCHES[name].help for name in self.watcher.watches if name in WATCHES},
            val_on=f"the first {min(plan.options.eval_tokens, len(held_out)):,} of {len(held_out):,} held-out {unit}s",
            by_time=plan.seconds is not None,
            budget_steps=plan.steps,
            budget_seconds=plan.seconds,
            schedule=plan.options.schedule if not plan.learning_rates else f"as in {request[RunOptions].replay}",
            memory_total=machine.device_memory(torch.device(plan.device)).total,
            notes=notes,
        )

    @property
    def peak_lr(self) -> float:
        """The largest of the groups' peak learning rates: what cards and histories show the course of."""
        return max((group["peak_lr"] for one in self.trainer.optimizers for group in one.param_groups), default=0.0)

    def carry_out(self, run: runs.Run, display: bool) -> LM:
        """Train, save, and give the LM."""
        self.lm.run, self.lm.report = run, self.card
        self.card.facts.insert(-1, f"run {run.id}")
        run.write(
            "plan",
            {
                **self.plan.to_dict(),
                "peak_lr": self.peak_lr,
                "data": {"train": self.data.key, "held_out": self.held_out.key},
            },
        )
        run.write("environment", machine.environment())
        about: dict[str, Any] = {part: run.read(part) for part in ("request", "plan", "environment")}
        about |= {"name": run.name, "id": run.id, "folder": run.path, "facts": self.card.facts, "several": self.several}
        self.loggers.start(about | {"step": 0, "seconds": self.card.setup_seconds}, self.card.notes, run.events())
        live = load("llm_lab.views.live:Live")(self.card) if display else None
        try:
            with _interrupt_is_stop(self.trainer), (run.path / "events.jsonl").open("a", encoding="utf-8") as log:
                flushed = time.monotonic()
                self._tell(TrainEvent("start", 0, 0, self.card.setup_seconds), log)
                for event in self.trainer.events():
                    self._write(_as_json(event), log)
                    self._update(event)
                    if event.kind == "validation":
                        self.look(event.measured)
                        self._tell(event, log)
                    elif event.kind == "checkpoint":
                        self._keep(run, event.step)
                    if live is not None:
                        live.update(self.card)
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        log.flush()
                        flushed = time.monotonic()
            self._finish(run)
        except BaseException as error:
            self.card.status = "failed"
            self.card.notes.append(f"ended by {type(error).__name__} at step {self.card.step}: {error}".rstrip(": "))
            self.loggers.close("failed", {})
            raise
        finally:
            if live is not None:
                live.close(self.card)
        return self.lm

    def _update(self, event: TrainEvent) -> None:
        card = self.card
        card.step, card.tokens, card.seconds = event.step, event.tokens, event.seconds
        card.epochs = event.tokens / len(self.data)
        card.tokens_per_second = event.tokens / event.seconds if event.seconds else 0.0
        if self.several:
            curves = card.parts if event.kind == "step" else card.val_parts
            for name, loss in event.parts.items():
                if math.isfinite(loss):
                    curves.setdefault(name, []).append((event.step, event.seconds, loss))
        if event.kind == "step":
            if math.isfinite(event.loss):
                card.train.append((event.step, event.seconds, event.loss))
            card.lr = event.lr * self.peak_lr
            if card.by_time and card.budget_seconds:
                card.budget_steps = round(event.step * card.budget_seconds / event.seconds)
            if event.step % 25 == 1:
                on_gpu = self.plan.device.startswith("cuda")
                card.memory = torch.cuda.memory_allocated() if on_gpu else machine.used()
        elif event.kind == "validation" and math.isfinite(event.loss):
            card.val.append((event.step, event.seconds, event.loss))
            if self.samples.sample_tokens and len(card.val) % SAMPLE_EVERY == 1:
                self._sample(event)
        elif event.kind == "end":
            card.status = {"diverged": "failed"}.get(event.reason, event.reason)

    def look(self, measured: Mapping[str, float] | None = None) -> None:
        """What is watched, looked at as the model is now. It counts among the time of training."""
        began = time.perf_counter()
        if measured is None:
            self.card.setup_seconds = self.trainer.seconds
        self.seen = self.watcher.look(measured)
        self.spent = time.perf_counter() - began
        self.card.watch_seconds += self.spent if self.watcher.watches else 0.0

    def _tell(self, event: TrainEvent, log: TextIO) -> None:
        """What was seen at an event: to the trace, the card and the LM."""
        card, seen = self.card, self.seen
        card.notes += [f"watch {name} ended at step {event.step}: {why}" for name, why in seen.failed.items()]
        if not (seen.values or seen.results):
            return
        for name, value in seen.values.items():
            if math.isfinite(value):
                card.watched.setdefault(name, []).append((event.step, event.seconds, value))
        for name, result in seen.results.items():
            card.looks[name] = (event.step, result)
            self.lm.watched.setdefault(name, []).append((event.step, result))
        values = {name: value if math.isfinite(value) else None for name, value in seen.values.items()}
        line = {
            "kind": "watch",
            **{key: getattr(event, key) for key in ("step", "tokens", "seconds")},
            "values": values,
        }
        self._write({**line, "spent": self.spent}, log)

    def _write(self, line: dict[str, Any], log: TextIO) -> None:
        log.write(json.dumps(line) + "\n")
        self.loggers.tell(line)

    def _keep(self, run: runs.Run, step: int) -> None:
        """A checkpoint to disk; the run goes on where the disk is full."""
        folder = run.checkpoint(step)
        try:
            if not self.kept:
                self.lm.save_description(run.path)
            self.lm.save_weights(folder)
        except LabError as error:
            self.card.notes.append(f"checkpoint {step} was not kept: {error}")
        else:
            self.kept.append(sum(file.stat().st_size for file in folder.iterdir()))

    def _sample(self, event: TrainEvent) -> None:
        asked = self.samples
        found = sample(
            self.lm,
            self.trainer.objective,
            self.held_out,
            asked.sample_prompt,
            asked.sample_tokens,
            self.plan.options.seed,
        )
        if found is not None:
            self.card.samples.append(shown := Sample(event.step, event.seconds, *found))
            self.loggers.tell({"kind": "sample", **asdict(shown)})

    def _finish(self, run: runs.Run) -> None:
        """After the clock: the weights to disk, then the whole validation split."""
        card = self.card
        self.lm.model = self.trainer.objective.deliver(self.trainer.trainee)
        self.lm.model.eval()
        card.repeat = repeat_line(self.request, self.tokenizer, self.plan, run, card.status)
        stands = [word for word in STANDS_FOR.values() if word in card.repeat]
        if stands:
            card.notes.append(f"in the line that repeats it, {' and '.join(stands)} is for the variable that you gave")
        if card.status == "stopped":
            whole = f"{card.budget_steps}" if not card.by_time else f"about {card.budget_steps}"
            card.notes.append(
                f"stopped at step {card.step} of {whole}; the model works as it is, and the cell run again trains anew"
            )
        if self.kept:
            steps = run.checkpoints
            card.notes.append(
                f"{len(steps)} checkpoint{'s' * (len(steps) != 1)} kept, {sum(self.kept) / 1e6:,.3g} MB: lab.load({f'{run.name}@{steps[0]}'!r}) is the first, after step {steps[0]}"
            )
        if card.status != "failed":
            self.lm.save(run.path)  # before anything that an interrupt could still end
            self._measure()
        if card.status == "failed":
            (run.path / "model.safetensors").unlink(missing_ok=True)
            card.notes.append(
                f"the loss stopped being a number at step {card.step}; a lower --lr or --muon_lr would do"
            )
        self.loggers.close(card.status, card.final)
        plain = asdict(replace(card, actions={}, looks={}))  # results that watches gave live with the LM
        run.write("report", {key: value for key, value in plain.items() if key not in ("actions", "code", "looks")})
        run.set_status(card.status, final=card.final, steps=card.step, tokens=card.tokens, seconds=card.seconds)

    def _measure(self) -> None:
        """The metrics of the whole validation split; an interrupt leaves them out."""
        if len(self.held_out) < 2:
            return
        try:
            found = likelihoods(
                self.card.name, self.trainer.trainee, self.trainer.objective, self.held_out, self.tokenizer.unit
            )
        except KeyboardInterrupt:
            self.card.notes.append("the whole validation split was not read, since it was interrupted; %evaluate does")
            return
        if not math.isfinite(found[0].mean):
            self.card.status = "failed"
            return
        self.card.final = {
            score.metric: score.value for score in evaluate(found, ["loss", "perplexity", "bits_per_byte"])
        }


def _as_json(event: TrainEvent) -> dict[str, Any]:
    """An event as a line of the trace. Floats keep every digit, so that a replay is exact."""
    told = replace(event, measured={})  # which is written with what is watched
    found = {key: value for key, value in asdict(told).items() if value not in ("", {})}
    if not math.isfinite(event.loss):
        found["loss"] = None
    if event.parts:
        found["parts"] = {name: loss if math.isfinite(loss) else None for name, loss in event.parts.items()}
    return found


def _learned(request: Request) -> list[str]:
    """What it learns to do, where that is not the next token."""
    names = request.objectives
    if names == ("clm",):
        return []
    mix = request[ObjectiveOptions].mix
    return [" and ".join(names) + (" in turns" if mix == "turns" and len(names) > 1 else "")]


@contextlib.contextmanager
def _interrupt_is_stop(trainer: Trainer | Fitter) -> Iterator[None]:
    """The first interrupt ends the step in progress and keeps the model; a second one raises at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        trainer.request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

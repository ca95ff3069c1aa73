"""One training while it goes on: drives the trainer, and passes its events to the run's files and to the card that is shown.
It knows no notebook; who draws the card is named by an entry string."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from llm_lab import forking, machine
from llm_lab.corpora.corpus import Corpus
from llm_lab.data.arrays import Tokens
from llm_lab.decoding.sampling import sample
from llm_lab.errors import BadValue, LabError
from llm_lab.metrics.evaluate import evaluate, likelihoods
from llm_lab.models.options import ModelConfig
from llm_lab.models.presets import PresetOptions
from llm_lab.probes.options import WATCHES, WatchOptions
from llm_lab.probes.watches import Watcher
from llm_lab.registry import load
from llm_lab.request import STANDS_FOR, Request, repeat_line
from llm_lab.results import TrainingReport
from llm_lab.store.cards import tell, write_card
from llm_lab.store.control import Control
from llm_lab.store.events import FILE, EventLog, cut_after
from llm_lab.store.lm import LM
from llm_lab.store.runs import Run
from llm_lab.store.states import Saver, newest_state
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.fitter import Fitter
from llm_lab.training.options import SampleOptions
from llm_lab.training.plan import Plan
from llm_lab.training.trainer import Trainer, TrainEvent
from llm_lab.verbs import RunOptions, SaveOptions

SAMPLE_EVERY = 3  # validations between two samples
FLUSH_SECONDS = 0.5  # until others see what happened
READ = 24  # tokens of the held-out text that a watched kind of probe reads


class Session:
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
    ) -> None:
        self.request, self.tokenizer, self.plan, self.trainer = request, tokenizer, plan, trainer
        self.data, self.held_out = data, held_out
        self.samples: SampleOptions = request[SampleOptions]
        self.saving: SaveOptions = request[SaveOptions]
        self.loggers = request.loggers
        model = trainer.trainee.model
        self.info = {
            "corpus": corpus.name,
            "objective": ",".join(request.objectives),
            "objective_options": request.objective_options,
            "mix": request.mix,
            "weights": list(request.weights),
            "ends": len(corpus.documents) > 1,
            "held_out": held_out.key,
            "given": [key for key in request.given if key in config.to_dict()],
            "sizes": {key: value for key, value in config.to_dict().items() if key != "vocab_size"},
        }
        self.lm = LM(request.name, model, tokenizer, info=self.info, extras=trainer.trainee.extras)
        text = self.samples.sample_prompt or tokenizer.decode([int(i) for i in held_out.ids[:READ]])
        watched = held_out.ids if len(held_out) > 1 else data.ids
        self.watcher = Watcher(request[WatchOptions].watch, self.lm, watched, text)
        self.accepted = self.touched = False  # by a person
        self.diverged = self.measuring = False
        self.first: Any = None  # the event that is told first, of `begin` or of `resume`
        experts = model.config is not None and model.config.n_expert is not None
        unit = tokenizer.unit
        size = sum(p.numel() for p in model.parameters()) / 1e6
        self.card = TrainingReport(
            name=request.name,
            status="training",
            facts=[
                type(getattr(model, "module", model)).__name__ if request.own else request[PresetOptions].preset,
                *([forking.said(request.lineage)] if request.lineage else []),
                *_learned(request),
                f"{size:.3g} M parameters" if size else "counts, no parameters",
                f"{corpus.name}, {tokenizer.kind}",
                (f"cpu {plan.threads} thread{'s' * (plan.threads != 1)}" if plan.device == "cpu" else plan.device)
                + f", {plan.precision}{', compiled' * plan.compiled}",
                f"seed {plan.options.seed}",
            ],
            unit=f"nats/{trainer.objective.target or unit}",
            several=len(trainer.objective.parts) > 1 or experts,
            watching={name: WATCHES[name].help for name in self.watcher.watches if name in WATCHES},
            val_on=f"the first {min(plan.options.eval_tokens, len(held_out)):,} of {len(held_out):,} held-out {unit}s",
            by_time=plan.seconds is not None,
            budget_steps=plan.steps,
            budget_seconds=plan.seconds,
            schedule=plan.options.schedule if not plan.learning_rates else f"as in {request[RunOptions].replay}",
            train_tokens=len(data),
            # The largest of the groups': what cards and histories show the course of.
            peak_lr=max((g["peak_lr"] for one in trainer.optimizers for g in one.param_groups), default=0.0),
            memory_total=machine.device_memory(torch.device(plan.device)).total,
            notes=notes,
        )

        if isinstance(trainer, Trainer):
            trainer.notes = self.card.notes

    def begin(self) -> None:
        """What is watched, looked at before the first step, and before there is a run."""
        self._look()
        self.first = TrainEvent("start", 0, 0, self.card.setup_seconds)

    def resume(self, run: Run) -> None:
        """Put everything where the newest whole state of a run left it, and forget what came after."""
        state, damaged = newest_state(run)
        self.card.notes += [f"{problem}; the state before it is used" for problem in damaged]
        step = state.progress.step if state else 0
        if state is not None and isinstance(self.trainer, Trainer):
            try:
                self.trainer.load_state(state)
            except ValueError as error:
                raise BadValue(f"run {run.id} of {run.name} cannot go on: {error}; --fresh trains anew") from None
        cut_after(run.path / FILE, step)
        if self.plan.seconds is not None:  # by the clock they come at other steps this time
            for later in [kept for kept in run.checkpoints if kept > step]:
                shutil.rmtree(run.checkpoint(later), ignore_errors=True)
        for event in run.events():
            tell(self.card, event)
        self.card.notes += [f"goes on from step {step} of run {run.id}", *self._inexact(run)]
        self.touched = run.read("status").get("touched") is True
        self.first = TrainEvent("resume", step, self.card.tokens, state.progress.seconds if state else 0.0)

    def _inexact(self, run: Run) -> list[str]:
        """Why going on may not give what an uninterrupted run would have."""
        before, now = run.read("environment"), machine.environment()
        keys = ("torch", "cpu", "platform")
        changed = [
            f"{key} was {before[key]} and is {now[key]}" for key in keys if before.get(key, now[key]) != now[key]
        ]
        found = [f"not exact to the last bit from here on: {'; '.join(changed)}"] if changed else []
        if not self.plan.device.startswith("cpu") and not self.plan.options.deterministic:
            found.append(f"not exact to the last bit: steps on {self.plan.device} are not, without --deterministic")
        if self.watcher.watches:
            found.append("what watches found to look at before is not kept; their numbers are")
        return found

    def carry_out(self, run: Run, display: bool) -> LM:
        """Train, save, and give the LM."""
        self._open(run)
        live = load("llm_lab.views.live:Live")(self.card) if display else None
        self.log = EventLog(run.path / FILE)
        try:
            self._start_loggers()
            with _interrupt_is_pause(self):
                self._train(live)
                self._finish()
            self._tell_loggers()
        except BaseException as error:
            self.card.status = run.ended_by(error)
            self.card.notes.append(f"ended by {type(error).__name__} at step {self.card.step}: {error}".rstrip(": "))
            self.loggers.close(self.card.status, {})
            raise
        finally:
            self.saver.wait()
            self.log.close()
            if live is not None:
                self._draw(live.close)
        return self.lm

    def _open(self, run: Run) -> None:
        """What others read of a run that has begun; of one that goes on most is there."""
        assert self.first is not None, "begin or resume comes before"
        self.run = run
        self.lm.run, self.lm.report = run, self.card
        self.card.facts.insert(-1, f"run {run.id}")
        self.saver = Saver(run, self.saving.save_every, at_once=run.read("status").get("background") is True)
        if self.first.kind == "start":
            (run.path / FILE).unlink(missing_ok=True)  # of an attempt that ended before it saved anything
            data = {"train": self.data.key, "held_out": self.held_out.key}
            run.write("plan", {**self.plan.to_dict(), "peak_lr": self.card.peak_lr, "data": data})
            run.write("environment", machine.environment())
            self.lm.save_description(run.path)

    def _start_loggers(self) -> None:
        run = self.run
        self.loggers.start(
            {
                **{part: run.read(part) for part in ("request", "plan", "environment")},
                "name": run.name,
                "id": run.id,
                "folder": run.path,
                "facts": self.card.facts,
                "step": self.first.step,
                "seconds": self.first.seconds,
                "several": self.card.several,
            },
            self.card.notes,
            run.events(),
        )
        write_card(run, self.card)

    def _train(self, live: Any) -> None:
        """The trainer's events to where they are told; between them what is due by the clock, and what a person asks."""
        control, limit = Control(self.run), self.saving.time_limit
        ends = time.monotonic() + limit if limit else math.inf
        flushed, drawn = time.monotonic(), live is not None
        self._told(_as_json(self.first))
        if self.first.kind == "start":
            self._tell_seen(self.first)
        for event in self.trainer.events():
            self._update(event)
            drawn = drawn and self._draw(live.update)
            if self.trainer.resumable and self.saver.due:
                self.trainer.request_save()
            now = time.monotonic()
            if now - flushed > FLUSH_SECONDS:
                self.log.flush()
                flushed = now
                for command in control.new():
                    self._obey(command)
                if now > ends:
                    self.card.notes.append(f"its time limit of {limit:g} s is over")
                    self.trainer.request_stop()
                    ends = math.inf

    def _draw(self, draw: Callable[[TrainingReport], object]) -> bool:
        """The card as it is now; a card that cannot be drawn costs the drawing, and not the run."""
        try:
            draw(self.card)
        except Exception as error:  # a terminal that is gone, a view's mistake
            why = f"{type(error).__name__}: {error}"
            self.card.notes.append(f"not drawn from step {self.card.step} on, since that failed ({why})")
            return False
        return True

    def _update(self, event: TrainEvent) -> None:
        if event.kind == "save":
            self._save()
            return
        line = _as_json(event)
        if event.kind == "step" and event.step % 25 == 1:
            on_gpu = self.plan.device.startswith("cuda")
            line["memory"] = torch.cuda.memory_allocated() if on_gpu else machine.used()
        self._told(line)
        if event.kind == "validation":
            shown = self.samples.sample_tokens and math.isfinite(event.loss)
            if shown and len(self.card.val) % SAMPLE_EVERY == 1:
                self._sample(event)
            self._look(event.measured)
            self._tell_seen(event)
        elif event.kind == "checkpoint":
            self._keep(event.step)
        elif event.kind == "end":
            self.diverged = event.reason == "diverged"
            self.card.status = "failed" if self.diverged else event.reason

    def _told(self, line: dict[str, Any]) -> None:
        """To the trace, the loggers and the card."""
        self.log.add(line)
        self.loggers.tell(line)
        tell(self.card, line)

    def _obey(self, command: Mapping[str, Any]) -> None:
        """What a person asked of a run that goes on, from its view or another kernel."""
        do, scale = command.get("do"), command.get("scale")
        done = (
            self.trainer.at.step if isinstance(self.trainer, Trainer) else self.card.step
        )  # its event comes one later
        if do == "lr" and isinstance(self.trainer, Trainer) and isinstance(scale, int | float) and 0 <= scale < 1e6:
            self.trainer.at.lr_scale = float(scale)
            if not self.touched:
                self.touched = True
                with contextlib.suppress(LabError):  # where the disk is full; it is written at the end too
                    self.run.note(touched=True)
        elif do in ("pause", "stop"):
            self.accepted = do == "stop"
            self.trainer.request_stop()
        else:
            return
        at = {"step": done, "tokens": self.card.tokens, "seconds": self.card.seconds}
        self._told({"kind": "control", **at, **{key: command[key] for key in ("do", "scale") if key in command}})
        with contextlib.suppress(LabError):
            write_card(self.run, self.card)

    def _save(self) -> None:
        """The state to disk, after the events that led to it; the run goes on where the disk is full."""
        problem = self.log.flush(durable=True)
        if problem:
            self.saver.skip()
        elif isinstance(self.trainer, Trainer):
            self.saver.save(self.trainer.state)
        problem = problem or self.saver.problem
        if problem and problem not in self.card.notes:
            self.card.notes.append(problem)
            with contextlib.suppress(LabError):  # for who watches from elsewhere
                write_card(self.run, self.card)

    def _look(self, measured: Mapping[str, float] | None = None) -> None:
        """What is watched, looked at as the model is now. It counts among the time of training."""
        began = time.perf_counter()
        if measured is None:
            self.card.setup_seconds = self.trainer.seconds
        self.seen = self.watcher.look(measured)
        self.spent = time.perf_counter() - began if self.watcher.watches else 0.0

    def _tell_seen(self, event: TrainEvent) -> None:
        """What was seen at an event: to the trace, the card and the LM."""
        card, seen = self.card, self.seen
        card.notes += [f"watch {name} ended at step {event.step}: {why}" for name, why in seen.failed.items()]
        for name, result in seen.results.items():
            card.looks[name] = (event.step, result)
            self.lm.watched.setdefault(name, []).append((event.step, result))
        if not self.watcher.watches:
            return
        values = {name: value if math.isfinite(value) else None for name, value in seen.values.items()}
        at = {key: getattr(event, key) for key in ("step", "tokens", "seconds")}
        self._told({"kind": "watch", **at, "values": values, "spent": self.spent})

    def _keep(self, step: int) -> None:
        """A checkpoint to disk; the run goes on where the disk is full."""
        try:
            self.lm.save_weights(self.run.checkpoint(step))
        except LabError as error:
            self.card.notes.append(f"checkpoint {step} was not kept: {error}")

    def _sample(self, event: TrainEvent) -> None:
        shown = self.samples
        try:
            found = sample(
                self.lm,
                self.trainer.objective,
                self.held_out,
                shown.sample_prompt,
                shown.sample_tokens,
                self.plan.options.seed,
            )
        except Exception as error:  # of a model of the user's, which may train and still not write
            self.samples = replace(shown, sample_tokens=0)
            self.card.notes.append(f"no samples: {type(error).__name__}: {error}")
            return
        if found is not None:
            prompt, text = found
            at = {key: getattr(event, key) for key in ("step", "seconds")}
            self._told({"kind": "sample", **at, "prompt": prompt, "text": text})

    def _finish(self) -> None:
        """After the clock: the weights to disk, then the whole validation split; a paused run is left as it is."""
        card, run = self.card, self.run
        if card.status == "paused" and self.accepted:
            card.notes.append(f"stopped at {_reached(card)}, and taken as it is")
            card.status = "finished"
        as_planned = card.status == "finished" and not (self.touched or self.accepted)
        card.repeat = repeat_line(self.request, self.tokenizer, self.plan, run, as_planned)
        stands = [word for word in STANDS_FOR.values() if word in card.repeat]
        if stands:
            card.notes.append(f"in the line that repeats it, {' and '.join(stands)} is for the variable that you gave")
        if began := forking.lost(self.request.base, self.request.lineage):
            card.notes.append(f"it began with {began}, which is not kept; the line that repeats it begins otherwise")
        if kept := run.checkpoints:
            size = sum(file.stat().st_size for step in kept for file in run.checkpoint(step).iterdir())
            card.notes.append(
                f"{len(kept)} checkpoint{'s' * (len(kept) != 1)} kept, {size / 1e6:,.3g} MB: lab.load({f'{run.name}@{kept[0]}'!r}) is the first, after step {kept[0]}"
            )
        if card.status == "paused":
            self._leave()
        else:
            self.lm.model = self.trainer.objective.deliver(self.trainer.trainee)
            self.lm.model.eval()
        if card.status == "finished":
            self._keep_model()  # before anything that an interrupt could still end
            self._measure()
        if self.diverged:
            card.status = "failed"
            (run.path / "model.safetensors").unlink(missing_ok=True)
            card.notes.append(
                f"the loss stopped being a number at step {card.step}; a lower --lr or --muon_lr would do"
            )
        self.log.flush(durable=True)
        with contextlib.suppress(LabError):  # where the disk is full the model is still there, and the card says so
            write_card(run, card)
            run.set_status(
                card.status,
                final=card.final,
                steps=card.step,
                tokens=card.tokens,
                seconds=card.seconds,
                diverged=self.diverged,
                touched=self.touched,
                accepted=self.accepted,
            )
            if card.status == "finished" or self.diverged:  # neither goes on
                run.forget_states()

    def _tell_loggers(self) -> None:
        """That it is over: they may take their time, and what the run came to is on the disk by then."""
        before = len(self.card.notes)
        try:
            self.loggers.close(self.card.status, self.card.final)
        except KeyboardInterrupt:
            self.card.notes.append("log: its end was not waited for, since it was interrupted")
        if len(self.card.notes) > before:
            with contextlib.suppress(LabError):
                write_card(self.run, self.card)

    def _leave(self) -> None:
        """A paused run: its state is on the disk, or the card says why not."""
        self.saver.wait()
        name, notes = self.run.name, self.card.notes
        if self.saver.problem and self.saver.problem not in notes:
            notes.append(self.saver.problem)
        if self.saver.problem:
            left = self.run.states
            notes.append(f"what is on the disk goes on from step {left[-1]}" if left else "nothing is on the disk")
        cell = "the same cell without --fresh" if self.request[RunOptions].fresh else "the same cell"
        notes.append(
            f"paused at {_reached(self.card)}; {cell} goes on from there, %lab accept {name} takes it as it is"
        )

    def _keep_model(self) -> None:
        try:
            self.lm.save(self.run.path)
        except LabError as error:
            self.card.notes.append(f"{error}; the model is there until the kernel ends: {self.card.name}.save(path)")
            self.card.status = "failed"

    def _measure(self) -> None:
        """The metrics of the whole validation split; an interrupt leaves them out."""
        if len(self.held_out) < 2:
            return
        try:
            self.measuring = True
            found = likelihoods(
                self.card.name, self.trainer.trainee, self.trainer.objective, self.held_out, self.tokenizer.unit
            )
        except KeyboardInterrupt:
            self.card.notes.append("the whole validation split was not read, since it was interrupted; %evaluate does")
            return
        except Exception as error:  # the model is trained and on the disk by now
            why = "memory was full" if machine.out_of_memory(error) else f"{type(error).__name__}: {error}"
            self.card.notes.append(f"the whole validation split was not read ({why}); %evaluate does")
            return
        finally:
            self.measuring = False
        if not math.isfinite(found[0].mean):
            self.diverged = True
            return
        self.card.final = {
            score.metric: score.value for score in evaluate(found, ["loss", "perplexity", "bits_per_byte"])
        }


def _reached(card: TrainingReport) -> str:
    return f"step {card.step} of {'about ' * card.by_time}{card.budget_steps}"


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
    return [" and ".join(names) + (" in turns" if request.mix == "turns" and len(names) > 1 else "")]


@contextlib.contextmanager
def _interrupt_is_pause(session: Session) -> Iterator[None]:
    """The first interrupt ends the step in progress and keeps the run, or ends the measuring at its end; a second one
    raises at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pause(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if session.measuring:
            raise KeyboardInterrupt
        session.trainer.request_stop()

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, pause)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None: of one that was not set from Python

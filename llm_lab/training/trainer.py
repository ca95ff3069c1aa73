"""The training loop: a generator of events. It draws, prints and saves nothing, and knows neither runs nor notebooks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_lab import machine
from llm_lab.data.arrays import Tokens
from llm_lab.data.sampler import BlockSampler, DocumentSampler
from llm_lab.errors import BadValue
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.training.options import OPTIMIZERS, SCHEDULES
from llm_lab.training.plan import Plan
from llm_lab.training.state import Progress, TrainState, best_of, gather, modules, spread
from llm_lab.training.validation import autocast, block_losses, mean_losses, pieces

EVAL_SHARE = 0.03  # of a time budget, which validations on the way may take


@dataclass(frozen=True)
class TrainEvent:
    """Something that happened. `seconds` count from the call; losses are in nats per target."""

    kind: str  # step | validation | checkpoint | save | end
    step: int  # steps done
    tokens: int
    seconds: float
    loss: float = float("nan")
    lr: float = 0.0  # factor of the peak learning rates that the step used
    parts: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)  # of a validation: what was asked of its step
    reason: str = ""  # of the end: finished | paused | diverged


class Trainer:
    """Trains by a plan.

        for event in Trainer(trainee, objective, train, val, plan).events(): ...

    The model is usable between any two events; at a validation and at a checkpoint it is as the event's step left it.
    `measure` names what validations tell of their step besides losses: grad_norm (of the whole gradient, before it is
    clipped), update_ratio (‖Δw‖ / ‖w‖ over all weights). `request_save()` asks for a `save` event after the step in progress, at which
    `state()` holds all that is needed to go on from there: `load_state` gives the same weights as if nothing had come between, bit for
    bit on the CPU. `request_stop()` asks for one too, and ends there. `at.lr_scale` is a person's hand on the schedule. Dropout draws
    from torch's global generators, seeded anew for each step: a thread that draws from them meanwhile changes what is dropped.
    """

    resumable = True

    def __init__(
        self,
        trainee: Trainee,
        objective: Objective,
        train: Tokens,
        val: Tokens | None,
        plan: Plan,
        started: float | None = None,
        measure: frozenset[str] = frozenset(),
    ) -> None:
        self.trainee, self.objective, self.plan, self.measure = trainee, objective, plan, measure
        self.started = time.perf_counter() if started is None else started
        self.device = torch.device(plan.device)
        seed = plan.options.seed
        size, step = objective.take(plan.block)
        self._overlap = 0 if objective.pairs else size - step  # tokens that two examples in a row have in common
        self.sampler = (
            DocumentSampler(train, seed) if objective.pairs else BlockSampler(train, size, step, seed, objective.shift)
        )
        self.val_blocks = (
            pieces(objective, val, plan.block, plan.options.eval_tokens) if val is not None and len(val.ids) > 1 else []
        )
        self.optimizers: list[torch.optim.Optimizer] = OPTIMIZERS.load(plan.options.optimizer)(
            trainee, replace(plan.options, precision=plan.precision)
        )
        self._parameters = [parameter for _, parameter in trainee.parameters()]
        self.schedule = SCHEDULES.load(plan.options.schedule)
        self._loss: Any = objective.loss
        if plan.compiled:
            torch.compiler.reset()  # it would remember the sizes of the runs before, and make kernels for any size
            # With the loss in it: of a large vocabulary the logits and their gradient are most of a step's memory.
            self._loss = torch.compile(objective.loss, dynamic=False if objective.alike else None)
        self.notes: list[str] = []  # what came otherwise than it was planned
        self._stop = self._save = self._resumed = False
        self._best: list[dict[str, Tensor]] = []  # of the model and the extras, at the lowest validation loss
        self._measured: dict[str, Tensor] = {}
        self.at = Progress(shares=list(plan.checkpoint_shares))

    def request_stop(self) -> None:
        """End after the step in progress, with a `save` before; the model stays as it is then."""
        self._stop = True

    def request_save(self) -> None:
        """Give a `save` event after the step in progress."""
        self._save = True

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def state(self) -> TrainState:
        """A copy of all that the next steps rest on; exact at a `save` event."""
        at = replace(self.at, seconds=self.seconds, shares=list(self.at.shares))
        return TrainState(gather(self.trainee, self.optimizers, self._best), at, _here(self.device))

    def load_state(self, state: TrainState) -> None:
        """Go on from there: the next step is the one after it, the clock runs on from its seconds. ValueError where the
        state is another model's."""
        spread(state.tensors, self.trainee, self.optimizers)
        self.at, self._resumed = replace(state.progress, shares=list(state.progress.shares)), True
        if state.progress.best_loss is not None:
            self._best = best_of(state.tensors, len(modules(self.trainee)), self.device)

    def events(self) -> Iterator[TrainEvent]:
        """One event a step, one a validation, and an end. A step's loss is read only after the next step has been
        issued, so that no step waits for the device. Where the best weights are kept, the last ones are validated too."""
        at = self.at
        pending: _Pending | None = None
        reason = "finished"
        self._compile()
        if self._resumed:
            self.started = time.perf_counter() - at.seconds
        elif 0 in self.plan.checkpoints:
            yield self._event("checkpoint")
        while not self._done():
            if pending and (self._save or self._stop):
                yield (event := pending.read())
                pending = None
                if not np.isfinite(event.loss):
                    reason = "diverged"
                    break
            if self._save or self._stop:
                self._save = False
                yield self._event("save")
            if self._stop:
                reason = "paused"
                break
            began = time.perf_counter()
            factor = self._factor(at.step) * at.lr_scale
            # What a validation soon to come will tell; by time, it may come two steps early.
            watched = bool(self.measure) and self._eval_due(at.step + 1, at.last_eval - 2 * at.step_time)
            loss, parts = self._step(at.step, factor, watched)
            at.step += 1
            if pending:
                yield (event := pending.read())
                if not np.isfinite(event.loss):
                    pending, reason = None, "diverged"
                    break
            pending = _Pending(TrainEvent("step", at.step, at.tokens, self.seconds, lr=factor), loss, parts)
            spent = time.perf_counter() - began
            at.step_time = spent if not at.step_time else 0.9 * at.step_time + 0.1 * spent
            if self._checkpoint_due(at.step):
                yield pending.read()
                pending = None
                yield self._event("checkpoint")
            if self._eval_due(at.step, at.last_eval):
                before = self.seconds
                if pending:
                    yield pending.read()
                    pending = None
                yield self._validate()
                at.seen, at.last_eval = at.step, self.seconds
                at.eval_time = at.last_eval - before  # with what the consumer makes of it, such as a sample
        if pending:
            yield (event := pending.read())
            if not np.isfinite(event.loss):
                reason = "diverged"
        if at.shares and at.step and reason == "finished":  # a time budget ends by the clock, a little before all of it
            yield self._event("checkpoint")
        if self.plan.options.keep == "best":
            # A replay looks where the run looked that it repeats, and a paused one goes on to its own end.
            if self.val_blocks and at.seen < at.step and reason == "finished" and not self.plan.learning_rates:
                yield self._validate()
            self._keep_best()
        self.trainee.train(False)
        yield replace(self._event("end"), reason=reason)

    def _event(self, kind: str) -> TrainEvent:
        return TrainEvent(kind, self.at.step, self.at.tokens, self.seconds)

    def _checkpoint_due(self, step: int) -> bool:
        if self.at.shares:
            passed = len(self.at.shares)
            self.at.shares = [
                share for share in self.at.shares if self.seconds < share * (self.plan.seconds or math.inf)
            ]
            return len(self.at.shares) < passed
        return step in self.plan.checkpoints

    def _done(self) -> bool:
        if self.plan.steps is not None:
            return self.at.step >= self.plan.steps
        assert self.plan.seconds is not None
        # The step that would end more than half of itself too late is not begun; the first always is.
        return self.at.step > 0 and self.seconds + self.at.step_time / 2 >= self.plan.seconds

    def _factor(self, step: int) -> float:
        """The learning rate as a factor of its peak: by steps, by the time that has gone, or as it was in a replayed run."""
        if self.plan.learning_rates:
            return self.plan.learning_rates[step]
        if self.plan.steps is not None:
            done = (step + 0.5) / self.plan.steps
        else:
            left = (self.plan.seconds or 1.0) - self.at.late
            done = min(1.0, (self.seconds - self.at.late) / left) if left > 0 else 0.5
        return self.schedule(done, self.plan.options.warmup)

    def _compile(self) -> None:
        """Compile before the first step: its learning rate goes by the clock, and so do those of the next ones. Where that fails,
        and it was not asked for, the steps go on without."""
        if not self.plan.compiled or self.trainee.model.config is None:  # a user's model may keep what it was shown
            return
        tokens = self.at.tokens
        try:
            self._gradients(self.at.step)
        except Exception as error:
            if machine.out_of_memory(error):
                raise
            why = f"a step could not be compiled here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            if self.plan.options.compile:
                raise BadValue(f"compile: {why}; --compile false trains without") from error
            self.notes.append(f"{why}, and is not")
            self._loss = self.objective.loss
        for parameter in self._parameters:
            parameter.grad = None
        self.at.tokens = tokens
        if not self._resumed:
            self.at.late = self.seconds

    def _gradients(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of a step's batches, whose gradients are added to those that are there."""
        options = self.plan.options
        if not self.trainee.model.training:  # whoever looked at the model since the last step may have left it so
            self.trainee.train()
        total: Tensor = torch.zeros((), device=self.device)
        parts: dict[str, Tensor] = {}
        # Dropout draws from torch's global generators: they are set for this step alone, and put back after it.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            for micro in range(options.accumulate):
                rng = np.random.default_rng((options.seed, step, micro))
                torch.manual_seed(int(rng.integers(2**62)))
                first = (step * options.accumulate + micro) * options.batch_size
                examples = self.sampler.examples(first, options.batch_size)
                batch = self.objective.collate(examples, rng, step).to(self.device)
                self.at.tokens += sum(map(len, examples)) - self._overlap * len(examples)
                with autocast(self.device, self.plan.precision):
                    loss, named = self._loss(self.trainee, batch)
                (loss / options.accumulate).backward()
                total = total + loss.detach() / options.accumulate
                for name, value in named.items():
                    parts[name] = parts.get(name, torch.zeros((), device=self.device)) + value / options.accumulate
        return total, parts

    def _step(self, step: int, factor: float, watched: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        total, parts = self._gradients(step)
        options = self.plan.options
        if options.grad_clip:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, options.grad_clip)
        elif watched:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        before = [p.detach().clone() for p in self._parameters] if watched and "update_ratio" in self.measure else []
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if watched:
            self._measured = {"grad_norm": norm}
        if before:
            moved = torch.nn.utils.get_total_norm(
                [p.detach() - old for p, old in zip(self._parameters, before, strict=True)]
            )
            self._measured["update_ratio"] = moved / torch.nn.utils.get_total_norm(before)
        return total, parts

    def _eval_due(self, step: int, last: float) -> bool:
        if not self.val_blocks:
            return False
        if self.plan.learning_rates:  # a replay looks where the run looked that it repeats: `keep best` depends on it
            return step in self.plan.eval_steps
        if self.plan.eval_every is not None and step % self.plan.eval_every:
            return False
        if self.plan.seconds is None:
            return True
        # Of a short budget twelve would take a tenth; and near its end it belongs to the steps, since the whole split is read
        # after the clock anyway.
        gap = max(self.plan.seconds / 12, self.at.eval_time / EVAL_SHARE)
        return self.seconds - last >= gap and self.seconds + self.at.eval_time < self.plan.seconds

    def _validate(self) -> TrainEvent:
        found = block_losses(
            self.objective,
            self.trainee,
            self.val_blocks,
            self.plan.options.batch_size,
            self.device,
            self.plan.precision,
        )
        parts = mean_losses(found)
        loss = self.objective.total(parts)
        if self.plan.options.keep == "best" and (self.at.best_loss is None or loss < self.at.best_loss):
            states = [module.state_dict() for module in modules(self.trainee).values()]
            self.at.best_loss = loss
            self._best = [{name: p.detach().clone() for name, p in state.items()} for state in states]
        measured = {name: float(value) for name, value in self._measured.items() if name in self.measure}
        self._measured = {}
        return replace(self._event("validation"), loss=loss, parts=parts, measured=measured)

    def _keep_best(self) -> None:
        if self._best:
            for module, state in zip(modules(self.trainee).values(), self._best, strict=True):
                module.load_state_dict(state)


def _here(device: torch.device) -> torch.cuda.Event | None:
    """A place in what a GPU was told to do, which can be waited for; None on a CPU, which has done it."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


class _Pending:
    """A step's event, and its losses on their way from the device. To read them is to wait for that step; a number that was read
    from the device itself would wait for the steps issued since then too, and the device for the next one."""

    def __init__(self, event: TrainEvent, loss: Tensor, parts: dict[str, Tensor]) -> None:
        self.event, self.names = event, list(parts)
        values = torch.stack([loss, *parts.values()])
        self.values = values.to("cpu", non_blocking=values.is_cuda)
        self.there = _here(values.device)

    def read(self) -> TrainEvent:
        if self.there is not None:
            self.there.synchronize()
        loss, *parts = self.values.tolist()
        return replace(self.event, loss=loss, parts=dict(zip(self.names, parts, strict=True)))

"""A run's card: what `report.json` says of it, and the course that its events tell. It knows no torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from llm_lab.results import Sample, TrainingReport
from llm_lab.store.events import number, table
from llm_lab.store.runs import Run
from llm_lab.store.typed import build

# What events tell; the file says the rest.
_TOLD = frozenset({"train", "val", "parts", "val_parts", "watched", "samples", "watch_seconds", "lr_scale"})
_LIVE = frozenset({"actions", "code", "looks"})  # what is there only as long as the process that made it


def tell(card: TrainingReport, event: Mapping[str, Any]) -> None:
    """Add what happened, one event of a run's trace, to its card."""
    kind = event.get("kind")
    if kind == "start":
        card.setup_seconds = number(event.get("seconds")) or 0.0
    if kind == "control" and event.get("do") == "lr":
        scale, done = number(event.get("scale")), number(event.get("step"))
        card.lr_scale = 1.0 if scale is None else scale
        note = f"learning rate × {card.lr_scale:g} from step {int(done or 0) + 1} on, by hand"
        if note not in card.notes:  # which the card's file may have told
            card.notes.append(note)
    if kind not in ("step", "validation", "watch", "sample"):
        return
    step, seconds = event["step"], event["seconds"]
    if kind == "sample":
        card.samples.append(Sample(step, seconds, str(event.get("prompt", "")), str(event.get("text", ""))))
        return
    if kind == "watch":
        card.watch_seconds += number(event.get("spent")) or 0.0
        for name, value in table(event.get("values")).items():
            if (found := number(value)) is not None:
                card.watched.setdefault(name, []).append((step, seconds, found))
        return
    card.step, card.tokens, card.seconds = step, int(event["tokens"]), seconds
    card.epochs = card.tokens / card.train_tokens if card.train_tokens else 0.0
    card.tokens_per_second = card.tokens / seconds if seconds else 0.0
    loss = number(event.get("loss"))
    if loss is not None:
        (card.train if kind == "step" else card.val).append((step, seconds, loss))
    curves = card.parts if kind == "step" else card.val_parts
    parts = table(event.get("parts"))
    for name, value in parts.items() if card.several else ():
        if (found := number(value)) is not None:
            curves.setdefault(name, []).append((step, seconds, found))
    if kind == "step":
        card.lr = event["lr"] * card.peak_lr
        card.memory = int(number(event.get("memory")) or card.memory)
        if card.by_time and card.budget_seconds and seconds:
            card.budget_steps = round(step * card.budget_seconds / seconds)


def write_card(run: Run, card: TrainingReport) -> None:
    """What of a card its events do not tell."""
    plain = asdict(replace(card, actions={}, looks={}, **{name: type(getattr(card, name))() for name in _TOLD}))
    run.write("report", {key: value for key, value in plain.items() if key not in _TOLD | _LIVE})


class Follower:
    """The card of a run that another process may be at: `update()` brings it up to date."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.place = 0
        self.card = build(TrainingReport, run.read("report"), skip=_TOLD | _LIVE)

    def update(self) -> TrainingReport:
        """The card with what happened since."""
        for event, place in self.run.trace(self.place):
            tell(self.card, event)
            self.place = place
        return self.card


def load_card(run: Run) -> TrainingReport | None:
    """The card of a run; none where its file is missing or damaged."""
    with contextlib.suppress(ValueError, OverflowError):
        card = Follower(run).update()
        curves = [card.train, card.val, *card.parts.values(), *card.val_parts.values(), *card.watched.values()]
        if all(math.isfinite(seconds) for curve in curves for _, seconds, _ in curve):
            return card
    return None

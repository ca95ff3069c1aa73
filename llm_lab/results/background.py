"""A run that a process of its own trains, as any kernel sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.registry import load
from llm_lab.results.base import Result, in_notebook
from llm_lab.results.models import TrainingReport

if TYPE_CHECKING:
    import pandas as pd

OVER = ("finished", "failed")  # nothing more happens to such a run by itself
_LOOK = 0.25  # seconds between two looks


@dataclass(eq=False, kw_only=True)
class BackgroundRun(Result):
    """A run that is trained elsewhere. Shows itself as its card, live, with controls.

    `.report` is the card as it was last read; `.update()` reads it again. `.lm` is the model as the run last saved it.
    `actions`: `update()` gives the report, `lm()` the model, `pause()`, `resume()`, `stop()`, `lr(scale)` do as their names say.
    """

    renderer: ClassVar[str] = "llm_lab.views.background:background"
    name: str
    run: str  # its id
    report: TrainingReport

    @property
    def status(self) -> str:
        """training | paused | finished | failed | died"""
        return self.update().status

    @property
    def lm(self) -> Any:
        """The model as the run last saved it, an LM; of a finished run, the model that it made."""
        return self.actions["lm"]()

    @property
    def model(self) -> Any:
        """The module of `.lm`."""
        return self.lm.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of `.lm`."""
        return self.lm.tokenizer

    def update(self) -> TrainingReport:
        """The card as the run is now."""
        self.report = self.actions["update"]()
        return self.report

    def pause(self) -> None:
        """End its process after the step in progress; `resume()` goes on from there."""
        self.actions["pause"]()

    def resume(self) -> None:
        """Go on, in a new process."""
        self.actions["resume"]()

    def stop(self) -> None:
        """End it after the step in progress, and take the model as it is: the run is finished."""
        self.actions["stop"]()

    def lr(self, scale: float) -> None:
        """Multiply the schedule's learning rates by `scale` from the next step on. The run's trace tells of it."""
        self.actions["lr"](scale)

    def wait(self, timeout: float | None = None) -> Any:
        """Until it is over or paused; gives its model. BadValue where that takes more than `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.status == "training":
            if end is not None and time.monotonic() > end:
                raise BadValue(
                    f"timeout: {self.name} is still training after {timeout:g} s, at step {self.report.step}"
                )
            time.sleep(_LOOK)
        return self.lm

    def to_pandas(self) -> pd.DataFrame:
        return self.update().to_pandas()

    def widget(self) -> Any:
        """The controls with the kernel in the loop, under a card that is redrawn while the run goes on."""
        return load("llm_lab.views.background:background_widget")(self)

    def _ipython_display_(self) -> None:
        if not in_notebook() or "update" not in self.actions:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget().show()

"""The runs that are here."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

# A column of the frame and its dtype; times are Timestamps in the zone of this machine.
STATUSES = ("training", "paused", "finished", "failed", "died")
COLUMNS: dict[str, str] = {
    "name": "str",
    "run": "str",
    "from": "str",
    "from_step": "Int64",
    "status": "str",
    "steps": "Int64",
    "planned_steps": "Int64",
    "corpus": "str",
    "tokens": "Int64",
    "parameters": "Int64",
    "loss": "float64",
    "bits_per_byte": "float64",
    "started": "time",
    "when": "time",
    "seconds": "float64",
    "MB": "float64",
    "folder": "str",
}


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run; None where its files do not say."""

    name: str
    run: str  # its id
    status: str  # training | paused | finished | failed | died
    corpus: str | None = None
    steps: int | None = None  # that it has trained
    planned_steps: int | None = None  # None too for a budget of time
    planned_seconds: float | None = None
    tokens: int | None = None
    parameters: int | None = None
    loss: float | None = None  # over the whole held-out split, in the run's own unit
    bits_per_byte: float | None = None
    started: float | None = None  # seconds since 1970
    when: float | None = None  # its status was last set
    seconds: float | None = None  # of training
    size: int = 0  # bytes on disk, checkpoints included
    folder: str = ""  # or the zip that it is in
    elsewhere: bool = False  # in a place that is only read
    parent: str | None = None  # the id of the run that it was forked from, …
    parent_name: str | None = None
    parent_step: int | None = None  # … and the step; None: its end


@dataclass(eq=False, kw_only=True)
class RunTable(Result):
    """The runs of every store, one row a run."""

    renderer: ClassVar[str] = "llm_lab.views.runs:runs"
    rows: list[RunRow]
    store: str  # the folder of the runs made here
    free: int | None = None  # bytes of its disk
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        """name, run, from, from_step, status, steps, planned_steps, corpus, tokens, parameters, loss, bits_per_byte, started,
        when, seconds, MB, folder."""
        import pandas as pd

        frame = pd.DataFrame({name: [_cell(row, name) for row in self.rows] for name in COLUMNS})
        zone = datetime.now().astimezone().tzinfo
        for name, kind in COLUMNS.items():
            if kind == "time":
                moments = pd.to_datetime(pd.Series(frame[name], dtype="float64"), unit="s", utc=True, errors="coerce")
                frame[name] = moments.dt.tz_convert(zone)
            else:
                dtype: Any = kind if kind != "str" else pd.StringDtype()
                frame[name] = frame[name].astype(dtype)
        return frame


def _cell(row: RunRow, name: str) -> Any:
    if name == "MB":
        return row.size / 1e6
    return getattr(row, {"from": "parent", "from_step": "parent_step"}.get(name, name))

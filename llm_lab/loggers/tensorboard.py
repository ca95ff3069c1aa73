"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_lab.loggers.logger import Logger, Names, flat, library, relative, sampled, settings, verbatim

_FLUSH = 2  # seconds that the newest events may lie in memory


class TensorBoard(Logger):
    def __init__(self) -> None:
        library("tensorboard")
        self.writer_class = importlib.import_module("torch.utils.tensorboard").SummaryWriter

    def start(self, about: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        folder = Path(about["folder"]) / "tensorboard"
        self.names, self.step, self.settings = Names(about), int(about["step"]), dict(flat(settings(about)))
        # A run that goes on tells everything again, since a process that was killed may not have written its last events.
        # TensorBoard's readers drop what a file holds from `purge_step` on where another one begins with the same.
        self.writer = self.writer_class(str(folder), purge_step=0, flush_secs=_FLUSH)
        table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in self.settings.items())
        self.writer.add_text("config", f"| setting | value |\n|---|---|\n{table}", 0)
        self.look = f"tensorboard --logdir {shlex.quote(relative(folder))}"
        return {"folder": folder.name}

    def tell(self, event: Mapping[str, Any]) -> None:
        self.step, when = event.get("step", self.step), self.names.time(event)
        for name, value in self.names.numbers(event).items():
            self.writer.add_scalar(name, value, self.step, when, new_style=True, double_precision=True)
        if text := sampled(event):
            self.writer.add_text("sample", verbatim(text), self.step, when)

    def close(self, status: str, final: Mapping[str, float]) -> None:
        metrics = {f"final/{name}": value for name, value in final.items()}
        self.writer.add_hparams({**self.settings, "status": status}, metrics, run_name=".", global_step=self.step)
        self.writer.close()


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

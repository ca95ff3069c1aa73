"""MLflow: where MLFLOW_TRACKING_URI says, else a database beside the runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_lab.errors import BadValue
from llm_lab.loggers.logger import PROJECT, Logger, Names, flat, library, relative, sampled, settings

_FLUSH = 1.0  # seconds between two writes
_MOST = 900  # metrics of one write; MLflow takes 1,000, and 100 parameters
_STATUS = {"failed": "FAILED", "paused": "KILLED", "stopped": "KILLED"}


class MLflow(Logger):
    def __init__(self) -> None:
        self.mlflow = library("mlflow")
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not self.uri and importlib.util.find_spec("sqlalchemy") is None:
            raise BadValue(
                "log: this mlflow has no database of its own; pip install mlflow, or set MLFLOW_TRACKING_URI to a server"
            )

    def start(self, about: Mapping[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
        self.names = Names(about)
        self.buffer: list[Any] = []
        self.written = time.monotonic()
        self.last: dict[str, int] = {}  # of each metric of a run that goes on, its newest step
        place, uri = None, self.uri
        if not uri:
            folder = Path(about["folder"]).parents[1] / "mlflow"
            folder.mkdir(exist_ok=True)
            uri, place = f"sqlite:///{folder.resolve() / 'mlflow.db'}", (folder.resolve() / "artifacts").as_uri()
            self.look = f"mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{relative(folder)}/mlflow.db')}"
            for name in ("mlflow.store.db.utils", "alembic"):  # which tell how they make the tables
                logging.getLogger(name).setLevel(logging.WARNING)
        self.client = self.mlflow.MlflowClient(tracking_uri=uri)
        self.resumed = self._resume(kept)
        if not self.resumed:
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT, place)
            run = self.client.create_run(experiment, run_name=f"{about['name']}-{about['id']}")
            self.run = run.info.run_id
            params = [self.mlflow.entities.Param(name, str(value)) for name, value in flat(settings(about))]
            for i in range(0, len(params), 100):
                self.client.log_batch(self.run, params=params[i : i + 100])
        self.look = self.look or f"run {self.run} at {uri}"
        return {"run": self.run}

    def _experiment(self, name: str, place: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name, place))

    def _resume(self, kept: Mapping[str, Any]) -> bool:
        """Whether the run that was logged before goes on; one that was deleted there does not."""
        self.run = str(kept.get("run") or "")
        if not self.run:
            return False
        try:
            if self.client.get_run(self.run).info.lifecycle_stage != "active":
                return False
        except self.mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self.client.update_run(self.run, status="RUNNING")
        return True

    def tell(self, event: Mapping[str, Any]) -> None:
        when = round(1000 * self.names.time(event))
        for name, value in self.names.numbers(event).items():
            if event["step"] > self._newest(name):
                self.buffer.append(self.mlflow.entities.Metric(name, float(value), when, event["step"]))
        if text := sampled(event):
            self.client.log_text(self.run, text, f"samples/{event['step']:08d}.txt")
        if len(self.buffer) >= _MOST or time.monotonic() - self.written > _FLUSH:
            self._write()

    def _newest(self, name: str) -> int:
        """The step that a metric has got to: a point that is there is not written twice."""
        if self.resumed and name not in self.last:
            points = self.client.get_metric_history(self.run, name)
            self.last[name] = max((point.step for point in points), default=-1)
        return self.last.get(name, -1)

    def _write(self) -> None:
        for i in range(0, len(self.buffer), _MOST):
            self.client.log_batch(self.run, metrics=self.buffer[i : i + _MOST])
        self.buffer, self.written = [], time.monotonic()

    def close(self, status: str, final: Mapping[str, float]) -> None:
        self._write()
        for name, value in final.items():
            self.client.log_metric(self.run, f"final/{name}", float(value))
        self.client.set_tag(self.run, "llm_lab.status", status)
        self.client.set_terminated(self.run, _STATUS.get(status, "FINISHED"))

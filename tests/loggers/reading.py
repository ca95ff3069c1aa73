"""What each library's own reader finds of a run: {metric: [(step, value), …]}, and what else was kept."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Curves = dict[str, list[tuple[int, float]]]


def tensorboard(folder: Path) -> tuple[Curves, dict[str, Any]]:
    from tensorboard.backend.event_processing.plugin_event_accumulator import (
        EventAccumulator,  # what its server reads with
    )
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(folder / "tensorboard"), tensor_size_guidance={"scalars": 0, "text": 0}).Reload()
    curves: Curves = {}
    more: dict[str, Any] = {"final": {}}
    for tag in found.Tags()["tensors"]:
        plugin = found.SummaryMetadata(tag).plugin_data.plugin_name
        values = [(event.step, make_ndarray(event.tensor_proto)) for event in found.Tensors(tag)]
        if plugin == "text":
            more[tag.removesuffix("/text_summary")] = [(step, value.item().decode()) for step, value in values]
        elif tag.startswith("final/"):
            more["final"][tag] = values[-1][1].item()
        elif plugin == "scalars":
            curves[tag] = [(step, value.item()) for step, value in values]
    settings = HParamsPluginData.FromString(found.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    settings = settings.session_start_info.hparams
    more["settings"] = {key: getattr(value, value.WhichOneof("kind")) for key, value in settings.items()}
    return curves, more


def mlflow(folder: Path) -> tuple[Curves, dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parents[1] / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    (run,) = [run for run in runs if run.info.run_name == folder.name]
    names = [name for name in run.data.metrics if not name.startswith("final/")]
    curves = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in names
    }
    samples = client.list_artifacts(run.info.run_id, "samples")
    texts = [
        (int(Path(one.path).stem), Path(client.download_artifacts(run.info.run_id, one.path)).read_text())
        for one in samples
    ]
    final = {name: value for name, value in run.data.metrics.items() if name.startswith("final/")}
    return curves, {"sample": texts, "settings": run.data.params, "final": final, "status": run.info.status}


def records(file: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which is what an offline run of wandb is: blocks of 32 KiB behind a
    head of 7 bytes, in them pieces with checksum, length and type (1 whole, 2 first, 3 middle, 4 last)."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def wandb(folder: Path) -> tuple[Curves, dict[str, Any]]:
    from wandb.proto.wandb_internal_pb2 import Record

    curves: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    more: dict[str, Any] = {"sample": [], "settings": {}, "final": {}}
    # An offline run that goes on is a folder of its own under the same id; it tells everything again.
    newest = max(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    for data in records(newest):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            more["settings"] |= _items(record.run.config.update)
        elif kind == "summary":
            more["final"] |= _items(record.summary.update)
        elif kind == "history":
            values = _items(record.history.item)
            for name, value in values.items():
                if name == "sample":
                    more["sample"].append((values["_step"], value))
                elif not name.startswith("_"):
                    curves[name].append((values["_step"], value))
    return dict(curves), more


def _items(found: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in found}


def trackio(folder: Path) -> tuple[Curves, dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    curves: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    more: dict[str, Any] = {"sample": [], "final": {}}
    for line in SQLiteStorage.get_logs("llm_lab", folder.name):
        for name, value in line.items():
            if name == "sample":
                more["sample"].append((line["step"], value["_value"]))
            elif name.startswith("final/"):
                more["final"][name] = value
            elif "/" in name:
                curves[name].append((line["step"], value))
    more["settings"] = SQLiteStorage.get_run_config("llm_lab", folder.name)
    return dict(curves), more

"""What is logged of a model while it trains: numbers by name, and whatever else a probe or a user's function gives. It looks
between two steps, and leaves mode, gradients and torch's generators as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from llm_lab.data.batch import Batch
from llm_lab.errors import BadType, BadValue, show
from llm_lab.models.language_model import evaluating
from llm_lab.probes.heads import head_scores
from llm_lab.probes.options import GRADIENTS, PROBES, WATCHES, watch_name
from llm_lab.probes.own import Maker
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.probes.stream import Stream, stream
from llm_lab.registry import Entry
from llm_lab.results import Result
from llm_lab.store.lm import LM

REPEATS = 8  # random sequences
ROWS, LENGTH = 8, 128  # of the held-out text that is read, at most

Watch = Callable[["Watching"], Any]


@dataclass(frozen=True, eq=False)
class Watching:
    """A model between two steps, and what watches read: (B, T) ids of its held-out text, a text, and what the trainer
    measured of the last step."""

    lm: LM
    ids: Int[Tensor, "B T"]
    text: str = ""
    measured: Mapping[str, float] | None = None  # None before the first step

    @cached_property
    def heads(self) -> dict[str, np.ndarray]:
        """The scores of all heads, (L, H), read once for all watches."""
        return head_scores(self.lm, [self.ids], REPEATS)

    @property
    def batch(self) -> Batch:
        """The held-out ids as the model reads them; a decoder behind an encoder reads the same."""
        batch = self.lm.batch(self.ids)
        return batch if batch.decoder_ids is None else replace(batch, decoder_ids=self.ids)

    @property
    def stream(self) -> Stream:
        return stream(Reading((self.lm,)), "watch")

    def of_step(self, name: str) -> dict[str, float]:
        """What the trainer measured; nothing before the first step."""
        return {"": self.measured[name]} if self.measured and name in self.measured else {}


# --- the table's ----------------------------------------------------------------------------------------------------


def induction_score(w: Watching) -> dict[str, float]:
    """The largest of all heads' (see `repeat_scores`), and which head has it."""
    return _largest(w.heads["induction"])


def previous_token_score(w: Watching) -> dict[str, float]:
    """The largest mean attention to the previous token, and which head has it."""
    return _largest(w.heads["previous_token"])


def _largest(scores: np.ndarray) -> dict[str, float]:
    layer, head = np.unravel_index(int(scores.argmax()), scores.shape)
    return {"": float(scores[layer, head]), "layer": float(layer), "head": float(head)}


def head_entropy(w: Watching) -> float:
    """In bits, the mean over heads and queries of the held-out text."""
    return float(w.heads["entropy"].mean())


def residual_norm(w: Watching) -> dict[str, float]:
    """‖x‖ after each layer, the mean over the held-out tokens."""
    found = record(w.lm.model, w.batch, "*blocks.*.resid_post", take=lambda x, _: x.float().norm(dim=-1).mean())
    return {site.removesuffix(".resid_post").replace("blocks.", "layer "): float(x) for site, x in found.items()}


@torch.no_grad()
def lens_kl(w: Watching) -> float:
    """KL(final ‖ the middle layer by the logit lens) in nats, the mean over the held-out tokens."""
    source = w.stream
    x = source.record(w.batch)
    final, middle = (source.logits(x[i]).log_softmax(-1) for i in (-1, source.n_layer // 2))
    return float(F.kl_div(middle, final, reduction="sum", log_target=True) / final[..., 0].numel())


def dead_neurons(w: Watching) -> float:
    """The share of MLP neurons that are at or below 0 before their nonlinearity at every held-out token."""
    if not any(site.endswith("mlp.pre") for site in w.lm.sites()):
        raise BadValue(
            f"watch dead_neurons: {w.lm.name} has experts in place of MLPs; a model without --n_expert would do"
        )
    found = record(w.lm.model, w.batch, "*blocks.*.mlp.pre", take=lambda x, _: (x <= 0).all(dim=(0, 1)))
    return float(torch.cat(list(found.values())).float().mean())


def weight_norm(w: Watching) -> float:
    """‖w‖ over all weights."""
    return float(torch.nn.utils.get_total_norm([p.detach() for p in w.lm.model.parameters()]))


def grad_norm(w: Watching) -> dict[str, float]:
    """‖∇‖ of the last step, over all weights, before it was clipped."""
    return w.of_step("grad_norm")


def update_ratio(w: Watching) -> dict[str, float]:
    """‖Δw‖ / ‖w‖ of the last step, over all weights."""
    return w.of_step("update_ratio")


# --- what was asked for ---------------------------------------------------------------------------------------------


def measured(watches: Iterable[Any]) -> frozenset[str]:
    """The names of those that the trainer has to measure."""
    return frozenset(
        name for name in watches if isinstance(name, str) and name in WATCHES and WATCHES[name].supports >= GRADIENTS
    )


def described(watches: Iterable[Any]) -> list[Any]:
    """What an identical request is recognised by: names, and the source of users' functions."""
    return [watch if (own := _own(watch)) is None else [watch_name(watch), _source(own)] for watch in watches]


def _own(watch: Any) -> Callable[..., Any] | None:
    """The user's function that a watch is, or names."""
    if not isinstance(watch, str):
        function: Callable[..., Any] = watch
        return function
    target = PROBES[watch].target if watch in PROBES and watch not in WATCHES else None
    return target.function if isinstance(target, Maker) else None


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


@dataclass(frozen=True)
class Seen:
    """What watches gave at one step: numbers by column, results by name, and why some gave nothing."""

    values: dict[str, float] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Watcher:
    """The watches of one training: names of WATCHES, kinds of probes that need at most a text, users' functions of an LM.

    A number goes by the watch's name, those of a dict by "name.key". `ids` are held-out text and `text` is what kinds of
    probes read. BadValue for one that the model cannot have.
    """

    def __init__(self, watches: Sequence[Any], lm: LM, ids: np.ndarray, text: str) -> None:
        self.lm, self.text = lm, text
        length = min(lm.max_seq_len, LENGTH, len(ids))
        rows = max(1, min(ROWS, len(ids) // max(length, 1)))
        self.ids = torch.from_numpy(np.asarray(ids[: rows * length], dtype=np.int64)).view(rows, length)
        self.watches = {watch_name(watch): self._made(watch) for watch in watches}

    def _made(self, watch: Any) -> Watch:
        if not isinstance(watch, str):
            return lambda w: watch(w.lm)
        entry = WATCHES[watch] if watch in WATCHES else PROBES.entry(watch)
        for ability in entry.supports:
            self.lm.need(ability, f"watch {watch}", "a function of an LM can be watched on any model")
        return entry.load() if watch in WATCHES else lambda w: _probed(entry, w)

    def look(self, measured: Mapping[str, float] | None = None) -> Seen:
        """Every watch once. One that fails is not asked again; before the first step (`measured` is None) its error is
        raised, as nothing would be lost by it."""
        seen = Seen()
        model = self.lm.model
        watching = Watching(self.lm, self.ids.to(self.lm.device), self.text, measured)
        devices = [model.device] if model.device.type == "cuda" else []
        for name, watch in list(self.watches.items()):
            try:
                with evaluating(model), torch.random.fork_rng(devices=devices):
                    found = watch(watching)
                    found = found if isinstance(found, Result) else _numbers(found, name)
                    if isinstance(found, Result):
                        seen.results[name] = found
                    else:
                        seen.values.update(found)
            except Exception as error:  # a run of hours does not end by what looks at it
                if measured is None:
                    raise
                del self.watches[name]
                seen.failed[name] = f"{type(error).__name__}: {error}"
            finally:
                for parameter in model.parameters():
                    parameter.grad = None  # else a backward pass of the user's would join the next step's
        return seen


def _probed(entry: Entry, w: Watching) -> Any:
    """What a kind of probe finds; a user's own gives what its function returned."""
    kind: Any = entry.options
    reading, options = Reading((w.lm,), (w.text,) if kind.texts[0] else ()), kind()
    if isinstance(entry.target, Maker):
        return entry.target.call(reading, options)
    found = entry.load()(reading, options)
    if isinstance(found, Iterator):
        *_, found = found
    return found


def _numbers(found: Any, name: str) -> dict[str, float]:
    """What a watch gave, as numbers by their columns; BadType for what is none."""
    if found is None:
        return {}
    items = found.items() if isinstance(found, Mapping) else [("", found)]
    try:
        return {f"{name}.{key}" if key != "" else name: float(value) for key, value in items}
    except (TypeError, ValueError, RuntimeError):
        raise BadType(
            f"watch: {name} gave {show(found)}; a number, a dict of numbers or a result of the lab would do"
        ) from None

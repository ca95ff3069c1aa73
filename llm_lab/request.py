"""What a pretraining was asked for: checked, recognised again, and written out as the cell that repeats it."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llm_lab import forking
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.open import open_corpus
from llm_lab.errors import BadValue, LabError, show
from llm_lab.loggers.loggers import Loggers
from llm_lab.loggers.options import LogOptions
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import ModelConfig, ModelOptions
from llm_lab.models.presets import PRESETS, PresetOptions
from llm_lab.objectives.make import check_pair, fitting, make
from llm_lab.objectives.objective import Objective
from llm_lab.objectives.options import OBJECTIVES, ObjectiveOptions, objective_options, own_options
from llm_lab.options import all_specs, distribute, specs
from llm_lab.probes.options import WatchOptions
from llm_lab.probes.watches import described
from llm_lab.store.lm import LM
from llm_lab.store.runs import Run
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.options import BUDGETS, SampleOptions, TrainOptions
from llm_lab.training.plan import Plan
from llm_lab.verbs import VERBS, RunOptions, SaveOptions

STANDS_FOR = {
    "model": "@your_model",
    "corpus": "@your_text",
    "tokenizer": "@your_tokenizer",
}  # objects whose variables' names a function cannot know
# Options that say how large the model, or a step, is to be: where one of them was given, none is chosen.
SIZED_BY = frozenset(
    {
        "preset",
        "model",
        "init_from",
        "replay",
        "shape",
        "attention",
        "batch_size",
        "accumulate",
        "max_seq_len",
        "share_layers",
    }
    | {key for key in specs(ModelOptions) if key.startswith(("n_", "d_"))}
    | {"steps", "tokens", "epochs"}
)
RECIPE = 8  # raised by hand when the same request would no longer train the same model


class Request:
    """What was asked for, checked before anything is read or trained."""

    def __init__(self, name: str, corpus: Any, options: dict[str, Any]) -> None:
        self.name, self.corpus = name, corpus  # the corpus as it was asked for
        self.given = {key: value for key, value in options.items() if value is not None}
        made = distribute(VERBS["pretrain"].options, options, "pretrain")
        self.by_type = {type(one): one for one in made}
        overrides = {key: value for key, value in options.items() if key in specs(ModelOptions)}
        preset = PRESETS.load(self[PresetOptions].preset)
        self.base: LM | None = self[RunOptions].init_from
        if self.base is not None:
            forking.check(self.base, self.given)
        self.lineage = forking.lineage(self.base) if self.base else None
        begun = forking.config(self.base, self.given) if self.base else None
        self.sizes: dict[str, int | float] = {}  # that were chosen for the time, as options
        self.config: Callable[[int], ModelConfig] = lambda size: (
            begun
            or preset.config(
                size, **overrides, **{key: n for key, n in self.sizes.items() if key in specs(ModelOptions)}
            )
        )
        sizes = self.config(256)  # sizes that do not fit each other are refused now
        asked: ObjectiveOptions = self[ObjectiveOptions]
        # A user's own model is one of the next token, whatever the preset's shape.
        self.own = self[RunOptions].model is not None or (self.base is not None and begun is None)
        usual = "clm" if self.own else fitting(sizes, preset.objective)
        # A model that is trained further goes on with what it learned, unless it is to learn something else.
        learned = self.base.info if self.base and not asked.objective else {}
        before = self.base.objectives if self.base and all(one in OBJECTIVES for one in self.base.objectives) else None
        self.objectives = asked.objective or before or (usual,)
        self.mix: str = learned.get("mix", asked.mix)
        self.weights: tuple[float, ...] = tuple(learned.get("weights", asked.weights))
        self.notes = (
            []
            if asked.objective or usual in ("clm", preset.objective)
            else [
                f"{preset.objective}, which {self[PresetOptions].preset} learns, cannot be learned by shape {sizes.shape} with output {sizes.output}: {usual} is in its place; --objective chooses another"
            ]
        )
        known = all_specs(objective_options())
        self.objective_options = {key: value for key, value in self.given.items() if key in known}
        self.objective_options = {**learned.get("objective_options", {}), **self.objective_options}
        own_options(self.objectives, self.objective_options)
        if not self.own:
            check_pair(self.objectives, sizes)
        self.loggers = Loggers(self[LogOptions].log)
        try:
            (self[SampleOptions].sample_prompt or "").encode()
        except UnicodeEncodeError:
            raise BadValue(
                f"sample_prompt: {show(self[SampleOptions].sample_prompt)} has half a character, which no tokenizer can read"
            ) from None

    def __getitem__(self, cls: type) -> Any:
        return self.by_type[cls]

    @property
    def unsized(self) -> bool:
        """Whether only a time says how large the model is to be."""
        return not SIZED_BY & self.given.keys()

    def resize(self, sizes: Mapping[str, int | float]) -> None:
        """Take sizes of the model and of its batch that were chosen for it."""
        self.sizes = dict(sizes)
        if "batch_size" in sizes:
            self.by_type[TrainOptions] = replace(self[TrainOptions], batch_size=sizes["batch_size"])

    def share_cores(self, cores: int, among: int) -> bool:
        """A fair part of the cores, where no number of threads was asked for; whether that was so."""
        options: TrainOptions = self[TrainOptions]
        if options.threads is not None:
            return False
        self.by_type[TrainOptions] = replace(options, threads=max(1, cores // among))
        return True

    def objective(self, tokenizer: Tokenizer) -> Objective:
        return make(self.objectives, self.objective_options, tokenizer, self.weights, self.mix)

    def identity(self, corpus: Corpus, own: LanguageModel | None) -> dict[str, Any]:
        """What an identical cell is recognised by: everything that changes the result. `own` is the user's model, made."""
        run, watches = self[RunOptions], self[WatchOptions].watch
        shown = {*specs(SampleOptions), *specs(SaveOptions), *specs(LogOptions)}
        unseen = {"fresh", "model", "init_from", "watch", *shown}
        return {
            "verb": "pretrain",
            "recipe": RECIPE,
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "options": {
                key: value.fingerprint if isinstance(value, Tokenizer) else value
                for one in self.by_type.values()
                for key, value in one.to_dict().items()
                if key not in unseen and key in self.given
            }
            | ({"watch": described(watches)} if watches else {}),
            "model": None if own is None else _describe(run.model, own),
        } | ({"from": self.lineage} if self.lineage else {})


def _describe(model: Any, made: LanguageModel) -> dict[str, Any]:
    """A user's model by its code and by what it computes: an edit of a helper, or of a constant, shows in its numbers
    only, and Python 3.11 cannot give the source of a class that a notebook's cell defined."""
    cls = type(model) if isinstance(model, nn.Module) else model
    digest = hashlib.sha256()
    for name, tensor in made.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
    ids = (torch.arange(2 * min(8, made.max_seq_len), device=made.device) % made.vocab_size).view(2, -1)
    mode = made.training
    with torch.random.fork_rng(), torch.no_grad():
        for training in (True, False):
            torch.manual_seed(0)
            made.train(training)
            # A norm may keep running statistics, which a look must not move.
            kept = {name: buffer.clone() for name, buffer in made.named_buffers()}
            logits = made(ids).logits.float().cpu().numpy()
            for name, buffer in made.named_buffers():
                buffer.copy_(kept[name])
            digest.update((np.round(logits, 4) + 0.0).tobytes())
    made.train(mode)
    return {"class": getattr(cls, "__name__", str(cls)), "source": source(model), "behaviour": digest.hexdigest()[:16]}


def source(model: Any) -> str:
    """The code of a user's model; empty where it cannot be had."""
    try:
        return inspect.getsource(type(model) if isinstance(model, nn.Module) else model)
    except (OSError, TypeError):
        return ""


def default_corpus(notes: list[str]) -> Corpus:
    """Shakespeare; Python's help topics where it cannot be had, and then the notes say so."""
    try:
        return open_corpus("shakespeare")
    except LabError as error:
        notes.append(f"shakespeare cannot be had ({error}); python-docs is used instead")
        return open_corpus("python-docs")


def repeat_line(request: Request, tokenizer: Tokenizer, plan: Plan, run: Run, as_planned: bool) -> str:
    """The cell that trains the same weights again: every choice that was left to the machine is written out."""
    given = {**request.given, **request.sizes}
    for gone in (*BUDGETS, "fresh", "replay", *specs(SaveOptions)):
        given.pop(gone, None)
    if (base := request.base) is not None:
        given.pop("tokenizer", None)
        del given["init_from"]  # a run by its id: its name may be another's one day
        given["from"] = base.run.id if base.run and base.step is None else base.called.strip("'")
    else:
        given["tokenizer"] = tokenizer.kind if isinstance(given.get("tokenizer", ""), str) else tokenizer
    fixed = {
        "seed": plan.options.seed,
        "device": plan.device,
        "precision": plan.precision,
    }
    if plan.device == "cpu":
        fixed["threads"] = plan.threads
    if plan.compiled or plan.device != "cpu":
        fixed["compile"] = plan.compiled
    # Learning rates that followed the clock or a hand, or an interrupted run, are repeated from the run's own trace.
    traced = plan.steps is None or plan.learning_rates or not as_planned
    budget = {"replay": run.id} if traced else {"steps": plan.steps}
    words = [f"--{key} {_option(value)}" for key, value in {**budget, **given, **fixed}.items()]
    return f"%%pretrain {request.name} {_word(request.corpus)} {' '.join(words)} --fresh"


def _option(value: Any) -> str:
    """An option as a line has it, one that is a list with commas."""
    if not isinstance(value, list | tuple):
        return _word(value)
    joined = ",".join(one if isinstance(one, str) else _word(one) for one in value)
    return joined if "@" in joined else _word(joined)  # within quotes @ would be text


def _word(value: Any) -> str:
    """A value as it stands on a line; an object by a variable's name that its reader must supply."""
    if isinstance(value, str | Path):
        text = str(value)
        bare = re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_.,/-]*", text) and text.lower() not in ("none", "true", "false")
        return text if bare else '"' + text.replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, type) or inspect.isfunction(value):
        return f"@{value.__name__}"
    kind = "model" if isinstance(value, nn.Module) or callable(value) else "corpus"
    return STANDS_FOR["tokenizer" if isinstance(value, Tokenizer) else kind]

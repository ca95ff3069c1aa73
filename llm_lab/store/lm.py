"""LM: a model with its tokenizer and where it came from; saved as a folder of plain files and loaded again."""

from __future__ import annotations

import inspect
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.data.batch import Attend, Batch
from llm_lab.errors import BadType, BadValue, LabError, listing, show, suggestion
from llm_lab.models import cost
from llm_lab.models.adapted import adapt
from llm_lab.models.bare import Undrawn, bare
from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.objectives.make import make
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.objectives.options import OBJECTIVES
from llm_lab.options import specs
from llm_lab.registry import load
from llm_lab.results import Result
from llm_lab.store import inside
from llm_lab.store.cards import load_card
from llm_lab.store.files import (
    check_fit,
    make_folder,
    read_json,
    read_weights,
    weight_shapes,
    write_json,
    write_weights,
)
from llm_lab.store.folders import writing
from llm_lab.store.runs import Run
from llm_lab.tokenizers.foreign import BESIDE
from llm_lab.tokenizers.template import ChatTemplate
from llm_lab.tokenizers.tokenizer import Tokenizer
from llm_lab.training.state import EXTRAS, MODEL

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class LM:
    """A language model to work with.

    `.model` (an nn.Module), `.tokenizer`, `.run` (its folder, or None), `.history` (a DataFrame: step, tokens, seconds,
    train_loss, val_loss, lr), `.checkpoints` (the steps that `bard@500` can name), `.sites()`, `.save(path)`.
    """

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    run: Run | None = None
    info: dict[str, Any] = field(
        default_factory=dict
    )  # how it decodes and was trained: ends (documents end by <eos>), objective, …
    report: Result | None = field(default=None, repr=False)  # how its training went
    extras: nn.ModuleDict = field(default_factory=nn.ModuleDict, repr=False)  # what its objective added: heads, …
    by_name: bool = field(default=False, repr=False)  # it was found by its name, and may be no variable
    step: int | None = None  # of a checkpoint: after which step of its run
    # What watches found to look at while it trained, by name: (step, result).
    watched: dict[str, list[tuple[int, Result]]] = field(default_factory=dict, repr=False)

    @property
    def called(self) -> str:
        """How a line of Python calls it: by its name, or, where that is no variable's, by what makes it."""
        if self.step is not None and self.run:
            return repr(f"{self.run.id}@{self.step}")
        if self.by_name:
            return repr(self.name)
        return self.name if self.name.isidentifier() else str(self.model.about.get("code", self.name))

    @property
    def chat_template(self) -> str | None:
        """How a conversation is written for it: Jinja, or an exchange with {{user}} and {{assistant}}. Saved with it."""
        return self.info.get("chat_template")

    @chat_template.setter
    def chat_template(self, template: str) -> None:
        self.info["chat_template"] = ChatTemplate(template, self.tokenizer).source

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of what it was trained to do."""
        return tuple(self.info.get("objective", "clm").split(","))

    def objective(self) -> Objective:
        """What it was trained to do, to be measured by."""
        weights, mix = self.info.get("weights", ()), self.info.get("mix", "sum")
        return make(self.objectives, self.info.get("objective_options", {}), self.tokenizer, weights, mix)

    def trainee(self, objective: Objective) -> Trainee:
        """The model with what the objective added to it, as it was trained."""
        fresh = objective.attach(self.model)
        return Trainee(self.model, self.extras) if len(self.extras) else fresh

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def supports(self) -> frozenset[str]:
        """What it can do (see `LanguageModel`), and was trained to: one that learned to fill gaps cannot write on."""
        needs = [OBJECTIVES[name].supports for name in self.objectives if name in OBJECTIVES]
        untaught = {ability for ability in _TEACHES if not any(_TEACHES[ability] & one for one in needs)}
        return self.model.supports - untaught

    def weakly(self) -> Callable[[], LM | None]:
        """What gives it for as long as it is there, without keeping it; an ensemble, for as long as its members are."""
        if not isinstance(self.model, Ensemble):
            return weakref.ref(self)
        reference, name, tokenizer, info = self.model.weakly(), self.name, self.tokenizer, self.info

        def again() -> LM | None:
            model = reference()
            return None if model is None else LM(name, model, tokenizer, info=info)

        return again

    @property
    def max_seq_len(self) -> int:
        return self.model.max_seq_len

    @property
    def history(self) -> pd.DataFrame:
        if self.run is None:
            raise BadValue(f"{self.name} has no run, so no history; a model made by pretrain has")
        history = self.run.history
        return history if self.step is None else history[history["step"] <= self.step]

    @property
    def checkpoints(self) -> list[int]:
        """The steps of its run whose weights were kept: `lab.load("bard@500")` is the model after step 500."""
        return self.run.checkpoints if self.run else []

    def sites(self) -> dict[str, str]:
        """The names and shapes of the activations that can be read and replaced."""
        return self.model.sites()

    def batch(self, ids: Tensor) -> Batch:
        """Ids, (B, T), as this model was trained to read them: both ways, where it never learned to write on; of an
        encoder and a decoder, as the source of a decoder that has written nothing yet."""
        if "seq2seq" in self.model.supports and "next_token" not in self.model.supports:
            start = torch.full((len(ids), 1), self.tokenizer.start, device=ids.device)
            return Batch(ids, decoder_ids=start)
        both = "both_ways" in self.model.supports and "next_token" not in self.supports
        return Batch(ids, attend=Attend(causal=False) if both else None)

    def need(self, ability: str, verb: str, instead: str) -> None:
        """Refuse a verb in one line where the model lacks what it rests on."""
        if ability not in self.supports:
            raise BadValue(
                f"{verb} needs a model with {ability}; {self.name} has: {listing(sorted(self.supports))}; {instead}"
            )

    def save(self, path: str | Path, format: str = "lab") -> Path:
        """Write model.safetensors, model.json and tokenizer.json into the folder `path`; with `format="hf"` what
        transformers reads, config.json in place of model.json."""
        if not isinstance(path, str | os.PathLike):
            raise BadType(f'path: {show(path)} is {type(path).__name__}; a folder would do, for example "bard-model"')
        if not str(path):
            raise BadValue('path: it is empty; name a folder, for example "bard-model" ("." is the one you work in)')
        folder = Path(path)
        if isinstance(self.model, Ensemble):
            raise BadValue(
                f"save: {self.name} is several models and has no weights of its own; save each of them, or their soup: lab.soup([a, b]).save(path)"
            )
        if format not in ("lab", "hf"):
            raise BadValue(f"format: {show(format)} is unknown{suggestion(format, ('lab', 'hf'))}; there is: lab, hf")
        if format == "hf":
            from llm_lab.store.hf import save_hf  # which needs this file

            return save_hf(self, folder)
        self.save_weights(folder)
        self.save_description(folder)
        return folder

    def save_weights(self, folder: Path) -> None:
        """Write model.safetensors, and before it the weights of what its objective added."""
        make_folder(folder)
        if len(self.extras):
            # What an extra shares with the model is the model's, and stored there.
            shared = {tensor.data_ptr() for tensor in self.model.state_dict().values()}
            write_weights(folder / "extras.safetensors", self.extras, shared)
        write_weights(folder / "model.safetensors", self.model)

    def save_description(self, folder: Path) -> None:
        """Write model.json and tokenizer.json."""
        config = getattr(self.model, "config", None)
        own = None if isinstance(config, ModelConfig) else type(getattr(self.model, "module", self.model)).__name__
        write_json(
            folder / "model.json",
            {
                "name": self.name,
                "config": config.to_dict() if isinstance(config, ModelConfig) else None,
                "own_class": own,
                "max_seq_len": self.max_seq_len,
                "vocab_size": self.tokenizer.vocab_size,
                "info": self.info,
            },
        )
        with writing(folder / "tokenizer.json"):
            self.tokenizer.save(folder / "tokenizer.json")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        if self.report is not None:
            return self.report._repr_mimebundle_(include, exclude)
        return {"text/plain": repr(self)}

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        where = f", run {self.run.id}" if self.run else ""
        return f"<LM {self.name}: {size / 1e6:.2f} M parameters, {self.tokenizer!r}, context {self.max_seq_len}{where}>"


def in_common(lms: Sequence[LM], keys: Iterable[str]) -> dict[str, Any]:
    """What the models' `info` says alike under these keys; where one learned that documents end, they end."""
    first = lms[0].info
    found = {key: first[key] for key in keys if key in first and all(lm.info.get(key) == first[key] for lm in lms)}
    ends = [lm.info["ends"] for lm in lms if "ends" in lm.info]
    return found | ({"ends": any(ends)} if ends else {})


def called(lms: Sequence[LM]) -> str:
    """One model, or several, as a line of Python has them."""
    return lms[0].called if len(lms) == 1 else f"[{', '.join(lm.called for lm in lms)}]"


def words(options: Mapping[str, Any]) -> str:
    """Options as they stand in a line of Python, each after a comma; a model as it is called, a function by its name, and
    what cannot be written down by the option's own name, for a variable."""
    return "".join(f", {key}={_written(key, value)}" for key, value in options.items())


def _written(key: str, value: Any) -> str:
    if isinstance(value, LM):
        return value.called
    if isinstance(value, list | tuple):
        inner = [_written(key, one) for one in value]
        return key if key in inner else repr(value) if all(map(_plain, value)) else f"[{', '.join(inner)}]"
    if isinstance(value, dict) or _plain(value):
        return repr(value)
    return getattr(value, "__name__", "") if inspect.isfunction(value) and value.__name__.isidentifier() else key


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def load_lm(
    folder: Path, name: str | None = None, model: Any = None, device: str = "cpu", state: Path | None = None
) -> LM:
    """The LM in a folder. `model` is the user's class (or instance) where it was trained with one; `state` the folder of
    its weights, where it is another, or the file of a state that its run can go on from."""
    if state is None:
        _refuse_failed(Run(folder))
    file = folder / "model.json"
    weights, extras = _places(state or folder)
    if not file.is_file():
        raise BadValue(
            f"{str(folder)!r} holds no model (model.json is missing); LM.save(path) and training runs write one"
        )
    about = _description(file)
    name = name or about["name"] or folder.name
    tokenizer = load_tokenizer(folder)
    module: LanguageModel
    if about["config"] is not None:
        module = _own_shape(file, about["config"], *weights, folder)
    elif model is None:
        own = about["own_class"] or "your own"
        raise BadValue(
            f"{name} was trained with the class {own}, which its folder does not hold; run the cell that defines it, then lab.load({name!r}, model={own})"
        )
    else:
        sizes = {"vocab_size": about["vocab_size"], **about["info"].get("sizes", {})}
        module = adapt(model, affordable(file, checked(file, sizes)), about["info"].get("given", ()))
    if tokenizer.vocab_size > module.vocab_size:
        raise _unusable(
            file, f"the model knows {module.vocab_size} tokens, and tokenizer.json has {tokenizer.vocab_size}"
        )
    read_weights(weights[0], module, prefix=weights[1], inside=folder)
    lm = LM(name, module, tokenizer, info=about["info"])
    if extras[0].is_file() and weight_shapes(*extras, folder):
        try:
            lm.extras = lm.objective().attach(module).extras
        except LabError as error:
            raise _unusable(file, str(error)) from None
        read_weights(extras[0], lm.extras, partly=True, prefix=extras[1], inside=folder)
    module.to(device).eval()
    lm.extras.to(device).eval()
    return lm


def _places(state: Path) -> tuple[tuple[Path, str], tuple[Path, str]]:
    """The files of a model's weights and of what its objective added, and how the names in them begin."""
    if state.suffix == ".safetensors":
        return (state, MODEL), (state, EXTRAS)
    return (state / "model.safetensors", ""), (state / "extras.safetensors", "")


def load_run(run: Run, model: Any = None) -> LM:
    """The LM in a run's folder, with its history and its card: as it ended, or as it was when it was last saved."""
    lm = _latest(run, model) if run.states and run.status != "finished" else load_lm(run.folder, run.name, model)
    lm.run = run
    lm.report = load_card(run)
    return lm


def _latest(run: Run, model: Any) -> LM:
    """From the newest state that is whole. One that goes meanwhile, since its run goes on, has left a newer one."""
    for attempt in range(3):
        for step in reversed(run.states):
            try:
                return load_lm(run.folder, run.name, model, state=run.state_file(step))
            except BadValue:
                if run.state_file(step).is_file() and (step == run.states[0] or attempt == 2):
                    raise
        if run.status == "finished":  # meanwhile
            return load_lm(run.folder, run.name, model)
    raise BadValue(f"run {run.id} of {run.name} changes faster than it can be read; try again")


def load_checkpoint(run: Run, step: int, model: Any = None) -> LM:
    """The LM as a step of a run left it. A run that failed or died later has its checkpoints still."""
    lm = load_lm(run.folder, f"{run.name}@{step}", model, state=run.checkpoint(step))
    lm.run, lm.step = run, step
    return lm


def _refuse_failed(run: Run) -> None:
    """BadValue for a run that left no model worth loading; a folder that is no run has no status."""
    state = run.read("status")
    why = f" ({state['why'][:200]})" if isinstance(state.get("why"), str) else ""
    has_weights = (run.path / "model.safetensors").is_file()
    if state.get("status") == "failed":
        rest = "and its weights are not numbers to work with" if has_weights else "and its weights were not saved"
        raise BadValue(f"the run in {str(run.path)!r} failed{why}, {rest}; train it again, or load one that finished")
    if run.status == "training" and not has_weights:
        raise BadValue(
            f"run {run.id} of {run.name} has only just begun, and saved no weights yet; try again in a moment"
        )
    if state and not has_weights:
        raise BadValue(
            f"{run.path / 'model.safetensors'} is missing: the run's status is {run.status}, and its weights were not "
            "saved; train it again, or load one that finished"
        )


def _unusable(file: Path, why: str) -> BadValue:
    return BadValue(f"{file} cannot be used: {why}; a whole copy of its folder would do")


_LARGEST = dict.fromkeys(
    (
        *("vocab_size", "n_layer", "n_decoder_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_ff", "d_embed"),
        *("n_expert", "n_token_type"),
    ),
    1 << 24,
)
_INFO = {
    "chat_template": str,
    "corpus": str,
    "objective": str,
    "ends": bool,
    "held_out": str,
    "sizes": dict,
    "given": list,
}
_INFO |= {"objective_options": dict, "mix": str, "weights": list, "soup": list}
# Which needs of an objective mean that it teaches an ability.
_TEACHES = {"next_token": {"next_token", "seq2seq", "any_order"}, "fill": {"fill"}, "seq2seq": {"seq2seq"}}


def _description(file: Path) -> dict[str, Any]:
    """model.json, every part of the kind that its readers rest on."""
    about = read_json(file, file.parent)
    if not isinstance(about, dict):
        raise _unusable(file, f"it holds a {type(about).__name__}, not a model's description")
    config, info, own = about.get("config"), about.get("info") or {}, about.get("own_class")
    for key, value in (("config", config), ("info", info)):
        if value is not None and not isinstance(value, dict):
            raise _unusable(file, f"{key} is a {type(value).__name__}, not a table")
    for key, kind in _INFO.items():
        if key in info and not isinstance(info[key], kind):
            raise _unusable(file, f"info.{key} is a {type(info[key]).__name__}")
    held_out = info.get("held_out", "")
    if held_out != Path(held_out).name or "\\" in held_out:
        raise _unusable(file, f"info.held_out {show(held_out)} is a path, not a name")
    if (own is not None and not isinstance(own, str)) or (config is None and own is None):
        raise _unusable(file, "it names neither sizes (config) nor a class (own_class)")
    name = about.get("name")
    return {
        "name": name if isinstance(name, str) and name.isidentifier() else None,
        "config": config,
        "own_class": own,
        "vocab_size": about.get("vocab_size"),
        "info": info,
    }


def checked(file: Path, sizes: dict[str, Any]) -> ModelConfig:
    """The model's sizes as a ModelConfig; sizes that no model has are refused before anything is reckoned with them."""
    known = specs(ModelConfig)
    unknown = [key for key in sizes if key not in known]
    if unknown:
        raise BadValue(f"{file}: {listing(unknown)} is unknown to this version of llm_lab")
    if sizes.get("vocab_size") is None:
        raise _unusable(file, "vocab_size is missing")
    for key, value in sizes.items():
        if known[key].type is not int or value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise _unusable(file, f"{key} {show(value)} is not a whole number")
        if value > _LARGEST.get(key, 1 << 40):
            raise _unusable(file, f"{key} {show(value)} is larger than any model's")
    try:
        return ModelConfig(**sizes)
    except LabError as error:
        raise _unusable(file, str(error)) from None


def affordable(file: Path, config: ModelConfig) -> ModelConfig:
    need, free = 4 * sum(part.parameters for part in cost.parts(config, 1)), machine.memory().available
    if need > free:
        raise _unusable(file, f"a model of its sizes takes {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free")
    return config


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, by files of its own. BadValue where there is none that can be used."""
    file = folder / "tokenizer.json"
    try:
        for beside in (file, *(folder / name for name in (BESIDE, "config.json", "special_tokens_map.json"))):
            if beside == file or os.path.lexists(beside):
                inside.plain(beside, folder, inside.limit(beside.name))
        return Tokenizer.load(file)
    except (LabError, OSError) as error:
        raise BadValue(f"{file} cannot be used: {error}") from None


def _own_shape(file: Path, sizes: dict[str, Any], weights: Path, prefix: str, folder: Path) -> LanguageModel:
    """A model of our own parts. It is first made without memory and compared with the weights' shapes."""
    config = checked(file, sizes)
    shapes = weight_shapes(weights, prefix, folder)
    check_sizes(file, config, shapes, weights.name)
    need, free = 4 * inside.count(shapes), machine.memory().available
    if need > free:
        raise _unusable(file, f"its weights take {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free")
    empty = bare(config)
    if resize := getattr(empty, "resize", None):  # its tables are as large as the text it counted
        resize(shapes)
    check_fit(weights, shapes, empty)
    check_tables(file, config, empty)
    with Undrawn():  # all of them are read, or it is an error
        made: LanguageModel = load(SHAPES.entry(config.shape).target)(config)
    if resize := getattr(made, "resize", None):
        resize(shapes)
    return made


def check_sizes(file: Path, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """BadValue where a model would be larger than anything among its weights: it is not even made without memory."""
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key in _LARGEST if config.shape in ("decoder", "encoder", "encoder_decoder", "permutation") else ():
        size, limit = getattr(config, key), len(shapes) if key in ("n_layer", "n_decoder_layer") else largest
        if size is not None and size > limit:
            raise _unusable(file, f"{key} {size} is larger than anything in {where}")


def check_tables(file: Path, config: ModelConfig, empty: LanguageModel) -> None:
    """BadValue where the tables of a model (on `meta`) do not fit memory: what is computed and not stored, as the angles
    of positions are, has no shape to be compared with."""
    need = 4 * sum(buffer.numel() * buffer.element_size() for buffer in empty.buffers())
    if need > machine.memory().available:
        raise _unusable(file, f"max_seq_len {config.max_seq_len:,} takes {need / 1e9:,.1f} GB for its positions")

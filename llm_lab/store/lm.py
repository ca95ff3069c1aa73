"""LM: a model with its tokenizer and where it came from; saved as a folder of plain files and loaded again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llm_lab.errors import BadValue, listing
from llm_lab.models.adapted import adapt
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.options import specs
from llm_lab.registry import load
from llm_lab.results import Result, Sample, TrainingReport
from llm_lab.store.files import read_json, read_weights, write_json, write_weights
from llm_lab.store.runs import Run
from llm_lab.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False)
class LM:
    """A language model to work with.

    `.model` (an nn.Module), `.tokenizer`, `.run` (its folder, or None), `.history` (a DataFrame: step, tokens, seconds,
    train_loss, val_loss, lr), `.sites()`, `.save(path)`.
    """

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    run: Run | None = None
    info: dict[str, Any] = field(
        default_factory=dict
    )  # how it decodes and was trained: ends (documents end by <eos>), objective, …
    report: Result | None = field(default=None, repr=False)  # how its training went

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def supports(self) -> frozenset[str]:
        """What it can do: next_token, cache, sites, embeddings, gradients."""
        return self.model.supports

    @property
    def max_seq_len(self) -> int:
        return self.model.max_seq_len

    @property
    def history(self) -> pd.DataFrame:
        if self.run is None:
            raise BadValue(f"{self.name} has no run, so no history; a model made by pretrain has")
        return self.run.history

    def sites(self) -> dict[str, str]:
        """The names and shapes of the activations that can be read and replaced."""
        return self.model.sites()

    def need(self, ability: str, verb: str, instead: str) -> None:
        """Refuse a verb in one line where the model lacks what it rests on."""
        if ability not in self.supports:
            raise BadValue(
                f"{verb} needs a model with {ability}; {self.name} has: {listing(sorted(self.supports))}; {instead}"
            )

    def save(self, path: str | Path) -> Path:
        """Write model.safetensors, model.json and tokenizer.json into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / "model.safetensors", self.model)
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
        self.tokenizer.save(folder / "tokenizer.json")
        return folder

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        if self.report is not None:
            return self.report._repr_mimebundle_(include, exclude)
        return {"text/plain": repr(self)}

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.model.parameters())
        where = f", run {self.run.id}" if self.run else ""
        return f"<LM {self.name}: {size / 1e6:.2f} M parameters, {self.tokenizer!r}, context {self.max_seq_len}{where}>"


def load_lm(folder: Path, name: str | None = None, model: Any = None, device: str = "cpu") -> LM:
    """The LM in a folder. `model` is the user's class (or instance) where it was trained with one."""
    if not (folder / "model.json").is_file():
        raise BadValue(
            f"{str(folder)!r} holds no model (model.json is missing); LM.save(path) and training runs write one"
        )
    about = read_json(folder / "model.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    module: LanguageModel
    if about.get("config") is not None:
        known = specs(ModelConfig)
        unknown = [key for key in about["config"] if key not in known]
        if unknown:
            raise BadValue(f"{folder / 'model.json'}: {listing(unknown)} is unknown to this version of llm_lab")
        config = ModelConfig(**about["config"])
        module = load(SHAPES.entry(config.shape).target)(config)
    elif model is None:
        own = about.get("own_class") or "your own"
        raise BadValue(
            f"{about.get('name')} was trained with the class {own}, which its folder does not hold; run the cell that defines it, then lab.load({about.get('name')!r}, model={own})"
        )
    else:
        sizes = ModelConfig(vocab_size=about["vocab_size"], **(about.get("info") or {}).get("sizes", {}))
        module = adapt(model, sizes)
    read_weights(folder / "model.safetensors", module)
    module.to(device).eval()
    return LM(name or about.get("name", folder.name), module, tokenizer, info=about.get("info") or {})


def load_run(run: Run, model: Any = None) -> LM:
    """The LM in a run's folder, with its history and card."""
    lm = load_lm(run.path, run.name, model)
    lm.run = run
    saved = run.read("report")
    if saved:
        known = {key: value for key, value in saved.items() if key in TrainingReport.__dataclass_fields__}
        known["samples"] = [Sample(**one) for one in known.get("samples", [])]
        lm.report = TrainingReport(**known)
    return lm

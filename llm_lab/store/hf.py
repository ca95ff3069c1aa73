"""An LM from a published model's folder, and into one: config.json, safetensors and tokenizer.json, nothing unpickled."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from llm_lab.errors import BadValue, LabError
from llm_lab.models.bare import bare
from llm_lab.models.hf.configs import family_of, padding_rows, read_config, write_config
from llm_lab.models.hf.families import FAMILIES
from llm_lab.models.hf.family import Family
from llm_lab.models.hf.weights import Shelf, incoming, outgoing, shape_of
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.store.files import read_json, weight_shapes, write_bytes, write_json
from llm_lab.store.folders import writing
from llm_lab.store.hub import PREFIX, find, weights
from llm_lab.store.lm import LM, affordable, check_sizes, check_tables, checked
from llm_lab.tokenizers import foreign
from llm_lab.tokenizers.template import is_jinja
from llm_lab.tokenizers.tokenizer import FILE, Tokenizer

_IDS = ("pad", "bos", "eos")  # what every config.json has an id of


def load_published(name: str) -> LM:
    """The LM that `hf:…` names: a folder, or a model on the Hugging Face hub."""
    where = name.removeprefix(PREFIX).strip()
    return load_hf(find(where), identifier(where))


def load_hf(folder: Path, name: str | None = None, device: str = "cpu") -> LM:
    """The LM in a published model's folder, in float32. BadValue names what this lab cannot read of it."""
    file = folder / "config.json"
    if not file.is_file():
        raise BadValue(
            f"{str(folder)!r} holds no published model (config.json is missing); save_pretrained(path) writes one"
        )
    about, files = read_json(file), weights(folder)
    if not isinstance(about, dict):
        raise BadValue(
            f"{file} holds a {type(about).__name__}, not a model's description; a whole copy of its folder would do"
        )
    if not files:
        raise BadValue(_no_weights(folder))
    try:
        kind = family_of(about)
        options = read_config(about)
    except LabError as error:
        raise BadValue(f"{file}: {error}") from None
    family: Family = FAMILIES.load(kind)
    shapes = {tensor: (shape, path) for path in files for tensor, shape in weight_shapes(path).items()}
    shelf = Shelf(family, shapes, _reader({tensor: path for tensor, (_, path) in shapes.items()}))
    try:
        options |= shape_of(family, options, shelf)
        config = checked(file, options)
        check_sizes(file, config, {tensor: shape for tensor, (shape, _) in shapes.items()}, files[0].name)
        model = _filled(file, family, affordable(file, config), shelf, padding_rows(family, about))
        extras = _extras(family, config, shelf)
    except SafetensorError as error:
        raise BadValue(f"{folder} is damaged: {error}; a whole copy of it would do") from None
    except LabError as error:
        raise BadValue(str(error) if str(error).startswith(str(folder)) else f"{folder}: {error}") from None
    tokenizer = _tokenizer(folder, about, model.vocab_size)
    head = next(iter(extras), None)
    info = {
        "objective": f"{family.objective}_{head}" if head else family.objective,
        "ends": "eos" in tokenizer.specials,
        "model_type": kind,
    }
    if (template := foreign.chat_template(folder)) is not None:
        info["chat_template"] = template
    lm = LM(name or identifier(folder.name), model, tokenizer, info=info, extras=extras)
    model.to(device).eval()
    lm.extras.to(device).eval()
    return lm


def save_hf(lm: LM, folder: Path) -> Path:
    """Write config.json, model.safetensors and tokenizer.json as transformers reads them. BadValue names what no family
    of transformers has."""
    config, tokenizer = lm.model.config, lm.tokenizer
    if not isinstance(config, ModelConfig) or not hasattr(lm.model, "head"):
        own = type(getattr(lm.model, "module", lm.model)).__name__
        raise BadValue(f"format 'hf': {own} is no class that transformers has; use format='lab'")
    ids: dict[str, Any] = {f"{name}_token_id": tokenizer.specials.get(name) for name in _IDS}
    if config.shape == "encoder_decoder":
        ids["decoder_start_token_id"] = tokenizer.start
    kind, about = write_config(config, ids, lm.info.get("model_type"))
    family: Family = FAMILIES.load(kind)
    own_extras = [name for name in family.extras if name in lm.extras]
    if own_extras:
        about["architectures"] = [family.extra_classes[own_extras[0]]]
    tensors = outgoing(family, config, lm.model, lm.extras, padding_rows(family, about))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    write_json(folder / "config.json", about)
    with writing(folder / FILE):
        tokenizer.save(folder / FILE)
    more = {"chat_template": lm.chat_template} if is_jinja(lm.chat_template or "") else {}
    write_json(folder / foreign.BESIDE, {**tokenizer.described(), "model_max_length": config.max_seq_len, **more})
    return folder


def identifier(name: str) -> str:
    """A name that can be a variable's: of `openai-community/gpt2` it is gpt2."""
    word = re.sub(r"\W+", "_", name.rstrip("/").rpartition("/")[2]).strip("_")
    return word if word.isidentifier() else f"lm_{word}".rstrip("_")


def _filled(file: Path, family: Family, config: ModelConfig, shelf: Shelf, before: int) -> LanguageModel:
    """A model with the weights of a shelf; names are compared before any memory is taken."""
    empty = bare(config)
    check_tables(file, config, empty)
    values = incoming(family, config, empty, shelf, before)
    name, value = next(values)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and nobody's stream is to shift by it
        made: LanguageModel = SHAPES.load(config.shape)(config)
    state = made.state_dict()
    state[name].copy_(value)
    for name, value in values:
        state[name].copy_(value)
    return made


def _extras(family: Family, config: ModelConfig, shelf: Shelf) -> nn.ModuleDict:
    """The heads beside the model that are there, under the names that objectives know."""
    found = nn.ModuleDict()
    for ours, theirs in family.extras.items():
        if f"{theirs}.weight" in shelf and config.output != "none":
            head = nn.Linear(config.d_model, 2)
            head.load_state_dict({end: shelf.read(f"{theirs}.{end}") for end in ("weight", "bias")})
            found[ours] = head
    return found


def _tokenizer(folder: Path, about: dict[str, Any], vocab_size: int) -> Tokenizer:
    if not (folder / FILE).is_file():
        raise BadValue(
            f"{str(folder)!r} has no tokenizer.json, the one form of tokenizer that this lab reads; transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path) writes it"
        )
    tokenizer = Tokenizer.foreign(folder)
    if tokenizer.vocab_size > vocab_size:
        raise BadValue(
            f"{folder / FILE} has {tokenizer.vocab_size} tokens, and the model knows {vocab_size}; a whole copy of its folder would do"
        )
    start = about.get("decoder_start_token_id")
    if isinstance(start, int) and 0 <= start < tokenizer.vocab_size and start != tokenizer.start:
        return Tokenizer(tokenizer.backend, specials={**tokenizer.specials, "bos": start})
    return tokenizer


def _reader(files: dict[str, Path]) -> Callable[[str], Tensor]:
    def read(name: str) -> Tensor:
        with safe_open(files[name], framework="pt") as file:
            return file.get_tensor(name)

    return read


def _no_weights(folder: Path) -> str:
    pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
    if pickled is None:
        return f"{str(folder)!r} has no weights (model.safetensors is missing); a whole copy of the folder would do"
    return (
        f"{str(folder)!r} has {pickled} and no safetensors: reading it would run what it holds, and nothing is unpickled here; "
        "transformers' from_pretrained(path).save_pretrained(path) writes safetensors"
    )

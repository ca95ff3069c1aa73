"""A model without its weights: modules and shapes on torch's meta device, which takes no memory and little time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from llm_lab.models.language_model import LanguageModel
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.registry import load

_DRAWN = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})


class Undrawn(TorchFunctionMode):
    """Within it first weights are not drawn: where there are none, and torch would load a second's worth of modules for it; or
    where they are read from a file, and drawing them would take most of the time."""

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return (*args, *kwargs.values())[0] if func in _DRAWN else func(*args, **kwargs)


def bare(config: ModelConfig) -> LanguageModel:
    """The model of that description on the meta device. Its parameters have shapes and no values."""
    make: Callable[[ModelConfig], LanguageModel] = load(SHAPES.entry(config.shape).target)
    with torch.device("meta"), Undrawn():
        return make(config)


def smaller(config: ModelConfig) -> str:
    """Flags that make the same architecture small enough for any machine."""
    c = config
    sizes = {"n_layer": 4, "d_model": 256, "n_head": 4}
    given = {"n_decoder_layer": 4, "n_kv_head": 2, "d_head": 64, "d_ff": 1024, "d_embed": 128}
    sizes |= {name: size for name, size in given.items() if getattr(c, name) is not None}
    sizes |= {"max_seq_len": 256} if c.max_seq_len > 256 else {}
    return " ".join(f"--{name} {size}" for name, size in sizes.items())

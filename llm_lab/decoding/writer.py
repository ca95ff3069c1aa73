"""What writes, and how often it shows what it has written."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from llm_lab.models.language_model import LanguageModel
from llm_lab.tokenizers.tokenizer import Tokenizer

REFRESH_SECONDS = 0.2  # between two states of a stream


@runtime_checkable
class Writer(Protocol):
    """What writes: an LM."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    info: dict[str, Any]

    @property
    def device(self) -> torch.device: ...

    @property
    def supports(self) -> frozenset[str]: ...

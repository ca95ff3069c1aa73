"""What writes, and whose tokens are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch

from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel
from llm_lab.tokenizers.tokenizer import Tokenizer


@runtime_checkable
class Writer(Protocol):
    """What writes: an LM."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    info: dict[str, Any]

    @property
    def objectives(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def supports(self) -> frozenset[str]: ...

    def weakly(self) -> Callable[[], Writer | None]:
        """What gives it for as long as its model is there, without keeping that."""


def need_same_tokens(argument: str, one: Writer, other: Writer) -> None:
    """BadValue where the tokens of two models are not the same, so that what they say of them cannot be put together."""
    if other.tokenizer.fingerprint != one.tokenizer.fingerprint or other.model.vocab_size != one.model.vocab_size:
        raise BadValue(
            f"{argument}: {other.name} has another tokenizer than {one.name}, so their tokens cannot be compared; train it with --tokenizer @{one.name}"
        )

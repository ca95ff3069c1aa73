"""What a model of the lab is: ids to logits, what it can do, what it is made of. It knows no text and no loss."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.options import ModelConfig
from llm_lab.results import ModelPart, ModelReport


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a forward pass gives: float32 logits, and what our own models give besides."""

    logits: Float[Tensor, "B T V"]  # V is 0 where a model has no vocabulary to predict
    hidden: Float[Tensor, "B T D"] | None = None  # after the last norm
    pooled: Float[Tensor, "B D"] | None = None  # one vector for the sequence
    aux: Mapping[str, Tensor] = field(default_factory=dict)  # losses of the model's own, unweighted: balance


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the `with`, the model is as it predicts, without dropout; then each of its modules is as it was before."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


class LanguageModel(nn.Module):
    """Base of every model that the lab works with, users' own included (`models.adapted`).

    `supports` declares what it can do: next_token, fill, seq2seq, any_order, cache, sites, embeddings, neighbours,
    gradients. It shows itself as a diagram
    with what its parts cost; `about` holds how it was asked for (name, title, batch_size, code, notes).
    """

    supports: frozenset[str]
    config: ModelConfig | None
    vocab_size: int
    max_seq_len: int

    def __init__(self, config: ModelConfig | None, vocab_size: int, max_seq_len: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.max_seq_len = config, vocab_size, max_seq_len
        self.about: dict[str, Any] = {}

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        last: bool = False,
    ) -> ModelOutput:
        """Logits at every position, or with `last` only at the final one, (B, 1, V).

        `position_ids` are where each token stands in the context, for positions that are looked up (rotary, learned,
        sinusoidal); those that are distances (alibi, t5) are counted in the sequence itself. Raises BadValue when the
        sequence, cache included, is longer than `max_seq_len`, or a position id is outside of it.
        """
        raise NotImplementedError

    def sites(self) -> dict[str, str]:
        """The name and shape of every activation that can be read or replaced."""
        raise NotImplementedError

    def parts(self, batch_size: int) -> list[ModelPart]:
        """What it is made of, in the order data flows, and what each part costs."""
        raise NotImplementedError

    def embedding_table(self) -> Float[Tensor, "V E"]:
        """The vectors of the tokens; BadValue where the model has none to show."""
        raise BadValue(f"{type(self).__name__} has no table of embeddings; a model with embeddings would do")

    @property
    def device(self) -> torch.device:
        parameter = next(self.parameters(), None)
        return parameter.device if parameter is not None else torch.device("cpu")

    def weakly(self) -> Callable[[], LanguageModel | None]:
        """What gives the model for as long as it is there, without keeping it: results hold this."""
        return weakref.ref(self)

    def need_weights(self) -> None:
        """BadValue where the model is only shown: it was too large for its weights."""
        if self.device.type == "meta":
            size = sum(p.numel() for p in self.parameters()) / 1e6
            raise BadValue(
                f"the model was built without its {size:,.0f} M weights, which do not fit here, and can only be looked at; build a smaller one, for example --n_layer 4 --d_model 256 --n_head 4"
            )

    def report(self, batch_size: int | None = None) -> ModelReport:
        """Parameters, FLOPs a token and the memory that training at `batch_size` takes, by part."""
        size = batch_size or self.about.get("batch_size", 16)
        found = self.parts(size)
        need, there = sum(part.memory for part in found), machine.memory()
        notes = list(self.about.get("notes", ()))
        if not notes and need > there.available:
            notes.append(
                f"training needs about {need / 1e9:,.1f} GB, and {there.available / 1e9:,.1f} GB are free here"
            )
        return ModelReport(
            name=self.about.get("name", "model"),
            title=self.about.get("title", type(getattr(self, "module", self)).__name__),
            config=self.config.to_dict() if self.config is not None else {},
            parts=found,
            parameters=sum(part.parameters for part in found),
            flops=sum(part.flops for part in found),
            memory=need,
            batch_size=size,
            notes=notes,
            code=self.about.get("code", ""),
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.report()._repr_mimebundle_(include, exclude)

"""Several models that predict as one: what each says of the next token, averaged. It knows no text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue, show
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.results import ModelPart

# (what M members say, (M, B, T, V); how much each counts, (M,), in sum 1) -> logits, (B, T, V)
Average = Callable[[Tensor, Tensor], Tensor]
_CAN = frozenset({"next_token", "fill", "both_ways", "seq2seq", "any_order", "cache"})  # what needs logits alone


def of_probs(logits: Float[Tensor, "M B T V"], weights: Float[Tensor, " M"]) -> Float[Tensor, "B T V"]:
    """log Σᵢ wᵢ pᵢ, the mixture (linear opinion pool; Stone 1961): likely is what one member at least finds likely.

    A constant is added, the mean of the members' log Σ exp, so that penalties that divide logits find them where a
    member has them: the ensemble of one model is that model.
    """
    level = logits.logsumexp(dim=-1, keepdim=True)
    each = weights[:, None, None, None]
    return (logits - level + each.log()).logsumexp(dim=0) + (each * level).sum(dim=0)


def of_logits(logits: Float[Tensor, "M B T V"], weights: Float[Tensor, " M"]) -> Float[Tensor, "B T V"]:
    """Σᵢ wᵢ zᵢ; its softmax is the renormalised geometric mean Πᵢ pᵢ^wᵢ, a product of experts (Hinton 2002): likely is
    what no member finds unlikely."""
    return (weights[:, None, None, None] * logits).sum(dim=0)


def shares(argument: str, weights: Sequence[float] | None, n: int) -> list[float]:
    """How much each of n models counts, in sum 1: all the same where nothing is said. BadValue where there is not one
    weight for each, or one that float32 cannot hold beside the largest."""
    if weights is None:
        return [1 / n] * n
    if len(weights) != n:
        raise BadValue(
            f"{argument}: {show(tuple(weights))} has {len(weights)}, and there are {n} models; give one for each, for example {','.join(['1'] * n)}"
        )
    parts = [weight / max(weights) for weight in weights]  # whose sum is finite
    found = [part / sum(parts) for part in parts]
    if min(found) < torch.finfo(torch.float32).tiny:
        raise BadValue(f"{argument}: {show(tuple(weights))} are too far apart; leave out what counts so little")
    return found


class Ensemble(LanguageModel):
    """Models of one vocabulary. It reads as far as the shortest context of them, and can do what all of them can; its
    cache has one for each member."""

    def __init__(self, members: Sequence[LanguageModel], average: Average, weights: Sequence[float]) -> None:
        super().__init__(None, members[0].vocab_size, min(one.max_seq_len for one in members))
        self._members = nn.ModuleList(members)
        self.average, self.weights = average, tuple(weights)
        self.supports = frozenset.intersection(_CAN, *(one.supports for one in members))

    @property
    def members(self) -> list[LanguageModel]:
        return cast("list[LanguageModel]", list(self._members))

    def of(self, members: Sequence[LanguageModel]) -> Ensemble:
        """Other models, averaged in the same way."""
        return Ensemble(members, self.average, self.weights)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        cache: Any = None,  # `decoding.cache.Caches`
        last: bool = False,
        **more: Any,
    ) -> ModelOutput:
        """The averaged logits. `hidden` are the members' hidden states side by side, each of length √wᵢ: the cosine of
        two of them is the weighted mean of the members' cosines."""
        fields = dict(attend=attend, position_ids=position_ids, token_type_ids=token_type_ids, **more)
        given = {name: value for name, value in fields.items() if value is not None}
        caches = [None] * len(self.weights) if cache is None else cache.members
        found = [one(input_ids, **given, cache=own, last=last) for one, own in zip(self.members, caches, strict=True)]
        logits = torch.stack([one.logits for one in found])
        return ModelOutput(self.average(logits, logits.new_tensor(self.weights)), self._hidden(found))

    def _hidden(self, found: Sequence[ModelOutput]) -> Float[Tensor, "B T D"] | None:
        states = [one.hidden for one in found if one.hidden is not None]
        if len(states) < len(found):
            return None
        sides = [w**0.5 * F.normalize(one.float(), dim=-1) for one, w in zip(states, self.weights, strict=True)]
        return torch.cat(sides, dim=-1)

    def weakly(self) -> Callable[[], LanguageModel | None]:
        """As in the base: it is made again for as long as its members are there."""
        references = [one.weakly() for one in self.members]
        average, weights, about = self.average, self.weights, self.about

        def again() -> LanguageModel | None:
            there = [one for one in (reference() for reference in references) if one is not None]
            if len(there) < len(references):
                return None
            made = Ensemble(there, average, weights)
            made.about = about
            return made

        return again

    def sites(self) -> dict[str, str]:
        """None: its members have theirs."""
        return {}

    def parts(self, batch_size: int) -> list[ModelPart]:
        """The members, each as one part."""
        found = [one.report(batch_size) for one in self.members]
        return [
            ModelPart(f"member {i}", one.title, 1, one.parameters, one.flops, one.memory)
            for i, one in enumerate(found, 1)
        ]

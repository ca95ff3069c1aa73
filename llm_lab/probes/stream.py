"""The residual stream that a model's logits come from, layer by layer, and what the model's own output makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.data.batch import Batch
from llm_lab.errors import BadValue
from llm_lab.models.stack import Stack
from llm_lab.models.transformer import Transformer
from llm_lab.probes.reading import Reading, read_ids, text_ids
from llm_lab.probes.recording import record


@dataclass(frozen=True, eq=False)
class Predicted:
    """One text as a model reads it, and at each of the T positions that predict: what stands there and what is right."""

    batch: Batch
    read: list[int]  # (T,) the ids that stand there
    truth: list[int | None]  # (T,) the token that follows; of a model that reads both ways, the token itself
    both_ways: bool = False


def predicted(reading: Reading) -> Predicted:
    """The reading's text, with the gaps that a model fills in at each `<mask>`. Of an encoder and a decoder the first text is the source and the second what the decoder wrote;
    BadValue for a second one elsewhere."""
    ids = text_ids(reading.lm, reading.texts[0])
    batch = reading.lm.batch(read_ids(ids, reading.model))
    if batch.decoder_ids is None:
        if len(reading.texts) > 1:
            raise BadValue(
                f"text: 2 texts were given, and {reading.name} reads one; the second is what a decoder wrote that has an encoder before it"
            )
        both_ways = batch.attend is not None and not batch.attend.causal
        gap = reading.tokenizer.special("mask")  # what is right there nobody knows
        truth = [None if i == gap else i for i in ids] if both_ways else [*ids[1:], None]
        return Predicted(batch, ids, truth, both_ways)
    begun = batch.decoder_ids[0].tolist()
    if len(reading.texts) == 1:
        return Predicted(batch, begun, [None] * len(begun))
    wrote = reading.ids(1)[0].tolist()
    read = [*begun, *wrote[:-1]]
    return Predicted(replace(batch, decoder_ids=read_ids(read, reading.model)), read, wrote)


@dataclass(frozen=True, eq=False)
class Stream:
    """The stack that predicts. `sites` are the stream before each block and after the last, n_layer + 1 in all."""

    model: Transformer
    stack: Stack

    @property
    def sites(self) -> list[str]:
        paths = [f"{self.stack.prefix}blocks.{i}" for i in range(self.n_layer)]
        return [*(f"{path}.resid_pre" for path in paths), f"{paths[-1]}.resid_post"]

    @property
    def n_layer(self) -> int:
        return len(self.stack.places)

    def record(self, batch: Batch) -> Float[Tensor, "L B T D"]:
        """The stream at all sites, at the positions that predict, while the model reads a batch."""
        found = record(self.model, batch, self.sites)
        return self.own(torch.stack([found[site] for site in self.sites]), batch)

    def own(self, x: Float[Tensor, "*n R D"], batch: Batch) -> Float[Tensor, "*n T D"]:
        """Of two streams in one, the second is the one that predicts."""
        read = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
        return x[..., -read.shape[1] :, :]

    def logits(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """What the last norm and the output make of a stream, wherever it comes from."""
        return self.model.logits(self.stack.norm(x))


def stream(reading: Reading, kind: str) -> Stream:
    """The stream of the reading's model; BadValue where it has no vocabulary to predict."""
    model = cast(Transformer, reading.model)  # a model with sites is one of ours
    if not model.head.vocabulary:
        raise BadValue(
            f"probe {kind}: {reading.name} has no vocabulary to predict; a model built with --output linear, or kind attention, would do"
        )
    return Stream(model, cast(Stack, getattr(model, "decoder", model)))

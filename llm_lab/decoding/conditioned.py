"""Models that write from a source: with the source read, each is a model of the next token like any other."""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.models.ensemble import Ensemble
from llm_lab.models.language_model import LanguageModel, ModelOutput, evaluating
from llm_lab.tokenizers.tokenizer import Tokenizer

FROM_SOURCE = ("seq2seq", "span_corruption", "prefix_lm")  # objectives whose model reads a source before it writes
_RESERVED = re.compile(r"<(mask|extra_\d+)>")


class Conditioned(LanguageModel):
    """An encoder–decoder whose encoder has read the source, once for all rows."""

    supports = frozenset({"next_token", "cache"})

    def __init__(self, model: EncoderDecoder, source: Int[Tensor, "1 S"], attend: Attend | None = None) -> None:
        super().__init__(model.config, model.vocab_size, model.max_seq_len)
        self.inner, self.source = model, source
        with torch.no_grad(), evaluating(model):
            self.memory = model.encode(source, attend)

    def forward(  # type: ignore[override]
        self, input_ids: Int[Tensor, "R T"], *_: Any, cache: Cache | None = None, last: bool = False
    ) -> ModelOutput:
        return self.inner(self.source, decoder_ids=input_ids, cache=cache, last=last, memory=self.memory)


class Prefixed(LanguageModel):
    """One stack that reads the first `length` tokens both ways, and the rest from left to right."""

    def __init__(self, model: LanguageModel, length: int) -> None:
        super().__init__(model.config, model.vocab_size, model.max_seq_len)
        self.inner, self.length, self.supports = model, length, model.supports & {"next_token", "cache"}

    def forward(  # type: ignore[override]
        self, input_ids: Int[Tensor, "R T"], *_: Any, cache: Cache | None = None, last: bool = False
    ) -> ModelOutput:
        attend = None
        if cache is None or cache.length == 0:
            attend = Attend(prefix=torch.full((len(input_ids),), self.length, device=input_ids.device))
        return self.inner(input_ids, attend, cache=cache, last=last)


def reads_source(model: LanguageModel) -> bool:
    """Whether the source stands in what it reads, before what it writes."""
    return reads_source(model.members[0]) if isinstance(model, Ensemble) else isinstance(model, Prefixed)


def source_ids(prompt: str, tokenizer: Tokenizer, objective: str) -> list[int]:
    """A prompt as such a model was trained to read it. `<mask>` and `<extra_0>`, … stand for what is to be written."""
    ids: list[int] = []
    for i, part in enumerate(_RESERVED.split(prompt)):
        ids += [tokenizer.special(part)] if i % 2 else tokenizer.encode(part) if part else []
    ends = {"seq2seq": "sep", "span_corruption": "eos"}.get(objective)
    return ids + ([tokenizer.special(ends)] if ends else [])


def middle_ids(prompt: str, tokenizer: Tokenizer) -> list[int] | None:
    """A prompt with a `<mask>` as a model that learned to fill in the middle reads it (`objectives/fim.py`): what stands
    before and after, and then the mark behind which it writes. None where there is no `<mask>`."""
    before, mask, after = prompt.partition("<mask>")
    if not mask:
        return None
    if "<mask>" in after:
        raise BadValue("prompt: it has more than one <mask>, and this model writes one middle; leave one")
    first, second, third = (tokenizer.special(f"extra_{i}") for i in range(3))
    return [first, *tokenizer.encode(before), second, *tokenizer.encode(after), third]


def conditioned(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, objective: str
) -> tuple[LanguageModel, list[int], list[int]]:
    """(a model of the next token, what it begins with, what it has read before), for a source given as a prompt. Of an
    ensemble every member reads the source."""
    if isinstance(model, Ensemble):
        found = [conditioned(one, tokenizer, prompt, objective) for one in model.members]
        return model.of([one for one, _, _ in found]), *found[0][1:]
    source = source_ids(prompt, tokenizer, objective)
    if not source:
        raise BadValue(
            f'prompt: it is empty, and a model trained for {objective} writes from a source; give one, for example "To be, or not to be"'
        )
    if len(source) > model.max_seq_len:
        raise BadValue(f"prompt: its {len(source)} tokens do not fit the context of {model.max_seq_len}; shorten it")
    if isinstance(model, EncoderDecoder):
        return Conditioned(model, torch.tensor([source], device=model.device)), [tokenizer.start], source
    return Prefixed(model, len(source)), [*source, tokenizer.start], source

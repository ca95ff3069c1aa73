"""What a probe is given: models, the texts that they read, and corpora as the models were trained to read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from llm_lab.corpora.open import open_corpus
from llm_lab.data.arrays import Tokens, tokenize
from llm_lab.data.batch import Batch
from llm_lab.errors import BadType, BadValue, show
from llm_lab.models.language_model import LanguageModel
from llm_lab.results import Piece
from llm_lab.store import runs as store
from llm_lab.store import texts
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Sequence:
    """Texts as one model reads them at once."""

    batch: Batch
    pieces: list[Piece]  # T tokens
    parts: list[int]  # 1 for a token of the first text, 2 of the second; 0 for one that stands around them


@dataclass(frozen=True, eq=False)
class Reading:
    """Models, mostly one, and the texts that a probe was given for them."""

    lms: tuple[LM, ...]
    texts: tuple[str, ...] = ()

    @property
    def lm(self) -> LM:
        return self.lms[0]

    @property
    def model(self) -> LanguageModel:
        return self.lm.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.lm.tokenizer

    @property
    def name(self) -> str:
        return self.lm.name

    def ids(self, text: int = 0, model: int = 0) -> Int[Tensor, "1 T"]:
        """The ids of a text, as one of the models has them; BadValue where it is empty or longer than the context."""
        lm = self.lms[model]
        return read_ids(text_ids(lm, self.texts[text]), lm.model)

    def batch(self, text: int = 0, model: int = 0) -> Batch:
        """A text as the model was trained to read one."""
        return self.lms[model].batch(self.ids(text, model))

    def pieces(self, text: int = 0, model: int = 0) -> list[Piece]:
        """Its tokens as a person may read them."""
        return self.lms[model].tokenizer.pieces(self.ids(text, model)[0].tolist())

    def sequence(self) -> Sequence:
        """All texts as one sequence, as the model was trained to read them: with [CLS] and [SEP] around each where it
        learned from pairs or was published so, else one straight after the other. BadValue where it is empty or too long."""
        lm, tokenizer = self.lm, self.tokenizer
        if _framed(lm):
            ids, parts = _in_frame(lm, [text_ids(lm, text) for text in self.texts])
        else:
            own = [text_ids(lm, text) for text in self.texts]
            ids = [i for one in own for i in one]
            parts = [n for n, one in enumerate(own, 1) for _ in one]
        if not all(self.texts):
            ids = []
        batch = lm.batch(read_ids(ids, lm.model))
        if _framed(lm) and lm.model.config is not None and lm.model.config.n_token_type:
            second = parts.index(2) if 2 in parts else len(parts)
            types = torch.tensor([[int(i >= second) for i in range(len(ids))]], device=lm.device)
            batch = replace(batch, token_type_ids=types.clamp(max=lm.model.config.n_token_type - 1))
        return Sequence(batch, tokenizer.pieces(ids), parts)

    def written(self) -> Int[Tensor, "1 U"]:
        """What a decoder that reads an encoder has written: the start, and the second text where there is one."""
        lm = self.lm
        ids = self.tokenizer.encode(self.texts[1]) if len(self.texts) > 1 else []
        return read_ids([self.tokenizer.start, *ids], lm.model)

    def blocks(
        self, corpus: Any, max_tokens: int, model: int = 0, length: int | None = None
    ) -> Iterator[Int[Tensor, "1 T"]]:
        """A corpus (or None: the model's held-out text) in blocks of `length` tokens, the context unless told, up to
        `max_tokens` in all; what is left at its end is a shorter block."""
        lm = self.lms[model]
        ids = corpus_ids(lm, corpus)[:max_tokens]
        length = min(length or lm.max_seq_len, lm.max_seq_len)
        for start in range(0, len(ids), length):
            block = torch.from_numpy(ids[start : start + length].astype(np.int64))
            yield block[None].to(lm.device)


def corpus_tokens(lm: LM, corpus: Any) -> Tokens:
    """A corpus, or the model's held-out text, as the model was trained to read it."""
    if corpus is None:
        return texts.held_out(lm, [store.cache(make=False)], "corpus")
    return tokenize(texts.as_trained(lm, open_corpus(corpus), []), lm.tokenizer, store.cache())


GAP = "<mask>"


def fills(lm: LM) -> bool:
    """Whether a model fills in gaps and does not write on."""
    return "fill" in lm.supports and "next_token" not in lm.supports


def text_ids(lm: LM, text: str) -> list[int]:
    """A text's ids; of a model that fills in gaps, with its <mask>s."""
    if not fills(lm) or GAP not in text:
        return lm.tokenizer.encode(text)
    ids: list[int] = []
    for i, part in enumerate(text.split(GAP)):
        ids += ([lm.tokenizer.special("mask")] if i else []) + (lm.tokenizer.encode(part) if part else [])
    return ids


def _framed(lm: LM) -> bool:
    """Whether a model learned to read texts between [CLS] and [SEP]: from pairs of segments, or as BERT was published."""
    pairs = any(name.rpartition("_")[2] in ("nsp", "sop") for name in lm.objectives)
    published = "model_type" in lm.info and lm.model.config is not None and lm.model.config.shape == "encoder"
    return {"cls", "sep"} <= set(lm.tokenizer.specials) and (pairs or published)


def _in_frame(lm: LM, texts: list[list[int]]) -> tuple[list[int], list[int]]:
    """[CLS] a [SEP] b [SEP], and which text each token is of. RoBERTa parts its texts by two (Liu et al. 2019, as released)."""
    cls, sep = (lm.tokenizer.special(name) for name in ("cls", "sep"))
    ids, parts = [cls], [0]
    for n, text in enumerate(texts, 1):
        between = [sep] if n > 1 and lm.info.get("model_type") == "roberta" else []
        ids += [*between, *text, sep]
        parts += [0] * len(between) + [n] * len(text) + [0]
    return ids, parts


def corpus_ids(lm: LM, corpus: Any) -> np.ndarray:
    """The ids of a corpus, or of the model's held-out text, (N,), read from disk as they are used."""
    return corpus_tokens(lm, corpus).ids


def read_ids(value: Any, model: LanguageModel, argument: str = "text") -> Int[Tensor, "B T"]:
    """Ids that the model can read, on its device. BadType or BadValue for what is none, empty, unknown or too long."""
    works = "a text, or a rectangle of ids such as [[5, 6, 7]], would do"
    try:
        ids = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise BadType(f"{argument}: {show(value)} is neither a text nor ids, (B, T); {works}") from None
    if ids.ndim not in (1, 2):
        raise BadType(f"{argument}: {show(value)} has {ids.ndim} dimensions, and ids have (B, T); {works}")
    if ids.numel() == 0:
        raise BadValue(f'{argument}: it is empty; give something to read, for example "To be, or not to be"')
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise BadType(
            f"{argument}: {show(value)} holds {str(ids.dtype).removeprefix('torch.')}, not whole numbers; {works}"
        )
    ids = ids.to(device=model.device, dtype=torch.long)
    if (low := int(ids.min())) < 0 or (high := int(ids.max())) >= model.vocab_size:
        wrong = low if low < 0 else high
        raise BadValue(f"{argument}: {wrong} is no id of this model; it has 0 to {model.vocab_size - 1}")
    if ids.shape[-1] > model.max_seq_len:
        raise BadValue(
            f"{argument}: {ids.shape[-1]} tokens do not fit the context of {model.max_seq_len}; cut it to its first {model.max_seq_len} tokens"
        )
    return ids[None] if ids.ndim == 1 else ids


def check_number(what: str, number: int | None, count: int) -> None:
    """BadValue for a layer or a head, of which the model has `count`, that is not there."""
    if number is not None and number >= count:
        raise BadValue(f"{what}: {number} is not there; this model has {what}s 0 to {count - 1}")


def position_in(position: int | None, length: int, otherwise: int = -1) -> int:
    """A position that may be counted from the end, from the start; `otherwise` where none is given. BadValue where the
    text has no such."""
    position = otherwise if position is None else position
    if not -length <= position < length:
        raise BadValue(
            f"position: {position} is not in the text, which has {length} tokens; use {-length} to {length - 1}"
        )
    return position % length

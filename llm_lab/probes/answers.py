"""The prediction that a probe asks for: where it stands, which token is the right answer and which the wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from llm_lab.data.batch import Batch
from llm_lab.errors import BadValue, listing, show
from llm_lab.models.language_model import LanguageModel
from llm_lab.probes.options import AnswerOptions
from llm_lab.probes.reading import GAP, Reading, fills, position_in, read_ids, text_ids
from llm_lab.results import Piece
from llm_lab.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Asked:
    """A text as a model is asked about it."""

    batch: Batch
    pieces: list[Piece]  # T tokens of the text
    position: int  # of the logits that hold the answer


@dataclass(frozen=True, eq=False)
class Answer:
    """The right answer, and the wrong one where there is one."""

    target: Piece
    other: Piece | None = None

    def logit_difference(self, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
        """logit(target) − logit(other), a unit-free number whose exponential is the ratio of the two probabilities;
        without a wrong answer logit(target)."""
        right = logits[..., self.target.id]
        return right if self.other is None else right - logits[..., self.other.id]

    def log_probability(self, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
        """log p(target), nats."""
        return logits.log_softmax(dim=-1)[..., self.target.id]

    @property
    def quantity(self) -> str:
        """What `logit_difference` is, in words."""
        return f"logit of {quoted(self.target)}" + (f" − {quoted(self.other)}" if self.other is not None else "")


def quoted(piece: Piece) -> str:
    """A token as it is spoken of; quotation marks show its spaces."""
    return f"“{piece.text}”"


def ask(reading: Reading, options: AnswerOptions, text: int = 0) -> Asked:
    """A text of a reading and where its answer is: after its last token, or, of a model that fills in gaps, at its
    first `<mask>`; of an encoder and a decoder, the first token that is written. BadValue where there is no such place.
    """
    lm = reading.lm
    if not reading.model.vocab_size or not lm.supports & {"next_token", "fill", "seq2seq", "any_order"}:
        raise BadValue(
            f"{lm.name} predicts no tokens, so that there is no answer to ask for; a model of objective clm or mlm would do"
        )
    ids = text_ids(lm, reading.texts[text])
    batch, length = lm.batch(read_ids(ids, lm.model)), len(ids)
    otherwise = -1
    if batch.decoder_ids is not None:
        length = batch.decoder_ids.shape[1]
    elif fills(lm) and options.position is None:
        mask = lm.tokenizer.special("mask")
        if mask not in ids:
            raise BadValue(
                f'text: {lm.name} fills in gaps, and there is none; write {GAP} where the answer is, for example "the capital is {GAP} .", or give --position'
            )
        otherwise = ids.index(mask)
    return Asked(batch, lm.tokenizer.pieces(ids), position_in(options.position, length, otherwise))


def answer(
    reading: Reading,
    options: AnswerOptions,
    logits: Float[Tensor, " V"],
    corrupted: Float[Tensor, " V"] | None = None,
) -> Answer:
    """The tokens that are asked for. The right one is the likeliest by `logits` unless told; the wrong one is, unless
    told, the likeliest other one by the logits of a corrupted text, and none where there is no such text.

    Raises BadValue for a text that is not one token.
    """
    tokenizer = reading.tokenizer
    right = None if options.target is None else token("target", options.target, tokenizer)
    wrong = None if options.other is None else token("other", options.other, tokenizer)
    if right is None:
        right = _likeliest(logits, reading.model, tokenizer, wrong)
    if wrong is None and corrupted is not None:
        wrong = _likeliest(corrupted, reading.model, tokenizer, right)
    if wrong is not None and wrong.id == right.id:
        raise BadValue(f"other: {show(options.other)} is the target too; give another token, or leave it out")
    return Answer(right, wrong)


def token(argument: str, text: str, tokenizer: Tokenizer) -> Piece:
    """The token that a text is; BadValue where it is several, or none that the tokenizer knows."""
    found = tokenizer.pieces(tokenizer.encode(text))
    if len(found) == 1 and not found[0].unknown:
        return found[0]
    if len(found) < 2:
        raise BadValue(
            f"{argument}: {show(text)} is no token of this {tokenizer.kind} tokenizer; use one that it knows"
        )
    first = found[0].text
    works = f"its first, {show(first)}, would do" if first else "a shorter text would do"
    raise BadValue(
        f"{argument}: {show(text)} is {len(found)} tokens ({listing((show(p.text) for p in found), 8)}), and an answer is one; {works}"
    )


def sayable(model: LanguageModel, tokenizer: Tokenizer) -> Bool[Tensor, " V"]:
    """The tokens that a text can have, its end included."""
    found = torch.ones(model.vocab_size, dtype=torch.bool, device=model.device)
    found[tokenizer.vocab_size :] = False
    found[sorted(tokenizer.special_ids - {tokenizer.end})] = False
    return found


def _likeliest(logits: Tensor, model: LanguageModel, tokenizer: Tokenizer, but: Piece | None) -> Piece:
    """The token of the largest logit among those that a text can have."""
    known = logits.detach().masked_fill(~sayable(model, tokenizer).to(logits.device), -torch.inf)
    if but is not None:
        known[but.id] = -torch.inf
    (found,) = tokenizer.pieces([int(known.argmax())])
    return found

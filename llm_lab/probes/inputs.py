"""What a model says at one place as a function of the tokens that it reads, or of the vectors that stand for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.data.batch import Attend, Batch
from llm_lab.errors import BadValue
from llm_lab.models.cost import at_once
from llm_lab.models.language_model import evaluating
from llm_lab.models.transformer import Transformer
from llm_lab.probes.answers import Asked, ask
from llm_lab.probes.options import AnswerOptions
from llm_lab.probes.reading import Reading, position_in, read_ids
from llm_lab.probes.recording import replace as replacing
from llm_lab.results import Piece
from llm_lab.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Inputs:
    """N tokens that a model reads, and where it is asked: of two stacks the source's tokens, then the decoder's.

    What no answer can rest on is left out: what stands behind the place that is asked, of a model that reads from left
    to right. Rows are changed copies of the N tokens, and all are computed with the model as it predicts.
    """

    model: Transformer
    batch: Batch
    pieces: list[Piece]
    position: int | slice  # of the logits, in the stack that gives them; of several, (R, U, V)

    @property
    def ids(self) -> Int[Tensor, " N"]:
        batch = self.batch
        return torch.cat([batch.input_ids[0], *([] if batch.decoder_ids is None else [batch.decoder_ids[0]])])

    @property
    def at(self) -> int:
        """The place that is asked, where it is one."""
        assert isinstance(self.position, int)
        return self.position

    @property
    def free(self) -> Bool[Tensor, " N"]:
        """The tokens that can be hidden or changed: all but reserved ones, such as a `<mask>` or what a decoder begins
        with."""
        return torch.tensor([not piece.special for piece in self.pieces], device=self.model.device)

    def logits(self, ids: Int[Tensor, "R N"]) -> Float[Tensor, "R *U V"]:
        """The logits where it is asked, for rows of other tokens."""
        with torch.no_grad(), evaluating(self.model):
            return torch.cat([self._run(rows) for rows in ids.split(self.rows)])

    def logits_of(self, x: Float[Tensor, "R N D"]) -> Float[Tensor, "R *U V"]:
        """The logits where it is asked, for rows that begin the stream with other vectors; in `x`'s graph."""
        changes: dict[str, Any] = {
            site: lambda _, part=part: part for site, part in zip(self._sites, x.split(self._lengths, 1), strict=True)
        }
        with evaluating(self.model), replacing(self.model, changes):
            return self._run(self.ids.expand(len(x), -1))

    def stream(self, vectors: Float[Tensor, "R N E"]) -> Float[Tensor, "R N D"]:
        """What token vectors become where the stream begins (site `embed`): scaled, at their positions, normalised. In
        the graph of `vectors`."""
        model, parts = self.model, []
        stacks: list[Any] = [model] if len(self._lengths) == 1 else [model.encoder, model.decoder]
        with evaluating(model):
            for stack, part in zip(stacks, vectors.split(self._lengths, 1), strict=True):
                ids = model.positions(part.shape[1], 0, None, part.device)
                handle = model.embed.register_forward_hook(lambda *_, part=part: part)
                try:
                    dummy = torch.zeros(part.shape[:2], dtype=torch.long, device=part.device)
                    parts.append(model.embedded(dummy, stack.position, ids))
                finally:
                    handle.remove()
        return torch.cat(parts, dim=1)

    def vectors(self, ids: Int[Tensor, "R N"]) -> Float[Tensor, "R N E"]:
        """The tokens' own vectors, from the table."""
        return self.model.embedding_table().detach()[ids]

    def without(self, keep: Bool[Tensor, " N"]) -> Inputs | None:
        """The same with only some of the tokens; None where nothing would be left to read, or to be asked at."""
        kept, at = [part.nonzero()[:, 0] for part in keep.split(self._lengths)], self.at
        two = self.batch.decoder_ids is not None
        asked = kept[-1]
        both_ways = not two and not _one_way(self.batch, self.model)
        if not all(len(part) for part in kept) or (both_ways and at not in asked.tolist()):
            return None
        before = int((asked <= at).sum()) - 1
        if before < 0:
            return None
        batch = replace(self.batch, input_ids=self.batch.input_ids[:, kept[0]])
        if self.batch.decoder_ids is not None:
            batch = replace(batch, decoder_ids=self.batch.decoder_ids[:, kept[1]])
        pieces = [piece for piece, stays in zip(self.pieces, keep.tolist(), strict=True) if stays]
        return Inputs(self.model, batch, pieces, before)

    @property
    def rows(self) -> int:
        """How many rows are computed at a time."""
        return at_once(self.model.vocab_size, max(self._lengths))

    @property
    def _lengths(self) -> list[int]:
        batch = self.batch
        return [batch.input_ids.shape[1], *([] if batch.decoder_ids is None else [batch.decoder_ids.shape[1]])]

    @property
    def _sites(self) -> list[str]:
        return ["embed"] if self.batch.decoder_ids is None else ["encoder.embed", "decoder.embed"]

    def _run(self, ids: Int[Tensor, "R N"]) -> Float[Tensor, "R *U V"]:
        read, *written = ids.split(self._lengths, 1)
        changes: dict[str, Any] = {"decoder_ids": written[0]} if written else {}
        batch = replace(self.batch, input_ids=read, attend=_rows(self.batch.attend, len(ids)), **changes)
        logits: Tensor = self.model(**batch.inputs()).logits[:, self.position]
        return logits


def read(reading: Reading, options: AnswerOptions) -> Inputs:
    """A text of a reading as inputs of the answer that is asked for. An encoder and a decoder may be given a second
    text, which the decoder has written."""
    if _two(reading):
        asked = ask(reading, replace(options, position=None))
        written = reading.ids(1)[0].tolist() if len(reading.texts) > 1 else []
        start = reading.tokenizer.start
        ids = read_ids([start, *written], reading.model)
        position = position_in(options.position, ids.shape[1])
        asked = Asked(replace(asked.batch, decoder_ids=ids), asked.pieces, position)
    else:
        need_one(reading)
        asked = ask(reading, options)
    return cut(reading.model, asked, reading.tokenizer)


def need_one(reading: Reading) -> None:
    """BadValue for a second text that a model of one stack was given."""
    if len(reading.texts) > 1 and not _two(reading):
        raise BadValue(
            f"text: 2 texts were given, and {reading.name} reads one; only an encoder and a decoder read two"
        )


def each(reading: Reading, options: AnswerOptions) -> Iterator[tuple[int, int, Inputs]]:
    """Every token of a text that was predicted from others: its place among all tokens, its id, and the inputs that it
    was predicted from. Of a model that fills in gaps, each token hidden in its turn."""
    whole = read(reading, replace(options, position=-1))
    model, ids = whole.model, whole.ids.tolist()
    if whole.batch.decoder_ids is not None:
        source, written = whole.batch.input_ids.shape[1], whole.batch.decoder_ids.shape[1]
        for t in range(1, written):
            asked = Asked(whole.batch, whole.pieces[:source], t - 1)
            yield source + t, ids[source + t], cut(model, asked, reading.tokenizer)
    elif _one_way(whole.batch, model):
        for t in range(1, len(ids)):
            yield t, ids[t], cut(model, Asked(whole.batch, whole.pieces, t - 1), reading.tokenizer)
    else:
        for t, piece in enumerate(whole.pieces):
            if not piece.special:
                hidden = whole.batch.input_ids.clone()
                hidden[0, t] = reading.tokenizer.special("mask")
                pieces = [*whole.pieces[:t], *reading.tokenizer.pieces(hidden[0, t : t + 1]), *whole.pieces[t + 1 :]]
                yield t, ids[t], cut(model, Asked(replace(whole.batch, input_ids=hidden), pieces, t), reading.tokenizer)


def cut(model: Any, asked: Asked, tokenizer: Tokenizer) -> Inputs:
    """What is asked, without what stands behind it where that is not read."""
    batch, pieces, end = asked.batch, asked.pieces, asked.position + 1
    if batch.decoder_ids is not None:
        written = batch.decoder_ids[:, :end]
        batch, pieces = replace(batch, decoder_ids=written), [*pieces, *tokenizer.pieces(written[0])]
    elif _one_way(batch, model):
        batch, pieces = replace(batch, input_ids=batch.input_ids[:, :end]), pieces[:end]
    return Inputs(model, batch, pieces, asked.position)


def place(inputs: Inputs, tokenizer: Tokenizer) -> str:
    """Where it is asked, in words."""
    if inputs.batch.decoder_ids is not None:
        return f"as token {inputs.at} of what the decoder writes"
    piece = inputs.pieces[inputs.at]
    if piece.id == tokenizer.specials.get("mask"):
        return f"at the <mask>, position {inputs.at}"
    return f"{'after' if _one_way(inputs.batch, inputs.model) else 'at'} position {inputs.at}"


def _two(reading: Reading) -> bool:
    config = reading.model.config
    return config is not None and config.shape == "encoder_decoder"


def _one_way(batch: Batch, model: Any) -> bool:
    """Whether one stack reads from left to right."""
    return batch.attend.causal if batch.attend is not None else model.config.shape in ("decoder", "permutation")


def _rows(attend: Attend | None, n: int) -> Attend | None:
    """What holds for one row, for n that are alike."""
    if attend is None:
        return None
    stated = {f.name: value for f in fields(attend) if isinstance(value := getattr(attend, f.name), Tensor)}
    return replace(attend, **{name: value.expand(n, *value.shape[1:]) for name, value in stated.items()})  # type: ignore[arg-type]

"""What lies near in the space of a model's token vectors: neighbours of words, and analogies between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llm_lab.errors import BadValue, show
from llm_lab.models.language_model import LanguageModel
from llm_lab.probes.options import AnalogiesOptions, NeighboursOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Neighbours
from llm_lab.tokenizers.tokenizer import Tokenizer

TOP = 10


def neighbours(reading: Reading, options: NeighboursOptions) -> Neighbours:
    """Of each word of the text the tokens whose vectors are nearest, by the cosine, in each model. A word must be one
    token."""
    return _side_by_side(reading, _neighbours)


def analogies(reading: Reading, options: AnalogiesOptions) -> Neighbours:
    """Of each three words "a b c" the tokens nearest to b − a + c: a is to b as c is to them (Mikolov et al. 2013c, §4;
    3CosAdd of Levy & Goldberg 2014), in each model. The three themselves are left out."""
    return _side_by_side(reading, _analogies)


def _side_by_side(reading: Reading, look: Callable[[Reading], Neighbours]) -> Neighbours:
    """What one model has for every word, or several have one after the other."""
    found = [look(Reading((lm,), reading.texts)) for lm in reading.lms]
    if len(found) == 1:
        return found[0]
    most = max(len(one.asked) for one in found)
    rows = [(i, one) for i in range(most) for one in found if i < len(one.asked)]  # a word's models beside each other
    return Neighbours(
        name=", ".join(one.name for one in found),
        kind=found[0].kind,
        asked=[f"{one.asked[i]} · {one.name}" for i, one in rows],
        pieces=[one.pieces[i] for i, one in rows],
        similarity=[one.similarity[i] for i, one in rows],
        n_tokens=max(one.n_tokens for one in found),
        width=max(one.width for one in found),
        notes=[f"{one.name}: {note}" for one in found for note in one.notes],
    )


def _neighbours(reading: Reading) -> Neighbours:
    model, tokenizer, name = reading.model, reading.tokenizer, reading.name
    words = _words(reading)
    table = _unit(model)
    own = {word: _token(word, tokenizer) for word in dict.fromkeys(words)}
    rows = torch.tensor(list(own.values()), device=table.device)
    return _nearest(model, table, table[rows], [[i] for i in own.values()], list(own), name, tokenizer, "neighbours")


def _analogies(reading: Reading) -> Neighbours:
    model, tokenizer, name = reading.model, reading.tokenizer, reading.name
    words = _words(reading)
    if not words or len(words) % 3:
        raise BadValue(
            f"text: {len(words)} word{'s' * (len(words) != 1)}, and an analogy has three: a is to b as c is to what; for example 'man king woman'"
        )
    table = _unit(model)
    threes = [words[i : i + 3] for i in range(0, len(words), 3)]
    tokens = [[_token(word, tokenizer) for word in three] for three in threes]
    a, b, c = (table[torch.tensor(column, device=table.device)] for column in zip(*tokens, strict=True))
    asked = [f"{b} − {a} + {c}" for a, b, c in threes]
    return _nearest(model, table, F.normalize(b - a + c, dim=1), tokens, asked, name, tokenizer, "analogies")


def _words(reading: Reading) -> list[str]:
    """The words of the text, which spaces part; BadValue where it has none, or one that the vocabulary lacks."""
    tokenizer, ids = reading.tokenizer, reading.ids()[0].tolist()
    lost = next((i for i, piece in enumerate(reading.pieces()) if piece.unknown), None)
    if lost is not None:
        before = tokenizer.decode(ids[:lost]).split()[-1:]
        where = f"after {show(before[0])}" if before else "at its beginning"
        raise BadValue(
            f"text: the word {where} is not in the vocabulary of this {tokenizer.kind} tokenizer, so it has no vector; use another"
        )
    words = tokenizer.decode(ids).split()
    if not words:
        raise BadValue("text: it has no words; give some with spaces between them, for example 'king queen'")
    return words


def _token(word: str, tokenizer: Tokenizer) -> int:
    """The token that a word is where a space stands before it, else where none does; BadValue where it is several."""
    for text in (f" {word}", word):
        found = tokenizer.encode(text)
        if len(found) == 1 and not (piece := tokenizer.pieces(found)[0]).unknown and not piece.special:
            return found[0]
    cut = tokenizer.encode(word)
    advice = "use a more frequent word, or train with a larger --vocab_size"
    if tokenizer.kind in ("char", "byte"):
        advice = "its vectors are of single characters; train with --tokenizer wordpiece for vectors of words"
    raise BadValue(
        f"text: {show(word)} is {len(cut)} tokens of this {tokenizer.kind} tokenizer, and a vector is one token's; {advice}"
    )


def _unit(model: LanguageModel) -> Float[Tensor, "V E"]:
    """The table with every vector of length 1 (one of length 0 stays)."""
    return F.normalize(model.embedding_table().detach().float(), dim=1)


def _nearest(
    model: LanguageModel,
    table: Float[Tensor, "V E"],
    wanted: Float[Tensor, "N E"],
    without: list[list[int]],
    asked: list[str],
    name: str,
    tokenizer: Tokenizer,
    kind: str,
) -> Neighbours:
    similarity = wanted @ table[: tokenizer.vocab_size].T  # (N, V)
    similarity[:, sorted(tokenizer.special_ids)] = -torch.inf
    for row, tokens in enumerate(without):
        similarity[row, tokens] = -torch.inf
    notes = []
    counts = getattr(model, "counts", None)
    if isinstance(counts, Tensor) and bool(counts.any()):
        never = counts[: tokenizer.vocab_size] == 0
        similarity[:, never] = -torch.inf
        hidden = int(never.sum()) - len(tokenizer.special_ids)
        if hidden > 0:
            notes.append(
                f"{hidden:,} tokens that the training text does not have are left out: their vectors learned nothing"
            )
    found, index = similarity.topk(min(TOP, similarity.shape[1]), dim=1)
    kept = [int(n) for n in found.isfinite().sum(dim=1)]
    return Neighbours(
        name=name,
        kind=kind,
        asked=asked,
        pieces=[tokenizer.pieces(row[:n]) for row, n in zip(index.tolist(), kept, strict=True)],
        similarity=[row[:n] for row, n in zip(found.tolist(), kept, strict=True)],
        n_tokens=tokenizer.vocab_size,
        width=table.shape[1],
        notes=notes,
    )

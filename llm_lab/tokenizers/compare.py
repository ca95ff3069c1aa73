"""One text cut by several tokenizers, side by side; it does not know how that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from llm_lab.errors import BadValue
from llm_lab.results import Tokenization, TokenizationRow
from llm_lab.tokenizers.tokenizer import Tokenizer


def tokenization(text: str, tokenizers: Sequence[Tokenizer], trained_on: str) -> Tokenization:
    """How each tokenizer reads `text`. `trained_on` says where their vocabularies come from."""
    if not text:
        raise BadValue('text: it is empty; give some, for example "To be, or not to be"')
    if not tokenizers:
        raise BadValue("kind: no tokenizer was given; for example char,bpe")
    return Tokenization(text=text, trained_on=trained_on, rows=[_row(text, tokenizer) for tokenizer in tokenizers])


def _row(text: str, tokenizer: Tokenizer) -> TokenizationRow:
    ids = tokenizer.encode(text)
    return TokenizationRow(
        kind=tokenizer.kind,
        pieces=tokenizer.pieces(ids),
        n_tokens=len(ids),
        chars_per_token=len(text) / len(ids) if ids else 0.0,
        n_unknown=ids.count(tokenizer.specials.get("unk", -1)),
        vocab_size=tokenizer.vocab_size,
        round_trip=tokenizer.round_trip(text),
    )

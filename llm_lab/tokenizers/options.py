"""The kinds of tokenizer and what can be set of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadType, BadValue, show
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table

_LEARNED = frozenset({"vocab_size"})  # its vocabulary is learned, so its size can be chosen

TOKENIZERS = Table(
    "tokenizer",
    [
        Entry("char", "llm_lab.tokenizers.kinds:char", "every character of the corpus is a token"),
        Entry("byte", "llm_lab.tokenizers.kinds:byte", "every UTF-8 byte is a token: 256 of them, any text"),
        Entry("bpe", "llm_lab.tokenizers.kinds:bpe", "byte pairs merged by frequency, as GPT-2", supports=_LEARNED),
        Entry("wordpiece", "llm_lab.tokenizers.kinds:wordpiece", "words and ## pieces, as BERT", supports=_LEARNED),
        Entry(
            "unigram",
            "llm_lab.tokenizers.kinds:unigram",
            "pieces by likelihood, as T5 and SentencePiece",
            supports=_LEARNED,
        ),
    ],
)


@dataclass(frozen=True)
class TokenizerOptions(Options):
    room: ClassVar[str] = "tokenizer"
    tokenizer: object = option(
        None,
        "how text is cut; or a tokenizer that is there already, or the model that has it (@bard)",
        choices=lambda: TOKENIZERS,
        auto="char for a corpus under 5 MB, else bpe",
        example="char",
    )
    vocab_size: int | None = option(
        None,
        "size of the vocabulary, specials included (bpe, wordpiece, unigram)",
        ge=64,
        auto="by the size of the corpus",
        example="4096",
    )

    def validate(self) -> None:
        if self.tokenizer is None or isinstance(self.tokenizer, str):
            return
        made: Any = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # a model's own
        if not hasattr(made, "fingerprint") or not hasattr(made, "encode_batch"):
            raise BadType(
                f"tokenizer: {show(self.tokenizer)} is {type(self.tokenizer).__name__}; a kind such as char, a tokenizer that lab.tokenizer made, or a model would do"
            )
        if self.vocab_size is not None:
            raise BadValue(
                f"vocab_size: the tokenizer that is given has {made.vocab_size:,} tokens already; leave vocab_size out"
            )
        object.__setattr__(self, "tokenizer", made)

"""The kinds of tokenizer, each learned from documents as a `tokenizers.Tokenizer`; it does not know how they are used.

Every kind begins with the same reserved tokens, at the same ids. Text cannot spell one: every pre-tokenizer parts `<`
from the letters after it, so that no learned piece can be `<eos>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llm_lab.errors import BadValue

SPECIALS = ("pad", "bos", "eos", "unk", "cls", "sep", "mask", *(f"extra_{i}" for i in range(16)))
SPECIAL_TOKENS = tuple(f"<{name}>" for name in SPECIALS)
UNK = "<unk>"
TRAIN_CHUNK = 1 << 16  # characters; long documents are handed over in parts, so that all cores read them
# Letters with their marks, digits, other signs, each with the space before it; then what is left of white space.
_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
# What no reader takes for white space, then what each takes for it; format and control characters are left alone
_SEAM = re.compile(
    r"[^\s\x00-\x20\x7f-\xa0\xad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff](?=[ \n])"
)
_DEFAULT_SIZES = ((2_000_000, 1024), (5_000_000, 2048), (20_000_000, 4096))  # (bytes below, size)
_LARGEST_DEFAULT = 8192


def char(documents: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """Every character (code point) of the documents, in the order of Unicode; any other is `<unk>`."""
    # BPE without merges: a word-level model decodes with spaces in between and takes four times as long
    made = Tokenizer(models.BPE(vocab=_vocab(sorted(characters(documents))), merges=[], unk_token=UNK, fuse_unk=False))
    made.decoder = decoders.Fuse()
    return _reserve(made)


def byte(documents: Iterable[str] = (), vocab_size: int | None = None) -> Tokenizer:
    """The 256 bytes of UTF-8, in order, after the specials."""
    made = Tokenizer(models.BPE(vocab=_vocab(byte_letters()), merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return _reserve(made)


def bpe(documents: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """Byte pairs that occur twice or more, the most frequent first, inside GPT-2's words (Sennrich et al. 2016)."""
    vocab_size = _size(documents, vocab_size, alphabet=256)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=_added(),
        initial_alphabet=byte_letters(),
        show_progress=False,
    )
    made.train_from_iterator(documents, trainer)
    return made


def wordpiece(documents: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """BERT's pieces with case kept: words and punctuation apart, Chinese characters one by one, `##` inside a word.

    White space is not kept. A word with a character that the documents lack is `<unk>` as a whole.
    """
    alphabet = _train_wordpiece(documents, 0, []).get_vocab(with_added_tokens=False)
    if not alphabet:
        raise BadValue(
            "corpus: nothing in it is a word or a sign, so wordpiece has nothing to learn from; use char or byte"
        )
    vocab_size = _size(documents, vocab_size, alphabet=len(alphabet))
    # The trainer numbers the ## letters in the order of a hash table, which differs from run to run; given as
    # reserved tokens they have an order of their own, and what is merged after them follows
    trained = _train_wordpiece(documents, vocab_size, [*SPECIAL_TOKENS, *sorted(alphabet)])
    vocab = trained.get_vocab(with_added_tokens=False)
    return _reserve(_as_bert(models.WordPiece(vocab=vocab, unk_token=UNK, max_input_chars_per_word=100)))


def _train_wordpiece(documents: Iterable[str], vocab_size: int, reserved: list[str]) -> Tokenizer:
    made = _as_bert(models.WordPiece(unk_token=UNK))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=reserved, show_progress=False
    )
    made.train_from_iterator(documents, trainer)
    return made


def _as_bert(model: models.WordPiece) -> Tokenizer:
    made = Tokenizer(model)
    made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return made


def unigram(documents: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """The pieces under which the documents are likeliest (Kudo 2018). Spaces are kept as they are, in front of words.

    Characters that the documents lack are `<unk>`, one for several in a row; all else comes back exactly.
    """
    alphabet = characters(documents)
    vocab_size = _size(documents, vocab_size, alphabet=len(alphabet))
    made = _as_unigram(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token=UNK, show_progress=False
    )
    made.train_from_iterator(documents, trainer)
    vocab = [
        *((token, 0.0) for token in SPECIAL_TOKENS),
        *_settled(json.loads(made.to_str())["model"]["vocab"], vocab_size - len(SPECIALS)),
    ]
    return _reserve(_as_unigram(models.Unigram(vocab, unk_id=SPECIALS.index("unk"))))


def _settled(vocab: list[tuple[str, float]], size: int) -> list[tuple[str, float]]:
    """The `size` likeliest pieces, every character among them, with their log-probabilities: the same in every run.

    The trainer reads its words in the order of a hash table: sums differ in their last digits from run to run, and
    rare characters get the lowest score plus 0.0001 for each that came before. So scores are rounded, and those
    characters get the lowest score alike. It may also return some pieces more than it was asked for.
    """
    pieces = [(piece, score) for piece, score in vocab if piece not in SPECIAL_TOKENS]
    lowest = min((score for _, score in pieces), default=0.0)
    rare = lowest + 1e-4 * len(pieces)
    settled = [(piece, round(lowest if len(piece) == 1 and score <= rare else score, 5)) for piece, score in pieces]
    settled.sort(key=lambda pair: (len(pair[0]) > 1, -pair[1], pair[0]))
    return sorted(settled[:size], key=lambda pair: (-pair[1], pair[0]))


def _as_unigram(model: models.Unigram) -> Tokenizer:
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    made.decoder = decoders.Fuse()
    return made


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's): itself where it can be printed."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {value: chr(value) for value in printable}
    rest = (value for value in range(256) if value not in letters)
    letters |= {value: chr(256 + i) for i, value in enumerate(rest)}
    return [letters[value] for value in range(256)]


def chunks(pieces: Iterable[tuple[str, bool]], size: int) -> Iterator[tuple[str, bool]]:
    """Documents in parts of at least `size` characters, cut only where all kinds of this file cut anyway.

    That is before a space or line break that follows a visible character: no kind has a piece across it, and none
    looks further. A document without such a place stays whole. They come, and go, with whether a piece ends its document.
    """
    held, looked = "", 0  # the part that grows, and how much of it has no place to cut
    for piece, last in pieces:
        held, start = held + piece, 0
        while len(held) - start > size and (found := _SEAM.search(held, max(start + size, looked))):
            yield held[start : found.end()], False
            start = found.end()
        held, looked = held[start:], max(0, len(held) - start - 1)
        if last:
            yield held, True
            held, looked = "", 0


def characters(documents: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for document in documents:
        found.update(document)
    return found


def _vocab(letters: Iterable[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate((*SPECIAL_TOKENS, *letters))}


def _added() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]


def _reserve(made: Tokenizer) -> Tokenizer:
    """Mark the specials, which are in the vocabulary already, so that other programs know them as such."""
    made.add_special_tokens(_added())
    return made


def _size(documents: Iterable[str], vocab_size: int | None, alphabet: int) -> int:
    """The size asked for, or one for this much text: 1024 below 2 MB, 2048 below 5 MB, 4096 below 20 MB, else 8192,
    and always a quarter more than the least. BadValue where the specials and the alphabet do not fit."""
    least = len(SPECIALS) + alphabet
    if vocab_size is None:
        n_bytes = sum(len(document.encode()) for document in documents)
        by_text = next((size for below, size in _DEFAULT_SIZES if n_bytes < below), _LARGEST_DEFAULT)
        return max(by_text, least + least // 4)
    if vocab_size < least:
        raise BadValue(
            f"vocab_size: {vocab_size} is too small for this text: {len(SPECIALS)} reserved tokens and an alphabet of "
            f"{alphabet:,} need {least}; use for example --vocab_size {least + least // 4}"
        )
    return vocab_size

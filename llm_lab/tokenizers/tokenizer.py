"""One tokenizer: text to ids and back, every token as a person may read it; it does not know what a model is."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.decoders import DecodeStream

from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.results import Piece
from llm_lab.tokenizers import foreign
from llm_lab.tokenizers.kinds import SPECIAL_TOKENS, SPECIALS, TRAIN_CHUNK, characters, chunks
from llm_lab.tokenizers.options import TOKENIZERS

FILE = "tokenizer.json"
LEARNED = 100_000_000  # bytes from which a vocabulary is learned: merges and pieces settle long before
_CHUNK = 1 << 14  # characters encoded at a time; the parts of a long text keep all cores busy
_HEX = "llm_lab.hex"  # error handler of decoding: bytes that are no character are shown as <0xE4>
codecs.register_error(_HEX, lambda e: ("".join(f"<0x{b:02X}>" for b in e.object[e.start : e.end]), e.end))  # type: ignore[attr-defined]


class Tokenizer:
    """A `tokenizers.Tokenizer` that never makes reserved tokens out of text.

    Its first tokens are our specials; or it is one that others made, whose reserved tokens are `specials`.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, kind: str | None = None, specials: Mapping[str, int] | None = None
    ) -> None:
        self.is_foreign = specials is not None
        for i, token in enumerate(() if self.is_foreign else SPECIAL_TOKENS):
            if backend.token_to_id(token) != i:
                raise BadValue(f"tokenizer: id {i} is not {token}; use one that lab.tokenizer(corpus, kind) made")
        self.backend = backend
        # "<eos>" in a text is five characters of it, not the end of the document
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        state = json.loads(backend.to_str())
        structure = _kind(state)
        self.kind = kind or (foreign.KINDS.get(state["model"]["type"], "custom") if self.is_foreign else structure)
        # Where a kind of the user's own may be cut is not ours to know.
        ours = structure if self.kind == structure else "custom"
        self._anywhere = not self.is_foreign and ours in ("char", "byte")
        self._seams = foreign.seams(state) if self.is_foreign else ours != "custom"
        self._added = {t["id"]: t["content"] for t in state["added_tokens"] if not t["special"]}
        self._spell, self._at_start = foreign.spelling(state)
        # Ids may have gaps.
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.specials = {name: i for i, name in enumerate(SPECIALS)} if specials is None else dict(specials)
        reserved = {t["id"] for t in state["added_tokens"] if t["special"]} if self.is_foreign else set()
        self.special_ids = frozenset(reserved | set(self.specials.values()))

    @property
    def unit(self) -> str:
        """What one token is called where losses and lengths are counted."""
        return "char" if self.kind == "char" else "token"

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size:,} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self.to_json(), self.kind, self.specials if self.is_foreign else None)

    def special(self, name: str) -> int:
        """The id of a reserved token, such as `mask`; BadValue where this tokenizer has none."""
        if name not in self.specials:
            raise BadValue(
                f"tokenizer: this {self.kind} one has no <{name}>, which is needed here; it has {listing(self.specials) or 'no reserved tokens'}; one that lab.tokenizer(corpus, kind) made has them all"
            )
        return self.specials[name]

    @property
    def start(self) -> int:
        """What a decoder reads before its first token."""
        return self.specials.get("bos", self.specials.get("pad", 0))

    @property
    def end(self) -> int | None:
        """What ends a document: `eos`, or for those that have none the separator."""
        return self.specials.get("eos", self.specials.get("sep"))

    @property
    def sentinels(self) -> list[int]:
        """The reserved tokens that stand for what was taken out of a text, in order."""
        return [i for name, i in self.specials.items() if name.startswith("extra_")]

    # text to ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no special is added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of several texts, on all cores."""
        parts: list[str] = []
        counts = []
        for text in texts:
            before = len(parts)
            parts.extend(part for part, _ in self.parts([(_utf8(text), True)], _CHUNK))
            counts.append(len(parts) - before)
        encoded = iter(self.backend.encode_batch_fast(parts, add_special_tokens=False))
        found = [[i for _ in range(count) for i in next(encoded).ids] for count in counts]
        return [self._as_text(ids) for ids in found] if self.is_foreign else found

    def encode_markup(self, text: str) -> list[int]:
        """The ids of a text in which reserved tokens are meant where they are written, as in a chat template."""
        self.backend.encode_special_tokens = False
        try:
            return list(self.backend.encode(_utf8(text), add_special_tokens=False).ids)
        finally:
            self.backend.encode_special_tokens = True

    def _as_text(self, ids: list[int]) -> list[int]:
        """Without reserved tokens: in some vocabularies (T5's) text can spell them, and then they are unknown."""
        if self.special_ids.isdisjoint(ids):
            return ids
        unknown = self.specials.get("unk")
        return [i for i in (unknown if i in self.special_ids else i for i in ids) if i is not None]

    def parts(self, pieces: Iterable[tuple[str, bool]], size: int) -> Iterator[tuple[str, bool]]:
        """Texts in parts of about `size` characters whose ids, joined, are the ids of the whole. They are given, and come,
        in pieces, with whether each ends its text."""
        if not self._anywhere:
            # Without seams none is long enough to be cut.
            yield from chunks(pieces, size if self._seams else sys.maxsize)
            return
        for piece, last in pieces:
            for i in range(0, len(piece) or 1, size):
                yield piece[i : i + size], last and i + size >= len(piece)

    # ids to text

    def decode(self, ids: Iterable[int], after: Iterable[int] = ()) -> str:
        """The text of ids, as it stands behind that of the ids `after`. Specials are left out; bytes that are no
        character show as `<0xE4>`."""
        stream = self.streamer()
        for i in _ints(after):
            stream.push(i)
        return "".join([*map(stream.push, _ints(ids)), stream.finish()])

    def pieces(self, ids: Iterable[int]) -> list[Piece]:
        """Every token for itself. A part of a character shows its bytes, as in `<0xE4>`; spaces are spaces."""
        return [self._piece(i) for i in _ints(ids)]

    def streamer(self) -> Streamer:
        """Decodes token by token: `push(id)` gives the characters that became complete, `finish()` the rest."""
        return Streamer(self)

    def round_trip(self, text: str) -> str:
        """`"exact"` where text → ids → text gives the same, else what is lost, in a phrase."""
        ids = self.encode(text)
        back = self.decode(ids)
        if back == text:
            return "exact"
        unknown = ids.count(self.specials.get("unk", -1))
        if self._words:
            spaces = "spaces and line breaks change"
            if unknown:
                return f"{unknown:,} unknown word{'s' * (unknown > 1)}; {spaces}"
            if self.is_foreign and _bare(back) == _bare(text).lower():
                return f"{spaces}, capitals are lost"
            lost = "accents and capitals are lost" if self.is_foreign else "control characters are dropped"
            return spaces if _bare(back) == _bare(text) else f"{spaces}, {lost}"
        missing = sorted({c for c in text if self.backend.token_to_id(c) is None})
        if not unknown or not missing:
            return "the text changes"
        return f"{len(missing):,} unknown character{'s' * (len(missing) > 1)}: {listing(map(_visible, missing), 8)}"

    # as a file

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return self.backend.to_str(pretty=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides which ids a text has."""
        state = json.loads(self.to_json())
        state = {key: state[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        if self.is_foreign:
            state["specials"] = self.specials
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write tokenizer.json (into `path`, where that is a folder); returns its path. One that others made has its
        reserved tokens beside it, in tokenizer_config.json."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.parent.is_dir():
            raise BadValue(f"path: the folder {str(path.parent)!r} does not exist; make it first or choose another")
        if self.is_foreign:
            _replace(path.with_name(foreign.BESIDE), json.dumps(self.described(), indent=2, ensure_ascii=False))
        _replace(path, self.to_json())
        return path

    def described(self) -> dict[str, Any]:
        """The content of tokenizer_config.json: the reserved tokens by the names that other programs know."""
        return foreign.described(self.backend, self.specials)

    @classmethod
    def load(cls, path: str | Path, theirs: bool | None = None) -> Tokenizer:
        """Read a tokenizer.json (or the folder it is in) that `save` wrote, or with `theirs` that others did: the files
        beside it say what its reserved tokens are. Unless told, it looks whether there is a tokenizer_config.json."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        theirs = path.with_name(foreign.BESIDE).is_file() if theirs is None else theirs
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
            ours = all(backend.token_to_id(token) == i for i, token in enumerate(SPECIAL_TOKENS))
            return cls(backend, specials=foreign.specials(backend, path.parent) if theirs and not ours else None)
        except FileNotFoundError:
            raise BadValue(f"path: there is no {str(path)!r}; name a tokenizer.json or the folder it is in") from None
        except BadValue:
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises a bare Exception for what is not a tokenizer, or panics
            raise BadValue(
                f"path: {str(path)!r} is not a tokenizer.json ({show(str(error))}); save it again"
            ) from error

    @classmethod
    def foreign(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer.json of a folder that others made."""
        return cls.load(Path(folder) / FILE, theirs=True)

    # what each token is

    @cached_property
    def text_ids(self) -> np.ndarray:
        """The ids that are text, (n,) int64: all but the reserved ones."""
        return np.setdiff1d(np.arange(self.vocab_size), sorted(self.special_ids)).astype(np.int64)

    def inside_word(self, ids: np.ndarray) -> np.ndarray:
        """(n,) True where a token goes on with the word that the one before it ends in. A character of a script that
        writes no spaces is a word of its own."""
        begins, ends = self._edges
        found = begins[ids]
        found[1:] &= ends[ids[:-1]]
        found[:1] = False
        return found

    def ends_sentence(self, ids: np.ndarray) -> np.ndarray:
        """(n,) True where a token ends with a sign that ends a sentence, or a line."""
        return self._stops[ids]

    @cached_property
    def _stops(self) -> np.ndarray:
        return np.array([self._surface(i).rstrip(" ▁").endswith(_STOPS) for i in range(self.vocab_size)])

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether each token begins inside a word, and whether it ends with a letter of one."""
        texts = [self._surface(i) for i in range(self.vocab_size)]
        if self._words:
            return np.array([text.startswith("##") for text in texts]), np.ones(len(texts), bool)
        return (
            np.array([bool(_LETTER.match(text)) for text in texts]),
            np.array([bool(_LETTER.match(text[-1:])) for text in texts]),
        )

    def _surface(self, i: int) -> str:
        piece = self._piece(i)
        return "" if piece.special else piece.text

    @cached_property
    def _words(self) -> bool:
        """Whether tokens are words without their spaces."""
        return isinstance(self.backend.model, tokenizers.models.WordPiece)

    @cached_property
    def _texts(self) -> list[str]:
        """Each id's token as the vocabulary writes it."""
        return [self.backend.id_to_token(i) or "" for i in range(self.vocab_size)]

    @cached_property
    def spelled(self) -> list[bytes] | None:
        """Each id's bytes, where tokens are byte strings."""
        if self._spell is None or self._words:
            return None
        return [
            b"" if i in self.special_ids else self._added[i].encode() if i in self._added else self._spell(text)
            for i, text in enumerate(self._texts)
        ]

    def _check_id(self, i: int) -> None:
        if not 0 <= i < self.vocab_size:
            raise BadValue(f"ids: {i} is not a token; this {self.kind} tokenizer has 0 to {self.vocab_size - 1}")

    def _piece(self, i: int) -> Piece:
        self._check_id(i)
        special = i in self.special_ids
        text = self._texts[i] if special or self.spelled is None else self.spelled[i].decode("utf-8", _HEX)
        return Piece(text, i, special=special, unknown=i == self.specials.get("unk"))


class Streamer:
    """Text that grows token by token and never shows a part of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(_HEX)
        self._last = ""  # the last word's end, where words have lost their spaces
        self._at_start = tokenizer._at_start  # spaces still to be left out
        # Where a token's text depends on where it stands, the library keeps track.
        by_library = tokenizer._spell is None and not tokenizer._words
        self._stream = DecodeStream(skip_special_tokens=True) if by_library else None
        self._ids: list[int] = []
        self._given = 0  # characters

    def push(self, id: int) -> str:
        """The characters that this token completes."""
        tokenizer = self._tokenizer
        i = int(id)
        tokenizer._check_id(i)
        if i in tokenizer.special_ids:
            return ""
        if self._stream is not None:
            self._ids.append(i)
            text = self._stream.step(tokenizer.backend, i) or ""
            self._given += len(text)
            return text
        if tokenizer.spelled is not None:
            return self._begun(self._utf8.decode(tokenizer.spelled[i]))
        return self._spaced(tokenizer._texts[i])

    def finish(self) -> str:
        """What is left: the bytes of a character that was never completed."""
        if self._stream is not None:
            return self._tokenizer.backend.decode(self._ids)[self._given :]
        return self._utf8.decode(b"", final=True)

    def _begun(self, text: str) -> str:
        """Without the spaces that stand before every text."""
        if self._at_start and text:
            kept = text.lstrip(" ") if len(text) - len(text.lstrip(" ")) <= self._at_start else text[self._at_start :]
            self._at_start = 0
            return kept
        return text

    def _spaced(self, token: str) -> str:
        """A word with a space before it where prose has one; `##` pieces go on without."""
        inside = len(token) > 2 and token.startswith("##")
        text = token[2:] if inside else token
        last, self._last = self._last, text[-1:]
        if inside or not last or _NO_SPACE_AFTER.match(last) or _NO_SPACE_BEFORE.match(text):
            return text
        return " " + text


_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_LETTER = re.compile(rf"[^\W_{_CJK}]|['’]\w")
_STOPS = (".", "!", "?", "…", "。", "！", "？", "\n", '."', ".”")
_NO_SPACE_BEFORE = re.compile(rf"[.,;:!?)\]}}%'’”»…_/@—–{_CJK}-]")
_NO_SPACE_AFTER = re.compile(rf"[(\[{{'’“«$#_/@—–{_CJK}-]")


def train(source: Any, kind: str, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer of that kind whose vocabulary is learned from `source`: a corpus, or documents. Of a large corpus merges
    and pieces are learned from parts that lie all over it, LEARNED bytes of them, and the alphabet from the whole.

    `vocab_size` counts the specials; without it, it goes by the size of the text. Raises BadValue for an unknown
    kind, a size that cannot hold the alphabet, or a size given to a kind that has its own.
    """
    entry = TOKENIZERS.entry(kind)
    if vocab_size is not None:
        if "vocab_size" not in entry.supports:
            sized = listing(name for name, other in TOKENIZERS.items() if "vocab_size" in other.supports)
            raise BadValue(
                f"vocab_size: {show(vocab_size)} cannot be chosen for {kind} ({entry.help}); "
                f"leave it out, or use one of {sized}"
            )
        if isinstance(vocab_size, bool) or not isinstance(vocab_size, int):
            raise BadValue(f"vocab_size: {show(vocab_size)} is not a whole number; for example 4096")
    if hasattr(source, "pieces") and hasattr(source, "n_bytes"):  # a corpus, which has text in it
        whole = (text for text, _ in source.pieces())
        return Tokenizer(entry.load()(_drawn(source) if "vocab_size" in entry.supports else whole, vocab_size), kind)
    if not isinstance(source, str | Iterable):
        raise BadType(
            f"corpus: {type(source).__name__} {show(source)} is not a text; it takes a corpus or a list of texts"
        )
    documents = [_utf8(text) for text in ([source] if isinstance(source, str) else source)]
    if not any(text and not text.isspace() for text in documents):
        raise BadValue("corpus: it is empty; a vocabulary is learned from text")
    return Tokenizer(entry.load()(list(_cut((text, True) for text in documents)), vocab_size), kind)


def _cut(pieces: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Texts in parts, so that all cores learn from a long one."""
    return (part for part, _ in chunks(pieces, TRAIN_CHUNK))


def _drawn(corpus: Any) -> list[str]:
    """Parts of a corpus, drawn evenly, that come to about LEARNED bytes; all of a smaller one."""
    share, rng = LEARNED / corpus.n_bytes, random.Random(0)
    found = [part for part in _cut(corpus.pieces()) if share >= 1 or rng.random() < share]
    if share < 1 and (rare := characters(text for text, _ in corpus.pieces()) - characters(found)):
        found.append(" ".join(2 * char for char in sorted(rare)))  # as a word's beginning, and within one
    return found


def _from_json(text: str, kind: str | None = None, specials: Mapping[str, int] | None = None) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), kind, specials)


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _kind(state: dict[str, Any]) -> str:
    """Which of our kinds made a tokenizer.json, or "custom": the format has no field for it, but the parts tell."""
    model, before = state["model"], state["pre_tokenizer"] or {}
    parts = (model["type"], before.get("type"), before.get("use_regex"))
    kinds = {
        ("BPE", None, None): "custom" if model.get("merges") else "char",
        ("BPE", "ByteLevel", False): "custom" if model.get("merges") else "byte",
        ("BPE", "ByteLevel", True): "bpe",
        ("WordPiece", "BertPreTokenizer", None): "wordpiece",
        ("Unigram", "Split", None): "unigram",
    }
    return kinds.get(parts, "custom")


def _utf8(text: str) -> str:
    """The text, if it is one that UTF-8 can hold."""
    if not isinstance(text, str):
        raise BadType(f"text: {type(text).__name__} {show(text)} is not text")
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise BadValue(
            f"text: character {error.start} is half a character (a lone surrogate, {text[error.start]!a}), which UTF-8 "
            "cannot hold; take it out with text.encode('utf-8', 'ignore').decode()"
        ) from None
    return text


def _ints(ids: Any) -> list[int]:
    """Ids as plain integers, from a list, an array or a tensor."""
    found = ids.tolist() if hasattr(ids, "tolist") else ids
    return [found] if isinstance(found, int) else [int(i) for i in found]


def _bare(text: str) -> str:
    return "".join(text.split())


def _visible(char: str) -> str:
    return char if char.isprintable() and not char.isspace() else f"U+{ord(char):04X}"

"""One tokenizer: text to ids and back, every token as a person may read it; it does not know what a model is."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.results import Piece
from llm_lab.tokenizers.kinds import SPECIAL_TOKENS, SPECIALS, byte_letters, chunks
from llm_lab.tokenizers.options import TOKENIZERS

FILE = "tokenizer.json"
_CHUNK = 1 << 14  # characters encoded at a time; the parts of a long text keep all cores busy
_BYTES = {letter: bytes([value]) for value, letter in enumerate(byte_letters())}
_HEX = "llm_lab.hex"  # error handler of decoding: bytes that are no character are shown as <0xE4>
codecs.register_error(_HEX, lambda e: ("".join(f"<0x{b:02X}>" for b in e.object[e.start : e.end]), e.end))  # type: ignore[attr-defined]


class Tokenizer:
    """A `tokenizers.Tokenizer` whose first tokens are the specials, and which never makes them out of text."""

    def __init__(self, backend: tokenizers.Tokenizer, kind: str | None = None) -> None:
        for i, token in enumerate(SPECIAL_TOKENS):
            if backend.token_to_id(token) != i:
                raise BadValue(f"tokenizer: id {i} is not {token}; use one that lab.tokenizer(corpus, kind) made")
        self.backend = backend
        # "<eos>" in a text is five characters of it, not the end of the document
        backend.encode_special_tokens = True
        self._structure = _kind(json.loads(backend.to_str()))
        self.kind = kind or self._structure
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.specials = {name: i for i, name in enumerate(SPECIALS)}
        self.special_ids = frozenset(self.specials.values())

    @property
    def unit(self) -> str:
        """What one token is called where losses and lengths are counted."""
        return "char" if self.kind == "char" else "token"

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, {self.vocab_size:,} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self.to_json(), self.kind)

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
            parts.extend(self.parts(_utf8(text), _CHUNK))
            counts.append(len(parts) - before)
        encoded = iter(self.backend.encode_batch_fast(parts, add_special_tokens=False))
        return [[i for _ in range(count) for i in next(encoded).ids] for count in counts]

    def parts(self, text: str, size: int) -> Iterator[str]:
        """The text in parts of about `size` characters whose ids, joined, are the ids of the whole."""
        if self.kind == self._structure and self.kind in ("char", "byte"):
            return (text[i : i + size] for i in range(0, len(text) or 1, size))
        # where a kind of the user's own may be cut is not ours to know
        return chunks([text], size) if self.kind == self._structure != "custom" else iter([text])

    # ids to text

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Specials are left out; bytes that are no character show as `<0xE4>`."""
        stream = self.streamer()
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
        unknown = ids.count(self.specials["unk"])
        if self._words:
            spaces = "spaces and line breaks change"
            if unknown:
                return f"{unknown:,} unknown word{'s' * (unknown > 1)}; {spaces}"
            return spaces if _bare(back) == _bare(text) else f"{spaces}, control characters are dropped"
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
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write tokenizer.json (into `path`, where that is a folder); returns its path."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.parent.is_dir():
            raise BadValue(f"path: the folder {str(path.parent)!r} does not exist; make it first or choose another")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(self.to_json(), encoding="utf-8")
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json that `save` wrote (or the folder it is in)."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            return _from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadValue(f"path: there is no {str(path)!r}; name a tokenizer.json or the folder it is in") from None
        except BadValue:
            raise
        except Exception as error:  # the library raises a bare Exception for what is not a tokenizer
            raise BadValue(
                f"path: {str(path)!r} is not a tokenizer.json ({show(str(error))}); save it again"
            ) from error

    # what each token is

    @cached_property
    def _words(self) -> bool:
        """Whether tokens are words without their spaces."""
        return isinstance(self.backend.model, tokenizers.models.WordPiece)

    @cached_property
    def _texts(self) -> list[str]:
        """Each id's token as the vocabulary writes it."""
        return [self.backend.id_to_token(i) or "" for i in range(self.vocab_size)]

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        """Each id's bytes, where tokens are byte strings."""
        if not isinstance(self.backend.decoder, tokenizers.decoders.ByteLevel):
            return None
        return [
            b"" if i in self.special_ids else b"".join(_BYTES.get(c) or c.encode() for c in t)
            for i, t in enumerate(self._texts)
        ]

    def _check_id(self, i: int) -> None:
        if not 0 <= i < self.vocab_size:
            raise BadValue(f"ids: {i} is not a token; this {self.kind} tokenizer has 0 to {self.vocab_size - 1}")

    def _piece(self, i: int) -> Piece:
        self._check_id(i)
        special = i in self.special_ids
        text = self._texts[i] if special or self._bytes is None else self._bytes[i].decode("utf-8", _HEX)
        return Piece(text, i, special=special, unknown=i == self.specials["unk"])


class Streamer:
    """Text that grows token by token and never shows a part of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(_HEX)
        self._last = ""  # the last word's end, where words have lost their spaces

    def push(self, id: int) -> str:
        """The characters that this token completes."""
        tokenizer = self._tokenizer
        i = int(id)
        tokenizer._check_id(i)
        if i in tokenizer.special_ids:
            return ""
        if tokenizer._bytes is not None:
            return self._utf8.decode(tokenizer._bytes[i])
        text = tokenizer._texts[i]
        return self._spaced(text) if tokenizer._words else text

    def finish(self) -> str:
        """What is left: the bytes of a character that was never completed."""
        return self._utf8.decode(b"", final=True)

    def _spaced(self, token: str) -> str:
        """A word with a space before it where prose has one; `##` pieces go on without."""
        inside = len(token) > 2 and token.startswith("##")
        text = token[2:] if inside else token
        last, self._last = self._last, text[-1:]
        if inside or not last or _NO_SPACE_AFTER.match(last) or _NO_SPACE_BEFORE.match(text):
            return text
        return " " + text


_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_NO_SPACE_BEFORE = re.compile(rf"[.,;:!?)\]}}%'’”»…_/@—–{_CJK}-]")
_NO_SPACE_AFTER = re.compile(rf"[(\[{{'’“«$#_/@—–{_CJK}-]")


def train(source: Any, kind: str, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer of that kind whose vocabulary is learned from `source`: a corpus, or documents.

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
    documents = getattr(source, "documents", source)
    if not isinstance(documents, str | Iterable):
        raise BadType(
            f"corpus: {type(source).__name__} {show(source)} is not a text; it takes a corpus or a list of texts"
        )
    documents = [_utf8(text) for text in ([documents] if isinstance(documents, str) else documents)]
    if not any(text and not text.isspace() for text in documents):
        raise BadValue("corpus: it is empty; a vocabulary is learned from text")
    return Tokenizer(entry.load()(documents, vocab_size), kind)


def _from_json(text: str, kind: str | None = None) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), kind)


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

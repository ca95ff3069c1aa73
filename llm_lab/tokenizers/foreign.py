"""Tokenizers that others made: which of their tokens are the reserved ones, and how their tokens spell text."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from llm_lab.tokenizers.kinds import byte_letters

BESIDE = "tokenizer_config.json"
KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}  # by the name of the library's model
NAMES = ("pad", "bos", "eos", "unk", "cls", "sep", "mask")
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BYTES = {letter: bytes([value]) for value, letter in enumerate(byte_letters())}
# Decoders after which every token spells the same, wherever it stands, once ▁ is a space.
_PLAIN = frozenset({"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"})


def specials(backend: tokenizers.Tokenizer, folder: Path) -> dict[str, int]:
    """The reserved tokens by our names, as the files beside a tokenizer.json have them."""
    found: dict[str, int] = {}
    config, ids_there = _read(folder / "config.json"), set(backend.get_vocab().values())
    for name in NAMES:
        ids = [
            _token_id(backend, _read(folder / file).get(f"{name}_token"))
            for file in (BESIDE, "special_tokens_map.json")
        ]
        known = config.get(f"{name}_token_id")
        known = known[0] if isinstance(known, list) and known else known
        ids.append(known if isinstance(known, int) and known in ids_there else None)
        first = next((i for i in ids if i is not None), None)
        if name == "unk":  # the one that the model itself makes; GPT-2's files name one that it never makes
            first = _unknown(backend)
        if first is not None:
            found[name] = first
    ordered = sorted((int(m[1]), i) for token, i in backend.get_vocab().items() if (m := _SENTINEL.fullmatch(token)))
    return found | {f"extra_{n}": i for n, i in ordered}


def chat_template(folder: Path) -> str | None:
    """The template that the files beside a tokenizer.json bring; of several the one called default."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = _read(folder / BESIDE).get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def described(backend: tokenizers.Tokenizer, special: Mapping[str, int]) -> dict[str, Any]:
    """What tokenizer_config.json says beside a tokenizer.json, for us and for others."""
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return about | {f"{name}_token": backend.id_to_token(special[name]) for name in NAMES if name in special}


def spelling(state: Mapping[str, Any]) -> tuple[Callable[[str], bytes] | None, int]:
    """How a token spells text (None where that depends on where it stands), and how many spaces are left out at the
    very beginning."""
    decoder = state.get("decoder") or {}
    steps = decoder.get("decoders", [decoder]) if decoder else []
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level, 0
    if not kinds or not kinds <= _PLAIN or any(not _is_space(step) for step in steps if step["type"] == "Replace"):
        return None, 0
    at_start = sum(step.get("prepend_scheme", "always") != "never" for step in steps if step["type"] == "Metaspace")
    at_start += sum(step["start"] for step in steps if step["type"] == "Strip" and step["content"] == " ")
    letter = next((step["replacement"] for step in steps if step["type"] == "Metaspace"), "▁")
    spaced = bool({"Metaspace", "Replace"} & kinds)

    def spell(token: str) -> bytes:
        if "ByteFallback" in kinds and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return (token.replace(letter, " ") if spaced else token).encode()

    return spell, at_start


def seams(state: Mapping[str, Any]) -> bool:
    """Whether text may be cut before the space after a word, and its parts be encoded each for itself."""
    before, normal = state["pre_tokenizer"] or {}, (state["normalizer"] or {}).get("type")
    words = before.get("type") == "BertPreTokenizer" and normal in (None, "BertNormalizer")
    bytes_ = before.get("type") == "ByteLevel" and before["use_regex"] and not before["add_prefix_space"] and not normal
    return bool(words or bytes_) and all(token["special"] for token in state["added_tokens"])


def _byte_level(token: str) -> bytes:
    return b"".join(_BYTES.get(letter) or letter.encode() for letter in token)


def _is_space(step: Mapping[str, Any]) -> bool:
    return step["content"] == " " and step["pattern"] == {"String": "▁"}


def _unknown(backend: tokenizers.Tokenizer) -> int | None:
    model = json.loads(backend.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return _token_id(backend, model.get("unk_token"))


def _token_id(backend: tokenizers.Tokenizer, token: Any) -> int | None:
    token = token.get("content") if isinstance(token, Mapping) else token
    return backend.token_to_id(token) if isinstance(token, str) else None


def _read(path: Path) -> dict[str, Any]:
    """A JSON table, or an empty one where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

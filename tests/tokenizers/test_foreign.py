"""Tokenizers that others made: their ids, their text, their reserved tokens under our names; saved and loaded."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from llm_lab.corpora.corpus import Corpus
from llm_lab.data.arrays import tokenize
from llm_lab.errors import BadValue
from llm_lab.tokenizers.kinds import byte_letters
from llm_lab.tokenizers.tokenizer import Tokenizer, train

TEXT = ["The man saw a dog. He was happy, and didn't say so!\n", "Café naïve 自由 人人 🙂 to be or not to be\n"] * 20


def gpt2() -> tuple[Backend, dict[str, str]]:
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder, made.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    end = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=end, initial_alphabet=byte_letters(), show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made, dict.fromkeys(("bos_token", "eos_token", "unk_token"), end[0])


def llama() -> tuple[Backend, dict[str, str]]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁"]
    letters = sorted(set("".join(TEXT)) - set("自由人🙂 \n"))
    vocab = {piece: i for i, piece in enumerate([*pieces, *letters, "▁t", "he", "▁the", "▁a"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a")]
    made = Backend(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def t5() -> tuple[Backend, dict[str, str]]:
    made = Backend(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    known = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=known, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    made.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(20))])
    made.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return made, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def bert() -> tuple[Backend, dict[str, str]]:
    made = Backend(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=150, special_tokens=known, show_progress=False))
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made, {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def clip() -> tuple[Backend, dict[str, str]]:
    """Whose decoder must know where a token stands: `</w>` is a space, but not at the end."""
    made = Backend(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<end>"], end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made, {"eos_token": "<end>", "unk_token": "<unk>"}


MAKERS: dict[str, Callable[[], tuple[Backend, dict[str, str]]]] = {
    "gpt2": gpt2, "llama": llama, "t5": t5, "bert": bert, "clip": clip
}  # fmt: skip
WHOLE = ("gpt2", "llama", "t5")  # white space is kept
MADE: dict[str, Tokenizer] = {}
some = st.text(st.sampled_from("the manhpy ADéï自🙂.,!'\n")) | st.text(st.characters(codec="utf-8"))


def put(name: str, folder: Path) -> Path:
    backend, named = MAKERS[name]()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in MAKERS:
        MADE[name] = Tokenizer.foreign(put(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", MAKERS)
@given(text=some)
def test_ids_are_the_librarys(name: str, text: str) -> None:
    found, backend = MADE[name], MADE[name].backend
    ids = backend.encode(text, add_special_tokens=False).ids
    assert found.encode(text) == ids
    parts = [part for part, _ in found.parts([(text, True)], 1)]
    assert [i for part in parts for i in backend.encode(part, add_special_tokens=False).ids] == ids
    if name not in ("gpt2", "bert"):
        assert parts == [text]


@pytest.mark.parametrize("name", [*WHOLE, "clip"])
@given(text=some)
def test_text_is_the_librarys_and_grows_without_broken_characters(name: str, text: str) -> None:
    found = MADE[name]
    ids = found.encode(text)
    stream = found.streamer()
    parts = [*map(stream.push, ids), stream.finish()]
    assert found.decode(ids) == "".join(parts)
    if found.specials.get("unk") not in ids:  # which the library writes out, or leaves out as we do
        assert found.decode(ids) == found.backend.decode(ids)
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text


def test_bytes_of_a_character_are_held_back() -> None:
    found = MADE["llama"]
    ids = found.encode("a 自由")
    assert [piece.text for piece in found.pieces(ids)][-3:] == ["<0xE7>", "<0x94>", "<0xB1>"]
    stream = found.streamer()
    assert [stream.push(i) for i in ids] == ["a", " ", "", "", "自", "", "", "由"]
    assert found.decode(ids[:-1]) == "a 自<0xE7><0x94>"


def test_reserved_tokens_by_our_names() -> None:
    assert MADE["gpt2"].specials == {"bos": 0, "eos": 0} and MADE["gpt2"].special_ids == {0}
    assert MADE["llama"].specials == {"bos": 1, "eos": 2, "unk": 0}
    assert MADE["bert"].specials == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    t5 = MADE["t5"]
    last = t5.vocab_size - 1
    assert [t5.special(name) for name in ("pad", "eos", "unk", "extra_0", "extra_19")] == [0, 1, 2, last, last - 19]
    assert t5.sentinels == list(range(last, last - 20, -1))
    starts = {name: MADE[name].start for name in MAKERS}
    assert starts == {"gpt2": 0, "llama": 1, "t5": 0, "bert": 0, "clip": 0}
    assert {name: MADE[name].end for name in MAKERS} == {"gpt2": 0, "llama": 2, "t5": 1, "bert": 3, "clip": 1}
    with pytest.raises(BadValue, match=r"this bpe one has no <mask>.*it has bos, eos"):
        MADE["gpt2"].special("mask")
    assert [MADE[name].kind for name in MAKERS] == ["bpe", "bpe", "unigram", "wordpiece", "bpe"]


@pytest.mark.parametrize("name", MAKERS)
def test_text_makes_no_reserved_token(name: str) -> None:
    found = MADE[name]
    text = "".join(found.backend.id_to_token(i) for i in sorted(found.special_ids))
    assert set(found.encode(f"the {text} man")) & found.special_ids <= {found.specials.get("unk")}
    assert not set(found.text_ids) & found.special_ids
    assert len(found.text_ids) == found.vocab_size - len(found.special_ids)


def test_nothing_is_cut_off_or_filled_up() -> None:
    assert len(MADE["bert"].encode("the man saw a dog . " * 9)) == 54
    assert len(MADE["bert"].encode("the")) == 1


def test_what_is_lost_is_said() -> None:
    assert MADE["gpt2"].round_trip(TEXT[1]) == "exact"
    assert MADE["bert"].round_trip("the man") == "exact"
    assert MADE["bert"].round_trip("The  man") == "spaces and line breaks change, capitals are lost"
    assert MADE["bert"].round_trip("café") == "spaces and line breaks change, accents and capitals are lost"
    assert "unknown" in MADE["bert"].round_trip("龘")


@pytest.mark.parametrize("name", MAKERS)
def test_saved_it_comes_back_the_same(name: str, tmp_path: Path) -> None:
    found = MADE[name]
    found.save(tmp_path)
    for again in (
        Tokenizer.load(tmp_path),
        Tokenizer.load(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(found)),
    ):
        assert (again.specials, again.special_ids, again.kind) == (found.specials, found.special_ids, found.kind)
        assert again.encode(TEXT[0]) == found.encode(TEXT[0]) and again.fingerprint == found.fingerprint


def test_where_words_begin_and_sentences_end() -> None:
    for name in ("llama", "t5", "gpt2", "bert"):
        found = MADE[name]
        ids = found.encode("the dog.")
        texts = [piece.text.removeprefix("##") for piece in found.pieces(ids)]
        inside = found.inside_word(np.array(ids))
        spelled = "".join(
            ("" if i else "|") + text.strip() for i, text in zip(inside, texts, strict=True) if text.strip()
        )
        assert spelled == "|the|dog|.", name
        assert list(found.ends_sentence(np.array(ids)))[-1]


def test_only_the_models_own_unknown_is_one(tmp_path: Path) -> None:
    """GPT-2's files name `<|endoftext|>` as the unknown token, which it never makes."""
    assert "unk" not in MADE["gpt2"].specials
    assert not any(piece.unknown for piece in MADE["gpt2"].pieces([0]))
    assert MADE["t5"].pieces(MADE["t5"].encode("龘"))[-1].unknown


def test_ids_in_config_json_tell_where_names_do_not(tmp_path: Path) -> None:
    put("llama", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<s>"}, "pad_token": "[none]"})
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"sep_token": "</s>"}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [2, 1], "pad_token_id": 10**6}))
    assert Tokenizer.foreign(tmp_path).specials == {"bos": 1, "eos": 2, "unk": 0, "sep": 2}


def test_one_of_ours_stays_ours(tmp_path: Path) -> None:
    ours = train(TEXT, "bpe", 300)
    ours.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    again = Tokenizer.foreign(tmp_path)
    assert not again.is_foreign and again.fingerprint == ours.fingerprint and again.specials == ours.specials


def test_tokens_that_were_added_and_are_text(tmp_path: Path) -> None:
    put("gpt2", tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken("<think> é", special=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    found = Tokenizer.foreign(tmp_path)
    ids = found.encode("so <think> é and")
    assert found.vocab_size - 1 in ids and found.decode(ids) == "so <think> é and"
    assert found.vocab_size - 1 not in found.special_ids


def test_documents_end_as_the_tokenizer_has_it(tmp_path: Path) -> None:
    for name in ("bert", "t5"):
        tokens = tokenize(Corpus("two", "a test", ["the man", "a dog"]), MADE[name], tmp_path / name)
        assert [int(tokens.ids[end - 1]) for end in tokens.offsets[1:]] == [MADE[name].end] * 2

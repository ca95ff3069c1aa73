"""Every kind of tokenizer: exact where it says so, specials out of reach of text, no broken characters."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel

from llm_lab.corpora.corpus import Corpus
from llm_lab.errors import BadType, BadValue
from llm_lab.tokenizers import kinds
from llm_lab.tokenizers.compare import tokenization
from llm_lab.tokenizers.options import TOKENIZERS
from llm_lab.tokenizers.tokenizer import Tokenizer, train

ENGLISH = (
    "To be, or not to be: that is the question.\n"
    "Whether 'tis nobler in the mind to suffer\n\n\t<eos> 12345!\n\n\n     deep\n"
)
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。\n"
CORPUS = Corpus("mixed", "a test", [(ENGLISH + CHINESE + "naïve 🙂 👩‍👩‍👧 é é हिन्दी العربية\n") * 8])
KINDS = list(TOKENIZERS)
TOKENIZER = {kind: train(CORPUS, kind) for kind in KINDS}
anything = st.text(st.characters(codec="utf-8"))
on_alphabet = st.text(st.sampled_from(sorted(set(CORPUS.text))))
# texts likely to hold seams, specials and half characters
tricky = st.lists(
    st.sampled_from(
        [" ", "\n", "\r", "\t", "\u3000", "\xa0", "\u200b", "\x1c", "<eos>", "<pad", ">", "<extra_0>", "##", "'s"]
    )
    | st.text(st.characters(codec="utf-8"), max_size=3)
    | st.text(st.sampled_from("ab中🙂é"), max_size=4)
).map("".join)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZER[request.param]


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=anything | tricky)
def test_any_text_comes_back(kind: str, text: str) -> None:
    found = TOKENIZER[kind]
    assert found.decode(found.encode(text)) == text
    assert found.round_trip(text) == "exact"


@pytest.mark.parametrize("kind", ["char", "unigram"])
@given(text=on_alphabet)
def test_text_of_the_corpus_alphabet_comes_back(kind: str, text: str) -> None:
    found = TOKENIZER[kind]
    assert found.decode(found.encode(text)) == text
    assert found.specials["unk"] not in found.encode(text)


@given(text=anything | tricky)
def test_byte_and_char_ids_are_what_they_should_be(text: str) -> None:
    n = len(kinds.SPECIALS)
    assert TOKENIZER["byte"].encode(text) == [n + value for value in text.encode()]
    alphabet = {char: n + i for i, char in enumerate(sorted(set(CORPUS.text)))}
    assert TOKENIZER["char"].encode(text) == [alphabet.get(char, 3) for char in text]


@pytest.mark.parametrize("kind", KINDS)
@given(text=tricky | anything)
def test_text_never_makes_a_special(kind: str, text: str) -> None:
    found = TOKENIZER[kind]
    text = "<eos>" + text + "".join(kinds.SPECIAL_TOKENS)
    assert set(found.encode(text)) & found.special_ids <= {found.specials["unk"]}


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_corpus_of_specials_teaches_none(kind: str) -> None:
    found = train(["<eos><pad> <eos> <unk>\n<eos>x" * 200], kind)
    assert not set(found.encode("<eos><pad> <eos>\n<unk><eos>x <eos>")) & found.special_ids


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_stream_equals_decode_and_nothing_is_broken(kind: str, data: st.DataObject) -> None:
    found = TOKENIZER[kind]
    ids = data.draw(st.lists(st.integers(0, found.vocab_size - 1)))
    stream = found.streamer()
    shown = [stream.push(i) for i in ids]
    rest = stream.finish()
    assert "".join(shown) + rest == found.decode(ids)
    for text in (*shown, rest, *(piece.text for piece in found.pieces(ids))):
        assert "\ufffd" not in text
        text.encode()
    if found.spelled is not None:
        data_bytes = b"".join(found.spelled[i] for i in ids)
        try:
            assert found.decode(ids) == data_bytes.decode()
        except UnicodeDecodeError:
            assert "<0x" in found.decode(ids)


def test_parts_of_characters_show_their_bytes() -> None:
    found = TOKENIZER["byte"]
    ids = found.encode("a中")
    assert [piece.text for piece in found.pieces(ids)] == ["a", "<0xE4>", "<0xB8>", "<0xAD>"]
    assert found.decode(ids[:-1]) == "a<0xE4><0xB8>"
    assert found.decode([ids[1], *found.encode("b")]) == "<0xE4>b"
    stream = found.streamer()
    assert [stream.push(i) for i in ids] == ["a", "", "", "中"] and stream.finish() == ""
    assert found.decode(found.encode("\ufffd<0xE4>")) == "\ufffd<0xE4>"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(text=tricky, size=st.integers(1, 6))
def test_parts_have_the_ids_of_the_whole(kind: str, text: str, size: int) -> None:
    found = TOKENIZER[kind]
    parts = [part for part, _ in found.parts([(text, True)], size)]
    assert "".join(parts) == text
    whole = found.backend.encode(text, add_special_tokens=False).ids
    assert [i for part in parts for i in found.backend.encode(part, add_special_tokens=False).ids] == whole


def test_a_long_text_is_encoded_as_the_library_does(tokenizer: Tokenizer) -> None:
    text = CORPUS.text * 20
    assert len(list(tokenizer.parts([(text, True)], 1 << 14))) > 1
    assert tokenizer.encode(text) == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_batch(["", text, "be"]) == [[], tokenizer.encode(text), tokenizer.encode("be")]


def test_specials_are_the_same_in_every_kind(tokenizer: Tokenizer) -> None:
    names = ["pad", "bos", "eos", "unk", "cls", "sep", "mask"]
    assert [tokenizer.specials[name] for name in names] == list(range(7))
    assert tokenizer.specials["extra_15"] == 22 and tokenizer.special_ids == set(range(23))
    eos, *rest = tokenizer.pieces([2, *tokenizer.encode("be")])
    assert (eos.text, eos.special, eos.unknown) == ("<eos>", True, False) and not any(p.special for p in rest)
    assert tokenizer.pieces([3])[0].unknown
    assert tokenizer.decode([1, *tokenizer.encode("be"), 2, 0]) == "be"


def test_chinese(tokenizer: Tokenizer) -> None:
    text = "人人享有自由，平等。"
    assert tokenizer.decode(tokenizer.encode(text)) in (text, text.replace("享", ""))
    assert "".join(p.text for p in tokenizer.pieces(tokenizer.encode("自由")) if not p.text.startswith("<")) in (
        "自由",
        "",
    )
    assert train([CHINESE], tokenizer.kind).round_trip(CHINESE.strip()) == "exact"


def test_a_large_alphabet_is_kept_whole(tokenizer: Tokenizer) -> None:
    text = "".join(chr(0x4E00 + 3 * i) for i in range(3000))
    found = train([text], tokenizer.kind)
    assert found.round_trip(text) == "exact" and found.specials["unk"] not in found.encode(text)


def test_wordpiece_reads_as_prose() -> None:
    found = train([ENGLISH.replace("<eos>", "\"Oh,\" (yes) don't well-known it's a--b") * 3 + CHINESE], "wordpiece")
    for text in ("To be, or not to be: that is the question.", "don't (yes), well-known", "人人生而自由。To be"):
        assert found.decode(found.encode(text)) == text
    assert any(piece.text.startswith("##") for piece in found.pieces(found.encode("questionable notquest")))
    assert found.round_trip("be,\n  be") == "spaces and line breaks change"
    assert found.round_trip("龘 be") == "1 unknown word; spaces and line breaks change"
    assert "control characters" in found.round_trip("be\x01")


def test_losses_are_named() -> None:
    assert TOKENIZER["char"].round_trip("be 龘~\x07") == "3 unknown characters: U+0007, ~, 龘"
    assert TOKENIZER["unigram"].round_trip("龘be") == "1 unknown character: 龘"


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tokenizer.save(tmp_path)
    assert path.name == "tokenizer.json" and [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    text = CORPUS.text + "<eos> 龘 new"
    for other in (
        Tokenizer.load(path),
        Tokenizer.load(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
    ):
        assert (other.kind, other.fingerprint, other.vocab_size) == (
            tokenizer.kind,
            tokenizer.fingerprint,
            tokenizer.vocab_size,
        )
        assert other.encode(text) == tokenizer.encode(text)
    assert len({each.fingerprint for each in TOKENIZER.values()}) == len(KINDS)


def test_other_programs_can_read_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer.save(tmp_path)), eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    text = "To be, or not to be: 自由 naïve"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text), skip_special_tokens=True, clean_up_tokenization_spaces=False).replace(
        " ", ""
    ) == text.replace(" ", "")
    assert theirs.eos_token_id == tokenizer.specials["eos"] and len(theirs) == tokenizer.vocab_size


def test_the_same_text_teaches_the_same(tokenizer: Tokenizer) -> None:
    """In another process: hash tables there have another order."""
    code = (
        "import sys, pydoc_data.topics as t; from llm_lab.tokenizers.tokenizer import train; "
        "print(train([t.topics[k] for k in sorted(t.topics)][:20], sys.argv[1]).fingerprint)"
    )
    run = [sys.executable, "-c", code, tokenizer.kind]
    prints = {subprocess.run(run, check=True, capture_output=True, text=True).stdout for _ in range(3)}
    assert len(prints) == 1 and len(prints.pop().strip()) == 64


def test_sizes() -> None:
    assert TOKENIZER["char"].vocab_size == 23 + len(set(CORPUS.text)) and TOKENIZER["byte"].vocab_size == 279
    assert train(CORPUS, "bpe", 300).vocab_size == 300
    for kind, alphabet in (("bpe", 256), ("unigram", len(set(CORPUS.text)))):
        least = 23 + alphabet
        small = train(CORPUS, kind, least)
        assert small.vocab_size <= least and small.round_trip(CORPUS.text) == "exact"
        with pytest.raises(BadValue, match=f"vocab_size: {least - 1} is too small.*need {least}"):
            train(CORPUS, kind, least - 1)
    with pytest.raises(BadValue, match="too small"):
        train(CORPUS, "wordpiece", 64)
    text = ["a" * 5_000_000]
    assert [kinds._size(text * n, None, 256) for n in (0, 1, 4)] == [1024, 4096, 8192]
    assert kinds._size(["a"], None, 8000) > 8023


def test_what_cannot_be_trained() -> None:
    with pytest.raises(BadValue, match="did you mean 'bpe'"):
        train(CORPUS, "bpee")
    for kind in ("char", "byte"):
        with pytest.raises(BadValue, match=r"vocab_size: 500 cannot be chosen.*bpe, wordpiece, unigram"):
            train(CORPUS, kind, 500)
    with pytest.raises(BadValue, match="not a whole number"):
        train(CORPUS, "bpe", 3.5)  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="empty"):
        train([" \n"], "bpe")
    with pytest.raises(BadType, match="int 3 is not a text"):
        train(3, "bpe")
    with pytest.raises(BadType, match="not text"):
        train([3], "bpe")
    with pytest.raises(BadValue, match="lone surrogate"):
        train(["\ud800"], "char")
    with pytest.raises(BadValue, match="nothing to learn"):
        train(["\x01"], "wordpiece")


@given(texts=st.lists(anything, max_size=4), kind=st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_training_on_anything_works_or_is_refused_in_one_line(texts: list[str], kind: str) -> None:
    try:
        found = train(texts, kind)
    except BadValue as error:
        assert "\n" not in str(error)
        return
    for text in texts:
        found.decode(found.encode(text))
        if kind != "wordpiece":
            assert found.round_trip(text) == "exact"


def test_what_cannot_be_encoded_or_decoded(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadValue, match="character 1 is half a character"):
        tokenizer.encode("a\udc80")
    with pytest.raises(BadType, match="not text"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(BadValue, match="is not a token"):
            tokenizer.decode([wrong])
        with pytest.raises(BadValue, match="is not a token"):
            tokenizer.pieces([wrong])


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="there is no"):
        Tokenizer.load(tmp_path)
    path = tmp_path / "tokenizer.json"
    for text in ("", "{", "[]", "{}", json.dumps({"version": "1.0", "model": {"type": "Magic"}})):
        path.write_text(text)
        with pytest.raises(BadValue, match=r"not a tokenizer.json"):
            Tokenizer.load(path)
    Backend(models.BPE(vocab={"a": 0}, merges=[])).save(str(path))
    with pytest.raises(BadValue, match="id 0 is not <pad>"):
        Tokenizer.load(path)
    with pytest.raises(BadValue, match="does not exist"):
        TOKENIZER["char"].save(tmp_path / "no" / "t.json")


def test_a_kind_of_the_users_own_is_never_cut() -> None:
    mine = Tokenizer(kinds.bpe([ENGLISH]), "mine")
    assert list(mine.parts([("a b", False), (" c", True)], 1)) == [("a b c", True)] and mine.kind == "mine"


def test_byte_letters_are_the_librarys() -> None:
    letters = kinds.byte_letters()
    assert set(letters) == set(ByteLevel.alphabet()) and len(letters) == 256
    pre = ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(0x800))) + "中🙂"
    assert pre.pre_tokenize_str(text)[0][0] == "".join(letters[value] for value in text.encode())


def test_side_by_side() -> None:
    table = tokenization("be 龘", list(TOKENIZER.values()), "mixed")
    by_kind = {row.kind: row for row in table.rows}
    assert (by_kind["char"].n_tokens, by_kind["char"].n_unknown, by_kind["char"].chars_per_token) == (4, 1, 1.0)
    assert by_kind["byte"].n_tokens == 6 and by_kind["byte"].round_trip == "exact"
    assert by_kind["char"].pieces[3].unknown and table.trained_on == "mixed"
    assert list(table.to_pandas()["kind"]) == KINDS
    with pytest.raises(BadValue, match="empty"):
        tokenization("", [TOKENIZER["char"]], "mixed")
    with pytest.raises(BadValue, match="no tokenizer"):
        tokenization("a", [], "mixed")

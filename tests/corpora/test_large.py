"""Text that is read as it is used: the same corpus, tokens and report as of text that is held."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest

import llm_lab as lab
from llm_lab.corpora import corpus as corpora
from llm_lab.corpora import large, open
from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.large import FileTexts
from llm_lab.corpora.open import open_corpus
from llm_lab.data.arrays import tokenize
from llm_lab.errors import BadValue
from llm_lab.tokenizers import tokenizer as tokenizers
from llm_lab.tokenizers.tokenizer import train

WORDS = [
    "the",
    "green",
    "bottles",
    "中文",
    "été",
    "🌍",
    "\r\n",
    "\n",
    "\n\n",
    "\r",
    "\r\r\n",
    " ",
    "  ",
    "on",
    "a wall.",
]


def written(path: Path, seed: int, words: int = 3000, bom: bool = False) -> Path:
    rng = random.Random(seed)
    between = rng.choice(["", " "])  # without spaces, a piece may have to end inside a word
    data = between.join(rng.choices(WORDS if between else WORDS[:6] + ["\r"], k=words)).encode()
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + data)
    return path


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything from a kilobyte on is large, and is read in quarters of one."""
    monkeypatch.setattr(open, "LARGE", 1000)
    monkeypatch.setattr(large, "PIECE", 256)
    monkeypatch.setattr(large, "_NEAR", 64)


def both(spec: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Corpus, Corpus]:
    read = open_corpus(spec)
    assert isinstance(read.documents, FileTexts)
    with monkeypatch.context() as patched:
        patched.setattr(open, "LARGE", 1 << 40)
        held = open_corpus(spec)
    assert isinstance(held.documents, tuple)
    return read, held


@pytest.mark.parametrize("seed", range(12))
def test_a_file_that_is_read_is_as_one_that_is_held(tmp_path, pieces, monkeypatch, seed):
    path = written(tmp_path / "text.txt", seed, bom=seed % 3 == 0)
    read, held = both(str(path), monkeypatch)
    assert len(list(read.pieces())) > 10
    assert read.documents[0] == held.documents[0]
    assert (read.n_chars, read.n_bytes, read.fingerprint) == (held.n_chars, held.n_bytes, held.fingerprint)
    for share in (0.9, 0.5, 0.123, 0.777, random.Random(seed).random()):
        for one, other in zip(read.split(share), held.split(share), strict=True):
            assert one.text == other.text
            assert (one.n_chars, one.n_bytes, one.fingerprint) == (other.n_chars, other.n_bytes, other.fingerprint)


@pytest.mark.parametrize("line", ["x" * 255 + "\r\n", "中" * 85 + "\r\n", "x" * 255 + "\r", "é" * 300])
def test_nothing_is_cut_within_a_character_or_a_lines_end(tmp_path, pieces, monkeypatch, line):
    path = tmp_path / "text.txt"
    path.write_bytes((line * 9).encode())
    read, held = both(str(path), monkeypatch)
    assert read.text == held.text
    assert read.fingerprint == held.fingerprint


@pytest.mark.parametrize("share", [0.9, 0.33])
def test_several_files_are_documents(tmp_path, pieces, monkeypatch, share):
    for i, words in enumerate((900, 3, 400, 1200)):
        written(tmp_path / f"{i}.txt", 2 * i, words)
    (tmp_path / "blank.txt").write_text(" \n")
    read, held = both(str(tmp_path / "*.txt"), monkeypatch)
    assert list(read.documents) == list(held.documents)
    assert read.documents[1:3] == list(held.documents[1:3])
    assert read.source == held.source
    assert "(1 empty left out)" in read.source
    for one, other in zip(read.split(share), held.split(share), strict=True):
        assert list(one.documents) == list(other.documents)
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("kind", ["char", "byte", "bpe", "unigram", "wordpiece"])
def test_the_same_tokens(tmp_path, pieces, monkeypatch, kind):
    for i in range(3):
        written(tmp_path / f"{i}.txt", i)
    read, held = both(str(tmp_path / "*.txt"), monkeypatch)
    one, other = train(read, kind), train(held, kind)
    assert one.to_json() == other.to_json()
    found = tokenize(read, one, tmp_path / "read")
    expected = tokenize(held, one, tmp_path / "held")
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)
    assert (found.n_chars, found.n_bytes) == (expected.n_chars, expected.n_bytes)


def test_a_long_text_teaches_a_vocabulary_by_pieces_all_over_it(tmp_path, pieces, monkeypatch):
    monkeypatch.setattr(tokenizers, "LEARNED", 3000)
    monkeypatch.setattr(tokenizers, "TRAIN_CHUNK", 200)
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{'early ' * 100 if i < 10 else 'later ' * 100}\n" for i in range(20)) + "жук дом\n")
    read = open_corpus(str(path))
    learned = train(read, "bpe", 300)
    assert len(learned.encode("early")) < 3
    assert len(learned.encode(" later")) < 3
    assert sum(map(len, tokenizers._drawn(read))) < 6000
    for kind in ("char", "wordpiece", "unigram"):  # all characters, also those of parts that are not learned from
        made = train(read, kind)
        assert made.specials["unk"] not in made.encode("жук дом"), kind


def test_of_a_long_text_of_pairs_both_sides_are_learned(monkeypatch):
    monkeypatch.setattr(tokenizers, "LEARNED", 4000)
    pairs = Corpus("pairs", "a test", ["question " * 3] * 300, targets=["answers " * 3] * 300)
    learned = train(pairs, "bpe", 320)
    assert len(learned.encode("question")) < 4
    assert len(learned.encode("answers")) < 4


def test_the_same_report(tmp_path, pieces, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"verse {i % 40}: green bottles\nhanging on the wall" for i in range(300)))
    read, held = both(str(path), monkeypatch)
    assert vars(read.report()) == vars(held.report())
    assert read.report().n_duplicates == 260


@pytest.mark.parametrize("text", ["one line\n" * 400, "a\n \n\t\n" * 300, "a\r\n\r\nb\n\n\n" * 200, " \n\nab" * 300])
def test_paragraphs_are_those_of_the_whole(tmp_path, pieces, monkeypatch, text):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    read, held = both(str(path), monkeypatch)
    assert len(list(read.pieces())) > 4
    assert read.report().n_duplicates == held.report().n_duplicates
    parts = [part.strip() for part in re.split(r"\n\s*\n", held.text) if part.strip()]
    assert held.report().n_duplicates == len(parts) - len(set(parts))


def test_bytes_that_are_no_text_are_named(tmp_path, pieces):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"plain text\n" * 200 + "été".encode("latin-1") + b"\n" + b"more of it\n" * 200)
    with pytest.raises(BadValue, match=r"not UTF-8 \(byte 0xE9 at offset 2,200\); it looks like latin-1"):
        open_corpus(str(path))


def test_a_file_that_changes_is_not_mixed_with_what_it_was(tmp_path, pieces, monkeypatch):
    path = written(tmp_path / "text.txt", 1)
    monkeypatch.chdir(tmp_path)
    read = open_corpus("text.txt")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir("folder")
    assert read.text == open_corpus("../text.txt").text  # the folder has changed, and not the file
    path.write_text(path.read_text() + "more")
    with pytest.raises(BadValue, match="has changed since it was opened"):
        read.split()
    path.unlink()
    with pytest.raises(BadValue, match="cannot be read"):
        read.fingerprint  # noqa: B018


def test_of_a_long_text_two_million_characters_are_held_out(monkeypatch):
    monkeypatch.setattr(corpora, "HELD_OUT", 50)
    held = Corpus("long", "a test", ["0123456789" * 100]).split()[1]
    assert held.n_chars == 50
    assert Corpus("short", "a test", ["0123456789" * 10]).split()[1].n_chars == 10
    assert Corpus("long", "a test", ["0123456789" * 100]).split(0.5)[1].n_chars == 500


def test_training_on_one(tmp_path, pieces, monkeypatch):
    path = written(tmp_path / "text.txt", 4)
    options = dict(steps=3, n_layer=1, d_model=32, n_head=2, max_seq_len=16, batch_size=4, display=False)
    lm = lab.pretrain(str(path), name="read", **options)
    again = lab.pretrain(str(path), name="read", **options)
    assert again.report.status == "restored"
    monkeypatch.setattr(open, "LARGE", 1 << 40)
    held = lab.pretrain(str(path), name="held", **options)
    assert lm.report.final == held.report.final
    monkeypatch.setattr(open, "LARGE", 1000)
    read = lab.corpus(str(path))
    with pytest.raises(BadValue, match="too large to be copied"):
        lab.pretrain(read, name="away", background=True, **options)


def test_a_folder_is_still_no_text(tmp_path, pieces):
    with pytest.raises(BadValue, match="is a folder"):
        open_corpus(str(tmp_path))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path, pieces):
    path = written(tmp_path / "text.txt", 1)
    path.chmod(0)
    with pytest.raises(BadValue, match="cannot be read"):
        open_corpus(str(path))

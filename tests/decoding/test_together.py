"""Several prompts in one call against each alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab.decoding import together, writing
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import PATTERNS, ModelConfig
from llm_lab.results import Generation, Generations
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as tokenizer
from tests.small import TEXT, train

PROMPTS = ["1 green", "17 green bottles", "7", "9 bottles stood upon", "of them", "", "7 of"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lm"))
        yield train(steps=30)


def untrained(**options):
    letters = tokenizer([TEXT], "char")
    sizes = dict(n_layer=2, n_head=2, d_model=16, max_seq_len=48, zero_init=False)
    torch.manual_seed(0)
    return LM("small", Decoder(ModelConfig(vocab_size=letters.vocab_size, **{**sizes, **options})).eval(), letters)


def batches(monkeypatch):
    """How many prompts each job had, as they come."""
    found = []

    def counted(how, asked):
        found.append(len(asked))
        return writing.prepare(how, asked)

    monkeypatch.setattr(together, "prepare", counted)
    return found


def same(lm, prompts=PROMPTS, seed=5, **options):
    """All at once, and each is what it is alone."""
    found = lab.generate(lm, prompts, seed=seed, **options)
    assert isinstance(found, Generations)
    for i, (prompt, one) in enumerate(zip(prompts, found, strict=True)):
        alone = lab.generate(lm, prompt, seed=seed + i, **options)
        assert (one.prompt, one.seed, one.done, one.notes) == (prompt, seed + i, True, alone.notes)
        assert one.texts == alone.texts
        assert one.tokens == alone.tokens
        for own, other in zip(one.logprob, alone.logprob, strict=True):
            assert own == pytest.approx(other, abs=1e-5, nan_ok=True)
        for own, other in zip(one.chosen_prob, alone.chosen_prob, strict=True):
            assert own == pytest.approx(other, abs=1e-4, nan_ok=True)
    return found


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "alibi", "t5", "none"])
@pytest.mark.parametrize("kind", ["full", "one key head", "experts"])
def test_prompts_are_continued_as_each_alone(monkeypatch, position, kind):
    own = {"one key head": {"n_kv_head": 1}, "experts": {"n_expert": 3, "n_active": 2}}.get(kind, {})
    jobs = batches(monkeypatch)
    same(untrained(position=position, **own), strategy="greedy", max_new_tokens=20)
    assert jobs == [len(PROMPTS)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("position", ["learned", "t5"])
def test_patterns(monkeypatch, pattern, position):
    """Those that go by distances share a batch; those that know first positions do where prompts are of one length."""
    jobs = batches(monkeypatch)
    sizes = dict(window=4, stride=3, n_global=2, n_random=1, sparse_block=4)
    small = untrained(attention=pattern, position=position, **sizes)
    same(small, strategy="greedy", max_new_tokens=20)
    assert jobs == ([2, 1, 2, 1, 1] if pattern in ("longformer", "bigbird") else [len(PROMPTS)])


def test_past_the_context_those_of_one_length_go_together(monkeypatch):
    jobs = batches(monkeypatch)
    small = untrained(max_seq_len=24)
    prompts = [*PROMPTS, "8 green", "green bottles " * 4, "bottles green " * 4]
    found = same(small, prompts, strategy="greedy", max_new_tokens=14)
    assert sorted(jobs) == [1, 1, 2, 6]
    assert any("the last 12 are read again" in note for note in found[1].notes)
    assert "the model reads the last 12" in found[-1].notes[0]
    assert len(found[-1].tokens[0]) == 14


@pytest.mark.parametrize("shape", ["permutation", "lstm", "conv", "ngram"])
def test_models_without_a_cache(monkeypatch, shape):
    jobs = batches(monkeypatch)
    objective = {"permutation": "plm"}.get(shape, "clm")
    sizes = dict(max_seq_len=32, threads=1) | ({} if shape == "ngram" else dict(d_model=16, n_layer=2, steps=4))
    sizes |= {"n_head": 2} if shape == "permutation" else {}
    small = lab.pretrain([TEXT], name="other", display=False, shape=shape, objective=objective, **sizes)
    same(small, strategy="greedy", max_new_tokens=8)
    assert max(jobs) == (len(PROMPTS) if shape == "permutation" else 2)


class Mine(nn.Module):
    def __init__(self, vocab_size, block_size):
        super().__init__()
        self.table, self.out = nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size)

    def forward(self, ids):
        return self.out(self.table(ids).cumsum(dim=1))


def test_a_module_of_the_users_own(monkeypatch):
    jobs = batches(monkeypatch)
    same(train("mine", model=Mine, steps=3), strategy="greedy", max_new_tokens=8)
    assert max(jobs) == 2


@pytest.mark.parametrize("objective", ["seq2seq", "prefix_lm"])
def test_sources_are_read_one_by_one(objective):
    pairs = lab.corpus("stories", part="english-french", size=20_000)
    shape = {"shape": "encoder_decoder"} if objective == "seq2seq" else {}
    small = train("t", pairs if objective == "seq2seq" else [TEXT], objective=objective, max_seq_len=128, **shape)
    found = same(small, ["the cat", "a dog sat"], max_new_tokens=9, n=2)
    assert found[0].continuations == found[0].texts


@pytest.mark.parametrize("strategy", [name for name, entry in STRATEGIES.items() if not entry.supports & FILLS])
def test_every_strategy_draws_for_each_prompt_as_for_it_alone(lm, strategy):
    second = {"speculative": {"draft": lm}, "contrastive": {"amateur": lm}}.get(strategy, {})
    same(lm, strategy=strategy, max_new_tokens=9, n=3, **second)


def test_filters_stops_and_constraints(lm):
    same(lm, max_new_tokens=14, strategy="greedy", repetition_penalty=1.4, no_repeat_ngram_size=2, bad_words=["s u"])
    same(lm, max_new_tokens=30, strategy="greedy", stop=["o", "le"])
    found = same(lm, max_new_tokens=12, regex="[0-9]{2,4} (bottles|men)", n=2)
    assert all(text.split()[1] in ("bottles", "men") for one in found for text in one.continuations)
    same(lm, max_new_tokens=20, must=["wall", "fell"])


def test_an_end_of_the_text_ends_a_row(monkeypatch):
    jobs = batches(monkeypatch)
    ends = train("ends", ["the cat sat on the mat."] * 200, steps=120, max_seq_len=256)
    found = same(ends, ["the cat", "the", "on the m"], strategy="greedy", max_new_tokens=60)
    assert all(text.endswith(".") for (text,) in found.texts)
    assert jobs == [3]


def test_masks_are_filled_in():
    reader = train("reader", shape="encoder", objective="mlm", steps=20)
    same(reader, ["3 gr<mask>en", "b<mask>ttl<mask>s"])
    same(reader, ["3 gr<mask>en", "b<mask>ttl<mask>s"], strategy="gibbs", n=2)


def test_many_prompts_are_cut_into_batches_that_fit(lm, monkeypatch):
    jobs = batches(monkeypatch)
    found = lab.generate(lm, [f"{i} green" for i in range(150)], max_new_tokens=3, n=2, strategy="greedy")
    assert len(found) == 150
    assert [one.prompt for one in found] == found.prompts
    assert max(jobs) * 2 <= together.ROWS
    jobs.clear()
    monkeypatch.setattr(together, "fitting", lambda *_: 3)
    lab.generate(lm, [f"{i} green" for i in range(1, 9)], max_new_tokens=3, strategy="greedy")
    assert jobs == [3, 3, 2]
    monkeypatch.undo()
    with pytest.raises(lab.LabError, match="texts of 3 tokens need about"):
        lab.generate(lm, ["a", "b"], max_new_tokens=3, n=2_000_000_000)


def test_what_is_got(lm):
    found = lab.generate(lm, ("1 green", "7"), max_new_tokens=6, n=2, seed=1)
    assert len(found) == 2
    assert found.texts == [found[0].texts, found[1].texts]
    assert found[-1] is found[1]
    frame = found.to_pandas()
    assert frame["prompt"].tolist() == ["1 green"] * 2 + ["7"] * 2
    assert (frame["prompt"] + frame["text"]).tolist() == [text for texts in found.texts for text in texts]
    assert frame["logprob"][3] == pytest.approx(sum(found[1].logprob[1]) / 6)
    assert found.code == "lab.generate(tiny, ['1 green', '7'], max_new_tokens=6, n=2, seed=1)"
    assert "2 prompts" in str(found)
    assert isinstance(lab.generate(lm, ["1"], max_new_tokens=2), Generations)
    assert isinstance(lab.generate(lm, "1", max_new_tokens=2), Generation)
    assert len(found[1].statistics[1].rank) == 6
    with pytest.raises(lab.LabError, match="prompt: 7 was not written after; there is: 0 to 1"):
        _ = found[7]
    with pytest.raises(lab.LabError, match="prompt: the list is empty"):
        lab.generate(lm, [])
    with pytest.raises(lab.LabError, match="prompt: 3 is int"):
        lab.generate(lm, ["a", 3])


def test_an_interrupt_keeps_what_was_written(lm, monkeypatch):
    seen = []

    def interrupted(*args):
        seen.append(1)
        for rows in decode(*args):
            yield rows
            if len(seen) == 2 and rows.written == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(writing, "decode", interrupted)
    monkeypatch.setattr(together, "ROWS", 2)
    found = lab.generate(lm, PROMPTS, max_new_tokens=9, seed=0)
    assert len(found) == 4 and found.done
    assert sorted(len(one.tokens[0]) for one in found) == [4, 4, 9, 9]
    assert found.notes == ["interrupted: 4 of 7 prompts were reached"]
    assert sum(one.interrupted for one in found) == 2


def test_grown_states_are_whole_results(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    states = [(len(one), one.done, str(one)) for one in together.stream_all(lm, PROMPTS, max_new_tokens=4, seed=0)]
    assert [done for _, done, _ in states][-1] and not any(done for _, done, _ in states[:-1])
    assert len(states) > 4


def test_an_interrupt_while_a_source_is_read_keeps_what_is_whole(monkeypatch):
    pairs = lab.corpus("stories", part="english-french", size=20_000)
    small = train("t", pairs, objective="seq2seq", shape="encoder_decoder", max_seq_len=128)
    read = together.read

    def interrupted(how, prompt, number):
        if number == 2:
            raise KeyboardInterrupt
        return read(how, prompt, number)

    monkeypatch.setattr(together, "read", interrupted)
    found = lab.generate(small, ["the cat", "a dog sat", "the sun", "a"], max_new_tokens=5)
    assert len(found) == 2 and found.done and found.interrupted
    assert found.notes == ["interrupted: 2 of 4 prompts were reached"]
    assert all(one.done and not one.interrupted for one in found)
    rows = [{"x": text} for text in ("the cat", "a dog sat", "the sun")]
    asked = lab.prompt(["{{x}}", "{{x}}!"], on=rows, model=small, max_new_tokens=5)
    assert len(asked.answers) == 2
    assert "interrupted: 2 of 6 were asked, and are kept" in asked.notes


def test_an_interrupt_while_a_batch_is_made_ready_keeps_what_is_whole(lm, monkeypatch):
    prepare, seen = together.prepare, []

    def interrupted(how, asked):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return prepare(how, asked)

    monkeypatch.setattr(together, "prepare", interrupted)
    monkeypatch.setattr(together, "ROWS", 2)
    found = lab.generate(lm, PROMPTS, max_new_tokens=4, seed=0)
    assert len(found) == 2 and all(one.done and len(one.tokens[0]) == 4 for one in found)
    assert found.notes == ["interrupted: 2 of 7 prompts were reached"]


def test_each_of_them_can_be_regrown(lm):
    found = lab.generate(lm, PROMPTS[:2], max_new_tokens=6, seed=0, n=2)
    one = found[1].regrow(2, "w", sample=1, seed=3)
    assert one is found[1] and len(one.texts) == 3 and one.texts[2].startswith(PROMPTS[1])
    alone = lab.generate(lm, PROMPTS[1], max_new_tokens=6, seed=1, n=2).regrow(2, "w", sample=1, seed=3)
    assert one.texts == alone.texts
    gone = train("gone", steps=2)
    found = lab.generate(gone, ["1", "2"], max_new_tokens=4)
    reference = weakref.ref(gone)
    del gone
    gc.collect()
    assert reference() is None
    with pytest.raises(lab.LabError, match="is gone"):
        found[0].regrow(0, "w")

"""Strategies against transformers' filters and plain counting; the loop against full forward passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_lab as lab
from llm_lab.decoding import samplers
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import STRATEGIES, Greedy, Temperature, TopK, TopP
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from tests.small import CHINESE, train


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=23, n_layer=2, n_head=2, d_model=16, max_seq_len=16, zero_init=False)).eval()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 3), st.integers(1, 30), st.floats(0.05, 1))
def test_filters_are_those_of_transformers(seed, temperature, k, p):
    from transformers.generation import logits_process as theirs

    logits = torch.randn(3, 23, generator=torch.Generator().manual_seed(seed)) * 3
    warm = theirs.TemperatureLogitsWarper(temperature)(None, logits)
    pairs = [
        (samplers.TemperatureSampler(Temperature(temperature)), warm),
        (samplers.TopKSampler(TopK(temperature, k)), theirs.TopKLogitsWarper(k)(None, warm)),
        (samplers.TopPSampler(TopP(temperature, p)), theirs.TopPLogitsWarper(p)(None, warm)),
    ]
    for ours, reference in pairs:
        torch.testing.assert_close(ours.filter(logits).softmax(-1), reference.softmax(-1), atol=1e-6, rtol=1e-5)


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(50_000, -1)
    step = samplers.TopPSampler(TopP(1.0, 0.95)).step(logits, torch.Generator().manual_seed(0))
    want = samplers.TopPSampler(TopP(1.0, 0.95)).filter(logits[:1]).softmax(-1)[0]
    seen = torch.bincount(step.tokens, minlength=4)
    assert seen[3] == 0
    chi2 = ((seen[:3] - 50_000 * want[:3]) ** 2 / (50_000 * want[:3])).sum()
    assert chi2 < 13.8  # 2 degrees of freedom: one in a thousand
    torch.testing.assert_close(step.chosen_prob, want[step.tokens])


def greedy(model, prompt, n, **more):
    return list(decode(model, prompt, samplers.Greedy(Greedy()), n, torch.Generator(), **more))


def test_greedy_with_cache_equals_full_forward_passes(model):
    ids = torch.tensor([[1, 5, 9], [2, 2, 7]])
    written = greedy(model, ids, 10)
    for step in written:
        logits = model(ids).logits[:, -1]
        assert torch.equal(step.tokens, logits.argmax(-1))
        want = logits.log_softmax(-1).gather(1, step.tokens[:, None])[:, 0]
        torch.testing.assert_close(step.logprob, want, atol=1e-5, rtol=1e-5)
        ids = torch.cat([ids, step.tokens[:, None]], dim=1)


def test_past_the_context_the_last_half_is_read_again(model):
    ids = torch.tensor([[3] * 14])
    kept = 14
    for step in greedy(model, ids, 30):
        if kept > 16:
            kept = 8
        want = model(ids[:, -kept:]).logits[:, -1].argmax(-1)
        assert torch.equal(step.tokens, want)
        ids = torch.cat([ids, step.tokens[:, None]], dim=1)
        kept += 1


def test_banned_tokens_are_never_written_and_stops_end_a_row(model):
    banned = set(range(3, 23))
    for step in greedy(model, torch.tensor([[1]]), 20, banned=banned):
        assert int(step.tokens) not in banned
    first = greedy(model, torch.tensor([[1, 5, 9]]), 1)[0].tokens
    assert len(greedy(model, torch.tensor([[1, 5, 9]]), 20, stop={int(first)})) == 1


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    for _ in decode(model, torch.tensor([[1]]), samplers.Greedy(Greedy()), 5, torch.Generator()):
        break
    assert model.training
    model.eval()


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lm"))
        yield train(steps=30)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_writes_and_repeats_with_its_seed(lm, strategy):
    first, second = (lab.generate(lm, "1 green", strategy=strategy, seed=4, max_new_tokens=40, n=3) for _ in range(2))
    assert first.texts == second.texts
    assert len(first.texts) == 3
    assert all(text.startswith("1 green") for text in first.texts)
    assert all(len(sample) == 40 for sample in first.tokens)
    assert first.done


def test_the_reported_log_probabilities_are_those_of_one_forward_pass(lm):
    found = lab.generate(lm, "1 green", seed=0, max_new_tokens=20, temperature=0.7)
    ids = lm.tokenizer.encode("1 green") + found.tokens[0]
    logits = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
    start = len(ids) - 20
    want = [float(logits[start + i - 1, token]) for i, token in enumerate(found.tokens[0])]
    assert found.logprob[0] == pytest.approx(want, abs=1e-4)


def test_a_seed_is_drawn_and_repeats_the_text(lm):
    found = lab.generate(lm, "1", max_new_tokens=30)
    assert lab.generate(lm, "1", max_new_tokens=30, seed=found.seed).text == found.text


def test_prompts_that_are_long_strange_or_empty(lm):
    long = lab.generate(lm, "green bottles " * 20, max_new_tokens=40, seed=0)
    assert "the model reads the last 16" in long.notes[0]
    assert len(long.tokens[0]) == 40
    strange = lab.generate(lm, "Ω green", max_new_tokens=3, seed=0)
    assert "does not know all of the prompt" in strange.notes[0]
    assert strange.text.startswith("Ω green")
    assert "no prompt" in lab.generate(lm, "", max_new_tokens=3).notes[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(strategy="topp"), "did you mean 'top_p'"),
        (dict(p=1.5), "p: 1.5 is out of range"),
        (dict(strategy="greedy", p=0.5), "p is an option of top_p"),
        (dict(max_new_tokens=0), "at least 1"),
        (dict(temprature=1), "did you mean 'temperature'"),
    ],
)
def test_bad_options(lm, options, says):
    with pytest.raises(lab.LabError, match=says):
        lab.generate(lm, "x", **options)


def test_an_unknown_model_is_named():
    with pytest.raises(lab.LabError, match="no model or run is called 'brad'"):
        lab.generate("brad", "x")


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_chinese_trains_and_generates(kind):
    found = lab.generate(train("hanzi", [CHINESE], tokenizer=kind, steps=60), "床前", seed=0, max_new_tokens=60)
    assert found.text.startswith("床前")
    assert "\ufffd" not in found.text
    assert not any("\ufffd" in piece.text for piece in found.pieces[0])
    assert set(found.text) & set("明月光，疑是地上霜")


def test_documents_that_end_end_the_text():
    documents = ["the cat sat on the mat."] * 200
    found = lab.generate(train("ends", documents, steps=120), "the cat", max_new_tokens=200, strategy="greedy")
    assert len(found.tokens[0]) < 100
    assert found.text.endswith(".")


def test_an_interrupt_keeps_what_was_written(lm, monkeypatch):
    from llm_lab.decoding import writing

    def interrupted(*args):
        for count, token in enumerate(decode(*args)):
            if count == 7:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(writing, "decode", interrupted)
    found = lab.generate(lm, "1 green", max_new_tokens=50, seed=0)
    assert len(found.tokens[0]) == 7
    assert found.done
    assert "interrupted after 7 tokens" in found.notes[-1]

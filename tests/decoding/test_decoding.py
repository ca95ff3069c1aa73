"""The loop against full forward passes, and what users see of it."""

from __future__ import annotations

import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.conditioned import Conditioned
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.step import Step
from llm_lab.errors import BadValue
from llm_lab.models.decoder import Decoder
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.models.options import ModelConfig
from tests.small import CHINESE, train


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=23, n_layer=2, n_head=2, d_model=16, max_seq_len=16, zero_init=False)).eval()


def greedy(model, prompt, n, ended=None, **more):
    """The rows after each step."""
    rows = Rows(model, prompt, n, **more)
    return decode(rows, choose({"strategy": "greedy"}).strategy(), torch.Generator(), ended)


def finished(model, prompt, n, **more):
    *_, rows = greedy(model, prompt, n, **more)
    return rows


@torch.no_grad()
def test_greedy_with_cache_equals_full_forward_passes(model):
    rows = finished(model, torch.tensor([[1, 5, 9], [2, 2, 7]]), 10)
    logits = model(rows.ids).logits[:, 2:-1]
    assert torch.equal(rows.ids[:, 3:], logits.argmax(-1))
    want = logits.log_softmax(-1).gather(2, rows.ids[:, 3:, None])[..., 0]
    torch.testing.assert_close(rows.logprob, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_past_the_context_the_last_half_is_read_again(model):
    ids = finished(model, torch.tensor([[3] * 14]), 30).ids
    kept = 14
    for t in range(14, 44):
        if kept > 16:
            kept = 8
        assert int(ids[0, t]) == int(model(ids[:, t - kept : t]).logits[:, -1].argmax(-1))
        kept += 1


def test_banned_tokens_are_never_written_and_stops_end_a_row(model):
    banned = set(range(3, 23))
    assert not banned & set(finished(model, torch.tensor([[1]]), 20, banned=banned).ids[0].tolist())
    prompt = torch.tensor([[1, 5, 9]])
    first = int(finished(model, prompt, 1).ids[0, 3])
    rows = finished(model, prompt, 20, stop={first})
    assert rows.written == 1
    assert rows.text(0).ids == []


def test_a_row_that_ends_waits_for_the_others(model):
    prompt = torch.tensor([[1, 5, 9], [2, 2, 7]])
    alone = finished(model, prompt, 12)
    stop = int(alone.ids[0, 8])
    rows = finished(model, prompt, 12, stop={stop})
    for row in range(2):
        text = alone.ids[row, 3:].tolist()
        assert rows.text(row).ids == (text[: text.index(stop)] if stop in text else text)
    cut = finished(model, prompt, 12, ended=lambda ids: len(ids) == 5)
    assert [len(cut.text(row).ids) for row in range(2)] == [5, 5]


@torch.no_grad()
@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "alibi", "t5"])
@pytest.mark.parametrize("pattern", [{}, {"attention": "window", "window": 5}, {"n_kv_head": 1}])
@pytest.mark.parametrize("length", [16, 64])
def test_prompts_of_different_lengths_go_together(position, pattern, length):
    """Filled up on the left to one length, past the context too, they are continued as each alone."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=23, n_layer=2, n_head=2, d_model=16, max_seq_len=length, zero_init=False)
    model = Decoder(ModelConfig(**sizes, position=position, **pattern)).eval()
    prompts = [[1, 5, 9, 3, 3, 8], [2, 7], [4, 4, 4, 1]]
    ids = torch.tensor([[0] * (6 - len(prompt)) + prompt for prompt in prompts])
    keep = torch.tensor([[False] * (6 - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    new = 10 if length == 16 else 20
    together = finished(model, ids, new, keep=keep)
    for row, prompt in enumerate(prompts):
        alone = finished(model, torch.tensor([prompt]), new)
        assert together.text(row).ids == alone.text(0).ids
        assert together.text(row).logprob == pytest.approx(alone.text(0).logprob, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("position", ["rotary", "learned", "alibi", "t5"])
@pytest.mark.parametrize("kind", ["full", "window", "dilated", "strided", "longformer", "bigbird", "gqa", "two stacks"])
def test_cached_logits_are_those_of_one_pass(position, kind):
    torch.manual_seed(0)
    sizes = dict(vocab_size=23, n_layer=2, n_head=2, d_model=16, max_seq_len=40, zero_init=False, position=position)
    if kind == "two stacks":
        pair = EncoderDecoder(ModelConfig(**sizes, shape="encoder_decoder")).eval()
        source = torch.tensor([[3, 4, 5, 6]])
        model, whole = Conditioned(pair, source), lambda ids: pair(source.expand(len(ids), -1), decoder_ids=ids).logits
    else:
        own = {"full": {}, "gqa": {"n_kv_head": 1}}.get(kind, {"attention": kind})
        model = Decoder(ModelConfig(**sizes, **own)).eval()
        whole = lambda ids: model(ids).logits  # noqa: E731
    rows = Rows(model, torch.tensor([[1, 2, 9], [4, 4, 4]]), 30)
    read = [rows.logits()]
    for n in (1, 1, 4, 2, 7, 1):
        guesses = torch.randint(23, (2, n))
        rows.read(n + 2, torch.cat([guesses[:, :-1], torch.zeros(2, 2, dtype=torch.long)], dim=1))
        rows.append(Step(torch.tensor([1, 0]), guesses[[1, 0]], torch.ones(2, n)))  # two guesses fewer than were read
        read.append(rows.logits())
        torch.testing.assert_close(read[-1], whole(rows.ids)[:, -1], atol=1e-5, rtol=1e-5)


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    for _ in greedy(model, torch.tensor([[1]]), 5):
        pass
    assert model.training
    model.eval()


@torch.no_grad()
def test_a_text_ends_by_a_token_only_where_the_token_came_first(model):
    """What a row is given past its end, while others go on, is no part of it."""
    rows = Rows(model, torch.tensor([[1], [2], [3]]), 6, stop=[7])
    for step, tokens in enumerate(([4, 7, 4], [7, 4, 4], [4, 7, 4])):
        rows.logits()
        rows.append(Step.one(torch.tensor(tokens), torch.ones(3)))
        assert not rows.over()
        if step == 0:
            rows.end(0, 1)
    first, second, third = (rows.text(row) for row in range(3))
    assert (first.ids, first.end) == ([4], None)
    assert second.ids == []
    assert second.end == pytest.approx(float(rows.logprob[1, 0]))
    assert (third.ids, third.end) == ([4, 4, 4], None)
    rows.logits()
    rows.append(Step(torch.tensor([1, 0, 2]), torch.tensor([[4], [4], [7]]), torch.ones(3, 1)))
    assert [rows.text(row).end is None for row in range(3)] == [False, True, False]
    assert rows.over()


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lm"))
        yield train(steps=30)


@pytest.mark.parametrize("strategy", [name for name, entry in STRATEGIES.items() if not entry.supports & FILLS])
def test_every_strategy_writes_and_repeats_with_its_seed(lm, strategy):
    second_model = {"speculative": {"draft": lm}, "contrastive": {"amateur": lm}}.get(strategy, {})
    options = dict(strategy=strategy, seed=4, max_new_tokens=40, n=3, **second_model)
    first, second = (lab.generate(lm, "1 green", **options) for _ in range(2))
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
        for rows in decode(*args):
            yield rows
            if rows.written == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr(writing, "decode", interrupted)
    found = lab.generate(lm, "1 green", max_new_tokens=50, seed=0)
    assert len(found.tokens[0]) == 7
    assert found.done
    assert "interrupted after 7 tokens" in found.notes[-1]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"strategy": "beam"}, {"strategy": "speculative"}])
def test_statistics_are_those_of_the_distributions_that_were_read(lm, options):
    """Past the context too, where the same windows are read again."""
    more = {"draft": lm} if options else {}
    more = more if options.get("strategy") == "speculative" else {}
    found = lab.generate(lm, "1 green", max_new_tokens=60, seed=0, n=2, **options, **more)
    for sample, stats in enumerate(found.statistics):
        assert stats.top.shape == stats.top_logprob.shape == (60, 10)
        for t, (token, logprob) in enumerate(zip(found.tokens[sample], found.logprob[sample], strict=True)):
            better = [x for x in stats.top_logprob[t] if x > logprob + 1e-5]
            assert stats.rank[t] == len(better) + 1 or stats.rank[t] > 10
            if stats.rank[t] <= 10:
                at = stats.top[t].tolist().index(token)
                assert float(stats.top_logprob[t][at]) == pytest.approx(logprob, abs=1e-4)
    ids = lm.tokenizer.encode("1 green") + found.tokens[0][:5]
    logs = lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert float(found.statistics[0].entropy[5]) == pytest.approx(float(-(logs.exp() * logs).sum()), abs=1e-5)


def test_a_result_does_not_keep_its_model(lm):
    import gc

    other = train("gone", steps=2)
    found, kept = lab.generate(other, "1", max_new_tokens=4), lab.generate(other, "1", max_new_tokens=4)
    assert len(kept.statistics[0].rank) == 4
    del other
    gc.collect()
    assert found.statistics == []
    assert len(kept.statistics[0].rank) == 4


def test_one_stack_that_reads_a_source_ends_at_the_context():
    """Past it the source would leave its sight, and another text be read both ways in its place."""
    lm = train("prefixed", objective="prefix_lm", steps=5)
    found = lab.generate(lm, "1 green bottle", max_new_tokens=60, seed=0)
    start = len(lm.tokenizer.encode("1 green bottle")) + 1
    assert len(found.tokens[0]) == 32 - start
    assert any("ends at the context of 32" in note for note in found.notes)
    with pytest.raises(BadValue, match="leave no room to write"):
        lab.generate(lm, ("1 green bottles stood upon the wall" * 2)[:31] + "1")


def test_a_line_break_can_end_a_text(lm):
    import re

    other = train("lines", ["one two\nthree four\n" * 200], steps=30)
    whole = lab.generate(other, "one", max_new_tokens=40, seed=0)
    for stop in ("\n", ["\n"], "\\n"):
        found = lab.generate(other, "one", max_new_tokens=40, seed=0, stop=stop)
        assert found.text == re.match(r"[^\n]*\n?", whole.text)[0]


def test_a_model_of_middles_writes_what_stands_for_the_mask():
    lm = train(
        "middles",
        ["abcdefgh ijklmnop " * 300],
        objective="fim",
        fim_rate=0.9,
        steps=300,
        d_model=64,
        batch_size=16,
        seed=0,
    )
    found = lab.generate(lm, "abc<mask>gh ijklmnop abcde", strategy="greedy", max_new_tokens=12)
    sign = [lm.tokenizer.special(f"extra_{i}") for i in range(3)]
    want = [sign[0], *lm.tokenizer.encode("abc"), sign[1], *lm.tokenizer.encode("gh ijklmnop abcde"), sign[2]]
    assert [piece.id for piece in found.prompt_pieces] == want
    assert found.text.startswith("def")  # what comes between, not what comes after
    ids = torch.tensor([want + found.tokens[0]])
    logs = lm.model(ids).logits[0, len(want) - 1 : -1].log_softmax(-1)
    assert found.logprob[0] == pytest.approx(logs.gather(1, ids[0, len(want) :, None])[:, 0].tolist(), abs=1e-4)
    with pytest.raises(BadValue, match="more than one <mask>"):
        lab.generate(lm, "a<mask>b<mask>")

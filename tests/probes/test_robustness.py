"""Character noise and swapped tokens: the noise itself, and the costs against plain runs and against every swap."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.options import NOISES
from llm_lab.probes.robustness import ASKED, BESIDE, guesses, noised, passage_of
from llm_lab.results import ratio_interval
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as tokenizer_of
from tests.small import TEXT, train

LETTERS = tokenizer_of(["abcdef "], "char")


@functools.cache
def trained(kind: str = "decoder") -> lab.LM:
    more = {
        "encoder": dict(shape="encoder", objective="mlm"),
        "permutation": dict(shape="permutation", objective="plm"),
        "encoder_decoder": dict(shape="encoder_decoder", objective="span_corruption"),
        "bpe": dict(tokenizer="bpe"),
    }
    return train("r", steps=60, **more.get(kind, {}))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_rate_is_that_of_the_characters(noise, rate):
    text = TEXT[:400]
    rng = np.random.default_rng(0)
    changed, places, hits = noised(text, noise, rate, rng)
    assert hits in (math.floor(rate * 400), math.ceil(rate * 400))
    assert len(places) == 401 and places[0] == 0 and places[-1] == len(changed) and (np.diff(places) >= 0).all()
    if noise in ("swap", "keyboard"):
        assert len(changed) == 400 and (places == np.arange(401)).all()
        differ = [i for i in range(400) if text[i] != changed[i]]
        assert len(differ) == hits * (2 if noise == "swap" else 1)
        if noise == "swap":
            assert sorted(text) == sorted(changed)
            assert all(changed[i] == text[i + 1] and changed[i + 1] == text[i] for i in differ[::2])
        else:
            assert all(changed[i].lower() in BESIDE[text[i].lower()] for i in differ)
            assert all(changed[i].isupper() == text[i].isupper() for i in differ if changed[i].isalpha())
    else:
        assert len(changed) == 400 + (hits if noise == "insert" else -hits)
        longer, shorter = (changed, text) if noise == "insert" else (text, changed)
        rest = iter(longer)
        assert all(char in rest for char in shorter)  # a subsequence
        kept = [i for i in range(400) if changed[int(places[i]) : int(places[i + 1])].endswith(text[i])]
        assert len(kept) == 400 - (hits if noise == "delete" else 0)


def test_a_rate_of_short_texts_is_right_on_average():
    rng = np.random.default_rng(1)
    hits = [noised("green bott", "delete", 0.03, rng)[2] for _ in range(2000)]
    assert set(hits) == {0, 1}
    assert np.mean(hits) / 10 == pytest.approx(0.03, abs=0.004)  # five standard errors


def test_keys_beside_each_other():
    assert set(BESIDE["s"]) == set("adwezx")
    assert all(a in BESIDE[b] for a, others in BESIDE.items() for b in others)
    assert noised("床前明月", "keyboard", 1.0, np.random.default_rng(0))[2] == 0
    assert noised("aaaa", "swap", 1.0, np.random.default_rng(0))[0] == "aaaa"


@pytest.mark.parametrize("kind", ["decoder", "permutation", "bpe"])
def test_costs_are_those_of_a_plain_run(kind):
    lm = trained(kind)
    passages = [passage_of(text, lm.tokenizer, 32) for text in (TEXT[:16], TEXT[20:29], TEXT[40:52])]
    for passage, found in zip(passages, guesses(lm, passages), strict=True):
        ids = torch.tensor([lm.tokenizer.encode(passage.text)])
        assert passage.ids == ids[0].tolist()
        with torch.no_grad():
            logits = lm.model(ids).logits[0, :-1]
        assert found.nats == pytest.approx(float(F.cross_entropy(logits, ids[0, 1:], reduction="sum")), rel=1e-4)
        first = lm.tokenizer.decode(ids[0, :1].tolist())
        assert found.n_bytes == len(passage.text.encode()) - len(first.encode())
        logits[:, list(lm.tokenizer.special_ids - {lm.tokenizer.end})] = -torch.inf
        assert list(found.likeliest.values()) == logits.argmax(-1).tolist()
        ends = np.cumsum([len(piece.text) for piece in lm.tokenizer.pieces(passage.ids)])
        assert list(found.likeliest) == ends[:-1].tolist()


def test_costs_of_what_is_hidden():
    lm = trained("encoder")
    passages = [passage_of(text, lm.tokenizer, 32) for text in (TEXT[:20], TEXT[20:29])]
    for passage, found in zip(passages, guesses(lm, passages), strict=True):
        ids = torch.tensor([passage.ids])
        places = list(range(ASKED // 2, len(passage.ids), ASKED))
        hidden = ids.clone()
        hidden[0, places] = lm.tokenizer.special("mask")
        with torch.no_grad():
            logits = lm.model(**lm.batch(hidden).inputs()).logits[0, places]
        assert found.nats == pytest.approx(float(F.cross_entropy(logits, ids[0, places], reduction="sum")), rel=1e-4)
        assert list(found.likeliest) == places and found.n_bytes == len(places)


def test_intervals_of_a_ratio():
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 20, 300)
    sums = counts * 2.0 + rng.normal(0, 3, 300)
    value, half = ratio_interval(sums.tolist(), counts.tolist())
    assert value == pytest.approx(sums.sum() / counts.sum())
    picks = rng.integers(0, 300, (2000, 300))
    spread = (sums[picks].sum(1) / counts[picks].sum(1)).std()
    assert half == pytest.approx(1.96 * spread, rel=0.1)  # the bootstrap's
    assert ratio_interval([1.0], [2.0]) == (0.5, None) and math.isnan(ratio_interval([], [])[0])


@pytest.mark.parametrize("kind", ["decoder", "encoder", "permutation", "bpe"])
def test_noise_costs_and_a_text_like_itself_does_not(kind):
    shown = lab.probe(
        trained(kind), TEXT[:150], kind="robustness", rates="0.0001,0.3", noise="delete,keyboard", draws=2
    )
    none, much = shown.points[0], shown.points[1]
    assert none.changed == 0 and none.agreement == 1 and none.bits_per_byte == pytest.approx(shown.clean[0])
    assert much.changed == pytest.approx(0.3, abs=0.05)
    if kind in ("decoder", "bpe"):  # which have learned enough to lose it
        assert much.agreement < 0.99 and much.bits_per_byte > shown.clean[0] + 0.3
    assert shown.numpy().shape == (2, 2) and shown.done
    table = shown.to_pandas()
    assert list(table["noise"]) == ["none", "delete", "delete", "keyboard", "keyboard"]
    assert (
        lab.probe(
            trained(kind), TEXT[:150], kind="robustness", rates="0.0001,0.3", noise="delete,keyboard", draws=2
        ).points
        == shown.points
    )


def test_agreement_is_counted_at_the_same_places():
    lm = trained()
    text = TEXT[:16]
    shown = lab.probe(lm, text, kind="robustness", noise="keyboard", rates="0.25", draws=1, seed=5)
    (point,) = shown.points
    other, _, hits = noised(text, "keyboard", 0.25, np.random.default_rng([5, 0, 0]))
    rows = torch.tensor([lm.tokenizer.encode(text), lm.tokenizer.encode(other)])
    with torch.no_grad():
        logits = lm.model(rows).logits[:, :-1]
    logits[..., list(lm.tokenizer.special_ids - {lm.tokenizer.end})] = -torch.inf
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).float().mean()
    assert hits == 4 and point.agreement == pytest.approx(float(same)) and point.compared == 15
    assert point.interval is None and point.agreement_interval is None
    with torch.no_grad():
        nats = F.cross_entropy(lm.model(rows[1:]).logits[0, :-1], rows[1, 1:])
    assert point.bits_per_byte == pytest.approx(float(nats) / math.log(2), rel=1e-4)


@pytest.mark.parametrize("shape", ["decoder", "encoder", "permutation"])
def test_the_worst_swap_is_the_worst_of_all(shape):
    torch.manual_seed(0)
    config = ModelConfig(
        shape=shape, vocab_size=LETTERS.vocab_size, n_layer=1, n_head=2, d_model=16, max_seq_len=20, zero_init=False
    )
    objective = {"decoder": "clm", "encoder": "mlm", "permutation": "plm"}[shape]
    lm = LM("m", SHAPES.load(shape)(config).eval(), LETTERS, info={"objective": objective})
    text = "abcdefabc"
    ids = LETTERS.encode(text)
    places = list(range(ASKED // 2, len(ids), ASKED)) if shape == "encoder" else list(range(1, len(ids)))

    def cost(row) -> float:
        row = torch.tensor([row])
        if shape == "encoder":
            row[0, places] = LETTERS.special("mask")
        with torch.no_grad():
            logits = lm.model(**lm.batch(row).inputs()).logits[0]
        logits = logits[places] if shape == "encoder" else logits[:-1]
        return float(F.cross_entropy(logits, torch.tensor(ids)[places], reduction="sum")) / math.log(2) / len(places)

    rises = {
        (t, token): cost([*ids[:t], token, *ids[t + 1 :]]) - cost(ids)
        for t, token in itertools.product(range(len(ids)), LETTERS.text_ids.tolist())
        if token != ids[t] and not (shape == "encoder" and t in places)
    }
    shown = lab.probe(lm, text, kind="robustness", noise="swap", rates="0.1", draws=1, candidates=10_000)
    (t, token), rise = max(rises.items(), key=lambda one: one[1])
    (swap,) = shown.swaps
    assert (swap.token.id, swap.by.id) == (ids[t], token) and swap.rise == pytest.approx(rise, rel=1e-3)
    assert shown.worst[0] == pytest.approx(rise, rel=1e-3)
    few = lab.probe(lm, text, kind="robustness", noise="swap", rates="0.1", draws=1, candidates=8)
    assert few.worst[0] > few.random[0]  # of eight that the gradient names
    assert min(rises.values()) < few.random[0] < rise


def test_it_reads_corpora_and_grows():
    lm = trained()
    shown = lab.probe(lm, kind="robustness", max_tokens=160, noise="swap", rates="0.1", draws=1)
    assert "10 passages" in shown.facts[0] and shown.points[0].interval > 0
    own = lab.probe(lm, kind="robustness", corpus=[TEXT[:100]], noise="swap", rates="0.1", draws=1)
    assert "7 passages, 100 characters" in own.facts[0]
    from llm_lab.probing import probe

    states = [len(one.points) for one in probe([lm], [TEXT[:60]], "robustness", {"noise": "swap,delete", "draws": 1})]
    assert states == [*range(9), 8]


def test_a_text_of_unknown_tokens_has_none_to_swap():
    shown = lab.probe(trained(), "床前明月光", kind="robustness", noise="delete", rates="0.2", draws=1)
    assert shown.worst is None and not shown.swaps and shown.done and "床" not in str(shown)
    shown._repr_mimebundle_()


def test_nothing_is_left_behind():
    lm = trained()
    lm.model.train()
    try:
        lab.probe(lm, TEXT[:40], kind="robustness", noise="swap", rates="0.1", draws=1)
        assert lm.model.training and all(module.training for module in lm.model.modules())
        assert all(p.grad is None for p in lm.model.parameters()) and not lm.model.embed._forward_hooks
    finally:
        lm.model.eval()


@pytest.mark.parametrize(
    ("kind", "text", "options", "says"),
    [
        ("encoder_decoder", "abc", {}, r"^probe robustness: r predicts no tokens of the text"),
        ("decoder", "1", {}, r"^text: it has fewer than 2 tokens"),
        ("decoder", "1 gr", {"noise": "typo"}, r"^noise: 'typo' is unknown"),
        ("decoder", "1 gr", {"rates": "2"}, r"^rates: .*out of range"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kind, text, options, says):
    with pytest.raises(lab.LabError, match=says):
        lab.probe(trained(kind), text, kind="robustness", **options)

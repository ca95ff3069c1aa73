"""The n-gram model: by hand, against nltk, against counting in dictionaries, and through a file."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated
from safetensors.torch import load_file, save_file

from llm_lab.baselines.ngram import FALLBACK, NGram, estimated
from llm_lab.errors import BadValue
from llm_lab.models.options import SHAPES, ModelConfig

texts = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def model(order: int, ids=None, vocab_size: int = 5, **fit) -> NGram:
    made = NGram(ModelConfig(shape="ngram", vocab_size=vocab_size, order=order, max_seq_len=64))
    if ids is not None:
        made.fit(np.array(ids, np.uint16), **fit)
    return made.eval()


def probabilities(made: NGram, ids) -> np.ndarray:
    """(T, V) after each token."""
    return made(torch.tensor([ids])).logits[0].exp().double().numpy()


def test_bigrams_by_hand():
    # The text "a b a c a b" over the vocabulary a b c d e; too few counts of counts, so D is 0.5, 1 and 1.5.
    made = model(2, [0, 1, 0, 2, 0, 1])
    # Before a stand b and c, before b and c only a: continuation counts 2, 1, 1, of 4.
    share = (1.0 + 0.5 + 0.5) / 4
    unigram = np.array([(2 - 1) / 4, (1 - 0.5) / 4, (1 - 0.5) / 4, 0, 0]) + share / 5
    np.testing.assert_allclose(unigram.sum(), 1)
    after_a = np.array([0, (2 - 1) / 3, (1 - 0.5) / 3, 0, 0]) + (1.0 + 0.5) / 3 * unigram
    after_b = np.array([(1 - 0.5) / 1, 0, 0, 0, 0]) + 0.5 * unigram
    np.testing.assert_allclose(probabilities(made, [0, 1, 3]), [after_a, after_b, unigram], rtol=1e-6)


def test_discounts_by_hand():
    # n1, n2, n3, n4 = 4, 2, 1, 1: Y = 4 / (4 + 2·2) = 1/2
    assert estimated(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])) == (1 - 2 * 2 / 4 / 2, 2 - 3 * 1 / 2 / 2, 3 - 4 * 1 / 1 / 2)
    assert estimated(np.array([1, 1, 2, 3, 5])) == FALLBACK  # nothing occurs four times
    assert estimated(np.array([1, 2, 3, 3, 3, 4])) == FALLBACK  # D2 would be 2 − 3/3·3
    assert estimated(np.array([], np.int64)) == FALLBACK


def by_dictionaries(ids: list[int], order: int, vocab: int, context: tuple[int, ...]) -> np.ndarray:
    """p(· | context), by the formula, one dictionary an order."""
    top = min(order, len(ids))
    p = np.full(vocab, 1 / vocab)
    for k in range(1, top + 1):
        raw = Counter(tuple(ids[i : i + k]) for i in range(len(ids) - k + 1))
        if k < top:
            longer = {tuple(ids[i : i + k + 1]) for i in range(len(ids) - k)}
            raw = Counter(gram[1:] for gram in longer)
        discounts = estimated(np.array([*raw.values()]))
        following: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for gram, count in raw.items():
            following[gram[:-1]][gram[-1]] = count
        h = context[len(context) - k + 1 :] if k > 1 else ()
        if len(h) < k - 1 or h not in following:
            continue
        total = sum(following[h].values())
        taken = {w: min(discounts[min(c, 3) - 1], c) for w, c in following[h].items()}
        p = sum(taken.values()) / total * p
        for w, c in following[h].items():
            p[w] += (c - taken[w]) / total
    return p


@given(texts, st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=8))
@settings(deadline=None, max_examples=60)
def test_equals_counting_in_dictionaries(ids, order, context):
    found = probabilities(model(order, ids), context)
    wanted = [by_dictionaries(ids, order, 5, tuple(context[: t + 1])) for t in range(len(context))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@given(texts, st.integers(1, 8), st.lists(st.integers(0, 4), min_size=1, max_size=20))
@settings(deadline=None, max_examples=60)
def test_probabilities_sum_to_one_and_none_is_zero(ids, order, context):
    found = probabilities(model(order, ids), context)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    assert found.min() > 0


@pytest.mark.parametrize("order", [2, 3, 4])
def test_equals_nltk_where_the_formulas_meet(order):
    """nltk has one discount at all orders but the lowest, which it neither discounts nor mixes with the uniform."""
    rng = np.random.default_rng(0)
    ids = (rng.integers(0, 3, 120) + rng.integers(0, 3, 120)).tolist()
    ids = ids + ids  # so that what begins the text stands after something too: nltk's shares do not sum to 1 otherwise
    reference = KneserNeyInterpolated(order, discount=0.4)
    grams = [[tuple(map(str, ids[i : i + k])) for k in range(1, order + 1) for i in range(len(ids) - k + 1)]]
    reference.fit(grams, vocabulary_text=[str(i) for i in range(5)])
    made = model(order, ids, discounts=[(0.0, 0.0, 0.0), *[(0.4, 0.4, 0.4)] * (order - 1)])
    for start in range(0, 40, 5):
        context = ids[start : start + order - 1]
        found = probabilities(made, context)[-1]
        wanted = [reference.score(str(w), tuple(map(str, context))) for w in range(5)]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_before_counting_all_are_equal_and_a_model_shows_itself():
    made = model(3)
    np.testing.assert_allclose(probabilities(made, [0, 4, 2]), 1 / 5, rtol=1e-6)
    assert [part.name for part in made.parts(4)] == ["1-grams", "2-grams", "3-grams"]
    assert "nothing counted yet" in str(made.report())
    made.fit(np.array([0, 1, 0, 2]))
    assert "2 after 3 contexts, discounts" in str(made.report())
    assert "discounts 0.50, 1.00, 1.50" in str(made.report())
    assert made.supports == SHAPES["ngram"].supports


def test_last_position_alone_is_the_same():
    rng = np.random.default_rng(1)
    made = model(4, rng.integers(0, 5, 500))
    ids = torch.from_numpy(rng.integers(0, 5, (3, 30)))
    for length in (1, 2, 3, 30):
        whole = made(ids[:, :length]).logits
        torch.testing.assert_close(made(ids[:, :length], last=True).logits, whole[:, -1:])
        assert whole.dtype == torch.float32


def test_no_later_token_matters():
    rng = np.random.default_rng(2)
    made = model(5, rng.integers(0, 5, 500))
    ids = torch.from_numpy(rng.integers(0, 5, (2, 20)))
    other = ids.clone()
    other[:, 12:] = torch.from_numpy(rng.integers(0, 5, (2, 8)))
    torch.testing.assert_close(made(ids).logits[:, :12], made(other).logits[:, :12])


@pytest.mark.parametrize("ids", [[], [3], [3, 3], [0, 1, 2] * 40], ids=["none", "one", "two", "many"])
def test_through_a_file(tmp_path, ids):
    made = model(4, ids)
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    with torch.device("meta"):
        bare = model(4)
    bare.resize({name: tuple(tensor.shape) for name, tensor in stored.items()})
    assert {n: t.shape for n, t in bare.state_dict().items()} == {n: t.shape for n, t in stored.items()}
    again = model(4)
    again.resize({name: tuple(tensor.shape) for name, tensor in stored.items()})
    again.load_state_dict(stored)
    probe = torch.tensor([[0, 1, 2, 0, 3, 3, 3, 1]])
    assert torch.equal(again(probe).logits, made(probe).logits)
    assert again.levels[0].tokens.dtype == torch.int32


@pytest.mark.parametrize(("name", "value"), [("levels.1.tokens", 5), ("levels.1.start", 99), ("levels.2.tokens", -1)])
def test_tables_that_contradict_each_other_are_refused(name, value):
    state = model(3, [0, 1, 2] * 10).state_dict()
    state[name] = state[name].clone()
    state[name][-1] = value
    again = model(3)
    again.resize({key: tuple(tensor.shape) for key, tensor in state.items()})
    with pytest.raises(BadValue, match="contradict"):
        again.load_state_dict(state)


def test_fitting_again_forgets():
    made = model(3, [0, 1, 2] * 20)
    made.fit(np.array([4, 3] * 20))
    torch.testing.assert_close(
        made(torch.tensor([[4, 3]])).logits, model(3, [4, 3] * 20)(torch.tensor([[4, 3]])).logits
    )


def test_refusals():
    with pytest.raises(BadValue, match="ids: 0 to 7 are not all tokens; the model has 5"):
        model(2, [0, 7])
    with pytest.raises(BadValue, match="65 tokens do not fit the context of 64"):
        model(2)(torch.zeros(1, 65, dtype=torch.long))


def test_learns_more_than_frequencies():
    rng = np.random.default_rng(3)
    ids = np.zeros(4000, np.int64)
    for i in range(2, len(ids)):  # a token is the sum of the two before it, nine times in ten
        ids[i] = (ids[i - 1] + ids[i - 2] + 1) % 5 if rng.random() < 0.9 else rng.integers(0, 5)
    losses = []
    for order in (1, 2, 3):
        logits = model(order, ids[:3000])(torch.from_numpy(ids[3000:].reshape(-1, 50))).logits
        targets = torch.from_numpy(ids[3001:].copy())
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1)[:-1], targets).item())
    assert losses[0] == pytest.approx(math.log(5), abs=0.02)
    assert losses[2] < 0.8 < 1.5 < losses[1]

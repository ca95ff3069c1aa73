"""Every filter and combination against transformers' processors, or against the paper's formula written out; draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_lab.decoding import filters
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.filters import Past
from llm_lab.decoding.options import FILTERS, STRATEGIES
from llm_lab.decoding.spelling import Spelling
from llm_lab.decoding.strategy import drawn

V = 23
WORDS = [chr(97 + i) for i in range(V)]  # each token is a letter


def some(seed, rows=3, length=9):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, V, generator=draw) * 3, torch.randint(V, (rows, length), generator=draw)


def past(ids, begin=4, stop=()):
    return Past(ids, begin, stop=stop, spelling=Spelling([word.encode() for word in WORDS]))


def theirs(name, value, ids, begin=4, stop=(5,)):
    from transformers.generation import logits_process as hf

    made = {
        "temperature": lambda: hf.TemperatureLogitsWarper(value),
        "top_k": lambda: hf.TopKLogitsWarper(value),
        "top_p": lambda: hf.TopPLogitsWarper(value),
        "min_p": lambda: hf.MinPLogitsWarper(value),
        "typical_p": lambda: hf.TypicalLogitsWarper(value),
        "epsilon_cutoff": lambda: hf.EpsilonLogitsWarper(value),
        "eta_cutoff": lambda: hf.EtaLogitsWarper(value),
        "repetition_penalty": lambda: hf.RepetitionPenaltyLogitsProcessor(value),
        "no_repeat_ngram_size": lambda: hf.NoRepeatNGramLogitsProcessor(value),
        "min_new_tokens": lambda: hf.MinNewTokensLengthLogitsProcessor(begin, value, list(stop)),
        "bad_words": lambda: hf.NoBadWordsLogitsProcessor([[WORDS.index(c) for c in word] for word in value]),
    }
    return lambda logits: made[name]()(ids, logits)


VALUES = {
    "temperature": st.floats(0.2, 3),
    "top_k": st.integers(1, 30),
    "top_p": st.floats(0.05, 0.999),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0.05, 0.999),
    "epsilon_cutoff": st.floats(1e-4, 0.3),
    "eta_cutoff": st.floats(1e-4, 0.3),
    "repetition_penalty": st.floats(0.5, 3),
    "no_repeat_ngram_size": st.integers(1, 5),
    "min_new_tokens": st.integers(1, 9),
    "bad_words": st.lists(st.text(WORDS[:6], min_size=1, max_size=3), min_size=1, max_size=3).map(tuple),
}


def close(ours, reference):
    torch.testing.assert_close(ours.softmax(-1), reference.softmax(-1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", VALUES)
def test_each_filter_is_transformers(name):
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), VALUES[name])
    def check(seed, value):
        logits, ids = some(seed)
        if name == "bad_words":  # transformers looks at tokens of the prompt too, and cannot ban a text across both
            ids = torch.cat([torch.full((3, 4), V - 1), ids % 6], dim=1)
            value = tuple(value)
        close(getattr(filters, name)(logits, value, past(ids, stop=(5,))), theirs(name, value, ids)(logits.clone()))

    check()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.fixed_dictionaries({}, optional={k: v for k, v in VALUES.items() if k != "bad_words"}))
def test_combinations_are_applied_in_the_order_of_transformers(seed, values):
    logits, ids = some(seed)
    order = ["repetition_penalty", "no_repeat_ngram_size", "min_new_tokens", "temperature", "top_k", "top_p", "min_p"]
    order += ["typical_p", "epsilon_cutoff", "eta_cutoff"]
    reference = logits.clone()
    for name in order:
        if name in values:
            reference = theirs(name, values[name], ids)(reference)
    ours = choose({"strategy": "temperature", **values}).strategy().filtered(logits, past(ids, stop=(5,)))
    close(ours, reference)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3))
def test_top_n_sigma_keeps_what_is_near_the_largest_logit(seed, n):
    logits, ids = some(seed)
    logits[0, 3] = -math.inf  # a token that is forbidden counts for nothing
    ours = filters.top_n_sigma(logits, n, past(ids))
    for row, found in zip(logits.tolist(), ours.tolist(), strict=True):
        there = [x for x in row if x > -math.inf]
        mean = sum(there) / len(there)
        sigma = math.sqrt(sum((x - mean) ** 2 for x in there) / len(there))
        assert [x > -math.inf for x in found] == [x >= max(row) - n * sigma - 1e-9 for x in row]


def test_penalties_count_what_was_written_and_not_the_prompt():
    logits = torch.zeros(1, V)
    found = past(torch.tensor([[1, 1, 2, 2, 3, 3, 4]]))
    frequency, presence = filters.frequency_penalty(logits, 0.5, found), filters.presence_penalty(logits, 0.5, found)
    assert frequency[0, :6].tolist() == [0, 0, 0, -1.0, -0.5, 0]
    assert presence[0, :6].tolist() == [0, 0, 0, -0.5, -0.5, 0]


def test_padding_counts_for_no_penalty():
    ids = torch.tensor([[0, 0, 2, 2, 3]])
    found = Past(ids, 4, torch.tensor([[False, False, True, True, True]]))
    assert filters.repetition_penalty(torch.ones(1, V), 2.0, found)[0, :4].tolist() == [1, 1, 0.5, 0.5]
    kept = filters.no_repeat_ngram_size(torch.zeros(1, V), 1, found)
    assert torch.isneginf(kept)[0, :4].tolist() == [False, False, True, True]


def test_bad_words_are_never_written_however_they_are_cut():
    spelling = Spelling([b"", b"wi", b"cked", b"wicked", b"xwickedy", b"w", b"i", b"c", b"ked"])
    found = filters.bad_words(
        torch.zeros(2, 9), ("wicked",), Past(torch.tensor([[0, 1], [5, 6]]), 0, spelling=spelling)
    )
    assert torch.isneginf(found).tolist() == [
        [False, False, True, True, True, False, False, False, False],
        [False, False, True, True, True, False, False, False, False],
    ]


def test_filters_that_leave_nothing_give_way():
    logits, ids = some(0, rows=1)
    made = choose({"strategy": "greedy", "bad_words": tuple(WORDS)}).strategy()
    assert torch.equal(made.filtered(logits, past(ids)), logits)


@pytest.mark.parametrize("name", [name for name, entry in STRATEGIES.items() if "Sampler" in str(entry.target)])
def test_draws_follow_the_distribution(name):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(5)) * 2
    made = choose({"strategy": name, "temperature": 1.3, "frequency_penalty": 0.5}).strategy()
    ids = torch.tensor([[1, 2, 2, 3]])
    want = made.filtered(logits, Past(ids, 1)).softmax(-1)[0]
    tokens, probs = drawn(
        made.filtered(logits.expand(50_000, -1), Past(ids.expand(50_000, -1), 1)), torch.manual_seed(0)
    )
    seen, there = torch.bincount(tokens, minlength=12), want > 0
    assert not seen[~there].any()
    chi2 = float(((seen - 50_000 * want)[there] ** 2 / (50_000 * want[there])).sum())
    freedom = max(int(there.sum()) - 1, 1)
    assert chi2 < freedom + 4.5 * math.sqrt(2 * freedom) + 5  # far out in the tail: about one in ten thousand
    torch.testing.assert_close(probs, want[tokens])


def test_every_filter_has_an_option_and_a_line():
    assert set(FILTERS) == set(VALUES) | {"top_n_sigma", "presence_penalty", "frequency_penalty"}
    for entry in FILTERS.values():
        assert callable(entry.load())

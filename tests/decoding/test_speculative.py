"""Guessing ahead changes the speed alone: what is written is distributed as the model itself would write."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.loop import decode
from llm_lab.decoding.rows import Rows
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from tests.small import train


def model(seed, n_layer=1, size=4):
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=size, n_layer=n_layer, n_head=2, d_model=8, max_seq_len=40, zero_init=False)
    return Decoder(config).eval()


@torch.no_grad()
def exact(one, prompt, new, options):
    """The probability of every text of so many tokens, from passes over all of them."""
    found = {(): 1.0}
    made = choose({"strategy": "temperature", **options}).strategy()
    for _ in range(new):
        grown = {}
        for text, p in found.items():
            rows = Rows(one, torch.tensor([prompt + list(text)]), 1)
            rows.begin = len(prompt)
            probs = made.filtered(one(rows.ids).logits[:, -1], rows.past).softmax(-1)[0].tolist()
            grown |= {(*text, token): p * q for token, q in enumerate(probs)}
        found = grown
    return found


@pytest.mark.parametrize("strategy", ["speculative", "prompt_lookup"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 3, "frequency_penalty": 0.5}])
def test_texts_are_distributed_as_the_models_own(strategy, options):
    """20,000 texts, in rows that go on together, against the exact probability of each."""
    one, draft, prompt, new, rows = model(1, 2), model(2), [1, 2, 3, 1, 2], 4, 50
    want = exact(one, prompt, new, options)
    seen = Counter()
    generator = torch.Generator().manual_seed(0)
    guesses = {"speculative": {"draft_tokens": 3}, "prompt_lookup": {"lookup_tokens": 3}}[strategy]
    for _ in range(400):
        made = choose({"strategy": strategy, **guesses, **options}).strategy()
        made.other = draft
        text = Rows(one, torch.tensor([prompt] * rows), new)
        for _ in decode(text, made, generator):
            pass
        seen.update(tuple(row) for row in text.ids[:, len(prompt) :].tolist())
    assert not any(want[text] == 0 for text in seen)
    total, chi2, freedom, rest = 400 * rows, 0.0, -1, [0.0, 0.0]
    for text, p in want.items():
        if p * total < 10:
            rest = [rest[0] + p * total, rest[1] + seen[text]]
        else:
            chi2, freedom = chi2 + (seen[text] - p * total) ** 2 / (p * total), freedom + 1
    if rest[0] > 5:
        chi2, freedom = chi2 + (rest[1] - rest[0]) ** 2 / rest[0], freedom + 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_a_model_that_guesses_for_itself_is_always_right():
    one = model(1, 2, 11)
    made = choose({"strategy": "speculative", "draft_tokens": 3}).strategy()
    made.other = one
    rows = Rows(one, torch.tensor([[1, 2]]), 20)
    for _ in decode(rows, made, torch.Generator().manual_seed(0)):
        pass
    assert rows.written == 20
    assert made.taken == made.guessed
    assert made.passes == 5


@torch.no_grad()
def test_what_is_reported_is_what_one_pass_says():
    one, draft = model(1, 2, 11), model(2, 1, 11)
    made = choose({"strategy": "speculative", "draft_tokens": 3, "temperature": 0.8}).strategy()
    made.other = draft
    rows = Rows(one, torch.tensor([[1, 2], [3, 4]]), 30)
    for _ in decode(rows, made, torch.Generator().manual_seed(0)):
        pass
    assert 0 < made.taken < made.guessed
    logits = one(rows.ids).logits[:, 1:-1]
    new = rows.ids[:, 2:, None]
    torch.testing.assert_close(rows.logprob, logits.log_softmax(-1).gather(2, new)[..., 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        rows.chosen_prob, (logits / 0.8).softmax(-1).gather(2, new)[..., 0], atol=1e-5, rtol=1e-5
    )


def test_users_see_how_many_guesses_were_taken():
    big, small = train("big", steps=40), train("small", steps=40, n_layer=1)
    found = lab.generate(big, "1 green", strategy="speculative", draft=small, max_new_tokens=25, seed=0, n=2)
    assert "guesses were taken" in found.notes[-1]
    assert all(len(one) == 25 for one in found.tokens)
    assert found.code.endswith("draft=small, max_new_tokens=25, n=2, seed=0)")
    past = lab.generate(big, "1 green", strategy="prompt_lookup", max_new_tokens=70, seed=0)
    assert len(past.tokens[0]) == 70

"""Strategies that set one opinion against another, against their papers' formulas written out one row at a time."""

from __future__ import annotations

import math

import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.contrast import contrasted, matured
from llm_lab.decoding.filters import Past
from llm_lab.decoding.loop import decode
from llm_lab.decoding.rows import Rows
from llm_lab.decoding.samplers import MirostatSampler
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from tests.small import train


def model(seed=0, n_layer=3, **options):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=11, n_layer=n_layer, n_head=2, d_model=16, max_seq_len=24, zero_init=False)
    return Decoder(ModelConfig(**{**sizes, **options})).eval()


def written(one, prompt, new, other=None, **options):
    made = choose(options).strategy()
    made.other = other
    rows = Rows(one, torch.tensor(prompt), new)
    for _ in decode(rows, made, torch.Generator().manual_seed(0)):
        pass
    return rows


@torch.no_grad()
def test_contrastive_search_is_the_formula():
    """Su et al. 2022, equation 5, every state from a pass of its own."""
    one, k, alpha = model(), 4, 0.6
    for prompt in ([1, 5, 9], [2, 2, 7]):
        ids = list(prompt)
        for _ in range(10):
            output = one(torch.tensor([ids]))
            states, probs = output.hidden[0], output.logits[0, -1].softmax(-1)
            scores = {}
            for token in probs.topk(k).indices.tolist():
                state = one(torch.tensor([[*ids, token]])).hidden[0, -1]
                alike = max(float(torch.cosine_similarity(state, other, dim=0)) for other in states)
                scores[token] = (1 - alpha) * float(probs[token]) - alpha * alike
            ids.append(max(scores, key=scores.get))
        rows = written(one, [prompt, prompt], 10, strategy="contrastive_search", candidates=k, penalty_alpha=alpha)
        assert rows.ids.tolist() == [ids, ids]


def test_contrastive_decoding_is_the_formula():
    expert, amateur = (torch.randn(4, 9, generator=torch.Generator().manual_seed(i)) * 2 for i in (1, 2))
    found = contrasted(expert, amateur, 0.2, 0.7)
    for row in range(4):
        p, q = expert[row].softmax(-1).tolist(), amateur[row].softmax(-1).tolist()
        want = [
            1.7 * math.log(x) - 0.7 * math.log(y) if x >= 0.2 * max(p) else -math.inf for x, y in zip(p, q, strict=True)
        ]
        torch.testing.assert_close(found[row], torch.tensor(want), atol=1e-5, rtol=1e-5)


def test_dola_is_the_formula():
    last = torch.randn(2, 9, generator=torch.Generator().manual_seed(1)) * 2
    early = torch.randn(3, 2, 9, generator=torch.Generator().manual_seed(2)) * 2
    found = matured(last, early, 0.1)
    for row in range(2):
        p = last[row].softmax(-1)

        def apart(q, p=p):
            m = (p + q) / 2
            return float((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2

        q = max((early[layer, row].softmax(-1) for layer in range(3)), key=apart)
        want = (p / q).log().masked_fill(p < 0.1 * p.max(), -torch.inf)
        torch.testing.assert_close(found[row], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_early_layers_are_read_beside_the_cache():
    """Each token's probability is that of the lenses of one pass over all that stood before it."""
    one = model(n_layer=4)
    rows = written(one, [[1, 5, 9]], 12, strategy="dola", dola_layers="high")
    for t in range(12):
        ids = rows.ids[:, : 3 + t]
        streams = lab.record(one, ids, ["blocks.2.resid_post"])
        early = one.logits(one.norm(streams["blocks.2.resid_post"][:, -1:]))[:, 0]
        probs = matured(one(ids).logits[:, -1], early[None], 0.1).softmax(-1)
        assert float(rows.chosen_prob[0, t]) == pytest.approx(float(probs[0, rows.ids[0, 3 + t]]), abs=1e-5)


@torch.no_grad()
def test_the_amateur_reads_beside_the_expert_past_its_own_context():
    expert, amateur = model(), model(1, n_layer=1, max_seq_len=8)
    rows = written(expert, [[1, 5, 9]], 4, other=amateur, strategy="contrastive")
    for t in range(4):
        ids = rows.ids[:, : 3 + t]
        probs = contrasted(expert(ids).logits[:, -1], amateur(ids).logits[:, -1], 0.1, 0.5).softmax(-1)
        assert float(rows.chosen_prob[0, t]) == pytest.approx(float(probs[0, rows.ids[0, 3 + t]]), abs=1e-5)
    assert written(expert, [[1, 5, 9]], 20, other=amateur, strategy="contrastive").written == 20


def test_mirostat_holds_the_surprise():
    """Basu et al. 2021: tokens of more than μ bits are cut, and μ follows the error; on average it is τ."""
    made = choose({"strategy": "mirostat", "mirostat_tau": 3.0, "mirostat_eta": 0.1}).strategy()
    assert isinstance(made, MirostatSampler)
    draw, mu, bits = torch.Generator().manual_seed(0), 6.0, []

    class Fake(Rows):
        past = Past(torch.zeros(1, 1, dtype=torch.long), 0)

        def __init__(self):
            """A text that is always new."""

        def logits(self):
            return torch.randn(1, 200, generator=draw)

    for _ in range(1500):
        state = draw.get_state()
        logits = torch.randn(1, 200, generator=draw)[0]
        draw.set_state(state)
        step = made.step(Fake(), draw)
        token, probs = int(step.tokens[0, 0]), logits.softmax(-1)
        kept = [i for i in range(200) if -math.log2(float(probs[i])) <= mu] or [int(probs.argmax())]
        assert token in kept
        p = float(probs[token] / probs[kept].sum())
        assert float(step.chosen_prob[0, 0]) == pytest.approx(p, rel=1e-4)
        mu -= 0.1 * (-math.log2(p) - 3.0)
        bits.append(-math.log2(p))
    assert sum(bits[200:]) / len(bits[200:]) == pytest.approx(3.0, abs=0.1)


def test_what_they_need_is_said():
    lm, other = train("a"), train("b", ["another alphabet: ÄÖÜ"] * 200)
    with pytest.raises(lab.LabError, match="contrastive needs a second model, for example --amateur @small"):
        lab.generate(lm, "1", strategy="contrastive")
    with pytest.raises(lab.LabError, match="draft: b has another tokenizer than a"):
        lab.generate(lm, "1", strategy="speculative", draft=other)
    with pytest.raises(lab.LabError, match="amateur: 3 is int; an LM"):
        lab.generate(lm, "1", strategy="contrastive", amateur=3)
    with pytest.raises(lab.LabError, match="use --n_layer 2"):
        lab.generate(train("c", n_layer=1), "1", strategy="dola")

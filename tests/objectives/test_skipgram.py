"""Skip-gram: pairs by a plain loop, negatives by their frequencies, the loss by its formula, gradients by differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm_lab.baselines.skipgram import SkipGram
from llm_lab.data.batch import IGNORE
from llm_lab.models.options import ModelConfig
from llm_lab.objectives import options as opt
from llm_lab.objectives.skipgram import SkipGramNS
from llm_lab.tokenizers.tokenizer import train

WORDS = "abcdefgh"


def made(text: str = WORDS * 40, seed: int = 0, **options):
    """(objective, trainee, ids of the text); the vectors are random."""
    tokenizer = train([text], "char")
    torch.manual_seed(seed)
    model = SkipGram(ModelConfig(shape="skipgram", vocab_size=tokenizer.vocab_size, d_model=4, n_head=1))
    torch.nn.init.normal_(model.centre.weight)
    torch.nn.init.normal_(model.context.weight)
    objective = SkipGramNS(opt.SkipGram(**options), tokenizer)
    trainee = objective.attach(model)
    ids = np.array(tokenizer.encode(text), np.uint16)
    objective.prepare(ids)
    return objective, trainee, ids


def pairs(batch) -> list[list[tuple[int, int]]]:
    return [
        [(int(c), int(o)) for c, o in zip(centres, others, strict=True) if o != IGNORE]
        for centres, others in zip(batch.input_ids, batch.targets, strict=True)
    ]


def test_window_of_one_gives_every_neighbour_once_a_direction():
    objective, _, ids = made(context=1, subsample=0.0)
    batch = objective.collate([ids[:8], ids[:3]], np.random.default_rng(0))
    for found, row in zip(pairs(batch), (ids[:8], ids[:3]), strict=True):
        wanted = [(int(row[i]), int(row[j])) for i in range(len(row)) for j in (i - 1, i + 1) if 0 <= j < len(row)]
        assert sorted(found) == sorted(wanted)
    assert objective.take(64) == (64, 64)


def test_windows_are_drawn_for_each_centre_evenly():
    objective, _, ids = made(context=4, subsample=0.0)
    far = np.zeros(5)
    for seed in range(30):
        (found,) = pairs(objective.collate([ids[:160]], np.random.default_rng(seed)))
        for centre, other in found:  # the text is a b c … h a b c …: a distance is known by the two letters
            far[min((centre - other) % 8, (other - centre) % 8)] += 1
    # A neighbour `far` away is seen by the share of windows that reach it.
    np.testing.assert_allclose(far[1:] / far[1], [1, 3 / 4, 2 / 4, 1 / 4], atol=0.06)


def test_no_pair_reaches_across_a_reserved_token_or_a_row():
    objective, _, ids = made(context=5, subsample=0.0)
    eos = objective.tokenizer.special("eos")
    row = np.array([*ids[:2], eos, *ids[4:6], eos, eos], np.uint16)
    batch = objective.collate([row, ids[6:8]], np.random.default_rng(0))
    a, b, e, f, g, h = (int(i) for i in (*ids[:2], *ids[4:8]))
    assert [sorted(found) for found in pairs(batch)] == [sorted([(a, b), (b, a), (e, f), (f, e)]), [(g, h), (h, g)]]


def test_examples_without_a_pair():
    objective, trainee, ids = made(subsample=0.0)
    batch = objective.collate([ids[:1], ids[:0]], np.random.default_rng(0))
    assert pairs(batch) == [[], []]
    assert objective.loss(trainee, batch)[0] == 0


def test_frequent_words_are_left_out():
    text = "a" * 900 + "b" * 100
    objective, _, ids = made(text, context=1, subsample=0.09)
    kept = np.zeros(2)
    for seed in range(40):
        words, _, _ = objective.pairs_of(
            ids.astype(np.int64), np.zeros(len(ids), np.int64), np.random.default_rng(seed)
        )
        kept += [(words == ids[0]).sum(), (words == ids[-1]).sum()]
    # each word that is kept is a centre of two pairs; √(0.09 / 0.9) of the a, √(0.09 / 0.1) of the b
    np.testing.assert_allclose(kept / 2 / 40 / [900, 100], [math.sqrt(0.1), math.sqrt(0.9)], atol=0.02)


def test_negatives_are_drawn_by_their_counts():
    objective, trainee, ids = made("a" * 80 + "b" * 16 + "c" * 4, negatives=3)
    assert trainee.model.counts[ids[0]] == 80
    found = objective.drawn((20_000,), np.random.default_rng(0))
    wanted = np.array([80, 16, 4]) ** 0.75
    share = np.bincount(found, minlength=objective.tokenizer.vocab_size) / len(found)
    np.testing.assert_allclose(share[[ids[0], ids[80], ids[-1]]], wanted / wanted.sum(), atol=0.01)
    assert share.sum() == pytest.approx(share[[ids[0], ids[80], ids[-1]]].sum())
    objective.prepare(np.append(ids, [objective.tokenizer.special("eos")] * 90))
    assert objective.drawn((5000,), np.random.default_rng(0)).min() >= objective.tokenizer.text_ids.min()
    batch = objective.collate([ids, ids[:50]], np.random.default_rng(1))
    assert batch.negatives.shape == (*batch.targets.shape, 3)


def test_loss_equals_a_plain_loop():
    objective, trainee, ids = made(context=2, negatives=4, subsample=0.0)
    batch = objective.collate([ids[:10], ids[20:25]], np.random.default_rng(3))
    centre, context = (
        table.weight.detach().double().numpy() for table in (trainee.model.centre, trainee.model.context)
    )
    with torch.no_grad():
        sums, counts = objective.losses(trainee, batch)["skipgram"]
        loss, parts = objective.loss(trainee, batch)
    for row in range(2):
        total = count = 0
        for j in range(batch.targets.shape[1]):
            c, o = int(batch.input_ids[row, j]), int(batch.targets[row, j])
            if o == IGNORE:
                continue
            count += 1
            total -= math.log(1 / (1 + math.exp(-context[o] @ centre[c])))
            for n in batch.negatives[row, j].tolist():
                if n != o:
                    total -= math.log(1 / (1 + math.exp(context[n] @ centre[c])))
        assert int(counts[row]) == count > 0
        assert float(sums[row]) == pytest.approx(total, rel=1e-5)
    assert float(loss) == pytest.approx(float(sums.sum() / counts.sum())) == float(parts["skipgram"])


def test_gradients_equal_differences():
    objective, trainee, ids = made(context=2, subsample=0.0)
    batch = objective.collate([ids[:12]], np.random.default_rng(0))
    objective.loss(trainee, batch)[0].backward()
    for table in (trainee.model.centre.weight, trainee.model.context.weight):
        assert bool((table.grad[objective.tokenizer.text_ids] != 0).any(dim=1).all())
        assert not table.grad[sorted(objective.tokenizer.special_ids)].any()
        for i, j in [(int(ids[0]), 0), (int(ids[3]), 2), (int(ids[7]), 3)]:
            values, step = [], 0.02
            for sign in (1, -2):
                table.data[i, j] += sign * step
                values.append(float(objective.loss(trainee, batch)[0].detach()))
            table.data[i, j] += step
            assert float(table.grad[i, j]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-3)


def test_a_batch_is_a_function_of_its_generator_and_of_the_counts_in_the_model():
    objective, trainee, ids = made(subsample=1e-2)
    other, _, _ = made(subsample=1e-2)
    other.attach(trainee.model)  # as when a run is loaded: nothing is prepared again
    batches = [one.collate([ids[:50], ids[50:90]], np.random.default_rng(5)) for one in (objective, objective, other)]
    for batch in batches[1:]:
        for name in ("input_ids", "targets", "negatives"):
            assert torch.equal(getattr(batch, name), getattr(batches[0], name))


def test_before_counting_every_word_is_alike():
    tokenizer = train(["abcd"], "char")
    objective = SkipGramNS(opt.SkipGram(), tokenizer)
    objective.attach(SkipGram(ModelConfig(shape="skipgram", vocab_size=tokenizer.vocab_size)))
    frequencies = objective.frequencies()
    np.testing.assert_allclose(frequencies[tokenizer.text_ids], 1 / len(tokenizer.text_ids))
    assert frequencies.sum() == pytest.approx(1)


def test_words_of_like_neighbours_get_like_vectors():
    """x and y stand for one another between the same letters, p and q between others."""
    rng = np.random.default_rng(0)
    text = "".join(
        rng.choice(["a" + rng.choice(["x", "y"]) + "b", "c" + rng.choice(["p", "q"]) + "d"]) for _ in range(600)
    )
    objective, trainee, ids = made(text, context=1, subsample=0.0)
    optimizer = torch.optim.Adam(trainee.model.parameters(), 0.05)
    for step in range(120):
        loss, _ = objective.loss(trainee, objective.collate([ids[: 1 + len(ids) // 2]], np.random.default_rng(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    table = torch.nn.functional.normalize(trainee.model.embedding_table().detach(), dim=1)
    x, y, p, q = (table[i] for i in objective.tokenizer.encode("xypq"))
    assert min(float(x @ y), float(p @ q)) > 0.9
    assert max(float(x @ p), float(y @ q)) < 0.5

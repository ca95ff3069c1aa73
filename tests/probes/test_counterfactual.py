"""Changed tokens that change a prediction: against every change there is, and against first principles."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.answers import answer, sayable
from llm_lab.probes.counterfactual import changed, margin, retokenizes, swaps, written
from llm_lab.probes.inputs import read
from llm_lab.probes.options import AnswerOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Piece
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as tokenizer_of
from tests.small import train

LETTERS = tokenizer_of(["abcdef "], "char")
TEXTS = {"decoder": "abcde", "encoder": "ab<mask>de", "encoder_decoder": "abcd", "permutation": "abcde"}
OBJECTIVES = {"decoder": "clm", "encoder": "mlm", "encoder_decoder": "span_corruption", "permutation": "plm"}


def random(shape: str = "decoder", seed: int = 0, **more) -> LM:
    torch.manual_seed(seed)
    config = ModelConfig(
        shape=shape,
        vocab_size=LETTERS.vocab_size,
        n_layer=2,
        n_head=2,
        d_model=16,
        max_seq_len=12,
        zero_init=False,
        **more,
    )
    return LM("m", SHAPES.load(shape)(config).eval(), LETTERS, info={"objective": OBJECTIVES[shape]})


@functools.cache
def trained() -> lab.LM:
    return train("t", steps=150)


def runs(lm: LM, rows: torch.Tensor) -> torch.Tensor:
    """The likeliest text token of each row, by a plain run."""
    batch = lm.batch(rows)
    at = (rows[0] == LETTERS.special("mask")).nonzero()
    place = int(at[0]) if len(at) else -1
    with torch.no_grad():
        logits = lm.model(**batch.inputs()).logits[:, 0 if batch.decoder_ids is not None else place]
    return logits.masked_fill(~sayable(lm.model, lm.tokenizer), -torch.inf)


def inputs_of(lm: LM, text: str):
    reading = Reading((lm,), (text,))
    return read(reading, AnswerOptions()), reading


@pytest.mark.parametrize("shape", TEXTS)
@pytest.mark.parametrize("more", [{}, {"d_embed": 8, "embed_norm": True, "scale_embeddings": True}])
def test_a_single_swap_is_the_best_of_all(shape, more):
    for seed in range(3):
        lm = random(shape, seed, **more)
        inputs, reading = inputs_of(lm, TEXTS[shape])
        ids, free = inputs.ids, inputs.free
        logits = inputs.logits(ids[None])
        lead = margin(answer(reading, AnswerOptions(), logits[0]).target, None, sayable(lm.model, LETTERS))
        source = slice(0, len(LETTERS.encode(TEXTS[shape].replace("<mask>", "_"))))
        every = {
            (t, token): changed(ids, [(t, token)])
            for t in free.nonzero()[:, 0].tolist()
            for token in LETTERS.text_ids.tolist()
            if token != int(ids[t])
        }
        rows = torch.stack([row[source] for row in every.values()])
        found = runs(lm, rows)
        now = int(runs(lm, ids[None, source]).argmax())
        flips = found.argmax(dim=1) != now
        shown = lab.probe(lm, TEXTS[shape], kind="counterfactual", edits=1, candidates=10_000)
        assert shown.flipped == bool(flips.any())
        assert shown.before.id == now
        best = list(every)[int(lead(found).argmax())]
        (t,) = shown.changes
        assert (t, shown.edited[t].id) == best
        if shown.flipped:
            assert shown.after.id == int(found[list(every).index(best)].argmax()) != now


@pytest.mark.parametrize("shape", TEXTS)
def test_first_order_is_the_slope_of_a_small_step(shape):
    lm = random(shape)
    inputs, reading = inputs_of(lm, TEXTS[shape])
    lead = margin(
        answer(reading, AnswerOptions(), inputs.logits(inputs.ids[None])[0]).target, None, sayable(lm.model, LETTERS)
    )
    tokens = torch.tensor(LETTERS.encode("abf"))
    gains = swaps(inputs, lead, inputs.ids, tokens)
    vectors, step = inputs.vectors(inputs.ids[None]), 1e-2
    for t, w in itertools.product(range(len(inputs.ids)), range(3)):
        if not inputs.free[t] or inputs.ids[t] == tokens[w]:
            assert gains[t, w] == -torch.inf
            continue
        ends = []
        for sign in (-1, 1):
            moved = vectors.clone()
            moved[0, t] += sign * step * (inputs.vectors(tokens[None])[0, w] - vectors[0, t])
            ends.append(float(lead(inputs.logits_of(inputs.stream(moved))).detach()))
        assert float(gains[t, w]) == pytest.approx((ends[1] - ends[0]) / (2 * step), abs=2e-2, rel=5e-2)


def test_the_prediction_becomes_what_is_wanted_and_no_part_would_do():
    several = 0
    for seed, target in itertools.product(range(4), "abcdef"):
        lm = random(seed=seed)
        if lab.probe(lm, "abcdea", kind="counterfactual", edits=1).before.text == target:
            continue
        shown = lab.probe(lm, "abcdea", kind="counterfactual", target=target, edits=4, candidates=8, beam=2)
        old, new = torch.from_numpy(shown.numpy())
        wanted = LETTERS.encode(target)[0]
        assert shown.flipped == (int(runs(lm, new[None]).argmax()) == wanted)
        assert shown.edited_text == LETTERS.decode(new.tolist())
        several += shown.flipped and len(shown.changes) > 1
        for size in range(1, len(shown.changes)):
            for part in itertools.combinations(shown.changes, size):
                row = changed(old, [(t, int(new[t])) for t in part])
                assert not shown.flipped or int(runs(lm, row[None]).argmax()) != wanted
        assert not set(new.tolist()) & LETTERS.special_ids
    assert several >= 3


def test_what_is_shown(tmp_path):
    lm = trained()
    shown = lab.probe(lm, "3 green bottles stood up", kind="counterfactual")
    assert shown.flipped and shown.wanted is None and shown.before.id != shown.after.id
    assert shown.answers[0][0].id == shown.after.id
    probs = lab.record(lm, shown.edited_text, "logits")["logits"][0, -1].softmax(-1)
    assert shown.answers[0][2] == pytest.approx(float(probs[shown.after.id]), abs=1e-5)
    assert list(shown.to_pandas()["position"]) == shown.changes
    page = shown._repr_mimebundle_()["text/html"]
    assert page.count('<b style="background') == 2 * len(shown.changes)
    assert lab.probe(lm, "3 green bottles stood up", kind="counterfactual").edited_text == shown.edited_text
    assert all(p.grad is None for p in lm.model.parameters()) and not lm.model.embed._forward_hooks


def test_passes_are_counted():
    lm = random()
    rows = 0
    run = lm.model.forward

    def counted(input_ids, *args, **kwargs):
        nonlocal rows
        rows += len(input_ids)
        return run(input_ids, *args, **kwargs)

    lm.model.forward = counted
    shown = lab.probe(lm, "abcde", kind="counterfactual", candidates=5)
    assert shown.passes == rows - 1  # but the last, which reads off what is shown


def test_text_that_is_read_again_is_the_same_tokens():
    merges = tokenizer_of(["abab abab cd cd abab cd ab ab"] * 50, "bpe", 300)
    whole = merges.encode("abab cd")
    assert retokenizes(whole, merges)
    a, b = merges.encode("a")[0], merges.encode("b")[0]
    assert len(merges.encode("ab")) == 1 and not retokenizes([a, b], merges)
    mask = merges.special("mask")
    assert retokenizes([*whole, mask, *merges.encode("ab")], merges)
    assert not retokenizes([*whole, mask, a, b], merges)
    assert written([*whole, mask, *merges.encode("ab")], merges) == "abab cd<mask>ab"
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=merges.vocab_size, n_layer=1, n_head=2, d_model=16, max_seq_len=12, zero_init=False)
    lm = LM("m", SHAPES.load("decoder")(config).eval(), merges, info={"objective": "clm"})
    found = [lab.probe(lm, "abab cd ab cd", kind="counterfactual", retokenize=on, edits=1) for on in (True, False)]
    assert merges.encode(found[0].edited_text) == [piece.id for piece in found[0].edited]
    assert found[0].facts == found[1].facts and found[1].flipped


def test_what_does_not_succeed_says_so():
    shown = lab.probe(
        trained(),
        "3 green bottles stood up",
        kind="counterfactual",
        target="9",
        edits=1,
        candidates=2,
    )
    assert not shown.flipped and any("come nearest" in note for note in shown.notes)
    assert len(shown.changes) == 1 and shown.wanted.text == "9"
    assert any(piece.text == "9" for piece, *_ in shown.answers)


@pytest.mark.parametrize(
    ("shape", "text", "options", "says"),
    [
        ("decoder", "abc", {"other": "a"}, r"^other: 'a' is not needed"),
        ("decoder", "abc", {"target": "ab"}, r"^target: 'ab' is 2 tokens"),
        ("encoder", "<mask>", {}, r"^text: it has reserved tokens alone"),
        ("decoder", ("a", "b"), {}, r"^text: 2 texts were given"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shape, text, options, says):
    with pytest.raises(lab.LabError, match=says):
        lab.probe(random(shape), text, kind="counterfactual", **options)


def test_the_token_that_is_predicted_already_is_no_target():
    lm = trained()
    now = lab.probe(lm, "3 gre", kind="counterfactual").before.text
    with pytest.raises(lab.LabError, match=rf"^target: '{now}' is what t predicts now"):
        lab.probe(lm, "3 gre", kind="counterfactual", target=now)


def test_margins():
    can = torch.tensor([True, True, True, False])
    logits = torch.tensor([[3.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 9.0]])
    assert margin(Piece("a", 0), None, can)(logits).tolist() == [-1.0, 2.0]
    assert margin(Piece("a", 0), Piece("b", 1), can)(logits).tolist() == [-2.0, -1.0]

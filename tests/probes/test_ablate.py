"""Ablations against replacing by hand, against edited weights, and against none at all."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.models.sites import _open
from llm_lab.probes import ablate as module
from llm_lab.probes.ablate import Instead, Measure, Part, ablate, ablating, parts_of
from llm_lab.probes.options import PROBES, AblateOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Heatmap, Listing, TokenScores
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as letters_of
from tests.small import train

TOKENIZER = letters_of(["abcdefghijkl"], "char")
SIZES = dict(vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=4, d_model=16, max_seq_len=24, zero_init=False)
TEXT = "abcabcdbebfcg"
IDS = torch.tensor([TOKENIZER.encode(TEXT)])


def made(shape: str = "decoder", objective: str = "clm", **changed) -> LM:
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, "shape": shape, **changed})
    return LM("small", SHAPES.load(shape)(config).eval(), TOKENIZER, info={"objective": objective})


def last(lm: LM, *texts: str, **options):
    *_, found = ablate(Reading((lm,), texts), AblateOptions(**options))
    return found


def loss(lm: LM) -> float:
    """−log p of the text's tokens but the first, explicitly computed as a probe computes it."""
    logits = lab.record(lm, IDS, "logits")["logits"][0, :-1]
    return float(F.cross_entropy(logits, IDS[0, 1:]))


CASES = [
    {},
    {"n_kv_head": 2, "norm_place": "sandwich", "bias": True},
    {"norm_place": "post", "norm": "layernorm", "bias": True},
    {"n_expert": 3, "tie_embeddings": True},
    {"share_layers": True},
]


@pytest.mark.parametrize("changed", CASES)
def test_zeros_are_those_put_in_by_hand(changed):
    lm = made(**changed)
    found = last(lm, TEXT, repeats=0)
    assert isinstance(found, Heatmap)
    values = found.panels[0].values
    before = loss(lm)
    for i in range(2):
        for j in range(4):

            def silent(z, j=j):
                z[:, j] = 0
                return z

            with lab.replace(lm, {f"blocks.{i}.attn.z": silent}):
                assert values[i, j] == pytest.approx(loss(lm) - before, abs=1e-5)
        for column, sites in ((4, ["attn.out"]), (5, ["mlp.out"]), (6, ["attn.out", "mlp.out"])):
            with lab.replace(lm, {f"blocks.{i}.{site}": torch.zeros_like for site in sites}):
                assert values[i, column] == pytest.approx(loss(lm) - before, abs=1e-5)
    assert np.abs(values).max() > 1e-4
    assert found.panels[0].columns == ["0", "1", "2", "3", "attn", "mlp", "layer"]


def test_zeros_are_weights_without_the_head():
    lm = made(n_kv_head=2, bias=True)
    found = last(lm, TEXT, parts=("heads",), repeats=0, target="c", other="d")
    with torch.no_grad():
        logits = lm.model(IDS).logits[0, -1]
    c, d = TOKENIZER.encode("c")[0], TOKENIZER.encode("d")[0]
    assert [panel.title for panel in found.panels][1:] == ["log-probability of “c”", "logit of “c” − “d”"]
    for i in range(2):
        for j in range(4):
            edited = LM("edited", copy.deepcopy(lm.model), TOKENIZER, info=lm.info)
            with torch.no_grad():
                edited.model.blocks[i].attn.out.weight[:, 4 * j : 4 * j + 4] = 0
                after = edited.model(IDS).logits[0, -1]
            assert found.panels[0].values[i, j] == pytest.approx(loss(edited) - loss(lm), abs=1e-5)
            rise = after.log_softmax(-1)[c] - logits.log_softmax(-1)[c]
            assert found.panels[1].values[i, j] == pytest.approx(float(rise), abs=1e-5)
            rise = (after[c] - after[d]) - (logits[c] - logits[d])
            assert found.panels[2].values[i, j] == pytest.approx(float(rise), abs=1e-5)


def test_a_mean_is_that_over_all_tokens_read():
    lm = made()
    found = last(lm, TEXT, ablation="mean", parts=("heads", "mlps"), repeats=0).panels[0].values
    before = loss(lm)
    kept = lab.record(lm, IDS[:, :-1], ["blocks.1.attn.z", "blocks.1.mlp.out"])  # the last token is only a target

    def head(z):
        z[:, 2] = kept["blocks.1.attn.z"][:, 2].mean(dim=(0, 1))
        return z

    with lab.replace(lm, {"blocks.1.attn.z": head}):
        assert found[1, 2] == pytest.approx(loss(lm) - before, abs=1e-5)
    with lab.replace(lm, {"blocks.1.mlp.out": lambda x: kept["blocks.1.mlp.out"].mean(dim=(0, 1)).expand_as(x)}):
        assert found[1, 4] == pytest.approx(loss(lm) - before, abs=1e-5)


def test_what_is_resampled_was_given_somewhere_and_the_seed_says_where():
    lm = made()
    z = lab.record(lm, IDS[:, :-1], "blocks.0.attn.z")["blocks.0.attn.z"]
    tokens = {tuple(row) for row in z[0, 1].tolist()}
    seen = []

    def look(x):
        seen.append(x.clone())
        return x

    reading, options = Reading((lm,), (TEXT,)), AblateOptions(ablation="resample", repeats=0)
    setup = module._Setup(reading, options)
    (part,) = [part for part in parts_of(lm.model) if part.name == "0.1"]
    instead = setup.instead(setup.measures[0], [part])
    with lab.replace(lm, ablating([[part]], instead, 1)), lab.replace(lm, {"blocks.0.attn.z": look}):
        lm.model(IDS)
    assert {tuple(row) for row in seen[0][0, 1].tolist()} <= tokens
    assert len({tuple(row) for row in seen[0][0, 1].tolist()}) > 3
    assert torch.equal(seen[0][0, 0, :-1], z[0, 0])  # of the other heads nothing is changed
    first, again, other = (last(lm, TEXT, ablation="resample", seed=seed).numpy() for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.allclose(first, other)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_ablating_nothing_changes_nothing_bit_for_bit(count):
    lm = made()
    setup = module._Setup(Reading((lm,), (TEXT,)), AblateOptions(repeats=4))
    nothing = Part("", "", ())
    for measure in setup.measures:
        found = np.concatenate(list(measure.changes([[nothing]] * count, Instead({}))))
        assert len(found) == count and not found.any()


def test_several_at_a_time_are_each_alone(monkeypatch):
    lm = made()
    together = last(lm, TEXT, repeats=4, ablation="resample").numpy()
    monkeypatch.setattr(module, "TOGETHER", 1)
    np.testing.assert_allclose(together, last(lm, TEXT, repeats=4, ablation="resample").numpy(), atol=1e-5)


def test_a_layer_that_is_gone_leaves_the_stream_as_it_was():
    lm = made()
    (layer,) = [part for part in parts_of(lm.model) if part.name == "1.layer"]
    with lab.replace(lm, ablating([[layer]], Instead({}), 1)):
        found = lab.record(lm, IDS, ["blocks.1.resid_pre", "blocks.1.resid_post"])
    assert torch.equal(*found.values())


def test_repeats_are_measured_where_the_next_token_came_before():
    lm = made()
    measure: Measure = module._repeats(lm, AblateOptions(repeats=5, seed=3))
    ids = torch.cat([batch.input_ids for batch in measure.batches])
    with torch.no_grad():
        logits = lm.model(ids).logits
    wanted = [
        -float(logits[b, t].log_softmax(-1)[ids[b, t + 1]])
        for b in range(5)
        for t in range(23)
        if int(ids[b, t + 1]) in ids[b, : t + 1].tolist() and int(ids[b, t]) in ids[b, :t].tolist()
    ]
    assert measure.means()[0] == pytest.approx(np.mean(wanted), abs=1e-5)


def test_parts_at_once_and_what_is_said_of_them():
    lm = made()
    found = last(lm, TEXT, together=("1.2", "0.mlp"), repeats=4)
    assert isinstance(found, TokenScores) and len(found.pieces) == len(TEXT)

    def silent(z):
        z[:, 2] = 0
        return z

    before = lab.record(lm, IDS, "logits")["logits"][0]
    with lab.replace(lm, {"blocks.1.attn.z": silent, "blocks.0.mlp.out": torch.zeros_like}):
        after = lab.record(lm, IDS, "logits")["logits"][0]
    wanted = [
        float(F.cross_entropy(after[t], IDS[0, t + 1]) - F.cross_entropy(before[t], IDS[0, t + 1])) for t in range(12)
    ]
    np.testing.assert_allclose(found.numpy()[1:], wanted, atol=1e-5)
    assert np.isnan(found.numpy()[0])
    said = dict(found.figures)
    pair = [TOKENIZER.pieces([int(x[-1].argmax())])[0].text for x in (before, after)]
    assert said["likeliest token"].startswith(f"“{pair[0]}” ") and f"→ “{pair[1]}” " in said["likeliest token"]
    old, new = (float(F.cross_entropy(x[:-1], IDS[0, 1:])) for x in (before, after))
    assert said["loss, nats/char"] == f"{old:.3f} → {new:.3f}"
    with pytest.raises(lab.LabError, match=r"'1\.9' is no part"):
        last(lm, TEXT, together=("1.9",))


@pytest.mark.parametrize(
    ("shape", "objective", "changed", "rows"),
    [
        ("encoder", "mlm", {}, ["0", "1"]),
        ("encoder", "mlm_nsp", {"norm_place": "post", "pooler": True, "n_token_type": 2}, ["0", "1"]),
        ("encoder", "rtd", {}, ["0", "1"]),
        ("permutation", "plm", {}, ["0", "1"]),
        ("decoder", "prefix_lm", {}, ["0", "1"]),
        (
            "encoder_decoder",
            "span_corruption",
            {"n_decoder_layer": 1},
            ["encoder 0", "encoder 1", "decoder 0", "decoder 0 cross"],
        ),
    ],
)
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_every_shape_and_its_own_loss(shape, objective, changed, rows, ablation):
    lm = train(shape=shape, objective=objective, zero_init=False, **changed)
    found = lab.probe(lm, kind="ablate", max_tokens=300, repeats=4, ablation=ablation)
    values = found.panels[0].values
    assert list(found.panels[0].rows) == rows
    there = np.isfinite(values)
    assert there[:, :2].all() and (not rows[-1].endswith("cross") or not there[-1, 3:].any())
    assert np.abs(values[there]).max() > 0
    assert found.code.startswith("lab.probe(tiny, kind='ablate', max_tokens=300")


def test_pairs_are_two_texts():
    pairs = [("a b", "c d"), ("b a", "d c")] * 60
    frame = pd.DataFrame(pairs, columns=["source", "target"])
    lm = train(text=frame, shape="encoder_decoder", objective="seq2seq", column="source", target="target")
    found = lab.probe(lm, ["a b", "c d"], kind="ablate", repeats=0)
    assert np.isfinite(found.panels[0].values[:3, 0]).all()
    with pytest.raises(lab.LabError, match="learned from pairs"):
        lab.probe(lm, "a b", kind="ablate", repeats=0)


def test_a_corpus_beside_a_text_is_where_the_mean_is_from():
    lm = train(zero_init=False)
    own = lab.probe(lm, "green bottles", kind="ablate", ablation="mean", repeats=0)
    other = lab.probe(lm, "green bottles", kind="ablate", ablation="mean", repeats=0, corpus=["red books fell " * 40])
    assert "mean over all tokens of the corpus" in other.caption and "of what is read" in own.caption
    assert not np.allclose(own.panels[0].values, other.panels[0].values)


def test_an_interrupt_keeps_what_was_measured_and_nothing_is_left_behind(monkeypatch):
    lm = made()
    lm.model.train()
    kept = copy.deepcopy(lm.model.state_dict())
    growing = ablate(Reading((lm,), (TEXT,)), AblateOptions(repeats=4))
    first = next(growing)
    assert np.isfinite(first.panels[0].values).any() and np.isnan(first.panels[-1].values).all()
    assert not _open.get()  # no replacement is open while others see what was found
    stopped = growing.throw(KeyboardInterrupt())
    assert "interrupted after" in str(stopped) and list(growing) == []

    def broken(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(Instead, "of", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        list(ablate(Reading((lm,), (TEXT,)), AblateOptions(repeats=4)))
    assert not _open.get() and lm.model.training
    assert all(p.grad is None for p in lm.model.parameters())
    assert all(torch.equal(kept[name], tensor) for name, tensor in lm.model.state_dict().items())


def test_what_cannot_be_asked_is_said():
    lm = train()
    with pytest.raises(lab.LabError, match="give one"):
        lab.probe(lm, ["green", "bottles"], kind="ablate", target="s")
    with pytest.raises(lab.LabError, match="too short"):
        lab.probe(lm, "g", kind="ablate", repeats=0)
    found = lab.probe(lm, kind="ablate", together="0.0", max_tokens=100)
    assert isinstance(found, Listing) and found.columns == ["", "before", "after", "change"]
    assert found.rows[0][2] - found.rows[0][1] == pytest.approx(found.rows[0][3])
    assert PROBES.load("ablate") is ablate

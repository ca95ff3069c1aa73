"""Paths between heads against the sum that they are in the stream, and composition against whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.probes.answers import ask
from llm_lab.probes.options import PathsOptions
from llm_lab.probes.paths import paths, random_composition, weights
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from tests.probes.test_patching import last, made, reading


@pytest.mark.parametrize("kind", ["modern", "gpt2", "grouped", "encoder", "encoder_decoder", "permutation", "experts"])
@pytest.mark.parametrize("noising", [False, True])
def test_a_path_adds_what_its_head_writes_to_what_the_other_reads(kind, noising):
    """In the stream a head's part is z W_O; with all else held, that is what changes before the later head."""
    lm = made(kind, n_layer=3)
    norm_after = lm.model.config.norm_place == "sandwich"
    texts, options = reading(lm), PathsOptions(layer=2, head=1, noising=noising, target="a", other="b")
    found = last(paths(texts, options)).numpy()
    assert found.shape == (3, 2, 4)
    base, source = (ask(texts, options, i) for i in ((0, 1) if noising else (1, 0)))
    prefix = "encoder." if kind == "encoder_decoder" else ""
    stack = lm.model.encoder if prefix else lm.model
    one, two = (record(lm.model, asked.batch) for asked in (base, source))
    a, b = (int(lm.tokenizer.encode(x)[0]) for x in "ab")
    later, d = f"{prefix}blocks.2.", lm.model.config.head_dim

    def metric(asked, replacements):
        with torch.no_grad(), lab.replace(lm, replacements):
            logits = lm.model(**asked.batch.inputs()).logits[0, asked.position].double()
        return float(logits[a] - logits[b])

    ends = metric(base, {}), metric(source, {})
    group = lm.model.config.n_head // lm.model.config.kv_heads
    for layer in (0, 1):
        block, earlier = stack.blocks[layer], f"{prefix}blocks.{layer}.attn."
        for head in range(4):
            z = one[earlier + "z"].clone()
            z[:, head] = two[earlier + "z"][:, head]
            rows = slice(head * d, (head + 1) * d)
            moved = z[:, head] - one[earlier + "z"][:, head]
            written = moved @ block.attn.out.weight.detach()[:, rows].T
            if norm_after:
                with torch.no_grad():
                    before = one[earlier + "out"]
                    written = block.after["attn"](before + written) - block.after["attn"](before)
            with torch.no_grad(), lab.replace(lm, {later + "resid_pre": lambda x, w=written: x + w}):
                read = record(lm.model, base.batch, [later + f"attn.{x}" for x in "qkv"])
            for i, (x, index) in enumerate((("q", 1), ("k", 1 // group), ("v", 1 // group))):
                new = read[later + f"attn.{x}"]

                def put(x, new=new, index=index):
                    x[:, index] = new[:, index]
                    return x

                wanted = (metric(base, {later + f"attn.{x}": put}) - ends[0]) / (ends[1] - ends[0])
                assert found[i, layer, head] == pytest.approx(wanted, abs=2e-3, rel=2e-3)


def test_chunks_change_nothing(monkeypatch):
    whole = last(paths(reading(made(n_layer=3)), PathsOptions(layer=2, head=1))).numpy()
    monkeypatch.setattr("llm_lab.probes.contrast._TOKENS", 21)
    parts = last(paths(reading(made(n_layer=3)), PathsOptions(layer=2, head=1))).numpy()
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_the_head_that_is_shown_is_the_most_telling():
    lm = made(n_layer=3)
    by_head = lab.probe(lm, list(reading(lm).texts), kind="patch", site="attn.z").numpy()[1:]
    layer, head = np.unravel_index(np.abs(by_head).argmax(), by_head.shape)
    found = last(paths(reading(lm), PathsOptions()))
    assert found.facts[0] == f"to head {head} of layer {layer + 1}"
    only = last(paths(reading(lm), PathsOptions(head=3)))
    assert only.facts[0] == f"to head 3 of layer {np.abs(by_head[:, 3]).argmax() + 1}"


@pytest.mark.parametrize("kind", ["modern", "gpt2", "grouped", "encoder_decoder", "t5", "qwen3"])
def test_composition_equals_that_of_whole_matrices(kind):
    lm = made(kind, n_layer=3)
    with torch.no_grad():  # gains that are not all 1
        for parameter in lm.model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    found = last(paths(Reading((lm,)), PathsOptions()))
    chance = random_composition(16, lm.model.config.head_dim, 0)
    assert [panel.title[0] for panel in found.panels] == ["Q", "K", "V"]
    scores = found.numpy() + chance
    assert scores.shape == (3, 8, 8)
    assert dict(found.figures) == {"score of random weights": f"{chance:.4f}"}
    whole = [weights(lm.model, i) for i in range(3)]
    for row, name in enumerate(found.panels[0].rows):
        i, h = map(int, name.split("."))
        for column, other in enumerate(found.panels[0].columns):
            j, g = map(int, other.split("."))
            if j <= i:
                assert np.isnan(scores[:, row, column]).all()
                continue
            ov = whole[i].o[h] @ whole[i].v[h]
            qk = whole[j].q[g].T @ whole[j].k[g]
            for panel, read in enumerate((qk.T, qk, whole[j].o[g] @ whole[j].v[g])):
                wanted = (read @ ov).norm() / (read.norm() * ov.norm())
                assert scores[panel, row, column] == pytest.approx(float(wanted), abs=1e-6)
    one = last(paths(Reading((lm,)), PathsOptions(layer=2, head=3)))
    np.testing.assert_allclose(one.numpy(), found.numpy()[:, :, 7].reshape(3, 2, 4))


@pytest.mark.parametrize("kind", ["modern", "gpt2", "grouped", "qwen3"])
def test_folded_gains_are_what_the_stream_meets(kind):
    """They map a vector to what the head makes of it, but for its size."""
    lm = made(kind, n_head=2, n_kv_head=2)
    config, block = lm.model.config, lm.model.blocks[1]
    with torch.no_grad():
        for norm in (block.attn_norm, block.attn.q_norm, block.attn.k_norm, *getattr(block, "after", {}).values()):
            if getattr(norm, "weight", None) is not None:
                norm.weight.add_(torch.randn_like(norm.weight) * 0.3)
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    x = torch.randn(1, 1, 16)
    with torch.no_grad():
        q, k, v = (
            part.view(2, config.head_dim)
            for part in block.attn.qkv(block.attn_norm(x))[0, 0].split(block.attn.qkv.splits)
        )
        if block.attn.q_norm is not None:
            q, k = block.attn.q_norm(q), block.attn.k_norm(k)
    own = weights(lm.model, 1)
    for head in range(2):
        for one, two in ((own.q[head] @ x[0, 0].double(), q[head]), (own.k[head] @ x[0, 0].double(), k[head]),
                         (own.v[head] @ x[0, 0].double(), v[head])):  # fmt: skip
            assert torch.cosine_similarity(one, two.double(), dim=0) == pytest.approx(1, abs=1e-5)
    if config.norm_place == "sandwich":
        with torch.no_grad():
            out = block.after["attn"](block.attn.out.weight[:, : config.head_dim] @ v[0])
        written = own.o[0] @ v[0].double()
        assert torch.cosine_similarity(written, out.double(), dim=0) == pytest.approx(1, abs=1e-5)


def test_random_weights_score_as_their_sizes_say():
    """Of maps drawn at random ‖W₂W₁‖ is about ‖W₂‖‖W₁‖ / √D."""
    assert random_composition(64, 4, 0) == pytest.approx(np.sqrt(1 / 64), rel=0.1)
    assert random_composition(64, 4, 1) != random_composition(64, 4, 0) == random_composition(64, 4, 0)


@pytest.mark.parametrize(
    ("texts", "options", "says"),
    [
        (["abc"], {}, "^text: 1 text was given, and paths takes two"),
        ([], {"layer": 0}, "^layer: 0 has no head before it"),
        ([], {"layer": 2}, "^layer: 2 is not there; this model has layers 0 to 1"),
        ([], {"head": 4}, "^head: 4 is not there; this model has heads 0 to 3"),
    ],
)
def test_what_has_no_path_is_refused_in_one_line(texts, options, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        lab.probe(made(), texts, kind="paths", **options)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_meet_are_refused():
    with pytest.raises(lab.LabError, match="a norm stands in the stream between them"):
        lab.probe(made("bert"), kind="paths")
    with pytest.raises(lab.LabError, match=r"^layer: m has one"):
        lab.probe(made(n_layer=1), kind="paths")

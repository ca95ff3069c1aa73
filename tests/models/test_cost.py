"""What models cost, against the models: parameters exactly, FLOPs as torch counts them, memory as autograd keeps it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import llm_lab as lab
from llm_lab import machine
from llm_lab.errors import LabError
from llm_lab.models import cost, flops
from llm_lab.models.bare import bare, smaller
from llm_lab.models.options import MLPS, NORMS, OUTPUTS, PATTERNS, POSITIONS, SHAPES, ModelConfig
from llm_lab.models.presets import PRESETS

STACKED = [shape for shape, entry in SHAPES.items() if "sites" in entry.supports]
NAMED = [name for name in PRESETS if PRESETS.load(name).config(100).shape in STACKED]
SMALL = dict(n_layer=2, n_head=4, d_model=64, d_ff=128, max_seq_len=48)


def small(name: str, **more) -> ModelConfig:
    """A preset's architecture at a small size."""
    own = PRESETS.load(name).overrides
    sizes = {"n_kv_head": 2, "d_head": 24, "d_embed": 16}
    return PRESETS.load(name).config(300, **{**SMALL, **{k: v for k, v in sizes.items() if own.get(k)}, **more})


def counted(config: ModelConfig) -> int:
    return sum(p.numel() for p in bare(config).parameters())


def make(config: ModelConfig):
    torch.manual_seed(0)
    return SHAPES.load(config.shape)(config)


def inputs(config: ModelConfig, rows: int) -> dict[str, torch.Tensor]:
    ids = torch.zeros(rows, config.max_seq_len, dtype=torch.long)
    return {"input_ids": ids} | ({"decoder_ids": ids} if config.shape == "encoder_decoder" else {})


@pytest.mark.parametrize("name", NAMED)
def test_every_presets_parameters_are_counted(name):
    config = PRESETS.load(name).config(30522)
    assert sum(part.parameters for part in cost.parts(config, 4)) == counted(config)


@st.composite
def configs(draw) -> ModelConfig:
    shape = draw(st.sampled_from(STACKED))
    flag = st.booleans()
    return ModelConfig(
        vocab_size=draw(st.sampled_from([17, 60])),
        shape=shape,
        n_layer=draw(st.integers(1, 3)),
        n_decoder_layer=draw(st.sampled_from([None, 1, 2])),
        n_head=4,
        n_kv_head=draw(st.sampled_from([None, 1, 2])),
        d_model=draw(st.sampled_from([16, 32])),
        d_head=draw(st.sampled_from([None, 6])),
        d_ff=draw(st.sampled_from([None, 20])),
        d_embed=draw(st.sampled_from([None, 8])),
        max_seq_len=draw(st.sampled_from([8, 24])),
        norm=draw(st.sampled_from(list(NORMS))),
        norm_place=draw(st.sampled_from(["pre", "post", "sandwich"])),
        embed_norm=draw(flag),
        position=draw(st.sampled_from(list(POSITIONS))),
        attention="full" if shape == "permutation" else draw(st.sampled_from(list(PATTERNS))),
        window=4,
        stride=3,
        sparse_block=4,
        mlp=draw(st.sampled_from(list(MLPS))),
        n_expert=draw(st.sampled_from([None, 3])),
        bias=draw(flag),
        qk_norm=draw(flag),
        qk_gain=draw(flag),
        tie_embeddings=draw(flag),
        share_layers=draw(flag),
        n_token_type=draw(st.sampled_from([0, 2])),
        pooler=draw(flag),
        output=draw(st.sampled_from(list(OUTPUTS))),
        output_bias=draw(flag),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        attention_dropout=draw(st.sampled_from([None, 0.0, 0.1])),
    )


@settings(max_examples=60, deadline=None)
@given(configs())
def test_parameters_are_those_of_the_model_whatever_its_parts(config):
    parts = cost.parts(config, 2, "cpu")
    assert sum(part.parameters for part in parts) == counted(config)
    assert all(part.flops >= 0 and part.memory >= 0 and part.kind for part in parts)
    two = config.shape == "encoder_decoder"
    assert {part.stack for part in parts if part.block} == ({"encoder", "decoder"} if two else {""})


def computed(config: ModelConfig) -> float:
    """FLOPs of the products of one forward pass by torch's counter, later positions left out where attention is causal."""
    model = make(config).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(**inputs(config, 1))
    total, n = float(counter.get_total_flops()), config.max_seq_len
    causal = {"decoder": config.n_layer, "encoder_decoder": config.decoder_layers}.get(config.shape, 0)
    if config.attention == "full" and config.position not in ("alibi", "t5"):
        total -= causal * 4 * config.n_head * config.head_dim * n * (n - (n + 1) / 2)
    return total


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in NAMED),
        ("modern", dict(n_kv_head=1, mlp="swiglu", tie_embeddings=True, position="alibi", norm_place="sandwich")),
        ("modern", dict(n_expert=5, mlp="swiglu")),
        ("transformer", dict(n_layer=1, n_decoder_layer=3, position="learned")),
        ("modern", dict(max_seq_len=256, attention="window", window=16, sparse_block=8)),
        ("modern", dict(max_seq_len=256, attention="bigbird", window=16, sparse_block=8, norm_place="post")),
        ("bert", dict(max_seq_len=256, attention="longformer", window=16, sparse_block=8)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "as-is",
)
def test_flops_are_what_torch_counts(name, more):
    config = small(name, **more)
    parts = cost.parts(config, 1)
    found = sum(part.flops for part in parts if part.kind != "norm") * config.max_seq_len
    assert found == pytest.approx(computed(config), rel=0.02)


def test_experts_cost_what_is_used_of_them():
    one, many = (small("modern", mlp="swiglu", **more) for more in ({}, {"n_expert": 6, "n_active": 2}))
    mlp, experts = (next(p for p in cost.parts(c, 1) if p.kind in ("mlp", "experts")) for c in (one, many))
    router = 64 * 6 * one.n_layer
    assert experts.parameters == 6 * mlp.parameters + router
    assert experts.flops == 2 * mlp.flops + 2 * router


def test_one_block_used_often_has_its_parameters_once():
    once, often = small("albert"), replace(small("albert"), share_layers=False)
    a, b = (
        [next(p for p in cost.parts(c, 1) if p.kind == kind) for kind in ("attention", "mlp")] for c in (once, often)
    )
    for shared, own in zip(a, b, strict=True):
        assert (shared.count, shared.flops) == (own.count, own.flops)
        assert shared.parameters * once.n_layer == own.parameters


def test_what_a_pattern_saves_is_said():
    config = ModelConfig(vocab_size=65, max_seq_len=512, attention="window", window=32, sparse_block=16)
    part = next(part for part in cost.parts(config, 1) if part.kind == "attention")
    reads = flops.reading(config, True)
    share = round(100 * reads.keys / 256.5)
    assert 10 < share < 50
    assert f"attends {share} % of full" in part.detail
    assert "MFLOPs per token" in part.detail
    short = flops.reading(replace(config, max_seq_len=32), True)  # no tile of it saves anything
    assert short.keys == 32
    assert short.keys > short.full


@pytest.mark.parametrize("attention", [name for name in PATTERNS if name != "full"])
def test_long_contexts_are_estimated_from_a_sample(attention, monkeypatch):
    config = ModelConfig(vocab_size=65, max_seq_len=512, attention=attention, window=32, stride=16)
    exact = flops.reading(config, True).keys
    monkeypatch.setattr(flops, "_EXACT", 1)
    flops.reading.cache_clear()
    assert 0.6 < flops.reading(config, True).keys / exact < 1.7
    flops.reading.cache_clear()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("modern", {}),
        ("t5", {}),
        ("bert", {}),
        ("transformer", dict(dropout=0.0)),
        ("modern", dict(dropout=0.1, attention_dropout=0.0)),
        ("modern", dict(attention_dropout=0.1)),
        ("xlnet", {}),
        ("qwen3", {}),
        ("modern", dict(max_seq_len=256, attention="window", window=16, sparse_block=8)),
    ],
    ids=["decoder", "t5", "bert", "transformer", "dropout", "attention_dropout", "xlnet", "qwen3", "window"],
)
def test_kept_activations_are_estimated_within_reason(name, more):
    """Against what autograd keeps; the estimate also has the gradients of one block, so it is the larger."""
    config, rows = small(name, **{"max_seq_len": 96, **more}), 64
    model = make(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t):
        if (storage := t.untyped_storage()).data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no other comes to lie there
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(**inputs(config, rows)).logits.log_softmax(-1).mean()
    measured = sum(storage.nbytes() for storage in kept.values())
    estimated = sum(part.memory - 20 * part.parameters for part in cost.parts(config, rows, "cpu"))
    assert 0.8 < estimated / measured < 2.6


def test_counting_is_fast_and_draws_nothing():
    import time

    config = PRESETS.load("llama").config(32000)
    cost.parts(config, 1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    began = time.process_time()
    for _ in range(5):
        cost.parts(config, 1)
    assert (time.process_time() - began) / 5 < 0.05
    assert torch.equal(torch.get_rng_state(), state)


def test_the_memory_of_making_a_model_covers_it():
    for name in ("modern", "transformer", "t5", "bert"):
        config = small(name, max_seq_len=512)
        model = make(config)
        weights, tables = cost.taken(config)
        assert weights >= 4 * sum(p.numel() for p in model.parameters())
        assert tables >= sum(b.nbytes for b in model.buffers())


def test_baselines_reckon_for_themselves():
    config = PRESETS.load("ngram").config(50, order=3)
    assert [part.name for part in cost.parts(config, 4)] == ["1-grams", "2-grams", "3-grams"]
    assert cost.taken(config)[1] == 0


def test_sizes_beyond_counting_are_refused_in_one_line():
    with pytest.raises(LabError, match="beyond any machine's") as caught:
        cost.parts(ModelConfig(vocab_size=2**40, d_model=2**24), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "t5", "albert"])
def test_the_sizes_that_are_proposed_can_be_built(name):
    config = PRESETS.load(name).config(300)
    words = smaller(config).split()
    sizes = {flag.removeprefix("--"): int(value) for flag, value in zip(words[::2], words[1::2], strict=True)}
    model = lab.build(name, vocab_size=300, **sizes)
    assert sum(p.numel() for p in model.parameters()) < 2e7


def test_a_model_that_does_not_fit_is_shown_and_not_used(monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2 * 10**9, 10**9))
    model = lab.build("llama", vocab_size=32000, name="big")
    report = model.report()
    assert report.parameters == 6_738_415_616  # Touvron et al. 2023
    (note,) = report.notes
    assert "shown without weights: they take 27.0 GB, and 1.0 GB are free" in note
    assert "--n_layer 4 --d_model 256 --n_head 4" in note
    assert "shown without weights" in str(report)
    for use in (
        lambda: lab.pretrain(["some text " * 99], name="x", model=model, steps=1, display=False),
        lambda: lab.record(model, [[1, 2]]),
        lambda: lab.replace(model, {}).__enter__(),
    ):
        with pytest.raises(LabError, match="built without its 6,738 M weights") as caught:
            use()
        assert "\n" not in str(caught.value)

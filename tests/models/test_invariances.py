"""What must hold of every configuration: causality, padding, recording, caching."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_lab.data.batch import Attend, Batch, lower
from llm_lab.decoding.cache import KVCache
from llm_lab.errors import BadValue, LabError
from llm_lab.models.options import MLPS, NORMS, PATTERNS, POSITIONS, SHAPES, ModelConfig
from llm_lab.models.presets import PRESETS
from llm_lab.probes.recording import record

PARTS: dict[str, Any] = dict(
    vocab_size=st.just(17),
    n_layer=st.integers(1, 2),
    n_head=st.just(4),
    n_kv_head=st.sampled_from([None, 1, 2]),
    d_model=st.just(16),
    d_head=st.sampled_from([None, 6]),
    d_ff=st.just(24),
    d_embed=st.sampled_from([None, 8]),
    max_seq_len=st.just(12),
    norm=st.sampled_from(list(NORMS)),
    norm_place=st.sampled_from(["pre", "post", "sandwich"]),
    embed_norm=st.booleans(),
    position=st.sampled_from(list(POSITIONS)),
    rel_buckets=st.just(8),
    rel_distance=st.just(10),
    attention=st.sampled_from(list(PATTERNS)),
    window=st.just(3),
    stride=st.just(2),
    sparse_block=st.just(4),
    mlp=st.sampled_from(list(MLPS)),
    n_expert=st.sampled_from([None, 3]),
    bias=st.booleans(),
    qk_norm=st.booleans(),
    qk_gain=st.booleans(),
    scale_scores=st.booleans(),
    logit_softcap=st.sampled_from([0.0, 15.0]),
    tie_embeddings=st.booleans(),
    scale_embeddings=st.booleans(),
    scale_logits=st.booleans(),
    share_layers=st.booleans(),
    n_token_type=st.sampled_from([0, 2]),
    output=st.sampled_from(["linear", "mlm"]),
    output_bias=st.booleans(),
    zero_init=st.just(False),
)


def configs(shape: str) -> st.SearchStrategy[ModelConfig]:
    parts = dict(PARTS, attention=st.just("full")) if shape == "permutation" else PARTS
    return st.builds(ModelConfig, shape=st.just(shape), **parts)


def make(config: ModelConfig) -> Any:
    """A model whose weights are all of some size, so that no mistake hides behind a zero."""
    torch.manual_seed(0)
    model = SHAPES.load(config.shape)(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=0.0 if p.ndim > 1 else 0.5, std=0.3)
    return model


SOURCE = torch.arange(14).view(2, 7) * 3 % 17
IDS = torch.arange(24).view(2, 12) * 5 % 17


def run(model: Any, ids: torch.Tensor, source: torch.Tensor = SOURCE, **fields: Any) -> torch.Tensor:
    """Logits for ids: of the decoder where there are two stacks."""
    with torch.no_grad():
        if model.config.shape == "encoder_decoder":
            return model(source[: len(ids)], decoder_ids=ids, **fields).logits
        return model(ids, **fields).logits


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


every = settings(max_examples=10, deadline=None)
CAUSAL, ALL = ["decoder", "encoder_decoder", "permutation"], list(SHAPES)[:4]


@pytest.mark.parametrize("shape", CAUSAL)
@every
@given(data=st.data(), at=st.integers(0, 10))
def test_a_later_token_changes_no_earlier_logit(shape, data, at):
    model, ids = make(data.draw(configs(shape))), IDS[:1]
    changed = ids.clone()
    changed[0, at + 1 :] = (ids[0, at + 1 :] + 1) % 17
    before, after = run(model, ids), run(model, changed)
    close(after[:, : at + 1], before[:, : at + 1])
    assert not torch.allclose(before[:, at + 1 :], after[:, at + 1 :])


@pytest.mark.parametrize(("shape", "fields"), [("encoder", {}), ("decoder", {"attend": Attend(causal=False)})])
@every
@given(data=st.data())
def test_where_it_reads_both_ways_a_later_token_changes_earlier_logits(shape, fields, data):
    model, ids = make(data.draw(configs(shape))), IDS[:1]
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 17
    before, after = run(model, ids, **fields), run(model, changed, **fields)
    assert not torch.allclose(before[:, :-1], after[:, :-1], atol=1e-6)


@every
@given(data=st.data())
def test_every_source_token_reaches_the_decoder(data):
    config = data.draw(configs("encoder_decoder"))
    model = make(config)
    for at in range(7):
        changed = SOURCE.clone()
        changed[:, at] = (changed[:, at] + 1) % 17
        assert not torch.allclose(run(model, IDS), run(model, IDS, changed), atol=1e-6)


@every
@given(data=st.data(), seed=st.integers(0, 99))
def test_in_any_order_a_token_is_predicted_from_those_before_it_alone(data, seed):
    model = make(data.draw(configs("permutation")))
    rng = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(12, generator=rng) for _ in range(2)])
    before = run(model, IDS, attend=Attend(order=order))
    rank = int(torch.randint(12, (), generator=rng))
    changed = torch.where(order >= rank, (IDS + 1) % 17, IDS)
    after = run(model, changed, attend=Attend(order=order))
    close(after[order <= rank], before[order <= rank])
    if rank < 11:
        assert not torch.allclose(after[order > rank], before[order > rank])


@every
@given(data=st.data(), window=st.none() | st.integers(1, 6), packed=st.booleans(), ordered=st.booleans())
def test_in_any_order_a_token_is_predicted_within_its_window_and_segment_alone(data, window, packed, ordered):
    # One layer, so that what a position reads is all that it knows.
    model = make(data.draw(configs("permutation").filter(lambda c: c.n_layer == 1)))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([0] * 4 + [1] * 5 + [2] * 3) if packed else None
    attend = Attend(
        window=window,
        segments=None if segments is None else segments[None],
        order=order[None] if ordered else None,
    )
    before = run(model, IDS[:1], attend=attend)[0]
    for j in range(12):
        changed = IDS[:1].clone()
        changed[0, j] = (changed[0, j] + 1) % 17
        after = run(model, changed, attend=attend)[0]
        for i in range(12):
            reads = order[j] < order[i] if ordered else j <= i
            reads = reads and (window is None or abs(i - j) < window)
            reads = reads and (segments is None or segments[i] == segments[j])
            assert reads or torch.allclose(after[i], before[i], atol=2e-5, rtol=1e-4), (i, j)
            assert not reads or not torch.equal(after[i], before[i]), (i, j)


@pytest.mark.parametrize(
    ("attend", "says"),
    [
        (Attend(causal=False), "^attend.causal: False would show two streams the tokens that they predict"),
        (Attend(prefix=torch.tensor([2])), "^attend.prefix would show"),
    ],
)
def test_what_two_streams_cannot_honour_is_refused(attend, says):
    model = make(ModelConfig(vocab_size=17, d_model=16, max_seq_len=12, shape="permutation"))
    with pytest.raises(BadValue, match=says):
        run(model, IDS[:1], attend=attend)
    run(model, IDS[:1], attend=Attend(causal=False, order=torch.arange(12)[None]))


@pytest.mark.parametrize("shape", ALL)
@every
@given(data=st.data())
def test_recording_changes_nothing_and_sees_every_site(shape, data):
    model = make(data.draw(configs(shape)))
    two = shape == "encoder_decoder"
    batch = Batch(IDS, attend=Attend(causal=shape != "encoder" and not two), decoder_ids=IDS if two else None)
    plain = run(model, IDS, IDS) if two else run(model, IDS)
    found = record(model, batch)
    close(found["logits"], plain)
    assert list(found) == list(model.sites())
    for name, shape_ in model.sites().items():
        assert tuple(found[name].shape) == eval(shape_, {"B": 2, "T": 12, "S": 12}), name
    for name in (name for name in found if name.endswith("pattern")):
        torch.testing.assert_close(found[name].sum(-1), torch.ones(found[name].shape[:-1]))


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder"])
@every
@given(data=st.data(), cut=st.integers(1, 11))
def test_cached_equals_uncached(shape, data, cut):
    config = data.draw(configs(shape))
    model, cache = make(config), KVCache(config, 2)
    pieces = [run(model, IDS[:, :cut], cache=cache)]
    pieces += [run(model, IDS[:, i : i + 1], cache=cache) for i in range(cut, 12)]
    close(torch.cat(pieces, dim=1), run(model, IDS))


@pytest.mark.parametrize("shape", ALL)
@every
@given(data=st.data(), pad=st.integers(1, 5))
def test_padding_at_the_right_changes_nothing(shape, data, pad):
    model, ids = make(data.draw(configs(shape))), IDS[:, :7]
    keep = (torch.arange(7 + pad) < 7).expand(2, -1)
    padded = torch.cat([ids, torch.full((2, pad), 3)], dim=1)
    attend = Attend(causal=shape in ("decoder", "permutation"), keep=keep)
    if shape == "encoder_decoder":
        close(run(model, IDS, padded, attend=attend), run(model, IDS, ids))
    else:
        close(run(model, padded, attend=attend)[:, :7], run(model, ids))


@every
@given(data=st.data(), pad=st.integers(1, 5))
def test_padding_at_the_left_changes_nothing(data, pad):
    config = data.draw(configs("decoder").filter(lambda c: c.attention not in ("longformer", "bigbird")))
    model, ids = make(config), IDS[:1, :7]
    keep = torch.arange(7 + pad)[None] >= pad
    positions = (torch.arange(7 + pad)[None] - pad).clamp(min=0)
    padded = torch.cat([torch.full((1, pad), 3), ids], dim=1)
    close(run(model, padded, attend=Attend(keep=keep), position_ids=positions)[:, pad:], run(model, ids))


@pytest.mark.parametrize("shape", ALL)
@every
@given(data=st.data())
def test_the_order_of_a_batch_changes_nothing(shape, data):
    model = make(data.draw(configs(shape)))
    close(run(model, IDS.flip(0), SOURCE.flip(0)), run(model, IDS).flip(0))


@given(
    st.booleans(),
    st.none() | st.integers(1, 6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_attend_is_lowered_as_it_is_defined(causal, window, has_prefix, has_segments, has_order, has_keep, n_query):
    n_key, rng = 5, torch.Generator().manual_seed(1)
    prefix = torch.tensor([2, 0]) if has_prefix else None
    segments = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]]) if has_segments else None
    order = torch.stack([torch.randperm(5, generator=rng) for _ in range(2)]) if has_order else None
    keep = torch.tensor([[False, True, True, True, True], [True] * 5]) if has_keep else None
    attend = Attend(causal, window, prefix, segments, order, keep)
    is_causal, mask = lower(attend, n_query, n_key, torch.device("cpu"))
    for b, row, j in itertools.product(range(2), range(n_query), range(n_key)):
        i = n_key - n_query + row
        allowed = order[b, j] <= order[b, i] if order is not None else j <= i if causal else True
        far = i - j if causal and order is None else abs(i - j)
        allowed = allowed and (window is None or far < window)
        allowed = allowed or (prefix is not None and j < prefix[b])
        allowed = allowed and (segments is None or segments[b, i] == segments[b, j])
        allowed = allowed and (keep is None or bool(keep[b, j]))
        allowed = allowed or (keep is not None and i == j)
        if is_causal:
            got = j <= row
            assert n_query == n_key
        else:
            got = True if mask is None else bool(mask[min(b, len(mask) - 1), 0, row, j])
        assert got == bool(allowed), (attend, b, i, j)


def test_the_fast_path_is_taken_where_it_can_be():
    assert lower(Attend(), 5, 5, torch.device("cpu")) == (True, None)
    assert lower(Attend(), 1, 5, torch.device("cpu")) == (False, None)
    assert lower(Attend(causal=False), 5, 5, torch.device("cpu")) == (False, None)
    assert lower(Attend(window=9), 5, 5, torch.device("cpu")) == (True, None)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (dict(d_model=100, n_head=3), "n_head"),
        (dict(n_head=4, n_kv_head=3), "n_kv_head"),
        (dict(d_model=20, n_head=4), "even"),
        (dict(n_layer=0), "at least 1"),
        (dict(norm="rmsnrom"), "did you mean 'rmsnorm'"),
        (dict(dropout=1.0), "below 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, says):
    with pytest.raises(LabError, match=says):
        ModelConfig(vocab_size=8, **sizes)


def test_what_the_error_proposes_works():
    with pytest.raises(BadValue) as caught:
        ModelConfig(vocab_size=8, d_model=128, n_head=5)
    assert "--n_head 4" in str(caught.value)
    assert "--d_model 130" in str(caught.value)
    ModelConfig(vocab_size=8, d_model=128, n_head=4)
    ModelConfig(vocab_size=8, d_model=130, n_head=5)


@pytest.mark.parametrize("position", list(POSITIONS))
@pytest.mark.parametrize("shape", ALL)
def test_a_position_outside_of_the_context_is_refused(shape, position):
    model = make(ModelConfig(vocab_size=17, d_model=16, max_seq_len=12, shape=shape, position=position))
    fields = {"decoder_ids": IDS} if shape == "encoder_decoder" else {}
    places = torch.arange(12)[None].clone()
    model(IDS, position_ids=places, **fields)
    for wrong in (12, -1):
        places[0, 5] = wrong
        with pytest.raises(
            BadValue, match=f"^position_ids: {wrong} is not in the context of 12; positions are 0 to 11$"
        ):
            model(IDS, position_ids=places, **fields)


def test_where_scores_are_not_scaled_attention_begins_as_t5s_does():
    """Its queries are drawn at (d_model · d_kv)^−½, all else as ever (transformers' T5 is the reference)."""
    theirs = pytest.importorskip("transformers", reason="transformers is the reference")
    sizes = dict(vocab_size=30, d_model=128, d_ff=16, num_heads=2, d_kv=64, num_layers=1)
    torch.manual_seed(0)
    reference = theirs.T5ForConditionalGeneration(theirs.T5Config(**sizes))
    config = PRESETS.load("t5").config(30, n_layer=1, n_head=2, d_model=128, d_ff=16, max_seq_len=16)
    ours = SHAPES.load(config.shape)(config).eval()
    named = dict(reference.named_parameters())
    for path, at in (("encoder.block.0.layer.0.SelfAttention", ours.encoder.blocks[0].attn),
                     ("decoder.block.0.layer.0.SelfAttention", ours.decoder.blocks[0].attn),
                     ("decoder.block.0.layer.1.EncDecAttention", ours.decoder.blocks[0].cross)):  # fmt: skip
        q, *kv = at.qkv.weight.split(128) if hasattr(at, "qkv") else (at.q.weight, *at.kv.weight.split(128))
        for name, weight in zip("qkv", (q, *kv), strict=True):
            assert weight.std().item() == pytest.approx(named[f"{path}.{name}.weight"].std().item(), rel=0.05)
    ids = torch.randint(30, (4, 16))
    scores = record(
        ours, Batch(ids, decoder_ids=ids), ["encoder.blocks.0.attn.scores", "decoder.blocks.0.cross.scores"]
    )
    for found in scores.values():
        assert found[found.isfinite()].std() < 3  # 8 times as much, it would look at one token alone
    plain = SHAPES.load("decoder")(ModelConfig(vocab_size=9, qk_norm=False))
    assert plain.blocks[0].attn.qkv.weight[:128].std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(BadValue, match="13 tokens do not fit the context of 12"):
        make(ModelConfig(vocab_size=17, d_model=16, max_seq_len=12))(torch.zeros(1, 13, dtype=torch.long))

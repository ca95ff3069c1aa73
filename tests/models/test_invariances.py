"""What must hold of every configuration: causality, padding, recording, caching."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_lab.data.batch import Attend, Batch, lower
from llm_lab.decoding.cache import KVCache
from llm_lab.errors import BadValue, LabError
from llm_lab.models.options import MLPS, NORMS, POSITIONS, ModelConfig
from llm_lab.models.transformer import Decoder
from llm_lab.probes.recording import record

configs = st.builds(
    ModelConfig,
    vocab_size=st.just(17),
    n_layer=st.integers(1, 3),
    n_head=st.just(4),
    n_kv_head=st.sampled_from([None, 1, 2]),
    d_model=st.just(16),
    max_seq_len=st.just(12),
    norm=st.sampled_from(list(NORMS)),
    position=st.sampled_from(list(POSITIONS)),
    mlp=st.sampled_from(list(MLPS)),
    bias=st.booleans(),
    qk_norm=st.booleans(),
    logit_softcap=st.sampled_from([0.0, 15.0]),
    tie_embeddings=st.booleans(),
    zero_init=st.just(False),
)


def make(config: ModelConfig) -> Decoder:
    torch.manual_seed(0)
    return Decoder(config).eval()


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 10))
def test_a_later_token_changes_no_earlier_logit(config, at):
    model, ids = make(config), torch.randint(0, 17, (1, 12), generator=torch.Generator().manual_seed(at))
    changed = ids.clone()
    changed[0, at + 1 :] = (ids[0, at + 1 :] + 1) % 17
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, : at + 1], after[:, : at + 1])
    assert not torch.allclose(before[:, at + 1 :], after[:, at + 1 :])


@settings(max_examples=25, deadline=None)
@given(configs)
def test_recording_changes_nothing_and_sees_every_site(config):
    model, ids = make(config), torch.arange(24).view(2, 12) % 17
    plain = model(ids).logits
    found = record(model, Batch(ids))
    torch.testing.assert_close(found["logits"], plain, atol=1e-5, rtol=1e-5)
    assert list(found) == list(model.sites())
    for name, shape in model.sites().items():
        want = eval(shape, {"B": 2, "T": 12, "S": 12})
        assert tuple(found[name].shape) == want, name
    torch.testing.assert_close(found["blocks.0.attn.pattern"].sum(-1), torch.ones(2, 4, 12))


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(1, 11))
def test_cached_equals_uncached(config, cut):
    model, ids = make(config), torch.arange(24).view(2, 12) % 17
    cache = KVCache(config, 2, torch.device("cpu"))
    with torch.no_grad():
        whole = model(ids).logits
        pieces = [model(ids[:, :cut], cache=cache).logits]
        pieces += [model(ids[:, i : i + 1], cache=cache).logits for i in range(cut, 12)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(configs, st.integers(1, 5))
def test_padding_changes_nothing(config, pad):
    model, ids = make(config), torch.arange(7)[None] % 17
    keep = torch.arange(7 + pad)[None] >= pad
    positions = (torch.arange(7 + pad)[None] - pad).clamp(min=0)
    padded = torch.cat([torch.full((1, pad), 3), ids], dim=1)
    with torch.no_grad():
        got = model(padded, attend=Attend(keep=keep), position_ids=positions).logits[:, pad:]
        torch.testing.assert_close(got, model(ids).logits, atol=1e-5, rtol=1e-5)


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
        allowed = allowed and (window is None or j > i - window)
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


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(BadValue, match="13 tokens do not fit the context of 12"):
        make(ModelConfig(vocab_size=17, d_model=16, max_seq_len=12))(torch.zeros(1, 13, dtype=torch.long))

"""Sparse attention is the dense one under the pattern's mask, at a part of its work; the patterns are as defined."""

from __future__ import annotations

import warnings

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

from llm_lab.models import tiles
from llm_lab.models.options import PATTERNS, ModelConfig
from llm_lab.models.patterns import BigBird
from llm_lab.models.positions import ALiBi, T5Relative
from llm_lab.models.sparse import Layout, dense_mask, plan, worthwhile

CPU = torch.device("cpu")
SIZES = dict(window=7, stride=5, n_global=3, n_random=2, sparse_block=8, max_seq_len=128)
NAMES = [entry for entry in PATTERNS if entry != "full"]
LENGTHS = (1, 64, 99)  # one position, whole tiles, and not
SCALE = 0.4


def config(**changed) -> ModelConfig:
    return ModelConfig(vocab_size=9, n_head=4, n_kv_head=2, d_model=32, **{**SIZES, **changed})


def made(name: str, **changed):
    return PATTERNS.load(name)(config(**changed))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Gathering is taken to be nearly free, so that short sequences have many tiles, and calls that fill little up."""
    monkeypatch.setattr(tiles, "GATHER", 2)
    monkeypatch.setattr(tiles, "_CALL", 256)


def by_hand(name: str, query: int, key: int, c: ModelConfig) -> bool:
    """The definitions, in integers."""
    distance = abs(query - key)
    near = distance < c.window
    global_ = query < c.n_global or key < c.n_global
    if name == "window":
        return near
    if name == "dilated":
        return any(distance == c.stride * step for step in range(c.window))
    if name == "strided":
        return distance < c.stride or query % c.stride == key % c.stride
    if name == "longformer":
        return near or global_
    drawn = BigBird(c)._blocks(CPU)
    return near or global_ or bool(drawn[query // c.sparse_block, key // c.sparse_block])


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_as_defined(name):
    pattern = made(name)
    position = torch.arange(40)
    found = pattern.allowed(position[:, None], position[None, :])
    assert found.tolist() == [[by_hand(name, q, k, pattern.config) for k in range(40)] for q in range(40)]
    parts = torch.stack([part.allowed(position[:, None], position[None, :]) for part in pattern.parts()])
    assert torch.equal(parts.sum(dim=0), found.long())  # no pair is in two parts


def test_full_allows_all():
    pattern = made("full")
    assert dense_mask(pattern, False, 3, 5, CPU).all()
    assert torch.equal(dense_mask(pattern, True, 5, 5, CPU)[0, 0], torch.ones(5, 5).tril().bool())


def test_a_window_is_mistrals():
    mask = dense_mask(made("window", window=3), True, 6, 6, CPU)[0, 0]
    assert mask.sum(dim=1).tolist() == [1, 2, 3, 3, 3, 3]


def test_random_blocks():
    drawn = BigBird(config())._blocks(CPU)
    assert drawn.sum(dim=1).tolist() == [2] * 16
    assert not drawn.diagonal().any()
    assert torch.equal(drawn, BigBird(config())._blocks(CPU))
    assert not torch.equal(drawn[0], drawn[1])
    assert not BigBird(config(n_random=0))._blocks(CPU).any()
    assert BigBird(config(max_seq_len=8, n_random=5))._blocks(CPU).tolist() == [[False]]


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_with_a_cache_is_the_end_of_the_whole(name):
    whole = dense_mask(made(name), True, 60, 60, CPU)
    assert torch.equal(dense_mask(made(name), True, 7, 60, CPU), whole[:, :, -7:])
    assert torch.equal(
        dense_mask(made(name), True, 40, 40, CPU), whole[:, :, :40, :40]
    )  # a shorter text changes nothing


def dense(pattern, causal, q, k, v, keep, bias):
    """Attention over the whole square, in double precision."""
    n = q.shape[2]
    position = torch.arange(n)
    mask = dense_mask(pattern, causal, n, n, CPU)
    if keep is not None:
        mask = (mask & keep[:, None, None, :]) | torch.eye(n, dtype=torch.bool)
    scores = q.double() @ k.double().repeat_interleave(2, dim=1).mT * SCALE
    if bias is not None:
        scores = scores + bias(position[:, None], position[None, :])
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v.double().repeat_interleave(2, dim=1)


def inputs(n: int, requires_grad: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(n)
    shapes = [(3, n, 4, 8), (3, n, 2, 8), (3, n, 2, 8)]
    return [(2 * torch.randn(shape)).requires_grad_(requires_grad) for shape in shapes]


def padded(n: int) -> torch.Tensor:
    """Padding at the left, at the right, and none."""
    keep = torch.ones(3, n, dtype=torch.bool)
    keep[0, : n // 3] = False
    keep[1, n - n // 2 :] = False
    return keep


@pytest.mark.parametrize("bias", [None, ALiBi, T5Relative])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_equals_dense_attention_and_so_do_its_gradients(name, causal, padding, bias):
    pattern = made(name)
    for n in LENGTHS:
        leaves = inputs(n, requires_grad=True)
        q, k, v = (leaf.transpose(1, 2) for leaf in leaves)
        keep = padded(n) if padding else None
        position = bias(config()) if bias else None
        add = position.bias if position else None
        learned = list(position.parameters()) if position else []
        z = plan(pattern, causal, n, CPU).attend(q, k, v, SCALE, keep, add)
        reference = dense(pattern, causal, q, k, v, keep, add)
        torch.testing.assert_close(z.double(), reference, atol=1e-5, rtol=1e-5)
        weight = torch.randn_like(z)
        found = torch.autograd.grad((z * weight).sum(), [*leaves, *learned])
        wanted = torch.autograd.grad((reference * weight).sum(), [*leaves, *learned])
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["window", "strided"])
def test_a_position_without_bias_adds_nothing(name):
    q, k, v = (x.transpose(1, 2) for x in inputs(40))
    layout = plan(made(name), True, 40, CPU)
    assert torch.equal(layout.attend(q, k, v, SCALE, None, lambda query, key: None), layout.attend(q, k, v, SCALE))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_drops_weights_and_keeps_the_mean(name):
    q, k, _ = (x.transpose(1, 2) for x in inputs(40))
    v = torch.ones(3, 2, 40, 8)
    layout = plan(made(name), False, 40, CPU)
    torch.manual_seed(0)
    z = torch.stack([layout.attend(q, k, v, SCALE, dropout=0.3) for _ in range(20)])
    assert z.std() > 0.05
    assert abs(z.mean() - 1) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    q, k, v = (x.transpose(1, 2) for x in inputs(64))
    layout = plan(made(name), True, 64, CPU)
    z = layout.attend(*(x.bfloat16() for x in (q, k, v)), SCALE, padded(64))
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z.float(), layout.attend(q, k, v, SCALE, padded(64)), atol=0.15, rtol=0.1)


@pytest.fixture
def unchecked_shapes():
    """FlexAttention traces the rules, and cannot trace what checks the shapes of their arguments."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("causal", "bias"), [(True, ALiBi), (False, T5Relative), (True, None)])
@pytest.mark.parametrize("name", NAMES)
def test_flex_attention_gives_the_same(name, causal, bias):
    """Forward and step by step: compiled and backward it runs on CUDA alone."""
    n, pattern = 99, made(name)
    q, k, v = (x.transpose(1, 2) for x in inputs(n))
    layout = plan(pattern, causal, n, CPU)
    add = bias(config()).bias if bias else None
    for keep in (None, padded(n)):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow step by step
            z = layout.flex(q, k, v, SCALE, keep, add, layout.block_mask(CPU))
            torch.testing.assert_close(z.double(), dense(pattern, causal, q, k, v, keep, add), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_share_counts_what_is_computed(name, causal, monkeypatch):
    n, pattern = 120, made(name)
    layout = Layout(pattern, causal, n, CPU)
    allowed = dense_mask(pattern, causal, n, n, CPU).float().mean().item()
    covered = sum(int((t.allowed & ~t.repeated[:, :, None]).sum()) for g in layout.groups for t in g.tiles)
    assert covered == round(allowed * n * n)  # each pair once
    assert allowed <= layout.share < (0.8 if causal else 1)
    counted = 0
    real = F.scaled_dot_product_attention

    def counting(q, k, *rest, **more):
        nonlocal counted
        counted += q.shape[0] * q.shape[2] * k.shape[2]
        return real(q, k, *rest, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    layout.attend(*(x.transpose(1, 2) for x in inputs(n)), SCALE)
    assert counted == (0 if name == "strided" else round(layout.share * n * n))


def test_work_grows_with_the_length_and_not_with_its_square():
    for name in ("window", "longformer", "dilated", "bigbird"):
        short, long = (plan(made(name, window=24, max_seq_len=1024), True, n, CPU) for n in (256, 1024))
        assert long.share * 1024**2 < 5 * short.share * 256**2
        assert long.share < 0.1
        assert worthwhile(long)
    assert plan(made("strided", stride=32), True, 1024, CPU).share < 0.1


def test_small_or_dense_layouts_are_not_worthwhile():
    assert not worthwhile(plan(made("window"), True, 5, CPU))
    assert not worthwhile(plan(made("window", window=100), False, 99, CPU))


def test_plans_are_found_again():
    assert plan(made("bigbird"), True, 64, CPU) is plan(made("bigbird"), True, 64, CPU)
    assert plan(made("window"), True, 64, CPU) is not plan(made("window", window=8), True, 64, CPU)
    assert made("window") != made("longformer")


@pytest.mark.parametrize("name", ["longformer", "strided"])
def test_no_row_is_undefined_where_all_is_padding(name):
    q, k, v = (x.transpose(1, 2).requires_grad_() for x in inputs(40))
    z = plan(made(name), True, 40, CPU).attend(q, k, v, SCALE, torch.zeros(3, 40, dtype=torch.bool))
    torch.testing.assert_close(z, v.repeat_interleave(2, dim=1))
    assert all(g.isfinite().all() for g in torch.autograd.grad(z.sum(), (q, k, v)))

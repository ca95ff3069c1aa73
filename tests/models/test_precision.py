"""Mixed precision: the fast path and the plain one agree within bfloat16's rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm_lab.models.attention import Attention
from llm_lab.models.look import Look
from llm_lab.models.options import ModelConfig
from llm_lab.training.optimizers import Muon, orthogonalize


def test_attention_is_computed_in_full_precision_between_bfloat16_products(monkeypatch):
    """On a CPU in mixed precision: what the kernel is given is float32, and its result that of bfloat16 products alone."""
    config = ModelConfig(vocab_size=8, n_layer=1, n_head=2, d_model=64, max_seq_len=16)
    torch.manual_seed(0)
    attention, x = Attention(config), torch.randn(2, 16, 64)
    torch.nn.init.normal_(attention.out.weight, std=0.1)
    given: list[torch.dtype] = []
    kernel = F.scaled_dot_product_attention

    def seen(q, *rest, **more):
        assert not torch.is_autocast_enabled("cpu")
        given.append(q.dtype)
        return kernel(q, *rest, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    exact = attention(x, Look(is_causal=True), "a")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention(x, Look(is_causal=True), "a")
    assert given == [torch.float32, torch.float32] and mixed.dtype == torch.bfloat16
    assert 0 < (mixed.float() - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("shape", [(2, 96, 32), (3, 32, 128)])
def test_orthogonalisation_in_bfloat16_is_as_rough_as_in_full_precision(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    exact, fast = orthogonalize(x), orthogonalize(x.bfloat16()).float()
    for made in (exact, fast):
        values = torch.linalg.svdvals(made)
        assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    assert float((fast - exact).norm() / exact.norm()) < 0.05


def test_a_step_of_muon_is_the_same_by_one_matrix_and_by_many():
    """Weights decay, momentum is Nesterov's, matrices of one shape go together: against the formula, one at a time."""
    torch.manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 8), (24, 8)]
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    splits = {"p3": (8, 8, 8)}
    optimizer = Muon([(f"p{i}", p) for i, p in enumerate(given)], splits, lr=0.1, weight_decay=0.5)
    expected = [p.detach().clone() for p in given]
    held = [torch.zeros(shape) for shape in shapes]
    for _ in range(3):
        for i, p in enumerate(given):
            p.grad = torch.randn_like(p)
            held[i] = 0.95 * held[i] + 0.05 * p.grad
            direction = 0.05 * p.grad + 0.95 * held[i]
            for part, weight in zip(
                direction.split(splits.get(f"p{i}", p.shape[0])),
                expected[i].split(splits.get(f"p{i}", p.shape[0])),
                strict=True,
            ):
                rows, columns = part.shape
                weight.mul_(1 - 0.1 * 0.5).sub_(0.1 * max(1, rows / columns) ** 0.5 * orthogonalize(part[None])[0])
        optimizer.step()
    for p, e in zip(given, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, atol=1e-4, rtol=1e-4)

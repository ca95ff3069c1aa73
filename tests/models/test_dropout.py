"""Our own draw of what is dropped on a CPU: as many as asked, anywhere, the same for the same seed, with the mean kept."""

from __future__ import annotations

import pytest
import torch

from llm_lab.models.dropout import dropout


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_many_as_asked_and_the_mean_stays(share, dtype):
    torch.manual_seed(0)
    x = dropout(torch.ones(1000, 1003, dtype=dtype), share)
    spread = (share * (1 - share) / x.numel()) ** 0.5
    assert (x == 0).float().mean().item() == pytest.approx(share, abs=5 * spread + 2**-16)
    kept = x[x != 0].unique()
    assert kept.dtype == dtype
    assert kept.tolist() == pytest.approx([1 / (1 - share)], rel=0.005 if dtype == torch.bfloat16 else 1e-3)


def test_places_are_dropped_independently():
    """One draw decides of four neighbours; they must know nothing of each other, nor of the next draw's."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(1 << 22), 0.5) != 0).float() - 0.5
    for apart in (1, 2, 3, 4, 8, 64):
        assert (kept[apart:] * kept[:-apart]).mean().abs().item() < 5 * 0.25 / kept.numel() ** 0.5
    each = kept.view(-1, 4).mean(dim=0)
    assert each.abs().max().item() < 5 * 0.5 / len(kept.view(-1, 4)) ** 0.5


def test_the_same_seed_drops_the_same_whatever_the_threads():
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(3)
            found.append(dropout(torch.randn(300, 301), 0.3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_gradients_go_where_something_was_kept():
    torch.manual_seed(0)
    x = torch.randn(5, 7, 3, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.4)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, (y / x).detach())
    assert 0 < (grad == 0).sum() < grad.numel()


def test_nothing_is_drawn_where_nothing_is_dropped_and_an_empty_text_is_no_error():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    x = torch.randn(0, 4)
    assert dropout(x, 0.5).shape == x.shape
    y = torch.ones(3)
    assert dropout(y, 0.0) is y
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_shares_at_either_end_are_finite(share):
    assert torch.isfinite(dropout(torch.ones(100, 100), share)).all()

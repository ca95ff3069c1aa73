"""Products of few rows: torch's own numbers, whichever way they are made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm_lab.models import products
from llm_lab.models.products import prepared, product
from tests.models.test_stepwise import make


@pytest.fixture
def split(monkeypatch):
    """How often a product was made of parts; small weights are large here."""
    made = []
    for name in ("_SMALL", "_LARGE"):
        monkeypatch.setattr(products, name, 0)
    for name in ("bmm", "baddbmm"):
        real = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, real=real: made.append(1) or real(*args))
    return made


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 97])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (5, 48), (2, 3, 48), (0, 48)])
def test_the_numbers_are_those_of_linear(split, monkeypatch, threads, n, bias, shape):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(n)
    x, w = (torch.randn(*size, generator=generator) for size in (shape, (n, 48)))
    b = torch.randn(n, generator=generator) if bias else None
    with torch.no_grad():
        found, expected = product(x, w, b), F.linear(x, w, b)
    assert len(split) == 1
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_only_where_it_is_faster(split):
    x, w = torch.randn(3, 48), torch.randn(64, 48)
    product(x, w)  # with a gradient to come
    with torch.no_grad():
        product(x.bfloat16(), w.bfloat16())
        product(torch.randn(products._NEAR // 48 + 1, 48), w)
        product(x, torch.randn(48, 64).t())
        with torch.autocast("cpu", torch.bfloat16):
            assert product(x, w).dtype == torch.bfloat16
    assert not split


class Packed(torch.Tensor):
    """What quantisation may put in a weight's place: it can be multiplied, and that is all."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is F.linear:
            return F.linear(args[0], args[1].as_subclass(torch.Tensor))
        if function.__name__ in ("__get__", "numel", "is_contiguous"):
            return super().__torch_function__(function, types, args, kwargs or {})
        raise NotImplementedError(function)


def test_tensors_of_another_make_are_left_whole(split):
    w = torch.randn(64, 48)
    x = torch.randn(2, 48)
    with torch.no_grad():
        torch.testing.assert_close(product(x, w.as_subclass(Packed)), F.linear(x, w))
        assert not split
        assert product(x.to("meta"), w.to("meta")).shape == (2, 64)


def test_tangents_pass_through(split):
    x, w = torch.randn(2, 48), torch.randn(64, 48)
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda w: product(x, w), (w,), (torch.ones_like(w),))
    assert split
    torch.testing.assert_close(tangent, F.linear(x, torch.ones_like(w)))


def test_small_weights_and_more_rows_go_torchs_way(split, monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1 << 30)
    x, w = torch.randn(5, 48), torch.randn(64, 48)
    with torch.no_grad():
        product(x, w)
        assert not split
        product(x[:4], w)
        assert len(split) == 1
        monkeypatch.setattr(products, "_SMALL", 1 << 30)
        product(x[:4], w)
    assert len(split) == 1


def test_weights_that_change_later_are_those_of_the_product(split):
    w = torch.nn.Parameter(torch.randn(64, 48))
    x, run = torch.randn(2, 48), prepared(w)
    with torch.no_grad():
        w.mul_(2)
        torch.testing.assert_close(run(x), F.linear(x, w))
    assert len(split) == 1


def test_a_model_writes_the_same_with_them(split, monkeypatch):
    model = make()
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(ids).logits
        assert split
        monkeypatch.setattr(products, "_SMALL", 1 << 30)
        torch.testing.assert_close(found, model(ids).logits, atol=1e-5, rtol=1e-5)

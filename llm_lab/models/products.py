"""Products of a few rows with a large matrix, which is what writing a token consists of, at the speed of memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of weights from a megabyte on up to four rows, and of those from four megabytes on, which no cache next to a core holds, as many
# rows as stay in one while the weights are read. Measured: with more rows, or smaller weights, torch's own way is as fast.
_SMALL, _FEW = 1 << 18, 4
_LARGE, _NEAR = 1 << 20, 6144  # numbers


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, (…, K) and (N, K) to (…, N), as `F.linear`; without a gradient and of few rows as `prepared` makes it."""
    if torch.is_grad_enabled() or weight.numel() < _SMALL or x.numel() > _NEAR or not _plain(weight):
        return F.linear(x, weight, bias)
    return prepared(weight, bias)(x)


def _plain(weight: Tensor) -> bool:
    """Whether parts of it can be taken: others' tensors, as of quantisation, may only look like one; and what is compiled
    would be held to the rows and the threads of one call."""
    kind = type(weight) in (Tensor, nn.Parameter) and weight.dtype == torch.float32 and weight.is_contiguous()
    elsewhere = weight.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return kind and not elsewhere


def prepared(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """The product with these weights, for one x after the other. Where they are large and float32 on a CPU, torch gives one of
    few rows to a single thread, which reads a third of what memory gives; as products of parts of the weights, side by
    side, all threads read. The weights are not copied."""
    n, k = weight.shape
    parts = min(n, max(2, torch.get_num_threads()))
    if not _plain(weight) or weight.numel() < _SMALL:
        return partial(F.linear, weight=weight, bias=bias)
    most = _NEAR if weight.numel() >= _LARGE else _FEW * k
    even = n - n % parts
    with torch.no_grad():
        b = None if bias is None else bias[:, None]
        split = weight[:even].view(parts, -1, k)
        added = None if b is None else b[:even].view(parts, -1, 1)

    def run(x: Tensor) -> Tensor:
        if x.numel() > most or x.dtype != torch.float32:
            return F.linear(x, weight, bias)
        columns = x.reshape(-1, k).t()
        rows = columns.shape[1]
        each = columns.expand(parts, k, rows)
        made = (torch.bmm(split, each) if added is None else torch.baddbmm(added, split, each)).view(even, rows)
        if even != n:
            last = weight[even:] @ columns
            made = torch.cat([made, last if b is None else last + b[even:]])
        return (made if rows == 1 else made.t().contiguous()).view(*x.shape[:-1], n)

    return run

"""How the learning rate moves: a factor of its peak at `done`, the share of the run that is behind (0 to 1)."""

from __future__ import annotations

import math


def _rise(done: float, warmup: float) -> float:
    return min(1.0, done / warmup) if warmup else 1.0


def linear(done: float, warmup: float) -> float:
    """Warm-up, then a straight line to zero (Defazio et al. 2023)."""
    return _rise(done, warmup) if done < warmup else max(0.0, (1 - done) / (1 - warmup))


def cosine(done: float, warmup: float) -> float:
    """Warm-up, then half a cosine down to a tenth of the peak (Loshchilov & Hutter 2016; Hoffmann et al. 2022)."""
    if done < warmup:
        return _rise(done, warmup)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def constant(done: float, warmup: float) -> float:
    """Warm-up, then the peak."""
    return _rise(done, warmup)

"""The decoding loop: one for every strategy, with a cache where the model has one. It knows ids, and no text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from llm_lab.decoding.rows import Rows
from llm_lab.decoding.strategy import Strategy
from llm_lab.models.language_model import evaluating

SMALL = 20_000_000  # weights times rows; below, threads wait for each other longer than one of them works


@contextlib.contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """While a token of a small model is computed on a CPU: measured, five times as fast as two."""
    before = torch.get_num_threads()
    few = wanted and before > 1
    if few:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if few:
            torch.set_num_threads(before)


def decode(
    rows: Rows,
    strategy: Strategy,
    generator: torch.Generator,
    ended: Callable[[list[int]], bool] | None = None,
    begin: Sequence[int] = (),
) -> Iterator[Rows]:
    """Write up to `rows.new` tokens after each row; gives the rows after every step.

    A row ends with a token of `rows.stop`, or where `ended` says so of what it has written. `begin` are the first of the
    tokens, given instead of chosen. The model's mode is put back at the end.
    """
    model, trains = rows.model, False
    try:
        with evaluating(model):
            weights = sum(p.numel() for p in model.parameters())
            small = model.device.type == "cpu" and weights * len(rows.ids) < SMALL
            if begin:
                with torch.no_grad(), _one_thread(small):
                    rows.give(begin)
                if ended is not None:
                    _end_texts(rows, len(begin), ended)
                yield rows
            while rows.left > 0 and not rows.over(rarely=strategy.by_row and ended is None):
                if model.training:  # somebody else has set it while we gave way, and is to find it so
                    trains = True
                    model.eval()
                with torch.no_grad(), _one_thread(small):
                    step = strategy.step(rows, generator)
                    rows.append(step)
                if ended is not None:
                    _end_texts(rows, step.tokens.shape[1], ended)
                yield rows
                if step.final:
                    return
    finally:
        if trains:
            model.train()


def _end_texts(rows: Rows, new: int, ended: Callable[[list[int]], bool]) -> None:
    """End the rows whose text says so, each after the first of the `new` tokens that did."""
    for row in torch.nonzero(rows.alive)[:, 0].tolist():
        written = rows.ids[row, rows.begin :].tolist()
        for length in range(len(written) - new + 1, len(written) + 1):
            if ended(written[:length]):
                rows.end(row, length)
                break

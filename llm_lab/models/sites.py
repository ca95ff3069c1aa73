"""Named activations that a probe can read or replace while a model runs.

A module calls `x = site(x, "blocks.0.attn.q")`. With no tape open that is one look at a context variable; under
torch.compile it is nothing at all. Tapes are bound to one model and to the context that opened them, and are closed
by leaving a `with`, whatever was raised inside.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llm_lab.errors import BadValue, listing, show, suggestion

Replacement = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Tape:
    """What to read and what to replace in one model."""

    model: nn.Module
    read: frozenset[str] = frozenset()
    replacements: Mapping[str, Replacement] = field(default_factory=dict)
    grad: bool = False
    take: Callable[[Tensor, str], Tensor] | None = None  # what is kept of an activation, where not all of it
    found: dict[str, Tensor] = field(default_factory=dict)

    def visit(self, x: Tensor, name: str) -> Tensor:
        if name in self.replacements:
            x = replaced(self.replacements[name], x, name)
        if name in self.read:
            self.found[name] = kept(x if self.take is None else self.take(x, name), self.grad)
        return x


def kept(x: Tensor, grad: bool) -> Tensor:
    """An activation as it is recorded: one of its own, or with `grad` the one in the graph."""
    return x if grad else x.detach().clone()


def replaced(function: Replacement, x: Tensor, name: str) -> Tensor:
    """What a replacement makes of an activation: a tensor like it, or BadValue. It works on a copy, so that one that
    writes in place changes nothing that was recorded."""
    new = function(x.clone())
    if not isinstance(new, Tensor) or new.shape != x.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise BadValue(f"replace {name!r}: the function must return a tensor of shape {tuple(x.shape)}, not {got}")
    if new.dtype != x.dtype or new.device != x.device:
        raise BadValue(
            f"replace {name!r}: the function must return {x.dtype} on {x.device}, not {new.dtype} on {new.device}; new.to(x) would do"
        )
    return new


_open: ContextVar[tuple[Tape, ...]] = ContextVar("llm_lab_open_tapes", default=())
_active: ContextVar[tuple[Tape, ...]] = ContextVar("llm_lab_active_tapes", default=())


def site(x: Tensor, name: str) -> Tensor:
    """`x`, after the probes that are open have seen it."""
    if torch.compiler.is_compiling():
        return x
    for tape in _active.get():
        x = tape.visit(x, name)
    return x


def watched() -> bool:
    """Whether a probe is open on the model that runs: then attention is computed step by step."""
    return not torch.compiler.is_compiling() and bool(_active.get())


def taped() -> bool:
    """Whether a probe is open on any model."""
    return bool(_open.get())


@contextlib.contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Around a model's forward: its own tapes act, those of other models do not."""
    if torch.compiler.is_compiling() or not (opened := _open.get()):
        yield
        return
    token = _active.set(tuple(tape for tape in opened if tape.model is model))
    try:
        yield
    finally:
        _active.reset(token)


@contextlib.contextmanager
def opened(tape: Tape) -> Iterator[Tape]:
    """Open a tape; tapes opened later see what earlier ones have replaced."""
    token = _open.set((*_open.get(), tape))
    try:
        yield tape
    finally:
        _open.reset(token)


# --- names ----------------------------------------------------------------------------------------------------------

_ALIASES = (  # TransformerLens's names
    (r"^hook_embed$", "embed"),
    (r"^ln_final\.hook_normalized$", "final"),
    (r"\.hook_resid_(pre|mid|post)$", r".resid_\1"),
    (r"\.hook_(attn|mlp)_out$", r".\1.out"),
    (r"\.attn\.hook_attn_scores$", ".attn.scores"),
    (r"\.attn\.hook_(q|k|v|z|pattern)$", r".attn.\1"),
    (r"\.mlp\.hook_(pre|post)$", r".mlp.\1"),
)


def canonical(name: str) -> str:
    """Our name of a site that is given by TransformerLens's."""
    for pattern, ours in _ALIASES:
        name = re.sub(pattern, ours, name)
    return name


def matching(wanted: str | Iterable[str], known: Iterable[str]) -> list[str]:
    """The sites that names and patterns (`blocks.*.attn.q`) mean, in the model's order; BadValue where one means none."""
    known = list(known)
    chosen = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        hits = fnmatch.filter(known, canonical(pattern))
        if not hits:
            near = suggestion(canonical(pattern), known)
            raise BadValue(f"site {show(pattern)} is not in this model{near}; there is: {listing(known, 12)}")
        chosen.update(hits)
    return [name for name in known if name in chosen]

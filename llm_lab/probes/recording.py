"""Reading and replacing activations: of our models at their named sites, of users' own at their modules' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_lab.data.batch import Batch
from llm_lab.errors import BadValue
from llm_lab.models.language_model import LanguageModel, evaluating
from llm_lab.models.sites import Replacement, Tape, kept, matching, opened, replaced


def record(
    model: LanguageModel,
    batch: Batch,
    sites: str | Iterable[str] = "*",
    grad: bool = False,
    take: Callable[[Tensor, str], Tensor] | None = None,
) -> dict[str, Tensor]:
    """One forward pass, and the activations at the sites named, by name.

    Patterns such as `blocks.*.attn.pattern` and TransformerLens's `hook_…` names are taken. With `grad` the tensors
    keep their graph. `take` of an activation and its site gives what is kept of it, so that a long text's patterns need
    not all be held at once. Raises BadValue for a site that is not there.
    """
    names = matching(sites, model.sites())
    with evaluating(model), torch.set_grad_enabled(grad):
        if "sites" in model.supports:
            with opened(Tape(model, read=frozenset(names), grad=grad, take=take)) as tape:
                model(**batch.inputs())
            return {name: tape.found[name] for name in names}
        return _record_modules(model, batch, names, grad, take)


def _record_modules(
    model: LanguageModel,
    batch: Batch,
    names: list[str],
    grad: bool,
    take: Callable[[Tensor, str], Tensor] | None,
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor):
                found[name] = kept(value if take is None else take(value, name), grad)

        return hook

    handles = [_submodule(model, name).register_forward_hook(keep(name)) for name in names]
    try:
        model(**batch.inputs())
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in names if name in found}


def _submodule(model: LanguageModel, name: str) -> nn.Module:
    """The module of a user's model that a site names."""
    return model.get_submodule(f"module.{name}")


def _replacing(function: Replacement, name: str) -> Callable[..., Any]:
    """The hook that puts a module's output (its first, where it gives several) through a function."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(value, Tensor):
            raise BadValue(f"replace {name!r}: this module gives {type(value).__name__}, and only tensors are replaced")
        new = replaced(function, value, name)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


@contextlib.contextmanager
def replace(model: LanguageModel, replacements: Mapping[str, Replacement]) -> Iterator[None]:
    """Within the `with`, each activation x at a named site becomes `function(x)`; patterns are taken.

    Later replacements see what earlier ones have done. Raises BadValue for a site that is not there, and when a
    function returns another shape, dtype or device.
    """
    known = model.sites()
    chosen = {name: function for pattern, function in replacements.items() for name in matching(pattern, known)}
    if "sites" in model.supports:
        with opened(Tape(model, replacements=chosen)):
            yield
        return
    handles = [
        _submodule(model, name).register_forward_hook(_replacing(function, name)) for name, function in chosen.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

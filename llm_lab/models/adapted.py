"""A user's own `nn.Module` as a model of the lab: nanoGPT's forward, a plain tensor, or an output with `.logits`.

Only causal next-token models are taken: the module decides itself who attends to whom.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from llm_lab import machine
from llm_lab.data.batch import Attend
from llm_lab.errors import BadType, BadValue, LabError, show
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import LanguageModel, ModelOutput
from llm_lab.models.module_cost import module_parts
from llm_lab.models.options import ModelConfig
from llm_lab.options import specs
from llm_lab.results import ModelPart

_SHARED = ("vocab_size", "max_seq_len", "n_layer", "n_head", "d_model", "d_ff", "dropout", "bias")
# What others call our sizes: `block_size` -> `max_seq_len`.
_OURS = {name: ours for ours in _SHARED for name in (ours, *specs(ModelConfig)[ours].also)}
_ALWAYS = (
    "vocab_size",
    "max_seq_len",
)  # these the corpus and the run decide; of the others a class's own defaults stand


class Adapted(LanguageModel):
    """Gives a user's module our forward. It decodes uncached; its sites are the outputs of its submodules."""

    supports = frozenset({"next_token", "gradients"})

    def __init__(self, module: nn.Module, vocab_size: int, max_seq_len: int) -> None:
        super().__init__(None, vocab_size, max_seq_len)
        self.module = module
        names = inspect.signature(module.forward).parameters
        # nanoGPT gives only the last position's logits unless it is also given targets.
        self._targets = next((name for name in ("targets", "labels", "target", "y") if name in names), None)
        self._needs_targets = False
        self._check()

    def _check(self) -> None:
        """One tiny forward: that it gives (B, T, V), can be trained, and that no logit depends on a later token."""
        was_training = self.module.training
        self._check_weights()
        self.module.eval()
        try:
            # A user may load or build where gradients are off; whether the model has them is what is asked here.
            with torch.enable_grad(), torch.random.fork_rng():
                self._check_logits()
        finally:
            self.module.train(was_training)

    def _refuse(self, why: str) -> BadValue:
        return BadValue(f"model {type(self.module).__name__}: {why}")

    def _check_weights(self) -> None:
        """What is known to fail in training, from the weights alone."""
        named = list(self.module.named_parameters())
        if not any(p.requires_grad for _, p in named):
            raise self._refuse(
                "none of its parameters can be trained; one with requires_grad would do"
                if named
                else "it has no parameters, so nothing to train; layers must be attributes of the module (a list of them an nn.ModuleList)"
            )
        if half := next((name for name, p in named if p.dtype == torch.float16), None):
            raise self._refuse(
                f"its weight {half} is float16; keep weights in float32 (model.float()), the lab computes in bfloat16 where that is faster"
            )
        for name, module in self.module.named_modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
                raise self._refuse(
                    f"its embedding {name} has sparse=True, and gradients are clipped, which takes dense ones; leave sparse out"
                )

    def _check_logits(self) -> None:
        length = min(4, self.max_seq_len)
        ids = (torch.arange(length, device=self.device) % self.vocab_size)[None]
        logits = self._logits(ids)
        if logits.shape[:2] != ids.shape and self._targets:
            self._needs_targets = True
            logits = self._logits(ids)
        if logits.ndim != 3 or logits.shape[:2] != ids.shape:
            raise self._refuse(
                f"its forward gave {tuple(logits.shape)} for ids {tuple(ids.shape)}; it must give (B, T, vocabulary)"
            )
        if logits.shape[-1] < self.vocab_size:
            raise self._refuse(
                f"it gives {logits.shape[-1]} logits, and the tokenizer has {self.vocab_size} tokens; build it with vocab_size={self.vocab_size}"
            )
        if logits.dtype == torch.float16:
            raise self._refuse(
                "its logits are float16; keep weights in float32, the lab computes in bfloat16 where that is faster"
            )
        if not logits.requires_grad:
            raise self._refuse(
                "its logits have no gradient, so it cannot learn; leave out torch.no_grad, .detach() and .data in its forward"
            )
        logits = logits.detach()[..., : self.vocab_size]
        if not bool(torch.isfinite(logits).all()):
            found = "NaN" if bool(logits.isnan().any()) else "infinite"
            raise self._refuse(f"its logits are {found} before any training; look at its first weights and its masks")
        if length > 1:
            changed = ids.clone()
            changed[0, -1] = (changed[0, -1] + 1) % self.vocab_size
            again = self._logits(changed).detach()[..., : self.vocab_size]
            if not torch.allclose(again[:, :-1], logits[:, :-1], atol=1e-4):
                raise self._refuse(
                    "a later token changes an earlier logit, so it sees the answer; a causal mask in its attention would do"
                )

    def _logits(self, ids: Tensor) -> Tensor:
        try:
            out: Any = self.module(ids, **({self._targets: ids} if self._needs_targets and self._targets else {}))
        except LabError:
            raise
        except Exception as error:
            if machine.out_of_memory(error):  # which says nothing of the model
                raise
            raise BadValue(
                f"model {type(self.module).__name__}: its forward failed on ids of shape {tuple(ids.shape)}: {type(error).__name__}: {error}"
            ) from error
        if isinstance(out, tuple | list):
            out = out[0]
        out = getattr(out, "logits", out)
        if not isinstance(out, Tensor):
            raise BadType(
                f"model {type(self.module).__name__}: its forward gave {type(out).__name__}; a tensor of logits, (logits, loss) or an object with .logits would do"
            )
        return out

    def forward(
        self,
        input_ids: Tensor,
        attend: Attend | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        cache: Cache | None = None,
        last: bool = False,
    ) -> ModelOutput:
        if input_ids.shape[1] > self.max_seq_len:
            raise BadValue(f"{input_ids.shape[1]} tokens do not fit the context of {self.max_seq_len}; cut the text")
        logits = self._logits(input_ids)[..., : self.vocab_size].float()
        return ModelOutput(logits[:, -1:] if last else logits)

    def parts(self, batch_size: int) -> list[ModelPart]:
        return module_parts(self.module, batch_size, self.max_seq_len)

    def sites(self) -> dict[str, str]:
        """The submodules, by their own names: each one's output can be read."""
        return {name: f"output of {type(m).__name__}" for name, m in self.module.named_modules() if name}


def adapt(model: Any, sizes: ModelConfig, given: Collection[str] = ()) -> Adapted:
    """A user's module, class or factory as an `Adapted`. An instance is copied, so that it stays as it is.

    A class is built from the sizes its constructor names (`vocab_size`, `block_size`, `n_embd`, …). A default of its own
    stands, unless that size is among those `given`; the vocabulary and the context are always filled in. Where it takes
    one `config`, that is the dataclass of its annotation, filled in like this, or an object with every usual name.
    """
    if isinstance(model, nn.Module):
        names = [name for name, ours in _OURS.items() if ours == "max_seq_len"]
        context = next((v for v in (_size_of(model, name) for name in names) if v), sizes.max_seq_len)
        return Adapted(_copy(model), sizes.vocab_size, context)
    if not callable(model):
        raise BadType(
            f"model: {show(model)} is {type(model).__name__}; an nn.Module, or a class or function that makes one, would do, for example --model @MyGPT"
        )
    name = getattr(model, "__name__", "model")
    fixed = {*_ALWAYS, *given}
    keywords = _arguments(model, name, sizes, fixed)
    try:
        module = model(**keywords)
    except LabError:
        raise
    except Exception as error:
        raise BadValue(
            f"model {name}: it could not be built with {listing_of(keywords)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise BadType(f"model {name}: it made {type(module).__name__}, not an nn.Module")
    return Adapted(module, sizes.vocab_size, sizes.max_seq_len)


def _arguments(model: Any, name: str, sizes: ModelConfig, fixed: Collection[str]) -> dict[str, Any]:
    """What a constructor is called with: the `fixed` sizes, and those that have no default of their own."""
    values = {alias: sizes.ff_width if ours == "d_ff" else getattr(sizes, ours) for alias, ours in _OURS.items()}
    try:
        parameters = inspect.signature(model, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError):
        try:
            parameters = inspect.signature(model).parameters.values()
        except (TypeError, ValueError):  # what is written in C may not tell
            raise BadType(
                f"model: {show(model)} does not tell what it takes; an nn.Module, or a class or function that makes one, would do, for example --model @MyGPT"
            ) from None
    keywords: dict[str, Any] = {}
    for parameter in parameters:
        bare = parameter.default is parameter.empty
        if parameter.name in values:
            if bare or _OURS[parameter.name] in fixed:
                keywords[parameter.name] = values[parameter.name]
        elif parameter.name in ("config", "cfg", "args") and bare:
            kind = parameter.annotation
            made = dataclasses.is_dataclass(kind) and isinstance(kind, type)
            keywords[parameter.name] = (
                kind(**_arguments(kind, kind.__name__, sizes, fixed)) if made else SimpleNamespace(**values)
            )
        elif bare and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise BadType(
                f"model {name}: its argument {parameter.name!r} has no default and is no size that the lab knows; give it one, or pass a built module with --model @instance"
            )
    return keywords


def _copy(model: nn.Module) -> nn.Module:
    name = type(model).__name__
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise BadValue(
            f"model {name}: this instance cannot be copied, and the lab trains a copy ({type(error).__name__}: {error}); give the class, for example --model @{name}"
        ) from error


def _size_of(model: nn.Module, name: str) -> int | None:
    for owner in (model, getattr(model, "config", None)):
        value = getattr(owner, name, None)
        if isinstance(value, int):
            return value
    return None


def listing_of(keywords: dict[str, Any]) -> str:
    return ", ".join(f"{key}={show(value, 40)}" for key, value in keywords.items()) or "no arguments"

"""A probe leaves nothing behind, of whatever kind it is and wherever it is cut off."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llm_lab.models import sites
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.options import PROBES
from llm_lab.probing import probe
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train


@dataclass(frozen=True)
class Case:
    """What a kind is given here: texts and options that make it quick, and what its model must have."""

    texts: tuple[str, ...] = ("abc def",)
    options: dict[str, Any] = field(default_factory=dict)
    models: int = 1
    config: dict[str, Any] = field(default_factory=dict)


CORPUS = ["abc def gab " * 8]
PAIR = ("abc def", "abg def")
CASES = {
    "attention": Case(),
    "experts": Case(config={"n_expert": 3, "n_active": 2}),
    "walk": Case(),
    "logit_lens": Case(),
    "tuned_lens": Case(options={"corpus": CORPUS, "max_tokens": 48, "steps": 2}),
    "dla": Case(),
    "patch": Case(PAIR, {"site": "attn.z", "by": "head_position"}),
    "attribution_patching": Case(PAIR, {"check": True, "n_steps": 2}),
    "paths": Case(PAIR),
    "steer": Case(options={"toward": "abc", "away": "def", "max_new_tokens": 3}),
    "replace": Case(options={"site": "blocks.*.attn.z", "function": torch.zeros_like}),
    "heads": Case(options={"repeats": 2}),
    "ablate": Case(),
    "embeddings": Case(()),
    "weights": Case(()),
    "similarity": Case(),
    "neurons": Case((), {"corpus": CORPUS, "max_tokens": 48}),
    "factors": Case(options={"n_factors": 2}),
    "linear_probe": Case((), {"corpus": CORPUS, "max_tokens": 48}),
    "sae": Case((), {"corpus": CORPUS, "max_tokens": 48, "steps": 2, "n_features": 8, "k": 2}),
    "neighbours": Case(("a b c",)),
    "analogies": Case(("a b c",)),
    "attribution": Case(options={"method": "integrated_gradients,rollout", "path_steps": 4}),
    "counterfactual": Case(options={"edits": 1, "candidates": 4}),
    "robustness": Case((), {"corpus": CORPUS, "max_tokens": 48, "rates": "0.1", "draws": 2}),
}


def case(kind: str) -> Case:
    assert kind in CASES, (
        f"the kind {kind!r} is new: add to CASES above what it is given here, "
        f"for example {kind!r}: Case(texts=('abc def',), options={{}}), small enough for a run in a fraction of a second"
    )
    return CASES[kind]


class Cut(Exception):
    """What comes in the middle."""


class CutAt(TorchFunctionMode):
    """Counts what is asked of torch, and at the nth time raises."""

    def __init__(self, n: int | None = None) -> None:
        super().__init__()
        self.n, self.count = n, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        # What leaves no_grad is no middle, nor is a look at a shape: those who check shapes would take it for a wrong one.
        if not getattr(function, "__name__", "").startswith(("_set_", "__get__")):
            self.count += 1
            if self.count == self.n:
                raise Cut
        return function(*args, **(kwargs or {}))


TOKENIZER = train(["abcdefgh "], "char")


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """What was there before is not looked through for tensors, again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def models(kind: str) -> list[LM]:
    """In training, but for a part that is not, with dropout, one weight that is frozen and one with a gradient."""
    found = []
    for i in range(case(kind).models):
        config = ModelConfig(
            vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=2, d_model=8, max_seq_len=12, dropout=0.2,
            zero_init=False, **case(kind).config,
        )  # fmt: skip
        torch.manual_seed(i)
        model = SHAPES.load(config.shape)(config).train()
        model.blocks[1].eval()
        model.blocks[0].attn.out.weight.requires_grad_(False)
        model.embed.weight.grad = torch.ones_like(model.embed.weight)
        found.append(LM(f"m{i}", model, TOKENIZER, info={"objective": "clm"}))
    return found


def state(lms: list[LM]) -> list[Any]:
    """All that a probe must leave as it is; numbers, texts and bytes."""
    found: list[Any] = [sites._open.get(), sites._active.get(), torch.is_grad_enabled(), torch.get_num_threads()]
    found += [torch.get_default_dtype(), torch.get_rng_state().numpy().tobytes()]
    found += [np.random.get_state()[1].tobytes(), torch.is_inference_mode_enabled()]
    for lm in lms:
        for name, module in lm.model.named_modules():
            hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            found.append((name, module.training, [len(getattr(module, hook)) for hook in hooks]))
        for name, p in lm.model.named_parameters():
            grad = None if p.grad is None else p.grad.numpy().tobytes()
            hooked = len(p._backward_hooks or ())
            found.append((name, p.requires_grad, p.detach().numpy().tobytes(), grad, hooked))
        found += [(name, buffer.numpy().tobytes()) for name, buffer in lm.model.named_buffers()]
    return found


def alive() -> tuple[int, int]:
    """How many tensors there are, and their bytes."""
    gc.collect()
    found = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
    return len(found), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def run(kind: str, lms: list[LM]) -> None:
    for _ in probe(lms, case(kind).texts, kind, case(kind).options):
        pass


def cut_off(kind: str, lms: list[LM], n: int) -> bool:
    """Run until the nth call of torch; whether it came that far. The exception, and with it every frame, is gone."""
    try:
        with CutAt(n):
            run(kind, lms)
    except Cut:
        return True
    return False


@pytest.mark.parametrize("kind", PROBES)
def test_whole_or_cut_off_it_leaves_all_as_it_was(kind):
    lms = models(kind)
    before = state(lms)
    run(kind, lms)
    assert state(lms) == before
    there = alive()  # with what is made once, positions and the like
    with CutAt() as whole:
        run(kind, lms)
    assert state(lms) == before
    assert alive() == there
    calls = whole.count
    del whole
    assert calls > 4
    for n in (1, calls // 4, calls // 2, 3 * calls // 4, calls):
        assert cut_off(kind, lms, n), n
        assert state(lms) == before, n
        assert alive() == there, n


@pytest.mark.parametrize("kind", PROBES)
def test_nobody_listens_any_more(kind):
    """A probe that grows is left in its middle, or something comes while it is drawn."""
    lms = models(kind)
    before = state(lms)
    run(kind, lms)
    there = alive()
    states = probe(lms, case(kind).texts, kind, case(kind).options)
    next(states)
    assert state(lms) == before, "while its consumer has it, too"
    if hasattr(states, "close"):
        states.close()
        assert state(lms) == before
        states = probe(lms, case(kind).texts, kind, case(kind).options)
        next(states)
        for end in (KeyboardInterrupt, Cut):
            try:
                states.throw(end())
            except (end, StopIteration):
                break
    del states
    assert state(lms) == before
    assert alive() == there


@pytest.mark.parametrize("kind", PROBES)
def test_ten_in_a_row_leave_memory_where_it_was(kind):
    lms = models(kind)
    run(kind, lms)
    there = alive()
    for _ in range(10):
        run(kind, lms)
    assert alive() == there


@pytest.mark.parametrize("kind", PROBES)
def test_a_result_holds_no_model(kind):
    lms = models(kind)
    *_, result = probe(lms, case(kind).texts, kind, case(kind).options)
    gone = [weakref.ref(lm.model) for lm in lms]
    del lms
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
    assert not [o for o in gc.get_referents(*vars(result).values()) if issubclass(type(o), Tensor)]

"""Experts are what a loop over tokens says, their balance is transformers', and idle ones cost nothing."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn

import llm_lab as lab
from llm_lab.data.batch import Batch
from llm_lab.models.experts import ROWS, Experts, balance
from llm_lab.models.options import MLPS, ModelConfig
from llm_lab.probes.recording import record
from tests.small import TEXT


def experts(**changed) -> Experts:
    torch.manual_seed(0)
    sizes = dict(vocab_size=9, d_model=16, n_head=2, d_ff=24, n_expert=5, n_active=2, bias=True, mlp="gelu")
    made = Experts(ModelConfig(**{**sizes, **changed}))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made.eval()


def by_token(module: Experts, x: torch.Tensor) -> torch.Tensor:
    """The same, one token and one expert at a time."""
    out = torch.zeros_like(x)
    for b, row in enumerate(x):
        for t, token in enumerate(row):
            probs = (module.router.weight @ token).softmax(dim=0)
            best = probs.argsort(descending=True)[: module.n_active]
            shares = probs[best] if len(best) == 1 else probs[best] / probs[best].sum()  # Switch, Mixtral
            for i, share in zip(best, shares, strict=True):
                out[b, t] += share * module.experts[i](token[None, None], "x")[0, 0]
    return out


@pytest.mark.parametrize("mlp", list(MLPS))
def test_equals_a_loop_over_tokens(mlp):
    module, x = experts(mlp=mlp), torch.randn(2, 7, 16)
    torch.testing.assert_close(module(x, "mlp"), by_token(module, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("active", [1, 3, 5])
def test_as_many_experts_as_asked(active):
    module, x = experts(n_active=active).double(), torch.randn(3, 4, 16)
    # The router computes in float32, so the loop's weights are within its rounding.
    torch.testing.assert_close(module(x.double(), "mlp"), by_token(module, x.double()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("active", [1, 2, 4])
def test_balance_is_that_of_transformers(active):
    theirs = pytest.importorskip("transformers.models.mixtral.modeling_mixtral", reason="transformers is the reference")
    module, x = experts(n_active=active), torch.randn(3, 11, 16)
    balances = []
    module(x, "mlp", balances)
    logits = module.router(x.flatten(0, 1))
    wanted = theirs.load_balancing_loss_func((logits,), num_experts=5, top_k=active)
    torch.testing.assert_close(balances, [wanted], atol=1e-5, rtol=1e-5)


def test_balance_is_least_where_all_get_the_same():
    even = torch.eye(4).repeat(3, 1)
    assert balance(even, even.argmax(dim=1)[:, None]) == 1
    one = torch.eye(4)[:1].repeat(12, 1)
    assert balance(one, one.argmax(dim=1)[:, None]) == 4


@pytest.mark.parametrize("active", [1, 2])
def test_gradients_reach_the_router_and_the_experts_that_were_asked(active):
    module = experts(n_active=active)
    x = torch.randn(1, 1, 16)
    chosen = module.route(x[0]).topk(active).indices[0].tolist()
    module(x, "mlp").square().sum().backward()
    assert module.router.weight.grad.abs().sum() > 0
    for i, expert in enumerate(module.experts):
        grads = [p.grad for p in expert.parameters()]
        assert all(g is not None and g.abs().sum() > 0 for g in grads) if i in chosen else grads == [None] * len(grads)
    module.zero_grad()
    balances = []
    module(x, "mlp", balances)
    balances[0].backward()
    assert module.router.weight.grad.abs().sum() > 0


def test_idle_experts_are_not_run():
    module = experts()
    ran = []
    for i, expert in enumerate(module.experts):
        expert.register_forward_hook(lambda m, args, out, i=i: ran.append((i, args[0].shape[1])))
    x = torch.randn(2, 6, 16)
    module(x, "mlp")
    counts = module.route(x.flatten(0, 1)).topk(2).indices.flatten().bincount(minlength=5).tolist()
    assert ran == [(i, n) for i, n in enumerate(counts) if n]
    assert sum(n for _, n in ran) == 2 * 12


def test_the_router_keeps_full_precision():
    module, x = experts(), torch.randn(2, 7, 16)
    balances = []
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, "mlp", balances)
        assert module.route(x.flatten(0, 1)).dtype == torch.float32
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), module(x, "mlp"), atol=0.5, rtol=0.1)
    assert balances[0].dtype == torch.float32


def test_in_mixed_precision_few_numbers_of_rows_are_met_and_what_fills_them_up_says_nothing():
    module, x = experts().train(), torch.randn(3, 50, 16, generator=torch.Generator().manual_seed(2))
    met: list[int] = []
    found = []
    for expert in module.experts:
        expert.up.register_forward_pre_hook(lambda _, args: met.append(args[0].shape[1]))
    for dtype in (torch.float32, torch.bfloat16):
        module.zero_grad()
        ids = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = module(ids, "x")
        out.float().square().sum().backward()
        found.append([out.detach(), ids.grad, *(p.grad for p in module.parameters())])
        if dtype == torch.float32:
            assert sum(met) == 300
            met.clear()
    assert set(met) <= {ROWS, 2 * ROWS, 3 * ROWS}
    for wide, narrow in zip(*found, strict=True):
        assert (narrow - wide).norm() < 0.02 * wide.norm()


SIZES = dict(vocab_size=9, n_layer=3, n_head=2, d_model=16, max_seq_len=8, n_expert=3, zero_init=False)


@pytest.mark.parametrize(
    ("options", "stacks"),
    [
        (dict(shape="decoder"), [("", 3)]),
        (dict(shape="encoder", share_layers=True), [("", 3)]),
        (dict(shape="permutation", share_layers=True), [("", 3)]),
        (dict(shape="encoder_decoder", n_decoder_layer=2, share_layers=True), [("encoder.", 3), ("decoder.", 2)]),
    ],
)
def test_the_balance_of_a_pass_is_the_mean_over_all_places(options, stacks):
    torch.manual_seed(0)
    model = lab.build(**SIZES, **options)
    ids = torch.arange(16).view(2, 8) * 5 % 9
    batch = Batch(ids, decoder_ids=ids.flip(1) if len(stacks) == 2 else None)
    found = record(model, batch, "*mlp.router")
    means = []
    for prefix, n_layer in stacks:
        probs = [found[f"{prefix}blocks.{i}.mlp.router"].flatten(0, 1) for i in range(n_layer)]
        means.append(sum(balance(p, p.topk(2).indices) for p in probs) / n_layer)
    torch.testing.assert_close(model(**batch.inputs()).aux["balance"], sum(means) / len(means))


def test_a_model_that_has_read_something_is_copied_and_trained():
    model = lab.build(**{**SIZES, "vocab_size": 200})
    loss = model(torch.arange(8)[None]).aux["balance"]
    loss.backward()
    copy.deepcopy(model)
    kept = weakref.ref(loss)
    del loss
    assert kept() is None  # nor does the model hold what it said
    text = lab.tokenizer([TEXT], "char")
    model = lab.build(**{**SIZES, "vocab_size": text.vocab_size})
    model(torch.arange(8)[None])
    lab.pretrain([TEXT], name="x", display=False, model=model, steps=1, batch_size=2, max_seq_len=8, threads=1)

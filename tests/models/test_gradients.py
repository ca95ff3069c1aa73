"""Gradients of the parts that we wrote, against finite differences in double precision."""

from __future__ import annotations

import pytest
import torch

from llm_lab.models.attention import Attention, CrossAttention
from llm_lab.models.layers import softcap
from llm_lab.models.look import Look, added, look
from llm_lab.models.options import MLPS, NORMS, PATTERNS, POSITIONS, ModelConfig
from llm_lab.models.positions import rotate
from llm_lab.models.stack import Block, Place

CONFIG = dict(
    vocab_size=5, n_head=2, d_model=8, d_ff=6, max_seq_len=12, rel_buckets=8, rel_distance=10, zero_init=False
)


def random(*shape):
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def made(module):
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, mean=0.0 if p.ndim > 1 else 0.8, std=0.4)
    return module.double()


def check(module, function, *inputs):
    """The gradients of a scalar-free output in its inputs and in all of the module's parameters."""
    names = [name for name, _ in module.named_parameters()]
    values = [p.detach().clone().requires_grad_() for _, p in module.named_parameters()]

    def run(*given):
        state = dict(zip(names, given[len(inputs) :], strict=True))
        with torch.nn.utils.parametrize.cached(), torch.nn.utils.stateless._reparametrize_module(module, state):
            return function(*given[: len(inputs)])

    assert torch.autograd.gradcheck(run, (*inputs, *values), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("mlp", list(MLPS))
def test_mlps(mlp):
    module = made(MLPS.load(mlp)(ModelConfig(**CONFIG, mlp=mlp, bias=True)))
    check(module, lambda x: module(x, "mlp"), random(1, 3, 8))


@pytest.mark.parametrize("norm", list(NORMS))
def test_norms(norm):
    module = made(NORMS.load(norm)(ModelConfig(**CONFIG, norm=norm, bias=True)))
    check(module, module, random(2, 3, 8))


@pytest.mark.parametrize("kind", list(POSITIONS))
@pytest.mark.parametrize("n_kv_head", [None, 1])
def test_attention_under_every_kind_of_position(kind, n_kv_head):
    config = ModelConfig(**CONFIG, position=kind, n_kv_head=n_kv_head, qk_gain=True)
    module = torch.nn.ModuleDict({"attn": Attention(config), "position": POSITIONS.load(kind)(config)})
    made(module)
    ids = torch.arange(5)[None]
    pattern = PATTERNS.load("full")(config)

    def run(x):
        from llm_lab.data.batch import Attend

        seen = look(Attend(), pattern, module["position"], ids, 5, 5)
        return module["attn"](module["position"].embed(x, ids), seen, "a")

    check(module, run, random(1, 5, 8))


def test_cross_attention():
    module = made(CrossAttention(ModelConfig(**CONFIG, bias=True)))
    check(module, lambda x, memory: module(x, memory, Look(), "c"), random(2, 3, 8), random(2, 4, 8))


@pytest.mark.parametrize("place", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("n_expert", [None, 3])
def test_blocks(place, n_expert):
    config = ModelConfig(**CONFIG, norm_place=place, n_expert=n_expert, qk_norm=False)
    module = made(Block(config, cross=False))
    check(module, lambda x: module(x, Look(is_causal=True), Place(0, "b")), random(1, 4, 8))


@pytest.mark.parametrize("attention", [name for name in PATTERNS if name != "full"])
def test_sparse_attention(attention):
    from llm_lab.models.sparse import plan

    config = ModelConfig(**CONFIG, attention=attention, window=3, stride=2, sparse_block=4)
    layout = plan(PATTERNS.load(attention)(config), True, 10, torch.device("cpu"))
    inputs = tuple(random(1, 2, 10, 4) for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: layout.attend(q, k, v, 0.5), inputs, atol=1e-6, rtol=1e-4)


def test_the_small_functions():
    cos, sin = random(1, 1, 3, 2), random(1, 1, 3, 2)
    angles = (cos.detach().cos(), sin.detach().sin())
    assert torch.autograd.gradcheck(lambda x: rotate(x, angles), (random(1, 2, 3, 4),))
    assert torch.autograd.gradcheck(lambda x: softcap(x, 3.0), (random(2, 5),))
    mask = torch.tensor([[True, False], [True, True]])
    assert torch.autograd.gradcheck(lambda b: added(b, mask).softmax(-1), (random(1, 2, 2),))

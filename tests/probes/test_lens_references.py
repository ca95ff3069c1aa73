"""Streams, attention, logit lens and direct logit attribution as they come out of transformers' own modules, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import llm_lab as lab
from tests.models.test_hf import published

NAMES = ["gpt2", "llama", "qwen3"]
TEXT = "thequickbrown"
CLOSE = dict(atol=1e-4, rtol=1e-4)


class Theirs:
    """A model of transformers with what its modules took and gave, over one text."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model: Any = published(name, folder)
        self.lm = lab.load(folder)
        self.gpt2 = name == "gpt2"
        body = self.model.transformer if self.gpt2 else self.model.model
        self.blocks = body.h if self.gpt2 else body.layers
        self.norm, self.embed = (body.ln_f, body.wte) if self.gpt2 else (body.norm, body.embed_tokens)
        self.places = body.wpe if self.gpt2 else None
        self.ids = torch.tensor([self.lm.tokenizer.encode(TEXT)])
        kept: dict[tuple[str, int], Tensor] = {}
        handles = []
        for i, block in enumerate(self.blocks):
            mix = block.attn.c_proj if self.gpt2 else block.self_attn.o_proj
            handles += [
                mix.register_forward_pre_hook(lambda m, given, i=i: kept.update({("z", i): given[0]})),
                block.mlp.register_forward_hook(lambda m, given, out, i=i: kept.update({("mlp", i): out})),
                block.register_forward_hook(
                    lambda m, given, out, i=i: kept.update({("out", i): out[0] if isinstance(out, tuple) else out})
                ),
            ]
        with torch.no_grad():
            self.out = self.model(self.ids, output_hidden_states=True, output_attentions=True)
        for handle in handles:
            handle.remove()
        self.kept = kept
        # The last of their hidden states is behind the norm.
        self.stream = [self.out.hidden_states[0], *(kept["out", i] for i in range(len(self.blocks)))]

    def mixing(self, i: int) -> tuple[Tensor, Tensor | None]:
        """What turns the heads' outputs into the stream, (H d, D), and its bias."""
        if self.gpt2:
            return self.blocks[i].attn.c_proj.weight, self.blocks[i].attn.c_proj.bias
        return self.blocks[i].self_attn.o_proj.weight.T, None

    def scaled(self, part: Tensor, whole: Tensor) -> Tensor:
        """A part of the stream behind the last norm, frozen at the scale of the whole."""
        if self.gpt2:
            part, whole = part - part.mean(), whole - whole.mean()
        eps = self.norm.eps if self.gpt2 else self.norm.variance_epsilon
        return part / (whole.square().mean() + eps).sqrt() * self.norm.weight


@pytest.fixture(scope="module", params=NAMES)
def theirs(request, tmp_path_factory):
    return Theirs(request.param, tmp_path_factory.mktemp(request.param))


def test_residual_streams_and_attention(theirs):
    found = lab.record(theirs.lm, theirs.ids)
    for i in range(len(theirs.blocks)):
        torch.testing.assert_close(found[f"blocks.{i}.resid_pre"], theirs.stream[i], **CLOSE)
        torch.testing.assert_close(found[f"blocks.{i}.resid_post"], theirs.stream[i + 1], **CLOSE)
        torch.testing.assert_close(found[f"blocks.{i}.attn.pattern"], theirs.out.attentions[i], **CLOSE)
    torch.testing.assert_close(found["logits"], theirs.out.logits, **CLOSE)


@torch.no_grad()
def test_logit_lens(theirs):
    found = lab.probe(theirs.lm, TEXT, kind="logit_lens")
    ids = theirs.ids[0]
    final = Categorical(logits=theirs.out.logits[0])
    assert found.kl.shape == (len(theirs.stream), len(ids))
    for i, x in enumerate(theirs.stream):
        said = Categorical(logits=theirs.model.lm_head(theirs.norm(x))[0])
        logs = said.logits
        np.testing.assert_allclose(found.kl[i], kl_divergence(final, said), **CLOSE)
        np.testing.assert_allclose(found.entropy[i], said.entropy(), **CLOSE)
        for t, line in enumerate(logs):
            order = line.argsort(descending=True)
            best = order[order < theirs.lm.tokenizer.vocab_size][:10]  # the model has room for more than it knows
            assert found.top[i, t].tolist() == best.tolist()
            np.testing.assert_allclose(found.top_logprob[i, t], line[best], **CLOSE)
            if t + 1 < len(ids):
                assert found.rank[i, t] == order.tolist().index(int(ids[t + 1])) + 1
                np.testing.assert_allclose(found.true_logprob[i, t], line[ids[t + 1]], **CLOSE)
    assert (found.rank[:, -1] == 0).all() and np.isnan(found.true_logprob[:, -1]).all()


@torch.no_grad()
@pytest.mark.parametrize("position", [None, 4])
@pytest.mark.parametrize("other", [None, "q"])
def test_direct_logit_attribution(theirs, position, other):
    found = lab.probe(theirs.lm, TEXT, kind="dla", target="k", other=other, position=position)
    t = len(TEXT) - 1 if position is None else position
    token = theirs.lm.tokenizer.encode
    wanted = theirs.model.lm_head.weight[token("k")[0]]
    logits = theirs.out.logits[0, t]
    logit = logits[token("k")[0]]
    if other:
        wanted, logit = wanted - theirs.model.lm_head.weight[token(other)[0]], logit - logits[token(other)[0]]
    whole = theirs.stream[-1][0, t]
    heads = theirs.model.config.num_attention_heads
    biases = torch.zeros(())
    panel = found.panels[0]
    assert list(panel.columns) == [*map(str, range(heads)), "mlp"]
    for i in range(len(theirs.blocks)):
        weight, bias = theirs.mixing(i)
        z = theirs.kept["z", i][0, t]
        width = len(z) // heads
        for h in range(heads):
            here = slice(h * width, (h + 1) * width)
            part = theirs.scaled(z[here] @ weight[here], whole) @ wanted
            np.testing.assert_allclose(panel.values[i, h], part, **CLOSE)
        np.testing.assert_allclose(
            panel.values[i, -1], theirs.scaled(theirs.kept["mlp", i][0, t], whole) @ wanted, **CLOSE
        )
        biases = biases + (0 if bias is None else theirs.scaled(bias, whole) @ wanted)
    others = {"token embedding": theirs.scaled(theirs.embed(theirs.ids)[0, t], whole) @ wanted}
    if theirs.gpt2:
        others |= {"position": theirs.scaled(theirs.places.weight[t], whole) @ wanted, "attention biases": biases}
        others |= {"final norm’s bias": theirs.norm.bias @ wanted}
    assert set(found.others) == set(others)
    for name, value in others.items():
        np.testing.assert_allclose(found.others[name], value, **CLOSE)
    np.testing.assert_allclose(found.total, logit, **CLOSE)
    np.testing.assert_allclose(found.logit, logit, **CLOSE)
    lens = [theirs.model.lm_head(theirs.norm(x))[0, t] for x in theirs.stream]
    wrong = [0.0 if other is None else line[token(other)[0]] for line in lens]
    np.testing.assert_allclose(
        found.accumulated, [line[token("k")[0]] - less for line, less in zip(lens, wrong, strict=True)], **CLOSE
    )

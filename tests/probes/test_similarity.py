"""CKA, CCA and cosines: against dense formulas written out, on vectors made for it, and on every shape of model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.errors import BadValue
from llm_lab.probes.options import SimilarityOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.similarity import CCA, CKA, Cosine, similarity
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train
from tests.small import TEXT

CORPUS = [TEXT]


def model(name="m", seed=0, preset="gpt2", kind="char", **sizes) -> LM:
    tokenizer = train([TEXT], kind)
    torch.manual_seed(seed)
    given = dict(n_layer=2, n_head=2, d_model=16, max_seq_len=32, zero_init=False) | sizes
    return LM(name, lab.build(preset, vocab_size=tokenizer.vocab_size, **given), tokenizer)


def song(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC_1 of Song et al. (2012), eq. 5, with every sum written out over the matrices."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    first = np.trace(k @ m)
    second = (one @ k @ one) * (one @ m @ one) / (n - 1) / (n - 2)
    third = 2 / (n - 2) * (one @ k @ m @ one)
    return float(first + second - third) / (n * (n - 3))


def dense(x: np.ndarray, y: np.ndarray) -> float:
    k, m = x @ x.T, y @ y.T
    return song(k, m) / np.sqrt(song(k, k) * song(m, m))


def cka(*batches: list[torch.Tensor]) -> np.ndarray:
    measure = CKA()
    for xs in batches:
        measure.add(xs)
    return measure.value(sum(len(xs[0]) for xs in batches))


def random(rows: int, *widths: int, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=g, dtype=torch.float64) for width in widths]


def test_cka_is_the_dense_formula():
    x, noise, shift = random(30, 5, 8, 8)
    y = torch.cat([x, x[:, :3]], dim=1) + 0.7 * noise + 4 + 0 * shift
    found = cka([x, y, shift])
    wanted = [[dense(a.numpy(), b.numpy()) for b in (x, y, shift)] for a in (x, y, shift)]
    np.testing.assert_allclose(found, wanted, atol=1e-10)
    assert 0.3 < found[0, 1] < 0.95
    np.testing.assert_array_equal(found, found.T)


def test_minibatches_average_hsic():
    x, y = random(64, 6, 9)
    y[:, :6] += x
    found = cka([x[:32], y[:32]], [x[32:], y[32:]])
    parts = [(x[:32].numpy(), y[:32].numpy()), (x[32:].numpy(), y[32:].numpy())]
    ab, aa, bb = (
        sum(song(p[i] @ p[i].T, p[j] @ p[j].T) for p in parts) for i, j in ((0, 1), (0, 0), (1, 1))
    )  # fmt: skip
    assert found[0, 1] == pytest.approx(ab / np.sqrt(aa * bb), abs=1e-10)
    assert found[0, 1] == pytest.approx(cka([x, y])[0, 1], abs=0.1)


def test_cka_of_a_rotation_and_a_scale_is_one_and_of_noise_none():
    x, square, noise = random(40, 12, 12, 200)
    square = torch.randn(12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rotation = torch.linalg.qr(square).Q
    found = cka([x, 7 * x @ rotation + 2, noise])
    assert found[0, 1] == pytest.approx(1, abs=1e-9)
    # 200 numbers for 40 rows: the biased estimate would call them alike.
    centred = [a.numpy() - a.numpy().mean(0) for a in (x, noise)]
    k, m = (a @ a.T for a in centred)
    assert (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()) > 0.4
    values = [cka(random(40, 12, 200, seed=seed))[0, 1] for seed in range(20)]
    assert abs(np.mean(values)) < 0.03


def test_cosine_and_cca_by_hand():
    x, y = random(50, 4, 4)
    cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(x, y, strict=True)]
    measure = Cosine()
    measure.add([x[:20], y[:20]])
    measure.add([x[20:], y[20:]])
    assert measure.value(50)[0, 1] == pytest.approx(np.mean(cosines))
    assert measure.value(50)[1, 1] == pytest.approx(1)
    measure = CCA()
    z = x @ torch.diag(torch.tensor([1.0, 100.0, 0.01, 5.0], dtype=torch.float64)) + 3
    for part in (slice(0, 20), slice(20, 50)):
        measure.add([x[part], y[part], z[part]])
    found = measure.value(50)
    qx, qy = (np.linalg.qr(a.numpy() - a.numpy().mean(0))[0] for a in (x, y))
    assert found[0, 1] == pytest.approx((np.linalg.svd(qx.T @ qy, compute_uv=False) ** 2).mean())
    assert found[0, 2] == pytest.approx(1)


def test_layers_of_one_model_over_its_text():
    lm = model()
    found = similarity(Reading((lm,), (TEXT[:30],)), SimilarityOptions())
    acts = lab.record(lm, TEXT[:30], ["embed", "blocks.*.resid_post", "final"])
    wanted = [[dense(a[0].double().numpy(), b[0].double().numpy()) for b in acts.values()] for a in acts.values()]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert found.panels[0].rows == ["embed", "0", "1", "final"]
    assert "largest step" in str(found) and f"{len(TEXT[:30])} tokens" in str(found)


def test_a_corpus_is_read_in_minibatches_within_max_tokens():
    lm = model()
    found = similarity(Reading((lm,)), SimilarityOptions(corpus=CORPUS, max_tokens=1500))
    assert "1,472 tokens" in str(found)  # 46 blocks of 32; what is left is shorter
    ids = torch.tensor(lm.tokenizer.encode(TEXT)[:1472]).view(46, 32)
    acts = lab.record(lm, ids, ["embed", "final"])
    x, y = (a.flatten(0, 1).double() for a in acts.values())
    assert found.numpy()[0, -1] == pytest.approx(cka([x[:512], y[:512]], [x[512:1024], y[512:1024]], [x[1024:], y[1024:]])[0, 1], abs=1e-5)  # fmt: skip


def test_two_models():
    one, same, other = model("one"), model("same"), model("other", seed=1, n_layer=3, d_model=24)
    found = similarity(Reading((one, same)), SimilarityOptions(corpus=CORPUS, max_tokens=600))
    np.testing.assert_allclose(np.diagonal(found.numpy()), 1, atol=1e-6)
    np.testing.assert_allclose(found.numpy(), found.numpy().T, atol=1e-6)
    assert ("mean of the diagonal", "1.000") in found.figures
    found = similarity(Reading((one, other)), SimilarityOptions(corpus=CORPUS, max_tokens=600))
    turned = similarity(Reading((other, one)), SimilarityOptions(corpus=CORPUS, max_tokens=600))
    assert found.numpy().shape == (4, 5)
    np.testing.assert_allclose(found.numpy(), turned.numpy().T, atol=1e-6)
    assert found.axes == ("one layer", "other layer")


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder", "permutation"])
def test_every_shape(shape):
    preset = {"encoder": "bert", "encoder_decoder": "t5", "permutation": "xlnet"}.get(shape, "modern")
    lm = model(preset=preset)
    assert lm.model.config.shape == shape
    lm.model.train()
    found = similarity(Reading((lm,), (TEXT[:30],)), SimilarityOptions())
    assert found.numpy().shape == (4, 4)
    np.testing.assert_allclose(np.diagonal(found.numpy()), 1, atol=1e-6)
    assert all(module.training for module in lm.model.modules())


def test_any_site_with_a_vector_for_each_token():
    found = similarity(Reading((model(),), (TEXT[:30],)), SimilarityOptions(site="blocks.*.attn.[zq]"))
    assert found.numpy().shape == (4, 4)
    assert found.panels[0].rows[0] == "blocks.0.attn.q"


@pytest.mark.parametrize(
    ("lms", "text", "options", "message"),
    [
        (lambda: (model(), model("b", kind="byte")), TEXT[:30], {}, "different tokens"),
        (lambda: (model(),), "ab", {}, "2 tokens are too few"),
        (lambda: (model(),), TEXT[:30], {"site": "blocks.0.attn.pattern"}, "who reads whom.*blocks.0.attn.z"),
        (lambda: (model(), model("b", d_model=24)), TEXT[:30], {"measure": "cosine"}, "one width.*16 and 24"),
        (lambda: (model(),), TEXT[:30], {"measure": "cca"}, "too few for cca"),
        (lambda: (model(preset="t5"),), TEXT[:30], {"site": "*.final"}, r"decoder.final.*shape"),
    ],
)  # fmt: skip
def test_refusals(lms, text, options, message):
    with pytest.raises(BadValue, match=message):
        similarity(Reading(lms(), (text,)), SimilarityOptions(**options))


def test_by_the_verb():
    lm = model()
    found = lab.probe(lm, TEXT[:30], kind="similarity", measure="cosine")
    assert found.quantity == "mean cosine" and "similarity" in found.code
    assert "<img" in found._repr_mimebundle_()["text/html"]

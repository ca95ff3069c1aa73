"""Maps of tokens: PCA against a singular value decomposition by hand, frames that are laid on one another, nearest
tokens by a plain loop, and how it all shows."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.errors import BadValue
from llm_lab.probes.embeddings import embeddings, kind_of, turned
from llm_lab.probes.options import EmbeddingsOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import Piece, Projection
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train
from llm_lab.views.embeddings import placed
from tests.small import TEXT
from tests.views.test_pages import LAYER, Page, html, still


def model(name="m", seed=0, preset="gpt2", kind="char", **sizes) -> LM:
    tokenizer = train([TEXT], kind)
    torch.manual_seed(seed)
    given = dict(n_layer=1, n_head=2, d_model=16, max_seq_len=32, zero_init=False) | sizes
    return LM(name, lab.build(preset, vocab_size=tokenizer.vocab_size, **given), tokenizer)


def skipgram() -> LM:
    tokenizer = train([TEXT], "char")
    return LM("v", lab.build("skipgram", vocab_size=tokenizer.vocab_size, d_model=8), tokenizer)


def look(*lms: LM, text: str | None = None, **options) -> Projection:
    return embeddings(Reading(lms, (text,) if text else ()), EmbeddingsOptions(**options))


def rows(lm: LM, found: Projection) -> np.ndarray:
    return lm.model.embedding_table().detach().double().numpy()[[piece.id for piece in found.pieces]]


@pytest.mark.parametrize("dims", [2, 3])
def test_pca_is_the_singular_value_decomposition(dims):
    lm = model()
    found = look(lm, dims=dims)
    x = rows(lm, found)
    x = x - x.mean(0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(u[:, :dims] * s[:dims]), atol=1e-5)
    np.testing.assert_allclose(found.explained[0], s[:dims] ** 2 / (s**2).sum(), rtol=1e-5)
    assert found.numpy().shape == tuple(found.tensor.shape) == (len(found.pieces), dims)
    again = look(model(), dims=dims)
    np.testing.assert_array_equal(found.numpy(), again.numpy())


def test_nearest_by_a_plain_loop():
    lm = model()
    found = look(lm)
    table = lm.model.embedding_table().detach().double().numpy()
    for point in (0, 5, 11):
        own = found.pieces[point].id
        cosines = {
            i: table[own] @ table[i] / np.sqrt((table[own] @ table[own]) * (table[i] @ table[i]))
            for i in map(int, lm.tokenizer.text_ids)
            if i != own
        }
        wanted = sorted(cosines, key=lambda i: -cosines[i])[:8]
        assert found.near[0, point].tolist() == wanted
        np.testing.assert_allclose(found.cosine[0, point], [cosines[i] for i in wanted], atol=1e-5)
        assert [found.names[i].id for i in wanted] == wanted


def test_tokens_by_how_often_they_are_counted():
    lm = model()
    found = look(lm, corpus=[TEXT], n_tokens=5, max_tokens=2000)
    ids, counts = np.unique(lm.tokenizer.encode(TEXT)[:2000], return_counts=True)
    assert (
        sorted(found.counts.tolist(), reverse=True)
        == sorted(counts.tolist(), reverse=True)[:5]
        == found.counts.tolist()
    )
    assert found.pieces[0].id == ids[counts.argmax()]
    text = look(lm, text="the wall the bottle")
    assert [piece.text for piece in text.pieces] == list(dict.fromkeys("the wall the bottle"))
    assert "--corpus counts" in str(look(lm))
    every = look(lm, corpus=["green green bottle bottles"], n_tokens=300)
    assert {piece.text for piece in every.pieces} == set("green green bottle bottles")
    assert set(every.near[every.near >= 0].tolist()) <= {piece.id for piece in every.pieces}


def test_the_output_has_vectors_of_its_own():
    lm = model(tie_embeddings=False)
    with torch.no_grad():
        lm.model.unembed.weight.copy_(lm.model.embed.weight.flip(1) * 2)
    one, other = look(lm), look(lm, table="output")
    np.testing.assert_allclose(np.abs(other.numpy()), 2 * np.abs(one.numpy()), atol=1e-4)
    assert other.source == "output vectors"


@pytest.mark.parametrize("preset", ["modern", "bert", "t5", "xlnet"])
def test_every_shape_and_its_activations(preset):
    lm = model(preset=preset)
    assert look(lm).points.shape[2] == 2
    site = "encoder.final" if preset == "t5" else "final"
    lm.model.train()
    found = look(lm, text="green bottles", site=site)
    assert lm.model.training
    acts = lab.record(lm, "green bottles", site)[site][0, :13].double().numpy()
    acts = acts - acts.mean(0)
    u, s, _ = np.linalg.svd(acts, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(u[:, :2] * s[:2]), atol=1e-4)
    assert [piece.text for piece in found.pieces] == list("green bottles")
    assert found.positions and "13 positions" in str(found)


def states(drift: float) -> list[LM]:
    """Three states of one training: the same vectors with some drift between them."""
    made = [model(f"m{i}") for i in range(3)]
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for i, lm in enumerate(made):
            lm.model.embed.weight.add_(i * drift * torch.randn(lm.model.embed.weight.shape, generator=g))
    return made


def test_states_of_one_training_stand_on_the_axes_of_the_last():
    lms = states(0.005)
    found = look(*lms)
    assert found.align == "basis" and found.frames == ["m0", "m1", "m2"]
    x = rows(lms[2], found)
    _, _, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    for frame, lm in enumerate(lms):
        y = rows(lm, found)
        np.testing.assert_allclose(np.abs(found.points[frame]), np.abs((y - y.mean(0)) @ v[:2].T), atol=1e-5)
    assert np.linalg.norm(found.points[1] - found.points[2]) < np.linalg.norm(found.points[2])


def test_other_models_are_turned_onto_the_next():
    lms = [model("a"), model("b", seed=1), model("c", seed=2, d_model=24)]
    found = look(*lms, dims=3)
    assert found.align == "procrustes"
    for frame in (0, 1):  # no rotation nor mirroring brings a frame nearer to the next
        u, _, v = np.linalg.svd(found.points[frame].T.astype(float) @ found.points[frame + 1])
        np.testing.assert_allclose(u @ v, np.eye(3), atol=1e-4)
    g = np.random.default_rng(0)
    cloud = g.normal(size=(30, 3))
    rotation = np.linalg.qr(g.normal(size=(3, 3)))[0]
    np.testing.assert_allclose(turned([cloud @ rotation, cloud])[0], cloud, atol=1e-10)


def test_tsne_keeps_groups_together_and_repeats():
    lm = model()
    ids = lm.tokenizer.text_ids
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():  # two bundles of directions
        table = lm.model.embed.weight
        table[ids] = 0.1 * torch.randn(len(ids), 16, generator=g)
        table[ids[::2], 0] += 1
        table[ids[1::2], 1] += 1
    found = look(lm, projection="tsne")
    first = np.isin([piece.id for piece in found.pieces], ids[::2])
    own, other = (found.numpy()[side].mean(0) for side in (first, ~first))
    nearer = np.linalg.norm(found.numpy() - own, axis=1) < np.linalg.norm(found.numpy() - other, axis=1)
    assert (nearer == first).all()
    np.testing.assert_array_equal(found.numpy(), look(lm, projection="tsne").numpy())
    assert found.explained is None and "means nothing" in Page(still(found)).text


def test_kinds():
    pieces = ["a", " The", "Ärger", "7", " 12", "?", "\n", " ", "你", "<0xE4>", "##ing", "ǅ"]
    wanted = ["lower case", "capital", "capital", "digit", "digit", "punctuation", "space", "space", "other letter"]
    assert [kind_of(Piece(text, 0)) for text in pieces] == [*wanted, "bytes", "lower case", "capital"]
    assert kind_of(Piece("[PAD]", 0, special=True)) == "special"


@pytest.mark.parametrize(
    ("lms", "text", "options", "message"),
    [
        (lambda: (model(), model("b", kind="byte")), None, {}, "m and b have different tokens"),
        (lambda: (model(),), "aab", {}, "2 different tokens, too few"),
        (lambda: (model(),), None, {"site": "final"}, "activations are of a text"),
        (lambda: (model(),), "green", {"site": "blocks.0.attn.[qk]"}, "means 2 sites"),
        (lambda: (skipgram(),), None, {"table": "output"}, "no vectors of the output"),
    ],
)  # fmt: skip
def test_refusals(lms, text, options, message):
    with pytest.raises(BadValue, match=message):
        look(*lms(), text=text, **options)


def test_names_do_not_cover_one_another():
    g = np.random.default_rng(0)
    x, y = g.uniform(0, 400, 150), g.uniform(0, 300, 150)
    names = ["word"] * 150
    found = placed(names, x, y, 400, 300)
    assert 20 < len(found) < 150
    boxes = [(left, base - 8, left + 24, base + 2) for _, left, base in found]
    for i, a in enumerate(boxes):
        assert a[0] >= 0 and a[2] <= 400 and a[1] >= 0 and a[3] <= 300
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_shows_itself():
    found = look(*states(0.005), dims=3, corpus=[TEXT])
    text = Page(still(found)).text
    assert "m0 … m2" in text and "axes of m2" in text and "variance" in text
    assert still(found).count("<img") == 2
    layer, _ = LAYER.finditer(html(found))  # the other one saves it as a picture
    packed = [zlib.decompress(b64decode(part)) for part in json.loads(layer["packed"])]
    data = json.loads(packed[0])["data"]
    n = len(found.pieces)
    assert len(packed[1]) == 2 * 3 * n * 3 and len(packed[2]) == 2 * 3 * n * 8
    near = np.frombuffer(packed[2], "<u2").reshape(3, n, 8)
    assert [data["names"][i] for i in near[2, 0]] == [
        re.sub("^ $", "␣", found.names[int(j)].text) for j in found.near[2, 0]
    ]
    assert list(found.to_pandas().columns) == ["model", "token", "id", "kind", "count", "x", "y", "z", "nearest"]
    assert len(found.to_pandas()) == 3 * n

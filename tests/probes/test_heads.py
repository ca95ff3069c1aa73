"""The statistics of heads against plain loops over patterns, patterns made by hand, and the names that follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import llm_lab as lab
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.probes.heads import head_scores, heads, repeat_scores, repeated, roles, text_scores
from llm_lab.probes.options import PROBES, HeadsOptions
from llm_lab.probes.reading import Reading
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train as letters_of
from tests.small import train

TOKENIZER = letters_of(["abcdefghijkl"], "char")
SIZES = dict(vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=4, d_model=16, max_seq_len=24, zero_init=False)
TEXT = "abcabcdbebfcg"


def made(shape: str = "decoder", **changed) -> LM:
    torch.manual_seed(0)
    config = ModelConfig(**{**SIZES, "shape": shape, **changed})
    info = {"objective": "mlm"} if shape == "encoder" else {}
    return LM("small", SHAPES.load(shape)(config).eval(), TOKENIZER, info=info)


def random_pattern(B: int, H: int, T: int, causal: bool = True) -> torch.Tensor:
    scores = torch.randn(B, H, T, T, generator=torch.Generator().manual_seed(1)) * 3
    if causal:
        scores = scores.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
    return scores.softmax(-1)


def test_scores_of_a_text_are_what_plain_loops_give():
    pattern = random_pattern(2, 3, 7, causal=False)
    found = text_scores(pattern)
    for h in range(3):
        wanted: dict[str, list[float]] = {name: [] for name in found}
        for b in range(2):
            for t in range(1, 7):
                row = pattern[b, h, t].tolist()
                wanted["entropy"].append(-sum(p * math.log2(p) for p in row))
                wanted["distance"].append(sum(p * abs(t - s) for s, p in enumerate(row)))
                wanted["near"].append(sum(p for s, p in enumerate(row) if abs(t - s) <= 4))
                wanted["previous_token"].append(row[t - 1])
                wanted["first_token"].append(row[0])
                wanted["self"].append(row[t])
            wanted["next_token"] += [float(pattern[b, h, t, t + 1]) for t in range(6)]
        for name, values in wanted.items():
            assert float(found[name][h]) == pytest.approx(np.mean(values), abs=1e-5), name


def test_scores_on_repeats_follow_the_earlier_occurrence():
    ids = repeated(made(), 3, seed=5)
    T = ids.shape[1]
    pattern = random_pattern(3, 2, T)
    found = repeat_scores(pattern, T // 2)
    for h in range(2):
        same, after = [], []
        for b in range(3):
            for t in range(T // 2, T):
                s = ids[b, :t].tolist().index(int(ids[b, t]))  # the one earlier occurrence
                same.append(float(pattern[b, h, t, s]))
                after.append(float(pattern[b, h, t, s + 1]))
        assert float(found["duplicate_token"][h]) == pytest.approx(np.mean(same), abs=1e-6)
        # The last query of the block before is none of the repetition.
        assert float(found["induction"][h]) == pytest.approx(np.mean(after), abs=1e-6)


def test_random_blocks_have_no_token_twice_and_only_text():
    lm = made()
    ids = repeated(lm, 8, seed=3)
    length = ids.shape[1] // 2
    assert length == 12  # half the context, and the whole alphabet
    for row in ids.tolist():
        assert row[:length] == row[length:] and len(set(row)) == length
        assert not set(row) & TOKENIZER.special_ids
    assert torch.equal(ids, repeated(lm, 8, seed=3))
    assert not torch.equal(ids, repeated(lm, 8, seed=4))
    before = torch.get_rng_state()
    repeated(lm, 8, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(lab.LabError, match="context of 4"):
        repeated(made(max_seq_len=4), 1)


@pytest.mark.parametrize(
    ("shape", "changed"),
    [
        ("decoder", {}),
        ("decoder", {"n_kv_head": 2, "position": "alibi", "norm_place": "sandwich"}),
        ("decoder", {"attention": "window", "window": 3}),
        ("decoder", {"n_expert": 3, "share_layers": True}),
        ("encoder", {"norm_place": "post"}),
        ("encoder_decoder", {"n_decoder_layer": 1}),
        ("permutation", {}),
    ],
)
def test_they_are_those_of_the_recorded_patterns(shape, changed):
    lm = made(shape, **changed)
    ids = torch.tensor([TOKENIZER.encode(TEXT)])
    found = head_scores(lm, [ids])
    prefix = "encoder." if shape == "encoder_decoder" else ""
    recorded = lab.record(lm, ids, f"{prefix}blocks.*.attn.pattern")
    T = ids.shape[1]
    for i, pattern in enumerate(recorded.values()):
        wanted = text_scores(pattern[:, :, :T, :T])
        for name, values in wanted.items():
            if name in found:
                np.testing.assert_allclose(found[name][i], values.numpy(), atol=1e-5)
    assert ("next_token" in found) == (shape in ("encoder", "encoder_decoder"))
    assert found["induction"].shape == (2, 4) and found["induction"].dtype == np.float32


def test_chance_is_a_head_that_reads_evenly():
    lm = made(attention="window", window=4)
    (table,) = heads(Reading((lm,), (TEXT,)), HeadsOptions())
    T = len(TEXT)
    assert table.chance["previous_token"] == pytest.approx(np.mean([1 / min(t + 1, 4) for t in range(1, T)]), abs=1e-6)
    assert table.chance["first_token"] == pytest.approx(
        np.mean([1 / (t + 1) if t < 4 else 0 for t in range(1, T)]), abs=1e-6
    )
    assert table.chance["induction"] == 0  # twelve tokens away, and the window is four
    with torch.no_grad():
        lm.model.blocks[0].attn.qkv.weight[:32] = 0  # no queries and no keys: nothing to prefer
    (even,) = heads(Reading((lm,), (TEXT,)), HeadsOptions())
    for name, values in even.scores.items():
        np.testing.assert_allclose(values[0], even.chance[name], atol=1e-5)
    assert even.roles[0] == [["broad"]] * 4 or even.roles[0] == [["local"]] * 4


def test_names_follow_from_patterns_made_by_hand():
    T = 24
    eye, mask = torch.eye(T), torch.ones(T, T).tril()
    even = mask / mask.sum(-1, keepdim=True)
    after = torch.roll(eye, 1 - T // 2, 1).tril()  # to the token after the one twelve before
    after[: T // 2] = eye[0]
    kinds = {
        "previous token": torch.roll(eye, -1, 1).tril() + eye[0].outer(eye[0]),
        "itself": eye,
        "first token": eye[0].expand(T, T),
        "broad": even,
        "induction": after,
        "duplicate token": torch.where(torch.arange(T)[:, None] < T // 2, even, torch.roll(eye, -T // 2, 1)),
    }
    scores = [text_scores(one[None, None]) | repeat_scores(one[None, None], T // 2) for one in kinds.values()]
    chance = {
        name: float(v) for name, v in (text_scores(even[None, None]) | repeat_scores(even[None, None], T // 2)).items()
    }
    stacked = {name: np.array([[float(one[name]) for one in scores]]) for name in chance}
    for (role, _), found in zip(kinds.items(), roles(stacked, chance)[0], strict=True):
        assert found[0] == role, (role, found)


def test_the_corpus_is_read_as_it_grows_and_an_interrupt_keeps_what_was_read():
    lm = train("reader")
    whole = lab.probe(lm, kind="heads", max_tokens=200, repeats=4)
    assert whole.code == "lab.probe(reader, kind='heads', max_tokens=200, repeats=4)"
    assert whole.facts == ["200 tokens of the held-out text", "4 repeated random sequences"]
    assert set(whole.named("induction")) <= {(i, j) for i in range(2) for j in range(2)}
    assert list(whole.to_pandas()[["layer", "head"]].itertuples(index=False, name=None)) == [
        (i, j) for i in range(2) for j in range(2)
    ]
    assert torch.equal(whole.tensor, torch.from_numpy(whole.numpy()))
    with pytest.raises(lab.LabError, match="no name of a head"):
        whole.named("inductive")
    growing = heads(Reading((lm,)), HeadsOptions(max_tokens=200))
    next(growing)
    stopped = growing.throw(KeyboardInterrupt())
    assert "interrupted" in str(stopped) and list(growing) == []
    with pytest.raises(lab.LabError, match="two at least"):
        lab.probe(lm, "b", kind="heads")
    without = lab.probe(lm, "green bottles", kind="heads", repeats=0)
    assert "induction" not in without.scores and "repeat" not in without.caption
    assert "green" not in str(without)


def test_it_leaves_nothing_behind():
    lm = made()
    lm.model.train()
    kept = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    list(heads(Reading((lm,), (TEXT, TEXT[:5])), HeadsOptions()))
    assert lm.model.training
    assert all(p.grad is None for p in lm.model.parameters())
    assert all(torch.equal(kept[name], tensor) for name, tensor in lm.model.state_dict().items())
    with torch.no_grad():
        lm.model.embed.weight.fill_(torch.nan)
    with pytest.raises(lab.LabError, match="diverged"):
        list(heads(Reading((lm,), (TEXT,)), HeadsOptions()))
    assert lm.model.training


def test_it_is_in_the_table():
    assert PROBES.load("heads") is heads

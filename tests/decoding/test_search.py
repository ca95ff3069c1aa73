"""Beams against transformers, against all texts there are, and in groups against another way to write the algorithm."""

from __future__ import annotations

import itertools

import pytest
import torch

import llm_lab as lab
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.loop import decode
from llm_lab.decoding.rows import Rows
from llm_lab.errors import BadValue
from llm_lab.models.decoder import Decoder
from llm_lab.models.options import ModelConfig
from tests.small import train


def gpt2(vocab=13, seed=0, scale=1.0):
    """A model of transformers and the same as ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    theirs = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        theirs.transformer.wte.weight.mul_(20 * scale)
    return theirs


def ours_of(theirs, folder):
    from tokenizers import Tokenizer, models

    theirs.save_pretrained(folder)
    vocab = {f"t{i}": i for i in range(theirs.config.vocab_size)}
    Tokenizer(models.WordLevel(vocab, unk_token="t1")).save(str(folder / "tokenizer.json"))
    return lab.load(str(folder)).model


def search(model, prompt, n, new, stop=(), **options):
    choice = choose({"n": n, **options})
    made = choice.strategy()
    ids = torch.tensor([prompt] * made.rows(n))
    rows = Rows(model, ids, new, stop=stop)
    for _ in decode(rows, made, torch.Generator()):
        pass
    return made.texts(rows, n), made


@pytest.mark.parametrize("early", ["false", "true", "never"])
@pytest.mark.parametrize("power", [0.0, 1.0, -0.7])
def test_beams_are_those_of_transformers(tmp_path, early, power):
    for seed in range(4):
        theirs = gpt2(seed=seed)
        model = ours_of(theirs, tmp_path / f"{seed}")
        want = theirs.generate(
            torch.tensor([[3, 7, 2]]), attention_mask=torch.ones(1, 3), num_beams=4, num_return_sequences=4, max_new_tokens=9,
            early_stopping={"false": False, "true": True, "never": "never"}[early], length_penalty=power, do_sample=False,
            return_dict_in_generate=True, output_scores=True, pad_token_id=0,
        )  # fmt: skip
        found, _ = search(
            model, [3, 7, 2], 4, 9, stop=[0], strategy="beam", num_beams=4, length_penalty=power, early_stopping=early
        )
        sequences = [[i for i in row[3:] if i] for row in want.sequences.tolist()]
        assert [text.ids for text in found] == sequences
        torch.testing.assert_close(
            torch.tensor([text.score for text in found]), want.sequences_scores, atol=1e-5, rtol=1e-5
        )


def test_greedy_is_that_of_transformers(tmp_path):
    theirs = gpt2(seed=9)
    model = ours_of(theirs, tmp_path)
    want = theirs.generate(
        torch.tensor([[3, 7, 2]]), attention_mask=torch.ones(1, 3), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    found, _ = search(model, [3, 7, 2], 1, 12, stop=[0], strategy="greedy")
    assert found[0].ids == [i for i in want[0, 3:].tolist() if i]


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    return Decoder(
        ModelConfig(vocab_size=5, n_layer=1, n_head=2, d_model=8, max_seq_len=12, zero_init=False, tie_embeddings=False)
    ).eval()


@pytest.mark.parametrize("stop", [(), (0,)])
def test_beams_as_wide_as_everything_find_the_best_of_all_texts(small, stop):
    """Every text of four tokens is scored by a pass of its own."""
    prompt, new = [1, 2], 4
    scores = {}
    for text in itertools.product(range(5), repeat=new):
        if stop and 0 in text:
            text = text[: text.index(0) + 1]
        ids = torch.tensor([prompt + list(text)])
        with torch.no_grad():
            logs = small(ids[:, :-1]).logits.log_softmax(-1)[0]
        total = float(sum(logs[1 + i, token] for i, token in enumerate(text)))
        scores[text] = total / len(text) ** 0.6
    best = sorted(scores, key=scores.get, reverse=True)[:5]
    found, _ = search(
        small, prompt, 5, new, stop=stop, strategy="beam", num_beams=5**new, length_penalty=0.6, early_stopping="never"
    )
    assert [tuple(one.ids) for one in found] == [tuple(i for i in text if i or not stop) for text in best]
    assert [one.score for one in found] == pytest.approx([scores[text] for text in best], abs=1e-5)


def test_what_is_reported_of_each_token_is_what_one_pass_says(small):
    found, _ = search(small, [1, 2], 3, 8, strategy="beam", num_beams=6)
    for text in found:
        ids = torch.tensor([[1, 2, *text.ids]])
        with torch.no_grad():
            logs = small(ids).logits[0].log_softmax(-1)
        want = [float(logs[1 + i, token]) for i, token in enumerate(text.ids)]
        assert text.logprob == pytest.approx(want, abs=1e-5)
        assert text.score == pytest.approx(sum(want) / len(want), abs=1e-5)
        assert text.chosen_prob == pytest.approx([2.718281828459045**x for x in want], abs=1e-5)


def diverse(model, prompt, new, beams, groups, strength):
    """Vijayakumar et al. 2018, algorithm 1, with lists; no text ends early."""
    size = beams // groups
    live = [[([], 0.0)] for _ in range(groups)]
    for _ in range(new):
        taken = []
        for g in range(groups):
            options = []
            for text, total in live[g]:
                with torch.no_grad():
                    logs = model(torch.tensor([prompt + text])).logits[0, -1].log_softmax(-1).tolist()
                for token, log in enumerate(logs):
                    options.append((total + log - strength * taken.count(token), text + [token], total + log))
            options.sort(key=lambda one: -one[0])
            live[g] = [(text, total) for _, text, total in options[:size]]
            taken += [text[-1] for text, _ in live[g]]
    return live


def test_groups_of_beams_are_those_of_the_algorithm(small):
    for groups, strength in ((2, 0.7), (3, 0.0), (6, 5.0)):
        want = diverse(small, [1, 2], 6, 6, groups, strength)
        found, _ = search(
            small,
            [1, 2],
            6,
            6,
            strategy="diverse_beam",
            num_beams=6,
            num_beam_groups=groups,
            diversity_penalty=strength,
        )
        flat = sorted((one for group in want for one in group), key=lambda one: -one[1])
        assert sorted(tuple(one.ids) for one in found) == sorted(tuple(text) for text, _ in flat)
        assert [one.score * 6 for one in found] == pytest.approx([total for _, total in flat], abs=1e-5)


def test_scores_of_users_can_be_added_up():
    lm = train("ends", ["the cat sat on the mat.", "a dog ran."] * 100, steps=60)
    for text in ("the c", "a"):
        found = lab.generate(lm, text, strategy="beam", num_beams=4, n=4, max_new_tokens=20, length_penalty=0.8)
        assert any(end is not None for end in found.end_logprob)
        for score, logs, end in zip(found.scores, found.logprob, found.end_logprob, strict=True):
            every = [*logs, *([] if end is None else [end])]
            assert score == pytest.approx(sum(every) / len(every) ** 0.8, abs=1e-5)


def test_the_tree_tells_what_became_of_every_beam(small):
    found, made = search(small, [1, 2], 2, 5, strategy="beam", num_beams=3)
    steps = {branch.step for branch in made.tree}
    assert steps == set(range(5))
    for step in range(4):
        places = [branch.place for branch in made.tree if branch.step == step and branch.place is not None]
        assert places == [0, 1, 2]
        assert all(branch.parent in (0, 1, 2) for branch in made.tree if branch.step == step)
    assert max(branch.total for branch in made.tree if branch.finished) == pytest.approx(5 * found[0].score, abs=1e-5)


def follow(tree, t, place):
    """The nodes that lead to a place in a step, by their parents."""
    way = [tree.steps[t][place]]
    for step in reversed(tree.steps[:t]):
        way.insert(0, step[way[0].parent])
    assert way[0].parent == -1
    return way


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {"num_beams": 4, "length_penalty": 0.0},
        {"strategy": "diverse_beam", "num_beams": 4, "num_beam_groups": 2},
        {"num_beams": 3, "stop": [" d"]},
    ],
)
def test_the_tree_of_a_result_leads_to_its_texts(options):
    lm = train("ends", ["the cat sat on the mat.", "a dog ran."] * 100, steps=60)
    options = {"strategy": "beam", **options}
    found = lab.generate(lm, "a", n=options["num_beams"], max_new_tokens=12, **options)
    tree = found.beams
    assert (tree.n_beams, tree.n_steps) == (options["num_beams"], len(tree.steps))
    leaves = [follow(tree, t, i) for t, step in enumerate(tree.steps) for i, one in enumerate(step) if one.finished]
    written = [[node.piece.id for node in way] for way in leaves]
    eos = lm.tokenizer.specials["eos"]
    for ids, logprobs, end in zip(found.tokens, found.logprob, found.end_logprob, strict=True):
        ended = [*ids, eos] if end is not None else ids
        assert ended in written
        total = sum(logprobs) + (end or 0.0)
        assert leaves[written.index(ended)][-1].total == pytest.approx(total, abs=1e-4)
    best = [tree.steps[t][i] for t, i in enumerate(tree.best)]
    assert best == follow(tree, len(best) - 1, tree.best[-1])
    ids = [*found.tokens[0], *([eos] if found.end_logprob[0] is not None else [])]
    assert [node.piece.id for node in best] == ids
    # What is kept leads to an end: told by walking down from every node, where the tree was marked walking up.
    for t, step in enumerate(tree.steps):
        for i, node in enumerate(step):
            level, last, ends = {i}, t, node.finished
            while level and last + 1 < len(tree.steps):
                last += 1
                level = {j for j, one in enumerate(tree.steps[last]) if one.parent in level}
                ends |= any(tree.steps[last][j].finished for j in level)
            assert node.kept == (ends or bool(level and last + 1 == len(tree.steps)))
    assert any(not node.kept for step in tree.steps for node in step)
    assert lab.generate(lm, "a", strategy="greedy", max_new_tokens=3).beams is None


def test_the_tree_of_a_text_written_on_begins_where_it_does():
    from llm_lab.decoding.writing import write

    lm = train("tiny")
    begin = lm.tokenizer.encode("green bo")
    found = write(lm, "1 ", strategy="beam", num_beams=3, max_new_tokens=14, begin=begin)
    tree = found.beams
    assert (tree.n_steps, len(tree.best)) == (14 - len(begin), 14 - len(begin))
    way = [tree.steps[t][i] for t, i in enumerate(tree.best)]
    assert [node.piece.id for node in way] == found.tokens[0][len(begin) :]
    assert way[-1].total == pytest.approx(sum(found.logprob[0]), abs=1e-4)


def test_a_large_search_keeps_a_part_of_its_tree(small, monkeypatch):
    from llm_lab.decoding import beam

    monkeypatch.setattr(beam, "NODES", 10)
    lm = train("tiny", steps=2)
    tree = lab.generate(lm, "1", strategy="beam", num_beams=4, max_new_tokens=8).beams
    assert (tree.n_steps, len(tree.steps), len(tree.best)) == (8, 2, 2)


def test_impossible_searches_are_refused():
    with pytest.raises(BadValue, match="n: 6 texts cannot come from 5 beams; use --num_beams 6"):
        choose({"strategy": "beam", "n": 6}).strategy().rows(6)
    with pytest.raises(BadValue, match="num_beam_groups: 4 groups cannot share 6 beams"):
        choose({"strategy": "diverse_beam", "num_beams": 6, "num_beam_groups": 4})

"""Several models as one, against the mean written out by hand from a full forward pass of each."""

from __future__ import annotations

import gc
import itertools
import math
from collections import Counter

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab.baselines.lstm import LSTM
from llm_lab.data.batch import Attend
from llm_lab.decoding.choosing import choose
from llm_lab.decoding.conditioned import Conditioned
from llm_lab.decoding.loop import decode
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.decoding.rows import Rows
from llm_lab.models.decoder import Decoder
from llm_lab.models.encoder_decoder import EncoderDecoder
from llm_lab.models.ensemble import Ensemble, of_logits, of_probs
from llm_lab.models.options import ModelConfig
from tests.decoding.test_speculative import exact
from tests.small import TEXT, train

AVERAGES = {"probs": of_probs, "logits": of_logits}
WEIGHTS = (0.7, 0.3)


def mean(logits, how, weights=WEIGHTS):
    """The averaged distribution of a list of logits, as it is defined."""
    probs = [one.double().softmax(-1) for one in logits]
    if how == "probs":
        return sum(w * p for w, p in zip(weights, probs, strict=True))
    product = math.prod(p**w for w, p in zip(weights, probs, strict=True))
    return product / product.sum(-1, keepdim=True)


def config(seed, **sizes):
    torch.manual_seed(seed)
    return ModelConfig(**(dict(vocab_size=11, n_layer=1, n_head=2, d_model=8, max_seq_len=12, zero_init=False) | sizes))


def members(kind):
    """(models of the next token, what gives all logits of ids for each, whether they have a cache)."""
    if kind == "two stacks":
        source = torch.tensor([[3, 4, 5]])
        pairs = [EncoderDecoder(config(i, shape="encoder_decoder", n_layer=i)).eval() for i in (1, 2)]
        wholes = [lambda ids, pair=pair: pair(source.expand(len(ids), -1), decoder_ids=ids).logits for pair in pairs]
        return [Conditioned(pair, source) for pair in pairs], wholes, True
    other = {
        "of other sizes": lambda: Decoder(config(2, n_layer=2, d_model=16, position="alibi", max_seq_len=20)),
        "grouped heads": lambda: Decoder(config(2, n_head=4, n_kv_head=1)),
        "no cache": lambda: LSTM(config(2, shape="lstm", max_seq_len=20)),
    }[kind]
    models = [Decoder(config(1)).eval(), other().eval()]
    return models, [lambda ids, model=model: model(ids).logits for model in models], kind != "no cache"


def written(model, prompt, new, **options):
    choice = choose(options)
    made = choice.strategy()
    rows = Rows(model, torch.tensor([prompt] * made.rows(choice.general.n)), new)
    for _ in decode(rows, made, torch.Generator().manual_seed(0)):
        pass
    return rows, made.texts(rows, choice.general.n)


@torch.no_grad()
@pytest.mark.parametrize("how", AVERAGES)
@pytest.mark.parametrize("kind", ["of other sizes", "grouped heads", "no cache", "two stacks"])
def test_probabilities_are_the_mean_of_the_members(kind, how):
    """Past the shortest context too, where all members read the same."""
    models, wholes, cached = members(kind)
    model = Ensemble(models, AVERAGES[how], WEIGHTS)
    assert model.max_seq_len == 12
    assert ("cache" in model.supports) == cached
    rows, _ = written(model, [1, 5, 9], 30, strategy="greedy", n=2)
    kept = 3
    for t in range(3, 33):
        if kept > 12:
            kept = 6 if cached else 12
        window = rows.ids[:, t - kept : t]
        want = mean([whole(window)[:, -1] for whole in wholes], how)
        token = rows.ids[:, t]
        assert torch.equal(token, want.argmax(-1))
        assert rows.logprob[:, t - 3].tolist() == pytest.approx(
            want.gather(1, token[:, None])[:, 0].log().tolist(), abs=1e-5
        )
        kept += 1
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    want = mean([whole(ids) for whole in wholes], how)
    torch.testing.assert_close(model(ids).logits.softmax(-1), want.float(), atol=1e-6, rtol=1e-5)


def test_hidden_states_are_as_like_as_the_members_find_them():
    models, _, _ = members("of other sizes")
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        mine, *theirs = (model(ids).hidden[0] for model in (Ensemble(models, of_probs, WEIGHTS), *models))
    cosines = [torch.nn.functional.cosine_similarity(one[:, None], one[None], dim=-1) for one in (mine, *theirs)]
    torch.testing.assert_close(cosines[0], 0.7 * cosines[1] + 0.3 * cosines[2])


@torch.no_grad()
@pytest.mark.parametrize("how", AVERAGES)
def test_beams_find_the_likeliest_of_all_texts(how):
    models = [Decoder(config(i, vocab_size=5)).eval() for i in (1, 2)]
    scores = {}
    for text in itertools.product(range(5), repeat=3):
        ids = torch.tensor([[1, 2, *text[:-1]]])
        logs = mean([model(ids).logits[0] for model in models], how).log()
        scores[text] = float(sum(logs[1 + i, token] for i, token in enumerate(text))) / 3
    best = sorted(scores, key=scores.get, reverse=True)[:3]
    _, found = written(Ensemble(models, AVERAGES[how], WEIGHTS), [1, 2], 3, strategy="beam", num_beams=125, n=3)
    assert [tuple(one.ids) for one in found] == best
    assert [one.score for one in found] == pytest.approx([scores[text] for text in best], abs=1e-5)


def test_guesses_leave_the_distribution_as_it_is():
    """An ensemble is checked, and an ensemble guesses; 4,000 texts against the probability of each."""
    models = [Decoder(config(i, vocab_size=4, max_seq_len=40)).eval() for i in (1, 2, 3)]
    model, draft = Ensemble(models[:2], of_probs, WEIGHTS), Ensemble(models[1:], of_logits, WEIGHTS)
    want = exact(model, [1, 2], 3, {})
    seen, generator = Counter(), torch.Generator().manual_seed(0)
    taken, guessed = 0, 0
    for _ in range(500):
        made = choose({"strategy": "speculative", "draft_tokens": 2}).strategy()
        made.other = draft
        rows = Rows(model, torch.tensor([[1, 2]] * 8), 3)
        for _ in decode(rows, made, generator):
            pass
        seen.update(tuple(row) for row in rows.ids[:, 2:].tolist())
        taken, guessed = taken + made.taken, guessed + made.guessed
    assert 0 < taken < guessed
    common = {text: 4000 * p for text, p in want.items() if 4000 * p >= 5}
    chi2 = sum((seen[text] - n) ** 2 / n for text, n in common.items())
    assert chi2 < len(common) + 4 * math.sqrt(2 * len(common))


def test_the_mode_of_every_member_is_put_back():
    models, _, _ = members("of other sizes")
    models[1].train()
    pair = EncoderDecoder(config(1, shape="encoder_decoder")).eval()
    written(Ensemble(models, of_probs, WEIGHTS), [1], 3, strategy="greedy")
    written(Conditioned(pair, torch.tensor([[1, 2]])), [1], 3, strategy="greedy")
    assert [module.training for module in (*models, pair)] == [False, True, False]


@pytest.fixture(scope="module")
def lms(tmp_path_factory):
    """Two that write, of different sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lms"))
        yield train("a", steps=30), train("b", steps=30, n_layer=1, d_model=32, max_seq_len=48, seed=1)


@torch.no_grad()
@pytest.mark.parametrize("how", AVERAGES)
def test_what_is_reported_is_the_ensembles_own(lms, how):
    a, b = lms
    found = lab.generate([a, b], "1 green", ensemble=how, ensemble_weights=(7, 3), max_new_tokens=20, n=2, seed=0)
    assert found.name == "a + b"
    assert "a (70%), b (30%) as one" in found.notes[0]
    for sample, tokens in enumerate(found.tokens):
        ids = torch.tensor([a.tokenizer.encode("1 green") + tokens])
        probs = mean([lm.model(ids).logits[0, 6:-1] for lm in lms], how)
        want = probs.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert found.logprob[sample] == pytest.approx(want.log().tolist(), abs=1e-4)
        known = found.statistics[sample]
        assert known.entropy.tolist() == pytest.approx((-probs * probs.log()).sum(-1).tolist(), abs=1e-4)
        assert known.rank.tolist() == [int((p > w).sum()) + 1 for p, w in zip(probs, want, strict=True)]
        assert known.top_logprob[3].tolist() == pytest.approx(probs[3].topk(10).values.log().tolist(), abs=1e-4)
    assert eval(found.code, {"lab": lab, "a": a, "b": b}).texts == found.texts


@torch.no_grad()
def test_a_text_of_several_models_is_written_on_from_another_token(lms):
    a, _ = lms
    found = lab.generate(lms, "1 green", max_new_tokens=8, seed=0)
    gc.collect()
    found.regrow(3, "w", seed=1)
    assert found.texts[1].startswith(found.texts[0][:10] + "w")
    ids = torch.tensor([a.tokenizer.encode(found.texts[1])])
    probs = mean([lm.model(ids).logits[0, 6:-1] for lm in lms], "probs", (0.5, 0.5))
    want = probs.gather(1, ids[0, 7:, None])[:, 0].log()
    assert found.logprob[1] == pytest.approx(want.tolist(), abs=1e-4)
    assert len(found.statistics) == 2
    voted = lab.generate(lms, "1 green", ensemble="vote", max_new_tokens=8, seed=0)
    with pytest.raises(lab.LabError, match=r"^regrow: "):
        voted.regrow(3, "w")


def test_an_ensemble_made_for_one_text_is_there_while_its_members_are():
    a, b = train("a", steps=2), train("b", steps=2, seed=1)
    found = lab.generate([a, b], "1", max_new_tokens=4)
    late = lab.generate([a, b], "1", max_new_tokens=4)
    voted = lab.generate([a, b], "1", max_new_tokens=4, ensemble="vote")
    gc.collect()
    assert len(found.statistics[0].rank) == 4
    del b
    gc.collect()
    assert late.statistics == []
    assert len(found.statistics[0].rank) == 4
    del a
    gc.collect()
    assert voted.statistics == []


@pytest.mark.parametrize("how", AVERAGES)
@pytest.mark.parametrize(
    "strategy", [name for name, entry in STRATEGIES.items() if not entry.supports & FILLS and name != "dola"]
)
def test_an_ensemble_of_one_model_is_that_model(lms, strategy, how):
    a, _ = lms
    more = {"speculative": {"draft": a}, "contrastive": {"amateur": a}}.get(strategy, {})
    options = dict(strategy=strategy, seed=4, max_new_tokens=40, n=2, repetition_penalty=1.3, **more)
    alone, one = lab.generate(a, "1 green", **options), lab.generate(lab.ensemble([a], how), "1 green", **options)
    assert one.texts == alone.texts
    for mine, theirs in zip(one.logprob, alone.logprob, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_an_ensemble_goes_where_a_model_goes(lms):
    a, b = lms
    both = lab.ensemble([a, b], weights=(0.7, 0.3))
    assert (both.name, both.max_seq_len) == ("a + b", 32)
    nested = lab.ensemble([both, a], "logits", name="nested")
    ids = torch.tensor([a.tokenizer.encode("1 green bottles")])
    with torch.no_grad():
        probs = mean([lm.model(ids).logits for lm in lms], "probs")
        want = mean([probs.log(), a.model(ids).logits], "logits", (0.5, 0.5))
        torch.testing.assert_close(nested.model(ids).logits.softmax(-1), want.float(), atol=1e-6, rtol=1e-4)
    drafted = lab.generate(a, "1 green", strategy="speculative", draft=both, max_new_tokens=8, seed=0)
    assert "draft=lab.ensemble([a, b], average='probs', weights=(0.7, 0.3))" in drafted.code
    assert len(lab.generate(nested, "1 green", max_new_tokens=50, n=2, seed=0).tokens[1]) == 50
    controls = lab.playground(both, "1 green", draft=a, strategy="speculative")
    *_, last = controls.actions["write"]("1", {"max_new_tokens": 5, "seed": 1, "strategy": "speculative"})
    assert eval(last.code, {"lab": lab, "a": a, "b": b}).texts == last.texts
    table = lab.compare([both, a], "1 green", ["greedy", "beam"], max_new_tokens=6, n=1)
    assert [cell.model for cell in table.cells] == ["a + b", "a + b", "a", "a"]
    assert [part.parameters for part in both.model.report().parts] == [
        sum(p.numel() for p in lm.model.parameters()) for lm in lms
    ]


@torch.no_grad()
def test_an_ensemble_is_measured_as_any_model(lms, monkeypatch):
    a, _ = lms
    monkeypatch.chdir(a.run.path.parents[2])  # where the held-out text is
    both = lab.ensemble(lms)
    ids = torch.tensor(a.tokenizer.encode(TEXT[int(0.9 * len(TEXT)) :]))
    nats = 0.0
    for i in range(0, len(ids) - 1, 32):
        block = ids[i : i + 33]
        probs = mean([lm.model(block[None, :-1]).logits[0] for lm in lms], "probs", (0.5, 0.5))
        nats -= float(probs.gather(1, block[1:, None]).log().sum())
    found = lab.evaluate([both, a])
    assert found.scores[0].value == pytest.approx(nats / (len(ids) - 1), rel=1e-6)
    assert found.comparable
    assert found.code == "lab.evaluate([lab.ensemble([a, b], average='probs'), a])"


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"strategy": "beam"}, {"max_new_tokens": 60}])
def test_votes_are_what_all_models_think_of_a_text(lms, options):
    a, b = lms
    options = {"max_new_tokens": 20, "n": 3, "seed": 0, **options}
    found = lab.generate(lms, "1 green", ensemble="vote", ensemble_weights=WEIGHTS, **options)
    assert len(found.texts) == len(found.scores) == 3
    assert found.scores == sorted(found.scores, reverse=True)
    prompt = a.tokenizer.encode("1 green")

    def judged(lm, ids):
        """As a model reads it when it writes: past its context the later half again."""
        total, kept = 0.0, len(prompt)
        for t in range(len(prompt), len(ids)):
            if kept > lm.max_seq_len:
                kept = lm.max_seq_len // 2
            total += float(lm.model(torch.tensor([ids[t - kept : t]])).logits[0, -1].log_softmax(-1)[ids[t]])
            kept += 1
        return total / (len(ids) - len(prompt))

    alone = {lm.name: lab.generate(lm, "1 green", **options) for lm in lms}
    every = {}
    for lm in lms:
        for text, ids, logprob in zip(alone[lm.name].texts, alone[lm.name].tokens, alone[lm.name].logprob, strict=True):
            score = sum(w * judged(one, prompt + ids) for w, one in zip(WEIGHTS, lms, strict=True))
            every.setdefault(text, (score, logprob, []))[2].append(lm.name)
    best = sorted(every, key=lambda text: -every[text][0])[:3]
    assert found.texts == best
    assert found.scores == pytest.approx([every[text][0] for text in best], abs=1e-4)
    assert found.logprob == [every[text][1] for text in best]
    told = next(note for note in found.notes if note.startswith(f"the best of {len(every)} texts"))
    assert [f"text {i} is {' and '.join(every[text][2])}'s (" in told for i, text in enumerate(best, 1)] == [True] * 3
    assert [len(one.rank) for one in found.statistics] == [options["max_new_tokens"]] * 3
    assert eval(found.code, {"lab": lab, "a": a, "b": b}).scores == found.scores


def test_the_end_of_a_text_is_judged_too():
    documents = ["the cat sat on the mat."] * 200
    lms = train("a", documents, steps=120), train("b", documents, steps=120, seed=1)
    found = lab.generate(lms, "the cat", ensemble="vote", strategy="greedy")
    ids = [*lms[0].tokenizer.encode(found.text), lms[0].tokenizer.special("eos")]
    assert len(ids) < 40
    logs = [lm.model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)[6:-1] for lm in lms]
    want = [float(one.gather(1, torch.tensor(ids[7:])[:, None]).mean()) for one in logs]
    assert found.scores == pytest.approx([sum(want) / 2], abs=1e-4)


def test_large_weights_are_shares_too(lms):
    for average in AVERAGES:
        large, small = (lab.ensemble(lms, average, weights=(w, 3 * w)) for w in (5e307, 1.0))
        assert large.model.weights == pytest.approx((0.25, 0.75))
        assert lab.generate(large, "1", seed=0).texts == lab.generate(small, "1", seed=0).texts
    assert [row["weight"] for row in lab.soup([lms[0], lms[0]], weights=(1e308, 1e308)).info["soup"]] == [0.5, 0.5]


def test_several_prompts_are_written_on_together(lms):
    """Each as it is alone, with the seed and its number."""
    prompts = ["1 green", "22 gre", "3"]
    found = lab.generate(lms, prompts, ensemble="logits", max_new_tokens=12, n=2, seed=5)
    alone = [
        lab.generate(lms, one, ensemble="logits", max_new_tokens=12, n=2, seed=5 + i) for i, one in enumerate(prompts)
    ]
    assert [one.texts for one in found] == [one.texts for one in alone]
    assert [one.logprob[1] for one in found] == [pytest.approx(one.logprob[1], abs=1e-4) for one in alone]
    assert eval(found.code, {"lab": lab, "a": lms[0], "b": lms[1]})[2].texts == alone[2].texts


@pytest.mark.parametrize("how", ["alone", "probs", "vote", "several"])
def test_an_interrupt_while_a_text_is_drawn_ends_it(lms, monkeypatch, how):
    """The first drawing is interrupted; what was written until then is the result."""
    from llm_lab.views.live import Live

    def interrupted(self, result):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", -1)
    monkeypatch.setattr(Live, "update", interrupted)
    which = {"model": lms[0]} if how in ("alone", "several") else {"model": lms, "ensemble": how}
    prompt = ["1 green", "2"] if how == "several" else "1 green"
    found = lab.generate(**which, prompt=prompt, max_new_tokens=20, seed=0, display=True)
    assert found.done
    if how == "several":  # both are in one batch
        assert [[len(one) for one in each.tokens] for each in found] == [[2], [2]]
        assert found.notes == ["interrupted: 2 of 2 prompts were reached"]
        return
    assert [len(one) for one in found.tokens] == [2]
    assert "interrupted after 2 tokens" in found.notes


def test_an_interrupted_vote_keeps_what_was_written(lms, monkeypatch):
    from llm_lab.decoding import writing

    def interrupted(*args):
        for rows in decode(*args):
            yield rows
            if rows.written == 7:
                raise KeyboardInterrupt

    monkeypatch.setattr(writing, "decode", interrupted)
    found = lab.generate(lms, "1 green", ensemble="vote", max_new_tokens=50, seed=0)
    assert [len(one) for one in found.tokens] == [7]
    assert "the best of 1 texts" in " ".join(found.notes)
    assert "interrupted after 7 tokens" in found.notes
    assert found.interrupted


def test_equal_texts_are_one_candidate(lms):
    """Each draw of three is the same, so each model has one text, and two are left of the three that were asked for."""
    options = dict(strategy="top_k", k=1, max_new_tokens=8, seed=0)
    alone = {lab.generate(lm, "1 gre", **options).text for lm in lms}
    found = lab.generate(lms, "1 gre", ensemble="vote", n=3, **options)
    assert len(found.texts) == len(alone)
    assert set(found.texts) == alone
    assert f"the best of {len(alone)} texts by" in " ".join(found.notes)
    assert f"3 texts were asked for, and no more than {len(alone)} are different" in found.notes
    (again,) = lab.generate([lms[0], lms[0]], "1 gre", ensemble="vote", n=3, **options).notes[-2:-1]
    assert "text 1 is a's (" in again


@pytest.mark.parametrize(
    "options", [dict(objective="span_corruption", shape="encoder_decoder"), dict(objective="prefix_lm")]
)
@pytest.mark.parametrize("how", [*AVERAGES, "vote"])
def test_models_that_write_from_a_source(options, how):
    a, b = train("a", **options), train("b", **options, seed=1)
    found = lab.generate([a, b], "1 green", ensemble=how, max_new_tokens=6, seed=0)
    (tokens,) = found.tokens
    assert found.continuations == found.texts == [a.tokenizer.decode(tokens)]
    source, start = a.tokenizer.encode("1 green"), a.tokenizer.start
    if "shape" in options:
        source = torch.tensor([[*source, a.tokenizer.special("eos")]])
        logits = [lm.model(source, decoder_ids=torch.tensor([[start, *tokens]])).logits[0].detach() for lm in (a, b)]
    else:
        attend = Attend(prefix=torch.tensor([len(source)]))
        logits = [
            lm.model(torch.tensor([[*source, start, *tokens]]), attend).logits[0, len(source) :].detach()
            for lm in (a, b)
        ]
    chosen = torch.tensor(tokens)[:, None]
    if how == "vote":
        want = [float(one[:-1].log_softmax(-1).gather(1, chosen).mean()) for one in logits]
        assert found.scores == pytest.approx([sum(want) / 2], abs=1e-4)
    else:
        want = mean([one[:-1] for one in logits], how, (0.5, 0.5)).log().gather(1, chosen)[:, 0]
        assert found.logprob[0] == pytest.approx(want.tolist(), abs=1e-4)
        assert len(found.statistics[0].rank) == 6


def test_models_that_fill_in():
    options = dict(objective="mlm", steps=60)
    a, b = train("a", **options, shape="encoder"), train("b", **options, n_layer=1, seed=1)
    found = lab.generate([a, b], "1 green b<mask>ttles", ensemble="logits")
    ids = [a.tokenizer.special("cls"), *a.tokenizer.encode("1 green b")]
    place = len(ids)
    ids += [a.tokenizer.special("mask"), *a.tokenizer.encode("ttles"), a.tokenizer.special("sep")]
    logits = [lm.model(torch.tensor([ids]), Attend(causal=False)).logits[0, place].detach() for lm in (a, b)]
    for one in logits:
        one[sorted(a.tokenizer.special_ids)] = -torch.inf
    probs = mean([one[one.isfinite()] for one in logits], "logits", (0.5, 0.5))
    assert found.logprob[0][place - 1] == pytest.approx(float(probs.max().log()), abs=1e-5)
    assert "a (50%), b (50%) as one" in found.notes[0]
    with pytest.raises(lab.LabError, match=r"^ensemble: vote scores texts that are written from left to right"):
        lab.generate([a, b], "<mask>", ensemble="vote")


def test_models_trained_in_different_ways_do_what_they_have_in_common(lms):
    a, _ = lms
    reader = train("reader", objective="mlm", steps=2)
    mixed = train("mixed", objective="clm,mlm", steps=2)
    ahead = train("ahead", objective="mtp", steps=2)
    assert lab.ensemble([a, mixed]).info["objective"] == "clm"
    assert lab.ensemble([mixed, reader]).info["objective"] == "mlm"
    assert lab.evaluate(lab.ensemble([a, ahead]), metrics="loss").scores[0].value > 0
    with pytest.raises(lab.LabError, match=r"^model: there is no kind of writing that all of them can do"):
        lab.generate([a, reader], "x")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda a, b: lab.generate([a, b], "x", ensemble="prob"), "did you mean 'probs'"),
        (lambda a, b: lab.generate(a, "x", ensemble="logits"), "^ensemble is for several models, and there is a alone"),
        (lambda a, b: lab.generate(a, "x", ensemble_weights=(1,)), "^ensemble_weights is for several models"),
        (lambda a, b: lab.generate([a, b], "x", ensemble_weights=(1,)), "^ensemble_weights: .* there are 2 models"),
        (lambda a, b: lab.generate([a, b], "x", ensemble_weights=(1, 0)), "^ensemble_weights: 0.0 is out of range"),
        (lambda a, b: lab.generate([a, b], "x", ensemble="vote", ensemble_weights=(1,)), "there are 2 models"),
        (lambda a, b: lab.generate([a, b], "x", ensemble_weights=(1e308, 1e-9)), "^ensemble_weights: .* too far apart"),
        (lambda a, b: lab.soup([a, b], weights=(1e-60, 1)), "^weights: .* too far apart"),
        (lambda a, b: lab.generate([], "x"), "^model: the list is empty"),
        (lambda a, b: lab.generate([a, 3], "x"), "^model: 3 is int"),
        (lambda a, b: lab.generate([a, b], "x", strategy="dola"), "^dola reads the model's own layers"),
        (lambda a, b: lab.generate([a, b], "x", n=10**9), r"^n: 1,000,000,000 texts"),
        (lambda a, b: lab.generate([a, b], "x", ensemble="vote", live=True), "^ensemble: vote takes one prompt"),
        (lambda a, b: lab.generate([a, b], ["x", "y"], ensemble="vote"), "^ensemble: vote takes one prompt"),
        (lambda a, b: lab.ensemble([a, b], "vote"), "^average: 'vote' judges finished texts"),
        (lambda a, b: lab.ensemble([a, b], weights=(1, 2, 3)), "^weights: .* has 3, and there are 2 models"),
        (lambda a, b: lab.ensemble([a, b], name="a b"), "^name: 'a b' cannot be"),
        (lambda a, b: lab.ensemble([a, b]).save("there"), r"^save: a \+ b is several models"),
        (lambda a, b: lab.generate([a, train("c", tokenizer="byte", steps=1)], "x"), "^model: c has another tokenizer"),
        (lambda a, b: lab.probe(lab.ensemble([a, b]), "x"), "^probe attention needs a model with sites"),
        (
            lambda a, b: lab.ensemble([a, train("c", objective="prefix_lm", steps=1)]),
            "^model: c writes from a source, as prefix_lm has it, with one stack, and a continues",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_put_together_is_refused(lms, call, says):
    with pytest.raises(lab.LabError, match=says) as caught:
        call(*lms)
    assert "\n" not in str(caught.value)


def test_by_magic(lms):
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "llm_lab")
    shell.user_ns["a"], shell.user_ns["b"] = lms
    line = '"1 green" --max_new_tokens 8 --seed 1 --as found'
    shell.run_line_magic("generate", f"a,b {line} --ensemble logits --ensemble_weights 2,1")
    want = lab.generate(lms, "1 green", ensemble="logits", ensemble_weights=(2, 1), max_new_tokens=8, seed=1)
    assert shell.user_ns["found"].texts == want.texts
    again = eval(shell.user_ns["found"].code, {"lab": lab, "a": lms[0], "b": lms[1]})
    assert again.texts == want.texts
    shell.run_line_magic("generate", f"a,b {line} --ensemble vote --n 2")
    assert len(shell.user_ns["found"].scores) == 2
    shell.run_line_magic("compare", f"a,b {line} --strategies greedy")
    assert shell.user_ns["found"].models == ["a", "b"]

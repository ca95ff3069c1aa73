"""What each objective makes of a text, against its definition; its loss against torch; and that it can be learned."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import llm_lab as lab
from llm_lab.data.batch import IGNORE, Attend
from llm_lab.errors import BadType, BadValue
from llm_lab.models.options import SHAPES, ModelConfig
from llm_lab.models.presets import PRESETS
from llm_lab.objectives.make import check_pair, make
from llm_lab.objectives.mixture import Batches
from llm_lab.objectives.objective import Trainee
from llm_lab.objectives.options import OBJECTIVES
from llm_lab.tokenizers.tokenizer import train

TEXT = "".join(f"The cat number {i} sat on the mat. It saw {i * 7 % 10} mice there! " for i in range(200))
TOKENIZER = train([TEXT], "char")
WORDS = train([TEXT], "bpe", 300)
IDS = np.array(TOKENIZER.encode(TEXT))
SIZES = dict(n_layer=2, n_head=2, d_model=16, d_ff=32, max_seq_len=48)


def objective(name, tokenizer=TOKENIZER, **options):
    return make([name], options, tokenizer)


def model(shape="decoder", **sizes):
    torch.manual_seed(0)
    position = "learned" if shape == "encoder" else "rotary"
    config = ModelConfig(**{"shape": shape, "vocab_size": TOKENIZER.vocab_size, **SIZES, "position": position, **sizes})
    return SHAPES.load(shape)(config)


def batch_of(one, rows=4, seed=0, block=48, turn=0):
    size, step = one.take(block)
    return one.collate([IDS[i * step : i * step + size] for i in range(rows)], np.random.default_rng(seed), turn)


def plain(logits, targets):
    """The mean −log p of the targets, by a loop."""
    logits = logits.detach()
    found = [
        -float(logits[b, t].log_softmax(-1)[targets[b, t]])
        for b, t in itertools.product(*map(range, targets.shape))
        if targets[b, t] != IGNORE
    ]
    return sum(found) / len(found)


# --- masked tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_masks_hide_their_share_and_stand_for_it_as_stated(rate):
    one = objective("mlm", mask_rate=rate)
    rng = np.random.default_rng(0)
    fates = {"mask": 0, "same": 0, "other": 0}
    for start in range(0, 8000, 40):
        row = np.concatenate([[one.cls], IDS[start : start + 40], [one.sep]])
        seen, targets = one.masking(row, rng)
        hidden = np.flatnonzero(targets != IGNORE)
        assert len(hidden) == max(1, round(rate * 40))
        assert np.array_equal(targets[hidden], row[hidden])
        assert hidden.min() > 0 and hidden.max() < 41  # <cls> and <sep> are never hidden
        untouched = np.setdiff1d(np.arange(42), hidden)
        assert np.array_equal(seen[untouched], row[untouched])
        fates["mask"] += (seen[hidden] == one.masking.mask).sum()
        fates["same"] += (seen[hidden] == row[hidden]).sum()
        others = hidden[(seen[hidden] != one.masking.mask) & (seen[hidden] != row[hidden])]
        assert not np.isin(seen[others], sorted(TOKENIZER.special_ids)).any()
        fates["other"] += len(others)
    total = sum(fates.values())
    # A random token is now and then the one that was there.
    for fate, share in (("mask", 0.8), ("other", 0.1), ("same", 0.1)):
        assert abs(fates[fate] / total - share) < 4 * math.sqrt(share / total) + 0.01, fates


def test_whole_words_are_hidden_whole():
    one = objective("mlm", WORDS, mask_unit="word", mask_share=1.0, random_share=0.0, mask_rate=0.3)
    ids = np.array(WORDS.encode(TEXT[:400]))
    inside = WORDS.inside_word(ids)
    for seed in range(20):
        _, targets = one.masking(ids, np.random.default_rng(seed))
        hidden = targets != IGNORE
        assert 0 < hidden.sum() <= round(0.3 * len(ids)) + 3
        assert np.array_equal(hidden[1:][inside[1:]], hidden[:-1][inside[1:]])  # a word is hidden, or it is not


def test_words_are_what_a_reader_takes_for_words():
    text = "Don't stop, 2024 cats!"
    ids = np.array(TOKENIZER_OF_CHARS.encode(text))
    starts = "".join(
        "|" * bool(not inside) + char for char, inside in zip(text, TOKENIZER_OF_CHARS.inside_word(ids), strict=True)
    )
    assert starts == "|Don|'|t| |stop|,| |2024| |cats|!"
    pieces = train(["playing plays played " * 50], "wordpiece", 64)
    ids = np.array(pieces.encode("playing plays"))
    assert [pieces.pieces([i])[0].text.startswith("##") for i in ids] == pieces.inside_word(ids).tolist()
    chinese = train(["床前明月光"], "char")
    assert not chinese.inside_word(np.array(chinese.encode("明月光"))).any()


TOKENIZER_OF_CHARS = train(["Don't stop, 2024 cats!"], "char")


def test_spans_are_hidden_together():
    one = objective("mlm", mask_unit="span", mean_span=4.0, mask_rate=0.3)
    rng, lengths = np.random.default_rng(0), []
    for _ in range(200):
        hidden = one.masking.choose(IDS[:200], rng)
        assert len(hidden) == 60 and len(np.unique(hidden)) == 60
        lengths += [len(run) for run in np.split(hidden, np.flatnonzero(np.diff(hidden) > 1) + 1)]
    assert 3 < np.mean(lengths) < 6.5  # spans that touch count as one


def test_static_masks_stay_and_dynamic_ones_move():
    static, dynamic = objective("mlm", masking="static"), objective("mlm")
    row = IDS[:40]
    masks = [[one.masking(row, np.random.default_rng(i))[1].tolist() for i in range(2)] for one in (static, dynamic)]
    assert masks[0][0] == masks[0][1]
    assert masks[1][0] != masks[1][1]
    assert not static.shift and dynamic.shift


def test_shares_of_more_than_all_are_refused():
    with pytest.raises(BadValue, match=r"random_share 0.4 .* --random_share 0.2"):
        objective("mlm", random_share=0.4)


# --- pairs of segments ----------------------------------------------------------------------------------------------


def segments(batch, one):
    for row, label in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        end = [i for i, token in enumerate(row) if token == one.sep]
        assert row[0] == one.cls and len(end) == 2
        yield row[1 : end[0]], row[end[0] + 1 : end[1]], label


def test_next_sentences_follow_and_others_do_not():
    one = objective("nsp")
    text, labels, chance = TOKENIZER.decode(IDS.tolist()), [], []
    for seed in range(40):
        batch = batch_of(one, 6, seed)
        for first, second, label in segments(batch, one):
            joined = TOKENIZER.decode([*first, *second])
            labels.append(label)
            if label == 0:
                assert joined in text
            else:
                chance.append(joined in text)  # another piece may begin in just that way
    assert np.mean(chance) < 0.3
    assert 0.35 < np.mean(labels) < 0.65


def test_swapped_sentences_are_swapped():
    one, labels = objective("sop"), []
    for seed in range(40):
        for first, second, label in segments(batch_of(one, 4, seed), one):
            pair = [second, first] if label else [first, second]
            assert TOKENIZER.decode(pair[0] + pair[1]) in TEXT
            labels.append(label)
    assert 0.35 < np.mean(labels) < 0.65


@pytest.mark.parametrize("name", ["nsp", "sop"])
def test_segments_are_whole_sentences(name):
    one = objective(name)
    for seed in range(10):
        for pair in segments(batch_of(one, 4, seed, block=240), one):
            for segment in pair[:2]:
                text = TOKENIZER.decode(segment).strip()
                assert text[0] in "TI" and text[-1] in ".!", text
    cuts = [TOKENIZER.decode(a)[-1] for seed in range(20) for a, *_ in segments(batch_of(one, 4, seed, block=43), one)]
    assert np.mean([cut in ".!" for cut in cuts]) < 0.2  # a piece that holds no two sentences is cut anywhere


def right_by(features, labels):
    """How often the label is what it most often was for the same value in the first half, over the second half."""
    half, counts = len(labels) // 2, {}
    for value, label in zip(features[:half], labels[:half], strict=True):
        counts.setdefault(value, [0, 0])[label] += 1
    told = [int(np.argmax(counts.get(value, [1, 0]))) for value in features[half:]]
    return np.mean(np.array(told) == labels[half:])


@pytest.mark.parametrize("name", ["nsp", "sop", "mlm_nsp", "mlm_sop"])
def test_neither_lengths_nor_edges_tell_the_label(name):
    corpus = lab.corpus("stories", size=120_000)
    tokenizer = train(corpus.documents, "bpe", 512)
    ids = np.array([i for text in corpus.documents for i in (*tokenizer.encode(text), tokenizer.end)])
    one, rng = objective(name, tokenizer), np.random.default_rng(0)
    size, rows = one.take(64)[0], []
    for _ in range(80):
        batch = one.collate([ids[i : i + size] for i in rng.integers(0, len(ids) - size, 24)], rng, 0)
        if batch.targets is not None:  # what is hidden is put back
            batch = replace(batch, input_ids=batch.input_ids.where(batch.targets == IGNORE, batch.targets))
        rows += segments(batch, one)
    labels = np.array([label for *_, label in rows])
    tells = {
        "length of the row": lambda a, b: len(a) + len(b),
        "length of A": lambda a, b: len(a),
        "length of B": lambda a, b: len(b),
        "A begins": lambda a, b: a[0],
        "A ends": lambda a, b: a[-1],
        "B begins": lambda a, b: b[0],
        "B ends": lambda a, b: b[-1],
        "sentences end": lambda a, b: tuple(tokenizer.ends_sentence(np.array([a[-1], b[-1]]))),
    }
    found = {what: right_by([rule(a, b) for a, b, _ in rows], labels) for what, rule in tells.items()}
    assert 0.45 < labels.mean() < 0.55
    assert max(found.values()) < 0.6, found


@pytest.mark.parametrize("name", ["mlm_nsp", "mlm_sop"])
def test_static_masks_of_pairs_stay_wherever_a_piece_is_cut(name):
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 160)))
    tokenizer = train([alphabet], "char")
    pieces = np.split(np.array(tokenizer.encode(alphabet)), 4)  # no token is there twice
    moved = {}
    for masking in ("static", "dynamic"):
        one = objective(name, tokenizer, masking=masking, mask_rate=0.3)
        fates = {}
        for seed in range(10):
            batch = one.collate(pieces, np.random.default_rng(seed), seed)
            text = batch.input_ids.where(batch.targets == IGNORE, batch.targets)
            for token, seen, target in zip(
                text.flatten(), batch.input_ids.flatten(), batch.targets.flatten(), strict=True
            ):
                if int(token) not in tokenizer.special_ids:
                    fates.setdefault(int(token), set()).add((int(seen), int(target)))
        assert one.shift == (masking == "dynamic")
        moved[masking] = np.mean([len(fate) > 1 for fate in fates.values()])
    assert moved["static"] == 0 and moved["dynamic"] > 0.5


def test_segments_have_types_and_padding_is_marked():
    one = objective("mlm_nsp")
    net = model("encoder", n_token_type=2, pooler=True, output="mlm")
    one.attach(net)
    batch = batch_of(one, 6)
    for row, (first, second, _) in enumerate(segments(batch, one)):
        types = batch.token_type_ids[row].tolist()
        assert types[: len(first) + 2] == [0] * (len(first) + 2)
        assert types[len(first) + 2 : len(first) + len(second) + 3] == [1] * (len(second) + 1)
    with pytest.raises(BadValue, match="batch_size: 1 is too small for nsp"):
        lab.pretrain([TEXT], name="x", shape="encoder", objective="nsp", batch_size=1, steps=1, display=False, **SIZES)


def test_the_pair_loss_is_that_of_the_pooled_vector():
    one = objective("mlm_nsp")
    net = model("encoder", n_token_type=2, pooler=True, output="mlm", output_bias=True).eval()
    trainee = one.attach(net)
    batch = batch_of(one)
    out = net(**batch.inputs())
    pair = F.cross_entropy(trainee.extras["nsp"](torch.tanh(net.pooler.dense(out.hidden[:, 0]))), batch.labels)
    loss, parts = one.loss(trainee, batch)
    assert float(parts["nsp"]) == pytest.approx(float(pair.detach()), abs=1e-6)
    assert float(parts["mlm"]) == pytest.approx(plain(out.logits, batch.targets), abs=1e-5)
    assert float(loss.detach()) == pytest.approx(float(parts["mlm"] + parts["nsp"]), abs=1e-5)


# --- sources and targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "rate", "mean"), [(40, 0.15, 3.0), (100, 0.15, 3.0), (64, 0.5, 8.0), (9, 0.15, 3.0)]
)
def test_spans_come_back_from_their_sentinels(length, rate, mean):
    one = objective("span_corruption", mask_rate=rate, mean_span=mean)
    noise, spans = round(length * rate), max(1, round(round(length * rate) / mean))
    firsts = []
    for seed in range(100):
        source, target = one.corrupt(IDS[:length], np.random.default_rng(seed))
        sentinels = [i for i in source.tolist() if i in one.sentinels]
        assert sentinels == one.sentinels[:spans] and source[-1] == target[-1] == one.end
        assert len(target) == noise + spans + 1 and len(source) == length - noise + spans + 1
        assert source[0] == IDS[0]  # the text begins with what is kept
        taken = {}
        for i in target[:-1].tolist():
            if i in sentinels:
                taken[i] = []
            else:
                taken[list(taken)[-1]].append(i)
        back = [j for i in source[:-1].tolist() for j in taken.get(i, [i])]
        assert back == IDS[:length].tolist()
        assert all(taken.values())
        firsts.append(len(next(iter(taken.values()))))
    if spans > 1:  # every way of splitting is as likely: the mean is the same for each span
        assert abs(np.mean(firsts) - noise / spans) < 4 * np.std(firsts) / 10 + 1e-9


def test_the_longest_piece_that_fits_is_taken():
    one = objective("span_corruption")
    one.attach(model("encoder_decoder"))
    size, _ = one.take(48)
    source, target = one.corrupt(IDS[:size], np.random.default_rng(0))
    assert max(len(source), len(target)) <= 48 < len(one.corrupt(IDS[: size + 2], np.random.default_rng(0))[0])
    one.attach(model())
    size, _ = one.take(48)
    assert batch_of(one).input_ids.shape[1] <= 48


@pytest.mark.parametrize("name", ["span_corruption", "prefix_lm"])
def test_two_stacks_and_one_predict_the_same_targets(name):
    two, one = objective(name), objective(name)
    two.attach(model("encoder_decoder"))
    one.attach(model())
    pieces = [IDS[:30], IDS[100:130]]
    both = [each.collate(pieces, np.random.default_rng(3)) for each in (two, one)]
    wanted = [[row[row != IGNORE].tolist() for row in batch.targets] for batch in both]
    assert wanted[0] == wanted[1]
    for row, target in enumerate(wanted[0]):
        before = both[0].decoder_ids[row, : len(target)].tolist()
        assert before == [TOKENIZER.start, *target[:-1]]
        prefix = int(both[1].attend.prefix[row])
        source = both[0].input_ids[row, :prefix].tolist()
        assert both[1].input_ids[row, : prefix + len(target)].tolist() == source + before


def test_on_one_stack_the_source_is_read_both_ways():
    one, net = objective("prefix_lm"), model().eval()
    one.attach(net)
    torch.nn.init.normal_(net.unembed.weight)
    for block in net.blocks:
        torch.nn.init.normal_(block.attn.out.weight)
    batch = one.collate([IDS[:30]], np.random.default_rng(0))
    prefix = int(batch.attend.prefix[0])
    changed = batch.input_ids.clone()
    changed[0, prefix - 1] = changed[0, prefix - 1] - 1
    before, after = (net(ids, batch.attend).logits for ids in (batch.input_ids, changed))
    assert not torch.allclose(before[0, 0], after[0, 0])


def test_spans_that_get_longer_for_want_of_sentinels_are_noted():
    one = objective("span_corruption")
    one.attach(model("encoder_decoder"))
    assert one.notes(48) == one.notes(256) == []
    (note,) = one.notes(512)
    length, _ = one.take(512)
    noise, spans = one.counts(length)
    assert spans == 16 and f"spans are {noise / spans:.1f} tokens long on average and not 3" in note
    assert "--max_seq_len 256 keeps" in note
    assert make(["prefix_lm", "span_corruption"], {}, TOKENIZER).notes(512)  # on one stack pieces are shorter
    lm = lab.pretrain(
        [TEXT], name="x", shape="encoder_decoder", objective="span_corruption", mean_span=1.0, steps=1, display=False,
        batch_size=4, sample_tokens=0, threads=1,
        **{**SIZES, "max_seq_len": 128},
    )  # fmt: skip
    assert any("16 sentinels" in note for note in lm.report.notes)


def test_pairs_are_parted_at_their_mark():
    one = objective("seq2seq")
    one.attach(model("encoder_decoder"))
    sep, eos = one.special("sep"), one.special("eos")
    pairs = [np.array([30, 31, sep, 40, 41, 42, eos]), np.array([32, sep, 43, eos])]
    batch = one.collate(pairs, np.random.default_rng(0))
    assert batch.input_ids.tolist() == [[30, 31, sep], [32, sep, 0]]
    assert batch.attend.keep.tolist() == [[True] * 3, [True, True, False]]
    assert batch.targets.tolist() == [[40, 41, 42, eos], [43, eos, IGNORE, IGNORE]]
    assert batch.decoder_ids.tolist() == [[one.start, 40, 41, 42], [one.start, 43, 0, 0]]
    with pytest.raises(BadValue, match="learns from pairs"):
        one.collate([np.array([30, 31])], np.random.default_rng(0))


# --- any order ------------------------------------------------------------------------------------------------------


def test_orders_are_permutations_and_their_end_is_predicted():
    one = objective("plm", predict_share=0.25)
    ends = []
    for seed in range(50):
        batch = batch_of(one, 3, seed)
        for order, targets in zip(batch.attend.order, batch.targets, strict=True):
            assert sorted(order.tolist()) == list(range(48))
            wanted = targets != IGNORE
            assert wanted.sum() == 12 and bool((order[wanted] >= 36).all())
            ends.append(int(order.argmax()))
    assert len(set(ends)) > 35  # of 48 places the last of the order is now here, now there


@pytest.mark.parametrize("order", [None, [0, 1, 2], [2, 0, 1]])
def test_permutation_models_give_probabilities_that_sum_to_one(order):
    net = model("permutation", vocab_size=3, max_seq_len=3, zero_init=False)
    assert total_probability(net, order) == pytest.approx(1.0, abs=1e-5)


def total_probability(net, order):
    """Σ p(x) over every text of three tokens of three, by the chain rule in that order."""
    net.eval()
    texts = torch.tensor(list(itertools.product(range(3), repeat=3)))
    with torch.no_grad():
        if order is not None:
            logp = net(texts, Attend(order=torch.tensor([order]).expand(27, -1))).logits.log_softmax(-1)
            return float(logp.gather(2, texts[..., None]).sum(dim=(1, 2)).exp().sum())
        # From left to right the first token is given, so the texts that begin with it sum to one.
        logp = net(texts).logits.log_softmax(-1)[:, :-1]
        return float(logp.gather(2, texts[:, 1:, None]).sum(dim=(1, 2)).exp().sum()) / 3


def test_a_model_of_both_masked_and_causal_tokens_gives_probabilities_both_ways():
    both = make(["mlm", "clm"], {}, TOKENIZER, mix="turns")
    net = model(vocab_size=TOKENIZER.vocab_size)
    trainee = both.attach(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for turn in range(8):
        loss, parts = both.loss(trainee, batch_of(both, turn=turn))
        assert list(parts) == (["mlm"], ["clm"])[turn % 2]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    small = model(vocab_size=3, max_seq_len=3, zero_init=False)
    assert total_probability(small, None) == pytest.approx(1.0, abs=1e-5)
    with torch.no_grad():
        filled = net.eval()(batch_of(both).found[0][1].input_ids, Attend(causal=False)).logits.softmax(-1)
    torch.testing.assert_close(filled.sum(-1), torch.ones(filled.shape[:2]))


# --- the others -----------------------------------------------------------------------------------------------------


def test_replaced_tokens_are_those_that_differ():
    one = objective("rtd", rtd_weight=7.0, mask_rate=0.3)
    net = model("encoder", output="none").eval()
    trainee = one.attach(net)
    trainee.train(False)
    batch = batch_of(one)
    generator = trainee.extras["generator"]
    assert generator.unembed.weight is net.embed.weight and generator.config.d_model < net.config.d_model
    with torch.no_grad():
        loss, parts = one.loss(trainee, batch)
        hidden = batch.targets != IGNORE
        probs = generator(**batch.inputs()).logits[..., one.tokenizer.text_ids].softmax(-1).cumsum(-1)
        rows = [
            [
                int(one.tokenizer.text_ids[min(int((probs[b, t] <= batch.draws[b, t] * probs[b, t, -1]).sum()), probs.shape[-1] - 1)])
                if hidden[b, t] else int(batch.input_ids[b, t])
                for t in range(batch.input_ids.shape[1])
            ]
            for b in range(4)
        ]  # fmt: skip
        seen = torch.tensor(rows)
        original = torch.where(hidden, batch.targets, batch.input_ids)
        scores = trainee.extras["detector"](net(seen, batch.attend).hidden)
        want = F.binary_cross_entropy_with_logits(scores, (seen != original).float())
    assert float(parts["rtd"]) == pytest.approx(float(want), abs=1e-5)
    assert float(loss) == pytest.approx(float(parts["mlm"] + 7 * parts["rtd"]), abs=1e-4)


@pytest.mark.parametrize(
    "sizes", [dict(), dict(tie_embeddings=True), dict(tie_embeddings=True, scale_logits=True), dict(output="none")]
)
def test_a_generator_begins_with_even_chances(sizes):
    one = objective("rtd")
    trainee = one.attach(model("encoder", **{"output": "mlm", **sizes}))
    _, parts = one.loss(trainee, batch_of(one))
    assert float(parts["mlm"]) == pytest.approx(math.log(TOKENIZER.vocab_size), abs=0.1)
    shared = trainee.extras["generator"].unembed.weight is trainee.model.embed.weight
    assert shared == (trainee.model.embed.weight.std() < 0.1)


@pytest.mark.parametrize(("name", "shape"), [("mtp", "decoder"), ("rtd", "encoder")])
def test_experts_of_companions_are_balanced_too(name, shape):
    one = objective(name)
    trainee = one.attach(model(shape, n_expert=4))
    sums, counts = one.losses(trainee, batch_of(one))["balance"]
    assert (
        float((sums / counts).detach()[0]) > 1.5 * 2
    )  # evenly spread it is n_active, of the model and of the companions
    sums.sum().backward()
    routers = [p for name, p in trainee.parameters() if name.endswith("router.weight")]
    assert len(routers) > 2 and all(p.grad is not None and p.grad.any() for p in routers)


def test_middles_are_moved_and_come_back():
    one = objective("fim")
    for seed in range(50):
        moved = one.moved(IDS[:40], np.random.default_rng(seed)).tolist()
        suffix, middle = moved.index(one.suffix), moved.index(one.middle)
        assert moved[0] == one.prefix and moved[-1] == one.end == TOKENIZER.special("eos")
        assert moved[1:suffix] + moved[middle + 1 : -1] + moved[suffix + 1 : middle] == IDS[:40].tolist()
    always = objective("fim", fim_rate=1.0)
    batch = batch_of(always)
    assert batch.input_ids.shape[1] == 48 and bool((batch.targets[:, -1] == always.end).all())
    rows = [batch_of(objective("fim"), 8, seed).input_ids[:, 0] == one.prefix for seed in range(40)]
    assert 0.4 < float(torch.cat(rows).float().mean()) < 0.6


def test_each_future_head_predicts_its_own_distance():
    one = objective("mtp", n_future=3)
    net = model().eval()
    trainee = one.attach(net)
    torch.nn.init.normal_(net.unembed.weight, std=0.1)
    batch = batch_of(one)
    out = net(batch.input_ids)
    _, parts = one.loss(trainee, batch)
    ids = torch.cat([batch.input_ids, batch.targets[:, -1:]], dim=1)
    assert float(parts["clm"]) == pytest.approx(plain(out.logits, ids[:, 1:]), abs=1e-5)
    for k, head in enumerate(trainee.extras["future"], 2):
        logits = net.logits(head(out.hidden))[:, : 49 - k]
        assert float(parts[f"+{k}"]) == pytest.approx(plain(logits, ids[:, k:]), abs=1e-5)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "alibi", "t5"])
def test_all_of_a_future_head_is_trained(position):
    one = objective("mtp", n_future=2)
    trainee = one.attach(model(position=position))
    one.loss(trainee, batch_of(one))[0].backward()
    assert [name for name, p in trainee.parameters() if p.grad is None] == []


@pytest.mark.parametrize("weights", [(1.0, 100.0), (0.7, 0.2, 0.1), (5.0, 3.0, 1.0)])
def test_each_has_its_turn_as_often_as_its_weight_says(weights):
    names = ["clm", "mlm", "fim"][: len(weights)]
    turns = make(names, {}, TOKENIZER, weights, "turns")
    order = [turns.whose(turn) for turn in range(2020)]
    for t in (10, 101, 333, 2020):
        for i, weight in enumerate(weights):
            assert abs(order[:t].count(i) - t * weight / sum(weights)) < 1.01
    again = make(names, {}, TOKENIZER, weights, "turns")
    assert [again.whose(turn) for turn in (1500, 3, 777)] == [order[turn] for turn in (1500, 3, 777)]


def test_mixtures_weigh_their_parts_and_take_turns():
    both = make(["clm", "mlm"], {}, TOKENIZER, (2.0, 0.5))
    trainee = both.attach(model())
    loss, parts = both.loss(trainee, batch_of(both))
    assert float(loss.detach()) == pytest.approx(float(2 * parts["clm"] + 0.5 * parts["mlm"]), abs=1e-5)
    turns = make(["clm", "mlm", "fim"], {}, TOKENIZER, (3.0, 1.0, 1.0), "turns")
    turns.attach(model())
    order = [batch_of(turns, turn=turn).found[0][0] for turn in range(20)]
    assert [order.count(i) for i in range(3)] == [12, 4, 4]
    assert isinstance(batch := batch_of(turns, turn=None), Batches) and len(batch.found) == 3  # a validation has all
    with pytest.raises(BadValue, match="one for each, for example --weights 1,1"):
        make(["clm", "mlm"], {}, TOKENIZER, (1.0,))
    with pytest.raises(BadValue, match="cannot be mixed"):
        make(["clm", "seq2seq"], {}, TOKENIZER)


def test_causal_loss_against_torch():
    one, net = objective("clm"), model().eval()
    batch = batch_of(one)
    assert torch.equal(batch.input_ids[:, 1:], batch.targets[:, :-1])
    torch.nn.init.normal_(net.unembed.weight, std=0.1)
    loss, _ = one.loss(one.attach(net), batch)
    assert float(loss.detach()) == pytest.approx(plain(net(batch.input_ids).logits, batch.targets), abs=1e-5)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n not in ("seq2seq", "skipgram")])
def test_a_batch_is_a_function_of_its_examples_and_its_generator(name):
    one = objective(name)
    one.attach(model("encoder" if "next_token" not in OBJECTIVES[name].supports and name != "plm" else "decoder"))
    first, again, other = (batch_of(one, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.input_ids, again.input_ids)
    assert first.targets is None or torch.equal(first.targets, again.targets)
    if name not in ("clm", "mtp"):
        fields = [(b.input_ids, b.targets, b.attend.order, b.labels) for b in (first, other)]
        assert any(
            a is not None and (a.shape != b.shape or not torch.equal(a, b)) for a, b in zip(*fields, strict=True)
        )


# --- what fits what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sizes", "says"),
    [
        (
            ["clm"],
            dict(shape="encoder"),
            "'clm' cannot be learned by shape 'encoder'; shapes that can: decoder, permutation",
        ),
        (["mlm"], dict(shape="encoder_decoder"), "shapes that can: decoder, encoder"),
        (["plm"], dict(), "shapes that can: permutation"),
        (["nsp"], dict(shape="permutation"), "this shape can learn: clm, plm"),
        (["mlm"], dict(shape="encoder", output="none"), "output 'none' gives no logits"),
        (
            ["fim"],
            dict(shape="ngram"),
            "shapes that can: decoder, permutation, lstm, conv, .*this shape can learn: clm$",
        ),
        (["clm", "fim"], dict(shape="ngram"), "'fim' cannot be learned by shape 'ngram'"),
    ],
)
def test_impossible_pairs_are_refused_by_name(names, sizes, says):
    with pytest.raises(BadValue, match=says) as caught:
        check_pair(names, ModelConfig(vocab_size=9, d_model=16, **sizes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "least"),
    [("nsp", 5), ("mlm_sop", 5), ("fim", 5), ("mlm", 3), ("rtd", 3), ("prefix_lm", 2), ("span_corruption", 6)],
)
def test_a_context_that_is_too_short_is_refused_by_its_least(name, least):
    one = objective(name, **({"fim_rate": 1.0} if name == "fim" else {}))
    with pytest.raises(BadValue, match=rf"^max_seq_len: {least - 1} is too short for .*--max_seq_len {least} or more$"):
        one.take(least - 1)
    assert batch_of(one, block=least).input_ids.shape[1] <= least


def test_a_context_that_is_too_short_is_refused_before_there_is_a_run():
    with pytest.raises(BadValue, match="max_seq_len: 4 is too short for sop"):
        lab.pretrain(
            [TEXT], name="x", shape="encoder", objective="sop", display=False, steps=1, **{**SIZES, "max_seq_len": 4}
        )
    assert not list(Path(".llm_lab").glob("runs/*"))


def test_an_impossible_pair_is_refused_before_anything_is_read():
    with pytest.raises(BadValue, match="cannot be learned"):
        lab.pretrain("no-such-file.txt", name="x", preset="bert", objective="clm", display=False)
    with pytest.raises(BadType, match="mask_rate is an option of mlm"):
        lab.pretrain("no-such-file.txt", name="x", mask_rate=0.3, display=False)


OWN = [name for name in PRESETS if PRESETS[name].load().config(9).shape in list(SHAPES)[:4]]


@pytest.mark.parametrize("preset", OWN)
def test_every_parameter_of_a_preset_learns_from_its_own_objective(preset):
    made = PRESETS.load(preset)
    sizes = {**SIZES, "d_head": 8, **{k: 2 for k in ("n_kv_head",) if k in made.overrides}}
    if "d_embed" in made.overrides:
        sizes["d_embed"] = 12
    config = made.config(TOKENIZER.vocab_size, **sizes)
    name = "span_corruption" if made.objective == "seq2seq" else made.objective
    torch.manual_seed(0)
    one = objective(name)
    trainee = one.attach(SHAPES.load(config.shape)(config))
    optimizer = torch.optim.Adam([p for _, p in trainee.parameters()], 1e-3)
    trainee.train()
    for step in range(3):
        optimizer.zero_grad()
        loss, _ = one.loss(trainee, batch_of(one, seed=step))
        loss.backward()
        optimizer.step()
    assert [name for name, p in trainee.parameters() if p.grad is None or not p.grad.any()] == []


# --- that it can be learned -----------------------------------------------------------------------------------------

# Letters that slowly go round: what comes next, what is hidden, which part comes first can all be told.
ROUND = "".join(c * 12 for _ in range(100) for c in "abcd")
PAIRS = [
    (name, shape)
    for name, entry in OBJECTIVES.items()
    if name not in ("seq2seq", "skipgram")
    for shape in list(SHAPES)[:4]
    if entry.supports <= SHAPES[shape].supports
]


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_every_objective_lowers_its_own_validation_loss(name, shape):
    lm = lab.pretrain(
        [ROUND], name="x", shape=shape, objective=name, position="learned", display=False, steps=150, sample_tokens=0,
        n_layer=2, n_head=2, d_model=32, max_seq_len=40, batch_size=16, threads=1,
        n_token_type=2 if shape == "encoder" else 0, eval_every=50,
    )  # fmt: skip
    first, last = lm.report.val[0][2], lm.report.val[-1][2]
    start = lm.report.train[0][2]
    assert last < 0.75 * start, (start, first, last)
    assert lab.load("x").trainee(lm.objective()) is not None
    assert lab.evaluate(lab.load("x"))["loss"] == pytest.approx(lm.report.final["loss"], abs=1e-5)


def test_pairs_of_texts_are_learned_by_two_stacks_and_by_one():
    import pandas as pd

    words = ["one two", "two three", "three four", "four one", "one three", "two four"] * 20
    frame = pd.DataFrame({"source": words, "target": [word[::-1] for word in words]})
    for shape in ("encoder_decoder", "decoder"):
        lm = lab.pretrain(
            frame, name="x", column="source", target="target", objective="seq2seq", shape=shape, display=False,
            steps=150, n_layer=1, n_head=2, d_model=32, max_seq_len=32, batch_size=16, threads=1, position="learned",
        )  # fmt: skip
        assert lm.report.val[-1][2] < 0.3 * lm.report.train[0][2]
        assert lab.generate(lm, "two three", strategy="greedy").text == "eerht owt"
        right = lab.evaluate(lm, frame, column="source", target="target")
        assert right.code == "lab.evaluate(x, data, column='source', target='target')"
        wrong = lab.evaluate(lm, frame.assign(target=frame["source"]), column="source", target="target")
        assert right["loss"] < 0.5 < 2 < wrong["loss"]
        with pytest.raises(BadValue, match=r"^corpus: seq2seq learns from pairs of texts, and texts has none"):
            lab.evaluate(lm, words)
        with pytest.raises(BadValue, match=r"^column: says how `data` is read, and none was given"):
            lab.evaluate(lm, column="source")


def test_the_model_that_stays_needs_no_extras():
    one = objective("mtp")
    trainee = one.attach(model())
    assert one.deliver(trainee) is trainee.model and isinstance(trainee, Trainee)

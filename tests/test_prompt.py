"""Prompts as experiments: what is asked, what is answered, and what that is worth, against computations of their own."""

from __future__ import annotations

import gc
import math
import re
import string
import weakref
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import llm_lab as lab
from llm_lab.decoding import together
from llm_lab.metrics import answers
from llm_lab.metrics.continuations import continuation_logprobs
from llm_lab.results import mean_interval
from llm_lab.templates import Slot, Template
from tests.small import TEXT, train

WORDS = {"cat": "chat", "dog": "chien", "sun": "soleil", "sea": "mer", "red": "rouge", "one": "un"}
TEMPLATE = "Say {{english}}\nFrench:"


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """Knows the first words, and does not know that they end."""
    text = "\n\n".join(f"Say {a}\nFrench: {b}" for a, b in list(WORDS.items())[:4] * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("lm"))
        yield lab.pretrain(
            [text], name="bard", steps=60, n_layer=2, n_head=2, d_model=32, max_seq_len=96, batch_size=8, threads=1,
            display=False,
        )  # fmt: skip


@pytest.fixture
def df():
    return pd.DataFrame({"english": list(WORDS), "french": list(WORDS.values())}, index=[f"r{i}" for i in range(6)])


def forward(lm, prompt, text):
    """log p of each of the text's characters after the prompt, by one pass over both."""
    ids = lm.tokenizer.encode(prompt + text)
    logs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1).detach()
    begin = len(lm.tokenizer.encode(prompt))
    return [float(logs[i - 1, ids[i]]) for i in range(begin, len(ids))]


# templates


def test_slots():
    made = Template.read("a {{ x }}{{x}} {b} {{{{y}} {{two words}}}}")
    assert made.parts == ("a ", Slot("x"), Slot("x"), " {b} ", "{{", "y}} ", Slot("two words"), "}}")
    assert made.fields == ["x", "two words"]
    assert made.fill({"x": 1, "two words": "<b>"}) == "a 11 {b} {{y}} <b>}}"
    assert Template.read("{{{x}}}").fill({"x": "{{x}}"}) == "{{{x}}}"
    for text, says in (
        ("", "it is empty"), (" \n", "it is empty"), ("{{}}", "names no field"), ("{{ }}", "names no field"),
        ("a {{x} b", "the slot '{{x} b' is not closed"), ("{{x\n}}", "is not closed"),
    ):  # fmt: skip
        with pytest.raises(lab.LabError, match=f"template: .*{re.escape(says)}"):
            Template.read(text)


def test_a_prompt_is_a_template(df):
    ask = lab.prompt(["Translate: {{english}}", "{{french}} and {{ english }}"], name="ask")
    assert ask.fields == ["english", "french"]
    assert ask.fill({"english": "cat"}) == "Translate: cat"
    assert ask.fill(df.iloc[2], template=2) == "soleil and sun"
    assert ask.fill(df.to_dict("records")[0]) == "Translate: cat"
    with pytest.raises(lab.LabError, match="row: english is not there; did you mean 'englisch'"):
        ask.fill({"englisch": "cat"})
    with pytest.raises(lab.LabError, match="row: english is missing"):
        ask.fill({"english": None})
    with pytest.raises(lab.LabError, match="it takes 1 to 2"):
        ask.fill({}, template=3)
    with pytest.raises(lab.LabError, match="a dict or a row"):
        ask.fill("cat")
    assert ask.preview == []
    assert lab.prompt("x {{english}}", on=df).preview == ["x cat", "x dog", "x sun"]


# what is asked


def test_answers_are_those_of_each_prompt_written_greedily(lm, df):
    found = lab.prompt([TEMPLATE, "{{english}} is"], name="ask", on=df, model=lm, target="french", max_new_tokens=12)
    frame = found.to_pandas()
    assert list(frame.columns) == ["english", "french", "template", "model", "prompt", "text", "logprob", "exact_match"]
    assert frame.index.tolist() == [*df.index, *df.index]
    assert frame["template"].tolist() == [1] * 6 + [2] * 6
    for row in frame.itertuples():
        prompt = f"Say {row.english}\nFrench:" if row.template == 1 else f"{row.english} is"
        alone = lab.generate(lm, prompt, strategy="greedy", max_new_tokens=12)
        assert row.prompt == prompt
        assert row.text == alone.text.removeprefix(prompt).strip()
        assert row.logprob == pytest.approx(sum(alone.logprob[0]) / 12, abs=1e-5)
        assert row.exact_match == float(row.text == row.french)


def test_examples_stand_before_and_end_the_answer(lm, df):
    found = lab.prompt(TEMPLATE, on=df, model=lm, target="french", shots=2, max_new_tokens=25)
    before = "Say cat\nFrench: chat\n\nSay dog\nFrench: chien\n\n"
    frame = found.to_pandas()
    assert frame.index.tolist() == ["r2", "r3", "r4", "r5"]
    assert frame["prompt"].tolist() == [f"{before}Say {word}\nFrench:" for word in list(WORDS)[2:]]
    assert "the first 2 rows are the examples, and are not asked" in found.notes
    for prompt, text in zip(frame["prompt"], frame["text"], strict=True):
        written = lab.generate(lm, prompt, strategy="greedy", max_new_tokens=25).text.removeprefix(prompt)
        assert text == written.split("\n\n")[0].strip()
    assert frame["text"].iloc[0] == "soleil"
    shown = pd.DataFrame({"english": ["sea"], "french": ["mer"]})
    other = lab.prompt("{{english}} = ", on=df, examples=shown, target="french", separator=r" ;\n")
    assert other.preview[0] == "sea = mer ;\ncat = "
    assert (
        lab.prompt("{{english}}", on=df, examples=shown, target="french", target_delimiter="→").preview[0]
        == "sea→mer\n\ncat"
    )


def test_stops_are_cut_off_and_all_options_of_decoding_pass(lm, df):
    found = lab.prompt(TEMPLATE, on=df, model=lm, stop=[r"\n"], strategy="top_p", p=0.9, temperature=1.3, n=3, seed=4)
    frame = found.to_pandas()
    assert frame["sample"].tolist() == [0, 1, 2] * 6
    assert found.seed == 4
    for i, prompt in enumerate(dict.fromkeys(frame["prompt"])):
        alone = lab.generate(
            lm, prompt, strategy="top_p", p=0.9, temperature=1.3, n=3, seed=4 + i, max_new_tokens=40, stop=["\n"]
        )
        texts = frame.loc[frame["prompt"] == prompt, "text"].tolist()
        assert texts == [text.removeprefix(prompt).split("\n")[0].strip() for text in alone.texts]
    repeated = eval(found.code, {"lab": lab, "on": df, "bard": lm})
    assert repeated.to_pandas().equals(frame)
    drawn = lab.prompt(TEMPLATE, on=df, model=lm, strategy="temperature")
    assert (
        lab.prompt(TEMPLATE, on=df, model=lm, strategy="temperature", seed=drawn.seed)
        .to_pandas()
        .equals(drawn.to_pandas())
    )


def test_a_prompt_is_asked_again_with_other_rows_and_options(lm, df):
    ask = lab.prompt(TEMPLATE, name="ask", target="french", max_new_tokens=8, metrics=["f1"])
    assert ask(df, model=lm).to_pandas().equals(ask.run(df, model=lm).to_pandas())
    assert list(ask(df.iloc[:2], model=lm, metrics="contains").metrics) == ["contains"]
    assert ask.options == {"target": "french", "max_new_tokens": 8, "metrics": ["f1"]}
    again = ask(df, model=lm).prompt
    assert (again.name, [t.text for t in again.templates]) == ("ask", [TEMPLATE])


def test_models_are_compared_on_the_same_rows(lm, df):
    other = train("other", max_seq_len=64, steps=2)
    found = lab.prompt(TEMPLATE, on=df, model=[lm, other], target="french", max_new_tokens=8, metrics=["chrf"])
    assert set(found.to_pandas()["model"]) == {"bard", "other"}
    first, second = found.scores
    own = found.to_pandas().pivot_table(index="english", columns="model", values="chrf")
    apart = own["other"] - own["bard"]
    assert second.difference == pytest.approx(apart.mean())
    assert second.difference_interval == pytest.approx(1.959964 * apart.std(ddof=1) / math.sqrt(6))
    assert first.difference is None and [found.models[one.model] for one in found.scores] == ["bard", "other"]


def test_rows_may_be_dicts_or_a_file(lm, df, tmp_path):
    rows = df.to_dict("records")
    wanted = lab.prompt(TEMPLATE, on=df, model=lm, max_new_tokens=5).to_pandas()["text"].tolist()
    df.to_csv("rows.csv", index=False)
    df.to_json("rows.jsonl", orient="records", lines=True)
    for one in (rows, "rows.csv", "rows.jsonl"):
        assert lab.prompt(TEMPLATE, on=one, model=lm, max_new_tokens=5).to_pandas()["text"].tolist() == wanted


def test_long_prompts_are_said_by_their_rows(lm, df):
    df["english"] = [word * (60 if i % 2 else 1) for i, word in enumerate(df["english"])]
    found = lab.prompt(TEMPLATE, on=df, model=lm, max_new_tokens=5)
    assert any(
        re.search(r"rows r1, r3, r5: the prompt has \d+ tokens and the context 96", note) for note in found.notes
    )
    chosen = lab.prompt(TEMPLATE, on=df, model=lm, choices=["chat", "mer"])
    assert any("rows r1, r3, r5: the prompt has" in note for note in chosen.notes)
    long = lab.prompt(TEMPLATE, on=df.iloc[[0, 2]], model=lm, max_new_tokens=100)
    assert any("r0, r2: past the context of 96 tokens" in note for note in long.notes)


def test_columns_that_have_a_name_of_ours(lm):
    rows = pd.DataFrame({"text": ["cat", "dog"], "on_text": ["a", "b"], "prompt": [1, 2], "answer": ["chat", "chien"]})
    found = lab.prompt("Say {{text}}\nFrench:", on=rows, model=lm, target="answer", max_new_tokens=5)
    frame = found.to_pandas()
    assert frame.columns.is_unique
    assert frame["on_on_text"].tolist() == ["cat", "dog"]
    assert frame["on_prompt"].tolist() == [1, 2]
    assert frame["prompt"].tolist() == ["Say cat\nFrench:", "Say dog\nFrench:"]
    assert any("text as on_on_text" in note for note in found.notes)


def test_an_interrupt_keeps_the_rows_that_are_done(lm, df, monkeypatch):
    from llm_lab.decoding import writing

    monkeypatch.setattr(together, "ROWS", 2)
    decode, jobs = writing.decode, []

    def interrupted(*args):
        jobs.append(1)
        for rows in decode(*args):
            yield rows
            if len(jobs) == 3 and rows.written == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(writing, "decode", interrupted)
    found = lab.prompt([TEMPLATE, "{{english}}"], on=df, model=lm, target="french", max_new_tokens=6)
    assert len(found.to_pandas()) == 4 and found.done
    assert "interrupted: 4 of 12 were asked, and are kept" in found.notes
    assert found.scores[0].n == 4


# models that read a source, or fill in


def test_a_model_that_reads_a_source():
    pairs = lab.corpus("stories", part="english-french", size=20_000)
    two = train("two", pairs, objective="seq2seq", shape="encoder_decoder", max_seq_len=128)
    rows = pd.DataFrame({"x": ["the cat", "a dog sat"], "y": ["le chat", "un chien"]})
    found = lab.prompt("{{x}}", on=rows, model=two, target="y", metrics="target_logprob", max_new_tokens=7)
    frame = found.to_pandas()
    for row in frame.itertuples():
        assert row.text == lab.generate(two, row.x, strategy="greedy", max_new_tokens=7).text.strip()
        tokenizer = two.tokenizer
        source = torch.tensor([[*tokenizer.encode(row.x), tokenizer.specials["sep"]]])
        target = tokenizer.encode(row.y)
        out = two.model(source, decoder_ids=torch.tensor([[tokenizer.start, *target[:-1]]])).logits[0].log_softmax(-1)
        assert row.target_logprob == pytest.approx(
            float(out.detach().gather(1, torch.tensor(target)[:, None]).mean()), abs=1e-5
        )
    rows.loc[1, "x"] = "long " * 60
    with pytest.raises(lab.LabError, match="row 1: the prompt is a source for two, and its "):
        lab.prompt("{{x}}", on=rows, model=two)


def test_a_model_that_fills_in():
    reader = train("reader", shape="encoder", objective="mlm", steps=20)
    rows = pd.DataFrame({"n": ["3", "17"], "y": ["r", "e"]})
    found = lab.prompt("{{n}} g<mask>een", on=rows, model=reader, target="y")
    assert all(len(text) <= 1 for text in found.to_pandas()["text"])
    filled = lab.generate(reader, "3 g<mask>een").text
    assert found.to_pandas()["text"][0] == filled[3].strip()
    assert found.facts == ["fill"]
    for more in ({"choices": ["r", "e"]}, {"metrics": "target_logprob"}, {"shots": 1}):
        with pytest.raises(lab.LabError, match="needs a model with next_token"):
            lab.prompt("{{n}} g<mask>een", on=rows, model=reader, target="y", **more)


# metrics


def test_target_logprob_is_that_of_a_forward_pass(lm, df):
    found = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics="target_logprob", max_new_tokens=3)
    for row in found.to_pandas().itertuples():
        want = forward(lm, row.prompt, " " + row.french)
        assert row.target_logprob == pytest.approx(sum(want) / len(want), abs=1e-5)


def test_the_likeliest_choice_is_taken(lm, df):
    choices = ["chat", "soleil", "mer", "un"]
    found = lab.prompt(TEMPLATE, on=df, model=lm, target="french", choices=choices).to_pandas()
    for row in found.itertuples():
        logs = {choice: forward(lm, row.prompt, " " + choice) for choice in choices}
        best = max(choices, key=lambda choice: sum(logs[choice]))
        assert row.text == best
        assert row.logprob == pytest.approx(sum(logs[best]) / len(logs[best]), abs=1e-5)
    assert found.loc[["r0", "r2", "r3"], "exact_match"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["conv", "permutation", "bpe", "longformer"])
def test_continuations_are_read_together_as_each_alone(kind):
    more = {
        "conv": {"shape": "conv"}, "permutation": {"shape": "permutation", "objective": "plm"},
        "bpe": {"tokenizer": "bpe", "vocab_size": 300}, "longformer": {"attention": "longformer", "window": 4},
    }[kind]  # fmt: skip
    sizes = dict(n_layer=2, d_model=16, max_seq_len=32, batch_size=4, threads=1, steps=4)
    sizes |= {} if kind == "conv" else {"n_head": 2}
    small = lab.pretrain([TEXT], name="small", display=False, **sizes, **more)
    pairs = [
        ("1 green", " bottles"),
        ("7", " of them"),
        ("", "upon"),
        ("10 green bottles stood upon", " the wall"),
        ("1", ""),
    ]
    found = continuation_logprobs(small, pairs)
    assert found.pop() == []
    for (prompt, text), logs in zip(pairs[:-1], found, strict=True):
        ids, more = small.tokenizer.encode(prompt or "\n"), small.tokenizer.encode(prompt + text)
        more = more[len(ids) :] if prompt else more
        row = torch.tensor([[*ids, *more]])[:, -33:]
        out = small.model.eval()(row[:, :-1]).logits[0].log_softmax(-1).detach()
        want = [float(out[i - 1, row[0, i]]) for i in range(row.shape[1] - len(more), row.shape[1])]
        assert logs == pytest.approx(want, abs=1e-5)
    with pytest.raises(lab.LabError, match="tokens, and the context is 32"):
        continuation_logprobs(small, [("1", "green " * 60)])


def squad_f1(text, target):
    """As in the evaluation script that comes with SQuAD 1.1."""

    def normalize(s):
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())

    said, right = normalize(text).split(), normalize(target).split()
    same = sum((Counter(said) & Counter(right)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(right)
    return 2 * precision * recall / (precision + recall)


def test_metrics_of_answers():
    import sacrebleu

    pairs = [
        ("The cat, it sat!", "a cat sat"), ("no", "yes"), ("don't do that", "dont do it"), ("x y x", "x x z"), ("b", "b"),
    ]  # fmt: skip
    for text, target in pairs:
        assert answers.f1(text, target) == pytest.approx(squad_f1(text, target))
        assert answers.chrf(text, target) == pytest.approx(sacrebleu.sentence_chrf(text, [target]).score)
        assert answers.bleu(text, target) == pytest.approx(
            sacrebleu.sentence_bleu(text, [target], use_effective_order=True).score
        )
    assert answers.f1("", "the") == 1.0 and answers.f1("", "x") == 0.0
    assert answers.f1("我爱猫。", "我爱狗") == pytest.approx(2 / 3)
    assert answers.bleu("床前明月光", "床前明月光") == pytest.approx(100)
    assert [answers.exact_match(" a\n", "a"), answers.exact_match("A", "a")] == [1.0, 0.0]
    assert [answers.contains("it is a cat.", " cat "), answers.contains("", "cat")] == [1.0, 0.0]


def test_a_summary_is_the_mean_over_rows(lm, df):
    def length(text, target):
        """Its own."""
        return len(text)

    found = lab.prompt(
        [TEMPLATE, "{{english}}"], on=df, model=lm, target="french", strategy="temperature", n=3, seed=0,
        max_new_tokens=9, metrics=[length, "exact_match"],
    )  # fmt: skip
    frame = found.to_pandas()
    summary = found.summary.set_index(["metric", "template"])
    for template in (1, 2):
        rows = frame[frame["template"] == template].groupby("english")["length"].mean().to_numpy()
        assert summary.loc[("length", template), "value"] == pytest.approx(rows.mean())
        assert summary.loc[("length", template), "interval"] == pytest.approx(
            1.959964 * rows.std(ddof=1) / math.sqrt(len(rows))
        )
        assert summary.loc[("length", template), "n"] == 6
    assert frame["length"].tolist() == [len(text) for text in frame["text"]]
    none = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics=["contains"], max_new_tokens=2)
    assert none.scores[0].interval == 0.5  # 3 of 6 rows
    assert np.isnan(summary.loc[("length", 1), "difference"])


# mistakes


@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        ("{{englsh}}", {}, "{{englsh}} is no column; did you mean 'english'"),
        (TEMPLATE, {"target": "frnch"}, "target: 'frnch' is no column; did you mean 'french'"),
        (TEMPLATE, {"metrics": "exact_match"}, "exact_match needs what is right; name its column, for example --target french"),
        (TEMPLATE, {"metrics": "exact_mach", "target": "french"}, "did you mean 'exact_match'"),
        (TEMPLATE, {"metrics": 3, "target": "french"}, "metrics: 3 is int"),
        (TEMPLATE, {"metrics": ["f1", "f1"], "target": "french"}, "f1 is given twice"),
        (TEMPLATE, {"shots": 1}, "an example needs what is right"),
        (TEMPLATE, {"shots": 9, "target": "french"}, "9 examples are wanted, and there are 6 rows"),
        (TEMPLATE, {"shots": 6, "target": "french"}, "its 6 rows are all examples"),
        (TEMPLATE, {"p": 0.5}, "p is an option of top_p, and the strategy is greedy"),
        (TEMPLATE, {"choices": ["a", "b"], "top_k": 3}, "top_k: it is for writing"),
        (TEMPLATE, {"strategie": "beam"}, "did you mean 'strategy'"),
        ([TEMPLATE, TEMPLATE], {}, "one of them is given twice"),
        ([], {}, "template: the list is empty"),
        (3, {}, "template: 3 is int"),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line(lm, df, template, options, says):
    with pytest.raises(lab.LabError, match=re.escape(says)) as caught:
        lab.prompt(template, on=df, model=lm, **options)
    assert "\n" not in str(caught.value)


def test_rows_that_cannot_be_asked(lm, df):
    df.loc["r3", "english"] = None
    with pytest.raises(lab.LabError, match=r"row r3: english is missing .*dropna"):
        lab.prompt(TEMPLATE, on=df, model=lm)
    assert len(lab.prompt("{{french}}", on=df, model=lm, max_new_tokens=1).answers) == 6
    with pytest.raises(lab.LabError, match="row r3: english is missing"):
        lab.prompt("{{french}}", on=df, model=lm, target="english")
    with pytest.raises(lab.LabError, match="on: it has no rows"):
        lab.prompt(TEMPLATE, on=df.iloc[:0])
    with pytest.raises(lab.LabError, match="'english' is the name of several columns"):
        lab.prompt(TEMPLATE, on=pd.concat([df, df], axis=1))
    with pytest.raises(lab.LabError, match="on: 3 is int"):
        lab.prompt(TEMPLATE, on=3)
    with pytest.raises(lab.LabError, match="there is no file 'df'; a variable is written as --on @df"):
        lab.prompt(TEMPLATE, on="df")
    with pytest.raises(lab.LabError, match="prompt needs on"):
        lab.prompt(TEMPLATE, model=lm)


def test_a_metric_that_fails_at_a_row_leaves_it_out(lm, df):
    def broken(text, target):
        return 1.0 / (target != "soleil")

    def words(text, target):
        return text if target == "mer" else math.nan if target == "un" else 2

    found = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics=[broken, words], max_new_tokens=3)
    assert found.to_pandas()["broken"].isna().tolist() == [label == "r2" for label in df.index]
    assert found.to_pandas()["words"].isna().tolist() == [label in ("r3", "r5") for label in df.index]
    assert [(one.value, one.n) for one in found.scores] == [(1.0, 5), (2.0, 4)]
    for says in (
        r"row r2: broken failed \(ZeroDivisionError: .*\), and its mean leaves the row out",
        "row r3: words gave '.*', str and no number, and its mean leaves the row out",
        r"row r5: words is no number \(nan\)",
    ):
        assert any(re.match(says, note) for note in found.notes)
    page = found._repr_mimebundle_()["text/html"]
    assert "of 5 rows" in page and "of 4 rows" in page
    failing = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics=lambda a, b: {}[b], max_new_tokens=3)
    assert failing.scores == [] and len(failing.answers) == 6
    assert [note for note in failing.notes if "failed" in note] == [
        "rows r0, r1, r2 and 3 more: <lambda> failed (KeyError: 'chat'), and its mean leaves the row out"
    ]
    with pytest.raises(lab.LabError, match="metrics: <lambda> cannot be called with a text and a target"):
        lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics=lambda text: 0)


def test_a_failure_late_in_the_run_keeps_what_was_answered(lm, df, monkeypatch):
    from llm_lab import prompting

    stream = prompting.stream_all

    def failing(model, prompts, **options):
        if prompts[0] == "cat":
            raise RuntimeError("out of memory")
        return stream(model, prompts, **options)

    monkeypatch.setattr(prompting, "stream_all", failing)
    found = lab.prompt([TEMPLATE, "{{english}}"], on=df, model=lm, target="french", max_new_tokens=3)
    assert [answer.template for answer in found.answers] == [1] * 6
    assert "bard, template 2 failed (RuntimeError: out of memory); what was answered is kept" in found.notes
    with pytest.raises(RuntimeError):  # nothing would be lost
        lab.prompt(["{{english}}", TEMPLATE], on=df, model=lm, max_new_tokens=3)
    monkeypatch.setattr(prompting, "continuation_logprobs", lambda *_: torch.ones(2) @ torch.ones(3))
    found = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics="target_logprob", max_new_tokens=3)
    assert len(found.answers) == 6 and found.to_pandas()["target_logprob"].isna().all()
    assert any(note.startswith("rows r0, r1, r2 and 3 more: target_logprob failed (Runtime") for note in found.notes)


def test_lengths_are_checked_before_anything_is_asked(lm, df, monkeypatch):
    from llm_lab import prompting

    monkeypatch.setattr(prompting, "stream_all", None)
    monkeypatch.setattr(prompting, "continuation_logprobs", None)
    df.loc["r4", "french"] = "rouge" * 30
    with pytest.raises(lab.LabError, match=r"row r4: target: ' rouge.* takes 151 tokens, and the context is 96"):
        lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics="target_logprob")
    with pytest.raises(lab.LabError, match=r"row r0: choices: ' bb.* takes 101 tokens"):
        lab.prompt(TEMPLATE, on=df, model=lm, choices=["a", "b" * 100])
    two = train("prefix", objective="prefix_lm", steps=2)
    monkeypatch.undo()
    for size, fits in ((30, True), (31, False)):
        rows = [{"x": "1"}, {"x": "1" * size}]
        if fits:
            assert len(lab.prompt("{{x}}", on=rows, model=two).answers) == 2
        else:
            with pytest.raises(lab.LabError, match="row 1: the prompt is a source for prefix"):
                lab.prompt("{{x}}", on=rows, model=two)
    rows = [{"x": "1" * 20, "y": "green bottles"}]
    with pytest.raises(
        lab.LabError, match=r"row 0: target: .* takes 13 tokens, and the context is 32, of which the so"
    ):
        lab.prompt("{{x}}", on=rows, model=two, target="y", metrics="target_logprob")
    filler = train("filler", objective="mlm", steps=2)
    with pytest.raises(lab.LabError, match="row 1: prompt: nothing is hidden"):
        lab.prompt("{{x}}", on=[{"x": "<mask>"}, {"x": "1"}], model=filler)


@pytest.mark.parametrize("choices", [["chat", ""], ["chat", " "]])
def test_an_empty_choice_is_refused(lm, df, choices):
    with pytest.raises(lab.LabError, match=f"choices: {choices[1]!r} is nothing that bard could say"):
        lab.prompt(TEMPLATE, on=df, model=lm, choices=choices)


def test_a_choice_without_tokens_is_not_taken(lm, df, monkeypatch):
    from llm_lab import prompting

    score = prompting.continuation_logprobs

    def without(lm, pairs):
        return [[] if "mer" in text else logs for (_, text), logs in zip(pairs, score(lm, pairs), strict=True)]

    monkeypatch.setattr(prompting, "continuation_logprobs", without)
    found = lab.prompt(TEMPLATE, on=df, model=lm, choices=["mer", "un"])
    assert {answer.text for answer in found.answers} == {"un"}


def test_empty_targets_are_left_out_of_what_the_model_thinks_of_them(lm, df):
    df.loc["r1", "french"] = ""
    for delimiter in ("", " "):
        found = lab.prompt(
            TEMPLATE, on=df, model=lm, target="french", metrics="target_logprob", max_new_tokens=2,
            target_delimiter=delimiter,
        )  # fmt: skip
        others = found.to_pandas()["target_logprob"].drop("r1")
        (score,) = found.scores
        assert score.value == pytest.approx(others.mean()) and score.n == 5
        assert any(note.startswith("row r1: target_logprob is no number, since the target is") for note in found.notes)


def test_an_interval_is_given_where_it_can_be_told():
    assert mean_interval([0.0] * 10) == (0.0, None)
    assert mean_interval([1.0] * 10) == (1.0, None)
    assert mean_interval([0.0] * 10, share=True) == (0.0, 0.3)
    assert mean_interval([1.0] * 2, share=True) == (1.0, 1.0)
    assert mean_interval([0.5] * 10, share=True) == (0.5, None)


def test_the_rule_of_three_is_for_shares_alone(lm, df):
    df["french"] = "zzz"
    found = lab.prompt(
        [TEMPLATE, "{{english}} is"], on=df, model=lm, target="french", metrics=["contains", "chrf", lambda *_: 0.0],
        max_new_tokens=3,
    )  # fmt: skip
    first, second, *others = found.scores
    assert (first.interval, second.interval, second.difference, second.difference_interval) == (0.5, 0.5, 0.0, None)
    assert {one.interval for one in others} == {None}

    def right(text, target):
        return text == target if target == "zzz" else np.bool_(True)

    (said,) = lab.prompt(TEMPLATE, on=df, model=lm, target="french", metrics=right, max_new_tokens=3).scores
    assert said.interval == 0.5
    assert "±&nbsp;–" in found._repr_mimebundle_()["text/html"]


def test_models_of_one_name_are_told_apart(lm, df):
    other = train("bard", max_seq_len=64, steps=2)
    found = lab.prompt(TEMPLATE, on=df, model=[lm, other], target="french", max_new_tokens=8, metrics=["chrf"])
    assert found.models == ["bard (1)", "bard (2)"]
    assert found.summary["model"].tolist() == found.models
    assert found.to_pandas()["model"].tolist() == ["bard (1)"] * 6 + ["bard (2)"] * 6
    apart = found.to_pandas()["chrf"].to_numpy().reshape(2, 6)
    assert found.scores[1].difference == pytest.approx((apart[1] - apart[0]).mean())
    page = found._repr_mimebundle_()["text/html"]
    assert "<td" in page and page.count("bard&nbsp;(1)") == page.count("bard&nbsp;(2)") == 1


def test_rows_that_an_example_answers_are_not_asked(lm, df):
    shown = df.iloc[[1, 3]].assign(french=[" chien ", "other"])
    found = lab.prompt(TEMPLATE, on=df, examples=shown, model=lm, target="french", max_new_tokens=2)
    assert found.labels == ["r0", "r2", "r3", "r4", "r5"]  # r3 has another answer there
    assert found.to_pandas()["french"].tolist() == ["chat", "soleil", "mer", "rouge", "un"]
    assert "row r1: the same as an example, which has the answer, and not asked" in found.notes
    assert all(
        answer.prompt.endswith(f"Say {df.loc[found.labels[answer.row], 'english']}\nFrench:")
        for answer in found.answers
    )
    twice = pd.concat([df, df.iloc[:2]])
    found = lab.prompt([TEMPLATE, "hello"], on=twice, shots=2, model=lm, target="french", max_new_tokens=2)
    assert found.labels == ["r2", "r3", "r4", "r5"]
    assert "rows r0, r1: the same as an example, which has the answer, and not asked" in found.notes
    with pytest.raises(lab.LabError, match="on: each of its rows is one of the examples too"):
        lab.prompt(TEMPLATE, on=df, examples=df, target="french")


def test_files_are_read_as_they_are_written(tmp_path):
    def filled(name, text, template="{{a}}|{{b}}"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return lab.prompt(template, on=str(tmp_path / name)).preview

    assert filled("x.csv", "\ufeffa,b\n01,2024-01-02\n1.50,NA\nTrue,1e3\n") == ["01|2024-01-02", "1.50|NA", "True|1e3"]
    lines = '{"a": "01", "b": "2024-01-02"}\n\n{"a": 1.50, "b": 10000000000000000000001}\n{"a": [1, "é"], "b": true}\n'
    assert filled("x.jsonl", lines) == ["01|2024-01-02", "1.50|10000000000000000000001", '[1, "é"]|true']
    for name, text, says in (
        ("x.csv", "", "is empty; a line for each row"),
        ("x.jsonl", " \n", "is empty; a line for each row"),
        ("x.csv", "a,b\n1,2\n1,2,3\n", "is no CSV .*; a line of names"),
        ("x.csv", "a,b\n1,2,3\n1,2,3\n", "is no CSV .*; a line of names"),
        ("x.csv", "é,b\n1,2\n".encode("latin-1"), "is not UTF-8"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2 of .* is no JSON"),
        ("x.jsonl", "3\n", "line 1 of .* is no object"),
        ("x.csv", "a,b\n1,\n", "row 0: b is missing"),
        ("x.jsonl", '{"a": 1, "b": null}\n', "row 0: b is missing"),
        ("x.jsonl", '{"a": 1, "b": NaN}\n', "row 0: b is missing"),
    ):
        with pytest.raises(lab.LabError, match=says) as caught:
            filled(name, text)
        assert "\n" not in str(caught.value)


def test_a_second_model_is_not_kept(lm, df):
    small = lab.pretrain(
        ["Say cat French: chat. " * 20], name="small", steps=2, tokenizer=lm.tokenizer, n_layer=1, n_head=1, d_model=8,
        max_seq_len=32, batch_size=2, threads=1, display=False,
    )  # fmt: skip
    gone = weakref.ref(small)
    ask = lab.prompt(TEMPLATE, strategy="speculative", draft=small, max_new_tokens=3)
    found = ask(df, model=lm)
    assert found.to_pandas().equals(found.prompt(df, model=lm, seed=found.seed).to_pandas())
    assert "draft=small" in found.code
    del small
    gc.collect()
    assert gone() is None
    for one in (ask, found.prompt):
        with pytest.raises(lab.LabError, match="draft: the model that it was is gone"):
            one(df, model=lm)
    assert len(ask(df, model=lm, draft=lm).answers) == 6


def test_calls_that_cannot_be_taken(lm, df):
    ask = lab.prompt(TEMPLATE, name="ask")
    for call, says in (
        (lambda: ask(df, lm), "on: it takes the rows alone"),
        (lambda: ask(df, model=lm, name="x"), "name: 'x' cannot be given again"),
        (lambda: ask.run(df, model=lm, template="x"), "template: 'x' cannot be given again"),
    ):
        with pytest.raises(lab.LabError, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_metrics_that_have_a_name_of_ours(lm, df):
    def text(text, target):
        return 3

    found = lab.prompt(TEMPLATE, on=df.assign(metric_text=1), model=lm, target="french", metrics=text, max_new_tokens=2)
    frame = found.to_pandas()
    assert frame.columns.is_unique
    assert frame["metric_text"].tolist() == [3.0] * 6 and frame["on_metric_text"].tolist() == [1] * 6
    assert any("the metric text is called metric_text" in note for note in found.notes)


def test_what_is_said_of_templates(lm, df):
    found = lab.prompt(["hello", "{{french}}"], on=df, model=lm, target="french", max_new_tokens=2)
    assert found.notes[0] == "template 1 has no slots: it is the same for every row"
    assert found.notes[1] == "'{{french}}' shows the target (french) in the prompt itself"


# magics and views


def test_the_magic(lm, df):
    ip = InteractiveShell.instance()
    ip.run_line_magic("load_ext", "llm_lab")
    try:
        ip.user_ns |= {"bard": lm, "df": df, "second": lambda text, target: float(text[1:2] == target[1:2])}
        ip.user_ns["second"].__name__ = "second"
        body = f"{TEMPLATE}\n---\n{{{{english}}}} is\n"
        line = "ask --on @df --with bard --target french --shots 1 --metrics @second,exact_match --max_new_tokens 6"
        found = ip.run_cell_magic("prompt", line, body)
        assert ip.user_ns["ask"] is found
        wanted = lab.prompt(
            [TEMPLATE, "{{english}} is"], on=df, model=lm, target="french", shots=1, max_new_tokens=6,
            metrics=[ip.user_ns["second"], "exact_match"],
        )  # fmt: skip
        assert found.to_pandas().equals(wanted.to_pandas())
        shown = ip.run_cell_magic("prompt", "ask --on @df", TEMPLATE)
        assert shown.preview[0] == "Say cat\nFrench:"
        line = ip.run_line_magic("prompt", 'ask bard "Say {{english}}" --on @df --choices chat,mer --target french')
        assert {answer.text for answer in line.answers} <= {"chat", "mer"}
        many = ip.run_cell_magic("generate", "bard --max_new_tokens 4 --seed 1", "Say cat\n---\nSay dog\n")
        assert many.texts == lab.generate(lm, ["Say cat", "Say dog"], max_new_tokens=4, seed=1).texts
    finally:
        ip.run_line_magic("unload_ext", "llm_lab")
        InteractiveShell.clear_instance()


def test_what_is_shown(lm, df):
    evil = "<img src=x onerror=alert(1)>\u202e\0"
    df.loc["r0", "english"] = evil
    df["<b>"] = evil
    found = lab.prompt([TEMPLATE, "{{<b>}}{{english}}"], on=df, model=lm, target="french", max_new_tokens=4)
    page = found._repr_mimebundle_()["text/html"]
    assert "<img" not in page and "<b>}}" not in page
    assert "&lt;img src=x" in page and "{{&lt;b&gt;}}" in page
    assert not re.search("[\0\u202e]", page + str(found))
    assert page.count("✓") + page.count("✗") == 12 + 2
    assert "template 2" in str(found) and "Δ" in page
    one = lab.prompt(TEMPLATE, name="ask", on=df)
    assert "ask · prompt · fields english" in str(one)
    assert "Say dog" in one._repr_mimebundle_()["text/html"]


def test_rows_come_back_in_their_order(lm):
    """They are written in batches of like lengths."""
    frame = pd.DataFrame({"word": ["green bottles", "1", "wall", "2", "green bottles stood"]}, index=list("edcba"))
    found = lab.prompt("{{word}}", on=frame, model=lm, max_new_tokens=3)
    assert list(found.to_pandas().index) == list("edcba")
    assert [answer.row for answer in found.answers] == [0, 1, 2, 3, 4]


def test_single_braces_are_noticed(lm):
    frame = pd.DataFrame({"word": ["1", "2"]})
    found = lab.prompt("{word} green", on=frame, model=lm, max_new_tokens=3)
    assert any("{word} in single braces" in note and "{{word}}" in note for note in found.notes)

"""Lines and bodies become keyword arguments; what cannot be read is one line that says what would work."""

from __future__ import annotations

import pytest

from llm_lab.errors import BadType, BadValue, LabError, NotYet
from llm_lab.magics.parse import parse
from llm_lab.verbs import VERBS
from tests.magics.conftest import Model


class Net:
    """Stands for a user's class."""


BARD, B2 = Model("bard", {}), Model("b2", {})
ONE = {"bard": BARD, "again": BARD, "_": BARD, "Net": Net, "df": [1, 2], "text": "to be", "five": 5}
TWO = ONE | {"b2": B2}


def kwargs(verb, line, body=None, namespace=ONE, **more):
    return parse(VERBS[verb], line, body, namespace, **more).kwargs


@pytest.mark.parametrize(
    ("verb", "line", "body", "expected"),
    [
        ("generate", 'bard "ROMEO:" --p 0.9', None, {"model": BARD, "prompt": "ROMEO:", "p": 0.9}),
        ("generate", '--p=0.9 bard "ROMEO:"', None, {"model": BARD, "prompt": "ROMEO:", "p": 0.9}),
        ("generate", "bard 'a \\' \" b'", None, {"model": BARD, "prompt": "a ' \" b"}),
        ("generate", r'bard "a \" \n b"', None, {"model": BARD, "prompt": r'a " \n b'}),
        ("generate", 'bard "a # b; c" --n 2 ; # d "', None, {"model": BARD, "prompt": "a # b; c", "n": 2}),
        ("generate", 'bard "{five} $five @five"', None, {"model": BARD, "prompt": "{five} $five @five"}),
        ("generate", "bard @text", None, {"model": BARD, "prompt": "to be"}),
        ("generate", "bard @@x --max-new-tokens 5", None, {"model": BARD, "prompt": "@x", "max_new_tokens": 5}),
        ("generate", 'bard --prompt "a b"', None, {"model": BARD, "prompt": "a b"}),
        ("generate", 'bard --prompt="a b" --seed None', None, {"model": BARD, "prompt": "a b", "seed": None}),
        ("generate", '@bard "中文"', None, {"model": BARD, "prompt": "中文"}),
        ("generate", 'other@500 "x"', None, {"model": "other@500", "prompt": "x"}),
        ("generate", 'other "x"', None, {"model": "other", "prompt": "x"}),
        ("generate", '"x"', None, {"model": BARD, "prompt": "x"}),
        ("generate", "bard", "a\n b\n\n", {"model": BARD, "prompt": "a\n b\n"}),
        ("generate", "bard", "a\n--- \nb\n", {"model": BARD, "prompt": ["a", "b"]}),
        ("prompt", "ask", "a {{b}}\n---\nc\n", {"name": "ask", "template": ["a {{b}}", "c"]}),
        ("prompt", 'ask bard "a" --on @five', None, {"name": "ask", "model": BARD, "template": ["a"], "on": 5}),
        (
            "prompt",
            "ask --with bard,other --metrics @five,f1 --choices yes,no",
            "a",
            {
                "name": "ask",
                "model": [BARD, "other"],
                "template": ["a"],
                "metrics": (5, "f1"),
                "choices": ("yes", "no"),
            },
        ),
        ("prompt", "ask --metrics @five", "a", {"name": "ask", "template": ["a"], "metrics": (5,)}),
        ("generate", 'bard "x"', "  \n", {"model": BARD, "prompt": "x"}),
        ("probe", 'bard "x"', None, {"model": BARD, "text": ["x"]}),
        ("probe", 'bard attention "x" "y"', None, {"model": BARD, "kind": "attention", "text": ["x", "y"]}),
        (
            "probe",
            'bard "x" --kind attention --live',
            None,
            {"model": BARD, "kind": "attention", "text": ["x"], "live": True},
        ),
        ("probe", 'attention "x"', None, {"model": BARD, "kind": "attention", "text": ["x"]}),
        ("probe", "bard", "x\n---\ny", {"model": BARD, "text": ["x", "y"]}),
        ("probe", "bard --live=false @text", None, {"model": BARD, "text": ["to be"], "live": False}),
        ("evaluate", "bard,@again,b@3", None, {"model": [BARD, BARD, "b@3"]}),
        ("evaluate", "bard --metrics loss,perplexity", None, {"model": BARD, "metrics": ("loss", "perplexity")}),
        (
            "evaluate",
            "shakespeare",
            "metrics = ['loss']",
            {"model": BARD, "data": "shakespeare", "metrics": ("loss",)},
        ),
        ("tokenize", '"x" --kind char,bpe --model bard', None, {"text": "x", "kind": ("char", "bpe"), "model": BARD}),
        ("corpus", "", "my\n---\ntext\n", {"source": ["my\n---\ntext"]}),
        ("corpus", "@df --column text", None, {"source": [1, 2], "column": "text"}),
        ("corpus", '"a file.txt"', None, {"source": "a file.txt"}),
        ("build", "tiny gpt2 --n-layer 2", "n_head = 2", {"name": "tiny", "preset": "gpt2", "n_layer": 2, "n_head": 2}),
        (
            "pretrain",
            "bard shakespeare --seconds 1e1",
            None,
            {"name": "bard", "corpus": "shakespeare", "seconds": 10.0},
        ),
        ("pretrain", "莎士比亚 --model @Net", None, {"name": "莎士比亚", "model": Net}),
        ("lab", "rename a b", None, {"action": "rename", "name": "a", "to": "b"}),
        ("lab", "", "\n", {}),
        ("doctor", "", None, {}),
    ],
)
def test_reads(verb, line, body, expected):
    assert kwargs(verb, line, body) == expected


def test_toml_body():
    body = """
    # a comment with “odd” signs
    steps = 1_000
    [model]
    n-layer = 3
    bias = True   # Python's spelling
    n_kv_head = None
    model = "@Net"
    [training]
    sample_prompt = "@@home, None"
    lr = @five
    """
    assert kwargs("pretrain", "bard --seed 1", body) == {
        "name": "bard",
        "seed": 1,
        "steps": 1000,
        "n_layer": 3,
        "bias": True,
        "n_kv_head": None,
        "model": Net,
        "sample_prompt": "@home, None",
        "lr": 5.0,
    }


def test_as_and_notes():
    call = parse(VERBS["generate"], '"x" --as result', None, ONE)
    assert call.binds == ("result",)
    assert call.notes == ("generate: the model is bard, the only one here",)
    assert parse(VERBS["build"], "tiny --as twin", None, ONE).binds == ("tiny", "twin")


def test_defaults_fill_what_is_not_given():
    assert kwargs("generate", 'bard "x" --seed 1', defaults={"seed": 0, "n": 2, "device": "cpu"})["seed"] == 1
    assert kwargs("generate", 'bard "x"', defaults={"n": 2, "device": "cpu"}) == {"model": BARD, "prompt": "x", "n": 2}
    assert "steps" not in kwargs("pretrain", "bard --seconds 5", defaults={"steps": 9})


@pytest.mark.parametrize(
    ("verb", "line", "body", "says"),
    [
        ("generate", 'bard "x" --stratgy greedy', None, ["no option 'stratgy'", "did you mean 'strategy'"]),
        ("generate", 'bard "x" --promt y', None, ["'promt'", "did you mean 'prompt'"]),
        ("generate", 'bard "x" --strategy top-p', None, ["strategy", "'top-p'", "did you mean 'top_p'"]),
        ("generate", 'bard "x" --n 0', None, ["n: 0", "at least 1"]),
        ("generate", 'bard "x" --n 2 --n 3', None, ["n is given twice"]),
        ("generate", 'bard "x"', "y", ["prompt is given twice"]),
        ("prompt", "ask", None, ["prompt needs a template", "Translate: {{english}}"]),
        ("prompt", "ask --metrics exact_mach", "a", ["metrics: 'exact_mach'", "did you mean 'exact_match'"]),
        ("prompt", "ask --wiht bard", "a", ["prompt has no option 'wiht'"]),
        ("generate", 'bard "x" --prompt y', None, ["prompt is given twice"]),
        ("generate", 'bard "x" "y"', None, ["'y' is one word too many"]),
        ("generate", "bard ROMEO: love", None, ["prompt must stand in quotes", '"ROMEO: love"']),
        ("generate", "bard “ROMEO:”", None, ["“ is a typographic quote", '%generate bard "ROMEO:"']),
        ("generate", "bard «ROMEO:»", None, ["typographic quote", '"ROMEO:"']),
        ("generate", "bard ‘ROMEO:’", None, ["typographic quote", "'ROMEO:'"]),
        ("generate", 'bard "x" –n 2', None, ["en dash", "--n 2"]),
        ("generate", 'bard "x" —n 2', None, ["em dash", "--n 2"]),
        ("generate", 'bard "x" -—n 2', None, ["em dash", "--n 2"]),
        ("generate", 'bard "x" --n −2', None, ["minus sign", "--n -2"]),
        ("generate", 'bard "x" --n＝2', None, ["'＝' is a full-width sign", "--n=2"]),
        ("generate", 'bard "x" --n ２', None, ["'２' is a full-width sign", "--n 2"]),
        ("generate", "bard ＠text", None, ["full-width", "@text"]),
        ("generate", "bard　@text", None, ["full-width"]),
        ("generate", 'bard "x', None, ["is not closed"]),
        ("generate", 'bard "x"y', None, ["space is missing"]),
        ("generate", 'bard x"y"', None, ["space is missing"]),
        ("generate", 'bard "x" -n 2', None, ["one dash", "--n"]),
        ("generate", 'bard "x" n=2', None, ["'n=2' stands alone", "--n=2"]),
        ("generate", 'bard "x" --n = 2', None, ["spaces around ="]),
        ("generate", 'bard "x" --n', None, ["n needs a value", "--n 1"]),
        ("generate", 'bard "x" --n two', None, ["n: 'two' is not a number"]),
        ("generate", "bard @txt", None, ["no variable 'txt'", "did you mean 'text'", "@@txt"]),
        ("generate", "bard @five", None, ["prompt 5 is int, not text"]),
        ("playground", 'bard,b2 "x"', None, ["is several"]),
        ("generate", 'bard,b2 "x" --ensemble vot', None, ["ensemble: 'vot' is unknown", "did you mean 'vote'"]),
        ("generate", 'bard,b2 "x" --ensemble_weights 1,-1', None, ["ensemble_weights: -1.0 is out of range"]),
        ("soup", "mixed --weights 0", None, ["weights: 0.0 is out of range"]),
        ("generate", 'df "x"', None, ["'df' is a variable", "@df"]),
        ("generate", "bard", "a\n---\n\n---\nb", ["text 2 of 3", "empty"]),
        ("probe", 'bard attenton "x"', None, ["'attenton'", "did you mean 'attention'"]),
        ("probe", "bard hello", None, ["kind 'hello'", 'in quotes: "hello"']),
        ("probe", 'bard attention "x" --kind attention', None, ["kind is given twice"]),
        ("tokenize", "", None, ["needs a text"]),
        ("evaluate", "bard, b2", None, ["empty name", "a,b"]),
        ("evaluate", "bard --metrics loss, perplexity", None, ["without spaces"]),
        ("pretrain", "", None, ["needs a name", "%%pretrain bard"]),
        ("pretrain", "df", None, ["'df' is a variable", "would be lost"]),
        ("pretrain", "class", None, ["is a word of Python"]),
        ("pretrain", "2bard", None, ["cannot be a variable"]),
        ("pretrain", "print", None, ["would be hidden"]),
        ("pretrain", "shakespeare", None, ["is a corpus", "%pretrain bard shakespeare"]),
        ("pretrain", "bard df", None, ["write @df"]),
        ("pretrain", "bard --model Net", None, ["write @Net"]),
        ("pretrain", "bard --steps -5", None, ["steps: -5", "at least 1"]),
        ("pretrain", "bard --steps 5 --seconds 5", None, ["only one budget"]),
        ("pretrain", "bard --steps 5", "steps = 6", ["steps is given twice"]),
        ("pretrain", "bard", "[a]\nsteps = 5\n[b]\nsteps = 6", ["steps is given twice"]),
        ("pretrain", "bard", "lr = 1\nlr = 2", ["line 2", "twice"]),
        ("pretrain", "bard", "\nlr == 2", ["line 2", "name = value"]),
        ("pretrain", "bard", "lr = 1\ntokenizer = char", ["line 2", 'tokenizer = "char"']),
        ("pretrain", "bard", "lr = 1\n--steps 5", ["line 2", "steps = 500"]),
        ("pretrain", "bard", "lr = 1\ntokenizer = “char”", ["line 2", "typographic", 'tokenizer = "char"']),
        ("pretrain", "bard", "lr = １", ["line 1", "full-width"]),
        ("pretrain", "bard", "lr = 1\nx = [", ["line 2"]),
        ("pretrain", "bard", "leraning = 1", ["no option 'leraning'"]),
        ("pretrain", "bard", "n_layer = 2.5", ["n_layer: 2.5 is not a whole number"]),
        ("pretrain", "bard", "lr = nan", ["not a finite number"]),
        ("pretrain", "bard", f"steps = 0x{'f' * 6000}", ["steps"]),
        ("pretrain", "bard", "x = " + "[" * 3000, ["body", "nested too deeply"]),
        ("pretrain", "bard --as 5x", None, ["cannot be a variable"]),
        ("lab", "run", None, ["did you mean 'runs'"]),
        ("doctor", "", "x = 1", ["takes no body"]),
    ],
)
def test_refuses(verb, line, body, says):
    with pytest.raises(LabError) as caught:
        parse(VERBS[verb], line, body, ONE)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, (BadValue, BadType))
    for part in says:
        assert part in message


def test_several_models_or_none():
    with pytest.raises(BadType, match="there is: bard, b2"):
        parse(VERBS["generate"], '"x"', None, TWO)
    with pytest.raises(BadType, match="needs the name of a model"):
        parse(VERBS["generate"], '"x"', None, {})


def test_verbs_to_come_say_so_whatever_is_asked():
    for verb in VERBS.values():
        if verb.missing:
            with pytest.raises(NotYet, match=f"{verb.name} is not there yet"):
                parse(verb, "whatever --at all", "[", ONE)


def test_objects_whose_attributes_fail_are_no_models():
    class Hostile:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __repr__(self):
            raise RuntimeError("repr")

    assert kwargs("generate", '"x"', namespace={"a": Hostile(), "bard": BARD})["model"] is BARD
    with pytest.raises(LabError, match="a value of type Hostile"):
        parse(VERBS["generate"], "bard @a", None, {"a": Hostile(), "bard": BARD})

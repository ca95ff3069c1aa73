"""The magics in a running IPython: every form reaches the verb, shows its result once, and fails in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_lab.errors import BadType, BadValue, LabError, NotYet
from llm_lab.magics.extension import load, unload
from llm_lab.magics.transform import CellTransformer
from llm_lab.verbs import VERBS
from tests.magics.conftest import Model


@pytest.fixture
def bard(lab):
    lab.ip.user_ns["bard"] = Model("pretrain", {})
    return lab


@pytest.mark.parametrize(
    ("cell", "verb"),
    [
        ('%probe bard "x"', "probe"),
        ('%probe bard "x"\n', "probe"),
        ('%probe bard "x"\ny = 1', "probe"),
        ('y = 1\n%probe bard "x" # comment\ny = 2', "probe"),
        ('if True:\n    %probe bard "x";', "probe"),
        ('r = %probe bard "x"', "probe"),
        ('r = %probe bard "x"\nr.verb == 0 or None', "probe"),
        ('%probe bard "x" --as r', "probe"),
        ("%%probe bard\nx", "probe"),
        ("%%probe bard --as r\nx", "probe"),
        ('%%probe bard "x"', "probe"),
        ('# comment\n\n  # more\n%%probe bard "x"', "probe"),
        ('%%probe\tbard "x"', "probe"),
        ('%generate bard "x"', "generate"),
        ('%generate bard "x"\ny = 1', "generate"),
        ('r = %generate bard "x"', "generate"),
        ("%%generate bard --as r\nx", "generate"),
        ("%pretrain tiny", "pretrain"),
        ("%%pretrain tiny\nsteps = 5", "pretrain"),
        ("%%pretrain tiny", "pretrain"),
        ("r = %pretrain tiny", "pretrain"),
        ("%build tiny", "build"),
        ("%build tiny\ny = 1", "build"),
        ("%%build tiny\nn_layer = 1", "build"),
        ('probe bard "x"', "probe"),
    ],
)
def test_shows_exactly_once_and_binds(bard, cell, verb):
    shown, stdout, error = bard.run(cell)
    assert error is None
    assert shown == [f"<{verb}>"]
    assert not stdout
    assert [name for name, _ in bard.calls] == [verb]
    for name in ("r", "tiny"):
        if f"{name} = %" in cell or f"--as {name}" in cell or (name == "tiny" and "tiny" in cell):
            assert bard.ip.user_ns[name].verb == verb


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('%generate bard "Is it love?"', "Is it love?"),
        ('%generate bard "Is it {bard} $bard ${bard} {{x}} love?"', "Is it {bard} $bard ${bard} {{x}} love?"),
        ("%%generate bard\nIs it {bard} $HOME love?", "Is it {bard} $HOME love?"),
        ("%%generate bard\n%generate x\n!ls\n", "%generate x\n!ls"),
        ("%%generate bard\n  中文 “x”", "  中文 “x”"),
        ('%generate bard "x" \\\n  --n 2', "x"),
        ('def f(word):\n    %generate bard @word\nf("local")', "local"),
        ('for word in ["a"]:\n    %generate bard @word', "a"),
    ],
)
def test_prompts_arrive_verbatim(bard, cell, text):
    assert bard.call(cell)[1]["prompt"] == text


def test_a_question_mark_is_no_request_for_help(bard):
    assert bard.call("%corpus ./what?") == ("corpus", {"source": "./what?"})
    assert bard.call("x = %corpus ./what?") == ("corpus", {"source": "./what?"})
    assert 'write "love?"' in str(bard.error("%generate bard love?"))
    assert 'write "love?"' in str(bard.error("if True:\n    %generate bard love?"))


@pytest.mark.parametrize(
    "cell", ["%probe?", "%probe??", "%%probe?", "?%probe", "%probe ?", "%probe --help", "%%probe?\nx"]
)
def test_help(bard, cell):
    shown, _, error = bard.run(cell)
    assert error is None
    assert not bard.calls
    assert len(shown) == 1
    assert shown[0].startswith("probe: look inside a model")
    assert "--kind" in shown[0]


def test_every_verb_has_help(lab):
    for name, verb in VERBS.items():
        (shown,), _, _ = lab.run(f"%{name}?")
        assert shown.startswith(f"{name}: {verb.help}")
        for option in verb.specs.values():
            assert option.flag in shown
        assert lab.ip.magics_manager.magics["line"][name].__doc__ == shown


def test_the_only_model_is_announced(bard):
    shown, stdout, _ = bard.run('%generate "x"')
    assert shown == ["<generate>"]
    assert stdout == "generate: the model is bard, the only one here\n"


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ('%generate bard "x" --n -1', BadValue),
        ("%%generate bard --n -1\nx", BadValue),
        ("%%pretrain tiny\nsteps = ", BadValue),
        ("%%pretrain tiny --stps 5", BadType),
        ("%export bard", NotYet),
        ("%%finetune bard\nwhatever = [", NotYet),
        ("%probe bard “x”", BadValue),
        ("%probe bard 'x", BadValue),
    ],
)
def test_errors_are_one_line(bard, cell, kind):
    error = bard.error(cell)
    assert isinstance(error, kind)
    assert error._render_traceback_() == [str(error)]
    assert "\n" not in str(error)
    shown, stdout, _ = bard.run(cell)
    assert not shown
    assert stdout.strip().splitlines() == [str(error)]


def test_a_model_of_an_interrupted_run_is_bound(lab, monkeypatch):
    import fake_lab

    def stopped(**kwargs):
        model = Model("pretrain", kwargs)
        model.report = SimpleNamespace(name="tiny", status="paused", notes=["paused at step 5 of 10"])
        return model

    monkeypatch.setattr(fake_lab, "pretrain", stopped)
    _, _, error = lab.run("%pretrain tiny")
    assert str(error) == "tiny: paused at step 5 of 10"
    assert lab.ip.user_ns["tiny"].verb == "pretrain"


def test_what_is_not_ours_is_never_overwritten(lab):
    lab.ip.user_ns["df"] = kept = [1, 2]
    assert "would be lost" in str(lab.error("%pretrain df"))
    assert lab.ip.user_ns["df"] is kept


def test_config_sets_defaults(bard):
    bard.run("%config LLMLab.defaults = {'n': 3}")
    assert bard.call('%generate bard "x"')[1]["n"] == 3
    assert bard.call('%generate bard "x" --n 1')[1]["n"] == 1
    _, stdout, error = bard.run("%config LLMLab.defaults = {'nn': 3}")
    assert error is None
    assert "no option 'nn'; did you mean 'n'" in stdout
    assert len(stdout.splitlines()) == 1
    assert bard.call('%generate bard "x"')[1]["n"] == 3


def test_unload_and_load_again(bard):
    ip = bard.ip
    load(ip)
    before = len(ip.input_transformers_cleanup), len(ip.ast_transformers)
    unload(ip)
    unload(ip)
    assert "generate" not in ip.magics_manager.magics["line"]
    assert (len(ip.input_transformers_cleanup), len(ip.ast_transformers)) == (before[0] - 1, before[1] - 1)
    load(ip)
    assert bard.call('%generate bard "x"')


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "x = 1\n",
        "# %%probe bard\nx = 1\n",
        "%%time\n%probe bard love?\n",
        's = """\n%probe bard love?\n"""\n',
        "%timeit x\n",
        "%%prober bard\n",
        "%prober bard love?\n",
        "x = bard ?\n",
        "probe?\n",
        "y = (1\n%probe\t?\n)",
        "!echo %probe?\n",
    ],
)
def test_other_cells_are_untouched(cell):
    lines = cell.splitlines(keepends=True)
    assert CellTransformer(VERBS)(list(lines)) == lines


@pytest.mark.parametrize(
    "cell", ["%probe bard love?\n", "%%probe bard\n", "# c\n%%probe bard\nx\n", "%probe?\n", "x = %probe a?\n"]
)
def test_transforming_twice_changes_nothing_more(cell):
    transform = CellTransformer(VERBS)
    once = transform(cell.splitlines(keepends=True))
    assert once != cell.splitlines(keepends=True) or cell.startswith("%%probe bard\nx")
    assert transform(list(once)) == once


_SIGNS = st.text(
    st.sampled_from(list("\"'“”‘«—–−＝＠：５@-=,;#?%{}$[]\\!|\t\u00a0\u3000\x0b\x85\u2028\x00 ab1中é\U0001f600")),
    max_size=30,
)
_WORDS = st.sampled_from(
    [
        "bard",
        "tiny",
        "df",
        "class",
        "shakespeare",
        "attention",
        "runs",
        '"ROMEO:"',
        "'x'",
        "@bard",
        "@df",
        "@@x",
        "@no",
        "bard@5",
        "a,b",
    ]
    + ["-5", "1e400", "nan", "--", "---", "=", "None", "true", "--as", "--as r", "--help=1", "#", ";", "love?"]
    + [f"--{name}" for verb in VERBS.values() for name in verb.specs]
)
_LINE = st.lists(st.one_of(_WORDS, _WORDS, _SIGNS), max_size=7).map(" ".join)
_PAIRS = st.tuples(
    st.sampled_from(
        ["steps", "lr", "n-layer", "[model]", "n_head", "metrics", "x", "model", "bias", "None", "corpus", "kind"]
    ),
    st.sampled_from(
        [
            "= 5",
            "= -1",
            "= True",
            "= None",
            '= "@bard"',
            "= @df",
            "= char",
            "= [",
            "= nan",
            "= {a=1}",
            "= 1979-05-27",
            "= ['loss', None]",
            "",
        ]
    ),
).map(" ".join)
_BODY = st.one_of(st.lists(st.one_of(_PAIRS, _SIGNS, st.just("---")), max_size=5).map("\n".join), _SIGNS)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(verb=st.sampled_from(list(VERBS)), line=_LINE, body=st.none() | _BODY, assign=st.booleans())
def test_any_line_and_body_end_well(lab, verb, line, body, assign):
    ip = lab.ip
    ip.user_ns |= {"bard": Model("pretrain", {}), "df": [1, 2]}
    head = f"%%{verb} {line}" if body is not None else f"{'r = ' if assign else ''}%{verb} {line}"
    # a sign that Python's reader takes for the end of a line ends the magic there; the rest is Python's to judge
    cell = " ".join(head.splitlines()) + (f"\n{body}" if body is not None else "")
    _, stdout, error = lab.run(cell)
    assert error is None or isinstance(error, LabError), (cell, error)
    if error is not None:
        assert str(error) in stdout
        assert "Traceback" not in stdout
    assert ip.user_ns["df"] == [1, 2] or "--as" in line
    assert lab.run("well = 1 + 1")[2] is None
    assert ip.user_ns["well"] == 2

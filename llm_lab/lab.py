"""The verbs. Each checks its arguments, calls the room that does the work, and gives a result that shows itself."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llm_lab import machine, overview
from llm_lab.decoding.options import EnsembleOptions
from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.options import REQUIRED, distribute, specs
from llm_lab.probes.options import ProbeOptions
from llm_lab.registry import load as load_entry
from llm_lab.results import (
    BackgroundRun,
    Bench,
    Chat,
    Comparison,
    Evaluation,
    Generation,
    Generations,
    Listing,
    Playground,
    Prompt,
    PromptResults,
    Result,
    RunComparison,
    SideBySide,
    Sizing,
    Tokenization,
)
from llm_lab.store import runs as store
from llm_lab.store.folders import is_pack
from llm_lab.verbs import (
    VERBS,
    AttachOptions,
    BuildOptions,
    ChatOptions,
    CompareOptions,
    LabOptions,
    LiveOptions,
    TokenizeOptions,
    WeightOptions,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from llm_lab.corpora.corpus import Corpus
    from llm_lab.models.language_model import LanguageModel
    from llm_lab.store.lm import LM
    from llm_lab.tokenizers.tokenizer import Tokenizer

_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R", bound=Result)
_SHOWN_LAYERS = 1000  # of a model that is shown without weights: modules take memory too


def _with_options(name: str) -> Callable[[_F], _F]:
    """Give a verb the signature and the help of its declared options, in place of `**options`."""

    def wrap(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in own}
        declared = {key: spec for key, spec in VERBS[name].specs.items() if key not in taken}
        added = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None if s.default is REQUIRED else s.default)
            for key, s in declared.items()
        ]
        lines = [
            f"    {key}: {s.help}" + (f" (default: {s.auto or s.default})" if s.default is not REQUIRED else "")
            for key, s in declared.items()
        ]

        @functools.wraps(function)
        def verb(*args: Any, **kwargs: Any) -> Any:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                takes = ", ".join(str(p).partition(":")[0] for p in own)
                raise BadType(f"{name}: {error}; it takes {takes}, and its options by name") from None
            return function(*args, **kwargs)

        verb.__dict__["__signature__"] = signature.replace(parameters=[*own, *added])
        verb.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return cast(_F, verb)

    return wrap


@_with_options("corpus")
def corpus(source: Any = None, **options: Any) -> Corpus:
    """Text to work with: a name (`shakespeare`, `stories`, `python-docs`), a path, a glob, a URL, a DataFrame, a list of str.

    Shows itself as a report. Raises BadValue where there is no such text, or it is empty or not UTF-8.
    """
    from llm_lab.corpora.open import open_corpus

    distribute(VERBS["corpus"].options, options, "corpus")
    return open_corpus("shakespeare" if source is None else source, **options)


def tokenizer(source: Any, kind: str = "char", vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer learned from a corpus: char, byte, bpe, wordpiece or unigram."""
    from llm_lab.corpora.open import open_corpus
    from llm_lab.tokenizers.tokenizer import train

    return train(open_corpus(source), kind, vocab_size)


def load(name: str, model: Any = None) -> LM:
    """A finished model: by its name, its run's id, the folder it was saved in, or the zip of a run; `bard@500` as its step
    500 left it, where that checkpoint was kept; a published one by its folder, or as `hf:openai-community/gpt2` from the
    Hugging Face hub.

    `model` is your class where it was trained with one of your own.
    """
    from llm_lab.store.lm import load_checkpoint, load_lm, load_run

    if isinstance(name, str | Path) and os.path.isfile(Path(name) / "model.json"):
        return load_lm(Path(name), model=model)
    if isinstance(name, str) and name.startswith("hf:"):
        from llm_lab.store.hf import load_published

        return load_published(name)
    if isinstance(name, str | Path) and os.path.isfile(Path(name) / "config.json"):
        from llm_lab.store.hf import load_hf

        return load_hf(Path(name))
    if isinstance(name, Path) and is_pack(name):
        name = str(name)
    if not isinstance(name, str):
        raise BadType(f"name: {show(name)} is {type(name).__name__}; a run's name or id, or a folder would do")
    if "@" in name:
        return load_checkpoint(*store.find_checkpoint(name), model)
    return load_run(store.find(name), model)


def _as_it_goes_on(lm: LM, run: store.Run) -> str:
    """Which weights of a run are used that is not at its end."""
    return f"{lm.name}: run {run.id} is {run.status}; its weights after step {run.reached} are used"


def _lm(value: Any) -> LM:
    """The LM that a verb was given: one, or the name of a finished run (announced)."""
    from llm_lab.store.lm import LM

    if isinstance(value, LM):
        value.model.need_weights()
        return value
    if isinstance(value, BackgroundRun):
        lm = value.lm
        if lm.run:
            print(_as_it_goes_on(lm, lm.run))
        return lm
    if isinstance(value, str):
        with machine.uninterrupted():
            lm = load(value)
        lm.by_name = True
        if lm.run and lm.step is None and lm.run.status in ("training", "died"):
            print(_as_it_goes_on(lm, lm.run))
        elif lm.run:
            print(
                f"{lm.name}: run {lm.run.id} is used, {lm.run.status} {overview.ago(lm.run.read('status').get('time', 0.0))}"
            )
        return lm
    raise BadType(
        f"model: {show(value)} is {type(value).__name__}; an LM made by pretrain, or the name of a run would do"
    )


def _lms(value: Any) -> list[LM]:
    """One LM or several; BadValue for none."""
    lms = [_lm(one) for one in (value if isinstance(value, list | tuple) else [value])]
    if not lms:
        raise BadValue("model: the list is empty; give one model, or several")
    return lms


def _with_models(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of decoding, in which a second model may be named by its run."""
    from llm_lab.decoding.choosing import SECOND

    return {key: _lm(value) if key in SECOND and isinstance(value, str) else value for key, value in options.items()}


def _drawn(results: Iterator[_R], display: bool, code: Callable[[_R], str]) -> _R:
    """The last state of a result that grows, drawn as it does where `display` is asked for. An interrupt that comes
    while it is drawn is handed to what makes it, which ends as if it had come there."""
    live: Any = None

    def draw(state: _R) -> _R:
        nonlocal live
        state.code = code(state)
        if live is None and display:
            live = load_entry("llm_lab.views.live:Live")(state)
        elif live is not None:
            live.update(state)
        return state

    for state in results:
        result = state
        try:
            draw(state)
        except KeyboardInterrupt:
            if not isinstance(results, Generator):
                raise
            with contextlib.suppress(KeyboardInterrupt, StopIteration):  # what was at its end has none to hand back
                result = draw(results.throw(KeyboardInterrupt()))
    if live is not None:
        live.close(result)
    return result


def _texts(argument: str, value: Any, example: str = "To be, or not to be") -> list[str]:
    """The texts that an argument holds: one, or several; BadType where there is something else."""
    some = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    items = list(value) if some else [value]
    for item in items:
        if not isinstance(item, str):
            raise BadType(f'{argument}: {show(item)} is {type(item).__name__}, not text; for example "{example}"')
    return items


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise BadValue(
            f"name: {show(name)} cannot be a variable's name; letters, digits and _ would do, for example bard"
        )


@_with_options("pretrain")
def pretrain(corpus: Any = None, name: str = "lm", *, display: bool = True, **options: Any) -> LM | BackgroundRun:
    """Train a model from nothing on text; `display` draws a live card in a notebook, a progress line in a terminal.

    Give one budget (`steps`, `seconds`, `tokens` or `epochs`; 60 seconds otherwise). An identical request that has
    finished is restored at once, one that was left on its way goes on. An interrupt ends the step and saves: the run is
    paused. Returns the LM; with `background` a BackgroundRun, which a process of its own trains.
    """
    started = time.perf_counter()  # before torch is imported: that is a part of what a time budget bounds

    from llm_lab.background import attach as watch
    from llm_lab.models.presets import PRESETS
    from llm_lab.pretraining import pretrain as carry_out
    from llm_lab.store.lm import LM

    _check_name(name)
    if name in PRESETS and "preset" not in options and "model" not in options:
        raise BadValue(
            f"name: {name} is a preset, and none was chosen, so that another would be trained under its name; use preset={name!r}, or another name"
        )
    if options.get("init_from") is not None:
        options["init_from"] = _lm(options["init_from"])
    made = carry_out(corpus, name, options, display, started)
    if isinstance(made, LM):
        return made
    attached = watch(made)
    if display:
        load_entry("llm_lab.views.background:show")(attached)
    return attached


@_with_options("attach")
def attach(name: Any, *, display: bool = False, **options: Any) -> BackgroundRun:
    """Watch a run that another process trains, or trained: `bard = lab.attach("bard")`, by its name or its run's id.

    `bard.lm` is the model as it was last saved, and `bard` itself goes wherever a model goes; `bard.pause()`, `.resume()`,
    `.stop()`, `.lr(0.5)` ask things of it; `bard.wait()` waits for its end. Its folder is all that it reads.
    """
    from llm_lab.background import attach as watch

    (own,) = distribute((AttachOptions,), options, "attach")
    run = getattr(name, "run", name)  # of a model, or of one that was attached before
    attached = watch(run if isinstance(run, store.Run) else store.find_any(run))
    if display:
        load_entry(f"llm_lab.views.background:{'watch' if own.wait else 'show'}")(attached)
    elif own.wait:
        attached.wait()
    return attached


@_with_options("build")
def build(preset: str = "modern", *, name: str = "model", **options: Any) -> LanguageModel:
    """A model with fresh weights: `lab.build("modern", vocab_size=65, n_layer=4, d_model=128)`.

    It shows itself as a diagram with the parameters, FLOPs per token and training memory of each part;
    `.report(batch_size)` gives them. One that does not fit this machine's memory is shown without weights.
    """
    import torch

    from llm_lab.models import cost
    from llm_lab.models.adapted import adapt
    from llm_lab.models.bare import bare, smaller
    from llm_lab.models.options import SHAPES, ModelOptions
    from llm_lab.models.presets import PRESETS

    if not isinstance(name, str):
        raise BadType(f"name: {show(name)} is {type(name).__name__}, not text; for example tiny")
    own, _ = distribute((BuildOptions, ModelOptions), options, "build")
    config = PRESETS.load(preset).config(
        own.vocab_size, **{k: v for k, v in options.items() if k in specs(ModelOptions)}
    )
    (weights, tables), free = cost.taken(config), machine.memory().available
    too_large = own.model is None and weights + tables > free
    if too_large and (tables >= weights or config.n_layer > _SHOWN_LAYERS):
        what, where = (
            (f"the tables of {config.max_seq_len:,} positions take", "--max_seq_len")
            if tables >= weights
            else ("the weights alone take", "--n_layer")
        )
        raise BadValue(
            f"{what} {(weights + tables) / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; use a smaller {where}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(own.seed)
        make: Callable[[Any], LanguageModel] = bare if too_large else SHAPES.load(config.shape)
        made = make(config) if own.model is None else adapt(own.model, config, options)
    words = "".join(f", {key}={value!r}" for key, value in options.items())
    made.about = {"name": name, "batch_size": own.batch_size, "code": f"lab.build({preset!r}{words})"}
    if own.model is None:
        made.about["title"] = f"{preset} · {config.shape}"
    if too_large:
        made.about["notes"] = [
            f"shown without weights: they take {weights / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; sizes such as {smaller(config)} give one that fits"
        ]
    return made


@_with_options("generate")
def generate(
    model: Any, prompt: str | Sequence[str] = "", *, display: bool = False, **options: Any
) -> Generation | Generations:
    """Let a model continue a text; `display` shows it as it grows. `.text`, `.texts`, `.tokens`, `.logprob`.

    A random seed is drawn and reported where none is given. A prompt longer than the context is read from its end.
    A list of prompts gives a Generation for each, written in batches: `gens[0].text`, `gens.texts`, `gens.to_pandas()`.
    Prompt number i has the seed plus i, and its text is what it would be alone with that seed. Several models write as
    one: `lab.generate([a, b], "ROMEO:", ensemble="logits")`; they have the same tokenizer.
    """
    from llm_lab.decoding.ensemble import join, stream_of
    from llm_lab.decoding.together import stream_all
    from llm_lab.store.lm import called, words

    lms, options = _lms(model), _with_models(options)
    for lm in lms:
        if not lm.supports & {"seq2seq", "fill"}:
            lm.need("next_token", "generate", "a model trained with objective clm would do")
    told = {key: value for key, value in options.items() if key not in ("seed", "live")}
    view, how = (
        distribute((kind,), {key: options.pop(key) for key in specs(kind) if key in options}, "generate")[0]
        for kind in (LiveOptions, EnsembleOptions)
    )
    if how.ensemble == "vote" and (view.live or not isinstance(prompt, str)):
        raise BadValue(
            "ensemble: vote takes one prompt at a time, and its texts are not written on (live); use --ensemble probs"
        )
    write = stream_of(lms, how)
    prompts = _texts("prompt", prompt)
    if not prompts:
        raise BadValue('prompt: the list is empty; give one prompt at least, for example ["ROMEO:", "JULIET:"]')

    def code(result: Generation | Generations) -> str:
        if view.live and isinstance(result, Generation):
            result.live, result.actions["keep"] = True, lambda: lms  # the widget needs them, until it is frozen
        asked = prompt if isinstance(prompt, str) else prompts
        return f"lab.generate({called(lms)}, {asked!r}{words(told | {'seed': result.seed})})"

    if isinstance(prompt, str):
        return _drawn(write(prompt, options), display, code)
    if view.live:
        raise BadValue("live: it takes one prompt at a time; give one, or leave live out")
    one = lms[0] if len(lms) == 1 else join(lms, how.ensemble or "probs", how.ensemble_weights, "ensemble_weights")
    return _drawn(stream_all(one, prompts, **options), display, code)


def ensemble(
    models: Any, average: str = "probs", weights: Sequence[float] | None = None, name: str | None = None
) -> LM:
    """Several models as one that goes wherever an LM goes: it says of the next token what its members say on average.

    `average`: "probs", or "logits" (the geometric mean of the probabilities); `weights` say how much each counts. The
    members have the same tokenizer and what they do in common; they stay as they are, and are held.
    """
    from llm_lab.decoding.ensemble import join

    (chosen,) = distribute((WeightOptions,), {"weights": weights}, "ensemble")
    if name is not None:
        _check_name(name)
    return join(_lms(models), average, chosen.weights, "weights", name)


@_with_options("soup")
def soup(model: Any, name: str = "soup", **options: Any) -> LM:
    """One model whose weights are the mean of those of several, which are of the same make and stay as they are.

    It shows what it was made of. It helps where the models were trained further from one trained model (Wortsman et al.
    2022, model soups); elsewhere it is usually worse than each of them: `lab.evaluate([mixed, a, b])` says.
    """
    from llm_lab.store.soup import soup as mix

    (chosen,) = distribute((WeightOptions,), options, "soup")
    _check_name(name)
    return mix(_lms(model), name, chosen.weights)


@_with_options("playground")
def playground(model: Any, prompt: str = "", **options: Any) -> Playground:
    """A prompt box, the strategies and a slider for every option; the model writes as they move.

    Options say where the controls stand at first; a strategy with a second model is offered where that is given
    (`draft=small`). `.generation` is what was written last. `.freeze()` of its widget leaves a form that needs no kernel.
    """
    from llm_lab.playing import playground as open_playground

    (text,) = _texts("prompt", prompt) or [""]
    return open_playground(_lm(model), text, _with_models(options))


@_with_options("chat")
def chat(model: Any, message: str = "", **options: Any) -> Chat:
    """Talk with a model: `talk = lab.chat(bard, template="Q: {{user}}\\nA: {{assistant}}")`, then `talk.say("Who art thou?")`.

    The template is the model's own (`lm.chat_template`) unless one is given; options of generate hold for every answer.
    `.text` is the last answer, `.messages` all. A conversation longer than the context loses its oldest exchanges.
    """
    from llm_lab.chatting import chat as open_chat

    (own,) = distribute((ChatOptions,), {k: options.pop(k) for k in list(options) if k in specs(ChatOptions)}, "chat")
    distribute(VERBS["chat"].options_for(options), options, "chat")
    talk = open_chat(_lm(model), _with_models(options), own.template, own.system)
    (text,) = _texts("message", message) or [""]
    return talk.say(text) if text else talk


@_with_options("compare")
def compare(
    model: Any, prompt: str | Sequence[str] = "", strategies: Any = None, *, display: bool = False, **options: Any
) -> Comparison | RunComparison:
    """Strategies side by side on the same prompts: what each wrote, how likely and how varied it is. Several models
    without a prompt, and without strategies, are compared by the runs that made them; runs by their name or id, also while
    they train and after they died, for nothing is loaded.

    `strategies` are names, with options where they differ: `["greedy", "top_p:p=0.5", {"strategy": "beam", "num_beams": 8}]`;
    one text (a comma between) will do too. Options are for all; a strategy without a use for one goes without it.
    """
    from llm_lab.comparing import compare as run
    from llm_lab.comparing import compare_runs
    from llm_lab.store.lm import called, words

    given, prompts = list(model) if isinstance(model, list | tuple) else [model], _texts("prompt", prompt)
    if len(given) > 1 and prompts in ([], [""]) and not strategies:
        idle = [f"{listing(options)} is for what models write; give a prompt in quotes"] if options else []
        told = ", ".join(repr(one) if isinstance(one, str) else getattr(one, "called", "model") for one in given)
        given = [one.run if isinstance(one, BackgroundRun) else one for one in given]
        runs = [store.find_traced(one) if isinstance(one, str) else _lm(one) for one in given]
        return _drawn(iter([compare_runs(runs, idle)]), display, lambda _: f"lab.compare([{told}])")
    lms = _lms(model)
    names = called(lms)
    if strategies is None or strategies == "":
        strategies = (
            ["greedy", "top_k", "top_p", "min_p", "beam"] if "next_token" in lms[0].supports else ["fill", "gibbs"]
        )
    if isinstance(strategies, str | Mapping):
        strategies = strategies.split(",") if isinstance(strategies, str) else [strategies]
    (chosen,) = distribute(
        (CompareOptions,), {k: v for k, v in options.items() if k in specs(CompareOptions)}, "compare"
    )
    options = _with_models(options)
    shared = options | {name: getattr(chosen, name) for name in ("max_new_tokens", "n")}
    asked = list(strategies)
    code = f"lab.compare({names}, {prompt!r}, strategies={asked!r}{words(options)})"
    return _drawn(run(lms, prompts, asked, shared), display, lambda _: code)


@_with_options("prompt")
def prompt(
    template: str | Sequence[str], *, name: str = "prompt", model: Any = None, display: bool = False, **options: Any
) -> Prompt | PromptResults:
    """A prompt with slots, `"Translate: {{english}} French:"`, as an experiment over the rows of a table.

    Without `model` it is a Prompt: `ask.fill(row)`, `ask(df, model=lm, target="french")`. With `on` and a model (or a list
    of them) it gives PromptResults: `.to_pandas()`, a row for each answer, and `.summary`, each metric's mean ± interval for
    each template and model. Several templates are compared on the same rows. Greedy unless a strategy is given.
    """
    from llm_lab.prompting import again, prepare, run
    from llm_lab.store.lm import called, words

    texts = _texts("template", template, "Translate: {{english}}")
    if not isinstance(name, str):
        raise BadType(f"name: {show(name)} is {type(name).__name__}, not text; for example ask")
    lms = [] if model is None else _lms(model)
    made, own, rows = prepare(name, texts, options)
    kept = again(options)
    made.actions["run"] = lambda more: prompt(texts, name=name, **kept(more))
    options = _with_models(options)
    if rows is None and lms:
        raise BadType("prompt needs on: the rows that the model is asked for, for example --on @df")
    told = {key: value for key, value in options.items() if key not in ("on", "examples", "metrics")}
    given = "".join(f", {key}={key}" for key in ("on", "examples") if options.get(key) is not None)
    if own.metrics:
        given += f", metrics=[{', '.join(repr(m) if isinstance(m, str) else getattr(m, '__name__', 'metric') for m in own.metrics)}]"
    if lms:
        given += f", model={called(lms)}"

    def code(result: Prompt | PromptResults) -> str:
        seed = {} if isinstance(result, Prompt) or result.seed is None else {"seed": result.seed}
        return f"lab.prompt({(texts[0] if len(texts) == 1 else texts)!r}{given}{words(told | seed)})"

    if rows is None or not lms:
        return _drawn(iter([made]), display, code)
    return _drawn(run(made, own, rows, lms, options), display, code)


def strategy(function: _F) -> _F:
    """Decorates a function of logits as a strategy of its name: `@lab.strategy` above `def my_top_p(logits, p=0.9): ...`

    It is given logits, (R, V), and where it has an argument `ids` the text so far, (R, T). It returns logits to draw from
    (−inf drops a token) or tokens, (R,). Keyword defaults become options: `%generate bard --strategy my_top_p --p 0.8`.
    """
    from llm_lab.decoding.own import strategy as add

    return cast(_F, add(function))


def check(function: Callable[..., Any], like: str, **options: Any) -> Listing:
    """Where a hand-written strategy differs from one of the lab's: `lab.check(my_top_p, like="top_p")`."""
    from llm_lab.decoding.own import check as compare

    return compare(function, like, options)


@_with_options("probe")
def probe(
    model: Any, text: str | Sequence[str] = (), kind: str = "attention", *, display: bool = False, **options: Any
) -> Any:
    """Look inside a model while it reads a text: `lab.probe(bard, "To be, or not to be", kind="attention")`.

    `kind` says what to look at, and how many texts and models it takes; `%probe?` lists them. Several models (or
    checkpoints, `["bard@100", "bard"]`) of a kind that takes one are looked into side by side. Above a function of a model
    and a text, `@lab.probe` adds a kind of its name: it may return numbers for the tokens, a table of numbers, a DataFrame
    or a result of the lab; its keyword defaults are its options.
    """
    from llm_lab.probing import probe as look
    from llm_lab.store.lm import called, words

    if inspect.isfunction(model):
        from llm_lab.probes.own import probe as add

        return add(model)
    lms, texts = _lms(model), _texts("text", text)
    distribute((ProbeOptions,), {"kind": kind}, "probe")
    asked = "".join(f", {one!r}" for one in ([texts[0]] if len(texts) == 1 else [texts] if texts else []))

    def line(lms: Sequence[LM]) -> str:
        return f"lab.probe({called(lms)}{asked}, kind={kind!r}{words(options)})"

    def code(result: Result) -> str:
        for lm, one in zip(lms, result.results if isinstance(result, SideBySide) else [], strict=False):
            one.code = line([lm])
        return line(lms)

    return _drawn(look(lms, texts, kind, options), display, code)


def _module(model: Any) -> LanguageModel:
    """The module of an LM (or of the run of that name); BadType for what the lab cannot look into."""
    from llm_lab.models.language_model import LanguageModel

    module = model if isinstance(model, LanguageModel) else _lm(model).model
    module.need_weights()
    return module


def _read(model: Any, text: Any) -> tuple[LanguageModel, Any]:
    """A model and a batch of one text (or of ids) for it."""
    from llm_lab.data.batch import Batch
    from llm_lab.models.language_model import LanguageModel
    from llm_lab.probes.reading import read_ids

    if not isinstance(text, str):
        module = _module(model)
        ids = read_ids(text, module)
        return module, Batch(ids) if isinstance(model, LanguageModel) else _lm(model).batch(ids)
    if isinstance(model, LanguageModel):
        raise BadType("text: a bare module has no tokenizer; give ids, (B, T), or an LM")
    lm = _lm(model)
    return lm.model, lm.batch(read_ids(lm.tokenizer.encode(text), lm.model))


def record(model: Any, text: Any, sites: str | Iterable[str] = "*", grad: bool = False) -> dict[str, Tensor]:
    """The activations of a model while it reads a text (or ids, (B, T)), by site: `lab.record(lm, text, "blocks.*.attn.pattern")`.

    `lm.sites()` lists names and shapes; TransformerLens's `hook_…` names are taken. `grad=True` keeps the graph.
    """
    from llm_lab.probes.recording import record as run

    module, batch = _read(model, text)
    return run(module, batch, _texts("sites", sites, "blocks.*.attn.pattern"), grad)


@contextlib.contextmanager
def replace(model: Any, replacements: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within the `with`, activations become what the functions return: `with lab.replace(lm, {"blocks.2.attn.z": fn}): ...`"""
    from llm_lab.probes.recording import replace as open_replacement

    module = _module(model)
    if not isinstance(replacements, Mapping):
        raise BadType(
            f'replacements: {show(replacements)} is {type(replacements).__name__}; it takes functions by site, for example {{"blocks.0.attn.z": torch.zeros_like}}'
        )
    _texts("replacements", list(replacements), "blocks.0.attn.z")
    for name, function in replacements.items():
        if not callable(function):
            raise BadType(
                f"replacements: {show(function)} for {name!r} is {type(function).__name__}, not a function of the activation; for example torch.zeros_like"
            )
    with open_replacement(module, replacements):
        yield


@_with_options("evaluate")
def evaluate(model: Any, data: Any = None, **options: Any) -> Evaluation:
    """Measure one or several models on text: their own held-out split, or any corpus given as `data`, opened as
    `lab.corpus` opens it: `lab.evaluate(lm, frame, column="english", target="french")`.

    `scores["perplexity"]`, `.to_pandas()`. Intervals are 95 %, over blocks of the context.
    """
    from llm_lab.evaluating import evaluate as measure

    lms = _lms(model)
    return measure(lms, data, options)


@_with_options("tokenize")
def tokenize(text: str | Sequence[str], **options: Any) -> Tokenization:
    """How text is cut into tokens, by every kind side by side, or by those of `kind`, or by a model's own tokenizer."""
    from llm_lab.corpora.open import open_corpus
    from llm_lab.tokenizers.compare import tokenization
    from llm_lab.tokenizers.options import TOKENIZERS
    from llm_lab.tokenizers.tokenizer import train

    (chosen,) = distribute((TokenizeOptions,), options, "tokenize")
    text = "\n---\n".join(_texts("text", text))
    if not text:
        raise BadValue('text: it is empty; give something to cut, for example "To be, or not to be"')
    if chosen.model is not None:
        lm = _lm(chosen.model)
        made, told = [lm.tokenizer], f"{lm.info.get('corpus', 'the corpus')} (the tokenizer of {lm.name})"
    else:
        from llm_lab.request import default_corpus

        notes: list[str] = []
        learned = default_corpus(notes) if chosen.corpus is None else open_corpus(chosen.corpus)
        made = [
            train(learned, kind, chosen.vocab_size if "vocab_size" in TOKENIZERS.entry(kind).supports else None)
            for kind in chosen.kind or TOKENIZERS
        ]
        told = learned.name
    result = tokenization(text, made, told)
    result.code = f"lab.tokenize({text!r}{''.join(f', {k}={v!r}' for k, v in options.items())})"
    return result


def runs(
    name: str | None = None, *, status: Any = (), corpus: str | None = None, sort: str | None = None
) -> pd.DataFrame:
    """Every run, the newest first, one row a run: name, run, from, from_step, status, steps, planned_steps, corpus, tokens,
    parameters, loss, bits_per_byte, started, when, seconds, MB, folder. `name` may be a pattern: `lab.runs("bar*")`.
    """
    from llm_lab.managing import listed

    (chosen,) = distribute((LabOptions,), {"status": status, "corpus": corpus, "sort": sort}, "runs")
    return listed(name, chosen).to_pandas()


@_with_options("lab")
def lab(action: str = "", name: str | None = None, to: str | None = None, **options: Any) -> Any:
    """What is here, and how to begin; `runs` lists what was trained; `show NAME` is a run's card, `code NAME` the Python
    line that makes it; `rename NAME TO`, `delete NAME NAME` (the name twice), `accept NAME`, `pack NAME [FILE]`;
    `pause`, `resume` and `stop NAME` are for runs in the background; `pause` and `stop` with `all` for every one.
    """
    from llm_lab import managing

    known = VERBS["lab"].args[0].choices
    if not action:
        return overview.verbs()
    if action not in known:
        raise BadValue(f"action {show(action)} is unknown{suggestion(action, known)}; there is: {listing(known)}")
    (chosen,) = distribute((LabOptions,), options, "lab")
    idle = [key for key in options if key not in _LAB_OPTIONS.get(action, ())]
    if idle:
        raise BadType(f"lab {action} has no use for {listing(idle)}")
    if action == "runs":
        return managing.listed(name, chosen)
    if action in ("pause", "stop") and chosen.all:
        return managing.end(name, action, every=True)
    if not name:
        raise BadType(f"lab {action} needs a name, for example %lab {action} bard")
    if action == "rename":
        if not to:
            raise BadType(f"lab rename needs a new name too, for example %lab rename {name} poet")
        _check_name(to)
        return managing.rename(name, to, chosen.all)
    if action == "delete":
        return managing.delete(name, to, chosen.all)
    if action == "pack":
        return managing.pack(name, to)
    if to is not None:
        raise BadType(f"lab {action} takes one name; {show(to)} is one word too many")
    if action == "accept":
        return managing.accept(name)
    if action in ("pause", "stop"):
        return managing.end(name, action)
    if action == "resume":
        return managing.resume(name)
    from llm_lab.store.cards import load_card

    run, _ = store.find_traced(name.partition("@")[0])
    card = load_card(run)
    if card is not None and run.status in ("training", "died"):  # its file may say what was before
        from llm_lab.background import attach as watch

        card = watch(run).report
    return card if action == "show" and card is not None else overview.code(run, card.repeat if card else "")


_LAB_OPTIONS = {"runs": ("status", "corpus", "sort"), **dict.fromkeys(("rename", "delete", "pause", "stop"), ("all",))}


@_with_options("doctor")
def doctor(**options: Any) -> Listing | Sizing | Bench:
    """The machine as this process may use it, and what works here; with `sizes`, which model it is fast enough for; with
    `bench`, how fast everything is."""
    (chosen,) = distribute(VERBS["doctor"].options, options, "doctor")
    if chosen.sizes and chosen.bench:
        raise BadValue("bench and sizes: each is a table of its own; keep one, for example --sizes")
    if chosen.bench:
        return cast("Bench", load_entry("llm_lab.bench.measuring:run")())
    if chosen.sizes:
        from llm_lab.pretraining import sizes

        return sizes(chosen.corpus)
    if chosen.corpus is not None:
        raise BadValue("corpus: sizes are reckoned for a corpus; use for example --sizes --corpus python-docs")
    return overview.doctor()

"""The verbs: what each takes and which options it has. Magics, the shell and Python's keyword arguments derive from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llm_lab.corpora.options import CORPORA, CorpusOptions, SourceOptions, corpus_options
from llm_lab.decoding.options import STRATEGIES, EnsembleOptions, GenerateOptions, strategy_options
from llm_lab.errors import NotYet
from llm_lab.loggers.options import LogOptions
from llm_lab.metrics.options import ANSWERS, EvaluateOptions
from llm_lab.models.options import ModelOptions
from llm_lab.models.presets import PRESETS, PresetOptions
from llm_lab.objectives.options import ObjectiveOptions, objective_options
from llm_lab.options import Options, Spec, all_specs, option
from llm_lab.probes.options import PROBES, ProbeOptions, WatchOptions, probe_options
from llm_lab.registry import Table, load
from llm_lab.results.runs import COLUMNS, STATUSES
from llm_lab.tokenizers.options import TOKENIZERS, TokenizerOptions
from llm_lab.training.options import BudgetOptions, CheckpointOptions, SampleOptions, TrainOptions


@dataclass(frozen=True)
class RunOptions(Options):
    room: ClassVar[str] = "run"
    model: object = option(None, "your own nn.Module, class or instance, in place of a preset", example="@MyGPT")
    init_from: object = option(
        None,
        "begin with the weights of this model, run or checkpoint, in place of random ones",
        also=("from",),
        auto="random weights",
        example="bard@500",
    )
    fresh: bool = option(False, "train again although an identical run is finished")
    replay: str | None = option(None, "a run whose learning rates are used again step by step", example="3f2a9c")


@dataclass(frozen=True)
class SaveOptions(Options):
    room: ClassVar[str] = "saving"
    save_every: float = option(
        10.0,
        "seconds between two states that the run can go on from after a crash; rarer where saving would take over a hundredth of the time; 0: only when it is paused",
        unit="s",
        ge=0,
    )
    time_limit: float | None = option(
        None, "wall-clock time after which the run is paused", unit="s", gt=0, auto="none", example="3600"
    )
    background: bool = option(
        False, "train in a process of its own, which outlives this kernel; %attach NAME watches it from any other"
    )


@dataclass(frozen=True)
class AttachOptions(Options):
    room: ClassVar[str] = "attach"
    wait: bool = option(False, "watch from this cell until the run is over or paused; an interrupt detaches")


@dataclass(frozen=True)
class BuildOptions(Options):
    room: ClassVar[str] = "build"
    vocab_size: int = option(256, "tokens in the vocabulary", ge=1)
    batch_size: int = option(16, "sequences in one step, for the estimate of training memory", ge=1)
    seed: int = option(0, "of the weights", ge=0, lt=2**63)
    model: object = option(None, "your own nn.Module, class or instance, in place of a preset", example="@MyGPT")


@dataclass(frozen=True)
class CompareOptions(Options):
    room: ClassVar[str] = "comparison"
    strategies: tuple[str, ...] = option(
        (), "what to compare, each with its own options", auto="the usual ones", example="greedy,top_p:p=0.5,beam"
    )
    max_new_tokens: int = option(60, "tokens that each writes", ge=1)
    n: int = option(3, "texts of each, in one batch", ge=1)
    seed: int | None = option(None, "of the draws", ge=0, lt=2**63, auto="a random one, printed", example="0")


@dataclass(frozen=True)
class PromptOptions(GenerateOptions):
    room: ClassVar[str] = "prompt"
    on: object = option(
        None, "the rows: a DataFrame, or a CSV or JSON-lines file", auto="none: the template is shown", example="@df"
    )
    target: str | None = option(None, "column of what is right", auto="none", example="french")
    metrics: tuple[object, ...] = option(
        (),
        "what an answer is worth; functions of your own, (text, target) -> number, as @name",
        choices=lambda: ANSWERS,
        auto="exact_match where there is a target",
        example="exact_match,chrf",
    )
    shots: int | None = option(
        None,
        "examples before each prompt: the first so many rows of `examples`, or of `on`, which are then not asked",
        ge=0,
        auto="all of examples, where they are given",
        example="2",
    )
    examples: object = option(None, "rows to take the examples from", auto="the first of `on`", example="@shown")
    separator: str | None = option(
        None,
        "what stands between examples, and ends an answer where there are some; \\n is a line break",
        auto="an empty line",
    )
    target_delimiter: str | None = option(
        None, "what stands between a prompt and its target", auto="a space, or nothing where the template ends in one"
    )
    choices: tuple[str, ...] = option(
        (), "the answers there are: the likeliest after the prompt is taken", auto="the model writes", example="yes,no"
    )
    strategy: str = option("greedy", "how the next token is chosen", choices=lambda: STRATEGIES)
    max_new_tokens: int = option(40, "tokens to write", ge=1)
    n: int = option(1, "texts for each row", ge=1)


@dataclass(frozen=True)
class WeightOptions(Options):
    room: ClassVar[str] = "weights"
    weights: tuple[float, ...] | None = option(
        None, "how much each model counts", gt=0, auto="all the same", example="0.7,0.3"
    )


@dataclass(frozen=True)
class LiveOptions(Options):
    room: ClassVar[str] = "view"
    live: bool = option(
        False, "keep the kernel in the loop: choose a token, and the text is written on from another one in its place"
    )


@dataclass(frozen=True)
class ChatOptions(Options):
    room: ClassVar[str] = "chat"
    template: str | None = option(
        None,
        "how one exchange is written in what the model was trained on; \\n is a line break",
        auto="the model's own",
        example='"Q: {{user}}\\nA: {{assistant}}"',
    )
    system: str | None = option(None, "what stands before the conversation", auto="nothing", example='"Be brief."')


@dataclass(frozen=True)
class LabOptions(Options):
    room: ClassVar[str] = "runs"
    status: tuple[str, ...] = option((), "list the runs of this status", choices=lambda: STATUSES, example="paused")
    corpus: str | None = option(None, "list the runs on this corpus; * stands for any letters", example="shakespeare")
    sort: str | None = option(
        None, "the column to list by: numbers from the highest, losses from the lowest", choices=lambda: COLUMNS,
        auto="the newest first", example="loss",
    )  # fmt: skip
    all: bool = option(False, "rename or delete all runs of the name; pause or stop all runs that are training")


@dataclass(frozen=True)
class DoctorOptions(Options):
    room: ClassVar[str] = "doctor"
    sizes: bool = option(
        False, "time a few steps of models of several sizes, and plot which size pretrain takes for which time"
    )
    bench: bool = option(False, "measure the speed here, against transformers and the hardware's limits (some minutes)")
    corpus: object = option(None, "the text that the sizes are reckoned for", auto="shakespeare", example="python-docs")


@dataclass(frozen=True)
class TokenizeOptions(Options):
    room: ClassVar[str] = "tokenizer"
    kind: tuple[str, ...] = option(
        (), "the tokenizers to show; all of them where none is given", choices=lambda: TOKENIZERS, example="char,bpe"
    )
    corpus: object = option(
        None, "the text their vocabularies are learned from", auto="shakespeare", example="python-docs"
    )
    vocab_size: int | None = option(
        None, "size of the learned vocabularies", ge=64, auto="by the size of the corpus", example="4096"
    )
    model: object = option(None, "show this model's own tokenizer instead", example="bard")


@dataclass(frozen=True)
class Arg:
    """A value that needs no flag. `takes` says what kind it is:

    new (the NAME a maker creates), run (a run's name or id, which becomes a variable where it can be one's), model (an existing one), models (one, or several as a list: `a,b`), corpus (a name, path, URL,
    `@df`), text and texts (quoted), choice (a bare word of `choices`), word (any bare word).
    """

    name: str
    takes: str
    help: str
    required: bool = False
    choices: Table | tuple[str, ...] = ()
    also: str = ""  # another name that it goes by on a line


@dataclass(frozen=True)
class Verb:
    """One verb of the lab."""

    name: str
    help: str
    example: str
    args: tuple[Arg, ...] = ()
    declared: tuple[type[Options] | Callable[[Mapping[str, Any]], tuple[type[Options], ...]], ...] = ()
    body: str = ""  # what a cell's body is: "options" (TOML), the name of a text argument, or "" for none
    target: str = ""  # the function behind it; without one, `missing` says what cannot be done yet
    missing: str = ""
    examples: tuple[str, ...] = field(default=())
    draws: bool = (
        False  # with display=True its function shows its own result as it grows; others leave that to the caller
    )

    @property
    def options(self) -> tuple[type[Options], ...]:
        """The classes of its options, those that users have added included."""
        return self.options_for({})

    def options_for(self, given: Mapping[str, Any]) -> tuple[type[Options], ...]:
        """The classes that what was given is checked by: of two with a name in common, the one that is meant."""
        found = ((one,) if isinstance(one, type) else one(given) for one in self.declared)
        return tuple(cls for classes in found for cls in classes)

    @property
    def specs(self) -> dict[str, Spec]:
        return all_specs(self.options)

    def load(self):  # type: ignore[no-untyped-def]  # each verb has a signature of its own
        """The function; NotYet where this version has none."""
        if not self.target:
            raise NotYet(f"{self.name} is not there yet: {self.missing}")
        return load(self.target)


_NEW = Arg("name", "new", "what the model is called: it becomes a notebook variable", required=True)
_MODEL = Arg("model", "model", "a model of this notebook, or a finished run", required=True)
_MODELS = Arg("model", "models", "one model, or several: a,b", required=True)
_CORPUS = Arg(
    "corpus",
    "corpus",
    "shakespeare (where none is given), stories, python-docs, a file, a glob, a URL, @df, hf:user/name",
    choices=CORPORA,
)


def _soon(name: str, help: str, example: str, missing: str, args: tuple[Arg, ...] = (), body: str = "") -> Verb:
    return Verb(name, help, example, args, (), body, "", missing)


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "pretrain",
            "train a model from nothing on text",
            "%%pretrain bard shakespeare --seconds 60 --tokenizer char",
            (_NEW, _CORPUS),
            (
                BudgetOptions,
                PresetOptions,
                ObjectiveOptions,
                *objective_options(),
                RunOptions,
                TokenizerOptions,
                CorpusOptions,
                *corpus_options(),
                ModelOptions,
                TrainOptions,
                SaveOptions,
                CheckpointOptions,
                WatchOptions,
                LogOptions,
                SampleOptions,
            ),
            "options",
            "llm_lab.lab:pretrain",
            draws=True,
        ),
        Verb(
            "build",
            "show a model before it is trained: its parts and what they cost",
            "%build tiny modern --n_layer 6 --d_model 192",
            (_NEW, Arg("preset", "choice", "a named architecture", choices=PRESETS)),
            (BuildOptions, ModelOptions),
            "options",
            "llm_lab.lab:build",
        ),
        Verb(
            "generate",
            "let a model write",
            '%generate bard "ROMEO:" --strategy top_p --p 0.9',
            (
                Arg("model", "models", "a model, or several that write as one: a,b", required=True),
                Arg("prompt", "text", "the text to continue, in quotes"),
            ),
            (GenerateOptions, EnsembleOptions, strategy_options, LiveOptions),
            "prompt",
            "llm_lab.lab:generate",
            examples=('%generate bard,poet "ROMEO:" --ensemble logits --ensemble_weights 0.7,0.3',),
            draws=True,
        ),
        Verb(
            "playground",
            "a prompt box and sliders; the model writes as they move",
            '%playground bard "ROMEO:"',
            (_MODEL, Arg("prompt", "text", "the text to continue, in quotes")),
            (GenerateOptions, strategy_options),
            "prompt",
            "llm_lab.lab:playground",
        ),
        Verb(
            "chat",
            "talk with a model that has a template",
            '%chat bard "Good morrow!" --template "ROMEO:\\n{{user}}\\n\\nJULIET:\\n{{assistant}}"',
            (_MODEL, Arg("message", "text", "what to say first, in quotes")),
            (ChatOptions, GenerateOptions, strategy_options),
            "message",
            "llm_lab.lab:chat",
        ),
        Verb(
            "compare",
            "strategies, prompts and models side by side",
            '%compare bard "ROMEO:" --strategies greedy,top_p:p=0.5,beam',
            (
                _MODELS,
                Arg(
                    "prompt",
                    "texts",
                    "the texts to continue, in quotes; without, several models are compared by their runs",
                ),
            ),
            (CompareOptions, strategy_options),
            "prompt",
            "llm_lab.lab:compare",
            draws=True,
        ),
        Verb(
            "prompt",
            "a template run over the rows of a table, several compared, the answers measured",
            '%prompt ask "Translate: {{english}}" --on @df --model bard --target french',
            (
                Arg("name", "new", "what it is called: it becomes a notebook variable", required=True),
                Arg("model", "models", "one model, or several: a,b; without one the prompt is shown", also="with"),
                Arg("template", "texts", "the text, with {{column}} where a value goes", required=True),
            ),
            (PromptOptions, strategy_options),
            "template",
            "llm_lab.lab:prompt",
            draws=True,
        ),
        Verb(
            "soup",
            "one model whose weights are the mean of several models' weights",
            "%soup mixed first,second",
            (_NEW, Arg("model", "models", "models of the same make: a,b", required=True)),
            (WeightOptions,),
            "options",
            "llm_lab.lab:soup",
            examples=("%soup mixed first,second --weights 0.7,0.3",),
        ),
        Verb(
            "probe",
            "look inside a model",
            '%probe bard "To be, or not to be"',
            (
                _MODELS,
                Arg("kind", "choice", "what to look at", choices=PROBES),
                Arg("text", "texts", "what it reads, in quotes; several where the kind compares them"),
            ),
            (ProbeOptions, probe_options),
            "text",
            "llm_lab.lab:probe",
            draws=True,
        ),
        Verb(
            "evaluate",
            "measure a model on held-out text",
            "%evaluate bard --metrics perplexity,bits_per_byte",
            (
                _MODELS,
                Arg(
                    "data",
                    "corpus",
                    "a corpus to measure on: a file, @texts, …; its own held-out split where none is given",
                    choices=CORPORA,
                ),
            ),
            (EvaluateOptions, SourceOptions, *corpus_options()),
            "options",
            "llm_lab.lab:evaluate",
        ),
        Verb(
            "tokenize",
            "show how text is cut into tokens",
            '%tokenize "To be, or not to be" --kind char,bpe',
            (Arg("text", "text", "the text to cut, in quotes", required=True),),
            (TokenizeOptions,),
            "text",
            "llm_lab.lab:tokenize",
        ),
        Verb(
            "corpus",
            "what a text is made of",
            "%corpus shakespeare",
            (
                Arg(
                    "source",
                    "corpus",
                    "shakespeare, stories, python-docs, a file, a glob, a URL, @df, hf:user/name",
                    choices=CORPORA,
                ),
            ),
            (SourceOptions, *corpus_options()),
            "source",
            "llm_lab.lab:corpus",
        ),
        Verb(
            "lab",
            "what is here, and how to begin",
            "%lab runs",
            (
                Arg(
                    "action",
                    "choice",
                    "what to do",
                    choices=("runs", "show", "code", "pause", "resume", "stop", "accept", "rename", "delete", "pack"),
                ),
                Arg("name", "word", "a run, by its name or id; of runs also a pattern: bar*"),
                Arg("to", "word", "its new name; the name again, to delete it; the zip to pack it in"),
            ),
            (LabOptions,),
            "",
            "llm_lab.lab:lab",
            examples=(
                '%lab runs "bar*" --status paused --sort loss',
                "%lab rename bard poet",
                "%lab delete bard bard",
                "%lab pack bard bard.zip",
            ),
        ),
        Verb(
            "doctor",
            "the machine and what works on it",
            "%doctor",
            (),
            (DoctorOptions,),
            "",
            "llm_lab.lab:doctor",
            examples=("%doctor --sizes", "%doctor --bench"),
        ),
        _soon(
            "finetune",
            "train a model further on a task",
            "%%finetune critic bard @df --task classify",
            "pretrain is",
            (_NEW, Arg("base", "model", "the model to start from"), Arg("data", "corpus", "examples")),
            "options",
        ),
        _soon(
            "compress",
            "a smaller or faster model",
            "%compress small bard quantize",
            "the weights can be read with lab.load(name).model",
            (_NEW, Arg("base", "model", "the model to compress"), Arg("method", "word", "how")),
            "options",
        ),
        _soon(
            "export",
            "a model for other programs",
            "%export bard bard.onnx",
            "a run's folder holds safetensors and JSON (%lab show NAME)",
            (_MODEL, Arg("path", "word", "the file to write")),
            "options",
        ),
        Verb(
            "attach",
            "watch a run that is trained in the background, and steer it",
            "%attach bard",
            (Arg("name", "run", "a run, by its name or its id; the name becomes a notebook variable", required=True),),
            (AttachOptions,),
            "",
            "llm_lab.lab:attach",
            draws=True,
        ),
    )
}

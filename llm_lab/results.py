"""What the verbs return: compact data on the CPU, apart from how it is drawn.

A result holds no torch graph and pins no model. `actions` are callables that the façade fills in ("exact": the value
under the pointer, …), so that a view can ask Python for more without knowing who answers. The renderer is named by an
entry string and imported when a result is first shown.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadType, BadValue, LabError, show
from llm_lab.registry import load
from llm_lab.templates import Template, row_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Result:
    """Base of all results; compared by identity."""

    renderer: ClassVar[str]  # "module:function" that turns this result into a mimebundle
    code: str = ""  # the Python line that makes it
    actions: dict[str, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return load(self.renderer)(self)

    def __str__(self) -> str:
        return load(self.renderer)(self)["text/plain"]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def save_html(self, path: str | Path) -> Path:
        """Write the view as one HTML page that needs nothing else; returns its path."""
        path = Path(path)
        if not path.parent.is_dir():
            raise BadValue(f"path: the folder {str(path.parent)!r} does not exist; make it first or choose another")
        body = self._repr_mimebundle_()["text/html"]
        path.write_text(
            '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(type(self).__name__)}</title>"
            "<style>:root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:1rem}</style></head>"
            f"<body>{body}</body></html>",
            encoding="utf-8",
        )
        return path

    def to_pandas(self) -> pd.DataFrame:
        """The result as a table, where it is one."""
        raise LabError(f"{type(self).__name__} is not tabular; its fields are: {', '.join(vars(self))}")


@dataclass(frozen=True)
class Piece:
    """One token as a person may read it. A token that is a part of a character shows its bytes, as in `<0xE4>`."""

    text: str
    id: int
    special: bool = False
    unknown: bool = False


@dataclass(eq=False, kw_only=True)
class CorpusReport(Result):
    """What a text is made of. Sizes in documents, characters and UTF-8 bytes."""

    renderer: ClassVar[str] = "llm_lab.views.tables:corpus"
    name: str
    source: str
    n_documents: int
    n_chars: int
    n_bytes: int
    n_words: int
    n_distinct_chars: int
    n_distinct_words: int
    top_words: list[tuple[str, int]]
    n_duplicates: int  # documents (or paragraphs, where there is one document) that repeat an earlier one
    duplicate_unit: str  # "documents" or "paragraphs"
    train_chars: int
    val_chars: int
    fingerprint: str
    sample: str
    entropy: float | None = None  # of the source itself, in nats per UTF-8 byte, where it is known
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        skip = {"code", "actions", "top_words", "sample", "notes"}
        rows = {key: value for key, value in vars(self).items() if key not in skip}
        return pd.DataFrame({"value": rows})


@dataclass(frozen=True)
class TokenizationRow:
    """One tokenizer's reading of a text."""

    kind: str
    pieces: list[Piece]
    n_tokens: int
    chars_per_token: float
    n_unknown: int
    vocab_size: int
    round_trip: str  # "exact", or what is lost


@dataclass(eq=False, kw_only=True)
class Tokenization(Result):
    """One text cut by one or several tokenizers."""

    renderer: ClassVar[str] = "llm_lab.views.tokens:tokenization"
    text: str
    trained_on: str  # what the tokenizers' vocabularies come from
    rows: list[TokenizationRow]

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        columns = ["kind", "n_tokens", "chars_per_token", "n_unknown", "vocab_size", "round_trip"]
        return pd.DataFrame([{c: getattr(row, c) for c in columns} for row in self.rows])


@dataclass(frozen=True)
class ModelPart:
    """One part of a model and what it costs."""

    name: str  # "attention", "mlp", …
    detail: str  # "4 heads of 32, rotary, QK norm"
    count: int  # how many times it stands in the model
    parameters: int  # in all of them together
    flops: int  # forward, per token, at the full context; a multiply-add is 2
    memory: int  # bytes while training: weights, gradients, optimiser state, kept activations
    kind: str = ""  # what it does (embedding, position, norm, attention, cross, mlp, experts, …); "" where nobody knows
    stack: str = ""  # "encoder" or "decoder", where there are two
    block: bool = False  # it stands in the block that repeats `count` times


@dataclass(eq=False, kw_only=True)
class ModelReport(Result):
    """A model before it is trained: its parts, from the input to the output, and what they cost."""

    renderer: ClassVar[str] = "llm_lab.views.model:report"
    name: str
    title: str  # "modern · decoder" or the class's name
    config: dict[str, Any]
    parts: list[ModelPart]  # in the order data flows, one stack after the other
    parameters: int
    flops: int  # forward FLOPs per token
    memory: int  # training memory in bytes, at batch_size
    batch_size: int
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([vars(part) for part in self.parts])


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote while it learned."""

    step: int
    seconds: float
    prompt: str
    text: str


@dataclass(eq=False, kw_only=True)
class TrainingReport(Result):
    """A training run as its card shows it, while it goes on and after it."""

    renderer: ClassVar[str] = "llm_lab.views.training:report"
    name: str
    status: str  # training | finished | stopped | failed | restored
    facts: list[
        str
    ]  # "modern", "0.80 M parameters", "shakespeare, char", "cpu 2 threads, fp32", "run 3f2a9c", "seed 0"
    unit: str  # of the losses: "nats/char", "nats/token", "nats/masked token"
    train: list[tuple[int, float, float]] = field(default_factory=list)  # (step, seconds, loss)
    val: list[tuple[int, float, float]] = field(default_factory=list)
    parts: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)  # by name, where there are several
    val_parts: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    val_on: str = ""  # "first 20,480 characters of the validation split"
    by_time: bool = False  # the budget is seconds, so the chart runs over time; else over steps
    budget_steps: int | None = None  # an estimate where by_time
    budget_seconds: float | None = None
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    epochs: float = 0.0
    tokens_per_second: float = 0.0
    lr: float = 0.0
    schedule: str = ""
    memory: int = 0  # bytes in use by this process (or on the device)
    memory_total: int = 0
    final: dict[str, float] = field(default_factory=dict)  # whole validation split: val_loss, perplexity, bits_per_byte
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # one line each, newest last
    repeat: str = ""  # the line that repeats this run exactly

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.DataFrame(self.train, columns=["step", "seconds", "train_loss"])
        curves = {"val_loss": self.val} | {f"train_{name}": curve for name, curve in self.parts.items()}
        for name, curve in (curves | {f"val_{name}": curve for name, curve in self.val_parts.items()}).items():
            one = pd.DataFrame(curve, columns=["step", "seconds", name])[["step", name]]
            frame = frame.merge(one, on="step", how="outer")
        return frame


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenStatistics:
    """What a model thought at each of t tokens, at temperature 1."""

    entropy: np.ndarray  # (t,) of the distribution, in nats
    rank: np.ndarray  # (t,) of the token that was written, 1 for the likeliest
    top: np.ndarray  # (t, 10) ids of the likeliest tokens
    top_logprob: np.ndarray  # (t, 10) in nats
    names: dict[int, str] = field(default_factory=dict)  # what the tokens of `top` write


@dataclass(frozen=True)
class BeamNode:
    """One continuation that a beam search took up."""

    parent: int  # which of the step before it continues; −1 for the prompt
    piece: Piece
    total: float  # log-probability of all tokens up to here, after the filters, in nats
    finished: bool  # the text ended here
    kept: bool  # it leads to a text that ended, or still ran when the search did; all else was pruned


@dataclass(frozen=True, eq=False, kw_only=True)
class BeamTree:
    """How beams searched: at each step the continuations that were taken up, the likeliest first."""

    n_beams: int
    n_steps: int  # of the search; `steps` may hold only the first of a very large one
    steps: list[list[BeamNode]]
    best: list[int]  # the way to the text that was returned first: a place in each step


@dataclass(frozen=True)
class Fork:
    """Where a text left another one."""

    sample: int  # the text that it shares the tokens before with
    at: int  # the token in whose place it has another one
    seed: int  # of what it wrote from there on


@dataclass(eq=False, kw_only=True)
class Generation(Result):
    """Texts that a model wrote, token by token.

    `logprob` is the model's own log-probability at temperature 1, in nats; `chosen_prob` the probability after the
    strategy's filtering.
    """

    renderer: ClassVar[str] = "llm_lab.views.tokens:generation"
    name: str
    prompt: str
    prompt_pieces: list[Piece]
    pieces: list[list[Piece]]  # one list a sample, without the prompt
    logprob: list[list[float]]
    chosen_prob: list[list[float]]
    texts: list[str]  # prompt and continuation
    strategy: str
    options: dict[str, Any]  # of the strategy: {"p": 0.95, "temperature": 1.0}
    seed: int
    tokens_per_second: float
    scores: list[float] = field(default_factory=list)  # of a search, by which the texts are ranked
    end_logprob: list[float | None] = field(default_factory=list)  # of the token that ended a text, if one did
    beams: BeamTree | None = None  # how a beam search came to it
    continues: bool = True  # False where places in the prompt were filled in: then `pieces` are the whole text
    from_source: bool = False  # the prompt is a source that was read: the texts stand without it
    forks: dict[int, Fork] = field(default_factory=dict)  # of the texts that were regrown from others
    live: bool = (
        False  # shows itself as a widget in which a token can be chosen and the text regrown, until it is frozen
    )
    done: bool = True  # False while it streams
    interrupted: bool = False  # it was ended before its end
    notes: list[str] = field(default_factory=list)
    stopping: bool = field(default=False, init=False, repr=False)
    _known: list[TokenStatistics] = field(default_factory=list, init=False, repr=False)

    def request_stop(self) -> None:
        """While it streams: end it after the token that is being written."""
        self.stopping = not self.done

    @property
    def statistics(self) -> list[TokenStatistics]:
        """Entropy, rank and the ten likeliest tokens at each token of every sample that is written, worked out when first
        asked for; empty where the model is gone, or filled places in."""
        work: Any = self.actions.get("statistics")
        if work is not None and self.done and len(self._known) < len(self.pieces):
            self._known += work(self.tokens[len(self._known) :])
        return self._known

    def regrow(self, at: int, token: int | str, sample: int = 0, seed: int | None = None) -> Generation:
        """Write `sample` once more from its token number `at`, with `token` (a text or an id) in that one's place.

        The text is added as one more sample, and `forks` says where it left: `gen.regrow(12, " moon").texts[-1]`. Raises
        BadValue where there is no such place, the token cannot stand there, or the model is gone.
        """
        work: Any = self.actions.get("regrow")
        if work is None:
            raise BadValue(
                "regrow: the texts of a vote cannot be regrown, nor places that were filled in; "
                "one that lab.generate wrote from left to right, not by --ensemble vote, would do"
            )
        for _ in work(sample, at, token, seed):
            pass
        return self

    def widget(self) -> Any:
        """The text with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.playground:regrow_widget")(self)

    def _ipython_display_(self) -> None:
        if not self.live:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()

    @property
    def text(self) -> str:
        """The first sample's text, prompt included."""
        return self.texts[0]

    @property
    def continuations(self) -> list[str]:
        """The texts without the prompt that they go on from; whole where it was a source, or places in it were filled in."""
        begins = self.continues and not self.from_source
        return [text[len(self.prompt) :] if begins else text for text in self.texts]

    @property
    def tokens(self) -> list[list[int]]:
        """The ids written, one list a sample, without the prompt."""
        return [[piece.id for piece in sample] for sample in self.pieces]

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                {"sample": i, "position": t, "token": p.text, "id": p.id, "logprob": lp, "chosen_prob": cp}
                for i, (pieces, lps, cps) in enumerate(zip(self.pieces, self.logprob, self.chosen_prob, strict=True))
                for t, (p, lp, cp) in enumerate(zip(pieces, lps, cps, strict=True))
            ]
        )


@dataclass(eq=False, kw_only=True)
class Generations(Result):
    """What a model wrote after each of several prompts: `gens[0]` is the Generation of the first, `for gen in gens` goes
    through all."""

    renderer: ClassVar[str] = "llm_lab.views.generations:generations"
    name: str
    prompts: list[str]
    written: dict[int, Generation] = field(default_factory=dict)  # by the prompt's number; an interrupt leaves some out
    done: bool = True  # False while it streams
    interrupted: bool = False  # it was ended before its end
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.written)

    def __iter__(self) -> Iterator[Generation]:
        """In the order of the prompts."""
        return iter([self.written[i] for i in sorted(self.written)])

    def __getitem__(self, prompt: int) -> Generation:
        number = prompt + len(self.prompts) if isinstance(prompt, int) and prompt < 0 else prompt
        if number not in self.written:
            raise BadValue(f"prompt: {prompt!r} was not written after; there is: {_ranges(self.written)}")
        return self.written[number]

    @property
    def seed(self) -> int | None:
        """Of the first prompt's draws, and one more for each that follows; None where nothing was written."""
        return next(((one.seed - i) % 2**63 for i, one in self.written.items()), None)

    @property
    def texts(self) -> list[list[str]]:
        """The texts after each prompt, prompt included."""
        return [one.texts for one in self]

    def to_pandas(self) -> pd.DataFrame:
        """A row a text; `text` is without the prompt, `logprob` the mean of its tokens in nats."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"prompt": one.prompt, "sample": i, "text": text, "n_tokens": len(own), "logprob": mean(own)}
                for one in self
                for i, (text, own) in enumerate(zip(one.continuations, one.logprob, strict=True))
            ],
            columns=["prompt", "sample", "text", "n_tokens", "logprob"],
        )


def mean(values: Iterable[float]) -> float:
    """The mean of the finite values; nan where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as they are listed: 0 to 4, 7."""
    found: list[list[int]] = []
    for i in sorted(numbers):
        if found and found[-1][1] == i - 1:
            found[-1][1] = i
        else:
            found.append([i, i])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found) or "none"


@dataclass(frozen=True, kw_only=True)
class Control:
    """One option as a person may move it: a slider with its ends, a list of names, a switch, a box for text or a number."""

    name: str
    kind: str  # slider | number | choice | switch | text
    help: str
    unit: str = ""
    value: Any = None  # what it stands at
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    whole: bool = False
    choices: list[str] = field(default_factory=list)
    optional: bool = False  # off unless it is wanted
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class StrategyControls:
    """A strategy in a list to choose from, with what can be moved of it."""

    name: str
    help: str
    draws: bool
    own: list[Control]
    without: list[str]  # filters that say what one of its own options says, or that have no meaning for it


@dataclass(eq=False, kw_only=True)
class Playground(Result):
    """A prompt and every control of decoding, moved while the model writes. Shows itself as a widget until it is frozen.

    `.generation` is what was written last, or None. `actions`: `write(prompt, options)` gives it as it grows.
    """

    renderer: ClassVar[str] = "llm_lab.views.playground:playground"
    name: str
    facts: list[str] = field(default_factory=list)
    prompt: str = ""
    strategy: str = ""
    strategies: list[StrategyControls] = field(default_factory=list)
    filters: list[Control] = field(default_factory=list)
    general: list[Control] = field(default_factory=list)
    generation: Generation | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, prompt: str | None = None, **options: Any) -> Generation:
        """Write once with these options, as a movement of the controls does."""
        for found in self.actions["write"](self.prompt if prompt is None else prompt, options):
            self.generation = found
        assert self.generation is not None, "at least one state is given"
        return self.generation

    def widget(self) -> Any:
        """The controls with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.playground:playground_widget")(self)

    def _ipython_display_(self) -> None:
        if not in_notebook():
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()


@dataclass(frozen=True, eq=False)
class Message:
    """What one side of a conversation said."""

    role: str  # user | assistant | system
    text: str
    generation: Generation | None = None  # how a model wrote it


@dataclass(eq=False, kw_only=True)
class Chat(Result):
    """A conversation with a model. Shows itself as a widget until it is frozen.

    `actions`: `say(text, options)` gives the chat as the answer grows, `undo()` takes the last exchange away.
    """

    renderer: ClassVar[str] = "llm_lab.views.chat:chat"
    name: str
    template: str
    facts: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    done: bool = True  # False while an answer is written
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The last answer."""
        return next((one.text for one in reversed(self.messages) if one.role == "assistant"), "")

    def say(self, text: str, **options: Any) -> Chat:
        """Say something, and let the model answer; options of generate are for this answer alone."""
        for _ in self.actions["say"](text, options):
            pass
        return self

    def undo(self) -> Chat:
        """Take the last exchange away."""
        self.actions["undo"]()
        return self

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([{"role": one.role, "text": one.text} for one in self.messages], columns=["role", "text"])

    def widget(self) -> Any:
        """The conversation with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.chat:chat_widget")(self)

    def _ipython_display_(self) -> None:
        if not in_notebook() or "say" not in self.actions:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """What one strategy made of one model and one prompt, and how it measures."""

    model: str
    strategy: str  # with what was set of it: "top_p:p=0.5"
    prompt: int  # its number
    options: dict[str, Any]  # all that was set of the strategy
    texts: list[str]  # what was written, without the prompt
    logprob: float  # the model's own, mean of the tokens, in nats
    entropy: float  # of the model's distributions, mean, in nats
    distinct_1: float  # different tokens over all, 0 to 1
    distinct_2: float  # … and pairs of tokens
    repetition: float  # share of the 4-grams that a text had before
    self_bleu: float  # of each text against the others, 0 to 100; nan for one text
    n_tokens: int
    tokens_per_second: float
    seed: int
    notes: list[str]
    beams: BeamTree | None = None  # of a beam search


@dataclass(eq=False, kw_only=True)
class Comparison(Result):
    """Strategies × prompts × models, what each wrote and how it measures."""

    renderer: ClassVar[str] = "llm_lab.views.comparison:comparison"
    models: list[str]
    prompts: list[str]
    strategies: list[str]
    cells: list[Compared]  # models, then strategies, then prompts; fewer where it was interrupted
    done: bool = False
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, strategy: str) -> list[Compared]:
        """The cells of a strategy."""
        if strategy not in self.strategies:
            raise BadValue(f"strategy: {strategy!r} is not compared here; there is: {', '.join(self.strategies)}")
        return [cell for cell in self.cells if cell.strategy == strategy]

    def to_pandas(self) -> pd.DataFrame:
        """A row a text; the numbers are those of its cell."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "model": cell.model, "strategy": cell.strategy, "prompt": self.prompts[cell.prompt], "sample": i,
                    "text": text, "logprob": cell.logprob, "entropy": cell.entropy, "distinct_1": cell.distinct_1,
                    "distinct_2": cell.distinct_2, "repetition": cell.repetition, "self_bleu": cell.self_bleu,
                    "tokens_per_second": cell.tokens_per_second,
                }
                for cell in self.cells
                for i, text in enumerate(cell.texts)
            ]
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFacts:
    """What a model is and how it was trained; None where nobody knows."""

    name: str
    run: str  # its id; "" for a model without one, which then has no numbers of its training
    preset: str | None  # or the class of a user's own model
    parameters: int
    corpus: str | None
    objective: str | None
    unit: str  # of the losses: "nats/char"
    steps: int | None
    tokens: int | None
    seconds: float | None
    train_loss: float | None  # of the last step
    val_loss: float | None  # over the whole held-out split
    bits_per_byte: float | None
    val: list[tuple[int, float, float]]  # (step, seconds, loss) on the slice that was read while it trained
    options: dict[str, Any]  # all sizes and settings of training

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens and self.seconds else None


@dataclass(eq=False, kw_only=True)
class RunComparison(Result):
    """Models side by side by how they were trained."""

    renderer: ClassVar[str] = "llm_lab.views.runs:comparison"
    models: list[RunFacts]
    differ: dict[str, list[Any]]  # the options that are not the same in all, one value a model, None where it has none
    notes: list[str] = field(default_factory=list)

    def to_pandas(self) -> pd.DataFrame:
        """A row a model, with the options that differ."""
        import pandas as pd

        rows = []
        for i, one in enumerate(self.models):
            facts = {key: value for key, value in vars(one).items() if key not in ("val", "options")}
            own = {name: values[i] for name, values in self.differ.items()}
            rows.append({**own, **facts, "tokens_per_second": one.tokens_per_second})
        return pd.DataFrame(rows)


@dataclass(eq=False, kw_only=True)
class Prompt(Result):
    """A template, or several to be compared: `ask.fill(row)` is the text, `ask(df, model=lm)` asks a model for every row."""

    renderer: ClassVar[str] = "llm_lab.views.prompt:prompt"
    name: str
    templates: list[Template]
    options: dict[str, Any]  # what it is run with unless told otherwise; a second model is known to `actions` alone
    preview: list[str] = field(
        default_factory=list
    )  # what the first rows make of the first template, examples included
    notes: list[str] = field(default_factory=list)

    @property
    def fields(self) -> list[str]:
        """The names in the slots of all templates."""
        return list(dict.fromkeys(name for template in self.templates for name in template.fields))

    def fill(self, row: Any, template: int = 1) -> str:
        """A template (its number, from 1) with the values of a dict or of a row of a DataFrame. Raises BadValue where one is
        missing."""
        if not isinstance(template, int) or not 1 <= template <= len(self.templates):
            raise BadValue(f"template: {template!r} is not there; it takes 1 to {len(self.templates)}")
        return self.templates[template - 1].fill(row_of(row), "row")

    def __call__(self, on: Any = None, *others: Any, **options: Any) -> Any:
        """As `lab.prompt` with these templates and options: `ask(df, model=lm, target="french")` gives PromptResults."""
        if others:
            raise BadType("on: it takes the rows alone, and all else by its name, for example ask(df, model=lm)")
        for own in ("template", "name"):
            if own in options:
                raise BadType(f"{own}: {show(options[own])} cannot be given again; lab.prompt makes another prompt")
        return self.actions["run"]({**self.options, **({} if on is None else {"on": on}), **options})

    run = __call__


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What a model wrote for one row."""

    template: int  # its number, from 1
    model: int
    row: int
    sample: int
    prompt: str
    text: str  # without the prompt, what ended it, and white space around it
    logprob: float  # the model's own, mean of the tokens, in nats
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PromptScore:
    """A metric of one template and one model: the mean of the rows ± half of its 95 % confidence interval."""

    template: int  # its number, from 1
    model: int
    metric: str
    value: float
    interval: float | None
    n: int  # rows that have a number
    difference: float | None  # to the first template and model, mean over the rows that both have
    difference_interval: float | None


@dataclass(eq=False, kw_only=True)
class PromptResults(Result):
    """What models wrote for every row of a table, by every template, and what that is worth."""

    renderer: ClassVar[str] = "llm_lab.views.prompt:results"
    prompt: Prompt
    models: list[str]  # no two are the same
    frame: pd.DataFrame  # the rows that were asked
    labels: list[str]  # of the rows, as their index writes them
    values: list[dict[str, str]]  # of the fields, by row
    targets: list[str]  # by row; empty where there are none
    metrics: dict[str, str]  # name -> unit
    shares: frozenset[str] = frozenset()  # those of them that are 0 or 1 for each answer
    facts: list[str]  # "2 examples", "greedy", "at most 40 tokens"
    seed: int | None = None  # of the first row's draws, and one more for each that follows; None where nothing is drawn
    answers: list[Answer] = field(default_factory=list)  # models, then templates, then rows as they were done
    done: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """How many rows are asked in all, once for each template and model."""
        return len(self.labels) * len(self.prompt.templates) * len(self.models)

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """(model, template) of every kind of answer."""
        return [(m, t) for m in range(len(self.models)) for t in range(1, len(self.prompt.templates) + 1)]

    @property
    def scores(self) -> list[PromptScore]:
        """Every metric for each model and template that has a number."""
        found = []
        for metric in self.metrics:
            first = self._by_row(metric, *self.kinds[0])
            for model, template in self.kinds:
                rows = self._by_row(metric, model, template)
                if not rows:
                    continue
                value, interval = mean_interval(list(rows.values()), share=metric in self.shares)
                apart: tuple[float | None, float | None] = None, None
                both = [rows[i] - first[i] for i in rows if i in first]
                if both and (model, template) != self.kinds[0]:
                    apart = mean_interval(both)
                found.append(
                    PromptScore(
                        template=template,
                        model=model,
                        metric=metric,
                        value=value,
                        interval=interval,
                        n=len(rows),
                        difference=apart[0],
                        difference_interval=apart[1],
                    )
                )
        return found

    def _by_row(self, metric: str, model: int, template: int) -> dict[int, float]:
        """A metric's value of each row that has one, the mean of its samples."""
        own: dict[int, list[float]] = {}
        for answer in self.answers:
            if (answer.model, answer.template) == (model, template):
                value = answer.scores.get(metric, math.nan)
                if not math.isnan(value):
                    own.setdefault(answer.row, []).append(value)
        return {row: sum(values) / len(values) for row, values in own.items()}

    @property
    def summary(self) -> pd.DataFrame:
        """A row for each metric, model and template: value ± interval (half of the 95 % confidence interval of the mean over
        the n rows that have a number), and the difference to the first, taken row by row."""
        import pandas as pd

        rows = [vars(score) | {"model": self.models[score.model]} for score in self.scores]
        return pd.DataFrame(rows, columns=list(PromptScore.__dataclass_fields__))

    def to_pandas(self) -> pd.DataFrame:
        """The rows with their index, once for each answer: `template` (its number), `model`, `prompt`, `text`, `logprob` (per
        token, in nats), and a column for each metric. A column of theirs that has such a name gets `on_` before it."""
        import pandas as pd

        several = any(answer.sample for answer in self.answers)
        ours = pd.DataFrame(
            [
                {"template": answer.template, "model": self.models[answer.model]}
                | ({"sample": answer.sample} if several else {})
                | {"prompt": answer.prompt, "text": answer.text, "logprob": answer.logprob}
                | answer.scores
                for answer in self.answers
            ],
            columns=[name for name in (*ANSWER_COLUMNS, *self.metrics) if several or name != "sample"],
        )
        theirs = self.frame.iloc[[answer.row for answer in self.answers]]
        ours.index = theirs.index
        return pd.concat([theirs.rename(columns=self.renamed), ours], axis=1)

    @property
    def renamed(self) -> dict[Any, str]:
        """The columns of the rows whose names are ours, and what they are called in the table."""
        names = {str(name) for name in self.frame.columns}
        found = {}
        for column in self.frame.columns:
            name = str(column)
            if name in (*ANSWER_COLUMNS, *self.metrics):
                while name in names or name in (*ANSWER_COLUMNS, *self.metrics):
                    name = f"on_{name}"
                found[column] = name
        return found


ANSWER_COLUMNS = ("template", "model", "sample", "prompt", "text", "logprob")
_Z95 = 1.959963984540054


def mean_interval(values: Sequence[float], share: bool = False) -> tuple[float, float | None]:
    """The mean and half of its 95 % confidence interval, values being independent; None where it cannot be told.

    Values that are all the same tell nothing of how they vary. Of a share, each value being 0 or 1, all 0 or all 1 leave
    3/n (the rule of three; Hanley and Lippman-Hand 1983).
    """
    n = len(values)
    found = sum(values) / n
    if n < 2 or not all(map(math.isfinite, values)):
        return found, None
    if len(set(values)) == 1:
        return found, min(1.0, 3 / n) if share and values[0] in (0, 1) else None
    return found, _Z95 * math.sqrt(sum((value - found) ** 2 for value in values) / (n - 1) / n)


@dataclass(eq=False, kw_only=True)
class AttentionMaps(Result):
    """Which position reads from which, for every head: kept as q and k, from which a row is recomputed exactly.

    `thumbnails` are the patterns as bytes (0–255 for 0–1), reduced to at most 64 × 64 by taking maxima.
    """

    renderer: ClassVar[str] = "llm_lab.views.attention:maps"
    name: str
    pieces: list[Piece]  # T tokens
    q: np.ndarray  # (L, H, T, d) float32, after norm and rotation
    k: np.ndarray  # (L, H_kv, T, d) float32
    scale: float  # scores = q·k * scale
    causal: bool = True
    added: np.ndarray | None = None  # (1 or H, T, T) what positions and patterns add to the scores, −inf where unread
    thumbnails: np.ndarray  # (L, H, t, t) uint8, t = min(T, 64)
    live: bool = False  # shows itself as a widget that asks the kernel for exact values, until it is frozen

    def widget(self) -> Any:
        """The maps with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.attention_widget:attention_widget")(self)

    def _ipython_display_(self) -> None:
        if not self.live:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(L, H, T, T): layers, heads, queries, keys."""
        layers, heads, tokens, _ = self.q.shape
        return layers, heads, tokens, tokens

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """One head's attention, (T, T) float32: query down, key across; each row sums to 1."""
        import numpy as np

        layers, heads, tokens, _ = self.shape
        for name, value, count in (("layer", layer, layers), ("head", head, heads)):
            if not isinstance(value, int | np.integer) or not 0 <= value < count:
                raise BadValue(f"{name}: {value!r} is not there; this model has {name}s 0 to {count - 1}")
        group = heads // self.k.shape[1]
        scores = self.q[layer, head] @ self.k[layer, head // group].T * self.scale
        if self.added is not None:
            scores = scores + self.added[head % len(self.added)]
        if self.causal:
            scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def numpy(self) -> np.ndarray:
        """All heads, (L, H, T, T) float32."""
        import numpy as np

        layers, heads, *_ = self.shape
        return np.stack([[self.pattern(i, j) for j in range(heads)] for i in range(layers)])

    @property
    def tensor(self) -> Any:
        """All heads as a torch tensor, (L, H, T, T) float32."""
        import torch

        return torch.from_numpy(self.numpy())


@dataclass(frozen=True)
class Score:
    """One metric of one model: `value ± interval` (half of the 95 % confidence interval)."""

    model: str
    metric: str
    value: float
    interval: float | None
    unit: str
    better: str  # "lower" or "higher"
    n: int  # how many observations (blocks of the context) the interval rests on


@dataclass(eq=False, kw_only=True)
class Evaluation(Result):
    """Metrics of one or several models on the same data."""

    renderer: ClassVar[str] = "llm_lab.views.tables:evaluation"
    models: list[str]
    data: str  # "shakespeare, held-out 111,540 characters"
    comparable: bool = True  # whether all models were measured on the same text
    scores: list[Score]
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, metric: str) -> float:
        """The value of a metric (of the first model)."""
        for score in self.scores:
            if score.metric == metric:
                return score.value
        raise BadValue(f"metric {metric!r} was not computed; there is: {', '.join(s.metric for s in self.scores)}")

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([vars(score) for score in self.scores])


@dataclass(eq=False, kw_only=True)
class Listing(Result):
    """A plain table with a heading: runs, the machine, what is here. Cells are text or numbers."""

    renderer: ClassVar[str] = "llm_lab.views.tables:listing"
    title: str
    facts: list[str] = field(default_factory=list)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default_factory=list)
    caption: str = ""

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(self.columns))


@dataclass(eq=False, kw_only=True)
class Neighbours(Result):
    """Which tokens' vectors are nearest to each of the vectors asked for, by the cosine; the nearest first."""

    renderer: ClassVar[str] = "llm_lab.views.vectors:neighbours"
    name: str
    kind: str  # neighbours | analogies
    asked: list[str]  # a row each: "king", or "king − man + woman"
    pieces: list[list[Piece]]
    similarity: list[list[float]]  # −1 to 1
    n_tokens: int  # in the vocabulary
    width: int  # numbers in a vector
    notes: list[str] = field(default_factory=list)

    def numpy(self) -> np.ndarray:
        """The similarities, a row for each that was asked; NaN where a row has fewer tokens than the longest."""
        import numpy as np

        made = np.full((len(self.asked), max(map(len, self.similarity), default=0)), np.nan)
        for row, values in zip(made, self.similarity, strict=True):
            row[: len(values)] = values
        return made

    @property
    def tensor(self) -> Any:
        """The same as a torch tensor."""
        import torch

        return torch.from_numpy(self.numpy())

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                {"asked": asked, "rank": rank, "token": piece.text, "id": piece.id, "similarity": value}
                for asked, pieces, values in zip(self.asked, self.pieces, self.similarity, strict=True)
                for rank, (piece, value) in enumerate(zip(pieces, values, strict=True), 1)
            ]
        )


@dataclass(eq=False, kw_only=True)
class ExpertRouting(Result):
    """Which experts of each layer took each token of one text, and how likely the router found every one."""

    renderer: ClassVar[str] = "llm_lab.views.experts:routing"
    name: str
    pieces: list[Piece]  # T tokens
    probs: np.ndarray  # (L, T, E) float16, the router's probabilities; each row sums to 1
    chosen: np.ndarray  # (L, T, k) int16, the experts that took the token, the likeliest first
    n_active: int  # k

    @property
    def load(self) -> np.ndarray:
        """The share of a layer's choices that each expert got, (L, E) float64; an even one is 1 / E."""
        import numpy as np

        counts = [np.bincount(layer.ravel(), minlength=self.probs.shape[2]) for layer in self.chosen]
        return np.array(counts).reshape(len(counts), -1) / max(self.chosen[0].size, 1)

    def numpy(self) -> np.ndarray:
        """The probabilities, (L, T, E) float32."""
        return self.probs.astype("float32")

    @property
    def tensor(self) -> Any:
        """The same as a torch tensor."""
        import torch

        return torch.from_numpy(self.numpy())

    def to_pandas(self) -> pd.DataFrame:
        """A row for each layer, token and expert that took it; `weight` is what its output counted."""
        import pandas as pd

        rows = []
        for i, (probs, chosen) in enumerate(zip(self.numpy(), self.chosen, strict=True)):
            for t, (piece, experts) in enumerate(zip(self.pieces, chosen, strict=True)):
                taken = probs[t, experts]
                for rank, (expert, prob) in enumerate(zip(experts, taken, strict=True), 1):
                    where = {"layer": i, "position": t, "token": piece.text, "id": piece.id, "rank": rank}
                    rows.append(where | {"expert": int(expert), "prob": prob, "weight": prob / taken.sum()})
        return pd.DataFrame(rows)


def in_notebook() -> bool:
    """Whether results can be shown as a notebook's output here (asked without importing IPython)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")

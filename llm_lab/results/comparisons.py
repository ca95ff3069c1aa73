"""Strategies, and runs, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.results.base import Result
from llm_lab.results.decoding import BeamTree

if TYPE_CHECKING:
    import pandas as pd


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
    status: str = ""  # of its run
    preset: str | None  # or the class of a user's own model
    parameters: int | None
    corpus: str | None
    objective: str | None
    unit: str  # of the losses: "nats/char"; "" where it is not known
    steps: int | None
    tokens: int | None
    seconds: float | None
    train_loss: float | None  # of the last step
    val_loss: float | None  # over the whole held-out split
    bits_per_byte: float | None
    train: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # (step, seconds, loss), of a long run some steps
    val: list[tuple[int, float, float]]  # the same on the slice that was read while it trained
    options: dict[str, Any]  # all sizes and settings of training
    watched: dict[str, float] = field(default_factory=dict)  # what was watched while it trained, at last

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
            facts = {
                key: value for key, value in vars(one).items() if key not in ("train", "val", "options", "watched")
            }
            own = {name: values[i] for name, values in self.differ.items()}
            rows.append({**own, **facts, **one.watched, "tokens_per_second": one.tokens_per_second})
        return pd.DataFrame(rows)

"""Prompts as experiments: templates, answers, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadType, BadValue, show
from llm_lab.results.base import Result
from llm_lab.templates import Template, row_of

if TYPE_CHECKING:
    import pandas as pd


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


def ratio_interval(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float | None]:
    """A sum over a count, as of nats over tokens, and half of its 95 % confidence interval where its parts are
    independent (ratio estimator; Cochran 1977, §2.11); None where there is but one."""
    n, total = len(sums), sum(counts)
    found = sum(sums) / total if total else math.nan
    if n < 2 or not math.isfinite(found):
        return found, None
    apart = sum((s - found * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return found, _Z95 * math.sqrt(apart / (n - 1) / n) / (total / n)


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

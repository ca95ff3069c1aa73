"""Templates filled from the rows of a table, with examples before them; what is missing is said with its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.templates import Template, value_of
from llm_lab.verbs import PromptOptions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that are asked, and how each template fills them."""

    frame: pd.DataFrame
    labels: list[str]
    values: list[dict[str, Any]]
    targets: list[str]
    prompts: list[list[str]]  # by template, then by row; examples included
    delimiters: list[str]  # by template: what stands between a prompt and its target
    shots: int


def filled(templates: Sequence[Template], own: PromptOptions, notes: list[str]) -> Rows:
    frame = _frame(own.on, "on")
    examples = None if own.examples is None else _frame(own.examples, "examples")
    for one in (frame, *([] if examples is None else [examples])):
        columns = [str(column) for column in one.columns]
        for template in templates:
            template.check(columns)
        if own.target is not None and own.target not in columns:
            raise BadValue(
                f"target: {show(own.target)} is no column{suggestion(own.target, columns)}; there is: {listing(columns)}"
            )
    shots = own.shots if own.shots is not None else 0 if examples is None else len(examples)
    if shots and own.target is None:
        raise BadValue("shots: an example needs what is right; name its column, for example --target french")
    source = frame if examples is None else examples
    if shots > len(source):
        raise BadValue(f"shots: {shots} examples are wanted, and there are {len(source)} rows; use fewer")
    shown = _records(source.iloc[:shots])
    if examples is None and shots:
        if len(frame) == shots:
            raise BadValue(f"on: its {shots} rows are all examples, and none is left to be asked; give more rows")
        frame = frame.iloc[shots:]
        which = "row is the example, and is" if shots == 1 else f"{shots} rows are the examples, and are"
        notes.append(f"the first {which} not asked")
    if own.target is not None and (leaks := [t for t in templates if own.target in t.fields]):
        notes.append(f"{listing(show(t.text, 30) for t in leaks)} shows the target ({own.target}) in the prompt itself")
    values = _records(frame)
    labels = [str(label) for label in frame.index]
    delimiters = [_delimiter(own, template) for template in templates]
    prompts = []
    for template, delimiter in zip(templates, delimiters, strict=True):
        before = [
            template.fill(row, f"example {i}") + delimiter + value_of(row, str(own.target), f"example {i}")
            for i, row in enumerate(shown, 1)
        ]
        separator = separator_of(own)
        prompts.append(
            [
                separator.join([*before, template.fill(row, f"row {label}")])
                for row, label in zip(values, labels, strict=True)
            ]
        )
    targets = [] if own.target is None else [
        value_of(row, own.target, f"row {label}").strip() for row, label in zip(values, labels, strict=True)
    ]  # fmt: skip
    return Rows(frame.copy(), labels, values, targets, prompts, delimiters, shots)


def _frame(value: Any, argument: str) -> pd.DataFrame:
    """Rows: a DataFrame, a list of dicts, or a file of them."""
    import pandas as pd

    if isinstance(value, str | Path):
        value = _file(Path(value), argument)
    elif isinstance(value, list | tuple) and value and all(isinstance(row, Mapping) for row in value):
        value = pd.DataFrame(list(value))
    if not isinstance(value, pd.DataFrame):
        raise BadType(
            f"{argument}: {show(value)} is {type(value).__name__}; a DataFrame, a list of dicts, or a CSV or JSON-lines file would do, for example --{argument} @df"
        )
    if not len(value):
        raise BadValue(f"{argument}: it has no rows; give one at least")
    names = [str(column) for column in value.columns]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadValue(f"{argument}: {twice!r} is the name of several columns; rename them first")
    return value


def _file(path: Path, argument: str) -> Any:
    import pandas as pd

    if not path.is_file():
        raise BadValue(f"{argument}: there is no file {str(path)!r}; a variable is written as --{argument} @df")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, keep_default_na=False, na_values=[""])
        if path.suffix in (".jsonl", ".ndjson"):
            return pd.read_json(path, lines=True)
    except (ValueError, OSError) as error:
        raise BadValue(f"{argument}: {str(path)!r} cannot be read ({error}); save it again as UTF-8") from None
    raise BadValue(f"{argument}: {str(path)!r} is neither .csv nor .jsonl; read it with pandas, and give the DataFrame")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(column) for column in frame.columns]
    return [dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None)]


def unescaped(own: PromptOptions) -> PromptOptions:
    """On a magic's line a break can only be written as \\n."""

    def plain(text: Any) -> Any:
        return text.replace("\\n", "\n").replace("\\t", "\t") if isinstance(text, str) else text

    return replace(own, **{name: plain(getattr(own, name)) for name in ("separator", "target_delimiter")})


def separator_of(own: PromptOptions) -> str:
    return "\n\n" if own.separator is None else own.separator


def _delimiter(own: PromptOptions, template: Template) -> str:
    if own.target_delimiter is not None:
        return own.target_delimiter
    last = template.parts[-1]
    return "" if isinstance(last, str) and last[-1:].isspace() else " "

"""Templates filled from the rows of a table, with examples before them; what is missing is said with its row."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.templates import Template, is_missing, value_of
from llm_lab.verbs import PromptOptions

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 3  # rows that a note names


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
    single = [(template, name) for template in templates for name in columns if f"{{{name}}}" in template.text]
    notes += [
        f"{show(template.text, 30)} has {{{name}}} in single braces, which is text; a slot is {{{{{name}}}}}"
        for template, name in single
        if name not in template.fields
    ]
    if own.target is not None and (leaks := [t for t in templates if own.target in t.fields]):
        notes.append(f"{listing(show(t.text, 30) for t in leaks)} shows the target ({own.target}) in the prompt itself")
    names = [f"row {label}" for label in frame.index]
    asked = [_pairs(template, own.target, _records(frame), names) for template in templates]
    names = [f"example {i}" for i in range(1, shots + 1)]
    examples_of = [_pairs(template, own.target, shown, names) for template in templates]
    told = _told(templates, asked, examples_of)
    if told:
        if len(told) == len(frame):
            raise BadValue("on: each of its rows is one of the examples too, and none is left to be asked; give others")
        same = named([str(frame.index[i]) for i in sorted(told)])
        notes.append(f"{same}: the same as an example, which has the answer, and not asked")
    left = [i for i in range(len(frame)) if i not in told]
    frame = frame.iloc[left]
    delimiters = [_delimiter(own, template) for template in templates]
    prompts = []
    for pairs, before, delimiter in zip(asked, examples_of, delimiters, strict=True):
        beginning = "".join(text + delimiter + target + separator_of(own) for text, target in before)
        prompts.append([beginning + pairs[i][0] for i in left])
    targets = [] if own.target is None else [asked[0][i][1].strip() for i in left]
    labels = [str(label) for label in frame.index]
    return Rows(frame.copy(), labels, _records(frame), targets, prompts, delimiters, shots)


def _pairs(
    template: Template, target: str | None, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[tuple[str, str]]:
    """(the filled template, what is right) of each row; "" where nobody says what is right."""
    return [
        (template.fill(row, name), "" if target is None else value_of(row, target, name))
        for row, name in zip(rows, names, strict=True)
    ]


def _told(
    templates: Sequence[Template],
    asked: Sequence[Sequence[tuple[str, str]]],
    examples: Sequence[Sequence[tuple[str, str]]],
) -> set[int]:
    """The rows that an example asks in the same words, and answers. A template without slots asks all in the same."""
    found: set[int] = set()
    for template, pairs, shown in zip(templates, asked, examples, strict=True):
        known = {(text, target.strip()) for text, target in shown} if template.fields else set()
        found |= {i for i, (text, target) in enumerate(pairs) if (text, target.strip()) in known}
    return found


def named(labels: Sequence[str]) -> str:
    """Rows as a note names them: the first few."""
    more = len(labels) - _NAMED
    return f"row{'s' * (len(labels) > 1)} {', '.join(labels[:_NAMED])}" + (f" and {more:,} more" if more > 0 else "")


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
    if path.suffix not in (".csv", ".jsonl", ".ndjson"):
        raise BadValue(
            f"{argument}: {str(path)!r} is neither .csv nor .jsonl; read it with pandas, and give the DataFrame"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadValue(f"{argument}: {str(path)!r} is not UTF-8 ({error}); save it again as UTF-8") from None
    except OSError as error:
        raise BadValue(f"{argument}: {str(path)!r} cannot be read ({error}); choose another file") from None
    if not text.strip():
        raise BadValue(f"{argument}: {str(path)!r} is empty; a line for each row would do")
    if path.suffix != ".csv":
        return pd.DataFrame(_json_rows(text, path, argument), dtype=object)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the first line would be cut
            return pd.read_csv(StringIO(text), dtype=str, keep_default_na=False, na_values=[""], index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise BadValue(
            f"{argument}: {str(path)!r} is no CSV ({error}); a line of names and a line for each row would do"
        ) from None


def _json_rows(text: str, path: Path, argument: str) -> list[dict[str, str | None]]:
    """An object a line, its values as the file writes them."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row, exact = json.loads(line), json.loads(line, parse_int=str, parse_float=str)
        except ValueError as error:
            raise BadValue(f"{argument}: line {number} of {str(path)!r} is no JSON ({error}); mend that line") from None
        if not isinstance(row, dict):
            raise BadValue(
                f'{argument}: line {number} of {str(path)!r} is no object; one such as {{"english": "cat"}} would do'
            )
        rows.append({name: _written(value, exact[name]) for name, value in row.items()})
    return rows


def _written(value: Any, exact: Any) -> str | None:
    """A JSON value as text, a number with all its digits; None where it is missing."""
    if is_missing(value):
        return None
    return exact if isinstance(exact, str) else json.dumps(value, ensure_ascii=False)


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

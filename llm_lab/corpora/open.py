"""Whatever names a text, as a corpus: a name of the table, a path, a glob, a URL, a list, a DataFrame, `hf:…`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.files import download, expand, read_text, reason
from llm_lab.corpora.large import LARGE, FileTexts
from llm_lab.corpora.options import CORPORA, corpus_options
from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.options import distribute, specs

_TAKES = "a name of the table, a file, a glob, a URL, text, a list of texts, a DataFrame, or hf:user/name"
_LONGEST_PATH = 1000  # characters; anything longer is text


def open_corpus(
    spec: Any, *, column: str | None = None, target: str | None = None, name: str | None = None, **options: Any
) -> Corpus:
    """The corpus that `spec` names.

    A str is, in this order: text, where it holds a line break, is over 1000 characters long or begins with `text:`;
    a name of the table; `hf:user/name` or `hf:user/name:split`; a URL; a glob (one document a file, sorted); a file.
    Files are UTF-8; a byte-order mark is dropped and line ends become `\\n`; where together they are large, they are read
    from the disk as they are used. `column` chooses the text of a DataFrame or data set; without it the only text column
    is taken, or the one called `text`. `target` chooses the column of what is to be said of each text. `name` renames
    the result. `options` are a corpus's own, such as the size of stories.
    """
    own = _own(spec, options)
    if isinstance(spec, Corpus):
        found = spec
    elif isinstance(spec, Path):
        found = _path(str(spec))
    elif isinstance(spec, str):
        found = _string(spec, column, target, own)
    elif (pandas := sys.modules.get("pandas")) and isinstance(spec, pandas.DataFrame | pandas.Series):
        found = _pandas(spec, column, target)
    elif isinstance(spec, list | tuple):
        found = _corpus("texts", f"a {type(spec).__name__} of {len(spec)} text{'s' * (len(spec) != 1)}", spec)
    elif isinstance(spec, bytes):
        raise BadType("corpus: bytes are not text yet; decode them first, for example data.decode('utf-8')")
    else:
        raise BadType(f"corpus: {type(spec).__name__} {show(spec)} is not a text; it takes {_TAKES}")
    tabular = type(spec).__module__.startswith("pandas") or (isinstance(spec, str) and spec.strip().startswith("hf:"))
    for option, value in (("column", column), ("target", target)):
        if value is not None and not tabular:
            raise BadValue(
                f"{option}: {show(value)} chooses a column of a DataFrame or of hf:user/name, and {found.name} has none"
            )
    return replace(found, name=name) if name and name != found.name else found


def _own(spec: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The corpus's own options; BadType for one that belongs to another."""
    given = {key: value for key, value in options.items() if value is not None}
    distribute(corpus_options(), given, "corpus")  # names and values first
    entry = CORPORA.get(spec.strip()) if isinstance(spec, str) else None
    own = specs(entry.options) if entry and entry.options else {}
    for key in given:
        if key not in own:
            others = [name for name, e in CORPORA.items() if e.options and key in specs(e.options)]
            what = show(spec) if isinstance(spec, str) else f"a {type(spec).__name__}"
            raise BadType(
                f"{key} is an option of {listing(others)}, and the corpus is {what}; give {others[0]} to use it"
            )
    return entry.options(**given).to_dict() if entry and entry.options else {}


def _string(spec: str, column: str | None, target: str | None, own: dict[str, Any]) -> Corpus:
    if spec.startswith("text:"):
        return _corpus("text", "the text given", [spec.removeprefix("text:")])
    if "\n" in spec or len(spec) > _LONGEST_PATH:
        return _corpus("text", "the text given", [spec])
    spec = spec.strip()
    if not spec:
        raise BadValue(f"corpus: an empty name; it takes {_TAKES}")
    if spec in CORPORA:
        return CORPORA.load(spec)(**own)  # type: ignore[no-any-return]
    if spec.startswith("hf:"):
        return _hub(spec, column, target)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", spec):
        return _url(spec, scheme[1].lower())
    return _path(spec)


def _corpus(name: str, source: str, documents: Iterable[str]) -> Corpus:
    """A corpus without the empty documents; the source says how many those were."""
    documents = list(documents)
    kept = [document for document in documents if not isinstance(document, str) or document.strip()]
    return Corpus(name, _without(source, len(documents) - len(kept)) if kept else source, kept)


def _without(source: str, empty: int) -> str:
    return f"{source} ({empty:,} empty left out)" if empty else source


def _read(files: Sequence[Path]) -> FileTexts | None:
    """The texts of files that together are too large to be held, or None."""
    size = sum(path.stat().st_size for path in files if path.is_file())
    return FileTexts.of(files) if size >= LARGE else None


def _path(spec: str) -> Corpus:
    path = Path(spec).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name too long for the disk, or with a NUL in it
        raise BadValue(
            f"corpus: {show(spec)} cannot be a file's name; text is given as a list, for example [text]"
        ) from None
    if there:
        return Corpus(path.stem, f"the file {spec}", _read([path]) or (read_text(path, spec),))
    if re.search(r"[*?\[]", spec):
        files = expand(str(path))
        source = f"{len(files):,} file{'s' * (len(files) != 1)} {spec}"
        if large := _read(files):
            return Corpus(spec, _without(source, len(files) - len(large)), large)
        return _corpus(spec, source, map(read_text, files))
    if re.fullmatch(r"[\w-]+", spec):
        raise BadValue(
            f"corpus {show(spec)} is unknown, and there is no such file{suggestion(spec, CORPORA)}; "
            f"there is: {listing(CORPORA)}; or give a path, a URL, a list of texts"
        )
    return Corpus(path.stem, f"the file {spec}", (read_text(path, spec),))


def _url(url: str, scheme: str) -> Corpus:
    if scheme not in ("http", "https"):
        raise BadValue(f"corpus: {show(url)} is of a kind that cannot be fetched ({scheme}); use https, or a file")
    path = download(url)
    name = Path(url.split("?")[0].split("#")[0]).stem or url
    texts = _read([path]) or (read_text(path, url),)
    return Corpus(name, f"{url} (kept in the cache; its content cannot be checked)", texts)


def _pandas(data: Any, column: str | None, target: str | None) -> Corpus:
    """A column of a DataFrame, with that of its targets where one is chosen; or a Series."""
    if data.ndim == 1:
        if target is not None:
            raise BadValue(f"target: {show(target)} chooses a column of a DataFrame, and this is a Series; give both")
        by_name = {str(data.name) if data.name is not None else "series": data}
        return _columns({name: _present(one) for name, one in by_name.items()}, "a Series")
    keys = {str(key): key for key in data.columns}
    text = [label for label, key in keys.items() if _is_text(data[key])]
    names = _choose_columns(list(keys), text, column, target)
    for name in names:
        if data[keys[name]].ndim != 1:
            times = data[keys[name]].shape[1]
            raise BadValue(f"column: {show(name)} stands there {times} times; rename the columns first")
    return _columns({name: _present(data[keys[name]]) for name in names}, f"{_named(names)} of a DataFrame")


def _present(series: Any) -> list[Any]:
    """A column's values, None where one is missing."""
    return [None if missing else value for value, missing in zip(series.tolist(), series.isna(), strict=True)]


def _named(columns: Sequence[str]) -> str:
    return f"column{'s' * (len(columns) > 1)} {' and '.join(map(repr, columns))}"


def _columns(columns: dict[str, list[Any]], source: str, name: str = "") -> Corpus:
    """A corpus of a column of texts, and of one of targets where there are two. Rows that lack something are left out."""
    rows = list(zip(*columns.values(), strict=True))
    there = [row for row in rows if None not in row]
    for i, column in enumerate(columns):
        if wrong := [row[i] for row in there if not isinstance(row[i], str)]:
            raise BadValue(
                f"column: {show(column)} holds {type(wrong[0]).__name__} {show(wrong[0])}, not text; "
                "choose another, or use .astype(str)"
            )
    if missing := len(rows) - len(there):
        source += f", {missing:,} missing left out"
    first = next(iter(columns))
    if len(columns) == 1:
        return _corpus(name or first, source, [row[0] for row in there])
    kept = [row for row in there if row[0].strip()]
    source = _without(source, len(there) - len(kept))
    table = {column: [row[i] for row in kept] for i, column in enumerate(columns)}
    return Corpus(name or first, source, table[first], targets=[row[1] for row in kept], table=table)


def _is_text(series: Any) -> bool:
    """Whether the first value that is there is text."""
    if series.ndim != 1:
        return False
    there = series.dropna()
    return len(there) > 0 and isinstance(there.iloc[0], str)


def _choose_columns(columns: Sequence[str], text: Sequence[str], column: str | None, target: str | None) -> list[str]:
    """The column of the texts, and that of the targets where one is asked for."""
    for option, name in (("column", column), ("target", target)):
        if name is not None and name not in columns:
            raise BadValue(
                f"{option}: {show(name)} is not there{suggestion(name, columns)}; there is: {listing(columns)}"
            )
    found = column if column is not None else _only([name for name in text if name != target], columns)
    if found == target:
        raise BadValue(f"target: {show(target)} is the column of the texts too; choose another of {listing(columns)}")
    return [found] if target is None else [found, target]


def _only(text: Sequence[str], columns: Sequence[str]) -> str:
    """The only column that holds text, or the one called `text`."""
    if len(text) == 1 or "text" in text:
        return "text" if "text" in text else text[0]
    if not text:
        raise BadValue(f"column: no column holds text; there is: {listing(columns)}")
    raise BadValue(
        f"column: {len(text)} columns hold text, choose one, for example --column {text[0]}; there is: {listing(text)}"
    )


def _hub(spec: str, column: str | None, target: str | None) -> Corpus:
    """A data set of the Hugging Face hub."""
    dataset, _, split = spec.removeprefix("hf:").partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset):
        raise BadValue(f"corpus: {show(spec)} is no data set's name; it reads hf:user/name or hf:user/name:split")
    try:
        import datasets
    except ImportError:
        raise BadValue(
            f"corpus: {spec} needs the package datasets; install it with: pip install 'llm-lab[hf]'"
        ) from None
    split = split or "train"
    try:
        rows = datasets.load_dataset(dataset, split=split)
    except Exception as error:  # the hub, the network and the data set raise each their own
        raise BadValue(
            f"corpus: {spec} cannot be had ({reason(error)}); check its name, its split {split!r} and the network"
        ) from error
    text = [
        key for key, feature in rows.features.items() if getattr(feature, "dtype", "") in ("string", "large_string")
    ]
    names = _choose_columns(list(rows.features), text, column, target)
    for name in names:
        if name not in text:
            raise BadValue(f"column: {show(name)} of {spec} is not text; text is: {listing(text) or 'none'}")
    source = f"{dataset} ({split}, {_named(names)}) of the Hugging Face hub"
    return _columns({name: list(rows[name]) for name in names}, source, dataset)

"""Whatever names a text, as a corpus: a name of the table, a path, a glob, a URL, a list, a DataFrame, `hf:…`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.files import download, expand, read_text, reason
from llm_lab.corpora.options import CORPORA
from llm_lab.errors import BadType, BadValue, listing, show, suggestion

_TAKES = "a name of the table, a file, a glob, a URL, text, a list of texts, a DataFrame, or hf:user/name"
_LONGEST_PATH = 1000  # characters; anything longer is text


def open_corpus(spec: Any, *, column: str | None = None, name: str | None = None) -> Corpus:
    """The corpus that `spec` names.

    A str is, in this order: text, where it holds a line break, is over 1000 characters long or begins with `text:`;
    a name of the table; `hf:user/name` or `hf:user/name:split`; a URL; a glob (one document a file, sorted); a file.
    Files are UTF-8; a byte-order mark is dropped and line ends become `\\n`. `column` chooses the text of a DataFrame
    or data set; without it the only text column is taken, or the one called `text`. `name` renames the result.
    """
    if isinstance(spec, Corpus):
        found = spec
    elif isinstance(spec, Path):
        found = _path(str(spec))
    elif isinstance(spec, str):
        found = _string(spec, column)
    elif (pandas := sys.modules.get("pandas")) and isinstance(spec, pandas.DataFrame | pandas.Series):
        found = _pandas(spec, column)
    elif isinstance(spec, list | tuple):
        found = _corpus("texts", f"a {type(spec).__name__} of {len(spec)} text{'s' * (len(spec) != 1)}", spec)
    elif isinstance(spec, bytes):
        raise BadType("corpus: bytes are not text yet; decode them first, for example data.decode('utf-8')")
    else:
        raise BadType(f"corpus: {type(spec).__name__} {show(spec)} is not a text; it takes {_TAKES}")
    tabular = type(spec).__module__.startswith("pandas") or (isinstance(spec, str) and spec.strip().startswith("hf:"))
    if column is not None and not tabular:
        raise BadValue(
            f"column: {show(column)} chooses a column of a DataFrame or of hf:user/name, and {found.name} has none"
        )
    return Corpus(name, found.source, found.documents) if name and name != found.name else found


def _string(spec: str, column: str | None) -> Corpus:
    if spec.startswith("text:"):
        return _corpus("text", "the text given", [spec.removeprefix("text:")])
    if "\n" in spec or len(spec) > _LONGEST_PATH:
        return _corpus("text", "the text given", [spec])
    spec = spec.strip()
    if not spec:
        raise BadValue(f"corpus: an empty name; it takes {_TAKES}")
    if spec in CORPORA:
        return CORPORA.load(spec)()  # type: ignore[no-any-return]
    if spec.startswith("hf:"):
        return _hub(spec, column)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", spec):
        return _url(spec, scheme[1].lower())
    return _path(spec)


def _corpus(name: str, source: str, documents: Iterable[str]) -> Corpus:
    """A corpus without the empty documents; the source says how many those were."""
    documents = list(documents)
    kept = [document for document in documents if not isinstance(document, str) or document.strip()]
    if kept and (empty := len(documents) - len(kept)):
        source += f" ({empty:,} empty left out)"
    return Corpus(name, source, kept)


def _path(spec: str) -> Corpus:
    path = Path(spec).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):  # a name too long for the disk, or with a NUL in it
        raise BadValue(
            f"corpus: {show(spec)} cannot be a file's name; text is given as a list, for example [text]"
        ) from None
    if there:
        return Corpus(path.stem, f"the file {spec}", (read_text(path, spec),))
    if re.search(r"[*?\[]", spec):
        files = expand(str(path))
        return _corpus(spec, f"{len(files):,} file{'s' * (len(files) != 1)} {spec}", map(read_text, files))
    if re.fullmatch(r"[\w-]+", spec):
        raise BadValue(
            f"corpus {show(spec)} is unknown, and there is no such file{suggestion(spec, CORPORA)}; "
            f"there is: {listing(CORPORA)}; or give a path, a URL, a list of texts"
        )
    return Corpus(path.stem, f"the file {spec}", (read_text(path, spec),))


def _url(url: str, scheme: str) -> Corpus:
    if scheme not in ("http", "https"):
        raise BadValue(f"corpus: {show(url)} is of a kind that cannot be fetched ({scheme}); use https, or a file")
    text = read_text(download(url), url)
    name = Path(url.split("?")[0].split("#")[0]).stem or url
    return Corpus(name, f"{url} (kept in the cache; its content cannot be checked)", (text,))


def _pandas(data: Any, column: str | None) -> Corpus:
    """A column of a DataFrame, or a Series; what is missing is left out."""
    if data.ndim == 1:
        series, name = data, str(data.name) if data.name is not None else "series"
    else:
        by_name = {str(key): key for key in data.columns}
        text = [label for label, key in by_name.items() if _is_text(data[key])]
        name = _choose_column(list(by_name), text, column)
        series = data[by_name[name]]
    if series.ndim != 1:
        raise BadValue(f"column: {show(name)} stands there {series.shape[1]} times; rename the columns first")
    kept = series.dropna().tolist()
    if wrong := next((value for value in kept if not isinstance(value, str)), None):
        raise BadValue(
            f"column: {show(name)} holds {type(wrong).__name__} {show(wrong)}, not text; "
            "choose another, or use .astype(str)"
        )
    missing = len(series) - len(kept)
    rows = f"column {name!r} of a DataFrame" if data.ndim > 1 else "a Series"
    return _corpus(name, rows + (f", {missing:,} missing left out" if missing else ""), kept)


def _is_text(series: Any) -> bool:
    """Whether the first value that is there is text."""
    if series.ndim != 1:
        return False
    there = series.dropna()
    return len(there) > 0 and isinstance(there.iloc[0], str)


def _choose_column(columns: Sequence[str], text: Sequence[str], column: str | None) -> str:
    if column is not None:
        if column not in columns:
            raise BadValue(
                f"column: {show(column)} is not there{suggestion(column, columns)}; there is: {listing(columns)}"
            )
        return column
    if len(text) == 1 or "text" in text:
        return "text" if "text" in text else text[0]
    if not text:
        raise BadValue(f"column: no column holds text; there is: {listing(columns)}")
    raise BadValue(
        f"column: {len(text)} columns hold text, choose one, for example --column {text[0]}; there is: {listing(text)}"
    )


def _hub(spec: str, column: str | None) -> Corpus:
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
    chosen = _choose_column(list(rows.features), text, column)
    if chosen not in text:
        raise BadValue(f"column: {show(chosen)} of {spec} is not text; text is: {listing(text) or 'none'}")
    kept = [value for value in rows[chosen] if value is not None]
    missing = len(rows) - len(kept)
    return _corpus(
        dataset,
        f"{dataset} ({split}, column {chosen!r}) of the Hugging Face hub"
        + (f", {missing:,} missing left out" if missing else ""),
        kept,
    )

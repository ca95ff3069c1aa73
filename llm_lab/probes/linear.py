"""What a linear classifier reads from the activations at every site, cross-validated, beside a control task.

Passages, not tokens, are held out, since neighbours know of each other; intervals are over passages too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from llm_lab.corpora.open import open_corpus
from llm_lab.errors import BadType, BadValue, listing, show, suggestion
from llm_lab.probes.activations import batches, flat, gather, vector_sites
from llm_lab.probes.options import TOKEN_LABELS, LinearProbeOptions
from llm_lab.probes.reading import Reading
from llm_lab.results import LinearProbe, SiteScore
from llm_lab.tokenizers.tokenizer import Tokenizer

EXAMPLES = 3000  # that are classified
PASSAGES = 20  # at least that tokens come from, where the text is long enough
NAMED = 8  # tokens told apart by previous_token
PARTS = 4  # of the context that `position` tells apart
EASY = 300  # types of tokens that a classifier learns by heart
_Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Examples:
    """What is classified: labels, what the control's labels go by, and who is held out together."""

    label: Int[np.ndarray, " M"]
    control: Int[np.ndarray, " M"]
    group: Int[np.ndarray, " M"]
    classes: list[str]
    read: Callable[[Sequence[str]], dict[str, np.ndarray]]
    facts: list[str]
    how: str  # the control's labels are made
    notes: list[str]


def linear_probe(reading: Reading, options: LinearProbeOptions) -> Iterator[LinearProbe]:
    """A classifier a site: multinomial logistic regression on standardised activations, k-fold by passage, stratified."""
    lm = reading.lm
    sites = vector_sites(lm, options.site, "blocks.*.resid_post")
    if options.site is None:
        sites = [*vector_sites(lm, None, "embed"), *sites]
    rng = np.random.default_rng(options.seed)
    examples = _texts(reading, options, rng) if options.on is not None else _tokens(reading, options, rng)
    counts = np.bincount(examples.label, minlength=len(examples.classes))
    groups = len(np.unique(examples.group))
    if groups < options.folds:
        raise BadValue(
            f"folds: {options.folds} parts, and there are {groups} passages to hold out; use --folds {max(groups, 2)}, or more text"
        )
    result = LinearProbe(
        name=lm.name,
        label=options.label or TOKEN_LABELS[0],
        facts=[*examples.facts, f"{options.folds} folds by passage, of {groups:,}", f"l2 {options.l2:g}"],
        classes=examples.classes,
        counts=counts.tolist(),
        directions={},
        intercepts={},
        control=examples.how,
        notes=examples.notes,
        done=False,
    )
    activations = examples.read(sites)
    for site in sites:
        x = activations[site]
        score, directions, intercepts = measured(site, x, examples, options)
        result.scores.append(score)
        result.directions = {**result.directions, site: directions}
        result.intercepts = {**result.intercepts, site: intercepts}
        result.done = site == sites[-1]
        yield result


# --- examples ---------------------------------------------------------------------------------------------------------


def _tokens(reading: Reading, options: LinearProbeOptions, rng: np.random.Generator) -> Examples:
    """Tokens of a corpus with labels that follow from the text itself."""
    lm, name = reading.lm, options.label or TOKEN_LABELS[0]
    if name not in TOKEN_LABELS:
        raise BadValue(
            f"label: {show(name)} is no label of tokens; there is: {listing(TOKEN_LABELS)}; a column needs its rows, for example --on @df"
        )
    if options.column is not None:
        raise BadValue("column: it chooses the text of `on`, which was not given; add --on @df")
    count = sum(block.shape[1] for block in reading.blocks(options.corpus, options.max_tokens))
    length = min(lm.max_seq_len, max(count // PASSAGES, 8))
    blocks = list(batches(reading.blocks(options.corpus, options.max_tokens, length=length)))
    ids, starts = flat(blocks)
    labels, classes = token_labels(name, ids, starts, length, lm.tokenizer)
    labels, classes = common(labels, classes, options.folds, name)
    rows = np.flatnonzero(labels >= 0)
    rows = np.sort(rng.choice(rows, min(EXAMPLES, len(rows)), replace=False))
    # A label for each type of token, drawn as often as the true ones are.
    drawn = rng.choice(labels[rows], lm.tokenizer.vocab_size)

    def read(sites: Sequence[str]) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {site: [] for site in sites}
        at = 0
        for part in gather(lm, blocks, sites):
            size = len(part[sites[0]])
            here = torch.from_numpy(rows[(rows >= at) & (rows < at + size)] - at).to(lm.device)
            for site in sites:
                found[site].append(part[site][here].cpu().numpy())
            at += size
        return {site: np.concatenate(parts) for site, parts in found.items()}

    return Examples(
        labels[rows],
        drawn[ids[rows]],
        np.searchsorted(starts, rows, side="right") - 1,
        classes,
        read,
        [f"{len(rows):,} tokens of {len(ids):,} read"],
        "each type of token has a label of its own, drawn at random",
        []
        if (types := len(np.unique(ids[rows]))) > EASY
        else [
            f"There are but {types:,} types of tokens here, so the control is easy: compare the sites with each other."
        ],
    )


def _texts(reading: Reading, options: LinearProbeOptions, rng: np.random.Generator) -> Examples:
    """Whole texts of a table, with the labels of a column."""
    lm = reading.lm
    if options.corpus is not None:
        raise BadValue("corpus: rows were given with `on`, and one of them is read; leave one out")
    if options.label is None:
        raise BadValue("label: a column of `on` says what is told apart; name it, for example --label sentiment")
    corpus = open_corpus(_table(options.on, options.label), column=options.column, target=options.label)
    assert corpus.targets is not None, "the label was found"
    named = sorted(set(corpus.targets))
    if len(named) > max(50, len(corpus.targets) // 4):
        raise BadValue(
            f"label: the column {options.label!r} has {len(named):,} different values in {len(corpus.targets):,} rows; one that repeats a few would do"
        )
    texts = list(corpus.documents)
    encoded = [ids[: lm.max_seq_len] for ids in lm.tokenizer.encode_batch(texts)]
    cut = sum(len(ids) == lm.max_seq_len for ids in encoded)
    labels = np.array([named.index(target) for target in corpus.targets])
    labels[[not ids for ids in encoded]] = -1
    labels, classes = common(labels, named, options.folds, options.label)
    rows = np.flatnonzero(labels >= 0)
    rows = np.sort(rng.choice(rows, min(EXAMPLES, len(rows)), replace=False))
    groups = {text: i for i, text in enumerate(dict.fromkeys(texts))}

    def read(sites: Sequence[str]) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {site: [] for site in sites}
        ids = (torch.tensor([encoded[row]], device=lm.device) for row in rows)
        for part in gather(lm, ids, sites):
            for site, x in part.items():
                one = {"mean": x.mean(0), "last": x[-1], "first": x[0]}[options.pool]
                found[site].append(one.cpu().numpy())
        return {site: np.stack(parts) for site, parts in found.items()}

    notes = [f"{cut:,} texts that fill the context were read up to its end."] if cut else []
    return Examples(
        labels[rows],
        rng.permutation(labels[rows]),
        np.array([groups[texts[row]] for row in rows]),
        classes,
        read,
        [
            f"{len(rows):,} texts",
            f"{options.pool} of their tokens" if options.pool == "mean" else f"{options.pool} token",
        ],
        "the labels are dealt to the texts at random",
        notes,
    )


def _table(on: Any, label: str) -> Any:
    """The rows as a DataFrame whose labels are texts; BadValue where it has no such column."""
    import pandas as pd

    if isinstance(on, list) and on and all(isinstance(row, Mapping) for row in on):
        on = pd.DataFrame(on)
    if not isinstance(on, pd.DataFrame):
        raise BadType(
            f"on: {show(on)} is {type(on).__name__}; a DataFrame with a column of texts and one of labels would do"
        )
    if label not in on:
        raise BadValue(
            f"label: there is no column {label!r}{suggestion(label, map(str, on))}; there is: {listing(map(str, on))}"
        )
    return on.assign(**{label: on[label].map(str, na_action="ignore")})


def common(
    labels: Int[np.ndarray, " N"], classes: Sequence[str], least: int, name: str
) -> tuple[Int[np.ndarray, " N"], list[str]]:
    """Without the classes that have too few examples for every part to have one; −1 has none. BadValue where one class is left."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    kept = np.flatnonzero(counts >= 2 * least)
    if len(kept) < 2:
        raise BadValue(
            f"label: {name} has {len(kept)} class{'es' * (len(kept) != 1)} with at least {2 * least} examples here, and two are told apart; use more text, or another label"
        )
    new = np.full(len(classes) + 1, -1)
    new[kept] = np.arange(len(kept))
    return new[labels], [classes[int(i)] for i in kept]


def token_labels(
    name: str, ids: Int[np.ndarray, " N"], starts: Int[np.ndarray, " P"], length: int, tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, " N"], list[str]]:
    """A label for each token of passages that begin at `starts`, −1 where it has none, and the classes' names."""
    texts = [piece.text for piece in tokenizer.pieces(range(tokenizer.vocab_size))]
    block = np.searchsorted(starts, np.arange(len(ids)), side="right") - 1
    place = np.arange(len(ids)) - starts[block]
    yes_no = [f"not {name}", name]

    def shifted(values: np.ndarray, by: int) -> np.ndarray:
        """Of the token before (1) or behind (−1) in the same passage."""
        moved = np.roll(values, by)
        return np.where(np.roll(block, by) == block, moved, -1) if len(starts) > 1 else _ends(moved, by)

    if name in ("class", "previous_class", "next_class"):
        names = ["capital", "letter", "digit", "sign", "space", "line break"]
        found = np.array([names.index(_class(text)) for text in texts])[ids]
        return {"class": found, "previous_class": shifted(found, 1), "next_class": shifted(found, -1)}[name], names
    if name == "capital":
        return np.array([any(c.isupper() for c in text) for text in texts])[ids].astype(int), yes_no
    if name == "space":
        return np.array([text[:1] in (" ", "▁", "\n", "\t") for text in texts])[ids].astype(int), yes_no
    if name == "inside_word":
        inside = tokenizer.inside_word(ids).astype(int)
        inside[starts] = -1  # what stands before is not in the passage
        return inside, yes_no
    if name == "previous_token":
        before = shifted(ids.astype(np.int64), 1)
        often = np.argsort(-np.bincount(before[before >= 0], minlength=len(texts)), kind="stable")[:NAMED]
        table = np.full(len(texts) + 1, -1)
        table[often] = np.arange(len(often))
        return table[before], [texts[i] for i in often]
    if name == "position":
        size = -(-length // PARTS)
        return place // size, [f"{i * size} to {min((i + 1) * size, length) - 1}" for i in range(PARTS)]
    edges = [0, 4, 8, 16]
    ends = np.flatnonzero(tokenizer.ends_sentence(ids))
    last = np.searchsorted(ends, np.arange(len(ids))) - 1  # the end before each token
    since = np.arange(len(ids)) - np.where(last >= 0, ends[np.maximum(last, 0)], 0) - 1
    known = (last >= 0) & (since < place)
    return np.where(known, np.searchsorted(edges, since, side="right") - 1, -1), [
        "0 to 3",
        "4 to 7",
        "8 to 15",
        "16 and more",
    ]


def _ends(moved: np.ndarray, by: int) -> np.ndarray:
    moved = moved.copy()
    moved[0 if by > 0 else -1] = -1
    return moved


def _class(text: str) -> str:
    """What a token is, by its first character that is no space."""
    bare = text.removeprefix("##").strip(" ▁\t\r\n")
    if not bare:
        return "line break" if "\n" in text else "space"
    first = bare[0]
    return "capital" if first.isupper() else "letter" if first.isalpha() else "digit" if first.isdigit() else "sign"


# --- classifiers ------------------------------------------------------------------------------------------------------


def measured(
    site: str, x: Float[np.ndarray, "M D"], examples: Examples, options: LinearProbeOptions
) -> tuple[SiteScore, Float[np.ndarray, "C D"], Float[np.ndarray, " C"]]:
    """The score of one site, and the classifier of all examples in the activations' own units."""
    right = held_out(x, examples.label, examples.group, options)
    control = held_out(x, examples.control, examples.group, options)
    n = len(right)
    group = examples.group
    sizes = np.bincount(examples.label, minlength=len(examples.classes))
    recall = np.bincount(examples.label, weights=right, minlength=len(sizes)) / sizes
    accuracy, chance = right.mean(), control.mean()
    by_class = (right - recall[examples.label]) / sizes[examples.label] / len(sizes)
    score = SiteScore(
        site,
        float(accuracy),
        interval((right - accuracy) / n, group),
        float(recall.mean()),
        interval(by_class, group),
        float(chance),
        interval((control - chance) / n, group),
        float(accuracy - chance),
        interval((right - accuracy - control + chance) / n, group),
    )
    fitted, mean, spread = _fit(x, examples.label, options)
    weights, biases = fitted.coef_ / spread, fitted.intercept_ - (fitted.coef_ / spread) @ mean
    if len(weights) == 1:  # of two classes the second's; half each way is the same classifier
        weights, biases = np.concatenate([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    return score, weights.astype(np.float32), biases.astype(np.float32)


def held_out(
    x: Float[np.ndarray, "M D"], label: Int[np.ndarray, " M"], group: Int[np.ndarray, " M"], options: LinearProbeOptions
) -> Float[np.ndarray, " M"]:
    """1 where an example was classified rightly while its whole group was held out, else 0."""
    from sklearn.model_selection import StratifiedGroupKFold

    right = np.zeros(len(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # groups may not let every part have one
        parts = list(
            StratifiedGroupKFold(options.folds, shuffle=True, random_state=options.seed % 2**32).split(x, label, group)
        )
    for rest, part in parts:
        if len(np.unique(label[rest])) < 2:
            right[part] = label[part] == label[rest][0]
            continue
        fitted, mean, spread = _fit(x[rest], label[rest], options)
        right[part] = fitted.predict((x[part] - mean) / spread) == label[part]
    return right


def _fit(
    x: Float[np.ndarray, "M D"], label: Int[np.ndarray, " M"], options: LinearProbeOptions
) -> tuple[Any, Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Logistic regression on x standardised, with the mean and the spread that standardised it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    spread = np.where(spread > 1e-8, spread, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (
            LogisticRegression(C=1 / options.l2, max_iter=100, tol=1e-3).fit((x - mean) / spread, label),
            mean,
            spread,
        )


def interval(influence: Float[np.ndarray, " M"], group: Int[np.ndarray, " M"]) -> float | None:
    """Half of the 95 % interval of a mean from what each example adds to it, groups being independent (the ratio estimator;
    Cochran 1977, §2.11). None where it cannot be told: all were right, or all wrong."""
    sums = np.bincount(group, weights=influence)[np.unique(group)]
    n = len(sums)
    if n < 2 or not np.any(np.abs(influence) > 1e-15):
        return None
    return float(_Z95 * math.sqrt((sums**2).sum() * n / (n - 1)))

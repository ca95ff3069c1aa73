"""What a model loses with a part of it: heads, attention, MLPs and whole layers, ablated one at a time or together.

A part is ablated by replacing what it gives (a head's z, the output of attention or of an MLP) at every position. Several
parts share a forward pass where texts are short: each has rows of its own in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llm_lab.corpora.open import open_corpus
from llm_lab.data.arrays import Tokens, tokenize
from llm_lab.data.batch import Batch
from llm_lab.errors import DIVERGED, BadValue, listing, suggestion
from llm_lab.models.language_model import LanguageModel, evaluating
from llm_lab.models.sites import Replacement, Tape, opened
from llm_lab.objectives.objective import Objective, Trainee
from llm_lab.probes.answers import Answer, Asked, answer, ask, quoted
from llm_lab.probes.heads import repeated
from llm_lab.probes.options import AblateOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import replace as replacing
from llm_lab.results import Heatmap, Listing, Panel, TokenScores
from llm_lab.store import runs as store
from llm_lab.store import texts
from llm_lab.store.lm import LM
from llm_lab.training.validation import pieces

TOKENS = 4096  # in one pass, at most
TOGETHER = 32  # parts in one pass, at most
BLOCK = 512  # tokens of a corpus that are read at a time, at most: scores are (T, T)
POOL = 1024  # tokens whose outputs are drawn from when resampling


# --- what there is to ablate ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One part: its place on the map, the sites that it gives to, and at `z` which head."""

    row: str
    column: str
    sites: tuple[str, ...]
    head: int | None = None
    name: str = ""  # "1.3", "0.mlp", "decoder.1.cross.3"


def parts_of(model: LanguageModel, kinds: Sequence[str] = ("heads", "attention", "mlps", "layers")) -> list[Part]:
    """The parts of a model of ours, layer by layer; of two stacks the encoder's first, and cross-attention in rows of
    its own. A layer is all that it adds to the stream."""
    c = model.config
    assert c is not None, "a model with sites is one of ours"
    stacks = [("", c.n_layer)]
    if c.shape == "encoder_decoder":
        stacks = [("encoder.", c.n_layer), ("decoder.", c.decoder_layers)]
    found = []
    for prefix, n_layer in stacks:
        for i in range(n_layer):
            block, row, name = f"{prefix}blocks.{i}", f"{prefix.replace('.', ' ')}{i}", f"{prefix}{i}"
            reads = [("attn", row, name)]
            if prefix == "decoder.":
                reads += [("cross", f"{row} cross", f"{name}.cross")]
            for site, line, called in reads:
                if "heads" in kinds:
                    found += [Part(line, str(j), (f"{block}.{site}.z",), j, f"{called}.{j}") for j in range(c.n_head)]
                if "attention" in kinds:
                    found.append(Part(line, "attn", (f"{block}.{site}.out",), None, f"{called}.attn"))
            outs = tuple(f"{block}.{site}.out" for site in (*(read[0] for read in reads), "mlp"))
            if "mlps" in kinds:
                found.append(Part(row, "mlp", outs[-1:], None, f"{name}.mlp"))
            if "layers" in kinds:
                found.append(Part(row, "layer", outs, None, f"{name}.layer"))
    return found


def _parts_named(model: LanguageModel, names: Sequence[str]) -> list[Part]:
    known = {part.name: part for part in parts_of(model)}
    for name in names:
        if name not in known:
            raise BadValue(
                f"together: {name!r} is no part of this model{suggestion(name, known)}; there is: {listing(known, 12)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


# --- what stands in for it ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Instead:
    """What stands in for what sites give. `values` are by site: a mean over tokens, (D,) or (H, d); or, with `draws`,
    outputs at tokens that were drawn, (N, D) or (N, H, d), of which every position is given one by chance."""

    values: Mapping[str, Tensor]
    draws: bool = False
    seed: int = 0

    def of(self, x: Tensor, site: str, head: int | None) -> Tensor:
        """In place of x, (R, T, D), or (R, T, d) of one head."""
        if site not in self.values:
            return torch.zeros_like(x)
        values = self.values[site].to(x)
        if not self.draws:
            return (values if head is None else values[head]).expand_as(x)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randint(len(values), x.shape[:2], generator=generator).to(x.device)
        return values[chosen] if head is None else values[chosen, head]


def ablating(parts: Sequence[Sequence[Part]], instead: Instead, rows: int) -> dict[str, Replacement]:
    """Replacements for a batch of groups of `rows` rows: in each group its own parts are ablated."""
    uses: dict[str, list[tuple[int, int | None]]] = {}
    for group, own in enumerate(parts):
        for part in own:
            for site in part.sites:
                uses.setdefault(site, []).append((group, part.head))

    def at(site: str) -> Replacement:
        def ablate(x: Tensor) -> Tensor:  # a copy of its own
            for group, head in uses[site]:
                own = x[group * rows : (group + 1) * rows]
                own = own if head is None else own[:, head]
                own.copy_(instead.of(own, site, head))
            return x

        return ablate

    return {site: at(site) for site in uses}


def _tokens_of(x: Tensor, site: str) -> Tensor:
    """An activation token by token: (N, D), or (N, H, d) at z."""
    return x.transpose(1, 2).flatten(0, 1) if site.endswith(".z") else x.flatten(0, 1)


def _instead(options: AblateOptions, measure: Measure, donors: Sequence[Batch], parts: Sequence[Part]) -> Instead:
    """The means over all tokens that the donors are, or a pool of them to draw from."""
    sites = frozenset(site for part in parts for site in part.sites)
    if options.ablation == "zero":
        return Instead({})
    draws = options.ablation == "resample"
    generator = torch.Generator().manual_seed(options.seed)
    each = -(-POOL // len(donors))
    found: dict[str, list[Tensor]] = {site: [] for site in sites}
    counts = dict.fromkeys(sites, 0)

    def take(x: Tensor, site: str) -> Tensor:
        tokens = _tokens_of(x, site).float()
        counts[site] += len(tokens)
        return tokens[torch.randint(len(tokens), (each,), generator=generator).to(x.device)] if draws else tokens.sum(0)

    for batch in donors:
        with opened(Tape(measure.model, read=sites, take=take)) as tape:
            measure.run(batch)
        for site in sites:
            found[site].append(tape.found[site])
    if draws:
        return Instead({site: torch.cat(values) for site, values in found.items()}, True, options.seed)
    return Instead({site: torch.stack(values).sum(0) / counts[site] for site, values in found.items()})


# --- what is measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measure:
    """Numbers of one reading: `run` gives of a batch each row's sums, (K, B), and how many terms each has, (B,)."""

    model: LanguageModel
    titles: list[str]  # (K,)
    batches: list[Batch]
    run: Callable[[Batch], tuple[Tensor, Tensor]]

    def changes(self, parts: Sequence[Sequence[Part]], instead: Instead) -> Iterator[Float[np.ndarray, "P K"]]:
        """What each of the ablations changes, some at a time: the means with it less those without. Both are computed in
        passes of one shape, so that ablating nothing changes nothing, bit for bit."""
        size = max(1, min(TOKENS // max(batch.input_ids.numel() for batch in self.batches), TOGETHER, len(parts)))
        before = self._means([[]] * size, instead)
        for start in range(0, len(parts), size):
            some = parts[start : start + size]
            yield (self._means([*some, *[[]] * (size - len(some))], instead) - before)[: len(some)]

    def means(self) -> Float[np.ndarray, " K"]:
        """Without any ablation."""
        return self._means([[]], Instead({}))[0]

    def _means(self, groups: Sequence[Sequence[Part]], instead: Instead) -> Float[np.ndarray, "G K"]:
        sums, counts = torch.zeros(len(self.titles), len(groups)).double(), torch.zeros(len(groups)).double()
        for batch in self.batches:
            with replacing(self.model, ablating(groups, instead, len(batch.input_ids))):
                values, count = self.run(_copies(batch, len(groups)))
            sums += values.double().cpu().reshape(len(values), len(groups), -1).sum(-1)
            counts += count.double().cpu().reshape(len(groups), -1).sum(-1)
        found = (sums / counts).T.numpy()
        if not np.isfinite(found).all():
            raise BadValue(f"the model's {DIVERGED}")
        return found


def _copies(batch: Batch, count: int) -> Batch:
    """The rows of a batch so many times, one behind the other."""
    rows = len(batch.input_ids)

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.repeat(count, *[1] * (value.ndim - 1)) if len(value) == rows else value
        changed = {f.name: copied(v) for f in fields(value) if isinstance(v := getattr(value, f.name), Tensor)}
        return replace(value, **changed)

    given = {f.name: copied(v) for f in fields(batch) if (v := getattr(batch, f.name)) is not None}
    return Batch(**given)


def _loss(lm: LM, objective: Objective, trainee: Trainee, batches: list[Batch]) -> Measure:
    """The loss that it was trained by (of several, the chief one)."""
    chief = objective.parts[0]

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), evaluating(trainee.model), evaluating(trainee.extras):
            sums, counts = objective.losses(trainee, batch)[chief]
        return sums[None], counts

    return Measure(lm.model, [f"loss, nats/{objective.target or lm.tokenizer.unit}"], batches, run)


def _read(lm: LM, objective: Objective, tokens: Tokens, limit: int | None) -> list[Batch]:
    """Batches of a text as its objective makes them, each of examples of one length."""
    length = min(lm.max_seq_len, BLOCK)
    found: dict[int, list[np.ndarray]] = {}
    for piece in pieces(objective, tokens, length, limit):
        found.setdefault(len(piece), []).append(piece)
    size = max(objective.least_batch, TOKENS // length, 1)
    batches: list[Batch] = []
    for same in found.values():
        for start in range(0, len(same), size):
            some = same[start : start + size]
            if len(some) >= objective.least_batch:
                batches.append(objective.collate(some, np.random.default_rng(len(batches))).to(lm.device))
    if not batches:
        raise BadValue(f"text: {len(tokens.ids)} tokens are too short for the loss of {lm.name}; give more")
    return batches


def _repeats(lm: LM, options: AblateOptions) -> Measure:
    """The loss on random blocks the second time that they come: at positions whose next token came before."""
    ids = repeated(lm, options.repeats, options.seed)
    length = ids.shape[1] // 2

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), evaluating(lm.model):
            logits = lm.model(**batch.inputs()).logits[:, length:-1]
        losses = F.cross_entropy(logits.transpose(1, 2), batch.input_ids[:, length + 1 :], reduction="none")
        return losses.sum(1)[None], torch.full((len(losses),), length - 1)

    batches = [Batch(some) for some in ids.split(max(1, TOKENS // ids.shape[1]))]
    return Measure(lm.model, [f"loss on repeats, nats/{lm.tokenizer.unit}"], batches, run)


def _answer(lm: LM, asked: Asked, wanted: Answer) -> Measure:
    titles = [f"log-probability of {quoted(wanted.target)}"]
    titles += [wanted.quantity] if wanted.other is not None else []

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), evaluating(lm.model):
            logits = lm.model(**batch.inputs()).logits[:, asked.position]
        found = [wanted.log_probability(logits), wanted.logit_difference(logits)]
        return torch.stack(found[: len(titles)]), torch.ones(len(logits))

    return Measure(lm.model, titles, [asked.batch], run)


# --- the probe ------------------------------------------------------------------------------------------------------

_WITH = {
    "zero": "replaced by zeros",
    "mean": "replaced by its mean over all tokens",
    "resample": "replaced, at every position, by what it gave at a token drawn by chance",
}


def ablate(reading: Reading, options: AblateOptions) -> Iterator[Heatmap | TokenScores | Listing]:
    """The change of the loss, of the loss on repeats and of an answer with each part ablated, as they are measured; or,
    with `together`, what happens when some parts are ablated at once. An interrupt keeps what was measured."""
    setup = _Setup(reading, options)
    if options.together:
        yield _together(reading, options, setup, _parts_named(reading.model, options.together))
        return
    parts = parts_of(reading.model, options.parts)
    rows, columns = (list(dict.fromkeys(getattr(part, name) for part in parts)) for name in ("row", "column"))
    at = [(rows.index(part.row), columns.index(part.column)) for part in parts]
    panels = [
        Panel(np.full((len(rows), len(columns)), np.nan, np.float32), rows, columns, title)
        for measure in setup.measures
        for title in measure.titles
    ]
    result = Heatmap(
        name=reading.name,
        kind="ablate",
        facts=[options.ablation, *setup.facts],
        panels=panels,
        quantity="change",
        axes=("layer", "head"),
        signed=True,
        one_scale=False,
        figures=setup.before(),
        caption=f"Each cell is one run with one part {_WITH[options.ablation]}{setup.source}; the number is what that changes, "
        f"blue up and orange down.{' A layer is all that it adds to the stream.' * ('layers' in options.parts)}",
    )
    done, first = 0, 0
    try:
        for measure in setup.measures:
            place = 0
            instead = setup.instead(measure, parts)
            for some in measure.changes([[part] for part in parts], instead):
                for values in some:
                    for k, value in enumerate(values):
                        panels[first + k].values[at[place]] = value
                    place, done = place + 1, done + 1
                yield result
            first += len(measure.titles)
    except KeyboardInterrupt:
        result.notes.append(f"interrupted after {done} of {len(parts) * len(setup.measures)}")
        yield result


class _Setup:
    """What is measured, on what, and with what standing in."""

    def __init__(self, reading: Reading, options: AblateOptions) -> None:
        lm, self.options = reading.lm, options
        self.lm = lm
        self.measures: list[Measure] = []
        tokens, self.source, where = _tokens(reading, options), "", f"{len(reading.texts)} texts"
        if len(reading.texts) < 2:
            where = "the text" if reading.texts else "the held-out text" if options.corpus is None else "the corpus"
        limit = None if reading.texts else options.max_tokens
        objective = lm.objective()
        trainee = lm.trainee(objective)
        batches = _read(lm, objective, tokens, limit)
        self.facts = [f"loss on {where}, {min(len(tokens), limit or len(tokens)):,} tokens"]
        self.donors: list[Batch] | None = None
        if reading.texts and options.corpus is not None:
            self.donors, self.source = (
                _read(lm, objective, _corpus(lm, options.corpus), options.max_tokens),
                " of the corpus",
            )
        elif options.ablation != "zero":
            self.source = " of what is read"
        self.measures.append(_loss(lm, objective, trainee, batches))
        if options.repeats and "next_token" in lm.supports and lm.max_seq_len >= 6:
            self.measures.append(_repeats(lm, options))
            self.facts.append(f"{options.repeats} repeated random sequences")
        self.asked: Asked | None = None
        wanted = {options.target, options.other, options.position} != {None}
        if len(reading.texts) != 1:
            if wanted:
                raise BadValue("target, other, position: an answer is asked of one text; give one")
        elif wanted or "next_token" in lm.supports:
            self.asked = ask(reading, options)
            self.logits = self.now()
            self.measures.append(_answer(lm, self.asked, answer(reading, options, self.logits)))

    def now(self) -> Float[Tensor, " V"]:
        """The logits that the answer is read from, explicitly computed as all that is compared here."""
        assert self.asked is not None
        with torch.no_grad(), evaluating(self.lm.model), opened(Tape(self.lm.model)):
            return self.lm.model(**self.asked.batch.inputs()).logits[0, self.asked.position]

    def instead(self, measure: Measure, parts: Sequence[Part]) -> Instead:
        """What stands in: of the corpus where there is one beside a text, else of what is read itself."""
        if self.donors is None:
            return _instead(self.options, measure, measure.batches, parts)
        return _instead(self.options, self.measures[0], self.donors, parts)

    def before(self) -> list[tuple[str, str]]:
        """The figures of the whole model."""
        return [
            (title, f"{value:.3f}".replace("-", "−"))
            for measure in self.measures
            for title, value in zip(measure.titles, measure.means(), strict=True)
        ]


def _tokens(reading: Reading, options: AblateOptions) -> Tokens:
    """What the loss is taken on: the texts, a document each, else the corpus or the held-out text."""
    lm = reading.lm
    if not reading.texts:
        return _corpus(lm, options.corpus)
    rows = [np.asarray(reading.ids(i)[0].cpu()) for i in range(len(reading.texts))]
    if lm.objective().pairs:
        if len(rows) != 2:
            raise BadValue(
                f"text: {len(rows)} texts were given, and {lm.name} learned from pairs; give two, what is read and what is written"
            )
        rows = [np.concatenate([rows[0], [lm.tokenizer.special("sep")], rows[1]])]
    offsets = np.cumsum([0, *map(len, rows)])
    return Tokens(np.concatenate(rows), offsets, sum(map(len, reading.texts)), len("".join(reading.texts).encode()))


def _corpus(lm: LM, corpus: Any) -> Tokens:
    if corpus is None:
        return texts.held_out(lm, [store.cache(make=False)], "corpus")
    return tokenize(texts.as_trained(lm, open_corpus(corpus), []), lm.tokenizer, store.cache())


def _together(reading: Reading, options: AblateOptions, setup: _Setup, parts: Sequence[Part]) -> TokenScores | Listing:
    """All numbers before and after, and, of one text, what every token's loss changes by."""
    lm = reading.lm
    names = " + ".join(part.name for part in parts)
    rows: list[list[Any]] = []
    for measure in setup.measures:
        (change,) = next(measure.changes([list(parts)], setup.instead(measure, parts)))
        for title, value, more in zip(measure.titles, measure.means(), change, strict=True):
            rows.append([title, float(value), float(value + more), float(more)])
    said = []
    if setup.asked is not None:
        replacements = ablating([list(parts)], setup.instead(setup.measures[0], parts), 1)
        with replacing(lm.model, replacements):
            said = [_likeliest(lm, logits) for logits in (setup.logits, setup.now())]
    if setup.asked is None or "next_token" not in lm.supports:
        return Listing(
            title=lm.name,
            facts=["ablate", names, options.ablation, *setup.facts],
            columns=["", "before", "after", "change"],
            rows=[*rows, *([["likeliest token", *said, ""]] if said else [])],
        )
    figures = [(title, f"{before:.3f} → {after:.3f}".replace("-", "−")) for title, before, after, _ in rows]
    return TokenScores(
        name=lm.name,
        kind="ablate",
        facts=[names, options.ablation, *setup.facts],
        pieces=setup.asked.pieces,
        scores={"rise of −log p": _rise(lm, setup.asked.batch, replacements)},
        quantity="nats",
        about=f"each token, without {names}",
        figures=[*figures, ("likeliest token", " → ".join(said))],
        caption=f"How much less likely each token is with {names} {_WITH[options.ablation]}{setup.source}; "
        "beside it what was measured before → after.",
    )


def _likeliest(lm: LM, logits: Float[Tensor, " V"]) -> str:
    """The likeliest token and its probability."""
    (piece,) = lm.tokenizer.pieces([int(logits[: lm.tokenizer.vocab_size].argmax())])
    return f"{quoted(piece)} {float(logits.softmax(-1)[piece.id]):.2f}"


def _rise(lm: LM, batch: Batch, replacements: Mapping[str, Replacement]) -> Float[np.ndarray, " T"]:
    """By how much −log p of every token rises, in nats; the first is predicted by nothing."""
    found = []
    for given in ({}, replacements):
        with torch.no_grad(), evaluating(lm.model), replacing(lm.model, given):
            logits = lm.model(**batch.inputs()).logits[0, :-1]
        found.append(F.cross_entropy(logits, batch.input_ids[0, 1:], reduction="none"))
    return np.concatenate([[np.nan], (found[1] - found[0]).cpu().numpy()]).astype(np.float32)

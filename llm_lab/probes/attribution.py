"""Which tokens an answer rests on, by gradients, by taking tokens away, by attention; and how far one may believe it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue, show
from llm_lab.probes.answers import Answer, answer, quoted
from llm_lab.probes.inputs import Inputs, each, need_one, place, read
from llm_lab.probes.options import BASELINES, AttributionOptions
from llm_lab.probes.reading import Reading, fills
from llm_lab.probes.recording import record
from llm_lab.results import Heatmap, Panel, Result, TokenScores

GAP = 0.01  # of the difference of the output: how far the sum of integrated gradients may be from it
LEAST = 1e-3  # a difference below which single precision tells no percents
NODES, MOST_STEPS = 4, 1024  # points in a part of the path, and in all
SHORTEST = 2.0**-22  # part of the path, against its end, that is halved no further: what single precision tells apart
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the tokens that are taken away (DeYoung et al. 2020, §4.2)
RANDOM = 10  # orders at random that a method's order is weighed against
SIGNED = ("integrated_gradients", "gradient_x_input", "occlusion", "shapley")
_SHORT = {
    "integrated_gradients": "int. gradients",
    "gradient_x_input": "gradient × input",
    "gradient": "gradient",
    "occlusion": "occlusion",
    "shapley": "Shapley",
    "rollout": "rollout",
}
_DIFFERENCE = "difference from the baseline"
_WORDS = {"log_prob": "log p", "logit": "logit", "prob": "p"}

Value = Callable[[Float[Tensor, "R V"]], Float[Tensor, " R"]]


@dataclass(frozen=True, eq=False)
class Explained:
    """One number of a model's output as a function of which tokens are there, and of their vectors."""

    inputs: Inputs
    value: Value
    baseline: str
    missing: Int[Tensor, " N"] | None  # the tokens that stand for those that are not there; None for a vector

    @property
    def x(self) -> Float[Tensor, "N D"]:
        """Where the stream begins."""
        inputs = self.inputs
        with torch.no_grad():
            return inputs.stream(inputs.vectors(inputs.ids[None]))[0]

    @property
    def base(self) -> Float[Tensor, "N D"]:
        """The same with the baseline in every token's place but the reserved ones'."""
        inputs = self.inputs
        with torch.no_grad():
            vectors = inputs.vectors(inputs.ids[None])
            away = inputs.vectors(self.missing[None]) if self.missing is not None else self._vector(vectors)
            return inputs.stream(torch.where(inputs.free[None, :, None], away, vectors))[0]

    def _vector(self, like: Tensor) -> Tensor:
        if self.baseline == "zero":
            return torch.zeros_like(like)
        return self.inputs.model.embedding_table().detach().mean(dim=0).expand_as(like)

    def of(self, x: Float[Tensor, "R N D"]) -> Float[Tensor, " R"]:
        """The number, in `x`'s graph."""
        return self.value(self.inputs.logits_of(x))

    def with_only(self, keep: Bool[Tensor, "R N"]) -> Float[Tensor, " R"]:
        """The number where only some tokens are there; NaN where nothing is left to read."""
        keep = keep | ~self.inputs.free
        if self.baseline == "remove":
            return torch.stack([self._removed(row) for row in keep])
        if self.missing is not None:
            return self.value(self.inputs.logits(torch.where(keep, self.inputs.ids, self.missing)))
        x, base = self.x, self.base
        with torch.no_grad():
            parts = [self.of(torch.where(rows[..., None], x, base)) for rows in keep.split(self.inputs.rows)]
        return torch.cat(parts)

    def _removed(self, keep: Bool[Tensor, " N"]) -> Float[Tensor, ""]:
        left = self.inputs.without(keep)
        return (
            keep.new_full((), torch.nan, dtype=torch.float32)
            if left is None
            else self.value(left.logits(left.ids[None]))[0]
        )


@dataclass(frozen=True, eq=False)
class Shares:
    """What a method gave: a number for each token, with standard errors where it drew, and what is to be told of it."""

    values: np.ndarray  # (N,) float32, NaN for a token that the method does not change
    errors: np.ndarray | None = None
    figures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def attribution(reading: Reading, options: AttributionOptions) -> Result | Iterator[Result]:
    """What the tokens add to one answer, by every method asked for, with how far the methods agree and how much of the
    answer goes, or stays, with the tokens that each puts first; or with `each` a map of every token on all before it."""
    need_one(reading)
    methods = tuple(dict.fromkeys(options.method))
    if options.baseline == "remove" and "integrated_gradients" in methods:
        raise BadValue(
            "baseline: 'remove' leaves no vector, and integrated gradients walk from one; use --method occlusion, or --baseline mean"
        )
    if options.each is not None:
        return _every(reading, options, methods)
    return _one(reading, options, methods)


def _one(reading: Reading, options: AttributionOptions, methods: tuple[str, ...]) -> TokenScores:
    inputs = read(reading, options)
    logits = inputs.logits(inputs.ids[None])[0]
    _finite(logits, reading.name)
    asked = answer(reading, options, logits)
    explained = Explained(inputs, _value(asked, options.explain), *_baseline(reading, options.baseline, inputs))
    if not bool(inputs.free.any()):
        raise BadValue("text: it has reserved tokens alone, which are not taken away; give it words to rest on")
    found = {method: METHODS[method](explained, options) for method in methods}
    probability = float(logits.softmax(dim=-1)[asked.target.id])
    quantity = _quantity(asked, options.explain)
    figures = [(quantity, _figure(float(explained.value(logits[None])[0]))), ("its probability", f"{probability:.2%}")]
    for shares in found.values():
        figures += shares.figures
    figures += _agreement(found, inputs)
    figures += _faithfulness(found, explained, asked, options.seed)
    unit = " (nats)" if options.explain == "log_prob" and asked.other is None else ""
    return TokenScores(
        name=reading.name,
        kind="attribution",
        facts=[f"baseline {explained.baseline}"],
        pieces=inputs.pieces,
        scores={method: shares.values for method, shares in found.items()},
        errors={method: shares.errors for method, shares in found.items() if shares.errors is not None},
        quantity="share",
        about=f"{quoted(asked.target)} {place(inputs, reading.tokenizer)}",
        figures=list(dict.fromkeys(figures)),
        caption=f"What each token adds to {quantity}{unit}, by each method on a scale of its own. {_read(methods)}"
        " ρ is the rank correlation of two methods' sizes. Comprehensiveness (compr.) is the fall of the probability when the tokens that a method puts first are taken away (the"
        " larger the better), sufficiency (suff.) the fall when only they stay (the smaller the better), both the mean over the"
        " first 1, 5, 10, 20 and 50 % of the tokens (DeYoung et al. 2020).",
        notes=list(dict.fromkeys(note for shares in found.values() for note in shares.notes)),
    )  # fmt: skip


def _every(reading: Reading, options: AttributionOptions, methods: tuple[str, ...]) -> Iterator[Heatmap]:
    """A row for each token of the text, as the model came to predict it; drawn as it grows."""
    for name in ("target", "other", "position"):
        if getattr(options, name) is not None:
            raise BadValue(
                f"{name}: {show(getattr(options, name))} names one answer, and each explains the tokens that stand in the text; leave one out"
            )
    tokens = list(each(reading, options))
    first, last = _range(options.each or "all", tokens[-1][0] + 1 if tokens else 0)
    tokens = [one for one in tokens if first <= one[0] < last]
    if not tokens:
        raise BadValue("each: no token there was predicted from others; give a longer text, or another range")
    width = max(len(inputs.pieces) for _, _, inputs in tokens)
    columns = [piece.text for piece in max((inputs.pieces for _, _, inputs in tokens), key=len)]
    rows, values = [], {method: np.full((len(tokens), width), np.nan, np.float32) for method in methods}
    notes: dict[str, None] = {}
    for at, (_, token, inputs) in enumerate(tokens):
        (piece,) = reading.tokenizer.pieces([token])
        explained = Explained(
            inputs, _value(Answer(piece), options.explain), *_baseline(reading, options.baseline, inputs)
        )
        for method in methods:
            shares = METHODS[method](explained, options)
            if not np.isfinite(shares.values).any():
                _finite(inputs.logits(inputs.ids[None]), reading.name)
            values[method][at, : len(shares.values)] = shares.values
            notes |= dict.fromkeys(shares.notes)
        rows.append(piece.text)
        if not any(piece.special for piece in inputs.pieces):
            columns[: len(inputs.pieces)] = [piece.text for piece in inputs.pieces]
        done = at + 1
        yield Heatmap(
            name=reading.name,
            kind="attribution",
            facts=[
                f"baseline {explained.baseline}",
                *([f"{done} of {len(tokens)} tokens"] if done < len(tokens) else []),
            ],
            panels=[
                Panel(found[:done].copy(), list(rows), columns, title=method.replace("_", " "))
                for method, found in values.items()
            ],
            quantity=f"share of {_WORDS[options.explain]} of the row's token",
            axes=("predicted", "read"),
            signed=any(method in SIGNED for method in methods),
            caption=f"Row by row a token of the text as it was predicted, and what each token that was read for it adds to its {_WORDS[options.explain]}. {_read(methods)}",
            notes=list(notes),
        )


# --- what is explained ----------------------------------------------------------------------------------------------


def _value(asked: Answer, explain: str) -> Value:
    if asked.other is not None:
        return asked.logit_difference
    if explain == "logit":
        return lambda logits: logits[..., asked.target.id]
    if explain == "prob":
        return lambda logits: asked.log_probability(logits).exp()
    return asked.log_probability


def _quantity(asked: Answer, explain: str) -> str:
    if asked.other is not None or explain == "logit":
        return asked.quantity
    return f"{_WORDS[explain]} of {quoted(asked.target)}"


def _read(methods: tuple[str, ...]) -> str:
    """What the methods' numbers are, in words."""
    words = {
        "integrated_gradients": "Integrated gradients sum to the difference from the text with the baseline in every token's place",
        "gradient_x_input": "gradient × input is the gradient along the token's vector as the stream begins",
        "gradient": "gradient is its length, without a sign",
        "occlusion": "occlusion is the fall when the baseline stands for the token",
        "shapley": "a Shapley value is that fall, averaged over the orders in which tokens go",
        "rollout": "rollout is the share of attention that leads to the token, whatever is predicted, without a sign",
    }
    text = "; ".join(words[method] for method in methods) + "."
    return text[0].upper() + text[1:]


def _baseline(reading: Reading, wanted: str | None, inputs: Inputs) -> tuple[str, Tensor | None]:
    """What stands for a token that is not there, and its token where it is one."""
    tokenizer, ids = reading.tokenizer, inputs.ids
    kind = wanted or ("mask" if fills(reading.lm) and "mask" in tokenizer.specials else "mean")
    assert kind in BASELINES
    if kind in ("mean", "zero", "remove"):
        return kind, None
    if kind != "space":
        return kind, torch.full_like(ids, tokenizer.special(kind))
    found = tokenizer.encode(" ")
    if len(found) != 1 or tokenizer.pieces(found)[0].unknown:
        raise BadValue(
            f"baseline: a space is no token of this {tokenizer.kind} tokenizer; use --baseline mean, or one of {', '.join(BASELINES[2:4])}"
        )
    return kind, torch.full_like(ids, found[0])


def _range(text: str, length: int) -> tuple[int, int]:
    """The positions that `all` or `a:b` means."""
    if text == "all":
        return 0, length
    first, colon, last = text.partition(":")
    try:
        ends = int(first or 0), int(last or length)
    except ValueError:
        ends = None
    if not colon or ends is None:
        raise BadValue(
            f"each: {show(text)} is neither all nor a range of positions; for example --each 3:{max(length, 4)}"
        )
    a, b = (end + length if end < 0 else end for end in ends)
    if not 0 <= a < b <= length:
        raise BadValue(
            f"each: {show(text)} is not in the text, which has {length} tokens; for example --each 0:{length}"
        )
    return a, b


def _finite(logits: Tensor, name: str) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise BadValue(f"{name}'s {DIVERGED}")


# --- methods --------------------------------------------------------------------------------------------------------


def _slope(of: Callable[[Tensor], Tensor], x: Float[Tensor, "R N D"]) -> Float[Tensor, "R N D"]:
    """The gradient of the number by the vectors, row by row; that of the weights is not touched."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(of(x).sum(), x)
    return found


def gradient(explained: Explained, options: AttributionOptions) -> Shares:
    """The length of the gradient (Simonyan et al. 2014; L2)."""
    return Shares(_array(_slope(explained.of, explained.x[None])[0].norm(dim=-1)))


def gradient_x_input(explained: Explained, options: AttributionOptions) -> Shares:
    """The gradient times the vector, summed over its entries (Shrikumar et al. 2016; Denil et al. 2014)."""
    x = explained.x
    return Shares(_array((_slope(explained.of, x[None])[0] * x).sum(dim=-1)))


def integrated_gradients(explained: Explained, options: AttributionOptions) -> Shares:
    """The gradient along the straight path from the baseline, integrated (Sundararajan et al. 2017, §3)."""
    found = integrate(explained.of, explained.x, explained.base, options.path_steps, explained.inputs.rows)
    total = float(found.shares.sum())
    gap = abs(total - found.difference) / max(abs(found.difference), LEAST)
    figures = [("sum of integrated gradients", _figure(total)), (_DIFFERENCE, _figure(found.difference))]
    figures.append(("gap between the two", f"{gap:.2%}, {found.steps} steps"))
    notes = []
    if gap > GAP:
        why = f"{MOST_STEPS} steps did not close it; --path_steps takes more"
        if options.path_steps is not None:
            why = "leave out --path_steps, and as many are taken as close it"
        elif abs(found.jumps) > abs(total - found.difference) / 2:
            why = f"the output jumps on the path, by {_figure(found.jumps)} in all, as where a router changes experts, and no gradient sees a jump; --method occlusion or shapley does"
        notes.append(f"The sum of integrated gradients is {gap:.1%} from the difference: {why}.")
    return Shares(_known(found.shares, explained), figures=tuple(figures), notes=tuple(notes))


@dataclass(frozen=True, eq=False)
class Integral:
    """What came of a path: a share for each token, the output's difference, the points that were taken, and by how much
    the output jumped on the way, which is in no share."""

    shares: Float[Tensor, " N"]
    difference: float
    steps: int
    jumps: float = 0.0


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a path, with its own shares and difference."""

    start: float
    end: float
    shares: Float[Tensor, " N"]
    difference: float

    @property
    def apart(self) -> float:
        return self.difference - float(self.shares.sum())

    @property
    def jumps(self) -> bool:
        """Whether it is so short that what it lacks is no slope."""
        return self.end - self.start <= max(SHORTEST * self.end, SHORTEST**3)


def integrate(
    of: Callable[[Float[Tensor, "R N D"]], Float[Tensor, " R"]],
    x: Float[Tensor, "N D"],
    base: Float[Tensor, "N D"],
    steps: int | None = None,
    rows: int = 64,
) -> Integral:
    """By Gauss and Legendre's rule with `steps` points; without them in parts of the path, of which those are halved
    whose own sums are farthest from the output's difference over them. `rows` are computed at a time."""
    way = x - base

    def along(points: np.ndarray) -> Tensor:
        """The gradients along the way at points of the path, (P, N)."""
        at = torch.tensor(points, dtype=x.dtype, device=x.device)[:, None, None]
        return torch.cat([(_slope(of, base + a * way) * way).sum(dim=-1) for a in at.split(rows)])

    def output(points: np.ndarray) -> np.ndarray:
        at = torch.tensor(points, dtype=x.dtype, device=x.device)[:, None, None]
        with torch.no_grad():
            parts = [of(base + a * way) for a in at.split(rows)]
        return torch.cat(parts).double().cpu().numpy()

    nodes, weights = np.polynomial.legendre.leggauss(NODES if steps is None else steps)
    rule = torch.tensor(weights / 2, dtype=x.dtype, device=x.device)

    def parts(edges: list[tuple[float, float]]) -> list[_Part]:
        found = along(np.concatenate([a + (b - a) * (nodes + 1) / 2 for a, b in edges])).view(
            len(edges), len(nodes), -1
        )
        ends = output(np.array(edges).ravel()).reshape(-1, 2)
        return [
            _Part(a, b, (b - a) * (rule @ slopes), float(high - low))
            for (a, b), slopes, (low, high) in zip(edges, found, ends, strict=True)
        ]

    done = parts([(0.0, 1.0)] if steps is not None else [(i / 4, (i + 1) / 4) for i in range(4)])
    while True:
        taken, difference = len(nodes) * len(done), math.fsum(part.difference for part in done)
        long = [part for part in done if not part.jumps]
        apart = sum(abs(part.apart) for part in long)
        if steps is not None or apart <= max(GAP * abs(difference) / 2, 1e-6) or taken >= MOST_STEPS:
            jumps = math.fsum(part.apart for part in done if part.jumps)
            return Integral(torch.stack([part.shares for part in done]).sum(dim=0), difference, taken, jumps)
        worst = max(abs(part.apart) for part in long) / 4
        poor = [part for part in long if abs(part.apart) >= worst][: (MOST_STEPS - taken) // NODES + 1]
        middles = [(part.start + part.end) / 2 for part in poor]
        halves = [half for part, m in zip(poor, middles, strict=True) for half in ((part.start, m), (m, part.end))]
        done = [part for part in done if not any(part is one for one in poor)] + parts(halves)


def occlusion(explained: Explained, options: AttributionOptions) -> Shares:
    """The fall of the number when one token is not there (Zeiler & Fergus 2014, §4.2; Li et al. 2016)."""
    n = len(explained.inputs.pieces)
    keep = ~torch.eye(n, dtype=torch.bool, device=explained.inputs.model.device)
    keep = torch.cat([torch.ones_like(keep[:1]), keep])
    found = explained.with_only(keep)
    return Shares(_known(found[0] - found[1:], explained))


def shapley(explained: Explained, options: AttributionOptions) -> Shares:
    """Shapley values: exact where all sets of tokens are no more than the samples ask for, else sampled."""
    inputs, samples = explained.inputs, options.samples
    n = int(inputs.free.sum())
    whole = torch.ones_like(inputs.free)
    difference = float(explained.with_only(torch.stack([~whole, whole])).diff())
    if math.isnan(difference):
        raise BadValue(
            "baseline: 'remove' leaves nothing to read, and Shapley values begin with nothing; use --baseline mean, or --method occlusion"
        )
    if 2**n <= samples * n:
        values, error, how = shapley_exact(explained), None, f"all {2**n} sets"
    else:
        values, error = shapley_sampled(explained, samples, options.seed)
        how = f"{samples} orders"
    figures = [("sum of Shapley values", f"{_figure(float(values.sum()))}, {how}"), (_DIFFERENCE, _figure(difference))]
    if error is not None:
        figures.append(("their standard errors", f"≤ {float(error.max()):.3g}"))
    return Shares(_known(values, explained), None if error is None else _known(error, explained), tuple(figures))


def shapley_sampled(explained: Explained, samples: int, seed: int) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """(values, standard errors): the means of what each token adds in orders drawn at random (Castro et al. 2009, §3.1);
    each order's sum is the output's difference, so theirs is."""
    inputs = explained.inputs
    free, n = inputs.free.nonzero()[:, 0].cpu(), len(inputs.pieces)
    generator = torch.Generator().manual_seed(seed)
    gains = torch.zeros(samples, n, dtype=torch.float64)
    for sample in range(samples):
        order = free[torch.randperm(len(free), generator=generator)]
        keep = torch.zeros(len(free) + 1, n, dtype=torch.bool)
        for i, token in enumerate(order):
            keep[i + 1 :, token] = True
        found = explained.with_only(keep.to(inputs.model.device)).double().cpu()
        gains[sample, order] = found.diff()
    return gains.mean(dim=0), gains.std(dim=0) / math.sqrt(samples)


def shapley_exact(explained: Explained) -> Float[Tensor, " N"]:
    """The values from the output with every set of tokens (Shapley 1953)."""
    inputs = explained.inputs
    free = inputs.free.nonzero()[:, 0].tolist()
    n = len(free)
    sets = torch.zeros(2**n, len(inputs.pieces), dtype=torch.bool)
    for i, token in enumerate(free):
        sets[:, token] = (torch.arange(2**n) >> i) % 2 == 1
    found = explained.with_only(sets.to(inputs.model.device)).double().cpu()
    size = sets.sum(dim=1)
    weight = torch.tensor(
        [math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) if s < n else 0.0 for s in range(n + 1)],
        dtype=torch.float64,
    )
    values = torch.zeros(len(inputs.pieces), dtype=torch.float64)
    for i, token in enumerate(free):
        without = (~sets[:, token]).nonzero()[:, 0]
        values[token] = (weight[size[without]] * (found[without + 2**i] - found[without])).sum()
    return values


def rollout(explained: Explained, options: AttributionOptions) -> Shares:
    """Attention, averaged over heads, and the stream beside it in equal parts, multiplied through the layers (Abnar &
    Zuidema 2020, §3). In a decoder that reads an encoder, cross-attention mixes in what the encoder's places rest on."""
    inputs = explained.inputs
    model, batch = inputs.model, inputs.batch
    config = model.config
    kinds = ("attn", "cross") if batch.decoder_ids is not None else ("attn",)
    wanted = [site for site in model.sites() if site.endswith(tuple(f".{kind}.pattern" for kind in kinds))]
    found = record(model, batch, wanted, take=lambda x, _: x[0].mean(dim=0, keepdim=True).unsqueeze(0))
    maps = {site: x[0, 0].double().cpu() for site, x in found.items()}

    def half(mixed: Tensor, state: Tensor) -> Tensor:
        return 0.5 * mixed + 0.5 * state

    n = len(inputs.pieces)
    if batch.decoder_ids is None:
        rows = next(iter(maps.values())).shape[0]
        state = torch.eye(rows, dtype=torch.float64)
        for i in range(config.n_layer):
            state = half(maps[f"blocks.{i}.attn.pattern"] @ state, state)
        # Of two streams in one, the second is the one that is asked, and what it keeps of itself is no token's.
        return Shares(_array(state[rows - n + inputs.at, :n]))
    source = batch.input_ids.shape[1]
    both = torch.eye(n, dtype=torch.float64)
    memory, state = both[:source], both[source:]
    for i in range(config.n_layer):
        memory = half(maps[f"encoder.blocks.{i}.attn.pattern"] @ memory, memory)
    for i in range(config.decoder_layers):
        state = half(maps[f"decoder.blocks.{i}.attn.pattern"] @ state, state)
        state = half(maps[f"decoder.blocks.{i}.cross.pattern"] @ memory, state)
    return Shares(_array(state[inputs.at]))


METHODS: Mapping[str, Callable[[Explained, AttributionOptions], Shares]] = {
    method.__name__: method
    for method in (integrated_gradients, gradient_x_input, gradient, occlusion, shapley, rollout)
}


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _known(values: Tensor, explained: Explained) -> np.ndarray:
    """The numbers of the tokens that were changed; of the others nothing is known."""
    return np.where(explained.inputs.free.cpu().numpy(), _array(values), np.float32(np.nan))


# --- how far one may believe it ------------------------------------------------------------------------------------


def _agreement(found: Mapping[str, Shares], inputs: Inputs) -> list[tuple[str, str]]:
    """Spearman's rank correlation of the sizes that two methods give, over the tokens that both know."""
    import pandas as pd

    free = inputs.free.cpu().numpy()
    sizes = pd.DataFrame({method: np.abs(shares.values.astype(float))[free] for method, shares in found.items()})
    table = sizes.corr(method="spearman", min_periods=3)
    return [
        (
            f"{_SHORT[a]} ~ {_SHORT[b]}",
            "too few tokens" if math.isnan(table[a][b]) else f"ρ {_figure(table[a][b], 2)}",
        )
        for a, b in itertools.combinations(found, 2)
    ]


def _faithfulness(found: Mapping[str, Shares], explained: Explained, asked: Answer, seed: int) -> list[tuple[str, str]]:
    """Comprehensiveness and sufficiency of each method's order, and of orders at random (DeYoung et al. 2020, §4.2)."""
    inputs = explained.inputs
    chances = Explained(
        inputs, lambda logits: asked.log_probability(logits).exp(), explained.baseline, explained.missing
    )
    free = inputs.free.nonzero()[:, 0].cpu().numpy()
    rng = np.random.default_rng(seed)
    figures = []
    for method, shares in found.items():
        order = free[np.argsort(-np.nan_to_num(shares.values[free], nan=-np.inf), kind="stable")]
        lost, left = faithfulness(chances, [order])
        figures.append((f"{_SHORT[method]}: compr., suff.", f"{_figure(lost, 3)}, {_figure(left, 3)}"))
    lost, left = faithfulness(chances, [rng.permutation(free) for _ in range(RANDOM)])
    figures.append((f"{RANDOM} random orders: compr., suff.", f"{_figure(lost, 3)}, {_figure(left, 3)}"))
    return figures


def faithfulness(chances: Explained, orders: list[np.ndarray]) -> tuple[float, float]:
    """(comprehensiveness, sufficiency) of tokens in orders, the first being the ones that count most: the mean fall of
    the probability without the first 1, 5, 10, 20 and 50 % of them, and with only these."""
    n, rows = len(chances.inputs.pieces), []
    for order in orders:
        for share in SHARES:
            first = torch.from_numpy(order[: max(1, math.ceil(share * len(order)))].copy())
            without, only = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
            without[first], only[first] = False, True
            rows += [without, only]
    keep = torch.stack([torch.ones(n, dtype=torch.bool), *rows]).to(chances.inputs.model.device)
    found = chances.with_only(keep).double().cpu().numpy()
    fall = (found[0] - found[1:]).reshape(-1, 2)
    return float(np.nanmean(fall[:, 0])), float(np.nanmean(fall[:, 1]))


def _figure(value: float, places: int = 4) -> str:
    return f"{value:.{places}f}".replace("-", "−")

"""A small sparse autoencoder of the activations at one site, trained on the spot, and what its features answer to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import BadValue
from llm_lab.models.language_model import evaluating
from llm_lab.probes.activations import (
    batches,
    flat,
    gather,
    layer_of,
    logit_weights,
    vector_sites,
    vectors,
)
from llm_lab.probes.neurons import Moments
from llm_lab.probes.options import SAEOptions
from llm_lab.probes.passages import unit
from llm_lab.probes.reading import Reading, fills
from llm_lab.probes.recording import replace
from llm_lab.results import Autoencoder, FeatureScores, SparseAutoencoder
from llm_lab.store.lm import LM

BATCH = 1024  # tokens of a step
HELD = 10  # one block in so many is held out, from the end
SHOWN, SHADED = 24, 8  # features of a corpus, of a text
ALIKE = 0.9  # cosine of two directions of which one is enough
OFTEN = 4  # times as many tokens as passages
REVIVED = 0.75  # of the steps, in which features begin again
EVERY = 0.5  # seconds between two states of the result
MASKED = 0.15
COLUMNS = {
    "largest": "activation at the peak of the first passage",
    "mean": "activation over all tokens",
    "active": "share of tokens where it is not 0, %",
}
CAPTION = (
    "Each feature is a direction at the site; few are active at a token, and their sum is about its activation (Bricken et al. 2023). "
    "In a passage the fuller the blue, the more active; the peak is framed. "
)


class Coder:
    """An autoencoder while it is trained, for activations of mean 0 and mean squared length 1; its decoder's rows are used
    at length 1. It begins with directions of the data, the encoder as the decoder's transpose (Gao et al. 2024, A.1) times
    what makes their size right."""

    def __init__(self, x: Float[Tensor, "N D"], n_features: int, k: int | None, generator: torch.Generator) -> None:
        drawn = torch.randint(len(x), (n_features,), generator=generator).to(x.device)
        noise = torch.randn(n_features, x.shape[1], generator=generator).to(x.device)
        rows = F.normalize(F.normalize(x[drawn], dim=1) + 0.3 * F.normalize(noise, dim=1), dim=1)
        self.k = k
        self.decoder, self.encoder, self.bias = rows, rows.T.contiguous(), x.new_zeros(n_features)
        some = x[:BATCH]
        first = self.decode(self.features(self.before(some)))  # directions that are alike together say too much
        self.encoder *= float((some * first).sum() / first.square().sum().clamp(min=1e-12))
        for parameter in self.parameters:
            parameter.requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [self.decoder, self.encoder, self.bias]

    def before(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        return x @ self.encoder + self.bias

    def features(self, before: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        return sparse(before, self.k)

    def decode(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N D"]:
        return features @ F.normalize(self.decoder, dim=1)

    def revive(self, dead: Tensor, left: Float[Tensor, "N D"], generator: torch.Generator) -> Int[Tensor, " R"]:
        """Give features that are dead, (F,) bool, directions of what is left of activations, drawn by its size, none nearly the
        same; which features those are."""
        chances = left.square().sum(1).cpu() + 1e-12
        drawn = torch.multinomial(chances, min(int(dead.sum()), len(left)), generator=generator).to(left.device)
        rows = F.normalize(left[drawn], dim=1)
        alike = (rows @ rows.T > ALIKE).tril(-1).any(1)
        rows = rows[~alike]
        revived = dead.nonzero()[: len(rows), 0]
        with torch.no_grad():
            size = self.encoder[:, ~dead].norm(dim=0).mean() if bool((~dead).any()) else 1.0
            self.decoder[revived], self.encoder[:, revived], self.bias[revived] = rows, rows.T * size, 0.0
        return revived


def sparse(before: Float[Tensor, "N F"], k: int | None) -> Float[Tensor, "N F"]:
    """max(0, ·), of each token only the k largest where k is given."""
    if k is None or k >= before.shape[1]:
        return before.relu()
    found = before.topk(k, dim=1)
    return torch.zeros_like(before).scatter(1, found.indices, found.values.relu())


def train(
    x: Float[Tensor, "N D"], options: SAEOptions, n_features: int
) -> Iterator[tuple[int, float, Callable[[], Autoencoder]]]:
    """States of the training: steps done, the loss (the share of the variance that is not explained, penalties included), and what
    gives the autoencoder as it is now. An interrupt ends it where it is.

    Features that have not been active for a twentieth of the steps begin again, in directions that the others leave, for as long as there
    is time to learn (Bricken et al. 2023, "neuron resampling").
    """
    generator = torch.Generator().manual_seed(options.seed % 2**63)
    mean = x.mean(0)
    length = float((x - mean).square().sum(1).mean().sqrt()) or 1.0
    k = options.k if options.sparsity == "topk" else None
    coder = Coder((x - mean) / length, n_features, k, generator)
    adam = torch.optim.Adam(coder.parameters, lr=options.lr)
    idle = torch.zeros(n_features, dtype=torch.long, device=x.device)
    patience = max(options.steps // 20, 5)

    def step(done: int, share: float) -> float:
        for group in adam.param_groups:
            group["lr"] = options.lr * (1 - share)
        drawn = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator).to(x.device)
        with torch.enable_grad():
            seen = (x[drawn] - mean) / length
            before = coder.before(seen)
            found = coder.features(before)
            left = seen - coder.decode(found)
            loss = left.square().sum(1).mean()
            if options.sparsity == "l1":
                loss = loss + options.l1 * found.sum(1).mean()
            grads = torch.autograd.grad(loss, coder.parameters)
        for parameter, grad in zip(coder.parameters, grads, strict=True):
            parameter.grad = grad
        adam.step()
        idle.add_(1).masked_fill_((found > 0).any(0), 0)
        if done % patience == 0 and done <= options.steps * REVIVED and bool((dead := idle >= patience).any()):
            fresh = coder.revive(dead, left.detach(), generator)
            for parameter, rows in zip(coder.parameters, (fresh, (slice(None), fresh), fresh), strict=True):
                for moment in ("exp_avg", "exp_avg_sq"):
                    adam.state[parameter][moment][rows] = 0
            idle[fresh] = 0
        return float(loss.detach())

    def now() -> Autoencoder:
        def array(value: Tensor) -> np.ndarray:
            return value.detach().float().cpu().numpy().copy()

        # Trained on activations of length 1: what is linear stays, the bias is of their length.
        rows = F.normalize(coder.decoder.detach(), dim=1)
        return Autoencoder("", array(coder.encoder), array(rows), array(coder.bias * length), array(mean), k)

    start = shown = time.perf_counter()
    done, loss = 0, float("nan")
    try:
        for done in range(1, options.steps + 1):
            spent = time.perf_counter() - start
            late = spent / options.seconds if options.seconds else 0.0
            share = (
                late if late > done / options.steps else (done - 1) / options.steps
            )  # in time, the clock counts for nothing
            if share >= 1:
                done -= 1
                break
            loss = step(done, share)
            if time.perf_counter() - shown > EVERY:
                shown = time.perf_counter()
                yield done, loss, now
    except KeyboardInterrupt:
        pass
    yield done, loss, now


def on_device(
    found: Autoencoder, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The encoder and the decoder as functions of tensors there, rows of the last axis."""
    encoder, decoder, bias, mean = (
        torch.from_numpy(x).to(device) for x in (found.encoder, found.decoder, found.bias, found.mean)
    )

    def encode(x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        return sparse((rows - mean) @ encoder + bias, found.k).unflatten(0, x.shape[:-1])

    return encode, lambda features: features @ decoder + mean


def sae(reading: Reading, options: SAEOptions) -> Iterator[SparseAutoencoder | FeatureScores]:
    """Trained on a corpus but for its last tenth, on which it is measured; then the features of all that was read, or of a
    text. The corpus stands for training even where a text is given."""
    lm = reading.lm
    sites = vector_sites(lm, options.site, _middle(lm))
    if len(sites) > 1:
        raise BadValue(
            f"site: {options.site!r} means {len(sites)} sites, and an autoencoder is of one; use for example --site {sites[0]}"
        )
    site = sites[0]
    blocks = list(reading.blocks(options.corpus, options.max_tokens))
    if len(blocks) < 2:
        raise BadValue(
            f"corpus: it has {len(blocks)} block of the context, and one trains and one measures; use a longer text"
        )
    cut = len(blocks) - max(len(blocks) // HELD, 1)
    parts = [list(batches(some)) for some in (blocks[:cut], blocks[cut:])]
    x, held = (torch.cat([found[site] for found in gather(lm, part, sites)]) for part in parts)
    n_features = options.n_features or 4 * x.shape[1]
    how = f"top {options.k}" if options.sparsity == "topk" else f"l1 {options.l1:g}"
    facts = [site, f"{n_features:,} features", how, f"{len(x) + len(held):,} tokens read"]
    row, square = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    nothing = Autoencoder(site, square, square, row, row)
    got: Any = None
    with contextlib.suppress(KeyboardInterrupt):  # one that comes while a state is drawn
        for got in train(x, options, n_features):
            done, loss, _ = got
            state = [("step", f"{done:,} of {options.steps:,}"), ("loss", f"{loss:.4f}")]
            if not reading.texts:
                yield SparseAutoencoder(
                    name=lm.name, kind="sae", facts=facts, figures=state, autoencoder=nothing, done=False
                )
    done, loss, now = got
    trained = now()
    found = Autoencoder(site, trained.encoder, trained.decoder, trained.bias, trained.mean, trained.k)
    encode, decode = on_device(found, x.device)
    moments = Moments(options.top)
    for some, part in zip((x, held), parts, strict=True):
        for block, rows in zip(part, some.split([block.numel() for block in part]), strict=True):
            moments.see(encode(rows).unflatten(0, block.shape))
    stats = moments.stats()
    dead = float((stats["active"] == 0).mean())
    code = encode(held)
    centred = float((held - held.mean(0)).square().sum()) or 1.0
    explained = 1 - float((held - decode(code)).square().sum()) / centred
    average = x.mean(0)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "clean": lambda rows: rows,
        "reconstructed": lambda rows: decode(encode(rows)),
        "mean": lambda rows: average.expand_as(rows),
        "zero": torch.zeros_like,
    }
    losses = {name: loss for name, way in ways.items() if (loss := replaced_loss(lm, parts[1], site, way)) is not None}
    figures = [
        ("variance explained, %", f"{100 * explained:.1f}"),
        ("features of a token (L0)", f"{float((code > 0).sum(1).float().mean()):.1f}"),
        ("dead features, %", f"{100 * dead:.1f}"),
        *_recovered(losses),
    ]
    notes = [] if done == options.steps else [f"The training ended at step {done:,} of {options.steps:,}."]
    notes.append(f"Variance, L0 and losses are of the last {len(held):,} tokens, which it was not trained on.")
    if not losses:
        notes.append("The model's loss is left out: it has none on a text alone.")
    if reading.texts:
        yield _shaded(reading, site, found, losses, facts, figures, notes)
        return
    chosen = telling(stats, (len(x) + len(held)) / 100, options.top)
    ids, starts = flat([*parts[0], *parts[1]])
    columns = torch.cat([encode(rows)[:, chosen].cpu() for some in (x, held) for rows in some.split(4096)]).numpy()
    logits = logit_weights(lm.model, site, found.decoder[chosen])
    units = []
    for place, (i, column) in enumerate(zip(chosen, columns.T, strict=True)):
        numbers = {"largest": float(column.max()), "mean": float(column.mean()), "active": float(stats["active"][i])}
        weights = None if logits is None else logits[place]
        units.append(unit(f"feature {i}", numbers, column, ids, starts, reading.tokenizer, options.top, weights))
    yield SparseAutoencoder(
        name=lm.name,
        kind="sae",
        facts=[*facts, f"{len(units)} shown"],
        units=units,
        columns=COLUMNS,
        figures=figures,
        caption=CAPTION,
        notes=notes,
        autoencoder=found,
        losses=losses,
    )


def telling(stats: dict[str, np.ndarray], per_cent: float, top: int) -> list[int]:
    """The features that are listed, the most telling first: of those that are active at several times as many tokens as passages are
    shown, `per_cent` being the tokens in a hundredth, or of all where there is none."""
    score = np.where(np.isfinite(stats["telling"]), stats["telling"], -np.inf)
    often = stats["active"] * per_cent >= OFTEN * top
    if (often & np.isfinite(score)).any():
        score = np.where(often, score, -np.inf)
    return [int(i) for i in np.argsort(-score, kind="stable")[:SHOWN] if np.isfinite(score[i])]


def _middle(lm: LM) -> str:
    """The stream behind the middle layer."""
    layers = sorted({i for i in map(layer_of, lm.model.sites()) if i is not None})
    return f"blocks.{layers[(len(layers) - 1) // 2]}.resid_post"


def _shaded(
    reading: Reading,
    site: str,
    found: Autoencoder,
    losses: dict[str, float],
    facts: list[str],
    figures: list[tuple[str, str]],
    notes: list[str],
) -> FeatureScores:
    """The text by the features that are most active in it, all tokens together."""
    (read,) = gather(reading.lm, [reading.ids()], [site])
    code = found.encode(read[site].cpu().numpy())
    order = [int(i) for i in np.argsort(-code.sum(0), kind="stable")[:SHADED] if code[:, i].any()]
    return FeatureScores(
        name=reading.name,
        kind="sae",
        facts=facts,
        pieces=reading.pieces(),
        scores={f"feature {i}": code[:, i] for i in order or [0]},
        quantity="activation",
        signed=False,
        figures=figures,
        caption="The activation of one feature at each token; which one is chosen above the text.",
        notes=notes,
        autoencoder=found,
        losses=losses,
    )


def _recovered(losses: dict[str, float]) -> list[tuple[str, str]]:
    """The losses, and how much of what an ablation costs the reconstruction does not."""
    if not losses:
        return []
    names = {
        "clean": "loss of the model",
        "reconstructed": "with the reconstruction",
        "mean": "with the mean",
        "zero": "with zeros",
    }
    rows = [(f"{words}, nats", f"{losses[name]:.4f}") for name, words in names.items()]
    for name, words in (("mean", "against the mean"), ("zero", "against zeros")):
        rows.append((f"loss recovered {words}, %", _percent(loss_recovered(losses, name))))
    return rows


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def loss_recovered(losses: dict[str, float], against: str = "zero") -> float | None:
    """(ablated − reconstructed) / (ablated − clean): 1 where the reconstruction costs nothing, 0 where as much as the ablation
    (Bricken et al. 2023, "automated"). None where the ablation itself costs nothing."""
    cost = losses[against] - losses["clean"]
    return (losses[against] - losses["reconstructed"]) / cost if cost > 1e-6 else None


def replaced_loss(lm: LM, blocks: Sequence[Tensor], site: str, way: Callable[[Tensor], Tensor]) -> float | None:
    """The model's mean loss, nats per token, on blocks while `way` of the vectors at a site stands for them: of the next token, or of a
    model that fills in of 15 % masked ones, always the same. None where it does neither."""
    total = count = 0.0
    gaps = fills(lm)
    if not gaps and "next_token" not in lm.supports:
        return None
    generator = torch.Generator().manual_seed(0)

    def putting(length: int) -> Callable[[Tensor], Tensor]:
        return lambda x: _put(x, way(vectors(x, length)), length)

    with evaluating(lm.model), torch.no_grad():
        for ids in blocks:
            given, targets = ids, F.pad(ids[:, 1:], (0, 1), value=-100)
            if gaps:
                hidden = (torch.rand(ids.shape, generator=generator) < MASKED).to(ids.device)
                given, targets = ids.masked_fill(hidden, lm.tokenizer.special("mask")), ids.masked_fill(~hidden, -100)
            with replace(lm.model, {site: putting(ids.shape[1])}):
                logits = lm.model(**lm.batch(given).inputs()).logits
            total += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"))
            count += int((targets >= 0).sum())
    return total / count if count else None


def _put(x: Tensor, rows: Float[Tensor, "B T N"], length: int) -> Tensor:
    """An activation with other vectors at the first `length` tokens: what `vectors` read, put back."""
    new = x.clone()
    if x.ndim == 4:
        new[:, :, :length] = rows.unflatten(2, (x.shape[1], x.shape[3])).movedim(2, 1).to(x.dtype)
    else:
        new[:, :length] = rows.to(x.dtype)
    return new

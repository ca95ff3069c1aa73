"""What neurons answer to: the passages of a corpus at which they are most active, or one text shaded by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.errors import BadValue
from llm_lab.probes.activations import batches, blocks_of, flat, gather, layer_of, logit_weights, vector_sites, visit
from llm_lab.probes.options import NeuronsOptions
from llm_lab.probes.passages import unit
from llm_lab.probes.reading import Reading
from llm_lab.results import Passages, TokenScores

DEFAULT = "blocks.*.mlp.post"
SHOWN = 16  # neurons, where none is named
SHADED = 8  # the same, of one text
STRETCH = 32  # tokens; of each the peak counts when the most telling are chosen
COLUMNS = {
    "largest": "activation at the peak of the first passage",
    "mean": "activation over all tokens",
    "active": "share of tokens above 0, %",
    "kurtosis": "of the activations: 0 for a normal distribution, large where few tokens have it all",
}
CAPTION = (
    "Each passage is a stretch of the text around a token at which the neuron is most active (framed); the fuller the blue, the "
    "larger its activation, against the largest of all its passages; orange is below zero. "
)
RAISES = "“Raises” and “lowers” are its output weights through the last norm's gain and the output: what it adds to the logits directly, per unit of activation, before the norm divides."


class Moments:
    """Running numbers of every unit at one site: the first four moments, the share above zero, the largest peaks."""

    def __init__(self, top: int) -> None:
        self.top, self.count = top, 0
        self.shift: Tensor | None = None

    def see(self, x: Float[Tensor, "B T N"]) -> None:
        """Add a batch. Sums are of float64 around the first batch's mean, so that nothing cancels."""
        x = x.cpu()  # float64 is not everywhere
        flat = x.flatten(0, 1)
        if self.shift is None:
            self.shift = flat.mean(0)
            self.sums = torch.zeros(4, flat.shape[1], dtype=torch.float64)
            self.active = torch.zeros(flat.shape[1], dtype=torch.float64)
            self.peaks = torch.full((self.top, flat.shape[1]), -torch.inf)
        off = flat - self.shift
        power = off
        for i in range(4):
            self.sums[i] += power.sum(0, dtype=torch.float64)
            power = power * off
        self.active += (flat > 0).sum(0)
        self.count += len(flat)
        peaks = [part.amax(1) for part in x.split(STRETCH, dim=1)]
        self.peaks = torch.cat([self.peaks, *peaks]).topk(self.top, dim=0).values

    def stats(self) -> dict[str, np.ndarray]:
        """By name, (N,) float64: mean, spread (standard deviation), active (%), kurtosis (excess) and telling: how many
        standard deviations the last of the largest peaks stands above the mean."""
        assert self.shift is not None, "there is text"
        m1, m2, m3, m4 = (self.sums / self.count).numpy()
        variance = np.maximum(m2 - m1**2, 0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        mean = m1 + self.shift.double().numpy()
        lives = variance > 1e-12 * (1 + mean**2)
        spread = np.sqrt(variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            kurtosis = np.where(lives, fourth / variance**2 - 3, np.nan)
            peaks = self.peaks.double().numpy()
            last = np.where(np.isfinite(peaks), peaks, np.inf).min(0)  # of the stretches there are
            telling = np.where(lives, (last - mean) / spread, -np.inf)
        active = 100 * self.active.numpy() / self.count
        return {"mean": mean, "spread": spread, "active": active, "kurtosis": kurtosis, "telling": telling}


def neurons(reading: Reading, options: NeuronsOptions) -> Passages | TokenScores:
    """Of a corpus, two passes: one measures every neuron, the other reads those that are shown. Of a text one is enough.

    Where none is named, those are shown of whose `top` largest peaks (of stretches of 32 tokens) the last stands farthest
    above the mean, in standard deviations.
    """
    lm = reading.lm
    sites = vector_sites(lm, options.site, DEFAULT, options.layer)
    moments = {site: Moments(options.top) for site in sites}
    for block in batches(blocks_of(reading, options.corpus, options.max_tokens)):
        visit(lm, block, sites, lambda x, site: moments[site].see(x))
    stats = {site: one.stats() for site, one in moments.items()}
    shown = chosen(stats, options.neuron, SHADED if reading.texts else SHOWN)
    n_read = next(iter(moments.values())).count
    values, ids, starts = columns(reading, options, shown)
    width = sum(len(stats[site]["mean"]) for site in sites)
    facts = ["neurons", sites[0] if len(sites) == 1 else f"{len(sites)} sites", f"{len(shown)} of {width:,} shown"]
    if reading.texts:
        return TokenScores(
            name=lm.name,
            kind="neurons",
            facts=facts[1:],
            pieces=reading.pieces(),
            scores={title(site, i): column for (site, i), column in zip(shown, values.T, strict=True)},
            quantity="activation",
            signed=bool((values < 0).any()),
            caption="The activation of one neuron at each token; which one is chosen above the text.",
        )
    units = []
    for (site, i), column in zip(shown, values.T, strict=True):
        numbers = {name: float(stats[site][name][i]) for name in ("mean", "active", "kurtosis")}
        direction = np.eye(1, len(stats[site]["mean"]), i, dtype=np.float32)
        found = logit_weights(lm.model, site, direction)
        numbers = {"largest": float(column.max()), **numbers}
        units.append(
            unit(
                title(site, i),
                numbers,
                column,
                ids,
                starts,
                reading.tokenizer,
                options.top,
                None if found is None else found[0],
            )
        )
    return Passages(
        name=lm.name,
        kind="neurons",
        facts=[*facts[1:], f"{n_read:,} tokens read"],
        units=units,
        columns=COLUMNS,
        caption=CAPTION + (RAISES if any(one.promoted for one in units) else ""),
    )


def title(site: str, i: int) -> str:
    """A neuron by its layer and number; one of another site than the MLP's by its site."""
    layer = layer_of(site)
    return f"layer {layer}, neuron {i}" if site.endswith("mlp.post") else f"{site}, number {i}"


def chosen(stats: dict[str, dict[str, np.ndarray]], named: Sequence[int], count: int) -> list[tuple[str, int]]:
    """The neurons that are shown, by site and number: those named, in every site, or the most telling of all."""
    if named:
        for site, found in stats.items():
            if (most := max(named)) >= len(found["mean"]):
                raise BadValue(f"neuron: {most} is not there; {site} has 0 to {len(found['mean']) - 1}")
        return [(site, i) for site in stats for i in dict.fromkeys(named)]
    every = [(site, i) for site, found in stats.items() for i in np.flatnonzero(np.isfinite(found["telling"])).tolist()]
    if not every:
        raise BadValue("site: its activations are the same at every token; use another, or a model that was trained")
    return sorted(every, key=lambda one: -stats[one[0]]["telling"][one[1]])[:count]


def columns(
    reading: Reading, options: NeuronsOptions, shown: Sequence[tuple[str, int]]
) -> tuple[Float[np.ndarray, "N U"], np.ndarray, np.ndarray]:
    """The activations of some neurons at every token, the ids, (N,), and where the blocks begin."""
    sites = list(dict.fromkeys(site for site, _ in shown))
    blocks = list(batches(blocks_of(reading, options.corpus, options.max_tokens)))
    found = [
        torch.stack([read[site][:, i] for site, i in shown], dim=1).cpu() for read in gather(reading.lm, blocks, sites)
    ]
    return torch.cat(found).numpy(), *flat(blocks)

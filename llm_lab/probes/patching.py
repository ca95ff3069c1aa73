"""Activation patching: which activations of one run, put into another, carry its answer; and what gradients say of that
without running it (Meng et al. 2022, §2.1; Heimersheim & Nanda 2024; Nanda 2023; Syed et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llm_lab.errors import BadValue, listing, show, suggestion
from llm_lab.models.language_model import evaluating
from llm_lab.models.sites import Replacement, Tape, canonical, opened
from llm_lab.probes.contrast import Contrast, contrast, growing, logits_at
from llm_lab.probes.options import AttributionPatchingOptions, PatchOptions
from llm_lab.probes.reading import Reading, check_number
from llm_lab.results import Heatmap, Panel

OF_HEADS = ("attn.z", "attn.q", "attn.k", "attn.v", "attn.pattern")
PATCHED = ("resid_pre", "resid_mid", "resid_post", "attn.out", "mlp.out", *OF_HEADS, "mlp.post")


@dataclass(frozen=True, eq=False)
class Plan:
    """Which site is patched, in which layers, and what of it at a time."""

    contrast: Contrast
    site: str
    layers: list[int]
    by: str  # position | head | head_position
    heads: int  # that the site has; 1 for the stream

    @property
    def cells(self) -> int:
        """Patches in a layer."""
        n = self.contrast.length
        return {"position": n, "head": self.heads, "head_position": self.heads * n}[self.by]

    def name(self, layer: int) -> str:
        """The site of a layer."""
        return f"{self.contrast.prefix}blocks.{layer}.{self.site}"

    def mask(self, cells: Int[Tensor, " R"], like: Tensor) -> Bool[Tensor, "R ..."]:
        """Where each patch is in the site, broadcast over its width. In two streams a position stands in both."""
        n, here = self.contrast.length, like.device
        position = torch.arange(like.shape[-2], device=here) % n
        head = torch.arange(self.heads, device=here)
        if self.by == "head":
            return (head == cells[:, None])[:, :, None, None]
        at = position == (cells % n)[:, None]
        if self.by == "head_position":
            return (head == (cells // n)[:, None])[:, :, None, None] & at[:, None, :, None]
        return at[:, :, None] if like.ndim == 3 else at[:, None, :, None]

    def summed(self, values: Float[Tensor, "1 ..."]) -> Float[Tensor, " R"]:
        """Of numbers at every place of the site the sum over each patch's."""
        n = self.contrast.length
        of_heads = values.sum(dim=-1).view(self.heads, -1, n).sum(dim=1)  # (H, T): the streams are summed
        if self.by == "head_position":
            return of_heads.flatten()
        return of_heads.sum(dim=1 if self.by == "head" else 0)


def patch(reading: Reading, options: PatchOptions) -> Iterator[Heatmap]:
    """How far the answer goes from one run's to the other's when an activation is taken from there, for every place.

    0 is the run that is patched, 1 the one that the activations come from; both are run with explicit attention, and
    with patches one at a time, many rows to a pass. Raises BadValue for texts of unequal length, and for sites that are
    not there.
    """
    made = plan(contrast(reading, options), options)
    if made.by == "head_position" and options.layer is None:
        made = _narrowed(made, measured(Plan(made.contrast, made.site, made.layers, "head", made.heads)))
    values = _empty(made)
    result = _map(made, [values], "patch")
    yield from growing(result, _patched(made, values), result.notes.append)


def attribution_patching(reading: Reading, options: AttributionPatchingOptions) -> Iterator[Heatmap]:
    """The same map estimated to first order: (source − base) · ∂metric/∂activation of the base run, from two forward
    passes and one backward (Nanda 2023; Syed et al. 2023).

    With `n_steps` above 1 the gradient is the mean over as many runs whose embeddings lie between those of the two texts
    (Hanna et al. 2024, §3: integrated gradients). `check` patches too, and gives the correlation of the two maps.
    """
    made = plan(contrast(reading, options), options)
    if made.by == "head_position" and options.layer is None:
        coarse = plan(made.contrast, options, by="head")
        made = _narrowed(made, _estimated(coarse, options.n_steps))
    values = _estimated(made, options.n_steps)
    if not options.check:
        yield _map(made, [values], "attribution_patching")
        return
    true = _empty(made)
    result = _map(made, [values, true], "attribution_patching")
    yield from growing(result, _checked(made, values, true, result), result.notes.append)


def plan(made: Contrast, options: PatchOptions, by: str | None = None) -> Plan:
    """What the options ask for, of this model."""
    config = made.model.config
    assert config is not None, "a model with sites is one of ours"
    site, layer = _site(options.site or "resid_pre", made)
    if layer is None:
        layer = options.layer
    check_number("layer", layer, config.n_layer)
    of_heads = site in OF_HEADS
    by = by or options.by or (("head" if layer is None else "head_position") if of_heads else "position")
    if by != "position" and not of_heads:
        raise BadValue(
            f"by: {site} has no heads, so it is patched by position; sites with heads are {listing(OF_HEADS)}"
        )
    heads = (config.kv_heads if site in ("attn.k", "attn.v") else config.n_head) if of_heads else 1
    return Plan(made, site, list(range(config.n_layer)) if layer is None else [layer], by, heads)


def _site(wanted: str, made: Contrast) -> tuple[str, int | None]:
    """(a site by its name within a layer, the layer where one was named)."""
    inside = re.fullmatch(rf"(?:{re.escape(made.prefix)})?blocks\.(\*|\d+)\.(.+)", canonical(wanted))
    layer, name = inside.groups() if inside else ("*", canonical(wanted))
    name = f"attn.{name}" if f"attn.{name}" in OF_HEADS else name
    there = [site for site in PATCHED if f"{made.prefix}blocks.0.{site}" in made.model.sites()]
    if name not in there:
        raise BadValue(
            f"site: {show(wanted)} cannot be patched here{suggestion(name, there)}; there is: {listing(there)}, for example --site {there[0]}"
        )
    return name, None if layer == "*" else int(layer)


def _empty(made: Plan) -> np.ndarray:
    return np.full((len(made.layers), made.cells), np.nan, np.float32)


def _patched(made: Plan, values: np.ndarray) -> Iterator[None]:
    """Fill in the map, layer by layer."""
    source = made.contrast.read([made.name(layer) for layer in made.layers], made.contrast.source)
    for row, layer in enumerate(made.layers):
        site = made.name(layer)
        for cells in torch.arange(made.cells, device=made.contrast.model.device).split(made.contrast.rows):
            metric = made.contrast.measure(patched(made, site, source[site], cells))
            values[row, cells.cpu().numpy()] = made.contrast.share(metric).float().cpu().numpy()
        yield


def patched(made: Plan, site: str, source: Tensor, cells: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
    """The answer's logits of the base run with each of these patches made at a site, a row for each."""
    mask = made.mask(cells, source)
    return made.contrast.run(len(cells), {site: lambda x: torch.where(mask, source, x)})


def _estimated(made: Plan, n_steps: int) -> np.ndarray:
    """The map to first order, (L, R) float32."""
    compared, model = made.contrast, made.contrast.model
    sites, embed = [made.name(layer) for layer in made.layers], f"{compared.prefix}embed"
    base, source = (compared.read([*sites, embed], asked) for asked in (compared.base, compared.source))
    total = {site: torch.zeros_like(x) for site, x in base.items()}
    for step in range(n_steps):
        way = (step + 0.5) / n_steps if n_steps > 1 else 0.0
        leaf = torch.lerp(base[embed], source[embed], way).requires_grad_()
        with torch.enable_grad(), evaluating(model):
            with opened(Tape(model, frozenset(sites), {embed: _given(leaf)}, grad=True)) as tape:
                metric = compared.measure(logits_at(model, compared.base))[0]
            gradients = torch.autograd.grad(metric, [tape.found[site] for site in sites], materialize_grads=True)
        for site, gradient in zip(sites, gradients, strict=True):
            total[site] += gradient / n_steps
    rows = [made.summed(((source[site] - base[site]) * total[site]).double()) for site in sites]
    return compared.estimate(torch.stack(rows)).float().cpu().numpy()


def _given(value: Tensor) -> Replacement:
    return lambda _: value


def _checked(made: Plan, values: np.ndarray, true: np.ndarray, result: Heatmap) -> Iterator[None]:
    yield from _patched(made, true)
    if min(values.std(), true.std()) > 0:
        r = float(np.corrcoef(values.ravel(), true.ravel())[0, 1])
        result.figures.append(("correlation with patching", f"{r:.3f}"))
    result.figures.append(("largest difference from patching", f"{float(np.abs(values - true).max()):.3f}"))


def measured(made: Plan) -> np.ndarray:
    """The whole map, (L, R) float32."""
    values = _empty(made)
    for _ in _patched(made, values):
        pass
    return values


def _narrowed(made: Plan, by_head: np.ndarray) -> Plan:
    """The plan for the layer of the head that alone makes the largest difference."""
    layer = made.layers[int(np.abs(by_head).max(axis=1).argmax())]
    return Plan(made.contrast, made.site, [layer], made.by, made.heads)


def _map(made: Plan, maps: list[np.ndarray], kind: str) -> Heatmap:
    compared, tokens = made.contrast, made.contrast.columns
    heads, layers = [str(i) for i in range(made.heads)], [str(i) for i in made.layers]
    of_layer = made.by == "head_position"
    titles = ["by gradients", "by patching"] if len(maps) > 1 else [""]
    panels = [
        Panel(values.reshape(made.heads, -1), heads, tokens, title)
        if of_layer
        else Panel(values, layers, heads if made.by == "head" else tokens, title)
        for values, title in zip(maps, titles, strict=True)
    ]
    where = f"layer {made.layers[0]}" if of_layer else ""
    what = {"position": "a position", "head": "a head", "head_position": "a head at a position"}[made.by]
    source, base = ("corrupted", "clean") if compared.noising else ("clean", "corrupted")
    return Heatmap(
        name=compared.lm.name,
        kind=kind.replace("_", " "),
        facts=[made.site, *([where] if where else []), "noising" if compared.noising else "denoising"],
        panels=panels,
        quantity=compared.towards,
        axes=("head", "position") if of_layer else ("layer", "head" if made.by == "head" else "position"),
        signed=True,
        figures=list(compared.facts),
        caption=f"Each cell: {what} of {made.site} is taken from the {source} run and put into the {base} one"
        + (" (to first order)" if kind != "patch" else "")
        + f"; 0 leaves the {base} run's {compared.quantity}, 1 gives the {source} run's."
        + (" A token a / b is a in the clean text and b in the corrupted one." if made.by != "head" else ""),
        notes=_notes(made),
    )


def _notes(made: Plan) -> list[str]:
    config, notes = made.contrast.model.config, []
    assert config is not None, "a model with sites is one of ours"
    if made.contrast.prefix:
        notes.append("the encoder is patched, and the answer is the first token that the decoder writes")
    if made.site in ("attn.k", "attn.v") and config.kv_heads < config.n_head:
        notes.append(f"each head here serves {config.n_head // config.kv_heads} heads of queries")
    return notes

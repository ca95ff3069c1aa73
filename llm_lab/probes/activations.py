"""The activations of a text or a corpus at sites that have one vector a position; it keeps no more than it is told to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue, listing
from llm_lab.models.language_model import LanguageModel
from llm_lab.models.sites import matching
from llm_lab.probes.reading import Reading
from llm_lab.probes.recording import record
from llm_lab.store.lm import LM

TOKENS = 4096  # of a forward pass, about


def vector_sites(lm: LM, wanted: str | Sequence[str] | None, default: str, layer: int | None = None) -> list[str]:
    """The sites that are meant, in the model's order: those that a pattern, or else the `default`, matches and that hold
    a vector for each token of the text. BadValue where there is none."""
    model = lm.model
    known = model.sites()
    if wanted is None:
        two = model.config is not None and model.config.shape == "encoder_decoder"
        found = [
            site for site in known if re.fullmatch(("encoder." if two else "") + default.replace("*", r"\d+"), site)
        ]
        if not found:
            raise BadValue(
                f"site: {lm.name} has no {default}{', for its MLPs are experts' if _experts(lm) else ''}; use another, for example --site 'blocks.*.resid_post'"
            )
    else:
        found = matching(wanted, known)
    wrong = next((site for site in found if not _per_token(site, known[site])), None)
    if wrong is not None:
        works = next((site for site in known if _per_token(site, known[site])), "")
        why = "is of the decoder, which reads no corpus" if wrong.startswith("decoder.") else "has no vector a token"
        raise BadValue(f"site: {wrong} {why}; use for example --site {works}")
    if layer is not None:
        inside = [site for site in found if layer_of(site) == layer]
        if not inside:
            layers = sorted({i for i in map(layer_of, found) if i is not None})
            raise BadValue(
                f"layer: {layer} is not among the sites that are read; there is: {listing(map(str, layers)) or 'none'}"
            )
        found = inside
    return found


def layer_of(site: str) -> int | None:
    """The layer that a site stands in."""
    found = re.search(r"(?:^|\.)blocks\.(\d+)\.", site)
    return int(found[1]) if found else None


def _experts(lm: LM) -> bool:
    return lm.model.config is not None and lm.model.config.n_expert is not None


def _per_token(site: str, shape: str) -> bool:
    return (
        not site.startswith(("decoder.", "logits"))
        and not site.endswith((".scores", ".pattern"))
        and shape.count(",") > 1
    )


def vectors(x: Tensor, length: int) -> Float[Tensor, "B T N"]:
    """An activation as a vector for each of the `length` tokens: heads side by side; of two streams the first."""
    return (x.movedim(1, 2).flatten(2) if x.ndim == 4 else x)[:, :length]


def batches(blocks: Iterable[Tensor], tokens: int = TOKENS) -> Iterator[Tensor]:
    """Blocks, (1, T), of one length together, (B, T), about so many tokens a time."""
    held: list[Tensor] = []
    for block in blocks:
        if held and (block.shape != held[0].shape or (len(held) + 1) * block.shape[1] > tokens):
            yield torch.cat(held)
            held = []
        held.append(block)
    if held:
        yield torch.cat(held)


def visit(lm: LM, ids: Int[Tensor, "B T"], sites: Sequence[str], see: Callable[[Tensor, str], Any]) -> None:
    """One forward pass; `see` is shown the vectors of each site, (B, T, N) float32, as they come up. Nothing is kept."""

    def take(x: Tensor, site: str) -> Tensor:
        seen = vectors(x, ids.shape[1]).float()
        if not bool(seen.isfinite().all()):
            raise BadValue(f"{lm.name}'s {DIVERGED}")
        see(seen, site)
        return x.new_zeros(0)

    record(lm.model, lm.batch(ids), sites, take=take)


def gather(lm: LM, blocks: Iterable[Tensor], sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Of each batch the vectors of all its tokens by site, on the model's device, the tokens of a row one after another."""

    def read(ids: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        visit(lm, ids, sites, lambda x, site: found.update({site: x.flatten(0, 1).clone()}))
        return found

    return map(read, blocks)


def blocks_of(reading: Reading, corpus: Any, max_tokens: int) -> Iterator[Tensor]:
    """The text that was given, as one block; else the corpus, in blocks of the context."""
    if not reading.texts:
        return reading.blocks(corpus, max_tokens)
    if corpus is not None:
        raise BadValue("corpus: a text was given too, and one of them is read; leave one out")
    return iter([reading.ids()])


def flat(blocks: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """All ids of batches one after another, (N,), and where their blocks begin."""
    ids = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
    lengths = [block.shape[1] for block in blocks for _ in range(len(block))]
    return ids, np.cumsum([0, *lengths])[:-1]


# --- what a direction at a site says in the logits --------------------------------------------------------------------

_PARTS = ("attn", "cross", "mlp")
_STREAM = {"resid_pre": 0, "resid_mid": 1, "resid_cross": 2, "resid_post": 3}  # parts of the block that come before


def logit_weights(model: LanguageModel, site: str, directions: Float[np.ndarray, "U N"]) -> np.ndarray | None:
    """What each direction at a site adds to the logits along the direct path, (U, V) float32: through what writes it into
    the stream, the gains of the norms on its way and the output's weights (Elhage et al. 2021, "direct path"; the "logit
    weights" of Geva et al. 2022, §3.1). What norms divide by depends on the text and is left out, so are biases, a bend of the
    logits and later layers. None where the path is not linear: before a site that nothing writes, or under an output of
    several layers."""
    c = model.config
    path = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)", site)
    if c is None or path is None or c.output != "linear" or site.startswith(("encoder.", "decoder.")):
        return None
    model_: Any = model
    block = None if path[1] is None else model_.blocks[int(path[1]) % len(model_.blocks)]
    x = torch.from_numpy(directions).to(model.device).float()
    with torch.no_grad():
        written = _written(x, block, path[2])
        if written is None:
            return None
        for norm in _norms(model_, int(path[1] or 0), path[2]):
            written = _through(norm, written)
        if c.scale_logits:
            written = written * c.d_model**-0.5
        down = getattr(model_.head.down, "weight", None)
        narrow = written if down is None else written @ down.float().T
        return (narrow @ model_.unembed.weight.float().T).cpu().numpy()


def _written(x: Tensor, block: Any, name: str) -> Tensor | None:
    """Directions at a site as what they add to the stream, (U, D)."""
    if name in ("embed", "final", *_STREAM) or name.endswith(".out"):
        return x
    if name == "mlp.post":
        return x @ block.mlp.down.weight.float().T
    if name == "attn.z":
        return x @ block.attn.out.weight.float().T
    return None


def _norms(model: Any, layer: int, name: str) -> Iterator[Any]:
    """The norms between what a site writes and the output."""
    if name == "final":
        return
    place = model.config.norm_place
    part = name.partition(".")[0]
    if place == "sandwich" and part in _PARTS:
        yield model.blocks[layer % len(model.blocks)].after[part]
    if place == "post":
        passed = _STREAM[name] if name in _STREAM else _PARTS.index(part) if part in _PARTS else 0
        for i in range(layer, len(model.places)):
            block = model.blocks[i % len(model.blocks)]
            yield from (getattr(block, f"{part}_norm") for part in _PARTS[passed:] if hasattr(block, f"{part}_norm"))
            passed = 0
    yield model.norm


def _through(norm: Any, x: Tensor) -> Tensor:
    """What a norm does to directions, but for its division."""
    if isinstance(norm, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    return x if getattr(norm, "weight", None) is None else x * norm.weight.float()

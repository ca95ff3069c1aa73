"""Steering: what a model writes while a direction is added to its stream (activation addition, Turner et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llm_lab.decoding.writing import fills, write
from llm_lab.errors import BadType, BadValue, listing, show
from llm_lab.models.sites import matching
from llm_lab.probes.answers import answer, ask, quoted
from llm_lab.probes.contrast import growing, reading_prefix, run
from llm_lab.probes.options import SteerOptions
from llm_lab.probes.reading import Reading, read_ids
from llm_lab.probes.recording import record, replace
from llm_lab.results import Listing
from llm_lab.store.lm import LM


def steer(reading: Reading, options: SteerOptions) -> Iterator[Listing]:
    """The continuations of a text at each strength, with the same seed, and the log-probability of the target behind it.

    The direction is the difference of two mean activations at a site (over all tokens of each text, then over texts), or
    given; `strength` times it is added at every position that is read or written. Raises BadValue for a direction that
    is none, and for a site that is not of the stream.
    """
    lm = reading.lm
    site = _site(lm, options)
    direction = _direction(lm, site, options)
    asked = ask(reading, options)
    plain, _ = run(lm, asked, 1, {})
    target = answer(reading, options, plain[0]).target
    where = (
        "as the first token it writes"
        if asked.batch.decoder_ids is not None
        else f"at position {asked.position} of the prompt"
    )
    result = Listing(
        title=lm.name,
        facts=["steer", site, f"‖direction‖ {float(direction.norm()):.3g}", f"seed {options.seed}"],
        columns=["strength", f"log p({quoted(target)})", "change", "text"],
        rows=[],
        caption=f"Each row: what is written when strength × direction is added to {site} at every position. log p is the model's own for {quoted(target)} {where}, in nats; change is against no steering.",
    )
    rows: list[list[Any]] = []
    result.rows = rows

    prompt = reading.texts[0]
    # Gaps are filled in with as many tokens as there are.
    length = {} if fills(lm, {}) else {"max_new_tokens": options.max_new_tokens}

    def steps() -> Iterator[None]:
        at_zero = float(plain[0].double().log_softmax(dim=-1)[target.id])
        for strength in options.strengths:
            added = {site: lambda x, by=strength * direction: x + by.to(x)}
            steered, _ = run(lm, asked, 1, added)
            log_p = float(steered[0].double().log_softmax(dim=-1)[target.id])
            with replace(lm.model, added):
                made = write(lm, prompt, seed=options.seed, **length)
            text = made.texts[0] if made.from_source else made.texts[0].removeprefix(prompt)
            rows.append([strength, log_p, log_p - at_zero, text])
            if made.interrupted:
                raise KeyboardInterrupt
            yield

    def say(why: str) -> None:
        result.caption += f" {why[0].upper()}{why[1:]}."

    yield from growing(result, steps(), say)


def _site(lm: LM, options: SteerOptions) -> str:
    """The one site that is steered: unless told, the stream behind the middle layer."""
    config, prefix = lm.model.config, reading_prefix(lm.model)
    assert config is not None, "a model with sites is one of ours"
    if options.site is None:
        return f"{prefix}blocks.{(config.n_layer - 1) // 2}.resid_post"
    shapes = lm.sites()
    found = [site for site in matching(options.site, shapes) if site.startswith(prefix) and site != "logits"]
    if len(found) != 1 or shapes[found[0]].count(",") != 2:
        there = [site for site in shapes if site.startswith(prefix) and site.endswith("resid_post")]
        raise BadValue(
            f"site: {show(options.site)} is {listing(found, 4) or 'no site of the stack that reads the text'}, and a direction is added to one of shape (B, T, D); there is: {listing(there, 12)}"
        )
    return found[0]


def _direction(lm: LM, site: str, options: SteerOptions) -> Float[Tensor, " D"]:
    """The direction that is asked for, on the model's device."""
    width = int(lm.sites()[site].rstrip(")").rsplit(",", 1)[1])
    if options.vector is None:
        if options.toward is None or options.away is None:
            raise BadType(
                'steer needs toward and away, two texts that its direction leads between, or a vector; for example --toward "I love you" --away "I hate you"'
            )
        return _mean(lm, site, "toward", options.toward) - _mean(lm, site, "away", options.away)
    if options.toward is not None or options.away is not None:
        raise BadType("vector: it is the direction, and so is what leads from away toward; give one of the two")
    try:
        vector = torch.as_tensor(options.vector).detach().to(device=lm.device, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise BadType(
            f"vector: {show(options.vector)} holds no numbers; an array of shape ({width},) would do"
        ) from None
    if vector.shape not in ((width,), (2, width)):
        raise BadValue(
            f"vector: its shape is {tuple(vector.shape)}, and {site} is {width} wide; ({width},), or (2, {width}) for its two ends, would do"
        )
    if not vector.isfinite().all():
        raise BadValue("vector: it holds numbers that are not finite; give others")
    return vector if vector.ndim == 1 else vector[0] - vector[1]


def _mean(lm: LM, site: str, argument: str, value: Any) -> Float[Tensor, " D"]:
    """The mean activation of texts: over each one's tokens, then over them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadType(f'{argument}: {show(value)} is neither a text nor a list of some; for example "I love you"')
    found = []
    for text in texts:
        ids = read_ids(lm.tokenizer.encode(text), lm.model, argument)
        # Of two streams in one, the first is the one that reads the text.
        found.append(record(lm.model, lm.batch(ids), site)[site][0, : ids.shape[1]].float().mean(dim=0))
    return torch.stack(found).mean(dim=0)

"""What a model would predict from each of its layers: the logit lens, and the lens whose translators were trained for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llm_lab.errors import DIVERGED, BadValue
from llm_lab.probes.options import LogitLensOptions, TunedLensOptions
from llm_lab.probes.reading import Reading
from llm_lab.probes.stream import Predicted, Stream, predicted, stream
from llm_lab.results import LogitLens, TunedLens
from llm_lab.store.lm import LM

TOP = 10
CELLS = 2**22  # logits that are held at a time
ROWS = 512  # positions of a step of training
HELD_BACK = 5  # one block in so many is measured on, not trained on
REFRESH_SECONDS = 0.5  # between two states that are shown
PATIENCE = 9  # times as long is trained as the last state took to make

Translate = Callable[[int, Tensor], Tensor]  # of a layer, its stream


def logit_lens(reading: Reading, options: LogitLensOptions) -> LogitLens:
    """The last norm and the output applied to the stream of every layer (nostalgebraist 2020, "interpreting GPT: the logit
    lens")."""
    source, text = stream(reading, "logit_lens"), predicted(reading)
    return LogitLens(**_read(reading, source, text, lambda layer, x: x))


def tuned_lens(reading: Reading, options: TunedLensOptions) -> Iterator[TunedLens]:
    """A logit lens behind affine translators of every layer, trained here to predict what the model itself does (Belrose et
    al. 2023, §3): min KL(final ‖ layer), from the identity on. One block of the corpus in five is kept to measure on.

    The model stays as it is: gradients are taken for the translators alone.
    """
    source, text = stream(reading, "tuned_lens"), predicted(reading)
    if text.batch.decoder_ids is not None:
        raise BadValue(
            f"probe tuned_lens: {reading.name} has an encoder, and what its decoder reads is in no corpus; a decoder or an encoder would do, or kind logit_lens"
        )
    blocks = list(reading.blocks(options.corpus, options.max_tokens))
    if len(blocks) > 1 and blocks[-1].shape != blocks[0].shape:
        blocks.pop()  # all are read in rectangles
    if len(blocks) < 2:
        raise BadValue(
            f"corpus: its {sum(block.shape[1] for block in blocks):,} tokens are one block, and it takes one to train on and one to measure on; give more, at least {2 * reading.lm.max_seq_len:,} tokens"
        )
    back = [i % HELD_BACK == HELD_BACK - 1 for i in range(len(blocks))]
    back[-1] |= not any(back)
    trained, measured = (
        [block for block, kept in zip(blocks, back, strict=True) if kept is held] for held in (False, True)
    )
    training = _Training(reading.lm, source, trained, options)
    plain = _mean_kl(reading.lm, source, measured, lambda layer, x: x)
    lm = reading.lm.weakly()

    def state(done: bool = False, notes: tuple[str, ...] = ()) -> TunedLens:
        weight = training.weight.detach().half()  # what the result keeps is what it is read with
        translate = _translate(weight.float())
        kept = weight.cpu().numpy()
        made = TunedLens(
            **_read(reading, source, text, translate) | {"kind": "tuned_lens"},
            step=training.step,
            steps=options.steps,
            done=done,
            n_trained=sum(block.shape[1] for block in trained),
            n_measured=sum(block.shape[1] for block in measured),
            logit_kl=plain,
            tuned_kl=_mean_kl(reading.lm, source, measured, translate) if training.step else plain,
            translators=kept,
        )
        made.notes += notes
        made.actions["read"] = lambda texts: _again(lm, made, texts)
        return made

    began = time.perf_counter()
    yield state()
    shown = time.perf_counter()
    waited = took = shown - began
    why = ""
    try:
        while training.step < options.steps:
            training.advance()
            now = time.perf_counter()
            if options.seconds is not None and now - began - waited > options.seconds and training.step < options.steps:
                why = f"its {options.seconds:g} seconds ended after {training.step} of {options.steps} steps; --seconds is their bound"
                break
            if now - shown > max(REFRESH_SECONDS, PATIENCE * took):
                yield state()
                shown = time.perf_counter()
                took = shown - now
                waited += took
    except KeyboardInterrupt:
        why = f"interrupted after {training.step} of {options.steps} steps"
    yield state(True, (why,) if why else ())


class _Training:
    """Adam on the translators, its rate falling in a line to 0; a step reads a few blocks in a random order."""

    def __init__(self, lm: LM, source: Stream, blocks: list[Tensor], options: TunedLensOptions) -> None:
        self.lm, self.source, self.blocks, self.options, self.step = lm, source, blocks, options, 0
        width = source.model.config.d_model
        self.weight = torch.zeros(source.n_layer, width, width + 1, device=lm.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weight], lr=options.lr)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.order: list[int] = []

    def advance(self) -> None:
        """One step. The gradient of a layer's loss is that of its translator alone, so the layers are taken in turn."""
        x = self._next()
        with torch.no_grad():
            final = self.source.logits(x[-1]).log_softmax(dim=-1)
        gradient = torch.zeros_like(self.weight)
        for layer in range(self.source.n_layer):
            with torch.enable_grad():
                own = self.weight[layer].detach().requires_grad_()
                logs = self.source.logits(_translated(own, x[layer])).log_softmax(dim=-1)
                loss = F.kl_div(logs, final, reduction="sum", log_target=True) / final[..., 0].numel()
            (gradient[layer],) = torch.autograd.grad(loss, own)
        self.weight.grad = gradient
        self.optimizer.param_groups[0]["lr"] = self.options.lr * (1 - self.step / self.options.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _next(self) -> Float[Tensor, "L B T D"]:
        """The stream over some blocks that were not read in this round."""
        count = min(max(ROWS // self.blocks[0].shape[1], 1), len(self.blocks))
        if len(self.order) < count:
            self.order = torch.randperm(len(self.blocks), generator=self.generator).tolist()
        chosen, self.order = self.order[:count], self.order[count:]
        return self.source.record(self.lm.batch(torch.cat([self.blocks[i] for i in chosen])))


def _translated(own: Float[Tensor, "D D1"], x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    return x + F.linear(x.float(), own[:, :-1], own[:, -1]).to(x.dtype)


def _translate(weight: Float[Tensor, "L D D1"]) -> Translate:
    """Of the stream after the last layer nothing."""
    return lambda layer, x: x if layer == len(weight) else _translated(weight[layer], x)


def _again(lm: Callable[[], LM | None], made: TunedLens, texts: tuple[str, ...]) -> TunedLens:
    """A lens that was trained, on another text."""
    there = lm()
    if there is None:
        raise BadValue(f"read: the model {made.name} is no longer here; probe it again, kind tuned_lens")
    reading = Reading((there,), texts)
    source = stream(reading, "tuned_lens")
    translate = _translate(torch.from_numpy(made.translators).float().to(there.device))
    shown = _read(reading, source, predicted(reading), translate) | {"kind": "tuned_lens"}
    kept = {name: getattr(made, name) for name in _KEPT}
    return TunedLens(**shown, **kept, actions=made.actions)


_KEPT = ("step", "steps", "done", "n_trained", "n_measured", "logit_kl", "tuned_kl", "translators")


@torch.no_grad()
def _mean_kl(lm: LM, source: Stream, blocks: list[Tensor], translate: Translate) -> np.ndarray:
    """KL(final ‖ layer) in nats, the mean over all tokens of the blocks, (L + 1,)."""
    total, count = torch.zeros(source.n_layer + 1, dtype=torch.float64), 0
    for block in torch.cat(blocks).split(max(ROWS // blocks[0].shape[1], 1)):
        x = source.record(lm.batch(block))
        final = source.logits(x[-1]).log_softmax(dim=-1)
        for layer in range(source.n_layer):
            logs = source.logits(translate(layer, x[layer])).log_softmax(dim=-1)
            total[layer] += F.kl_div(logs, final, reduction="sum", log_target=True).double().cpu()
        count += final[..., 0].numel()
    return (total / count).numpy().astype(np.float32)


@torch.no_grad()
def _read(reading: Reading, source: Stream, text: Predicted, translate: Translate) -> dict[str, Any]:
    """The fields of a lens on one text."""
    tokenizer = reading.tokenizer
    x = source.record(text.batch)[:, 0]  # (L + 1, T, D)
    if not x.isfinite().all():
        raise BadValue(f"{reading.name}'s {DIVERGED}")
    known = torch.tensor([-1 if i is None else i for i in text.truth], device=x.device)
    rows = max(CELLS // source.model.vocab_size, 1)
    parts = []
    for start in range(0, x.shape[1], rows):
        here = slice(start, start + rows)
        final = source.logits(x[-1:, here])[0].log_softmax(dim=-1)
        lines = []
        for layer in range(len(x)):
            logs = source.logits(translate(layer, x[layer : layer + 1, here]))[0].log_softmax(dim=-1)
            lines.append(_statistics(logs, final, known[here], tokenizer.vocab_size))
        parts.append([torch.stack(column) for column in zip(*lines, strict=True)])
    top, top_logprob, true, rank, entropy, kl = (
        torch.cat(column, dim=1).cpu().numpy() for column in zip(*parts, strict=True)
    )
    pieces = tokenizer.pieces(text.read)
    ids = np.unique(top).tolist()
    return dict(
        name=reading.name,
        facts=[f"{len(pieces):,} tokens", f"{len(x) - 1} layers"],
        pieces=pieces,
        truth=[None if i is None else tokenizer.pieces([i])[0] for i in text.truth],
        top=top.astype(np.int32),
        top_logprob=top_logprob,
        true_logprob=true,
        rank=rank.astype(np.int32),
        entropy=entropy,
        kl=kl,
        names={i: piece.text for i, piece in zip(ids, tokenizer.pieces(ids), strict=True)},
        both_ways=text.both_ways,
        notes=_notes(source),
    )


def _statistics(
    logs: Float[Tensor, "t V"], final: Float[Tensor, "t V"], known: Int[Tensor, " t"], n_token: int
) -> tuple[Tensor, ...]:
    """Of one layer: the likeliest ids and their log p, the true token's log p and rank, entropy, KL(final ‖ layer)."""
    probs = logs.exp()
    top = logs[:, :n_token].topk(min(TOP, n_token), dim=-1)
    there = known >= 0
    true = logs.gather(1, known.clamp(min=0)[:, None])
    rank = ((logs > true).sum(dim=-1) + 1) * there
    true = true[:, 0].masked_fill(~there, torch.nan)
    entropy = -(probs * logs).nansum(dim=-1)
    kl = F.kl_div(logs, final, reduction="none", log_target=True).nansum(dim=-1)
    return top.indices, top.values, true, rank, entropy, kl.clamp(min=0)


def _notes(source: Stream) -> list[str]:
    """What is worth knowing of a model whose blocks end with a norm."""
    if source.model.config.final_norm:
        return []
    return ["norms stand after each sum in this model, so each layer is read as it leaves its block"]

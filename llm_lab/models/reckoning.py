"""The costs of a transformer, reckoned part by part.

Parameters are counted on a model without memory. FLOPs are those of matrix products and norms, forward, for one token at
the full context; of two stacks, for one token that is read and one that is written. Memory is that of training in
float32, as measured on CPUs, where it is within about half of the process's growth:

- each weight: itself, its gradient, two optimiser values, and its bytes when the model is saved;
- Muon's temporaries: five copies of the matrices of one shape, of which the largest are counted;
- the activations that the backward pass keeps, and its own gradients of one block;
- attention's weights where fused attention does not do: off CUDA where some of them are dropped, or with learned biases
  among the scores, T × T of them are kept;
- one batch of the evaluation at the end, which reads more tokens at once than a small step does: what it takes more than a
  step, or all of it on a CPU where the step's tensors are small, since malloc keeps those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from llm_lab import machine
from llm_lab.models import flops
from llm_lab.models.bare import bare
from llm_lab.models.options import MLPS, ModelConfig
from llm_lab.results import ModelPart

STATE_BYTES = 20  # weight, gradient, two optimiser values and the saved copy, in float32
_EVALUATED, _LOGITS = 8192, 1 << 24  # tokens at most, and logits, of one forward pass of an evaluation
_GIVEN_BACK = (
    1 << 25
)  # bytes: what malloc takes in one piece, and gives back; smaller ones it keeps, in pieces of their size
_MUON_COPIES = 5  # the stacked matrices, the iterate, its square and their successors
_COMPUTED = ("rotary", "sinusoidal", "alibi")  # positions without parameters, whose tables need not be made


def at_once(vocab_size: int, length: int) -> int:
    """Rows of `length` tokens that one forward pass of an evaluation reads: more are no faster, and take more memory."""
    return max(1, min(_EVALUATED, _LOGITS // vocab_size) // length)


@dataclass(frozen=True)
class _Side:
    """One stack: how often its block runs, and whether it reads what comes later."""

    stack: Any
    name: str
    layers: int
    causal: bool


class Reckoning:
    """The parts of one transformer, in the order data flows."""

    def __init__(self, config: ModelConfig, batch_size: int, device: str, optimizer: str = "muon") -> None:
        self.config = c = config
        position = "none" if c.position in _COMPUTED else c.position
        # Blocks are alike, so one of each stack is enough.
        self.model: Any = bare(replace(c, n_layer=1, n_decoder_layer=1, attention="full", position=position))
        self.streams = 2 if c.shape == "permutation" else 1  # positions that a token takes
        self.tokens = batch_size * c.max_seq_len
        self.gated = int(getattr(MLPS.load(c.mlp), "gated", False))
        self.dropped = int(c.dropout > 0)
        self.cuda = machine.device(device).type == "cuda"
        fused = self.cuda or not (c.weights_dropout or c.position == "t5")
        self.explicit = 0 if fused else c.n_head  # scores of a query for a key that are kept
        self.muon = _stacked(self.model, c) if optimizer == "muon" else {}
        self.temporaries = 4 * sum(self.muon.values())
        self.once: dict[str, float] = {}
        self.seen: set[int] = set()
        self.found: list[ModelPart] = []

    def parts(self) -> list[ModelPart]:
        c, model = self.config, self.model
        sides = [_Side(model, "", c.n_layer, c.shape == "decoder")]
        if c.shape == "encoder_decoder":
            sides = [
                _Side(model.encoder, "encoder", c.n_layer, False),
                _Side(model.decoder, "decoder", c.decoder_layers, True),
            ]
        width = f"{c.vocab_size:,} tokens × {c.embed_width}"
        self._add("embedding", "embedding", width, model.embed, kept=len(sides) * c.embed_width)
        for side in sides:
            self._entrance(side)
            self._stack(side)
        self._outputs()
        return self._with_evaluation()

    def _add(
        self,
        kind: str,
        name: str,
        detail: str,
        *owners: nn.Module | nn.Parameter,
        side: _Side | None = None,
        block: bool = False,
        each: float | int = 1,
        more: int = 0,
        kept: float | int = 0,
        once: float | int = 0,
    ) -> None:
        """`kept` are the float32 activations that a position leaves for the backward pass, in one such part; `once` are
        floats that are there in one of them at a time; `more` are FLOPs of a position beyond the linear maps'; `each`
        are the positions of a token."""
        count = side.layers if side and block else 1
        weights = sum(p.numel() for p in self._new(owners)) * (1 if self.config.share_layers else count)
        spent = sum(flops.of_maps(m) for m in owners if isinstance(m, nn.Module)) + more
        once = max(0, once - self.once.get(kind, 0))  # two stacks are not computed at a time
        self.once[kind] = self.once.get(kind, 0) + once
        once += self.muon.pop(kind, 0) if block else 0
        memory = weights * STATE_BYTES + 4 * round(count * kept * each * self.tokens + once)
        stack = side.name if side else ""
        part = ModelPart(name, detail, count, weights, round(count * spent * each), memory, kind, stack, block)
        self.found.append(part)

    def _new(self, owners: tuple[nn.Module | nn.Parameter, ...]) -> Iterator[nn.Parameter]:
        """The parameters that no earlier part has: a tied output has none of its own."""
        for owner in owners:
            for p in [owner] if isinstance(owner, nn.Parameter) else owner.parameters():
                if id(p) not in self.seen:
                    self.seen.add(id(p))
                    yield p

    def _entrance(self, side: _Side) -> None:
        """From a token's vector to the stream, as far as the stack has parts for it."""
        c, model, width = self.config, self.model, self.config.embed_width
        every: dict[str, Any] = dict(side=side, kept=width, each=self.streams)
        if self.streams == 2:
            self._add("query", "query", f"the second stream begins as one vector of {width}", model.query, side=side)
        if c.position in ("learned", "sinusoidal"):
            detail = f"learned, {c.max_seq_len:,} × {width}, added" if c.position == "learned" else "waves, added"
            self._add("position", "positions", detail, side.stack.position, **every, more=width)
        elif c.position == "t5":
            ranges = f"{c.rel_buckets} ranges × {c.n_head} heads, added to the scores"
            scores = 2 * c.n_head * (c.max_seq_len * self.streams) ** 2
            self._add("position", "position bias", ranges, side.stack.position, side=side, once=scores)
        elif any(True for _ in side.stack.position.parameters()):
            self._add("position", "positions", c.position, side.stack.position, **every)
        if c.n_token_type:
            self._add("segment", "segments", f"{c.n_token_type} × {width}, added", model.types, **every, more=width)
        if c.embed_norm:
            self._add("norm", "embedding norm", c.norm, model.embed_norm, **every, more=4 * width)
        if width != c.d_model:
            self._add("widen", "widen", f"{width} → {c.d_model}", model.embed_up, **every)

    def _stack(self, side: _Side) -> None:
        c, block = self.config, side.stack.blocks[0]
        reads = flops.reading(c, side.causal)
        if self.streams == 2:
            reads = flops.Reading(2 * c.max_seq_len, reads.full)  # both streams under one mask
        self._beside(side, "attention", "attn", self._attention, reads)
        if hasattr(block, "cross"):
            self._beside(side, "cross attention", "cross", self._cross, flops.Reading(c.max_seq_len, c.max_seq_len))
        self._beside(side, "mlp", "mlp", self._mlp, reads)
        if c.final_norm:
            self._norm("final norm", side.stack.norm, side, block=False)

    def _beside(self, side: _Side, name: str, key: str, add: Any, reads: flops.Reading) -> None:
        """A part of the block with its norms, where the config has them."""
        block, place = side.stack.blocks[0], self.config.norm_place
        norm = getattr(block, f"{key}_norm")
        if place != "post":
            self._norm(f"{name} norm", norm, side)
        add(side, getattr(block, key), reads)
        if place == "post":
            self._norm(f"{name} norm", norm, side)
        if place == "sandwich":
            self._norm(f"norm after {name}", block.after[key], side)

    def _norm(self, name: str, norm: nn.Module, side: _Side, block: bool = True) -> None:
        d = self.config.d_model
        self._add("norm", name, self.config.norm, norm, side=side, block=block, each=self.streams, more=4 * d, kept=d)

    def _attention(self, side: _Side, module: nn.Module, reads: flops.Reading) -> None:
        c = self.config
        inner, keys = c.n_head * c.head_dim, 2 * c.kv_heads * c.head_dim
        acts = {"rotary": "rotary", "alibi": "ALiBi", "t5": "position bias"}.get(c.position, "")
        detail = ", ".join(filter(None, [_heads(c), acts, "QK norm" if c.qk_norm else ""]))
        keys_kept = c.max_seq_len * self.streams if c.attention == "full" else reads.keys
        scores, gathered = (3 if c.weights_dropout else 2) * self.explicit * keys_kept, 0.0
        if c.attention != "full":
            detail += f"; {c.attention}: {reads.told(c)}"
            gathered = reads.keys * (1 + keys / c.sparse_block)  # the mask, and each tile's own keys and values
        if self.streams == 2:
            gathered = 2 * c.max_seq_len  # the mask, in float32
        tables = c.max_seq_len * c.head_dim if c.position == "rotary" else 0
        kept = (2 + self.dropped) * c.d_model + 3 * inner + 2 * keys + scores + gathered
        if not (c.qk_norm or c.position == "rotary"):  # then queries and keys are used as the projection gives them
            kept -= inner + keys // 2
        once = tables + scores * self.streams * self.tokens
        self._add(
            "attention",
            "attention",
            detail,
            module,
            side=side,
            block=True,
            each=self.streams,
            more=reads.flops(c),
            kept=kept,
            once=once,
        )

    def _cross(self, side: _Side, module: nn.Module, reads: flops.Reading) -> None:
        c = self.config
        inner, keys = c.n_head * c.head_dim, 2 * c.kv_heads * c.head_dim
        scores = 3 * self.explicit * reads.keys if c.weights_dropout else 0
        self._add(
            "cross",
            "cross attention",
            f"{_heads(c)}, keys and values of the encoder's output",
            module,
            side=side,
            block=True,
            more=reads.flops(c),
            kept=(2 + self.dropped) * c.d_model + 2 * inner + keys + scores,
            once=scores * self.tokens,
        )

    def _mlp(self, side: _Side, module: nn.Module, reads: flops.Reading) -> None:
        c = self.config
        detail = f"{c.mlp}, {c.d_model} → {c.ff_width} → {c.d_model}"
        kept, times = self._widened, 1
        if c.n_expert:
            times = c.n_active
            detail = f"{c.n_expert} experts and a router, {c.n_active} for each token; {detail}"
            kept = times * (kept + 2 * c.d_model) + 3 * c.n_expert
        self._add(
            "experts" if c.n_expert else "mlp",
            "experts" if c.n_expert else "mlp",
            detail,
            module,
            side=side,
            block=True,
            each=self.streams,
            kept=kept + (1 + self.dropped) * c.d_model,
            once=(times * 3 * c.ff_width + 4 * c.d_model) * self.streams * self.tokens,
        )

    @property
    def _widened(self) -> int:
        """Floats that one MLP keeps of a position: before and after it bends, and the gate's."""
        return (2 + self.gated) * self.config.ff_width

    def _outputs(self) -> None:
        c, model, width = self.config, self.model, self.config.embed_width
        if c.pooler:
            detail = "dense and tanh on the first position"
            self._add("pooler", "pooler", detail, model.pooler, each=1 / c.max_seq_len, kept=2 * c.d_model)
        if c.output == "mlm":
            self._add("head", "output transform", "dense, GELU, norm", model.head, more=4 * width, kept=3 * width)
        elif any(True for _ in model.head.parameters()):
            self._add("head", "narrow", f"{c.d_model} → {width}", model.head, kept=width)
        if model.head.vocabulary:
            detail = f"{width} → {c.vocab_size:,} tokens" + (", tied to the embedding" if c.tie_embeddings else "")
            kept = (5 if c.logit_softcap else 4) * c.vocab_size
            self._add("output", "output", detail, model.unembed, kept=kept)

    def _with_evaluation(self) -> list[ModelPart]:
        """The parts, at its widest one with what the evaluation at the end takes more than a step."""
        c = self.config
        step = sum(part.memory - part.parameters * STATE_BYTES for part in self.found) - self.temporaries
        widest = {"mlp": self.streams * (self._widened + 2 * c.d_model)}
        widest["experts"] = widest["mlp"]
        if self.model.head.vocabulary:
            widest["output"] = 3 * c.vocab_size
        part = max((part for part in self.found if part.kind in widest), key=lambda part: widest[part.kind])
        more = 4 * at_once(c.vocab_size, c.max_seq_len) * c.max_seq_len * widest[part.kind]
        tensor = c.vocab_size if part.kind == "output" else self.streams * c.ff_width
        back = self.temporaries if self.cuda or self.temporaries >= _MUON_COPIES * _GIVEN_BACK else 0
        if self.cuda or 4 * self.tokens * tensor >= _GIVEN_BACK:
            back += step
        more = max(0, more - back)
        return [replace(one, memory=one.memory + more) if one is part else one for one in self.found]


def _heads(config: ModelConfig) -> str:
    groups = f", {config.kv_heads} for keys and values" if config.kv_heads != config.n_head else ""
    return f"{config.n_head} heads of {config.head_dim}{groups}"


def _stacked(model: nn.Module, config: ModelConfig) -> dict[str, int]:
    """The floats that Muon holds beside the largest set of matrices of one shape, by the part that they are most of."""
    layers = {"encoder": config.n_layer, "decoder": config.decoder_layers}
    sizes: dict[tuple[int, int], dict[str, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and ".blocks." in f".{name}":
            part = next(part for part in ("attn", "cross", "mlp") if f".{part}" in name)
            kind = {"attn": "attention", "mlp": "experts" if config.n_expert else "mlp"}.get(part, part)
            count = 1 if config.share_layers else layers.get(name.split(".")[0], config.n_layer)
            for rows in getattr(module, "splits", (module.out_features,)):
                by_kind = sizes.setdefault((rows, module.in_features), {})
                by_kind[kind] = by_kind.get(kind, 0) + _MUON_COPIES * count * rows * module.in_features
    largest = max(sizes.values(), key=lambda by_kind: sum(by_kind.values()), default={})
    return {max(largest, key=lambda kind: largest[kind]): sum(largest.values())} if largest else {}

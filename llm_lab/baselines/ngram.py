"""An n-gram model: it counts a text once, and predicts by the counts. It knows neither gradients nor the text itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llm_lab.baselines.base import Baseline
from llm_lab.data.batch import Attend
from llm_lab.errors import BadValue
from llm_lab.models.attention import Cache
from llm_lab.models.language_model import ModelOutput
from llm_lab.models.options import ModelConfig
from llm_lab.results import ModelPart

FALLBACK = (0.5, 1.0, 1.5)  # discounts where a text has too few rare n-grams to estimate them (KenLM's)


class NGram(Baseline):
    """Interpolated modified Kneser–Ney (Chen & Goodman 1999, §3) of order `config.order`:

        p_k(w | h) = (c_k(hw) − D_k(c_k(hw))) / Σ_v c_k(hv)  +  γ_k(h) · p_{k−1}(w | h without its oldest token)

    c_k is the count of a k-gram at the highest order, and at the lower ones how many different tokens stand before it.
    D_k is one of three discounts (for counts 1, 2, and 3 or more), γ_k(h) the share that they leave, and p_0 the same
    for every token, so that none is impossible. Where h was never seen, p_k is p_{k−1}. Before it has counted anything
    every token is equally likely.

    The text is one stream: n-grams reach across `<eos>`. `max_seq_len` is only the block that is read at once: the
    first tokens of a block are predicted from what the block has of their context.
    """

    supports = frozenset({"next_token"})

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.levels = nn.ModuleList(Level() for _ in range(config.order))
        self.discounts: Tensor
        self.register_buffer("discounts", torch.zeros(config.order, 3))
        self.register_load_state_dict_post_hook(lambda module, _: module._check())

    @property
    def orders(self) -> list[Level]:
        """The tables, lowest order first."""
        return cast("list[Level]", list(self.levels))

    @property
    def device(self) -> torch.device:
        return self.discounts.device

    def fit(self, ids: np.ndarray, discounts: Sequence[Sequence[float]] | None = None) -> None:
        """Count a text, (N,) of ids, in place of what was counted before.

        `discounts` are each order's (D1, D2, D3+), lowest order first; estimated from the text unless given.
        """
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise BadValue(
                f"ids: {int(ids.min())} to {int(ids.max())} are not all tokens; the model has {self.vocab_size}"
            )
        grams = _count(np.asarray(ids, np.int64), self.vocab_size, self.config.order)
        made = [discounts[k] if discounts else estimated(one.count) for k, one in enumerate(grams)]
        device, missing = self.device, self.config.order - len(grams)
        self.discounts = torch.tensor([*map(list, made), *[[0.0] * 3] * missing])
        levels = [Level(**_smoothed(one, np.array(own), self.vocab_size)) for one, own in zip(grams, made, strict=True)]
        self.levels = nn.ModuleList([*levels, *(Level() for _ in range(missing))])
        self.to(device)

    def resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for tables of these shapes, by their names in the state: they are as large as the text they count."""
        for k, level in enumerate(self.orders):
            for name, buffer in level.named_buffers():
                shape = shapes.get(f"levels.{k}.{name}", tuple(buffer.shape))
                setattr(level, name, buffer.new_zeros(shape))

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attend: Attend | None = None,
        position_ids: Int[Tensor, "b T"] | None = None,
        token_type_ids: Int[Tensor, "B T"] | None = None,
        cache: Cache | None = None,
        last: bool = False,
        **unused: Any,
    ) -> ModelOutput:
        """Log-probabilities as logits, each from the tokens up to its position."""
        self.check_length(input_ids.shape[1])
        if last:  # only the longest context is read
            input_ids = input_ids[:, -max(1, self.config.order - 1) :]
        (rows, length), vocab = input_ids.shape, self.vocab_size
        seen = slice(length - 1, length) if last else slice(0, length)
        node = torch.zeros_like(input_ids)
        found = torch.ones_like(input_ids, dtype=torch.bool)
        probs = torch.full((1, vocab), 1 / vocab, device=input_ids.device)
        for k, level in enumerate(self.orders):
            if not len(level.keys):
                break
            if k == 0:
                level.mix(probs, node[0, :1], node[0, :1])
                probs = probs.repeat(node[:, seen].numel(), 1)
                continue
            # A context of k tokens is the one of k − 1 and the token that stands k − 1 places back.
            found[:, : k - 1] = False
            node, there = level.find(node * vocab + input_ids.roll(k - 1, dims=1))
            found = found & there
            chosen = found[:, seen].flatten().nonzero()[:, 0]
            if not len(chosen):
                break
            level.mix(probs, chosen, node[:, seen].flatten()[chosen])
        return ModelOutput(probs.log().expand(node[:, seen].numel(), -1).view(rows, -1, vocab))

    def parts(self, batch_size: int) -> list[ModelPart]:
        """A part an order. Parameters are the numbers kept; FLOPs those that mix one order into every token."""
        return [
            ModelPart(
                f"{k + 1}-grams",
                level.describe(self.discounts[k].tolist()) if not self.discounts.is_meta else "",
                1,
                sum(buffer.numel() for buffer in level.buffers()),
                2 * self.vocab_size,
                sum(buffer.numel() * buffer.element_size() for buffer in level.buffers()),
                kind="counts",
            )
            for k, level in enumerate(self.orders)
        ]

    def _check(self) -> None:
        for k, level in enumerate(self.orders):
            if not level.is_whole(self.vocab_size):
                raise BadValue(
                    f"the tables of {k + 1}-grams contradict each other; a whole copy of the model's folder would do"
                )


class Level(nn.Module):
    """The k-grams of one order: the contexts of k − 1 tokens, and what follows each of them.

    Context i is the node of a tree that grows towards older tokens: `keys[i]` is its parent (the context without its
    oldest token, a node of the level below) × vocabulary + that token. Keys are sorted, and exact: nothing is hashed.
    Its followers are `tokens[start[i] : start[i + 1]]`, each with its discounted share in `values`.
    """

    keys: Tensor  # (C,) int64
    start: Tensor  # (C + 1,) int64
    tokens: Tensor  # (M,) int32
    values: Tensor  # (M,) float32
    gammas: Tensor  # (C,) float32: the share of the order below

    def __init__(self, **tables: np.ndarray) -> None:
        super().__init__()
        for name, kind in (
            ("keys", np.int64),
            ("start", np.int64),
            ("tokens", np.int32),
            ("values", np.float32),
            ("gammas", np.float32),
        ):
            self.register_buffer(name, torch.tensor(np.asarray(tables.get(name, [0] if name == "start" else []), kind)))

    def find(self, keys: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], Tensor]:
        """The contexts of these keys, and which of them are there."""
        index = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return index, self.keys[index] == keys

    def mix(self, probs: Float[Tensor, "N V"], rows: Int[Tensor, " R"], contexts: Int[Tensor, " R"]) -> None:
        """Put this order over the one below, in some rows of `probs`, in place."""
        probs[rows] *= self.gammas[contexts, None]
        begin = self.start[contexts]
        counts = self.start[contexts + 1] - begin
        row = torch.repeat_interleave(rows, counts)
        # The followers of all contexts in one line: each its context's begin, and how far it is behind it.
        shift = torch.repeat_interleave(begin - (counts.cumsum(0) - counts), counts)
        at = shift + torch.arange(len(row), device=row.device)
        probs.view(-1).index_add_(0, row * probs.shape[1] + self.tokens[at], self.values[at])

    def describe(self, discounts: Sequence[float]) -> str:
        if not len(self.tokens):
            return "nothing counted yet"
        contexts = f" after {len(self.keys):,} contexts" if len(self.keys) > 1 else ""
        return f"{len(self.tokens):,}{contexts}, discounts {', '.join(f'{d:.2f}' for d in discounts)}"

    def is_whole(self, vocab_size: int) -> bool:
        """Whether the tables fit together, so that no look-up leaves them."""
        n, m = len(self.keys), len(self.tokens)
        if any(buffer.ndim != 1 for buffer in self.buffers()) or (
            len(self.start),
            len(self.values),
            len(self.gammas),
        ) != (n + 1, m, n):
            return False
        steps = bool((self.start.diff() >= 0).all()) and int(self.start[0]) == 0 and int(self.start[-1]) == m
        return steps and (not m or 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < vocab_size)


@dataclass(frozen=True, eq=False)
class Grams:
    """The different k-grams of a text: each one's context (a node of the level below), its last token, its count."""

    keys: np.ndarray  # (C,) of the contexts
    context: np.ndarray  # (M,)
    token: np.ndarray  # (M,)
    count: np.ndarray  # (M,) occurrences; below the highest order the different tokens before it


def _count(ids: np.ndarray, vocab: int, order: int) -> list[Grams]:
    """The k-grams of every order, lowest first; none of orders longer than the text."""
    found: list[Grams] = []
    keys, nodes = np.zeros(1, np.int64), np.zeros(len(ids) + 1, np.int64)
    for k in range(1, min(order, len(ids)) + 1):
        # nodes[i] is the (k − 1)-gram that ends at token i + k − 2: shifted by one it is a k-gram's end, or its context
        made = nodes[1:] * vocab + ids[: len(ids) - k + 1]
        types, first, inverse, count = np.unique(made, return_index=True, return_inverse=True, return_counts=True)
        if found:
            before = np.bincount(types // vocab, minlength=len(keys))
            found[-1] = Grams(found[-1].keys, found[-1].context, found[-1].token, before)
        found.append(Grams(keys, nodes[:-1][first], ids[k - 1 :][first], count))
        keys, nodes = types, inverse.reshape(-1)
    return found


def estimated(counts: np.ndarray) -> tuple[float, float, float]:
    """(D1, D2, D3+) by how many k-grams have the counts 1 to 4 (Chen & Goodman 1999, eq. 17); FALLBACK where one of
    them is missing, or a discount would be none or more than the count."""
    n1, n2, n3, n4 = (int(n) for n in np.bincount(np.minimum(counts, 5), minlength=6)[1:5])
    if not (n1 and n2 and n3 and n4):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if all(0 < d <= r for r, d in enumerate(found, 1)) else FALLBACK


def _smoothed(grams: Grams, discounts: np.ndarray, vocab: int) -> dict[str, np.ndarray]:
    """The tables of a level. A k-gram that only begins the text has nothing before it: it counts for nothing below the
    highest order, and a context that nothing follows leaves all to the order below."""
    n = len(grams.keys)
    there = np.flatnonzero(grams.count)
    there = there[np.argsort(grams.context[there] * vocab + grams.token[there])]
    context, token, count = grams.context[there], grams.token[there], grams.count[there]
    total = np.bincount(context, count, n)
    taken = np.minimum(discounts[np.minimum(count, 3) - 1], count)
    left = np.bincount(context, taken, n)
    return {
        "keys": grams.keys,
        "start": np.concatenate([[0], np.cumsum(np.bincount(context, minlength=n))]),
        "tokens": token,
        "values": (count - taken) / total[context],
        "gammas": np.divide(left, total, out=np.ones(n), where=total > 0),
    }

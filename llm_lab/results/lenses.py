"""What a model would predict from each of its layers, and what each of its parts gives to one logit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.results.base import Numbers, Piece
from llm_lab.results.maps import Heatmap

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class LogitLens(Numbers):
    """The prediction at every layer and position. Row 0 is read from the embedding, row i + 1 from the stream after layer i;
    the last is the model's own. Probabilities are in nats, at temperature 1."""

    renderer: ClassVar[str] = "llm_lab.views.lens:lens"
    name: str
    kind: str = "logit_lens"
    facts: list[str] = field(default_factory=list)
    pieces: list[Piece]  # T tokens that were read
    truth: list[Piece | None]  # (T,) the token that is right at each position, where it is known
    top: np.ndarray  # (L + 1, T, k) int32, the likeliest ids of those that the tokenizer has, the likeliest first
    top_logprob: np.ndarray  # (L + 1, T, k) float32
    true_logprob: np.ndarray  # (L + 1, T) float32, NaN where the truth is not known
    rank: np.ndarray  # (L + 1, T) int32 of the true token, 1 for the likeliest; 0 where it is not known
    entropy: np.ndarray  # (L + 1, T) float32
    kl: np.ndarray  # (L + 1, T) float32, KL(final ‖ layer)
    names: dict[int, str]  # what the tokens of `top` write
    both_ways: bool = False  # the true token is the one that stands there, not the next
    notes: list[str] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        """The names of the rows."""
        return ["embedding", *(f"layer {i}" for i in range(len(self.kl) - 1))]

    def numpy(self) -> np.ndarray:
        """KL(final ‖ layer), (L + 1, T), in nats."""
        return self.kl

    def to_pandas(self) -> pd.DataFrame:
        """A row for each layer (−1 is the embedding) and position: the token read, the true one, the likeliest one, its
        probability, the true one's and its rank, entropy and KL in nats."""
        import pandas as pd

        rows = []
        for i, line in enumerate(self.top):
            for t, top in enumerate(line):
                true = self.truth[t]
                rows.append(
                    {
                        "layer": i - 1,
                        "position": t,
                        "token": self.pieces[t].text,
                        "true": None if true is None else true.text,
                        "top": self.names[int(top[0])],
                        "top_prob": _exp(self.top_logprob[i, t, 0]),
                        "true_prob": _exp(self.true_logprob[i, t]),
                        "rank": int(self.rank[i, t]) or None,
                        "entropy": float(self.entropy[i, t]),
                        "kl": float(self.kl[i, t]),
                    }
                )
        return pd.DataFrame(rows)

    def means(self) -> dict[str, np.ndarray]:
        """Over the positions, (L + 1,) each: mean `kl` and `entropy`, the true token's mean log-probability `true_logprob` and
        median `rank` (NaN where none is known), and in what share of positions the final top token is the layer's, `agrees`.
        """
        import numpy as np

        known = self.rank[0] > 0
        none = np.full(len(self.kl), np.nan)
        return {
            "kl": self.kl.mean(axis=1),
            "entropy": self.entropy.mean(axis=1),
            "true_logprob": self.true_logprob[:, known].mean(axis=1) if known.any() else none,
            "rank": np.median(self.rank[:, known], axis=1) if known.any() else none,
            "agrees": (self.top[:, :, 0] == self.top[-1, :, 0]).mean(axis=1),
        }

    def by_layer(self) -> pd.DataFrame:
        """The means, a row for each layer (−1 is the embedding)."""
        import pandas as pd

        return pd.DataFrame({"layer": range(-1, len(self.kl) - 1), **self.means()})


@dataclass(eq=False, kw_only=True)
class TunedLens(LogitLens):
    """A logit lens whose layers were first translated: h becomes h + A h + b, with A and b learned for each layer."""

    kind: str = "tuned_lens"
    step: int = 0  # of the training
    steps: int = 0
    done: bool = False
    n_trained: int = 0  # tokens of the text that the translators were trained on
    n_measured: int = 0  # tokens of another part of it, on which the two lines below were measured
    logit_kl: np.ndarray  # (L + 1,) float32, mean KL(final ‖ layer) there, nats: of the logit lens
    tuned_kl: np.ndarray  # (L + 1,) of the tuned one
    translators: np.ndarray  # (L, D, D + 1) float16: A, and b as the last column; the last layer has none

    def read(self, text: str, *more: str) -> TunedLens:
        """The same lens on another text, without training again. BadValue once the model is gone."""
        return self.actions["read"]((text, *more))


@dataclass(eq=False, kw_only=True)
class LogitAttribution(Heatmap):
    """A logit, or the difference of two, as the sum of what each part of the model adds to it. The map has the heads and
    MLPs of every layer; `others` has all else."""

    pieces: list[Piece] = field(default_factory=list)
    others: Mapping[str, float]  # embeddings, biases, the final norm's bias, …
    logit: float  # what the model itself gives, before a softcap
    accumulated: (
        np.ndarray
    )  # (L + 1,) the same read from the stream before each layer and after the last, as a logit lens does

    @property
    def total(self) -> float:
        """The sum of all parts."""
        import numpy as np

        return float(np.nansum(self.panels[0].values.astype(np.float64))) + sum(self.others.values())

    def to_pandas(self) -> pd.DataFrame:
        """A row for each part: layer (None for what belongs to none), part, value in logits."""
        import pandas as pd

        panel = self.panels[0]
        rows: list[dict[str, Any]] = [
            {"layer": None, "part": name, "value": value} for name, value in self.others.items()
        ]
        for i, line in enumerate(panel.values):
            rows += [
                {"layer": i, "part": part, "value": float(value)}
                for part, value in zip(panel.columns, line, strict=True)
            ]
        return pd.DataFrame(rows)


def _exp(logprob: Any) -> float | None:
    import numpy as np

    return None if np.isnan(logprob) else float(np.exp(logprob))

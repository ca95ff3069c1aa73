"""What models wrote, token by token, and how it was searched for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.registry import load
from llm_lab.results.base import Piece, Result, mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenStatistics:
    """What a model thought at each of t tokens, at temperature 1."""

    entropy: np.ndarray  # (t,) of the distribution, in nats
    rank: np.ndarray  # (t,) of the token that was written, 1 for the likeliest
    top: np.ndarray  # (t, 10) ids of the likeliest tokens
    top_logprob: np.ndarray  # (t, 10) in nats
    names: dict[int, str] = field(default_factory=dict)  # what the tokens of `top` write


@dataclass(frozen=True)
class BeamNode:
    """One continuation that a beam search took up."""

    parent: int  # which of the step before it continues; −1 for the prompt
    piece: Piece
    total: float  # log-probability of all tokens up to here, after the filters, in nats
    finished: bool  # the text ended here
    kept: bool  # it leads to a text that ended, or still ran when the search did; all else was pruned


@dataclass(frozen=True, eq=False, kw_only=True)
class BeamTree:
    """How beams searched: at each step the continuations that were taken up, the likeliest first."""

    n_beams: int
    n_steps: int  # of the search; `steps` may hold only the first of a very large one
    steps: list[list[BeamNode]]
    best: list[int]  # the way to the text that was returned first: a place in each step


@dataclass(frozen=True)
class Fork:
    """Where a text left another one."""

    sample: int  # the text that it shares the tokens before with
    at: int  # the token in whose place it has another one
    seed: int  # of what it wrote from there on


@dataclass(eq=False, kw_only=True)
class Generation(Result):
    """Texts that a model wrote, token by token.

    `logprob` is the model's own log-probability at temperature 1, in nats; `chosen_prob` the probability after the
    strategy's filtering.
    """

    renderer: ClassVar[str] = "llm_lab.views.tokens:generation"
    name: str
    prompt: str
    prompt_pieces: list[Piece]
    pieces: list[list[Piece]]  # one list a sample, without the prompt
    logprob: list[list[float]]
    chosen_prob: list[list[float]]
    texts: list[str]  # prompt and continuation
    strategy: str
    options: dict[str, Any]  # of the strategy: {"p": 0.95, "temperature": 1.0}
    seed: int
    tokens_per_second: float
    scores: list[float] = field(default_factory=list)  # of a search, by which the texts are ranked
    end_logprob: list[float | None] = field(default_factory=list)  # of the token that ended a text, if one did
    beams: BeamTree | None = None  # how a beam search came to it
    continues: bool = True  # False where places in the prompt were filled in: then `pieces` are the whole text
    from_source: bool = False  # the prompt is a source that was read: the texts stand without it
    forks: dict[int, Fork] = field(default_factory=dict)  # of the texts that were regrown from others
    live: bool = (
        False  # shows itself as a widget in which a token can be chosen and the text regrown, until it is frozen
    )
    done: bool = True  # False while it streams
    interrupted: bool = False  # it was ended before its end
    notes: list[str] = field(default_factory=list)
    stopping: bool = field(default=False, init=False, repr=False)
    _known: list[TokenStatistics] = field(default_factory=list, init=False, repr=False)

    def request_stop(self) -> None:
        """While it streams: end it after the token that is being written."""
        self.stopping = not self.done

    @property
    def statistics(self) -> list[TokenStatistics]:
        """Entropy, rank and the ten likeliest tokens at each token of every sample that is written, worked out when first
        asked for; empty where the model is gone, or filled places in."""
        work: Any = self.actions.get("statistics")
        if work is not None and self.done and len(self._known) < len(self.pieces):
            self._known += work(self.tokens[len(self._known) :])
        return self._known

    def regrow(self, at: int, token: int | str, sample: int = 0, seed: int | None = None) -> Generation:
        """Write `sample` once more from its token number `at`, with `token` (a text or an id) in that one's place.

        The text is added as one more sample, and `forks` says where it left: `gen.regrow(12, " moon").texts[-1]`. Raises
        BadValue where there is no such place, the token cannot stand there, or the model is gone.
        """
        work: Any = self.actions.get("regrow")
        if work is None:
            raise BadValue(
                "regrow: the texts of a vote cannot be regrown, nor places that were filled in; "
                "one that lab.generate wrote from left to right, not by --ensemble vote, would do"
            )
        for _ in work(sample, at, token, seed):
            pass
        return self

    def widget(self) -> Any:
        """The text with the kernel in the loop; `.freeze()` leaves the form that is saved with a notebook."""
        return load("llm_lab.views.playground:regrow_widget")(self)

    def _ipython_display_(self) -> None:
        if not self.live:
            raise NotImplementedError  # IPython then asks for the mimebundle
        self.widget()._ipython_display_()

    @property
    def text(self) -> str:
        """The first sample's text, prompt included."""
        return self.texts[0]

    @property
    def continuations(self) -> list[str]:
        """The texts without the prompt that they go on from; whole where it was a source, or places in it were filled in."""
        begins = self.continues and not self.from_source
        return [text[len(self.prompt) :] if begins else text for text in self.texts]

    @property
    def tokens(self) -> list[list[int]]:
        """The ids written, one list a sample, without the prompt."""
        return [[piece.id for piece in sample] for sample in self.pieces]

    def to_pandas(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                {"sample": i, "position": t, "token": p.text, "id": p.id, "logprob": lp, "chosen_prob": cp}
                for i, (pieces, lps, cps) in enumerate(zip(self.pieces, self.logprob, self.chosen_prob, strict=True))
                for t, (p, lp, cp) in enumerate(zip(pieces, lps, cps, strict=True))
            ]
        )


@dataclass(eq=False, kw_only=True)
class Generations(Result):
    """What a model wrote after each of several prompts: `gens[0]` is the Generation of the first, `for gen in gens` goes
    through all."""

    renderer: ClassVar[str] = "llm_lab.views.generations:generations"
    name: str
    prompts: list[str]
    written: dict[int, Generation] = field(default_factory=dict)  # by the prompt's number; an interrupt leaves some out
    done: bool = True  # False while it streams
    interrupted: bool = False  # it was ended before its end
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.written)

    def __iter__(self) -> Iterator[Generation]:
        """In the order of the prompts."""
        return iter([self.written[i] for i in sorted(self.written)])

    def __getitem__(self, prompt: int) -> Generation:
        number = prompt + len(self.prompts) if isinstance(prompt, int) and prompt < 0 else prompt
        if number not in self.written:
            raise BadValue(f"prompt: {prompt!r} was not written after; there is: {_ranges(self.written)}")
        return self.written[number]

    @property
    def seed(self) -> int | None:
        """Of the first prompt's draws, and one more for each that follows; None where nothing was written."""
        return next(((one.seed - i) % 2**63 for i, one in self.written.items()), None)

    @property
    def texts(self) -> list[list[str]]:
        """The texts after each prompt, prompt included."""
        return [one.texts for one in self]

    def to_pandas(self) -> pd.DataFrame:
        """A row a text; `text` is without the prompt, `logprob` the mean of its tokens in nats."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"prompt": one.prompt, "sample": i, "text": text, "n_tokens": len(own), "logprob": mean(own)}
                for one in self
                for i, (text, own) in enumerate(zip(one.continuations, one.logprob, strict=True))
            ],
            columns=["prompt", "sample", "text", "n_tokens", "logprob"],
        )


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as they are listed: 0 to 4, 7."""
    found: list[list[int]] = []
    for i in sorted(numbers):
        if found and found[-1][1] == i - 1:
            found[-1][1] = i
        else:
            found.append([i, i])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found) or "none"

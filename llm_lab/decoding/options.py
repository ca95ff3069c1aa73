"""The ways to decode, and what can be set of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, option
from llm_lab.registry import Entry, Table


@dataclass(frozen=True)
class Greedy(Options):
    room: ClassVar[str] = "greedy"


@dataclass(frozen=True)
class Temperature(Options):
    room: ClassVar[str] = "sampling"
    temperature: float = option(
        1.0,
        "logits are divided by it: below 1 the likely tokens get likelier, above 1 the unlikely ones do",
        ge=0,
        le=1e4,
    )

    def validate(self) -> None:
        if self.temperature < 1e-4:
            raise BadValue(
                f"temperature: {self.temperature:g} leaves only the likeliest token; that is --strategy greedy"
            )


@dataclass(frozen=True)
class TopK(Temperature):
    room: ClassVar[str] = "top_k"
    k: int = option(50, "keep the k likeliest tokens", ge=1)


@dataclass(frozen=True)
class TopP(Temperature):
    room: ClassVar[str] = "top_p"
    p: float = option(0.95, "keep the likeliest tokens whose probabilities sum to p", gt=0, le=1)


STRATEGIES = Table(
    "strategy",
    [
        Entry("top_p", "llm_lab.decoding.samplers:TopPSampler", "nucleus sampling (Holtzman et al. 2020)", TopP),
        Entry("top_k", "llm_lab.decoding.samplers:TopKSampler", "sample from the k likeliest (Fan et al. 2018)", TopK),
        Entry(
            "temperature",
            "llm_lab.decoding.samplers:TemperatureSampler",
            "sample from the whole distribution",
            Temperature,
        ),
        Entry("greedy", "llm_lab.decoding.samplers:Greedy", "always the likeliest token", Greedy),
    ],
)


@dataclass(frozen=True)
class GenerateOptions(Options):
    room: ClassVar[str] = "generation"
    strategy: str = option("top_p", "how the next token is chosen", choices=lambda: STRATEGIES)
    max_new_tokens: int = option(200, "tokens to write", ge=1)
    n: int = option(1, "texts to write, in one batch", ge=1)
    seed: int | None = option(None, "of the draws", ge=0, lt=2**63, auto="a random one, printed", example="0")


def strategy_options() -> tuple[type[Options], ...]:
    """Every strategy's options, so that a verb can take those of any; a derived class already holds its base's."""
    classes = [entry.options for entry in STRATEGIES.values() if entry.options]
    return tuple(classes)

"""The ways to decode, and what can be set of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, all_specs, option, specs
from llm_lab.registry import Entry, Table

FILLS = frozenset({"fills"})  # of a strategy: it fills in what is hidden, and does not write on
DRAWS = frozenset({"draws"})  # of a strategy: it draws; of a filter: it makes sense where something is drawn

JUDGES = frozenset({"judges"})  # of an ensemble: it chooses among finished texts, not among tokens


@dataclass(frozen=True)
class FilterOptions(Options):
    """What is done to the logits before a strategy chooses; each is one line of FILTERS, and they combine."""

    room: ClassVar[str] = "filters"
    temperature: float = option(
        1.0,
        "logits are divided by it: below 1 the likely tokens get likelier, above 1 the unlikely ones do",
        ge=0,
        le=1e4,
        usual=(0.1, 2.0),
    )
    top_k: int | None = option(None, "keep the k likeliest tokens", ge=1, auto="all", example="50", usual=(1, 100))
    top_p: float | None = option(
        None, "keep the likeliest tokens whose probabilities sum to p", gt=0, le=1, auto="all", example="0.95"
    )
    min_p: float | None = option(
        None,
        "keep tokens at least this share as likely as the likeliest",
        ge=0,
        le=1,
        auto="all",
        example="0.1",
        usual=(0.0, 0.5),
    )
    top_n_sigma: float | None = option(
        None,
        "keep logits within so many standard deviations of the largest",
        gt=0,
        auto="all",
        example="1.0",
        usual=(0.1, 5.0),
    )
    typical_p: float | None = option(
        None, "keep the tokens that surprise most nearly as expected, up to p", gt=0, le=1, auto="all", example="0.9"
    )
    epsilon_cutoff: float | None = option(
        None, "drop tokens less likely than this", ge=0, lt=1, auto="none", example="0.0003", usual=(0.0, 0.01)
    )
    eta_cutoff: float | None = option(
        None,
        "as epsilon_cutoff, but lower where the model is unsure",
        ge=0,
        lt=1,
        auto="none",
        example="0.0003",
        usual=(0.0, 0.01),
    )
    repetition_penalty: float | None = option(
        None, "logits of tokens that stand in the text are divided by it (if negative, multiplied)", gt=0, auto="none",
        example="1.2", usual=(0.8, 2.0),
    )  # fmt: skip
    presence_penalty: float | None = option(
        None, "taken from the logits of tokens written before", auto="none", example="0.5", usual=(-2.0, 2.0)
    )
    frequency_penalty: float | None = option(
        None, "taken from a token's logit for each time it was written", auto="none", example="0.3", usual=(-2.0, 2.0)
    )
    no_repeat_ngram_size: int | None = option(
        None, "no sequence of so many tokens comes twice", ge=1, auto="none", example="3", usual=(1, 10)
    )
    min_new_tokens: int | None = option(
        None, "the text does not end before", ge=0, auto="none", example="20", usual=(0, 200)
    )
    bad_words: tuple[str, ...] | None = option(None, "texts that are never written", auto="none", example="damn,wicked")

    def validate(self) -> None:
        if self.temperature < 1e-4:
            raise BadValue(
                f"temperature: {self.temperature:g} leaves only the likeliest token; that is --strategy greedy"
            )
        if self.bad_words is not None and not all(self.bad_words):
            raise BadValue("bad_words: one of them is empty, and would forbid everything; for example --bad_words damn")


# In the order they are applied in: first what forbids and penalises, then what cuts the tail.
FILTERS = Table(
    "filter",
    [
        Entry("repetition_penalty", "llm_lab.decoding.filters:repetition_penalty", "Keskar et al. 2019, §4.1"),
        Entry("presence_penalty", "llm_lab.decoding.filters:presence_penalty", "once for each token written before"),
        Entry("frequency_penalty", "llm_lab.decoding.filters:frequency_penalty", "for each time it was written"),
        Entry("no_repeat_ngram_size", "llm_lab.decoding.filters:no_repeat_ngram_size", "Paulus et al. 2018, §2.5"),
        Entry("bad_words", "llm_lab.decoding.filters:bad_words", "texts that are never written"),
        Entry("min_new_tokens", "llm_lab.decoding.filters:min_new_tokens", "no end before"),
        Entry("temperature", "llm_lab.decoding.filters:temperature", "softmax(logits / T)", None, DRAWS),
        Entry("top_k", "llm_lab.decoding.filters:top_k", "Fan et al. 2018, §5.2", None, DRAWS),
        Entry("top_p", "llm_lab.decoding.filters:top_p", "Holtzman et al. 2020, §3.1", None, DRAWS),
        Entry("min_p", "llm_lab.decoding.filters:min_p", "Nguyen et al. 2024, §3", None, DRAWS),
        Entry("top_n_sigma", "llm_lab.decoding.filters:top_n_sigma", "Tang et al. 2024, §3", None, DRAWS),
        Entry("typical_p", "llm_lab.decoding.filters:typical_p", "Meister et al. 2023, §3", None, DRAWS),
        Entry("epsilon_cutoff", "llm_lab.decoding.filters:epsilon_cutoff", "Hewitt et al. 2022, §5", None, DRAWS),
        Entry("eta_cutoff", "llm_lab.decoding.filters:eta_cutoff", "Hewitt et al. 2022, §4.2", None, DRAWS),
    ],
)


@dataclass(frozen=True)
class StrategyOptions(Options):
    """Base of a strategy's own options."""

    same: ClassVar[Mapping[str, str]] = {}  # its own options that are the value of a filter
    fixed: ClassVar[Mapping[str, Any]] = {}  # filters that it consists of, unless told otherwise

    def filters(self) -> dict[str, Any]:
        return {**self.fixed, **{name: getattr(self, own) for own, name in self.same.items()}}


@dataclass(frozen=True)
class Greedy(StrategyOptions):
    room: ClassVar[str] = "greedy"


@dataclass(frozen=True)
class Temperature(StrategyOptions):
    room: ClassVar[str] = "temperature"


@dataclass(frozen=True)
class TopK(StrategyOptions):
    room: ClassVar[str] = "top_k"
    same: ClassVar[Mapping[str, str]] = {"k": "top_k"}
    k: int = option(50, "keep the k likeliest tokens", ge=1, usual=(1, 100))


@dataclass(frozen=True)
class TopP(StrategyOptions):
    room: ClassVar[str] = "top_p"
    same: ClassVar[Mapping[str, str]] = {"p": "top_p"}
    p: float = option(0.95, "keep the likeliest tokens whose probabilities sum to p", gt=0, le=1)


@dataclass(frozen=True)
class MinP(StrategyOptions):
    room: ClassVar[str] = "min_p"
    fixed: ClassVar[Mapping[str, Any]] = {"min_p": 0.1}


@dataclass(frozen=True)
class TopNSigma(StrategyOptions):
    room: ClassVar[str] = "top_n_sigma"
    fixed: ClassVar[Mapping[str, Any]] = {"top_n_sigma": 1.0}


@dataclass(frozen=True)
class Typical(StrategyOptions):
    room: ClassVar[str] = "typical"
    fixed: ClassVar[Mapping[str, Any]] = {"typical_p": 0.95}


@dataclass(frozen=True)
class Epsilon(StrategyOptions):
    room: ClassVar[str] = "epsilon"
    fixed: ClassVar[Mapping[str, Any]] = {"epsilon_cutoff": 3e-4}


@dataclass(frozen=True)
class Eta(StrategyOptions):
    room: ClassVar[str] = "eta"
    fixed: ClassVar[Mapping[str, Any]] = {"eta_cutoff": 3e-4}


@dataclass(frozen=True)
class Mirostat(StrategyOptions):
    room: ClassVar[str] = "mirostat"
    mirostat_tau: float = option(
        5.0, "surprisal that the text is held at", unit="bits a token", gt=0, usual=(0.5, 10.0)
    )
    mirostat_eta: float = option(0.1, "how fast it is steered there", gt=0, le=1)


@dataclass(frozen=True)
class Beam(StrategyOptions):
    room: ClassVar[str] = "beam"
    num_beams: int = option(5, "texts that are kept at each step; n of them are returned", ge=1, le=1024, usual=(1, 16))
    length_penalty: float = option(
        1.0,
        "a text's score is its log-probability over its length to this power: above 0 favours longer texts",
        usual=(-1.0, 2.0),
    )
    early_stopping: str = option(
        "false",
        "when to end: `true` with num_beams finished texts; `false` when no running one is likely to be better; "
        "`never` when none can be",
        choices=("false", "true", "never"),
    )


@dataclass(frozen=True)
class DiverseBeam(Beam):
    room: ClassVar[str] = "diverse_beam"
    num_beam_groups: int | None = option(
        None,
        "groups of beams, each kept away from those before it",
        ge=1,
        auto="one for each beam",
        example="5",
        usual=(1, 16),
    )
    diversity_penalty: float = option(
        1.0, "taken from a token for each beam of an earlier group that chose it", ge=0, usual=(0.0, 5.0)
    )

    def validate(self) -> None:
        if self.num_beam_groups and self.num_beams % self.num_beam_groups:
            raise BadValue(
                f"num_beam_groups: {self.num_beam_groups} groups cannot share {self.num_beams} beams evenly; "
                f"use for example --num_beams {self.num_beam_groups * max(1, self.num_beams // self.num_beam_groups)}"
            )


@dataclass(frozen=True)
class ContrastiveSearch(StrategyOptions):
    room: ClassVar[str] = "contrastive_search"
    candidates: int = option(5, "of the likeliest tokens that are compared", ge=1, le=1024, usual=(1, 20))
    penalty_alpha: float = option(0.6, "weight of being unlike what was written, against being likely", ge=0, le=1)


@dataclass(frozen=True)
class Contrastive(StrategyOptions):
    room: ClassVar[str] = "contrastive"
    amateur: object = option(None, "a weaker model with the same tokenizer", auto="needed", example="@small")
    contrast_alpha: float = option(
        0.1, "only tokens at least this share as likely as the likeliest are compared", gt=0, le=1
    )
    contrast_beta: float = option(0.5, "how strongly the amateur's opinion is taken away", ge=0, usual=(0.0, 2.0))


@dataclass(frozen=True)
class DoLa(StrategyOptions):
    room: ClassVar[str] = "dola"
    dola_layers: str = option("low", "which early layers the last one is contrasted with", choices=("low", "high"))
    dola_alpha: float = option(
        0.1, "only tokens at least this share as likely as the likeliest are compared", gt=0, le=1
    )


@dataclass(frozen=True)
class Fill(StrategyOptions):
    room: ClassVar[str] = "fill"


@dataclass(frozen=True)
class Gibbs(StrategyOptions):
    room: ClassVar[str] = "gibbs"
    sweeps: int = option(10, "times that every hidden place is drawn", ge=1, usual=(1, 50))


@dataclass(frozen=True)
class Speculative(StrategyOptions):
    room: ClassVar[str] = "speculative"
    draft: object = option(None, "a faster model with the same tokenizer", auto="needed", example="@small")
    draft_tokens: int = option(4, "tokens that are guessed at a time", ge=1, le=256, usual=(1, 16))


@dataclass(frozen=True)
class PromptLookup(StrategyOptions):
    room: ClassVar[str] = "prompt_lookup"
    lookup_tokens: int = option(8, "tokens that are copied at a time", ge=1, le=256, usual=(1, 32))
    lookup_ngram: int = option(3, "the longest end of the text that is looked for in it", ge=1, usual=(1, 8))


def _strategy(
    name: str, target: str, help: str, options: type[StrategyOptions], draws: bool = True, fills: bool = False
) -> Entry:
    supports = (DRAWS if draws else frozenset()) | (FILLS if fills else frozenset())
    return Entry(name, f"llm_lab.decoding.{target}", help, options, supports)


STRATEGIES = Table(
    "strategy",
    [
        _strategy("top_p", "samplers:Sampler", "nucleus sampling (Holtzman et al. 2020)", TopP),
        _strategy("top_k", "samplers:Sampler", "sample from the k likeliest (Fan et al. 2018)", TopK),
        _strategy("temperature", "samplers:Sampler", "sample from the whole distribution", Temperature),
        _strategy("min_p", "samplers:Sampler", "from those near the likeliest (Nguyen et al. 2024)", MinP),
        _strategy("typical", "samplers:Sampler", "locally typical sampling (Meister et al. 2023)", Typical),
        _strategy("top_n_sigma", "samplers:Sampler", "from logits near the largest (Tang et al. 2024)", TopNSigma),
        _strategy("epsilon", "samplers:Sampler", "epsilon sampling (Hewitt et al. 2022)", Epsilon),
        _strategy("eta", "samplers:Sampler", "eta sampling (Hewitt et al. 2022)", Eta),
        _strategy("mirostat", "samplers:MirostatSampler", "mirostat 2: steady surprise (Basu et al. 2021)", Mirostat),
        _strategy("greedy", "samplers:Greedy", "always the likeliest token", Greedy, draws=False),
        _strategy("beam", "beam:BeamSearch", "the likeliest text that beams find", Beam, draws=False),
        _strategy(
            "diverse_beam", "beam:DiverseBeamSearch", "groups of unlike beams (Vijayakumar et al. 2018)", DiverseBeam,
            draws=False,
        ),
        _strategy(
            "contrastive_search", "contrast:ContrastiveSearch", "likely, and unlike the text before (Su et al. 2022)",
            ContrastiveSearch, draws=False,
        ),
        _strategy(
            "contrastive", "contrast:ContrastiveDecoding", "what an expert knows and an amateur does not (Li et al. "
            "2023; O'Brien and Lewis 2023)", Contrastive,
        ),
        _strategy("dola", "contrast:DoLa", "what the last layer knows and early ones do not (Chuang et al. 2024)", DoLa),
        _strategy(
            "speculative", "speculative:Speculative", "a fast model guesses, this one checks (Leviathan et al. 2023)",
            Speculative,
        ),
        _strategy(
            "prompt_lookup", "speculative:PromptLookup", "guesses are copied from the text (Saxena 2023)", PromptLookup
        ),
        _strategy(
            "fill", "infill:EasyFirst", "each <mask> by its likeliest token, the surest first", Fill, draws=False,
            fills=True,
        ),
        _strategy(
            "gibbs", "infill:Gibbs", "each <mask> drawn again and again, given all others (Wang and Cho 2019)", Gibbs,
            fills=True,
        ),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class ConstraintOptions(Options):
    """What a text must be: a grammar that every text written meets within its tokens."""

    room: ClassVar[str] = "constraints"
    regex: str | None = option(None, "what is written matches this regular expression", auto="anything")
    json_schema: object = option(None, "what is written is JSON of this schema (text or a dict)", auto="anything")
    must: tuple[str, ...] | None = option(None, "texts that are written somewhere", auto="none", example="rose,thorn")

    def validate(self) -> None:
        given = [name for name in ("regex", "json_schema", "must") if getattr(self, name) is not None]
        if len(given) > 1:
            raise BadValue(f"{given[1]}: {given[0]} is given too, and one text meets one of them; leave one out")
        if self.must is not None and not all(self.must):
            raise BadValue("must: one of the texts is empty; for example --must rose,thorn")


ENSEMBLES = Table(
    "ensemble",
    [
        Entry("probs", "llm_lab.models.ensemble:of_probs", "the mean of their probabilities"),
        Entry(
            "logits",
            "llm_lab.models.ensemble:of_logits",
            "the mean of their logits: renormalised, the geometric mean of their probabilities",
        ),
        Entry(
            "vote",
            "llm_lab.decoding.ensemble:vote",
            "each writes n texts, and the n likeliest stay, by the mean of their log-probabilities a token",
            supports=JUDGES,
        ),
    ],
)


@dataclass(frozen=True)
class EnsembleOptions(Options):
    """How several models write as one."""

    room: ClassVar[str] = "ensemble"
    ensemble: str | None = option(
        None, "how several models, a,b, write as one", choices=lambda: ENSEMBLES, auto="probs", example="logits"
    )
    ensemble_weights: tuple[float, ...] | None = option(
        None, "how much each of them counts", gt=0, auto="all the same", example="0.7,0.3"
    )


@dataclass(frozen=True)
class GenerateOptions(Options):
    room: ClassVar[str] = "generation"
    strategy: str = option("top_p", "how the next token is chosen", choices=lambda: STRATEGIES)
    max_new_tokens: int = option(200, "tokens to write", ge=1, usual=(1, 500))
    n: int = option(1, "texts to write, in one batch", ge=1, usual=(1, 8))
    seed: int | None = option(None, "of the draws", ge=0, lt=2**63, auto="a random one, printed", example="0")
    stop: tuple[str, ...] | None = option(
        None, "a text that ends the writing, itself included; \\n is a line break", auto="none", example="END"
    )

    def validate(self) -> None:
        if self.stop is not None and not all(self.stop):
            raise BadValue("stop: one of the texts is empty; for example --stop END")
        if self.stop is not None:  # on a line a break can only be written so
            object.__setattr__(self, "stop", tuple(word.replace("\\n", "\n") for word in self.stop))


def strategy_options(given: Mapping[str, Any]) -> tuple[type[Options], ...]:
    """All options of writing but the general ones, so that a verb can take those of any strategy. Where a user's strategy
    has an option of the same name as another, the one that is `given` counts."""
    meant = STRATEGIES.get(given.get("strategy") or "top_p")
    found: list[type[Options]] = [FilterOptions, ConstraintOptions]
    for entry in [*([meant] if meant else []), *STRATEGIES.values()]:
        kind: Any = entry.options
        others = all_specs(found)
        if kind not in found and all(others.get(name, spec) == spec for name, spec in specs(kind).items()):
            found.append(kind)
    return tuple(found)

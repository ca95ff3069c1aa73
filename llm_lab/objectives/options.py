"""What a model can be trained to do, and what can be set of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadType, BadValue, listing
from llm_lab.options import Options, option, specs
from llm_lab.registry import Entry, Table


@dataclass(frozen=True)
class Plain(Options):
    """An objective of which nothing can be set."""


@dataclass(frozen=True)
class MaskedLM(Options):
    room: ClassVar[str] = "masking"
    mask_rate: float = option(0.15, "share of the text that is hidden", gt=0, lt=1)
    mean_span: float = option(3.0, "mean length of hidden spans", unit="tokens", ge=1)
    masking: str = option(
        "dynamic", "masks are drawn anew at each step, or once for each piece", choices=("dynamic", "static")
    )
    mask_unit: str = option("token", "what is hidden together", choices=("token", "word", "span"))
    mask_share: float = option(0.8, "share of the hidden tokens that become <mask>", ge=0, le=1)
    random_share: float = option(0.1, "share of the hidden tokens that become a random one; the rest stays", ge=0, le=1)

    def validate(self) -> None:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise BadValue(
                f"random_share {self.random_share:g} and mask_share {self.mask_share:g} are more than all; their sum can be 1 at most, for example --random_share {1 - self.mask_share:.3g}"
            )


@dataclass(frozen=True)
class SpanCorruption(Options):
    room: ClassVar[str] = "masking"
    mask_rate: float = option(0.15, "share of the text that is hidden", gt=0, lt=1)
    mean_span: float = option(3.0, "mean length of hidden spans", unit="tokens", ge=1)


@dataclass(frozen=True)
class PermutationLM(Options):
    room: ClassVar[str] = "permutation"
    predict_share: float = option(1 / 6, "share of the order, its end, that is predicted (XLNet: 1/6)", gt=0, le=1)


@dataclass(frozen=True)
class ReplacedTokens(MaskedLM):
    room: ClassVar[str] = "replaced tokens"
    generator_share: float = option(0.25, "width of the generator against the model's", gt=0, le=1)
    rtd_weight: float = option(50.0, "weight of the detection in the loss", gt=0)
    mask_share: float = option(0.8, "share of the hidden tokens that become <mask>", ge=0, le=1)


@dataclass(frozen=True)
class FillInTheMiddle(Options):
    room: ClassVar[str] = "fill-in-the-middle"
    fim_rate: float = option(0.5, "share of the pieces whose middle is moved to the end", ge=0, le=1)


@dataclass(frozen=True)
class MultiToken(Options):
    room: ClassVar[str] = "multi-token"
    n_future: int = option(4, "tokens ahead that are predicted, the next one included", ge=2, le=16)


@dataclass(frozen=True)
class SkipGram(Options):
    room: ClassVar[str] = "skip-gram"
    context: int = option(5, "words to each side that a word predicts, at most", ge=1)
    negatives: int = option(5, "wrong words beside each right one", ge=1)
    subsample: float = option(1e-3, "words more frequent than this are read less often; 0 reads all", ge=0)


def _needs(*abilities: str) -> frozenset[str]:
    return frozenset(abilities)


# An entry's `supports` are the abilities that the model must have.
OBJECTIVES = Table(
    "objective",
    [
        Entry(
            "clm",
            "llm_lab.objectives.clm:CausalLM",
            "causal language modelling: predict each next token",
            Plain,
            _needs("next_token"),
        ),
        Entry(
            "mlm",
            "llm_lab.objectives.mlm:MaskedLM",
            "masked language modelling: predict hidden tokens (BERT)",
            MaskedLM,
            _needs("fill"),
        ),
        Entry(
            "nsp",
            "llm_lab.objectives.sentence_pairs:NextSentence",
            "next-sentence prediction: whether B follows A",
            Plain,
            _needs("both_ways"),
        ),
        Entry(
            "sop",
            "llm_lab.objectives.sentence_pairs:SentenceOrder",
            "sentence-order prediction: whether A and B are swapped (ALBERT)",
            Plain,
            _needs("both_ways"),
        ),
        Entry(
            "mlm_nsp",
            "llm_lab.objectives.sentence_pairs:MaskedNextSentence",
            "masked tokens and next sentence, summed (BERT's own)",
            MaskedLM,
            _needs("fill", "both_ways"),
        ),
        Entry(
            "mlm_sop",
            "llm_lab.objectives.sentence_pairs:MaskedSentenceOrder",
            "masked tokens and sentence order, summed (ALBERT's own)",
            MaskedLM,
            _needs("fill", "both_ways"),
        ),
        Entry(
            "span_corruption",
            "llm_lab.objectives.span_corruption:SpanCorruption",
            "write the spans that were taken out (T5)",
            SpanCorruption,
            _needs("seq2seq"),
        ),
        Entry(
            "prefix_lm",
            "llm_lab.objectives.seq2seq:PrefixLM",
            "read a beginning both ways, predict the rest",
            Plain,
            _needs("seq2seq"),
        ),
        Entry(
            "seq2seq",
            "llm_lab.objectives.seq2seq:Seq2Seq",
            "from source to target, on pairs of texts",
            Plain,
            _needs("seq2seq"),
        ),
        Entry(
            "plm",
            "llm_lab.objectives.plm:PermutationLM",
            "permutation language modelling: predict in a random order (XLNet)",
            PermutationLM,
            _needs("any_order"),
        ),
        Entry(
            "rtd",
            "llm_lab.objectives.rtd:ReplacedTokens",
            "replaced-token detection: tell which tokens a small generator wrote (ELECTRA)",
            ReplacedTokens,
            _needs("both_ways"),
        ),
        Entry(
            "fim",
            "llm_lab.objectives.fim:FillInTheMiddle",
            "fill-in-the-middle: next tokens, with middles moved to the end",
            FillInTheMiddle,
            _needs("next_token"),
        ),
        Entry(
            "mtp",
            "llm_lab.objectives.mtp:MultiToken",
            "multi-token prediction: several tokens ahead at once",
            MultiToken,
            _needs("next_token", "cache"),
        ),
        Entry(
            "skipgram",
            "llm_lab.objectives.skipgram:SkipGramNS",
            "a word predicts its neighbours, with negative sampling (word2vec)",
            SkipGram,
            _needs("neighbours"),
        ),
    ],
)


@dataclass(frozen=True)
class ObjectiveOptions(Options):
    room: ClassVar[str] = "objective"
    objective: tuple[str, ...] | None = option(
        None,
        "what the model learns to do; several are mixed",
        choices=lambda: OBJECTIVES,
        auto="the preset's own",
        example="mlm",
    )
    mix: str = option("sum", "several objectives are summed in each step, or take turns", choices=("sum", "turns"))
    weights: tuple[float, ...] = option((), "of the objectives, where there are several", gt=0, example="2,1")


def objective_options() -> tuple[type[Options], ...]:
    """Every objective's options, so that a verb can take those of any."""
    return tuple(
        dict.fromkeys(entry.options for entry in OBJECTIVES.values() if entry.options and specs(entry.options))
    )


def own_options(names: Sequence[str], given: Mapping[str, Any]) -> list[Options]:
    """The options of each objective named, from those `given`; BadType for one that belongs to none of them."""
    entries = [OBJECTIVES.entry(name) for name in names]
    known = {key for entry in entries if entry.options for key in specs(entry.options)}
    for key in given:
        if key not in known:
            others = [name for name, e in OBJECTIVES.items() if e.options and key in specs(e.options)]
            if not others:
                raise BadType(f"{key} is an option of no objective")
            raise BadType(
                f"{key} is an option of {listing(others)}, and the objective is {listing(names)}; add for example --objective {others[0]}"
            )
    return [
        (entry.options or Plain)(**{k: v for k, v in given.items() if entry.options and k in specs(entry.options)})
        for entry in entries
    ]

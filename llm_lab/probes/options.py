"""The ways to look inside a model. A kind's options also say how many texts and models it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_lab.errors import BadValue
from llm_lab.options import Options, all_specs, option, own_name, specs
from llm_lab.registry import Entry, Table


@dataclass(frozen=True)
class KindOptions(Options):
    """The options of one kind of probe, and what it reads: (fewest, most) texts and models."""

    texts: ClassVar[tuple[int, int]] = (1, 1)
    models: ClassVar[tuple[int, int]] = (1, 1)


@dataclass(frozen=True)
class CorpusReading(KindOptions):
    """Options of the kinds that read a corpus."""

    room: ClassVar[str] = "corpus"
    texts: ClassVar[tuple[int, int]] = (0, 0)
    corpus: object = option(None, "the text that is read", auto="the model's held-out text", example="python-docs")
    max_tokens: int = option(20_000, "of the corpus that are read", unit="tokens", ge=2)


@dataclass(frozen=True)
class PositionOptions(KindOptions):
    """Options of the kinds that look at one position."""

    room: ClassVar[str] = "position"
    position: int | None = option(
        None, "the token that is looked at; −1 is the last", auto="the last, or the first <mask>", example="-1"
    )


@dataclass(frozen=True)
class AnswerOptions(PositionOptions):
    """Options of the kinds that ask for one prediction: which token is right there, and which is wrong."""

    room: ClassVar[str] = "answer"
    target: str | None = option(None, "the right answer, one token", auto="the likeliest", example='" Paris"')
    other: str | None = option(None, "a wrong answer that it is weighed against, one token", example='" Rome"')


@dataclass(frozen=True)
class SiteOptions(KindOptions):
    """Options of the kinds that read one site, or the same one of every layer."""

    room: ClassVar[str] = "site"
    site: str | None = option(
        None,
        "the activations that are read: a site, or a pattern of several",
        auto="what the kind is about",
        example="blocks.*.mlp.post",
    )


@dataclass(frozen=True)
class LayerOptions(KindOptions):
    """Options of the kinds that show one layer, head by head."""

    room: ClassVar[str] = "layer"
    layer: int | None = option(None, "the layer that is shown", ge=0, auto="the most telling", example="1")


@dataclass(frozen=True)
class HeadOptions(LayerOptions):
    """… and one head of it."""

    room: ClassVar[str] = "head"
    head: int | None = option(None, "the head that is shown", ge=0, auto="the most telling", example="2")


@dataclass(frozen=True)
class SeedOptions(KindOptions):
    """Options of the kinds that draw random numbers."""

    room: ClassVar[str] = "seed"
    seed: int = option(0, "of what the probe draws", ge=0, lt=2**63)


@dataclass(frozen=True)
class SiteReading(CorpusReading, SiteOptions):
    """Options of the kinds that read activations of a corpus, or of one text."""

    texts: ClassVar[tuple[int, int]] = (0, 1)


@dataclass(frozen=True)
class RepeatOptions(CorpusReading, SeedOptions):
    """Options of the kinds that read a corpus, or texts, and repeats beside."""

    room: ClassVar[str] = "repeats"
    texts: ClassVar[tuple[int, int]] = (0, 1000)
    repeats: int = option(32, "repeated random sequences, for what heads do on repeats; 0 for none", ge=0)


@dataclass(frozen=True)
class LearnOptions(CorpusReading, SeedOptions):
    """Options of the kinds that train something of their own on a corpus."""

    room: ClassVar[str] = "learning"
    steps: int = option(200, "of the training of what the probe learns", ge=1)
    seconds: float | None = option(60.0, "at most that this training takes", unit="seconds", gt=0)
    lr: float = option(1e-3, "learning rate of Adam at the first step; it falls to 0", gt=0)


# --- attention ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionOptions(HeadOptions):
    room: ClassVar[str] = "attention"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    stack: str | None = option(
        None,
        "of an encoder and a decoder, whose attention",
        choices=("encoder", "decoder", "cross"),
        auto="cross where the decoder was given a text, else the encoder's",
    )
    layers: tuple[int, ...] = option((), "only these layers, and not all", ge=0, example="0,3")
    heads: tuple[int, ...] = option((), "only these heads of each layer, and not all", ge=0, example="1,2")
    live: bool = option(
        False, "keep the kernel in the loop: the value under the pointer is exact (a widget while the kernel lives)"
    )


@dataclass(frozen=True)
class ExpertsOptions(KindOptions):
    room: ClassVar[str] = "experts"


@dataclass(frozen=True)
class HeadsOptions(RepeatOptions):
    room: ClassVar[str] = "heads"


# --- a token's walk -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalkOptions(HeadOptions, PositionOptions):
    room: ClassVar[str] = "walk"
    texts: ClassVar[tuple[int, int]] = (1, 2)


# --- lenses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogitLensOptions(KindOptions):
    room: ClassVar[str] = "logit_lens"
    texts: ClassVar[tuple[int, int]] = (1, 2)


@dataclass(frozen=True)
class TunedLensOptions(LearnOptions):
    room: ClassVar[str] = "tuned_lens"
    texts: ClassVar[tuple[int, int]] = (1, 1)


@dataclass(frozen=True)
class DLAOptions(AnswerOptions):
    room: ClassVar[str] = "dla"


# --- interventions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContrastOptions(AnswerOptions):
    """Options of the kinds that compare a clean and a corrupted text."""

    room: ClassVar[str] = "contrast"
    texts: ClassVar[tuple[int, int]] = (2, 2)
    metric: str = option(
        "logit_difference",
        "what tells the two runs apart",
        choices=("logit_difference", "log_probability", "kl"),
    )
    noising: bool = option(
        False, "put what the corrupted text gave into the clean run; otherwise the clean into the corrupted (denoising)"
    )


@dataclass(frozen=True)
class PatchOptions(ContrastOptions, SiteOptions, LayerOptions):
    room: ClassVar[str] = "patch"
    by: str | None = option(
        None,
        "what is patched at a time",
        choices=("position", "head", "head_position"),
        auto="a head, at sites that have heads, otherwise a position",
    )


@dataclass(frozen=True)
class AttributionPatchingOptions(PatchOptions):
    room: ClassVar[str] = "attribution_patching"
    n_steps: int = option(
        1, "gradients on the way from one text to the other whose mean is taken; 1 is that of the patched run", ge=1
    )
    check: bool = option(False, "patch too, and say how the two agree")


@dataclass(frozen=True)
class PathsOptions(ContrastOptions, HeadOptions, SeedOptions):
    room: ClassVar[str] = "paths"
    texts: ClassVar[tuple[int, int]] = (0, 2)


@dataclass(frozen=True)
class SteerOptions(AnswerOptions, SiteOptions, SeedOptions):
    room: ClassVar[str] = "steer"
    toward: object = option(
        None, "a text, or several, whose activations the direction leads to", example='"I love you"'
    )
    away: object = option(None, "a text, or several, whose activations it leads away from", example='"I hate you"')
    vector: object = option(None, "the direction itself, (D,), or its two ends, (2, D): to, from", example="@direction")
    strengths: tuple[float, ...] = option((-2.0, 0.0, 2.0), "how many times the direction is added", example="0,1,2")
    max_new_tokens: int = option(40, "tokens to write", ge=1)


@dataclass(frozen=True)
class ReplaceOptions(AnswerOptions, SiteOptions):
    room: ClassVar[str] = "replace"
    function: object = option(None, "what becomes of an activation: a function of it", auto="needed", example="@halve")


@dataclass(frozen=True)
class AblateOptions(RepeatOptions, AnswerOptions):
    room: ClassVar[str] = "ablate"
    parts: tuple[str, ...] = option(
        ("heads", "attention", "mlps", "layers"),
        "what is ablated, one at a time",
        choices=("heads", "attention", "mlps", "layers"),
    )
    ablation: str = option(
        "zero",
        "what stands in for what a part gives: zeros, its mean over all tokens, or what it gave at a token drawn by chance",
        choices=("zero", "mean", "resample"),
    )
    together: tuple[str, ...] = option(
        (), "parts that are ablated at once, in place of each alone", auto="one at a time", example="1.3,0.mlp"
    )


# --- attribution ----------------------------------------------------------------------------------------------------

ATTRIBUTIONS = ("integrated_gradients", "gradient_x_input", "gradient", "occlusion", "shapley", "rollout")
BASELINES = ("mean", "zero", "mask", "pad", "space", "remove")


@dataclass(frozen=True)
class AttributionOptions(AnswerOptions, SeedOptions):
    room: ClassVar[str] = "attribution"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    method: tuple[str, ...] = option(
        ("integrated_gradients", "occlusion"), "how the tokens' shares are found", choices=ATTRIBUTIONS
    )
    explain: str = option(
        "log_prob",
        "what of the answer is explained; beside another answer it is the difference of logits",
        choices=("log_prob", "logit", "prob"),
    )
    each: str | None = option(
        None, "explain each token of the text: all, or those of the positions a:b", example="all", auto="one answer"
    )
    baseline: str | None = option(
        None,
        "what stands for a token that is not there",
        choices=BASELINES,
        auto="<mask> where the model learned to fill it, else the mean of all tokens' vectors",
    )
    path_steps: int | None = option(
        None,
        "points on the path of integrated gradients",
        ge=1,
        auto="as many as bring their sum within 1 % of the difference",
        example="64",
    )
    samples: int = option(25, "orders of the tokens that Shapley values are the mean of", ge=2)


@dataclass(frozen=True)
class EditOptions(KindOptions):
    """Options of the kinds that change tokens where a gradient says so."""

    room: ClassVar[str] = "edits"
    candidates: int = option(128, "edits that are tried of each text: those that the gradient holds for best", ge=1)


@dataclass(frozen=True)
class CounterfactualOptions(AnswerOptions, EditOptions):
    room: ClassVar[str] = "counterfactual"
    texts: ClassVar[tuple[int, int]] = (1, 2)
    edits: int = option(3, "tokens that may be changed at most", unit="tokens", ge=1)
    beam: int = option(4, "changed texts that are gone on with after each edit", ge=1)
    retokenize: bool = option(True, "only texts that are cut into the same tokens when they are read again")


NOISES = ("swap", "delete", "insert", "keyboard")


@dataclass(frozen=True)
class RobustnessOptions(CorpusReading, EditOptions, SeedOptions):
    room: ClassVar[str] = "robustness"
    texts: ClassVar[tuple[int, int]] = (0, 1)
    noise: tuple[str, ...] = option(
        NOISES, "what happens to characters: swapped with the next, left out, one put in, a key beside", choices=NOISES
    )
    rates: tuple[float, ...] = option((0.02, 0.05, 0.1, 0.2), "shares of the characters that are changed", gt=0, le=1)
    draws: int = option(3, "times that each noise is drawn", ge=1)


# --- neurons and directions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitOptions(SiteReading):
    """Options of the kinds that show the passages that units answer to, or shade one text by them."""

    top: int = option(8, "passages of each unit that are shown", ge=1, le=50)


@dataclass(frozen=True)
class NeuronsOptions(UnitOptions, LayerOptions):
    room: ClassVar[str] = "neurons"
    neuron: tuple[int, ...] = option((), "neurons that are shown", ge=0, auto="the most telling", example="12,40")


@dataclass(frozen=True)
class FactorsOptions(UnitOptions, SeedOptions):
    room: ClassVar[str] = "factors"
    n_factors: int = option(6, "factors that the activations are made of", ge=1, le=64)


@dataclass(frozen=True)
class SAEOptions(UnitOptions, LearnOptions):
    room: ClassVar[str] = "sae"
    n_features: int | None = option(
        None, "features of the sparse autoencoder", ge=2, auto="four for each number at the site", example="512"
    )
    sparsity: str = option("topk", "what keeps its features few", choices=("topk", "l1"))
    k: int = option(8, "features that a token has (topk)", ge=1)
    l1: float = option(0.1, "weight of the features' sum in its loss (l1)", ge=0)


TOKEN_LABELS = (
    "next_class",
    "previous_class",
    "class",
    "capital",
    "space",
    "inside_word",
    "previous_token",
    "position",
    "sentence_position",
)


@dataclass(frozen=True)
class LinearProbeOptions(CorpusReading, SiteOptions, SeedOptions):
    room: ClassVar[str] = "linear_probe"
    on: object = option(None, "a DataFrame whose rows are classified", auto="none: tokens are", example="@df")
    column: str | None = option(None, "column of a DataFrame that holds the text", auto="the only text column")
    label: str | None = option(
        None,
        f"what is told apart: a column of `on`; of tokens {', '.join(TOKEN_LABELS)}",
        auto="next_class",
        example="capital",
    )
    pool: str = option("mean", "whose activation stands for a text", choices=("mean", "last", "first"))
    folds: int = option(5, "parts of the examples, each held out once", ge=2, le=20)
    l2: float = option(1.0, "weight of the squared weights in the loss of the classifier", gt=0)


# --- vectors, weights and similarity ------------------------------------------------------------------------------


@dataclass(frozen=True)
class NeighboursOptions(KindOptions):
    room: ClassVar[str] = "neighbours"
    models: ClassVar[tuple[int, int]] = (1, 64)


@dataclass(frozen=True)
class AnalogiesOptions(KindOptions):
    room: ClassVar[str] = "analogies"
    models: ClassVar[tuple[int, int]] = (1, 64)


@dataclass(frozen=True)
class WeightsOptions(CorpusReading):
    room: ClassVar[str] = "weights"
    models: ClassVar[tuple[int, int]] = (1, 2)
    parameters: tuple[str, ...] | None = option(
        None,
        "the weights, or patterns of them",
        auto="all but biases",
        example='"blocks.*.attn.q"',
    )
    gradients: bool = option(False, "also the gradients of its loss on the corpus")

    def validate(self) -> None:
        if self.corpus is not None and not self.gradients:
            raise BadValue("corpus: weights are read without one, only gradients need it; add --gradients")


@dataclass(frozen=True)
class EmbeddingsOptions(SiteReading, SeedOptions):
    room: ClassVar[str] = "embeddings"
    models: ClassVar[tuple[int, int]] = (1, 64)
    table: str = option("input", "whose vectors: of the input, or of the output", choices=("input", "output"))
    n_tokens: int = option(300, "the most frequent tokens that are shown, where no text names some", ge=3, le=2000)
    projection: str = option("pca", "how many numbers become few", choices=("pca", "tsne"))
    dims: int = option(2, "dimensions of the picture", ge=2, le=3)
    align: str | None = option(
        None,
        "how several models' pictures are laid on one another",
        choices=("basis", "procrustes"),
        auto="one basis where they are states of one training, else each turned onto the next",
    )
    colour: str = option("kind", "what the colours and signs show", choices=("kind", "frequency"))
    neighbourhood: float = option(30.0, "neighbours that t-SNE keeps near, its perplexity", gt=1)


@dataclass(frozen=True)
class SimilarityOptions(SiteReading):
    room: ClassVar[str] = "similarity"
    models: ClassVar[tuple[int, int]] = (1, 2)
    measure: str = option("cka", "what says how alike two layers are", choices=("cka", "cosine", "cca"))


SITES, EMBEDDINGS, GRADIENTS = (frozenset({ability}) for ability in ("sites", "embeddings", "gradients"))

PROBES = Table(
    "probe",
    [
        Entry(
            "attention",
            "llm_lab.probes.attention:attention",
            "which token reads from which, every head",
            AttentionOptions,
            SITES,
        ),
        Entry(
            "experts",
            "llm_lab.probes.experts:experts",
            "which experts take which token, every layer",
            ExpertsOptions,
            SITES,
        ),
        Entry(
            "heads",
            "llm_lab.probes.heads:heads",
            "what every head does, by numbers and a name: previous token, induction, …",
            HeadsOptions,
            SITES,
        ),
        Entry(
            "ablate",
            "llm_lab.probes.ablate:ablate",
            "what is lost without each head, attention, MLP and layer",
            AblateOptions,
            SITES,
        ),
        Entry(
            "walk",
            "llm_lab.probes.walk:walk",
            "one token through every step, with formulas and numbers",
            WalkOptions,
            SITES,
        ),
        Entry(
            "heads",
            "llm_lab.probes.heads:heads",
            "what every head does, by numbers and a name: previous token, induction, …",
            HeadsOptions,
            SITES,
        ),
        Entry(
            "attribution",
            "llm_lab.probes.attribution:attribution",
            "which tokens of the text an answer rests on",
            AttributionOptions,
            SITES,
        ),
        Entry(
            "counterfactual",
            "llm_lab.probes.counterfactual:counterfactual",
            "the fewest changed tokens that change the answer",
            CounterfactualOptions,
            SITES,
        ),
        Entry(
            "robustness",
            "llm_lab.probes.robustness:robustness",
            "what typing errors and one wrong token cost",
            RobustnessOptions,
            SITES,
        ),
        Entry(
            "logit_lens",
            "llm_lab.probes.lenses:logit_lens",
            "what every layer would predict at every token",
            LogitLensOptions,
            SITES,
        ),
        Entry(
            "tuned_lens",
            "llm_lab.probes.lenses:tuned_lens",
            "the same behind translators of each layer, trained on the spot",
            TunedLensOptions,
            SITES,
        ),
        Entry(
            "dla",
            "llm_lab.probes.dla:dla",
            "direct logit attribution: what every head and MLP adds to a logit",
            DLAOptions,
            SITES,
        ),
        Entry(
            "patch",
            "llm_lab.probes.patching:patch",
            "what of a clean run, put into a corrupted one, restores its answer",
            PatchOptions,
            SITES,
        ),
        Entry(
            "attribution_patching",
            "llm_lab.probes.patching:attribution_patching",
            "the same, estimated by gradients",
            AttributionPatchingOptions,
            SITES,
        ),
        Entry(
            "paths",
            "llm_lab.probes.paths:paths",
            "which earlier heads a head reads: two texts, by patching; none, by weights",
            PathsOptions,
            SITES,
        ),
        Entry(
            "steer",
            "llm_lab.probes.steering:steer",
            "what is written with a direction added to the stream",
            SteerOptions,
            SITES,
        ),
        Entry(
            "replace",
            "llm_lab.probes.replacing:replacing",
            "what a function of yours makes of the answer, put in the place of an activation",
            ReplaceOptions,
            SITES,
        ),
        Entry(
            "neighbours",
            "llm_lab.probes.vectors:neighbours",
            "the tokens whose vectors are nearest to each word's",
            NeighboursOptions,
            EMBEDDINGS,
        ),
        Entry(
            "analogies",
            "llm_lab.probes.vectors:analogies",
            "man is to king as woman is to …, for every three words",
            AnalogiesOptions,
            EMBEDDINGS,
        ),
        Entry(
            "embeddings",
            "llm_lab.probes.embeddings:embeddings",
            "the vectors of the tokens as a map, of one model or of several over its training",
            EmbeddingsOptions,
            EMBEDDINGS,
        ),
        Entry(
            "weights",
            "llm_lab.probes.weights:weights",
            "how the weights, and their gradients, are distributed, and their singular values; of one model or two",
            WeightsOptions,
            GRADIENTS,
        ),
        Entry(
            "similarity",
            "llm_lab.probes.similarity:similarity",
            "how alike the layers are in what they make of the same tokens (CKA), of one model or two",
            SimilarityOptions,
            GRADIENTS,
        ),
        Entry(
            "neurons",
            "llm_lab.probes.neurons:neurons",
            "what neurons answer to: their most active passages, or a text shaded by them",
            NeuronsOptions,
            SITES,
        ),
        Entry(
            "factors",
            "llm_lab.probes.factors:factors",
            "groups of neurons that are active together, by non-negative factors",
            FactorsOptions,
            SITES,
        ),
        Entry(
            "linear_probe",
            "llm_lab.probes.linear:linear_probe",
            "what a linear classifier reads from every layer, with a control task",
            LinearProbeOptions,
            SITES,
        ),
        Entry(
            "sae",
            "llm_lab.probes.sae:sae",
            "features of a small sparse autoencoder that is trained on the spot",
            SAEOptions,
            SITES,
        ),
    ],
)


@dataclass(frozen=True)
class ProbeOptions(Options):
    room: ClassVar[str] = "probe"
    kind: str = option("attention", "what to look at", choices=lambda: PROBES)


def probe_options(given: Mapping[str, Any]) -> tuple[type[Options], ...]:
    """The options of the kind that is `given`, and those of all others whose names do not stand for something else there."""
    meant = PROBES.get(given.get("kind") or "attention")
    found: list[type[Options]] = []
    for entry in [*([meant] if meant else []), *PROBES.values()]:
        kind: Any = entry.options
        others = all_specs(found)
        if kind not in found and all(others.get(name, spec) == spec for name, spec in specs(kind).items()):
            found.append(kind)
    return tuple(found)


# --- while a model trains -------------------------------------------------------------------------------------------

_AT = "llm_lab.probes.watches:"

# Those that rest on gradients are measured by the trainer, in the step before a validation.
WATCHES = Table(
    "watch",
    [
        Entry(
            "induction_score", _AT + "induction_score", "the largest of all heads, and which head has it", None, SITES
        ),
        Entry("previous_token_score", _AT + "previous_token_score", "likewise of the previous token", None, SITES),
        Entry("head_entropy", _AT + "head_entropy", "bits, the mean over all heads", None, SITES),
        Entry("residual_norm", _AT + "residual_norm", "length of the stream after each layer", None, SITES),
        Entry("lens_kl", _AT + "lens_kl", "nats from the logit lens of the middle layer to the output", None, SITES),
        Entry("dead_neurons", _AT + "dead_neurons", "share of MLP neurons that never rise above 0", None, SITES),
        Entry("weight_norm", _AT + "weight_norm", "length of all weights"),
        Entry("grad_norm", _AT + "grad_norm", "length of the gradient before it is clipped", None, GRADIENTS),
        Entry("update_ratio", _AT + "update_ratio", "length of a step over that of the weights", None, GRADIENTS),
    ],
)


def _watchable() -> list[str]:
    """The watches, and the kinds of probes that need one model and at most a text."""
    kinds: dict[str, Any] = {entry.name: entry.options for entry in PROBES.values()}
    return [*WATCHES, *(name for name, kind in kinds.items() if kind.texts[0] <= 1 >= kind.models[0])]


@dataclass(frozen=True)
class WatchOptions(Options):
    room: ClassVar[str] = "watches"
    watch: tuple[object, ...] = option(
        (),
        "what is logged at each validation: numbers, kinds of probes, functions of your own, lm -> number, as @name",
        choices=_watchable,
        auto="none",
        example="induction_score,head_entropy",
    )

    def validate(self) -> None:
        names = [watch_name(watch) for watch in self.watch]
        for name in names:
            if names.count(name) > 1:
                raise BadValue(f"watch: {name} is named twice; keep one")
            if name in ("step", "tokens", "seconds", "train_loss", "val_loss", "lr"):
                raise BadValue(f"watch: {name} is a column of every history; give the function another name")


def watch_name(watch: Any) -> str:
    """What a watch is called: its name in a table, or a user's function's; BadType for what is neither."""
    return watch if isinstance(watch, str) else own_name(watch, "watch", "a function of an LM")

"""Small invented results for the tests of the views; `hostile` ones hold text that would like to be markup."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np

from llm_lab.errors import BadValue
from llm_lab.results import (
    Answer,
    AttentionMaps,
    BackgroundRun,
    BeamNode,
    BeamTree,
    Bench,
    BenchLine,
    Chat,
    Compared,
    Comparison,
    Control,
    CorpusReport,
    Counterfactual,
    Evaluation,
    ExpertRouting,
    Fork,
    Generation,
    Generations,
    HeadTable,
    Heatmap,
    LinearProbe,
    Listing,
    LogitAttribution,
    LogitLens,
    Message,
    ModelPart,
    ModelReport,
    Neighbours,
    NoisePoint,
    Panel,
    Passage,
    Passages,
    Piece,
    Playground,
    Projection,
    Prompt,
    PromptResults,
    Robustness,
    RunComparison,
    RunFacts,
    RunRow,
    RunTable,
    Sample,
    Score,
    SideBySide,
    SiteScore,
    SizePoint,
    Sizing,
    Step,
    StrategyControls,
    Swap,
    Tokenization,
    TokenizationRow,
    TokenScores,
    TokenStatistics,
    TrainingReport,
    TunedLens,
    Unit,
    Walk,
    WeightFacts,
    WeightRow,
    WeightTable,
)
from llm_lab.templates import Template

EVIL = "<script>alert(1)</script>"
HOSTILE = [
    EVIL,
    "\0",
    "שלום",
    "👩‍👩‍👧",
    "你好",
    "\u0301",
    "\u202e",
    "a\nb",
    "\t",
    "\"&'",
    "<!--",
    "]]>",
    "${1}`",
    "\ud800",
    "",
    "</pre>",
    "javascript:1",
]


def training(status: str = "finished", name: str = "bard", steps: int = 606, by_time: bool = True) -> TrainingReport:
    rng = np.random.default_rng(0)
    curve = [1.55 + 2.6 * math.exp(-i / 60) + 0.5 * math.exp(-i / 300) + 0.05 * rng.normal() for i in range(steps)]
    train = [(i + 1, 0.099 * (i + 1), loss) for i, loss in enumerate(curve)]
    val = [(i, 0.099 * i, curve[i - 1] + 0.06) for i in range(80, steps, 80)]
    done = status == "finished"
    return TrainingReport(
        name=name,
        status=status,
        facts=["modern", "0.80 M parameters", "shakespeare, char", "cpu 2 threads, fp32", "run 3f2a9c", "seed 0"],
        unit="nats/char",
        train=train,
        val=val,
        val_on="the first 20,480 of 111,540 held-out chars",
        by_time=by_time,
        budget_steps=606,
        budget_seconds=60.0,
        step=steps,
        seconds=0.099 * steps,
        tokens=steps * 2048,
        epochs=steps * 2048 / 1e6,
        tokens_per_second=20_600.0,
        lr=6.4e-3,
        schedule="linear to 0",
        memory=310_000_000,
        memory_total=23_100_000_000,
        final={"loss": 1.712, "perplexity": 5.541, "bits_per_byte": 2.470} if done else {},
        samples=[
            Sample(100, 10.1, "ROMEO:", "\nThe the shat of the mare,\nAnd the he"),
            Sample(300, 30.1, "ROMEO:", "\nAnd the world I say, my lord,\nThat shall the prince of her death"),
        ],
        notes=["batch 24 of 64 tokens was fitted to this machine"],
        repeat="%pretrain bard shakespeare --tokenizer char --steps 606 --batch_size 24 --seed 0" if done else "",
    )


def background(status: str = "training", name: str = "bard", steps: int = 300, why: str = "") -> BackgroundRun:
    report = training(status, name, steps)
    report.notes += [why] if why else []
    return BackgroundRun(name=name, run="3f2a9c", report=report)


def growing(name: str = "bard", by: int = 4, ends: int = 10_000) -> BackgroundRun:
    """A run that grows by some steps with every look, and does what is asked of it at the next one."""
    made = background("training", name, 1)
    whole = training("training", name, ends).train
    asked: list[tuple[str, float]] = []

    def update() -> TrainingReport:
        report = made.report
        for do, scale in asked:
            if do == "lr":
                report.lr_scale, report.lr = scale, 6.4e-3 * scale
            else:
                report.status = {"pause": "paused", "resume": "training", "stop": "finished"}[do]
        asked.clear()
        if report.status == "training":
            report.step = min(report.step + by, ends)
            report.train = whole[: report.step]
            report.val = whole[79 : report.step : 80]
            report.seconds, report.tokens = report.train[-1][1], 2048 * report.step
            if report.step == ends:
                report.status = "finished"
        return report

    def pause() -> None:
        if made.report.status != "training":
            raise BadValue(f"pause: run 3f2a9c of {name} is {made.report.status}, not training")
        asked.append(("pause", 1.0))

    made.actions = {
        "update": update,
        "pause": pause,
        "resume": lambda: asked.append(("resume", 1.0)),
        "stop": lambda: asked.append(("stop", 1.0)),
        "lr": lambda scale: asked.append(("lr", scale)),
    }
    return made


def pieces(texts: list[str]) -> list[Piece]:
    return [Piece(text, 10 + i, special=text == "[BOS]", unknown=text == "[UNK]") for i, text in enumerate(texts)]


def generation(texts: list[str] | None = None, n: int = 1, done: bool = True, name: str = "bard") -> Generation:
    words = texts or re.findall(
        r"\n| ?(?:mat|hon|king|\w+)|[^\w\s]",
        "\nWhat is the matter with your honour, my lord?\nI have a son to speak the kingly crown.",
    )
    rng = np.random.default_rng(1)
    logprob = [[-float(v) for v in rng.gamma(1.2, 1.3, len(words))] for _ in range(n)]
    known = TokenStatistics(
        entropy=rng.gamma(2, 0.8, len(words)),
        rank=rng.integers(1, 9, len(words)),
        top=rng.integers(0, len(words), (len(words), 10)),
        top_logprob=np.log(np.sort(rng.dirichlet([0.5] * 12, len(words)))[:, :1:-1] + 1e-9),
        names=dict(enumerate(words)),
    )
    return Generation(
        actions={"statistics": lambda texts: [known] * len(texts)},
        name=name,
        prompt="ROMEO:",
        prompt_pieces=pieces(list("ROMEO:")),
        pieces=[pieces(words) for _ in range(n)],
        logprob=logprob,
        chosen_prob=[[min(1.0, 1.1 * math.exp(v)) for v in line] for line in logprob],
        texts=["ROMEO:" + "".join(words)] * n,
        strategy="top_p",
        options={"p": 0.9, "temperature": 0.8},
        seed=0,
        tokens_per_second=2140.0,
        done=done,
    )


def tree(texts: list[str] | None = None, name: str = "bard") -> Generation:
    """A text, one that left it, one that left that one, and another that left the first earlier."""
    made = generation(texts, n=4, name=name)
    made.forks = {1: Fork(0, 6, 11), 2: Fork(1, 9, 12), 3: Fork(0, 3, 13)}
    for sample, fork in made.forks.items():
        made.pieces[sample] = list(made.pieces[sample])
        made.pieces[sample][fork.at] = Piece(texts[sample] if texts else f" w{sample}", 900 + sample)
        made.chosen_prob[sample][fork.at] = math.nan
    return made


def chat(texts: list[str] | None = None, name: str = "bard") -> Chat:
    words = texts or ["Good morrow!", "What is the matter\nwith your honour?"]
    written = generation(texts, name=name)
    said = [Message("system", words[0]), Message("user", words[0]), Message("assistant", words[1], written)]
    return Chat(name=name, template=f"Q: {{{{user}}}}\nA: {{{{assistant}}}}{words[0]}", messages=said, notes=[words[0]])


def playground(texts: list[str] | None = None, name: str = "bard", written: bool = False) -> Playground:
    word = texts[0] if texts else "top_p"
    slider = Control(name="p", kind="slider", help=f"keep {word}", value=0.9, low=0.01, high=1.0)
    words = Control(name="stop", kind="text", help=word, value="", optional=True, on=False)
    seed = Control(name="seed", kind="number", help="of the draws", value=0, optional=True, whole=True)
    top_k = Control(
        name="top_k", kind="slider", help="k", value=50, low=1, high=100, step=1, whole=True, optional=True, on=False
    )
    way = Control(name="early_stopping", kind="choice", help="when to end", value="false", choices=["false", "true"])
    return Playground(
        name=name,
        facts=["context 64 tokens"],
        prompt="".join(texts) if texts else "ROMEO:",
        strategy=word,
        strategies=[
            StrategyControls(name=word, help=word, draws=True, own=[slider], without=["top_p"]),
            StrategyControls(name="beam", help="beams", draws=False, own=[way], without=["top_k"]),
        ],
        filters=[top_k],
        general=[seed, words],
        generation=generation(texts, name=name) if written else None,
    )


def attention(
    texts: list[str] | None = None,
    layers: int = 4,
    heads: int = 6,
    name: str = "bard",
    seed: int = 0,
    parts: list[int] | None = None,
) -> AttentionMaps:
    texts = texts or ["To", " be", ",", " or", " not", " to", " be", ",", " that", " is", " the", " question"]
    rng = np.random.default_rng(seed)
    tokens, width = len(texts), 16
    content = rng.normal(size=(tokens, width))
    q, k = rng.normal(size=(2, layers, heads, tokens, width)).astype(np.float32)
    place = np.arange(tokens)[:, None] / 10 ** (np.arange(width // 2) / 4)
    wave = np.concatenate([np.sin(place), np.cos(place)], -1)
    for i in range(layers):
        for j in range(heads):
            kind = (i * 5 + j * 3) % 4
            if kind == 0:  # the previous token
                q[i, j], k[i, j] = 5 * np.roll(wave, 1, axis=0), wave
            elif kind == 1:  # the first
                q[i, j], k[i, j] = 1, np.where(np.arange(tokens)[:, None] == 0, 1.4, 0.1)
            elif kind == 2:  # near by
                q[i, j], k[i, j] = wave, wave
            else:
                q[i, j], k[i, j] = 1.6 * content, rng.normal(size=(tokens, width)) * 1.2
    made = AttentionMaps(
        name=name,
        pieces=pieces(texts),
        q=q,
        k=k,
        scale=width**-0.5,
        parts=parts,
        thumbnails=np.zeros((layers, heads, 1, 1), np.uint8),
        measures=np.zeros((layers, heads, 4), np.float32),
    )
    every = made.numpy().astype(float)
    own, before = every.diagonal(axis1=2, axis2=3), every.diagonal(-1, axis1=2, axis2=3)
    entropy = -(every * np.log2(np.maximum(every, 1e-30))).sum(-1).mean(-1)
    empty = np.zeros((layers, heads))
    first = every[:, :, 1:, 0].mean(-1) if tokens > 1 else empty + 1
    made.measures = np.stack([entropy, before.mean(-1) if tokens > 1 else empty, first, own.mean(-1)], -1)
    side = min(tokens, 64)
    starts = np.arange(side) * tokens // side
    for_all = [[np.round(made.pattern(i, j) * 255).astype(np.uint8) for j in range(heads)] for i in range(layers)]
    made.thumbnails = np.maximum.reduceat(np.maximum.reduceat(np.array(for_all), starts, axis=-1), starts, axis=-2)
    return made


def cross(texts: list[str], source: list[str], name: str = "bard") -> AttentionMaps:
    """A decoder that reads a source of another length."""
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(2, 3, len(some), 8)).astype(np.float32) for some in (texts, source))
    made = AttentionMaps(
        name=name,
        pieces=pieces(texts),
        source=pieces(source),
        stack="cross",
        q=q,
        k=k,
        scale=1.0,
        causal=False,
        thumbnails=np.zeros((2, 3, 1, 1), np.uint8),
        measures=rng.random((2, 3, 4)),
        notes=[name],
    )
    made.thumbnails = np.round(made.numpy() * 255).astype(np.uint8)
    return made


def tokenization(text: str = "To be, or not to be: 你好 👋\nשלום", hostile: bool = False) -> Tokenization:
    cuts = {
        "char": list(text),
        "byte": [chr(b) if b < 128 else f"<0x{b:02X}>" for b in text.encode(errors="replace")],
        "bpe": HOSTILE if hostile else ["To", " be", ",", " or", " not", " to", " be", ":", " ", "[UNK]", "\n", "שלום"],
    }
    rows = [
        TokenizationRow(kind, pieces(cut), len(cut), len(text) / len(cut), cut.count("[UNK]"), 4096, "exact")
        for kind, cut in cuts.items()
    ]
    return Tokenization(text=text, trained_on="shakespeare", rows=rows)


def block(
    cross: bool = False, experts: bool = False, place: str = "pre", stack: str = "", count: int = 4
) -> list[ModelPart]:
    """The parts of one block, with norms where `place` has them."""
    found = []
    for kind in ("attention", *(["cross"] if cross else []), "experts" if experts else "mlp"):
        before = ModelPart(f"{kind} norm", "rmsnorm", count, 512, 2048, 2_100_000, "norm", stack, True)
        after = ModelPart(f"norm after {kind}", "rmsnorm", count, 512, 2048, 2_100_000, "norm", stack, True)
        main = ModelPart(kind, "128 → 512 → 128", count, 524_288, 1_048_576, 60_000_000, kind, stack, True)
        found += [before] * (place != "post") + [main] + [after] * (place != "pre")
    return found


def model(
    name: str = "tiny",
    detail: str = "65 tokens × 128",
    stacks: tuple[str, ...] = ("",),
    config: dict[str, Any] | None = None,
    first: tuple[str, ...] = (),
    last: tuple[str, ...] = ("output",),
    **block_of: Any,
) -> ModelReport:
    """A model of one stack or two; `first` and `last` are kinds of parts around the blocks."""
    parts = [ModelPart("embedding", detail, 1, 8320, 0, 1_200_000, "embedding")]
    for stack in stacks:
        parts += [ModelPart(kind, "learned, 64 × 128", 1, 256, 128, 1_000_000, kind, stack) for kind in first]
        parts += block(cross=stack == "decoder", stack=stack, **block_of)
        parts.append(ModelPart("final norm", "rmsnorm", 1, 128, 512, 500_000, "norm", stack))
    parts += [ModelPart(kind, "128 → 65 tokens", 1, 8320, 16_640, 2_000_000, kind) for kind in last]
    return ModelReport(
        name=name,
        title="modern · decoder",
        config={"n_layer": 4, "n_head": 4, "position": "rotary"} | (config or {}),
        parts=parts,
        parameters=sum(p.parameters for p in parts),
        flops=sum(p.flops for p in parts),
        memory=sum(p.memory for p in parts),
        batch_size=16,
    )


def with_parts(report: TrainingReport, names: tuple[str, ...] = ("mlm", "nsp"), turns: bool = False) -> TrainingReport:
    """A run whose loss has parts; in turns each step has one of them."""
    for i, name in enumerate(names):
        own = report.train[i :: len(names)] if turns else report.train
        report.parts[name] = [(step, seconds, loss / (i + 2)) for step, seconds, loss in own]
        report.val_parts[name] = [(step, seconds, loss / (i + 2)) for step, seconds, loss in report.val]
    return report


def with_watches(
    report: TrainingReport, names: tuple[str, ...] = ("induction_score", "norm", "my_fn")
) -> TrainingReport:
    """The report with what was watched: a number with its place, one of several layers, one that stays; and a view."""
    score, norm, own = names
    steps = [(step, seconds) for step, seconds, _ in report.val] or [(0, 0.0)]
    numbers = {score: 0.5, f"{score}.layer": 1.0, f"{score}.head": 3.0, own: 7.0}
    numbers |= {f"{norm}.layer {i}": float(i) for i in range(12)}
    for i, (name, value) in enumerate(numbers.items()):
        moves = 0.0 if name == own or (value == int(value) and not name.startswith(norm)) else 0.1 * (i + 1)
        report.watched[name] = [(step, seconds, value + moves * n) for n, (step, seconds) in enumerate(steps)]
    report.watching = {score: f"what {score} is"}
    report.looks = {own: (steps[-1][0], heatmap(name=own))}
    report.setup_seconds, report.watch_seconds = 1.0, 0.03 * (report.seconds - 1)
    return report


def sides(name: str = "bard", other: str = "bard@100", waits: bool = False) -> SideBySide:
    results = [heatmap(name=name), *([] if waits else [heatmap(name=other)])]
    return SideBySide(kind="logit_lens", names=[name, other], results=results)


def corpus(
    name: str = "shakespeare", sample: str = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
) -> Any:
    words = [("the", 5437), ("and", 4859), ("I", 4400), ("to", 3900), ("of", 3300), (sample[:12], 20)]
    return CorpusReport(
        name=name,
        source="tinyshakespeare.txt",
        n_documents=1,
        n_chars=1_115_394,
        n_bytes=1_115_394,
        n_words=202_651,
        n_distinct_chars=65,
        n_distinct_words=25_670,
        top_words=words,
        n_duplicates=41,
        duplicate_unit="paragraphs",
        train_chars=1_003_854,
        val_chars=111_540,
        fingerprint="86c4e6aa9db7c042",
        sample=sample * 3,
    )


def evaluation(models: tuple[str, ...] = ("bard", "b2"), unit: str = "nats/char") -> Evaluation:
    scores = []
    for i, name in enumerate(models):
        scores += [
            Score(name, "loss", 1.7123 - i / 10, 0.0131, unit, "lower", 871),
            Score(name, "perplexity", 5.541 - i, 0.072, "", "lower", 871),
            Score(name, "accuracy", 0.482 + i / 20, None, "share", "higher", 871),
        ]
    return Evaluation(models=list(models), data="shakespeare, held-out 111,540 characters", scores=scores)


def listing(title: str = "runs", cell: str = "bard") -> Listing:
    return Listing(
        title=title,
        facts=["2 in .llm_lab"],
        columns=["name", "run", "status", "steps", "held-out loss", "MB"],
        rows=[[cell, "3f2a9c", "finished", 606, 1.7123, 3.2], ["b2", "11aa22", "paused", 12, None, 3.2]],
        caption="Loss in nats per token over the whole held-out split.",
    )


def neighbours(
    asked: tuple[str, ...] = ("king", "love"), texts: list[str] | None = None, name: str = "vec"
) -> Neighbours:
    near = texts or [" queen", " prince", " ", " crown"]
    return Neighbours(
        name=name,
        kind="neighbours",
        asked=list(asked),
        pieces=[pieces(near) for _ in asked],
        similarity=[[0.8123 - 0.3 * i for i in range(len(near))] for _ in asked],
        n_tokens=4096,
        width=128,
        notes=[name],
    )


def routing(texts: list[str], layers: int = 4, experts: int = 8, active: int = 2, name: str = "moe") -> ExpertRouting:
    scores = np.random.default_rng(0).normal(size=(layers, len(texts), experts))
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    chosen = (-probs).argsort(-1)[..., :active].astype(np.int16)
    return ExpertRouting(
        name=name, pieces=pieces(texts), probs=probs.astype(np.float16), chosen=chosen, n_active=active
    )


def weight_table(two: bool = False, name: str = "bard") -> WeightTable:
    """A matrix, a vector and what is no number, with gradients; of two models, or beside fresh ones."""
    rng = np.random.default_rng(0)

    def facts(spectrum: int) -> WeightFacts:
        drawn = rng.random(6).tolist() if spectrum else [math.nan, math.inf, 0.1, 0.0, 1.0, 0.5]
        known = rng.random(4).tolist() if spectrum else [math.nan] * 4
        histogram, singular = rng.random(12), np.sort(rng.random(spectrum))[::-1]
        return WeightFacts(*drawn, 1.0, *known, math.nan, histogram, singular, gradient=0.2, noise_scale=300.0)

    rows = [
        WeightRow(f"{name}.{i}", (64, 16) if size else (16,), (-1.0, 1.0), [facts(size) for _ in range(1 + two)], None if two else facts(size), 0.3)
        for i, size in enumerate((16, 0, 90))
    ]  # fmt: skip
    models = [name, f"{name}2"][: 1 + two]
    return WeightTable(models=models, rows=rows, losses=[2.5] * len(models), tokens=[2048] * len(models), notes=[name])


def projection(
    texts: list[str] | None = None, frames: int = 1, dims: int = 2, name: str = "bard", size: int = 1
) -> Projection:
    """Tokens somewhere, moving a little."""
    words = (texts or ["To", " be", "be", ",", " ", "7", "你", "\n"]) * size
    rng = np.random.default_rng(0)
    start = rng.normal(size=(1, len(words), dims))
    kinds = ["capital", "lower case", "other letter", "digit", "punctuation", "space", "bytes", "special"]
    made = pieces(words)
    return Projection(
        frames=[f"{name}@{i}" for i in range(frames)],
        source=f"input vectors {name}",
        pieces=made,
        kinds=[kinds[i % len(kinds)] for i in range(len(words))],
        counts=rng.integers(0, 900, len(words)),
        points=(start + 0.1 * rng.normal(size=(frames, len(words), dims))).astype(np.float32),
        projection="pca",
        explained=np.full((frames, dims), 0.2),
        align="basis" if frames > 1 else "",
        width=[64] * frames,
        near=np.array([[[made[(i + j) % len(made)].id for j in range(1, 4)] for i in range(len(made))]] * frames),
        cosine=np.full((frames, len(words), 3), 0.5, np.float32),
        names={piece.id: piece for piece in made},
        notes=[name],
    )


def beams(texts: list[str] | None = None, n_beams: int = 3, n_steps: int = 6) -> BeamTree:
    """A search that goes straight on; its last beam is pruned at every second step, its second one ends at the third."""
    words = texts or [" to", " be", ",", " or", "\n"]
    steps = []
    for t in range(n_steps):
        nodes = []
        for i in range(n_beams):
            parent = -1 if t == 0 else 0 if i == 1 and t == 3 else i
            ends = t == n_steps - 1 or (t == 2 and i == 1)
            piece = Piece(words[(t + i) % len(words)], t + i)
            nodes.append(BeamNode(parent, piece, -0.5 * (t + 1) - 0.25 * i, ends, kept=i < 2 or ends))
        steps.append(nodes)
    return BeamTree(n_beams=n_beams, n_steps=n_steps, steps=steps, best=[0] * n_steps)


def searched(texts: list[str] | None = None, name: str = "bard") -> Generation:
    made = generation(texts, name=name)
    made.beams = beams(texts)
    return made


def compared(
    texts: list[str] | None = None,
    strategies: tuple[str, ...] = ("greedy", "top_p:p=0.5"),
    name: str = "bard",
    models: int = 1,
    tree: BeamTree | None = None,
) -> Comparison:
    """Strategies on two prompts, a value of `self_bleu` missing; the first strategy may have searched."""
    written = texts or [" to be, or not", " to go"]
    names = [name, *(f"{name}{i}" for i in range(2, models + 1))]
    cells = [
        Compared(
            model=model, strategy=strategy, prompt=i, options={"p": 0.5, "bad_words": (written[0],)}, texts=written,
            logprob=-1.2 - at - 0.1 * i - 0.3 * m, entropy=1.5, distinct_1=0.4, distinct_2=0.3 + 0.15 * at + 0.05 * i,
            repetition=0.1, self_bleu=41.0 - at if i else math.nan, n_tokens=28, tokens_per_second=812.0 + m, seed=0,
            notes=[name] if at else [], beams=None if at else tree,
        )
        for m, model in enumerate(names)
        for at, strategy in enumerate(strategies)
        for i in range(2)
    ]  # fmt: skip
    return Comparison(
        models=names, prompts=["ROMEO:", written[0]], strategies=list(strategies), cells=cells, done=True, notes=[name]
    )


def several(
    texts: list[str] | None = None,
    prompts: tuple[str, ...] = ("ROMEO:", "JULIET: hello"),
    name: str = "bard",
    n: int = 2,
) -> Generations:
    found = {i: generation(texts, n=n, name=name) for i in range(len(prompts))}
    for i, prompt in enumerate(prompts):
        found[i].texts, found[i].prompt, found[i].seed = [prompt + "".join(texts or [" to", "be"])] * n, prompt, i
    return Generations(name=name, prompts=[*prompts, name], written=found, notes=[name])


def prompt(
    texts: tuple[str, ...] = ("Translate: {{english}}\nFrench:",), name: str = "ask", value: str = "cat"
) -> Prompt:
    templates = [Template.read(text) for text in texts]
    return Prompt(
        name=name, templates=templates, options={}, notes=[name],
        preview=[templates[0].fill(dict.fromkeys(templates[0].fields, value))] * 3,
    )  # fmt: skip


def asked(
    texts: tuple[str, ...] = ("Translate: {{english}}\nFrench:", "{{english}} in French is"),
    name: str = "bard",
    values: tuple[str, ...] = ("cat", "dog", "sea") * 5,
    done: bool = True,
    metrics: tuple[str, ...] = ("exact_match", "chrf"),
) -> PromptResults:
    made = prompt(texts, name if name != "bard" else "ask", [*values, ""][0])
    answers = [
        Answer(
            template=t, model=m, row=row, sample=0, prompt=value, text=value[::-1] if (row + t) % 3 else "", logprob=-1.2,
            scores=dict(zip(metrics, (float((row + t + m) % 3 > 0), 31.5 * row / len(values)), strict=True)),
        )
        for m in range(2) for t in range(1, len(texts) + 1)
        for row, value in enumerate(values if done or not m else values[:4])
    ]  # fmt: skip
    return PromptResults(
        prompt=made, models=[name, "b2"], frame=None, labels=[f"{name}{i}" for i in range(len(values))],  # type: ignore[arg-type]  # views draw no frame
        values=[dict.fromkeys(made.fields, value) for value in values], targets=list(values),
        metrics=dict(zip(metrics, ("0–1", "0–100"), strict=True)), facts=["greedy", "at most 40 tokens"], seed=3,
        answers=answers, done=done, notes=[name],
    )  # fmt: skip


def runs(name: str = "bard", corpus: str = "shakespeare") -> RunComparison:
    """Two runs, and a model that has none."""
    val = [(step, step / 10, 4.0 - step / 100) for step in range(20, 200, 20)]
    facts = [
        RunFacts(
            name=f"{name}{i or ''}", run="3f2a9c" if i < 2 else "", preset="modern", parameters=812_000 + i,
            corpus=corpus, objective="clm", unit="nats/char", steps=180 - i, tokens=368_640, seconds=20.0 + i,
            train_loss=2.2, val_loss=2.21 - i / 10 if i < 2 else None, bits_per_byte=3.2 if i < 2 else None,
            val=[(step, seconds, loss - i / 5) for step, seconds, loss in val] if i < 2 else [], status="finished",
            train=[(s, s / 10, 4.1 - s / 100 - i / 5 + 0.2 * math.sin(7.0 * s)) for s in range(1, 181)] if i < 2 else [],
            options={"n_layer": 4 + i},
        )
        for i in range(3)
    ]  # fmt: skip
    return RunComparison(models=facts, differ={"n_layer": [4, 5, None], "corpus": [corpus] * 3}, notes=[name])


def run_table(name: str = "bard", corpus: str = "shakespeare", n: int = 1) -> RunTable:
    """A run of every status, one of them forked, one in another store."""
    states = ("training", "paused", "finished", "failed", "died", "finished")
    rows = [
        RunRow(
            name=f"{name}{i or ''}", run=f"{i:06x}", status=status, corpus=corpus, steps=812 + i,
            planned_steps=2000 if i % 2 else None, planned_seconds=60.0, tokens=368_640, seconds=20.0 + i,
            parameters=812_000 if i != 4 else None, loss=1.7 + i / 10 if status == "finished" else None,
            bits_per_byte=2.4 if status == "finished" else None, started=1.7e9, when=1.7e9 + 1e4 * i, size=3_200_000 * (i + 1),
            folder=f"/home/teacher/courses/language models, autumn/{name * 4}/runs/{name}-{i:06x}", elsewhere=i == 5,
            parent="000002" if i == 4 else None, parent_name=name, parent_step=500,
        )
        for i, status in enumerate(states * n)
    ]  # fmt: skip
    return RunTable(rows=rows, store=f"/home/me/{name}/.llm_lab", free=3_000_000_000, notes=[name])


def heatmap(words: tuple[str, ...] = ("To", " be", ",", " or"), name: str = "bard", panels: int = 2) -> Heatmap:
    """Signed numbers of layers × tokens, in two panels, a text in each cell of the second."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(panels):
        values = rng.normal(size=(3, len(words))).astype(np.float32)
        values[0, 0] = np.nan
        cells = [list(words)] * 3 if i else None
        made.append(Panel(values, [f"{r}" for r in range(3)], words, words[i] if panels > 1 else "", cells, cells))
    return Heatmap(
        name=name,
        kind="ablate",
        facts=[name],
        panels=made,
        quantity=f"nats {name}",
        axes=("layer", "token"),
        signed=True,
        figures=[(name, "0.31")],
        pieces=pieces(list(words)),
        caption=f"Each cell is one run. {name}",
        notes=[name],
    )


def scores(words: tuple[str, ...] = ("To", " be", ",", "\n", " or"), name: str = "bard") -> TokenScores:
    """Signed numbers by two methods."""
    values = np.linspace(-1, 2, len(words)).astype(np.float32)
    return TokenScores(
        name=name,
        kind="attribution",
        facts=[name],
        pieces=pieces(list(words)),
        scores={f"one {name}": values, "other": -values},
        quantity=f"nats {name}",
        about=f"the token {name}",
        figures=[(name, "0.31")],
        caption=name,
        notes=[name],
    )


def walk(words: tuple[str, ...] = ("To", " be", ",", " "), name: str = "bard", width: int = 12) -> Walk:
    """Two layers of two heads, a step of each kind."""
    rng = np.random.default_rng(0)
    many = len(words)
    scores = rng.normal(size=(2, 2, many)).astype(np.float32)
    scores[..., -1] = -np.inf
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    chances = rng.dirichlet(np.ones(len(words[:20]))).astype(np.float32)
    return Walk(
        name=name,
        pieces=pieces(list(words)),
        source=pieces(list(words)),
        position=1,
        layers=2,
        heads=2,
        layer=1,
        head=0,
        steps=[
            Step("embed", "embedding", f"x = E[id] {name}", rng.normal(size=width).astype(np.float32), words=name),
            Step("attn.scores", "scores", "s", scores, "head", "tokens"),
            Step("attn.pattern", "attention", "a", shares, "head", "tokens"),
            Step("cross.pattern", "of the source", "a", shares, "head", "source"),
            Step("mlp.router", "router", "r", rng.random((2, 3)).astype(np.float32), "layer", "experts"),
            Step("mlp.post", "neurons", "h", np.zeros((2, width), np.float32), "layer"),
            Step("probabilities", "probabilities", "p", chances, over="candidates"),
        ],
        candidates=pieces(list(words[:20])),
        notes=[name],
    )


def lens(
    words: tuple[str, ...] = ("To", " be", ",", " "), name: str = "bard", layers: int = 3, top: int = 10
) -> LogitLens:
    """Every layer's likeliest tokens, drawn; the last but one position's truth is not known."""
    return LogitLens(**_lens(words, name, layers, top))


def tuned(words: tuple[str, ...] = ("To", " be", ",", " "), name: str = "bard", done: bool = True) -> TunedLens:
    fields = _lens(words, name, 3, 10) | {"kind": "tuned_lens"}
    falls = np.array([2.0, 1.0, 0.5, 0.0], np.float32)
    return TunedLens(
        **fields,
        step=200 if done else 50,
        steps=200,
        done=done,
        n_trained=1600,
        n_measured=400,
        logit_kl=falls,
        tuned_kl=falls / 4,
        translators=np.zeros((3, 4, 5), np.float16),
    )


def _lens(words: tuple[str, ...], name: str, layers: int, top: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (layers + 1, len(words))
    logs = np.log(np.sort(rng.dirichlet([0.4] * max(top + 1, 12), shape))[..., ::-1] + 1e-9)[..., :top]
    rank = rng.integers(1, 90, shape)
    rank[:, 0] = 1
    rank[:, -1] = 0
    read = pieces(list(words))
    return dict(
        name=name,
        facts=[name],
        pieces=read,
        truth=[*read[1:], None],
        top=rng.integers(0, len(words), (*shape, top)).astype(np.int32),
        top_logprob=logs.astype(np.float32),
        true_logprob=np.where(rank > 0, -rng.gamma(2, 1, shape), np.nan).astype(np.float32),
        rank=rank.astype(np.int32),
        entropy=rng.gamma(2, 1, shape).astype(np.float32),
        kl=(rng.gamma(2, 1, shape) * np.arange(layers, -1, -1)[:, None]).astype(np.float32),
        names=dict(enumerate(words)),
        notes=[name],
    )


def units(words: tuple[str, ...] = ("To", " be", ",", " "), name: str = "bard", n: int = 3, many: int = 4) -> Passages:
    """Neurons with passages of all the words; the second one has but one, the last none."""
    rng = np.random.default_rng(0)
    text = pieces(list(words))
    told = [(piece, float(i) - 1) for i, piece in enumerate(text[:8])]

    def passage(rank: int) -> Passage:
        values = (rng.normal(size=len(text)) * 3).astype(np.float32)
        return Passage(text, values, int(values.argmax()), 100 * rank)

    counts = [many, 1, *[many] * (n - 3), 0][:n]
    return Passages(
        name=name,
        kind="neurons",
        facts=[name],
        units=[
            Unit(
                f"layer 1, neuron {i} {name}" if i else name,
                {"largest": 5.2 - i, "kurtosis": math.nan if i else 1234.5},
                [passage(rank) for rank in range(count)],
                told,
                told if i else [],
                told if i else [],
            )
            for i, count in enumerate(counts)
        ],
        columns={"largest": f"activation {name}", "kurtosis": "of all"},
        figures=[(name, "93.8")],
        caption=name,
        notes=[name],
    )


def heads(layers: int = 2, count: int = 4, name: str = "bard") -> HeadTable:
    """Scores of every head; the first of the last layer is an induction head."""
    rng = np.random.default_rng(0)
    shares = ("near", "previous_token", "first_token", "self", "duplicate_token", "induction")
    found = {one: rng.beta(1, 9, (layers, count)).astype(np.float32) for one in shares}
    found["induction"][-1, 0] = 0.81
    found |= {one: rng.uniform(1, 5, (layers, count)).astype(np.float32) for one in ("entropy", "distance")}
    roles = [[["mixed"] for _ in range(count)] for _ in range(layers)]
    roles[-1][0] = ["induction", "first token"] if name == "bard" else ["induction", name]
    return HeadTable(
        name=name,
        facts=[f"2,048 tokens of {name}"],
        scores=found,
        chance={one: 5.1 if one in ("entropy", "distance") else 0.06 for one in found},
        roles=roles,
        caption=f"Means over the queries. {name}",
        notes=[name],
    )


def linear(names: tuple[str, ...] = ("space", "letter"), name: str = "bard", n: int = 4) -> LinearProbe:
    """A classifier for the embedding and some layers, the first of which is always right."""
    sites = ["embed", *(f"blocks.{i}.resid_post" for i in range(n - 1))] if name == "bard" else [name] * n
    return LinearProbe(
        name=name,
        label=name if name != "bard" else "next_class",
        facts=[name],
        classes=list(names),
        counts=[100 + i for i in range(len(names))],
        scores=[
            SiteScore(site, 0.9 + 0.1 / (i + 1), 0.02 if i else None, 0.8, 0.03, 0.6, 0.02, 0.3 + 0.1 / (i + 1), 0.03)
            for i, site in enumerate(sites)
        ],
        directions={},
        intercepts={},
        control=name,
        notes=[name],
    )


def attributed(name: str = "bard", token: str = " be") -> LogitAttribution:
    """A logit by head and MLP."""
    panel = Panel(
        np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32), list("012"), [*map(str, range(4)), "mlp"]
    )
    others = {"token embedding": 0.3, "position": -0.2}
    made = LogitAttribution(
        name=name,
        kind="dla",
        facts=[f"logit of “{token}”"],
        panels=[panel],
        quantity=f"logit of “{token}”",
        axes=("layer", "head"),
        signed=True,
        pieces=pieces(["To", token]),
        others=others,
        logit=1.5,
        accumulated=np.linspace(0, 1.5, 4).astype(np.float32),
    )
    made.figures = [("sum of all parts", f"{made.total:.4f}"), *((n, f"{v:.4f}") for n, v in others.items())]
    return made


def counterfactual(texts: list[str] | None = None, name: str = "bard") -> Counterfactual:
    before = pieces(texts or [" To", " be", ",", " or", " not"])
    after = [
        Piece(" me" if i % 3 == 1 else piece.text, 900 + i if i % 3 == 1 else piece.id)
        for i, piece in enumerate(before)
    ]
    return Counterfactual(
        name=name,
        facts=[name],
        pieces=before,
        edited=after,
        about=f"after position {len(before) - 1}",
        flipped=True,
        before=before[0],
        after=before[1],
        wanted=before[1],
        answers=[(piece, 0.5 / (i + 1), 0.7 / (i + 1)) for i, piece in enumerate(before[:5])],
        edited_text="".join(piece.text for piece in after),
        passes=1234,
        notes=[name],
    )


def robustness(
    texts: list[str] | None = None, name: str = "bard", noises: tuple[str, ...] = ("swap", "delete"), done: bool = True
) -> Robustness:
    read = pieces(texts or [" To", " be", ",", " or", " not"])
    points = [
        NoisePoint(noise, rate, rate, 2 + (5 + i) * rate, 0.1 if i else None, 1 - rate, 0.01 if i else None, 400)
        for i, noise in enumerate(noises)
        for rate in (0.02, 0.05, 0.2)
    ]
    return Robustness(
        name=name,
        facts=[name],
        clean=(2.0, 0.05),
        points=points,
        worst=(1.4, 0.2),
        random=(-0.01, 0.1),
        swaps=[Swap(read[:3], read[3], piece, 1.4) for piece in read[:5]],
        done=done,
        notes=[name],
    )


def sizing(name: str = "shakespeare", notes: tuple[str, ...] = ()) -> Sizing:
    seconds = tuple(5 * 10 ** (i / 12) for i in range(47))
    points = [
        SizePoint(
            n_layer=2 + i, n_head=2, d_model=64 << i, max_seq_len=128, batch_size=16, parameters=10 ** (5 + i),
            tokens_per_second=3e4 / 4**i, measured=i < 2, excess=tuple(0.8 / 1.6**i + 4 * 3**i / time for time in seconds),
        )
        for i in range(4)
    ]  # fmt: skip
    return Sizing(
        corpus=name, tokens=1_003_854, unit="char", seconds=seconds, points=points, rule="the rule", notes=[*notes]
    )


def bench(name: str = "AMD EPYC", note: str = "4 against 2") -> Bench:
    lines = [
        BenchLine(part="training", what=name, value=2.0, low=1.9, high=2.1, goal=1.5, note=note),
        BenchLine(part="training", what="share", value=0.3, unit="%", goal=0.6, note=note),
        BenchLine(part="gpu", what="elsewhere", value=None, goal=0.5, unit="%", note="there is no GPU"),
        BenchLine(part="start", what="memory", value=512.0, unit="MB", goal=1000.0, least=False),
    ]
    return Bench(lines=lines, environment={"cpu": name}, facts=[name], notes=[note])


def everything(hostile: bool = False) -> dict[str, Any]:
    """One result of each kind, by a short name."""
    if not hostile:
        return {
            "live": training("training", steps=412),
            "training": training(),
            "watched": with_watches(training()),
            "watching": with_watches(training("training", steps=412, by_time=False)),
            "sides": sides(),
            "sides to come": sides(waits=True),
            "steps": training("paused", steps=300, by_time=False),
            "generation": generation(),
            "samples": generation(n=3),
            "tree": tree(),
            "chat": chat(),
            "playground": playground(),
            "played": playground(written=True),
            "streaming": generation(n=2, done=False),
            "attention": attention(),
            "two texts": attention(list("To be, or not"), parts=[0, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 0]),
            "cross": cross(["To", " be"], ["Être", " ou", " ne", " pas"]),
            "tokenization": tokenization(),
            "parts": with_parts(training()),
            "live parts": with_parts(training("training", steps=412, by_time=False), turns=True),
            "model": model(),
            "pair": model(stacks=("encoder", "decoder"), first=("position",), place="post"),
            "streams": model(first=("query",), place="sandwich", config={"norm_place": "sandwich"}),
            "experts": model(experts=True, config={"n_expert": 8, "n_active": 2}, last=("pooler", "head", "output")),
            "corpus": corpus(),
            "evaluation": evaluation(),
            "listing": listing(),
            "neighbours": neighbours(),
            "compared": compared(),
            "several": several(),
            "prompt": prompt(),
            "asked": asked(),
            "asking": asked(done=False),
            "compared models": compared(models=2, tree=beams()),
            "searched": searched(),
            "runs": runs(),
            "table of runs": run_table(),
            "no runs": RunTable(rows=[], store="/home/me/.llm_lab"),
            "routing": routing(["To", " be", ",", " or", " not"]),
            "heatmap": heatmap(),
            "heads": heads(),
            "scales": dataclasses.replace(heatmap(), one_scale=False),
            "scores": scores(),
            "walk": walk(),
            "weights": weight_table(),
            "weights of two": weight_table(two=True),
            "map": projection(),
            "film": projection(frames=3, dims=3),
            "counterfactual": counterfactual(),
            "robustness": robustness(),
            "sizing": sizing(),
            "bench": bench(),
            "lens": lens(),
            "tuned lens": tuned(),
            "live lens": tuned(done=False),
            "attributed": attributed(),
            "units": units(),
            "units growing": units(n=0),
            "linear": linear(),
            "in the background": background(),
            "paused": background("paused"),
            "died": background("died", why="its process was ended by SIGKILL; %lab resume bard goes on from step 250"),
            "done in the background": background("finished", steps=606),
        }
    evil = "".join(HOSTILE)
    live, done = training("training", evil), training("finished", evil)
    for report in (live, done):
        report.facts, report.notes, report.val_on, report.schedule = [evil, EVIL], [evil], evil, evil
        report.samples = [Sample(1, 1.0, evil, evil)]
        report.unit = EVIL
        report.train[5] = (6, 0.6, math.nan)
        report.train[7] = (8, 0.8, math.inf)
    done.repeat = evil
    for report in (live, done):
        with_parts(report, (evil, EVIL, "loss"))
        with_watches(report, (evil, EVIL, "loss"))
    written = generation(HOSTILE, n=2, name=evil)
    written.logprob[0][3] = -math.inf
    written.prompt, written.notes = evil, [evil]
    streaming = generation(HOSTILE, done=False, name=evil)
    return {
        "live": live,
        "training": done,
        "generation": written,
        "streaming": streaming,
        "tree": tree(HOSTILE, evil),
        "chat": chat(HOSTILE, evil),
        "playground": playground(HOSTILE, evil),
        "attention": attention(HOSTILE, name=evil),
        "cross": cross(HOSTILE, HOSTILE[:9], evil),
        "sides": sides(evil, EVIL),
        "tokenization": tokenization(evil, hostile=True),
        "model": model(evil, evil),
        "pair": model(evil, evil, ("encoder", "decoder"), {"n_head": evil, "attention": EVIL, "position": evil}),
        "corpus": corpus(evil, evil),
        "evaluation": evaluation((evil, "b"), evil),
        "listing": listing(evil, evil),
        "neighbours": neighbours((EVIL, evil), HOSTILE, evil),
        "several": several(HOSTILE, (EVIL, evil), evil),
        "prompt": prompt((evil + "{{" + EVIL + "}}", EVIL), evil, evil),
        "asked": asked((evil + "{{" + EVIL + "}}", EVIL), evil, tuple(HOSTILE), metrics=(EVIL, evil)),
        "compared": compared(HOSTILE, (EVIL, evil), evil, models=2, tree=beams(HOSTILE, n_steps=20)),
        "searched": searched(HOSTILE, evil),
        "runs": runs(evil, EVIL),
        "table of runs": run_table(evil, EVIL),
        "routing": routing(HOSTILE, name=evil),
        "heatmap": heatmap(tuple(HOSTILE), evil),
        "heads": heads(name=evil),
        "scores": scores(tuple(HOSTILE), evil),
        "walk": walk(tuple(HOSTILE), evil),
        "weights": weight_table(True, evil),
        "map": projection(HOSTILE, 2, 3, evil),
        "counterfactual": counterfactual(HOSTILE, evil),
        "robustness": robustness(HOSTILE, evil, (evil, EVIL)),
        "sizing": sizing(evil, (EVIL,)),
        "bench": bench(evil, EVIL),
        "lens": lens(tuple(HOSTILE), evil),
        "tuned lens": tuned(tuple(HOSTILE), evil),
        "attributed": attributed(evil, evil),
        "units": units(tuple(HOSTILE), evil),
        "linear": linear(tuple(HOSTILE), evil),
        "in the background": background("training", evil, why=EVIL),
        "died": background("died", evil, why=evil),
    }

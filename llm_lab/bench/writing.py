"""Tokens a second against transformers' generate, of a small and of a large model; and against the hardware's limits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from llm_lab.bench.measuring import against, in_turns, judged, peer, ratio, spread, timed
from llm_lab.bench.options import BenchOptions
from llm_lab.bench.training import text
from llm_lab.decoding.writing import write
from llm_lab.models.options import SHAPES
from llm_lab.models.presets import PRESETS
from llm_lab.results import BenchLine
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import Tokenizer

PART = "writing"
SMALL = dict(n_layer=4, n_head=4, d_model=128, max_seq_len=512)
# SmolLM2-135M's, with random weights
LARGE = dict(n_layer=30, n_head=9, n_kv_head=3, d_model=576, d_ff=1536, max_seq_len=1024, tie_embeddings=True)
LARGE_VOCABULARY = 49_152
PROMPT = "The quick brown fox"
TOKENS, LARGE_TOKENS, READ = 256, 32, 512
# No token ends what transformers writes.
ENDLESS: dict[str, Any] = dict(bos_token_id=None, eos_token_id=None, pad_token_id=0)
SMALL_FASTER, LARGE_FASTER, PREFILL, FLAT, FIRST = 5.0, 2.0, 0.5, 1.25, 50.0


def writing(options: BenchOptions) -> Iterator[BenchLine]:
    _, tokenizer = text()
    with torch.inference_mode():
        yield from _small(options, tokenizer)
        for dtype in (torch.float32, torch.bfloat16):
            yield from _large(options, tokenizer, dtype)


def random_lm(preset: str, vocab_size: int, tokenizer: Tokenizer, sizes: dict[str, Any], dtype: torch.dtype) -> LM:
    torch.manual_seed(0)
    config = PRESETS.load(preset).config(vocab_size, **sizes)
    model = SHAPES.load(config.shape)(config)
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.05)
    return LM(preset, model.to(dtype).eval(), tokenizer)


def writes(lm: LM, count: int = TOKENS, texts: int = 1, **more: Any) -> Callable[[], float]:
    """Tokens a second of writing that many after the prompt."""
    length = dict(max_new_tokens=count, min_new_tokens=count, seed=0)
    return lambda: texts * count / timed(lambda: write(lm, PROMPT, **length, **more))


def _small(options: BenchOptions, tokenizer: Tokenizer) -> Iterator[BenchLine]:
    ours = {name: random_lm(name, tokenizer.vocab_size, tokenizer, SMALL, torch.float32) for name in ("gpt2", "modern")}
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    if not (missing := peer()):
        theirs = gpt2_writes(SMALL, tokenizer.vocab_size)
    cases: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
        "greedy": (1, dict(strategy="greedy"), dict(do_sample=False)),
        "sampling": (1, dict(strategy="temperature"), dict(do_sample=True, top_k=0)),
        "sampling, 8 texts": (8, dict(strategy="temperature", n=8), dict(do_sample=True, top_k=0)),
        "beam, 4 beams": (1, dict(strategy="beam", num_beams=4), dict(do_sample=False, num_beams=4)),
    }
    for case, (texts, own, other) in cases.items():
        ways = {name: writes(lm, texts=texts, **own) for name, lm in ours.items()}
        if not missing:
            ways["theirs"] = functools.partial(theirs, ids.repeat(texts, 1), TOKENS, **other)
        found = in_turns(ways, options.rounds)
        for name in ours:
            what = f"0.8 M, {name}, {case}, against transformers' generate"
            goal = SMALL_FASTER if name == "gpt2" else None
            line = against(PART, what, goal, found[name], found.get("theirs"), missing)
            yield judged(line, ways[name], "a step of fewer operations: Python and torch's dispatch are what is left")
    yield _flat(options, ours["modern"], "0.8 M")
    yield _first(options, ours["modern"], "0.8 M")


def gpt2_writes(
    sizes: dict[str, int], vocab_size: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Callable[..., float]:
    """transformers' GPT-2 of these sizes, as `_generates` measures it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_layer=sizes["n_layer"],
        n_head=sizes["n_head"],
        n_embd=sizes["d_model"],
        n_positions=sizes["max_seq_len"],
        **ENDLESS,
    )
    return _generates(GPT2LMHeadModel(config).to(device, dtype))  # type: ignore[arg-type]  # its stub knows no dtype


def _generates(reference: Any) -> Callable[..., float]:
    """The tokens a second of a model of transformers': of (ids, tokens, and what its `generate` takes)."""
    reference.eval()

    def measure(ids: torch.Tensor, count: int, **more: Any) -> float:
        length = dict(max_new_tokens=count, min_new_tokens=count, attention_mask=torch.ones_like(ids))
        return len(ids) * count / timed(lambda: reference.generate(ids, **length, **more))

    return measure


def _flat(options: BenchOptions, lm: LM, called: str) -> BenchLine:
    """A token near the context's end against one at its beginning."""
    end = lm.model.max_seq_len
    early = {"max_new_tokens": end // 8, "min_new_tokens": end // 8}
    start = lm.tokenizer.encode(PROMPT)
    long = lm.tokenizer.decode((start * end)[: end - end // 8 - 1])
    shapes = {"early": PROMPT, "late": long}
    ways = {
        name: lambda prompt=prompt: (
            timed(lambda: write(lm, prompt, strategy="greedy", seed=0, **early))
            - timed(lambda: write(lm, prompt, strategy="greedy", seed=0, max_new_tokens=1, min_new_tokens=1))
        )
        for name, prompt in shapes.items()
    }
    found = in_turns(ways, options.rounds)
    return judged(
        BenchLine(
            part=PART,
            what=f"{called}: a token near the end of the context ({end}) against one near its start",
            goal=FLAT,
            least=False,
            **ratio(found["late"], found["early"]),
        )
    )


def _first(options: BenchOptions, lm: LM, called: str) -> BenchLine:
    one = {"max_new_tokens": 1, "min_new_tokens": 1}
    found = in_turns({"first": lambda: 1e3 * timed(lambda: write(lm, PROMPT, seed=0, **one))}, options.rounds)
    return judged(
        BenchLine(
            part=PART,
            what=f"{called}: the first token of a warm model",
            unit="ms",
            goal=FIRST,
            least=False,
            **spread(found["first"]),
        ),
        lambda: write(lm, PROMPT, seed=0, **one),
    )


def _large(options: BenchOptions, tokenizer: Tokenizer, dtype: torch.dtype) -> Iterator[BenchLine]:
    said = f"135 M, {str(dtype).removeprefix('torch.')}"
    lm = random_lm("llama", LARGE_VOCABULARY, tokenizer, LARGE, dtype)
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    ways = {"ours": writes(lm, LARGE_TOKENS, strategy="greedy")}
    if not (missing := peer()):
        ways["theirs"] = functools.partial(_llama(dtype), ids, LARGE_TOKENS, do_sample=False)
    found = in_turns(ways, max(2, options.rounds // 2))
    rate = spread(found["ours"])["value"]
    what = f"{said}, Llama shape, greedy, against transformers' generate"
    line = against(PART, what, LARGE_FASTER, found["ours"], found.get("theirs"), missing)
    yield judged(line, ways["ours"], "weights of fewer bits, which a product of one row reads as they are")
    held = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    memory = torch.ones(100_000_000)
    bandwidth = memory.numel() * 4 / min(timed(memory.sum) for _ in range(5))
    del memory
    yield BenchLine(
        part=PART,
        what=f"{said}: of what reading the weights once a token allows",
        unit="%",
        note=f"{held / 1e6:,.0f} MB, read at {bandwidth / 1e9:,.0f} GB/s",
        value=rate * held / bandwidth,
    )
    yield _prefill(options, lm, said, dtype)
    yield _first(options, lm, said)


def _llama(dtype: torch.dtype) -> Callable[..., float]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=LARGE_VOCABULARY,
        hidden_size=LARGE["d_model"],
        intermediate_size=LARGE["d_ff"],
        num_hidden_layers=LARGE["n_layer"],
        num_attention_heads=LARGE["n_head"],
        num_key_value_heads=LARGE["n_kv_head"],
        max_position_embeddings=LARGE["max_seq_len"],
        tie_word_embeddings=True,
        **ENDLESS,
    )
    return _generates(LlamaForCausalLM(config).to(dtype))  # type: ignore[arg-type]


def _prefill(options: BenchOptions, lm: LM, said: str, dtype: torch.dtype) -> BenchLine:
    """Reading a prompt, in operations of its products a second, against a large product's."""
    ids = torch.randint(0, lm.model.vocab_size, (1, READ))
    a = torch.randn(2048, 2048).to(dtype)
    config = lm.model.config
    blocks = sum(m.weight.numel() for m in lm.model.modules() if isinstance(m, nn.Linear))
    assert config is not None
    reading = 2.0 * READ * blocks

    def read() -> float:
        return reading / timed(lambda: lm.model(ids))

    def product() -> float:
        return 2.0 * 2048**3 / timed(lambda: a @ a)

    found = in_turns({"read": read, "product": product}, options.rounds)
    note = f"{spread(found['read'])['value'] / 1e9:,.0f} of {spread(found['product'])['value'] / 1e9:,.0f} GFLOP/s"
    line = BenchLine(
        part=PART,
        what=f"{said}: reading {READ} tokens, of the speed of a large matrix product",
        unit="%",
        goal=PREFILL,
        note=note,
        **ratio(found["read"], found["product"]),
    )
    return judged(line, lambda: lm.model(ids), "attention and gates in fewer passes over memory")

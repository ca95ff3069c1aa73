"""What is the GPU's own: steps that wait for nothing, copies that come beside them, graphs of tokens. The rest of the suite runs on
a machine with a GPU as it does elsewhere."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import llm_lab as lab
from llm_lab.bench.training import text, trainer
from llm_lab.decoding.cache import KVCache
from llm_lab.decoding.graphed import STEADY, Graphed
from llm_lab.decoding.options import FILLS, STRATEGIES
from llm_lab.memory import need
from llm_lab.models.presets import PRESETS
from llm_lab.models.stepwise import stepwise
from llm_lab.objectives.make import make as make_objective
from llm_lab.objectives.options import OBJECTIVES
from llm_lab.probing import probe
from tests.models.test_stepwise import LIKE, make
from tests.probes.test_nothing_stays import CASES, case, models
from tests.small import TEXT, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is here")

SIZES = dict(n_layer=2, n_head=2, d_model=64, max_seq_len=32)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("on_gpu"))
        yield train(steps=30, device="cuda")


def steps(one, n: int) -> list[float]:
    """The losses of its next n steps."""
    found: list[float] = []
    for event in one.events():
        if event.kind == "step":
            found.append(event.loss)
            if len(found) == n:
                break
    return found


@contextlib.contextmanager
def no_waiting():
    """Within the `with`, what makes the host wait for the GPU is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not see everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["modern", "gpt2", "llama"])
def test_a_step_waits_for_nothing(preset, optimizer):
    data, tokenizer = text()
    one = trainer(preset, SIZES, data, tokenizer, 4, optimizer=optimizer, accumulate=2, device="cuda")
    steps(one, 2)
    with no_waiting():
        for step in range(5, 8):
            one._step(step, 1.0)


LEARNS = {
    "clm": {},
    "mlm": dict(shape="encoder"),
    "span_corruption": dict(shape="encoder_decoder"),
    "plm": dict(shape="permutation"),
    "rtd": dict(shape="encoder"),
    "fim": {},
    "mtp": {},
}


@pytest.mark.parametrize("objective", list(LEARNS))
def test_no_objective_waits_within_its_loss(objective):
    lm = train(objective=objective, tokenizer="byte", device="cuda", **LEARNS[objective])
    assert lm.device.type == "cuda"
    made = make_objective([objective], {}, lm.tokenizer)
    trainee = made.attach(lm.model)
    trainee.extras.to("cuda")
    size, _ = made.take(32)
    ids = np.random.default_rng(0).integers(10, 100, (4, size))
    batch = made.collate(list(ids), np.random.default_rng(0), 0)
    with no_waiting():
        made.loss(trainee, batch.to(torch.device("cuda")))[0].backward()


@pytest.mark.parametrize("preset", ["modern", "gpt2", "llama"])
def test_a_gpu_trains_as_a_cpu_does(preset):
    data, tokenizer = text()
    lots = dict(precision="fp32")
    cpu, gpu = (trainer(preset, SIZES, data, tokenizer, 4, device=device, **lots) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(steps(gpu, 6), steps(cpu, 6), rtol=2e-4)


def test_compiled_it_trains_as_it_does_otherwise():
    data, tokenizer = text()
    plain, fast = (trainer("gpt2", SIZES, data, tokenizer, 4, device="cuda", compile=on) for on in (False, True))
    np.testing.assert_allclose(steps(fast, 6), steps(plain, 6), rtol=1e-2)


def test_a_state_is_of_its_step_though_it_comes_later():
    data, tokenizer = text()
    lots = dict(device="cuda", optimizer="adamw")
    one, other = (trainer("gpt2", SIZES, data, tokenizer, 4, **lots) for _ in range(2))
    events = one.events()
    while (event := next(events)).step < 5 or event.kind != "step":
        pass
    one.request_save()
    while next(events).kind != "save":
        pass
    with no_waiting():
        state = one.state()
    wanted = {name: value.clone() for name, value in one.trainee.model.state_dict().items()}
    steps_before = one.at.step
    for _ in range(5):
        next(events)
    found = state.brought()
    assert state.progress.step == steps_before < one.at.step
    for name, value in wanted.items():
        if f"model.{name}" in found:
            assert found[f"model.{name}"].device.type == "cpu"
            torch.testing.assert_close(found[f"model.{name}"], value.cpu(), atol=0, rtol=0)
    other.load_state(replace(state, tensors=found))
    assert steps(other, 3) == pytest.approx(_losses_after(steps_before, 3), rel=1e-3)


def _losses_after(step: int, n: int) -> list[float]:
    """The same run from its beginning, its losses after a step."""
    data, tokenizer = text()
    again = trainer("gpt2", SIZES, data, tokenizer, 4, device="cuda", optimizer="adamw")
    return steps(again, step + n)[step:]


@pytest.mark.parametrize("name", list(LIKE))
@torch.no_grad()
def test_a_graph_gives_what_the_step_gives(name):
    model = make(**LIKE[name]).to("cuda")
    ids = torch.randint(0, 40, (3, 24), generator=torch.Generator().manual_seed(1)).cuda()
    step = stepwise(model)
    assert step is not None
    plain, cache, graphed = KVCache(model.config, 3), KVCache(model.config, 3), Graphed(step)
    for one in (plain, cache):
        model(ids[:, :3], cache=one)
    made = 0
    with torch.inference_mode():
        for i in range(3, 24):
            found, wanted = graphed(ids[:, i : i + 1], cache), step(ids[:, i : i + 1], plain)
            torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.hidden, wanted.hidden, atol=1e-4, rtol=1e-4)
            made += graphed._graph is not None
            if i == 14:
                parents = torch.tensor([2, 0, 0], device="cuda")
                ids = ids[parents]
                for one in (plain, cache):
                    one.reorder(parents)
                    one.truncate(13)
                    model(ids[:, 13:15], cache=one)
    assert made == 21 - (STEADY - 1)
    assert cache.length == plain.length == 24


@pytest.mark.parametrize(
    "options",
    [
        dict(strategy="greedy"),
        dict(strategy="beam", num_beams=3),
        dict(strategy="contrastive_search"),
        dict(strategy="prompt_lookup", temperature=0.01),
        dict(strategy="greedy", repetition_penalty=1.3, no_repeat_ngram_size=3),
        dict(strategy="greedy", max_new_tokens=90),  # past the context
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_gpu_writes_what_a_cpu_writes(options):
    lm = train(steps=60, max_seq_len=64, device="cpu", precision="fp32")
    options = {"max_new_tokens": 40, "seed": 0, **options}
    wanted = lab.generate(lm, "5 green", **options)
    lm.model.to("cuda")
    found = lab.generate(lm, "5 green", **options)
    assert found.texts == wanted.texts
    np.testing.assert_allclose(found.logprob, wanted.logprob, atol=1e-3)


def test_a_token_waits_for_nothing():
    lm = train(steps=30, max_seq_len=128, device="cuda")
    long = dict(max_new_tokens=40, min_new_tokens=40, seed=0)
    assert len(lab.generate(lm, "5 green", strategy="top_p", **long).pieces[0]) == 40
    seen = []
    real = torch.cuda.CUDAGraph.replay

    def replay(graph):
        with no_waiting():
            real(graph)
        seen.append(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", replay)
        lab.generate(lm, "5 green", strategy="greedy", **long)
    assert len(seen) > 30


@pytest.mark.parametrize("preset", ["gpt2", "llama"])
def test_a_training_takes_no_more_memory_than_its_estimate(preset):
    data, tokenizer = text()
    sizes = dict(n_layer=6, n_head=6, d_model=384, max_seq_len=512)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    one = trainer(preset, sizes, data, tokenizer, 16, device="cuda")
    steps(one, 4)
    held = torch.cuda.max_memory_allocated() - before
    config = PRESETS.load(preset).config(tokenizer.vocab_size, **sizes, dropout=0.0)
    assert held <= 1.15 * need(config, one.plan.options, one.objective).bytes


def test_a_run_from_its_call_to_its_look():
    lm = train(steps=60, checkpoints=2, watch=("head_entropy", "grad_norm"))
    assert lm.device.type == "cuda"
    assert lm.report.final["loss"] < 3.0  # of ln 53 = 3.97
    found = lab.evaluate(lm)
    again = lab.load(lm.save("kept"))
    assert lab.evaluate(again)["loss"] == pytest.approx(found["loss"], rel=1e-3)
    train(preset="gpt2", device="cuda").save("published", format="hf")


@pytest.mark.parametrize("strategy", [name for name, entry in STRATEGIES.items() if not entry.supports & FILLS])
def test_every_strategy_writes_on_a_gpu(on_gpu, strategy):
    other = {"speculative": {"draft": on_gpu}, "contrastive": {"amateur": on_gpu}}.get(strategy, {})
    options = dict(strategy=strategy, seed=4, max_new_tokens=20, **other)
    first, second = (lab.generate(on_gpu, "1 green", n=2, **options) for _ in range(2))
    assert first.texts == second.texts
    assert all(len(sample) == 20 for sample in first.tokens)
    several = lab.generate(on_gpu, ["1 green", "2"], **options)
    assert [one.done for one in several] == [True, True]


@pytest.mark.parametrize(
    "options",
    [
        dict(top_k=5, top_p=0.9, min_p=0.01, typical_p=0.9, top_n_sigma=2.0, epsilon_cutoff=1e-4, eta_cutoff=1e-4),
        dict(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5, no_repeat_ngram_size=3),
        dict(bad_words="wall", stop="bottles", min_new_tokens=4),
        dict(regex="[0-9]+ [a-z ]+"),
        dict(must="upon"),
    ],
    ids=lambda options: next(iter(options)),
)
def test_filters_and_constraints_work_on_a_gpu(on_gpu, options):
    assert lab.generate(on_gpu, "1 green", seed=0, strategy="temperature", max_new_tokens=20, **options).done


@pytest.mark.parametrize("kind", list(CASES))
def test_each_probe_looks_into_a_model_on_a_gpu(kind):
    """It sees what it sees on a CPU, unless it learns something itself."""
    asked, found = case(kind), []
    for device in ("cpu", "cuda"):
        lms = models(kind)
        for lm in lms:
            lm.model.to(device)
        *_, last = probe(lms, asked.texts, kind, asked.options)
        assert last._repr_mimebundle_()
        found.append(last)
        assert all(lm.device.type == device for lm in lms)
    if kind in ("tuned_lens", "factors", "linear_probe", "sae", "steer"):
        return
    cpu, gpu = (np.sort(numbers(one)) for one in found)  # what is alike may stand in another order
    assert cpu.shape == gpu.shape
    np.testing.assert_allclose(gpu, cpu, rtol=1e-2, atol=2e-3)


def numbers(result) -> np.ndarray:
    """All of a result's numbers, as its table has them; of one that is none, those of its fields."""
    try:
        tables = result.to_pandas()
    except lab.LabError:
        return np.concatenate([np.ravel(one) for one in vars(result).values() if isinstance(one, np.ndarray)])
    frames = tables.values() if isinstance(tables, dict) else [tables]
    return np.concatenate([frame.select_dtypes("number").to_numpy(float).flatten() for frame in frames])


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_learned_on_a_gpu(name):
    words = ["one two", "two three and four", "three", "four one two"] * 33
    pairs = dict(text=pd.DataFrame({"source": words, "target": words[::-1]}), column="source", target="target")
    if name == "skipgram":
        lm = lab.pretrain([TEXT], shape="skipgram", objective=name, steps=12, device="cuda", display=False)
    else:
        shape = {"plm": dict(shape="permutation")}.get(name, {})
        lm = train(objective=name, device="cuda", **(pairs if name == "seq2seq" else {}), **shape)
    assert lm.device.type == "cuda"
    assert np.isfinite(lm.report.final["loss"])

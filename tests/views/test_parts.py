"""The parts of the views: numbers, pictures, curves, maps, modules, the live display and the widget."""

from __future__ import annotations

import functools
import math
import re
import shutil
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_lab.errors import BadValue
from llm_lab.results import Message, ModelPart, ModelReport, Piece
from llm_lab.views import attention, attention_widget, beams, chat, curves, live, playground, svg, tokens, training
from llm_lab.views.bundle import STATIC, css, esm, loader
from llm_lab.views.card import clock, number, png, si, size
from llm_lab.views.diagram import block_of, diagram
from tests.views import fakes

NODE = shutil.which("node")


def test_numbers():
    assert [number(v) for v in (1.7123, 0.00644, 12_345.6, -0.5, 0, math.nan, math.inf, None)] == [
        "1.712",
        "0.006440",
        "12,346",
        "−0.5000",
        "0",
        "–",
        "∞",
        "–",
    ]
    assert number(6.4e-7, 2) == "6.4e-7"
    assert [si(v) for v in (0, 812, 2140, 20_600, 840_000, 1_115_394, 12e9)] == [
        "0",
        "812",
        "2,140",
        "20.6 k",
        "0.84 M",
        "1.12 M",
        "12.0 G",
    ]
    assert [size(v) for v in (0, 812, 310e6, 23.1e9)] == ["0 B", "812 B", "310 MB", "23.1 GB"]
    assert [clock(v) for v in (0, 41.4, 725, 3753)] == ["0:00", "0:41", "12:05", "1:02:33"]


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_can_be_written(value):
    assert number(value)
    assert si(value)
    assert clock(value)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_few_round_and_inside(low, span, count):
    marks = svg.ticks(low, low + span, count)
    assert len(marks) <= 2 * count + 2
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= mark <= low + span + slack for mark in marks)


def read_png(data: bytes) -> tuple[tuple[int, ...], bytes, dict[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    return struct.unpack(">IIBBBBB", chunks[b"IHDR"]), zlib.decompress(chunks[b"IDAT"]), chunks


@pytest.mark.parametrize(("shape", "colour", "channels"), [((3, 5), 0, 1), ((3, 5, 4), 6, 4), ((3, 5), 3, 1)])
def test_png(shape, colour, channels):
    pixels = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    palette = np.arange(16).reshape(4, 4) if colour == 3 else None
    header, lines, chunks = read_png(png(pixels, palette))
    assert header == (5, 3, 8, colour, 0, 0, 0)
    rows = np.frombuffer(lines, np.uint8).reshape(3, 1 + 5 * channels)
    assert not rows[:, 0].any()
    assert (rows[:, 1:].reshape(shape) == pixels).all()
    if palette is not None:
        assert chunks[b"PLTE"] == palette[:, :3].astype(np.uint8).tobytes()
        assert chunks[b"tRNS"] == palette[:, 3].astype(np.uint8).tobytes()


@given(st.lists(st.floats(-10, 10) | st.just(math.nan), max_size=900), st.integers(4, 300))
def test_decimation_keeps_ends_and_extremes(losses, limit):
    curve = [(i, i / 10, loss) for i, loss in enumerate(losses)]
    kept = training.decimate(curve, limit)
    finite = [p for p in curve if math.isfinite(p[2])]
    assert len(kept) <= max(limit, 2)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(finite)
    if finite:
        assert (kept[0], kept[-1]) == (finite[0], finite[-1])
        assert min(p[2] for p in kept) == min(p[2] for p in finite)
        assert max(p[2] for p in kept) == max(p[2] for p in finite)


def test_opening_head_is_sharp_and_not_plain():
    plain = (0.1, 0.99, 0.0, 0.0)
    assert attention.telling(np.array([[plain, (2.0, 0.1, 0.1, 0.1)], [(1.0, 0.2, 0.2, 0.2), plain]])) == (1, 0)
    assert attention.telling(np.array([[plain, (0.05, 0.0, 0.9, 0.0)]])) == (0, 1)


def test_the_head_that_opens_is_sent_as_it_is_drawn(monkeypatch):
    monkeypatch.setattr(attention, "EXACT", 1000)
    maps = fakes.attention([f"t{i}" for i in range(130)], 2, 2)
    maps.opens = (1, 0)
    data, buffers = attention.payload(maps)
    assert (data["layer"], data["head"]) == (1, 0) and data["down"] <= 64
    assert data["fine_shape"] == [130, 130] and "rolled" not in data["sent"]
    fine = np.frombuffer(buffers["fine"], np.uint8).reshape(130, 130)
    np.testing.assert_allclose(fine / 255, maps.pattern(1, 0), atol=0.5 / 255 + 1e-6)
    monkeypatch.setattr(attention, "FINE_BYTES", 100)
    assert max(attention.payload(maps)[0]["fine_shape"]) <= 64
    assert "fine" not in attention.payload(fakes.attention())[0]["sent"]


@given(st.integers(1, 40), st.integers(1, 40))
def test_pooling_takes_maxima(tokens, side):
    cells = np.random.default_rng(0).integers(0, 256, (2, tokens, 17)).astype(np.uint8)
    small = attention.pooled(cells, side)
    assert small.shape[1:] == (min(side, tokens), min(side, 17))
    assert (small.max((1, 2)) == cells.max((1, 2))).all()


def test_maps_are_exact_while_they_fit_and_reduced_beyond():
    maps = fakes.attention([f"t{i}" for i in range(100)], 2, 2)
    kept = attention.reduced(maps, 10**6)
    assert (kept.cells.shape, kept.levels) == ((2, 2, 100, 100), 255)
    np.testing.assert_allclose(kept.cells / 255, maps.numpy(), atol=0.5 / 255 + 1e-6)
    less = attention.reduced(maps, 3000)
    assert less.cells.shape[-1] < 100
    assert len(zlib.compress(less.cells.tobytes(), 6)) <= 3000


def test_sixteen_values_are_as_near_as_the_page_says():
    cells = np.arange(256, dtype=np.uint8)
    kept = attention.coarse(cells) / 255
    assert len(set(kept)) == 16 and kept[0] == 0 and kept[-1] == 1
    assert (np.abs(kept - cells / 255) <= (2 * np.sqrt(kept) + 1 / 30) / 30 + 0.002).all()
    assert kept[2] > 0  # 0.8 % of a query's attention is seen


def test_answers_are_of_q_and_k_and_refuse_what_is_not_there():
    maps = fakes.attention().select(layers=[3, 1], heads=[5, 2])
    where = {"layer": 1, "head": 1, "query": 5, "key": 1}
    told, _ = attention_widget.exact(maps, where)
    assert told["value"] == pytest.approx(float(maps.pattern(1, 2)[5, 1]))
    np.testing.assert_allclose(attention_widget.row(maps, where)[1], maps.row(1, 2, 5), atol=1e-7)
    told, cells = attention_widget.layer(maps, where)
    assert (told["down"], told["across"]) == (12, 12)
    np.testing.assert_allclose(cells / 255, [maps.pattern(1, 5), maps.pattern(1, 2)], atol=0.5 / 255 + 1e-6)
    for layer in (None, 0):
        _, cells = attention_widget.together(maps, {"how": "max", "layer": layer})
        some = maps if layer is None else maps.select(layers=[3])
        np.testing.assert_allclose(cells / 255, some.aggregate("max"), atol=0.5 / 255 + 1e-6)
    told, values = attention_widget.products(maps, where)
    place = told["keys"].index(1)
    np.testing.assert_allclose(values[0] * values[1 + place], maps.products(1, 2, 5, 1), atol=1e-6)
    assert told["weights"][place] == pytest.approx(float(maps.pattern(1, 2)[5, 1]))
    wrong = [{"layer": 4}, {"query": 12}, {"head": -1}, {"layer": "0"}, {"head": True}, {"query": None}]
    for kind in ("exact", "row", "products"):
        assert all(attention_widget.ANSWERS[kind](maps, where | change) is None for change in wrong)
    assert attention_widget.together(maps, {"how": "sum"}) is None
    assert attention_widget.together(fakes.cross(["a"], ["b"]), {"how": "rollout"}) is None


def test_widget_answers_and_freezes(monkeypatch):
    pytest.importorskip("anywidget")
    maps = fakes.attention()
    made = attention_widget.attention_widget(maps)
    assert len(made.maps) == 4 * 6 * 12 * 12
    sent, frozen = [], []
    monkeypatch.setattr(made, "send", lambda message, buffers=(): sent.append((message, [len(one) for one in buffers])))
    where = {"layer": 1, "head": 2, "query": 5, "key": 1}
    made._heard(made, {"kind": "exact", "id": 7, **where}, [])
    made._heard(made, {"kind": "exact", "id": 8, **where, "layer": 99}, [])
    made._heard(made, {"kind": "nothing", **where}, [])
    made._heard(made, "nonsense", [])
    made._heard(made, {"kind": "row", **where}, [])
    (told, buffers), (row, values) = sent
    assert told["value"] == pytest.approx(float(maps.pattern(1, 2)[5, 1])) and told["id"] == 7 and not buffers
    assert (row["layer"], row["head"], row["query"]) == (1, 2, 5) and values == [4 * 12]

    class Handle:
        def update(self, bundle, raw):
            frozen.append(bundle)

    made._handle = Handle()
    made._heard(made, {"kind": "freeze"}, [])
    made.freeze()
    assert [set(bundle) for bundle in frozen] == [{"text/plain", "text/html"}]


def no_loop(test):
    """Runs a test in a thread of its own: where a browser is driven, the main thread has a loop that is running."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(test, *args, **kwargs).result()

    return run


def spoken(made, monkeypatch):
    """What a widget says to its page."""
    sent: list[dict] = []
    monkeypatch.setattr(made, "send", sent.append)
    return sent


def growing(result, states=3):
    """Gives a result as if it grew, until it is asked to stop."""
    result.done = False
    for _ in range(states):
        yield result
        if result.stopping:
            break
    result.done = True
    yield result


@no_loop
def test_playground_writes_what_was_moved_and_says_what_went_wrong(monkeypatch):
    asked = []
    play = fakes.playground()

    def write(prompt, options, whole):
        asked.append((prompt, dict(options)))
        if options.get("p") == 7:
            raise BadValue("p: 7 is out of range")
        if options.get("p") == 8:
            raise RuntimeError("boom")
        yield from growing(fakes.generation())

    play.actions["write"] = write
    made = playground.playground_widget(play)
    sent = spoken(made, monkeypatch)
    assert made.page == {}
    made._heard(made, {"kind": "write", "id": 1, "prompt": "JULIET:", "options": {"p": 0.5}}, [])
    assert asked == [("JULIET:", {"p": 0.5})]
    assert [message["kind"] for message in sent] == ["state"] * 3 + ["done"]
    assert made.page["samples"][0]["text"][:2] == ["⏎\n", "What"]
    assert made.page["samples"][0]["thoughts"]
    assert "top_p 0.9" in made.told["facts"][1]
    for wrong, says in ((7, "p: 7 is out of range"), (8, "RuntimeError: boom")):
        made._heard(made, {"kind": "write", "id": 2, "prompt": "", "options": {"p": wrong}}, [])
        assert sent[-1] == {"kind": "error", "id": 2, "text": says}
    for nonsense in (
        {"kind": "write", "id": 3},
        {"kind": "write", "prompt": 3, "options": []},
        {"kind": "regrow", "sample": 0},
    ):
        made._heard(made, nonsense, [])
    assert len(asked) == 3


@no_loop
def test_a_later_movement_ends_the_writing_before_it(monkeypatch):
    import asyncio

    play = fakes.playground()
    closed = []

    def write(prompt, options, whole):
        try:
            yield from growing(fakes.generation(), 1000)
        finally:
            closed.append(prompt)

    play.actions["write"] = write
    made = playground.playground_widget(play)
    sent = spoken(made, monkeypatch)

    async def move():
        made._heard(made, {"kind": "write", "id": 1, "prompt": "a", "options": {}}, [])
        await asyncio.sleep(0.05)
        made._heard(made, {"kind": "write", "id": 2, "prompt": "b", "options": {}}, [])
        await asyncio.sleep(0.05)
        made._heard(made, {"kind": "stop"}, [])
        await made._task

    asyncio.run(move())
    assert closed == ["a", "b"]
    ids = [message["id"] for message in sent]
    assert ids == sorted(ids)
    assert [message["id"] for message in sent if message["kind"] == "done"] == [2]


@no_loop
def test_freezing_while_it_writes_ends_the_writing_first(monkeypatch):
    import asyncio

    play = fakes.playground()
    play.actions["write"] = lambda prompt, options, whole: growing(fakes.generation(), 1000)
    made = playground.playground_widget(play)
    spoken(made, monkeypatch)
    saved = []

    class Handle:
        def update(self, bundle, raw):
            saved.append((made._generation.done, bundle))

    async def move():
        made._handle = Handle()
        made._heard(made, {"kind": "write", "id": 1, "prompt": "a", "options": {}}, [])
        await asyncio.sleep(0.05)
        made.freeze()
        assert not saved
        await made._task

    asyncio.run(move())
    assert [done for done, _ in saved] == [True]


@no_loop
def test_one_failure_does_not_end_the_widget(monkeypatch):
    play = fakes.playground()
    play.actions["write"] = lambda prompt, options, whole: growing(fakes.generation())
    made = playground.playground_widget(play)
    sent = spoken(made, monkeypatch)
    fails = [RuntimeError("out of memory")]
    settled = made.settled
    monkeypatch.setattr(made, "settled", lambda: (_ for _ in ()).throw(fails.pop()) if fails else settled())
    for turn in (1, 2):
        made._heard(made, {"kind": "write", "id": turn, "prompt": "a", "options": {}}, [])
    assert {"kind": "error", "id": 1, "text": "RuntimeError: out of memory"} in sent
    assert sent[-1] == {"kind": "done", "id": 2}


@no_loop
def test_a_live_text_regrows_by_its_action(monkeypatch):
    made_by = []
    text = fakes.generation()

    def regrow(*where):
        made_by.append(where)
        text.forks = fakes.tree().forks
        yield from growing(fakes.tree())

    text.actions |= {"regrow": regrow, "keep": lambda: None}
    made = text.widget()
    sent = spoken(made, monkeypatch)
    made._heard(made, {"kind": "regrow", "id": 1, "sample": 0, "at": 3, "token": 12}, [])
    assert made_by == [(0, 3, 12, None)]
    assert sent[-1] == {"kind": "done", "id": 1}
    assert [one["sample"] for one in made.page["samples"]] == [0, 3, 1, 2]
    assert [one["depth"] for one in made.page["samples"]] == [0, 1, 1, 2]
    made.freeze()
    assert "keep" not in text.actions


@no_loop
def test_chat_says_and_takes_back(monkeypatch):
    talk = fakes.chat()
    said = []

    def say(text, options):
        said.append(text)
        talk.done = False
        yield talk
        talk.done = True
        yield talk

    talk.actions |= {"say": say, "undo": lambda: talk.messages.pop()}
    made = chat.chat_widget(talk)
    sent = spoken(made, monkeypatch)
    made._heard(made, {"kind": "say", "id": 1, "text": "hello"}, [])
    assert said == ["hello"]
    assert [message["kind"] for message in sent] == ["state", "done"]
    assert [one["who"] for one in made.messages] == ["system", "you", "bard"]
    assert [one["tokens"] for one in made.messages] == [False, False, True]
    made._heard(made, {"kind": "tokens", "message": 2}, [])
    assert sent[-1]["message"] == 2
    assert sent[-1]["page"]["samples"]
    for nothing in (0, 7, None):
        made._heard(made, {"kind": "tokens", "message": nothing}, [])
    assert len(sent) == 3
    made._heard(made, {"kind": "undo"}, [])
    assert len(made.messages) == 2

    def refuse():
        raise BadValue("undo: not now")

    talk.actions["undo"] = refuse
    made._heard(made, {"kind": "undo"}, [])
    assert sent[-1] == {"kind": "error", "text": "undo: not now"}


def test_a_long_conversation_keeps_its_newest_messages(monkeypatch):
    talk = fakes.chat()
    talk.messages += [Message("user", f"{i} " + "\x1b&é " * 800) for i in range(100)]
    found = talk._repr_mimebundle_()
    assert sum(len(part.encode()) for part in found.values()) < 300_000
    out = int(found["text/html"].partition(" older messages are left out")[0].rpartition(">")[2])
    assert 50 < out < 103
    assert [f">{i} ␛" in found["text/html"] for i in range(100)] == [i + 3 >= out for i in range(100)]
    assert f"you: {out - 3} " in found["text/plain"]
    assert f"you: {out - 4} " not in found["text/plain"]
    made = chat.chat_widget(talk)
    assert made.left_out == out
    assert made.messages[0]["text"].startswith(f"{out - 3} ")
    assert len(made.messages) == 103 - out
    del talk.messages[3:]
    assert "older messages" not in talk._repr_mimebundle_()["text/html"]


def test_texts_that_left_others_stand_below_them():
    page = tokens.page_of(fakes.tree())
    first, third, second, deep = page["samples"]
    assert [one["begins"] for one in (first, third, second, deep)] == [0, 3, 6, 9]
    assert third["head"] == "sample 4 · leaves sample 1 at token 4: “ w3” in place of “ the” · seed 13"
    assert third["text"][0] == " w3"
    assert third["chosen"][0] is None
    assert third["before"].endswith("⏎What is")
    assert len(third["thoughts"]["rank"]) == len(third["text"])
    plain = fakes.tree()._repr_mimebundle_()["text/html"]
    assert plain.index("sample 4") < plain.index("sample 2") < plain.index("sample 3")


def test_block_of_models():
    assert block_of(fakes.model().parts) == (1, 5)
    one = [
        ModelPart(p.name, p.detail, 1, p.parameters, p.flops, p.memory, p.kind, "", p.block)
        for p in fakes.model().parts
    ]
    assert block_of(one) == (1, 5)  # one layer is a block too
    others = [ModelPart("table", "Embedding", 1, 9, 9, 9), ModelPart("layers", "Linear", 3, 9, 9, 9)]
    assert block_of(others) == (1, 2)
    assert block_of(others[:1]) == (0, 0)


def drawn(report: ModelReport) -> tuple[list[str], str]:
    """(the words of a diagram from top to bottom, its SVG)."""
    source, width, height = diagram(report)
    root = ElementTree.fromstring(source)
    inside = [
        (float(e.get("x", 0)), float(e.get("y", 0)), e.text or "")
        for e in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert all(0 <= x <= width and 0 <= y <= height for x, y, _ in inside)
    return [text for _, _, text in sorted(inside, key=lambda one: one[1])], source


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("pre", ["RMSNorm", "attention", "RMSNorm", "mlp"]),
        ("post", ["attention", "RMSNorm", "mlp", "RMSNorm"]),
        ("sandwich", ["RMSNorm", "attention", "RMSNorm", "RMSNorm", "mlp", "RMSNorm"]),
    ],
)
def test_norms_are_drawn_where_they_stand(place, words):
    texts, source = drawn(fakes.model(place=place, config={"norm_place": place}))
    inside = texts[texts.index("× 4") :]
    assert [t for t in inside if t in ("RMSNorm", "attention", "mlp")][: len(words)] == words
    circles = re.findall(r'<circle class="d"[^>]*cy="([\d.]+)"', source)
    assert len(circles) == 2  # one sum for each part
    tops = [float(y) for y in re.findall(r'<rect class="l"[^>]*?y="([\d.]+)"', source)]
    joined = [float(y) for y in circles]
    if place == "post":
        assert joined[0] < tops[0] < joined[1] < tops[1]
    else:
        assert tops[0] < joined[0] < tops[2 if place == "sandwich" else 1] < joined[1]


def test_two_stacks_are_drawn_beside_each_other():
    texts, source = drawn(fakes.model(stacks=("encoder", "decoder"), first=("position",)))
    assert {"source ids", "target ids", "cross", "logits"} <= set(texts)
    assert texts.count("× 4") == 2
    assert "one for both" in " ".join(texts)
    (arrow,) = re.findall(r'<path class="o"[^>]*d="([^"]*)"', source)
    cross = re.search(r'<text[^>]*y="([\d.]+)"[^>]*>cross</text>', source)
    assert cross
    ends = float(re.findall(r"V([\d.]+)", arrow)[-1])
    assert abs(ends - float(cross[1])) < 14  # it ends at the box of cross attention


def test_experts_streams_and_shared_blocks_are_drawn():
    texts, _ = drawn(fakes.model(experts=True, config={"n_expert": 8, "n_active": 2}))
    assert {"router", "2 of 8 experts for each token", "mlp 1", "mlp 2", "…", "mlp 8"} <= set(texts)
    texts, source = drawn(fakes.model(first=("query",)))
    assert {"content", "query", "query vector"} <= set(texts)
    assert source.count('<circle class="d"') == 4
    texts, _ = drawn(
        fakes.model(config={"share_layers": True, "tie_embeddings": True}, last=("pooler", "head", "output"))
    )
    assert {"one block, 4 times", "tied to the embedding", "pooler", "one vector", "logits"} <= set(texts)
    texts, _ = drawn(fakes.model(last=()))
    assert texts[-1] == "hidden states"


def test_what_attention_does_is_said_in_its_box():
    for config, says in (
        ({"position": "t5"}, "4 heads, position bias"),
        ({"position": "alibi", "attention": "window"}, "4 heads, ALiBi, window"),
        ({"position": "none"}, "4 heads"),
    ):
        assert says in drawn(fakes.model(config=config))[0]
    assert "position, learned" in drawn(fakes.model(first=("position",)))[0]


def test_live_in_a_terminal(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(live, "in_notebook", lambda: False)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    shown = live.Live(fakes.training("training", steps=3))
    drawn = []
    for _ in range(20):
        now[0] += 0.2
        drawn.append(shown.update(fakes.training("training", steps=3)))
    assert sum(drawn) == 6  # each third, so every 0.6 s
    shown.close(fakes.training(steps=3))
    shown.close(fakes.training(steps=3))
    assert not shown.update(fakes.training(steps=3))
    out, err = capsys.readouterr()
    assert out.count("validation loss, whole split") == 1
    assert "step 3 of ~606" in err
    assert fakes.EVIL in live.status(fakes.training("training", name=fakes.EVIL + "\0")).replace("␀", "")


def test_live_in_a_notebook_uses_one_display_of_its_own(monkeypatch):
    display = pytest.importorskip("IPython.display")
    calls = []

    class Handle:
        def update(self, bundle, raw):
            calls.append(bundle["text/html"])

    def first(bundle, raw, display_id=None):
        calls.append(bundle["text/html"])
        return Handle() if display_id else None

    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", first)
    shown = live.Live(fakes.training("training", steps=3))
    shown.update(fakes.training("training", steps=4))
    shown.close(fakes.training(steps=5))
    assert len(calls) == 2
    assert "<script" not in calls[0]
    assert "<script" in calls[1]
    live.show(fakes.listing())
    assert len(calls) == 3


def test_plotly_figure():
    pytest.importorskip("plotly")
    figure = training.figure(fakes.training())
    assert [len(trace.x) for trace in figure.data] == [606, 7]
    figure = training.figure(fakes.with_parts(fakes.training()))
    assert [trace.name for trace in figure.data][2:] == [
        f"{n}, {s}" for n in ("mlm", "nsp") for s in ("training", "validation")
    ]
    assert len({trace.line.dash for trace in figure.data if trace.mode == "lines"}) == 3  # never by colour alone


def test_each_part_has_a_line_of_its_own_and_its_name():
    alone = curves.chart(fakes.training())
    report = fakes.with_parts(fakes.training(), ("mlm", "nsp", "balance"))
    chart = curves.chart(report)
    words = [e.text for e in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")]
    assert {"mlm", "nsp", "balance", "total"} <= set(words)
    assert "total" not in alone
    assert len(set(re.findall(r'stroke-dasharray="([^"]*)"', chart))) == 3
    places = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:mlm|nsp|balance|total)<', chart)]
    assert all(b - a >= 11.9 for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
    text = str(report)
    assert "part nsp" in text
    assert "nats in all" in text


def test_parts_in_turns_are_whole_lines():
    report = fakes.with_parts(fakes.training(by_time=False), turns=True)
    lines = re.findall(r'<path class="b" stroke-width="1.2"[^>]* d="([^"]*)"', curves.chart(report))
    assert [line.count("M") for line in lines] == [1, 1]
    assert all(line.count("L") > 90 for line in lines)
    assert 'stroke-width="1.4"' not in curves.chart(report)  # a line from part to part would say nothing
    assert "training loss" not in str(report)


def test_many_parts_fit():
    report = fakes.with_parts(fakes.training("training", steps=5000), tuple(f"+{i}" for i in range(40)))
    assert len(report._repr_mimebundle_()["text/html"]) < 60_000
    assert (
        len(fakes.with_parts(fakes.training(steps=20_000), ("a", "b", "c"))._repr_mimebundle_()["text/html"]) < 300_000
    )


def test_long_labels_are_cut_by_their_width():
    assert svg.short("你好世界你好世界你好") == "你好世界你好…"
    assert svg.short("short") == "short"
    wide = fakes.attention(["x" * 200] * 4, 1, 1)
    assert 'width="4' not in attention._big(wide, 0, 0)[-120:]


def tree_texts(picture) -> dict[str, list[str]]:
    """The labels of a drawn tree, by how they look."""
    root = ElementTree.fromstring(picture.svg)
    space = "{http://www.w3.org/2000/svg}"
    found = {"pruned": [], "kept": [], "best": []}
    for text in root.iter(f"{space}text"):
        look = "best" if "bf" in text.get("class") else "pruned" if text.get("fill-opacity") else "kept"
        found[look] += [span.text for span in text.iter(f"{space}tspan")]
    return found


def test_a_tree_shows_what_became_of_every_beam():
    tree = fakes.beams(n_beams=3, n_steps=6)
    picture = beams.picture(tree)
    shown = tree_texts(picture)
    assert shown["best"] == ["␣to", "␣be", ",", "␣or", "⏎", "␣to", "−3.00"]
    # The second beam ends at the third step and goes on from the first one; the third is pruned all along.
    assert shown["kept"] == ["␣be", ",", "␣or", "−1.75", "⏎", "␣to", "␣be", "−3.25", ",", "−3.50"]
    assert shown["pruned"] == [",", "␣or", "⏎", "␣to", "␣be"]
    assert picture.svg.count("<circle") == 4  # texts that ended
    lines = re.findall(r'<path class="(.)"[^>]* d="([^"]*)"', picture.svg)
    assert [(hue, line.count("M")) for hue, line in lines] == [("d", 5), ("d", 7), ("b", 6)]
    assert "3 beams over 6 steps" in picture.alt and "5 branches were pruned" in picture.alt
    assert "Drawn" not in picture.caption
    assert beams.tree(None) == "" and "overflow-x:auto" in beams.tree(tree)


def test_a_large_tree_is_cut_and_says_so():
    tree = fakes.beams(n_beams=40, n_steps=200)
    for t in range(200):
        tree.best[t] = 39
    picture = beams.picture(tree)
    assert "Drawn: the first 33 of 200 steps, 12 of up to 40 continuations a step." in picture.caption
    assert len(picture.svg) < 40_000
    assert len(tree_texts(picture)["best"]) == 33  # the way is drawn though it is none of the first
    assert "the first 40 of 60 steps" in beams.picture(fakes.beams(n_steps=60)).caption


def test_hostile_tokens_are_labels():
    picture = beams.picture(fakes.beams(fakes.HOSTILE, n_steps=len(fakes.HOSTILE)))
    assert "<script" not in picture.svg
    labels = tree_texts(picture)["best"]
    assert labels[:3] == ["<script>al…", "␀", "שלום"] and "⟨RLO⟩" in labels and "⟨U+D800⟩" in labels and "∅" in labels


def test_options_of_every_strategy_stand_in_the_text():
    html = fakes.compared(["a"])._repr_mimebundle_()["text/html"]
    assert html.count("p 0.5, bad_words a, seed 0, 1 text, 28 tokens") == 4


def test_pieces_with_breaks_break():
    from llm_lab.views.tokens import _shown

    assert _shown(Piece("a\n\nb", 1)) == "a⏎\n⏎\nb"
    assert _shown(Piece("", 1)) == "∅"


KERNEL = ["attending", "background", "chat", "playground"]  # they come by the kernel, and are not saved
SAVED = ["attention", "comparison", "export", "embeddings", "sorting", "tokens", "training"]


@pytest.mark.parametrize("name", [*SAVED, *KERNEL])
def test_modules_are_whole(name, tmp_path):
    source = esm(name)
    assert "import " not in source.replace("important", "")
    assert source.count("export ") == 1
    assert "/**" not in source
    assert name == "background" or "innerHTML" not in source
    assert name in KERNEL or len(source) < 34_000
    if NODE:
        path = tmp_path / "view.mjs"
        path.write_text(source)
        subprocess.run([NODE, "--check", str(path)], check=True)


def test_loader_and_styles_are_safe_inside_a_page():
    styles = css() + css("export")
    for text in (loader(), styles):
        assert "</" not in text
    assert all(
        line.lstrip().startswith((".", "[", "}", "@", "-")) or ":" in line for line in styles.split("\n") if line
    )
    for rule in styles.split("}"):
        selectors = rule.split("{")[0]
        assert all(".llm-lab" in part for part in selectors.split(",") if part.strip())


@pytest.mark.skipif(not NODE, reason="node is not installed")
def test_shared_module():
    done = subprocess.run(
        [NODE, "--test", str(Path(__file__).with_name("shared.test.mjs"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_languages_agree_on_ink():
    assert "** 0.6" in (STATIC / "shared.js").read_text()
    palette = svg._palette(signed=False)
    assert palette[:, 3].tolist() == [round(255 * (i / 255) ** 0.6) for i in range(256)]
    assert palette[9, :3].tolist() == [61, 125, 230]
    signed = svg._palette(signed=True)
    assert (
        signed[128, 3] == 0
        and signed[255].tolist() == [61, 125, 230, 255]
        and signed[1].tolist() == [224, 123, 26, 255]
    )

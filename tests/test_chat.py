"""Conversations: what the model reads, what ends an answer, and what is left out when the context is full."""

from __future__ import annotations

import json
import random

import pytest

import llm_lab as lab
from llm_lab.errors import BadType, BadValue, LabError
from tests.small import train

ASKED = [random.Random(i).randrange(10) for i in range(1500)]
TALK = "".join(f"Q: {i}?\nA: {i * 7 % 10}.\n" for i in ASKED)
TEMPLATE = "Q: {{user}}\nA: {{assistant}}"


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("chat"))
        yield train("talker", [TALK], steps=400, max_seq_len=48, lr=1e-2, seed=0)


def test_it_answers_as_it_was_trained_and_ends_there(lm):
    talk = lab.chat(lm, template=TEMPLATE, strategy="greedy", max_new_tokens=6)
    for asked in "374":
        assert talk.say(f"{asked}?").text == f"{int(asked) * 7 % 10}."
    assert [one.role for one in talk.messages] == ["user", "assistant"] * 3
    assert list(talk.to_pandas().columns) == ["role", "text"]
    last = talk.messages[-1].generation
    assert last.prompt == "Q: 3?\nA: 1.\nQ: 7?\nA: 9.\nQ: 4?\nA:"
    assert last.text.endswith("\n")  # what ended it, and is no part of the answer
    assert talk.undo().undo().text == "1."
    assert "9." in str(talk.say("7?"))


def test_the_template_of_a_model_is_saved_with_it(lm, tmp_path):
    with pytest.raises(BadValue, match="talker has none of its own"):
        lab.chat(lm)
    lm.chat_template = TEMPLATE
    again = lab.load(str(lm.save(tmp_path / "talker")))
    assert again.chat_template == TEMPLATE
    assert lab.chat(again, "3?", strategy="greedy").text == "1."
    with pytest.raises(BadValue, match="takes"):
        lm.chat_template = "nothing"


def test_a_template_that_cannot_be_rendered_does_not_keep_a_model_from_its_folder(tmp_path):
    lm = train("published", preset="llama", steps=1)
    for source, kept in (("{% for", True), (TEMPLATE, False)):
        lm.info["chat_template"] = source
        folder = lm.save(tmp_path / "saved", format="hf")
        described = json.loads((folder / "tokenizer_config.json").read_text())
        assert described.get("chat_template") == (source if kept else None)
        assert lab.load(str(folder)).chat_template == described.get("chat_template")


def test_the_oldest_exchanges_leave_a_full_context(lm):
    talk = lab.chat(lm, template=TEMPLATE, strategy="greedy", max_new_tokens=8)
    for i in range(6):
        talk.say(f"{i}?")
    read = talk.messages[-1].generation.prompt
    assert read.endswith("Q: 5?\nA:")
    assert len(read) <= 48 - 8
    assert read.startswith("Q: ")
    assert any("out of the model's sight" in note for note in talk.notes)
    assert len(talk.messages) == 12
    with pytest.raises(BadValue, match="message: with its template it takes"):
        talk.say("7" * 60)
    assert len(talk.messages) == 12


def test_options_hold_for_all_answers_or_for_one(lm):
    talk = lab.chat(lm, template=TEMPLATE, max_new_tokens=1, strategy="greedy", system="Digits:")
    assert len(talk.say("1?").messages[-1].generation.tokens[0]) == 1
    assert talk.messages[0].role == "system"
    assert talk.messages[-1].generation.prompt.startswith("Digits:\nQ: 1?")
    talk = lab.chat(lm, template=TEMPLATE, strategy="greedy").say("2?", max_new_tokens=3, stop="4")
    assert talk.text == ""
    with pytest.raises(BadValue, match="n: 2 answers"):
        talk.say("1?", n=2)
    with pytest.raises(BadValue, match="undo"):
        lab.chat(lm, template=TEMPLATE).undo()
    for wrong, said in (
        ({"max_new_tokens": "abc"}, "max_new_tokens: 'abc'"),
        ({"max_new_tokens": None}, "max_new_tokens"),
    ):
        with pytest.raises(LabError, match=said):
            talk.say("1?", **wrong)
    with pytest.raises(BadType, match="message: 5 is int"):
        talk.say(5)
    assert talk.done
    assert len(talk.messages) == 2
    with pytest.raises(BadValue, match="does not write on"):
        lab.chat(train("filler", objective="mlm", steps=2), template=TEMPLATE)


def test_an_interrupt_keeps_what_was_said(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    talk = lab.chat(lm, template="Q: {{user}}\nA: {{assistant}}\n\n\n", strategy="temperature", seed=0)
    for state in talk.actions["say"]("3?", {}):
        if len(state.text) > 3 and not state.done:
            state.messages[-1].generation.request_stop()
    assert talk.done
    assert len(talk.text) > 3
    assert any("interrupted" in note for note in talk.notes)


def test_nothing_is_taken_back_while_an_answer_is_written(lm, monkeypatch):
    monkeypatch.setattr("llm_lab.decoding.pace.REFRESH_SECONDS", 0.0)
    talk = lab.chat(lm, "3?", template=TEMPLATE, strategy="greedy")
    states = talk.actions["say"]("7?", {})
    assert not next(states).done
    with pytest.raises(BadValue, match="undo: an answer is being written"):
        talk.undo()
    *_, last = states
    assert last.text == "9."
    assert talk.undo().text == "1."


def test_a_line_break_that_ends_is_written_as_on_a_line(lm):
    talk = lab.chat(lm, template="Q: {{user}}\nA: {{assistant}} END", strategy="greedy", max_new_tokens=12, stop=".\\n")
    assert talk.say("3?").text == "1"
    assert talk.messages[-1].generation.text.endswith("\n")


def test_what_is_to_be_known_of_an_answer_is_said_once(lm):
    talk = lab.chat(lm, "3é?", template=TEMPLATE, strategy="speculative", draft=lm, max_new_tokens=20)
    unknown, taken = talk.notes
    assert "does not know all of the prompt" in unknown
    assert "guesses were taken" in taken
    talk.undo().say("3?")
    assert len(talk.notes) == 1
    assert "guesses were taken" in talk.notes[0]
    both = lab.ensemble([lm, lm])
    talk = lab.chat(both, "3?", template=TEMPLATE, strategy="greedy", max_new_tokens=20)
    assert talk.notes == talk.messages[-1].generation.notes == both.model.about["notes"]


def test_the_answer_to_a_source_may_begin_as_it_does(lm, monkeypatch):
    def copied(lm, prompt, **options):
        found = lab.generate(lm, prompt, max_new_tokens=1)
        found.texts, found.from_source = [f"{prompt} and more"], True
        yield found

    monkeypatch.setattr("llm_lab.chatting.stream", copied)
    template = "{{user}} -> {{assistant}}"
    assert lab.chat(lm, "3", template=template).text == "3 -> and more"


def test_a_reserved_token_that_was_not_taught_ends_nothing(lm):
    """`lm` never saw the end of a document: <eos> may not be drawn, however likely untrained weights find it."""
    assert lm.info["ends"] is False

    def ended(template):
        talk = lab.chat(lm, template=template, strategy="temperature", temperature=50.0, max_new_tokens=20)
        found = [talk.say("3?", seed=i).messages[-1].generation for i in range(8)]
        return any(one.end_logprob != [None] for one in found)

    assert not ended("Q: {{user}}\nA: {{assistant}} END\n")
    assert ended("Q: {{user}}\nA: {{assistant}}<eos>\n")  # where the template has it, it ends an answer


def test_reserved_tokens_end_an_answer_of_a_published_model(tmp_path):
    """A model with a chat template in its files: the token that ends a turn may be written, and ends it."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<|end|>", "user", "assistant", "yes", "no", ":"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(t, special=True) for t in words[:3]])
    theirs = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    theirs.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} <|end|>{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    with torch.no_grad():  # after any token comes the next one, in the order of `words`
        model.transformer.wte.weight.copy_(torch.nn.functional.one_hot(torch.arange(8), 16).float() * 9)
        for name, weight in model.transformer.named_parameters():
            if "wte" not in name and "ln" not in name:
                weight.zero_()
        model.transformer.ln_f.weight.copy_(torch.ones(16))
    model.save_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    lm = lab.load(str(tmp_path))
    assert "<|end|>" in lm.chat_template
    talk = lab.chat(lm, "yes", strategy="temperature", seed=1, max_new_tokens=20)
    written = talk.messages[-1].generation
    want = theirs.apply_chat_template([{"role": "user", "content": "yes"}], add_generation_prompt=True, tokenize=False)
    assert written.prompt == want
    assert [piece.id for piece in written.prompt_pieces] == theirs(want, add_special_tokens=False)["input_ids"]
    assert not set(written.tokens[0]) & {0, 1, 2}

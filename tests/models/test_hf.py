"""Published models through the door and back: the same logits and hidden states as transformers gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

import llm_lab as lab
from llm_lab.data.batch import Attend, Batch
from llm_lab.errors import BadValue
from llm_lab.models.hf.families import FAMILIES
from llm_lab.models.hf.parts import Must
from llm_lab.models.options import SHAPES, ModelOptions
from llm_lab.models.presets import PRESETS
from llm_lab.options import specs
from llm_lab.probes.recording import record
from llm_lab.store.lm import LM
from llm_lab.tokenizers.tokenizer import train

transformers = pytest.importorskip("transformers", reason="transformers is the reference")

VOCAB, LENGTH = 61, 14
BERT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)
LLAMA = BERT | dict(num_key_value_heads=2, max_position_embeddings=32)
T5 = dict(d_model=32, d_kv=6, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4)
T5 |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=10, decoder_start_token_id=0)
# Name -> class, its sizes. Every one has something that its presets' defaults do not.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", dict(n_embd=32, n_layer=3, n_head=4, n_positions=32)),
    "gpt2-bare": ("GPT2Model", dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, n_inner=40)),
    "gpt2-erf": ("GPT2LMHeadModel", dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, activation_function="gelu")),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama-tied": ("LlamaForCausalLM", LLAMA | dict(tie_word_embeddings=True, head_dim=10)),
    "llama-bare": ("LlamaModel", LLAMA | dict(rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
    "mistral": ("MistralForCausalLM", LLAMA | dict(sliding_window=5)),
    "mistral-full": ("MistralForCausalLM", LLAMA | dict(sliding_window=None)),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | dict(head_dim=12, tie_word_embeddings=True)),
    "bert": ("BertForMaskedLM", BERT),
    "bert-both": ("BertForPreTraining", BERT | dict(hidden_act="gelu_new")),
    "bert-bare": ("BertModel", BERT),
    "bert-untied": ("BertForMaskedLM", BERT | dict(tie_word_embeddings=False)),
    "roberta": ("RobertaForMaskedLM", BERT | dict(type_vocab_size=1, layer_norm_eps=1e-5, max_position_embeddings=34)),
    "roberta-bare": ("RobertaModel", BERT | dict(pad_token_id=3)),
    "albert": ("AlbertForMaskedLM", BERT | dict(embedding_size=12)),
    "albert-both": ("AlbertForPreTraining", BERT | dict(embedding_size=12)),
    "distilbert": ("DistilBertForMaskedLM", dict(dim=32, hidden_dim=48, n_layers=3, n_heads=4)),
    "distilbert-bare": ("DistilBertModel", dict(dim=32, hidden_dim=48, n_layers=3, n_heads=4)),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-1.1": ("T5ForConditionalGeneration", T5 | dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "t5-silu": ("T5ForConditionalGeneration", T5 | dict(feed_forward_proj="gated-silu", num_decoder_layers=None)),
}
CLOSE = dict(atol=1e-5, rtol=1e-5)


def words(folder: Path, size: int = VOCAB) -> Path:
    """A small tokenizer as others make them, saved into a folder."""
    vocab = {token: i for i, token in enumerate(["<pad>", "</s>", "<s>", "[CLS]", "[SEP]", "[MASK]", "<unk>"])}
    vocab |= {chr(ord("a") + i): len(vocab) + i for i in range(26)}
    made = tokenizers.Tokenizer(models.WordLevel(dict(list(vocab.items())[:size]), unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    made.add_special_tokens(list(vocab)[:7])
    made.save(str(folder / "tokenizer.json"))
    named = dict(pad="<pad>", eos="</s>", bos="<s>", cls="[CLS]", sep="[SEP]", mask="[MASK]")
    (folder / "tokenizer_config.json").write_text(json.dumps({f"{name}_token": token for name, token in named.items()}))
    return folder


def fresh(name: str) -> Any:
    """One of transformers' models with weights of which none hides a mistake."""
    cls, sizes = MODELS[name]
    torch.manual_seed(0)
    kind = getattr(transformers, cls)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1} if "Roberta" not in cls else {}
    config = kind.config_class(**{"vocab_size": VOCAB, **ids, **sizes})
    config._attn_implementation = "eager"
    made = kind(config).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def published(name: str, folder: Path) -> Any:
    made = fresh(name)
    made.save_pretrained(folder)
    words(folder)
    return made


def inputs(name: str, padded: bool) -> tuple[dict[str, Tensor], Batch]:
    """The same for both: ids, with segments and padding where the model knows them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (2, LENGTH), generator=generator)
    causal = name.split("-")[0] in ("gpt2", "llama", "mistral", "qwen3")
    keep = torch.ones(2, LENGTH, dtype=torch.bool)
    theirs: dict[str, Tensor] = {"input_ids": ids}
    ours: dict[str, Any] = {"attend": Attend(causal=causal)}
    if padded:
        keep[1, -5:] = False
        theirs["attention_mask"] = keep.long()
        ours["attend"] = Attend(causal=causal, keep=keep)
    if name.startswith(("bert", "albert")):
        theirs["token_type_ids"] = ours["token_type_ids"] = (torch.arange(LENGTH) > 6).long().expand(2, -1)
    if name.startswith("t5"):
        theirs["decoder_input_ids"] = ours["decoder_ids"] = torch.randint(4, VOCAB, (2, 11), generator=generator)
    return theirs, Batch(ids, **ours)


def stack_is(found: dict[str, Tensor], states: tuple[Tensor, ...], prefix: str, keep: Tensor) -> None:
    """Each block's input and output, and what the stack gives, as transformers' hidden states."""
    n = len(states) - 1
    for i in range(n):
        close(found[f"{prefix}blocks.{i}.resid_pre"], states[i], keep)
        if i < n - 1:
            close(found[f"{prefix}blocks.{i}.resid_post"], states[i + 1], keep)
    close(found[f"{prefix}final"], states[n], keep)


def looks_are(found: dict[str, Tensor], theirs: tuple[Tensor, ...], sites: str, keep: Tensor) -> None:
    """Each layer's attention pattern, at the queries that are no padding."""
    for i, pattern in enumerate(theirs):
        close(found[sites.format(i)].transpose(1, 2), pattern.transpose(1, 2), keep)


def close(ours: Tensor, theirs: Tensor, keep: Tensor) -> None:
    torch.testing.assert_close(ours[keep], theirs[keep], **CLOSE)


def same(theirs: Any, model: Any, name: str, padded: bool) -> None:
    """Logits, all hidden states and attention patterns, and the pooled vector where there is one."""
    given, batch = inputs(name, padded)
    with torch.no_grad():
        reference = theirs(**given, output_hidden_states=True, output_attentions=True)
        out = model(**batch.inputs())
    found = record(model, batch)
    keep = torch.ones(2, LENGTH, dtype=torch.bool) if batch.attend.keep is None else batch.attend.keep
    logits = getattr(reference, "logits", getattr(reference, "prediction_logits", None))
    if name.startswith("t5"):
        every = torch.ones_like(given["decoder_input_ids"], dtype=torch.bool)
        stack_is(found, reference.encoder_hidden_states, "encoder.", keep)
        stack_is(found, reference.decoder_hidden_states, "decoder.", every)
        looks_are(found, reference.encoder_attentions, "encoder.blocks.{}.attn.pattern", keep)
        looks_are(found, reference.decoder_attentions, "decoder.blocks.{}.attn.pattern", every)
        looks_are(found, reference.cross_attentions, "decoder.blocks.{}.cross.pattern", every)
        close(out.logits, logits, every)
        return
    stack_is(found, reference.hidden_states, "", keep)
    looks_are(found, reference.attentions, "blocks.{}.attn.pattern", keep)
    if logits is not None:
        close(out.logits, logits, keep)
    elif "bare" in name and not name.startswith("gpt2"):
        assert out.logits.shape[-1] == 0
    if getattr(reference, "pooler_output", None) is not None:
        torch.testing.assert_close(out.pooled, reference.pooler_output, **CLOSE)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_in(name: str, padded: bool, tmp_path: Path) -> None:
    theirs = published(name, tmp_path)
    lm = lab.load(f"hf:{tmp_path}")
    same(theirs, lm.model, name, padded)
    assert "seq2seq" in lm.supports if name.startswith("t5") else "embeddings" in lm.supports


def test_left_padding_gives_the_same_logits(tmp_path: Path) -> None:
    theirs = published("gpt2", tmp_path)
    ours = lab.load(tmp_path).model
    ids = torch.randint(0, VOCAB, (1, 9))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), ids], dim=1)
    keep, positions = torch.arange(14)[None] >= 5, (torch.arange(14)[None] - 5).clamp(min=0)
    with torch.no_grad():
        got = ours(padded, attend=Attend(keep=keep), position_ids=positions).logits[:, 5:]
        reference = theirs(padded, attention_mask=keep.long(), position_ids=positions).logits[:, 5:]
        torch.testing.assert_close(got, ours(ids).logits, **CLOSE)
    torch.testing.assert_close(got, reference, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_and_back(name: str, tmp_path: Path) -> None:
    theirs = published(name, tmp_path)
    lm = lab.load(tmp_path)
    back = lm.save(tmp_path / "back", format="hf")
    again, missing = transformers_of(back)
    assert missing == set() and again.config.model_type == theirs.config.model_type
    same(again, lm.model, name, padded=True)
    if type(again) is type(theirs):
        assert set(again.state_dict()) == set(theirs.state_dict())
    ours = lab.load(back)
    whole = replace(lm.model.config, d_ff=lm.model.config.ff_width)  # written out
    assert ours.model.config == whole and ours.tokenizer.specials == lm.tokenizer.specials
    for key, value in lm.model.state_dict().items():
        assert torch.equal(value, ours.model.state_dict()[key])


def transformers_of(folder: Path) -> tuple[Any, set[str]]:
    """The model that transformers makes of a folder, and what it misses."""
    cls = json.loads((folder / "config.json").read_text())["architectures"][0]
    found, about = getattr(transformers, cls).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    return found.eval(), set(about["missing_keys"])


SMALL = dict(n_layer=2, n_head=4, d_model=32, max_seq_len=32, d_ff=48)
TRAINED = dict.fromkeys(FAMILIES, SMALL) | {
    "mistral": SMALL | dict(n_kv_head=2, window=5),
    "qwen3": SMALL | dict(n_kv_head=2, d_head=12),
    "albert": SMALL | dict(d_embed=12),
    "t5": SMALL | dict(d_head=6),
}
AUTO = {"clm": "AutoModelForCausalLM", "mlm": "AutoModelForMaskedLM", "span_corruption": "AutoModelForSeq2SeqLM"}


@pytest.mark.parametrize("preset", TRAINED)
def test_a_model_made_here_is_one_of_transformers(preset: str, tmp_path: Path) -> None:
    tokenizer = train(["abc def " * 9 + "".join(map(chr, range(97, 123)))], "char")
    config = PRESETS.load(preset).config(VOCAB, **TRAINED[preset])
    torch.manual_seed(0)
    model = SHAPES.load(config.shape)(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    family = FAMILIES.load(preset)
    lm = LM("made", model, tokenizer, info={"objective": family.objective})
    folder = lm.save(tmp_path / "made", format="hf")
    assert json.loads((folder / "config.json").read_text())["model_type"] == preset
    theirs = getattr(transformers, AUTO[family.objective]).from_pretrained(folder, attn_implementation="eager").eval()
    given, batch = inputs(preset, padded=False)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch.inputs()).logits, theirs(**given).logits, **CLOSE)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert loaded("abc fed", add_special_tokens=False)["input_ids"] == tokenizer.encode("abc fed")
    assert (loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.special("pad"), tokenizer.special("eos"))
    assert lab.load(folder).tokenizer.fingerprint == tokenizer.fingerprint


def test_what_no_family_has_is_named(tmp_path: Path) -> None:
    tokenizer = train(["abc"], "char")
    for preset, change, named in (
        ("modern", {}, r"mlp 'relu2'.*|logit_softcap 15\.0.*"),
        ("llama", dict(logit_softcap=9.0), r"nearest is llama, which has not logit_softcap 9\.0; use format='lab'"),
        ("gpt2", dict(n_kv_head=2), "nearest is gpt2, which has not n_kv_head 2"),
        ("llama", dict(mlp="relu"), "nearest is llama, which has not mlp 'relu'"),
        ("bert", dict(output_bias=False), "output_bias False"),
        ("albert", dict(d_embed=None), "d_embed 32, which is d_model too"),
        ("mistral", dict(attention="strided", n_kv_head=2), "nearest is mistral, which has not attention 'strided'"),
        ("transformer", {}, "position 'sinusoidal'"),
    ):
        config = PRESETS.load(preset).config(VOCAB, **{**SMALL, **change})
        lm = LM("made", SHAPES.load(config.shape)(config), tokenizer)
        with pytest.raises(BadValue, match=named) as caught:
            lm.save(tmp_path / "no", format="hf")
        assert "\n" not in str(caught.value) and not (tmp_path / "no").exists()
    with pytest.raises(BadValue, match=r"format: 'huggingface' is unknown; there is: lab, hf"):
        lm.save(tmp_path / "no", format="huggingface")


def test_every_key_of_transformers_is_read_or_known_to_be_idle() -> None:
    """A key that a later version adds is to be looked at before it is passed over."""
    for name in FAMILIES:
        family = FAMILIES.load(name)
        theirs = set(getattr(transformers, next(iter(family.classes.values()))).config_class().to_dict())
        read = {key for part in family.parts for key in part.keys}
        assert theirs - read <= IDLE, (name, theirs - read - IDLE)


# What training, classification heads, generation and bookkeeping have in a config.json.
IDLE = set(transformers.PreTrainedConfig().to_dict()) | {
    "model_type", "transformers_version", "use_cache", "initializer_range", "initializer_factor",
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "classifier_dropout", "classifier_dropout_prob", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds",
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
    "reorder_and_upcast_attn",  # only of training in half precision
    "pretraining_tp",  # only how a product is cut
    "sliding_window", "max_window_layers", "layer_types",  # Qwen3's, where use_sliding_window is off
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "keys", "shares"),
    [
        ("gpt2", dict(resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.0), (0.2, 0.0)),
        ("gpt2", dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.3), (0.0, 0.3)),
        ("llama", dict(attention_dropout=0.3), (0.0, 0.3)),
        ("bert", dict(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1), (0.2, 0.1)),
        ("distilbert", dict(dropout=0.2, attention_dropout=0.1), (0.2, 0.1)),
        ("t5", dict(dropout_rate=0.2), (0.2, 0.2)),
    ],
)  # fmt: skip
def test_what_is_dropped_of_the_stream_and_of_attention_comes_in_and_goes_back(name, keys, shares, tmp_path) -> None:
    published(name, tmp_path)
    change(tmp_path, **keys)
    lm = lab.load(tmp_path)
    assert (lm.model.config.dropout, lm.model.config.weights_dropout) == shares
    about = json.loads((lm.save(tmp_path / "back", format="hf") / "config.json").read_text())
    assert {key: about[key] for key in keys} == keys


def test_every_option_of_ours_is_held_against_a_family() -> None:
    """An option that changes what a model computes must be fixed by each family, mapped, or told by the tensors."""
    idle = {"shape", "norm", "norm_eps", "position", "bias", "mlp", "output", "tie_embeddings", "output_bias", "pooler"}
    idle |= {"stride", "n_global", "n_random", "sparse_block", "window", "rope_theta", "rel_buckets", "rel_distance"}
    idle |= {"n_active", "router_loss", "order", "kernel", "dropout", "attention_dropout", "n_decoder_layer", "d_embed"}
    for name in FAMILIES:
        family = FAMILIES.load(name)
        known = set(family.fixed) | {option for part in family.parts for option in part.options}
        assert set(specs(ModelOptions)) - known <= idle, (name, set(specs(ModelOptions)) - known - idle)


def change(folder: Path, file: str = "config.json", **keys: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    held = load_file(folder / "model.safetensors")
    edit(held)
    save_file(held, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "keys", "named"),
    [
        ("gpt2", {"model_type": "gpt_neox"}, "model_type 'gpt_neox' is none that this lab can read; it takes gpt2, llama"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", {"activation_function": "tanh"}, "activation_function 'tanh' is not something this lab has; it takes"),
        ("gpt2", {"n_embd": "wide"}, "d_model: 'wide'|d_model 'wide'"),
        ("gpt2", {"n_layer": 10**6}, "n_layer 1000000 is larger than anything"),
        ("gpt2", {"n_layer": 4}, r"transformer\.h\.3\.ln_1\.weight.* is missing"),
        ("gpt2", {"n_layer": 2}, r"transformer\.h\.2\..* is nothing that this lab knows"),
        ("gpt2", {"n_positions": 16}, r"transformer\.wpe\.weight has shape \(32, 32\)"),
        ("gpt2", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ("llama", {"attention_bias": True}, "attention_bias True"),
        ("llama", {"mlp_bias": True}, "mlp_bias True"),
        ("llama", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, r"rope_parameters\.rope_type 'llama3'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling\.rope_type 'linear'"),
        ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window True"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder True"),
        ("bert", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("roberta", {"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups 2"),
        ("albert", {"embedding_size": 32}, "embedding_size 32 is hidden_size too"),
        ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj 'gated-relu'"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused_by_name(name: str, keys: Any, named: str, tmp_path: Path) -> None:
    published(name, tmp_path)
    if name == "t5":
        keys = {**keys, "dense_act_fn": "relu", "is_gated_act": True}
    change(tmp_path, **keys)
    with pytest.raises(BadValue, match=named) as caught:
        lab.load(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    published("bert-bare", tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for edit, named in (
        (lambda held: held.update({"classifier.weight": torch.ones(2, 32)}), r"classifier\.weight is nothing"),
        (lambda held: held.pop("embeddings.LayerNorm.bias"), r"bert\.embeddings\.LayerNorm\.bias is missing"),
        (
            lambda held: held.update({"embeddings.LayerNorm.bias": torch.ones(32, dtype=torch.int8)}),
            r"embeddings\.LayerNorm\.bias holds int8: the weights are quantised",
        ),
    ):
        (tmp_path / "model.safetensors").write_bytes(whole)
        tensors(tmp_path, edit)
        with pytest.raises(BadValue, match=named):
            lab.load(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadValue, match="is damaged"):
        lab.load(f"hf:{tmp_path}")


def test_what_changes_nothing_is_passed_over(tmp_path: Path) -> None:
    """Keys that real files have: no padding as −1, and what their makers noted."""
    theirs = published("llama", tmp_path)
    change(tmp_path, pad_token_id=-1, rope_scaling=None, _name_or_path="x", task_specific_params={"a": 1}, n_ctx=5)
    same(theirs, lab.load(tmp_path).model, "llama", padded=False)


def test_t5_with_two_different_embeddings_is_refused(tmp_path: Path) -> None:
    published("t5", tmp_path)
    tensors(tmp_path, lambda held: held.update({"decoder.embed_tokens.weight": torch.ones(VOCAB, 32)}))
    with pytest.raises(BadValue, match=r"shared\.weight and decoder\.embed_tokens\.weight differ"):
        lab.load(f"hf:{tmp_path}")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"config\.json is missing"):
        lab.load(f"hf:{tmp_path}")
    published("gpt2", tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "away.json")
    with pytest.raises(BadValue, match=r"has no tokenizer\.json.*save_pretrained"):
        lab.load(f"hf:{tmp_path}")
    (tmp_path / "away.json").rename(tmp_path / "tokenizer.json")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BadValue, match=r"pytorch_model\.bin and no safetensors: .*nothing is unpickled"):
        lab.load(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(BadValue, match=r"model\.safetensors is missing"):
        lab.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadValue, match="holds a list"):
        lab.load(tmp_path)
    with pytest.raises(BadValue, match=r"there is no folder '\./nowhere'"):
        lab.load("hf:./nowhere")
    with pytest.raises(BadValue, match="there is no folder ''; hf: takes a folder"):
        lab.load("hf:")


def test_a_model_in_several_files(tmp_path: Path) -> None:
    theirs = fresh("llama")
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    words(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    same(theirs, lab.load(f"hf:{tmp_path}").model, "llama", padded=True)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secrets"}}))
    with pytest.raises(BadValue, match="does not name files beside it"):
        lab.load(f"hf:{tmp_path}")


def test_old_names_and_buffers(tmp_path: Path) -> None:
    """As files from years ago have them: norms' gamma and beta, masks and position ids among the weights, half floats."""
    theirs = published("bert", tmp_path)

    def age(held: dict[str, Tensor]) -> None:
        for name in [name for name in held if "LayerNorm" in name]:
            held[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = (
                held.pop(name)
            )
        held["bert.embeddings.position_ids"] = torch.arange(512)[None]

    tensors(tmp_path, age)
    same(theirs, lab.load(f"hf:{tmp_path}").model, "bert", padded=True)
    other = tmp_path / "gpt2"
    published("gpt2-bare", other)
    tensors(
        other,
        lambda held: held.update({"h.0.attn.bias": torch.ones(1, 1, 32, 32), "h.0.attn.masked_bias": torch.ones(())}),
    )
    tensors(other, lambda held: held.update({name: value.bfloat16() for name, value in held.items()}))
    lm = lab.load(other)
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32} and "next_token" in lm.supports


def test_an_output_of_its_own_under_a_config_that_says_tied(tmp_path: Path) -> None:
    """Flan-T5's files: transformers 5 takes two that differ for two, and so do we. `tie_word_embeddings` is false in
    them, which says that the output is not scaled."""
    published("t5-1.1", tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    del about["scale_decoder_outputs"]
    (tmp_path / "config.json").write_text(json.dumps(about | {"tie_word_embeddings": False}))
    tensors(tmp_path, lambda held: held.update({"lm_head.weight": torch.randn(VOCAB, 32)}))
    theirs, _ = transformers_of(tmp_path)
    lm = lab.load(tmp_path)
    assert not lm.model.config.tie_embeddings and not lm.model.config.scale_logits
    same(theirs, lm.model, "t5-1.1", padded=True)
    again, missing = transformers_of(lm.save(tmp_path / "back", format="hf"))
    assert not missing
    same(again, lm.model, "t5-1.1", padded=True)


def test_what_a_loaded_model_can_do(tmp_path: Path) -> None:
    published("gpt2", tmp_path / "gpt2")
    lm = lab.load(f"hf:{tmp_path / 'gpt2'}")
    assert lm.name == "gpt2" and lm.info["ends"] and lm.info["objective"] == "clm"
    assert {"next_token", "cache"} <= lm.supports and "fill" not in lm.supports
    made = lab.generate(lm, "abc", max_new_tokens=12, seed=0)
    assert len(made.tokens) <= 12 and made.text.startswith("abc")
    published("bert-both", tmp_path / "b-1.0")
    bert = lab.load(f"hf:{tmp_path / 'b-1.0'}")
    assert bert.name == "b_1_0" and bert.info["objective"] == "mlm_nsp" and list(bert.extras) == ["nsp"]
    assert "fill" in bert.supports and "next_token" not in bert.supports


def test_the_head_beside_bert_is_the_same(tmp_path: Path) -> None:
    for name, key, part in (("bert-both", "seq_relationship_logits", "nsp"), ("albert-both", "sop_logits", "sop")):
        theirs = published(name, tmp_path / part)
        lm = lab.load(tmp_path / part)
        given, batch = inputs(name, padded=False)
        with torch.no_grad():
            got = lm.extras[part](lm.model(**batch.inputs()).pooled)
            torch.testing.assert_close(got, theirs(**given)[key], **CLOSE)


def test_saved_as_our_own_it_comes_back(tmp_path: Path) -> None:
    published("bert-both", tmp_path / "theirs")
    lm = lab.load(tmp_path / "theirs")
    again = lab.load(lm.save(tmp_path / "ours"))
    assert again.tokenizer.specials == lm.tokenizer.specials and again.model.config == lm.model.config
    assert torch.equal(again.extras["nsp"].weight, lm.extras["nsp"].weight)


def test_the_hub_is_asked_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        asked.append((name, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        if name == "nobody/nothing":
            raise OSError("no such\nrepository")
        return str(tmp_path / "cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    published("gpt2", tmp_path / "cached")
    assert lab.load("hf:someone/Some-Model.1").name == "Some_Model_1"
    assert asked == [("someone/Some-Model.1", True), ("someone/Some-Model.1", False)]
    with pytest.raises(BadValue, match=r"hf:nobody/nothing is no folder here.*no such") as caught:
        lab.load("hf:nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_must_writes_its_first_value() -> None:
    assert Must("a", (None, 1)).write(PRESETS.load("gpt2").config(9)) == {}
    assert Must("a", (False,)).write(PRESETS.load("gpt2").config(9)) == {"a": False}


def test_a_real_model(minilm: Path) -> None:
    lm = lab.load(f"hf:{minilm}")
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    reads = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["The quick brown fox isn't lazy.", "Café naïve: 人人生而自由, unbelievably long " * 20, "a"]
    for text in texts:
        assert lm.tokenizer.encode(text) == reads(text, add_special_tokens=False)["input_ids"]
    given = reads(texts, return_tensors="pt", padding=True)
    keep = given["attention_mask"].bool()
    batch = Batch(given["input_ids"], attend=Attend(causal=False, keep=keep), token_type_ids=given["token_type_ids"])
    with torch.no_grad():
        reference = theirs(**given, output_hidden_states=True)
    found = record(lm.model, batch)
    for i in range(6):
        torch.testing.assert_close(
            found[f"blocks.{i}.resid_post"][keep], reference.hidden_states[i + 1][keep], atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(lm.model(**batch.inputs()).pooled, reference.pooler_output, atol=1e-4, rtol=1e-4)

"""Checkpoints that do not hold what their config says are refused by name, before or instead of running them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from crosslens import Subject, SubjectError, load
from crosslens.data.errors import UserError
from crosslens.data.subjects import gguf
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    LlamaConfig,
    MambaConfig,
    ModernBertConfig,
    T5Config,
)

from ..helpers import tiny
from ..helpers.tokenizer_kinds import byte_level, llama

NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def checkpoint(tmp_path):
    opened = llama(byte_level(), tie_word_embeddings=True)
    opened.model.save_pretrained(tmp_path)
    opened.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(checkpoint, **config):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def test_tied_weights_are_not_missing_and_a_pad_token_is_found(checkpoint):
    opened = load(checkpoint, check=False)
    assert "lm_head.weight" not in load_file(checkpoint / "model.safetensors")
    assert opened.tokenizer.pad_token == "</s>"  # the tokenizer has none: its EOS, which its config names


@pytest.mark.parametrize(("pad", "found"), [(None, "</s>"), (0, "<unk>"), (77, "</s>")])
def test_padding_is_a_special_token(checkpoint, pad, found):
    """An id that is a word must stay a word."""
    change(checkpoint, pad_token_id=pad, eos_token_id=2)
    AutoTokenizer.from_pretrained(checkpoint, unk_token="<unk>").save_pretrained(checkpoint)
    assert load(checkpoint, check=False).tokenizer.pad_token == found


@pytest.mark.parametrize(
    ("change_weights", "message"),
    [
        (lambda w: w.pop(NORM), rf"1 missing \({NORM}\)"),
        (lambda w: w.update(spare=torch.ones(2)), r"1 unexpected \(spare\)"),
        (lambda w: w.update({NORM: torch.ones(3)}), rf"1 misshapen \({NORM} \(3,\) for \(16,\)\)"),
    ],
)
def test_weights_that_do_not_belong(checkpoint, change_weights, message):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    change_weights(weights)
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=message) as error:
        load(checkpoint, check=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq"])
def test_packed_weights(checkpoint, method):
    change(checkpoint, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    with pytest.raises(UserError, match=rf"its weights are packed \({method}\)"):
        load(checkpoint, check=False)


def test_packed_weights_in_memory():
    model = llama(byte_level()).model
    weight = nn.Parameter(torch.zeros(16, 8, dtype=torch.uint8), requires_grad=False)
    model.model.layers[0].self_attn.o_proj.weight = weight
    with pytest.raises(SubjectError, match=r"llama cannot be opened: its weights are packed .*o_proj.weight"):
        Subject(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite(checkpoint, value, dtype):
    path = checkpoint / "model.safetensors"
    weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    weights[NORM][3] = value
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"not finite .first in {NORM}"):
        load(checkpoint, dtype=str(dtype).removeprefix("torch."), check=False)


# ---- families never seen

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
T5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
FOREIGN = {
    "t5": lambda: AutoModelForSeq2SeqLM.from_config(T5),
    "bert": lambda: AutoModelForMaskedLM.from_config(BertConfig(**SMALL)),
    "modernbert": lambda: AutoModelForMaskedLM.from_config(ModernBertConfig(**SMALL, pad_token_id=0)),
    "mamba": lambda: AutoModelForCausalLM.from_config(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)),
    "llama": lambda: AutoModel.from_config(LlamaConfig(**SMALL)),
    "Linear": lambda: nn.Linear(2, 2),
    "str": lambda: "smollm2",
}


@pytest.mark.parametrize("family", FOREIGN)
def test_a_model_of_another_kind_is_refused_in_one_line(family):
    with pytest.raises(SubjectError, match=f"^{family} cannot be opened: ") as error:
        Subject(FOREIGN[family]())
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_a_checkpoint_of_another_kind_is_refused_in_one_line(checkpoint, family):
    FOREIGN[family]().save_pretrained(checkpoint)
    with pytest.raises((SubjectError, UserError), match=family) as error:
        load(checkpoint, check=False)
    assert "\n" not in str(error.value)


def test_proofs_that_break_name_the_family(monkeypatch):
    opened = tiny.subject()
    monkeypatch.setattr(opened.layers[1].mlp, "forward", lambda states: states.no_such_thing)
    with pytest.raises(
        SubjectError,
        match=r"llama .tiny-llama.: a forward of the check fails, so nothing is proved: AttributeError: .*no_such",
    ) as e:
        opened.check()
    assert isinstance(e.value.__cause__, AttributeError)


# ---- GGUF


def write_gguf(path, tokenizer, pre="gpt-2", add_bos=None, parts=None):
    """A tiny Llama with a byte-level tokenizer as llama.cpp writes it."""
    backend, size = json.loads(tokenizer.backend_tokenizer.to_str())["model"], len(tokenizer)
    writer = GGUFWriter(path, "llama")
    for number, add in (
        (64, writer.add_context_length),
        (16, writer.add_embedding_length),
        (1, writer.add_block_count),
    ):
        add(number)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(backend["vocab"], key=backend["vocab"].get))
    writer.add_token_types([3 if i < 3 else 1 for i in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in backend["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    if parts:
        writer.add_uint16("split.count", parts)
    ones = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (16, 16))
    ones |= {"ffn_gate": (24, 16), "ffn_up": (24, 16), "ffn_down": (16, 24), "attn_norm": (16,), "ffn_norm": (16,)}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in ones.items()}
    shapes |= {"token_embd.weight": (size, 16), "output_norm.weight": (16,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.full(shape, 0.1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_part_of_a_gguf_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "_load", lambda path: pytest.fail("built"))
    path = write_gguf(tmp_path / "m-00002-of-00003.gguf", byte_level(), parts=3)
    with pytest.raises(UserError, match=r"one of 3 parts, and m-00001.* does not lie beside it"):
        gguf.gguf_to_directory(path, tmp_path / "out")
    renamed = path.rename(tmp_path / "m.gguf")
    with pytest.raises(UserError, match="one of 3 parts of a model: give the parts their names back"):
        gguf.gguf_to_directory(renamed, tmp_path / "out")


def split(whole, folder, count):
    """A GGUF file in parts, as llama-gguf-split writes it: the fields in the first, tensors in all."""
    reader, names = GGUFReader(whole), [f"m-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    for i, name in enumerate(names):
        writer = GGUFWriter(folder / name, "llama")
        for field in reader.fields.values() if i == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:][-1:])
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", count)
        for tensor in reader.tensors[i::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return [folder / name for name in names]


def test_a_split_gguf_is_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    whole = write_gguf(tmp_path / "m.gguf", byte_level())
    parts = split(whole, tmp_path, 3)
    for named in parts[:2]:
        opened = load(named, check=False)
        assert opened.fingerprint == load(whole, check=False).fingerprint
        assert opened.name == "m"
        assert opened.tokenizer("I think").input_ids == load(whole, check=False).tokenizer("I think").input_ids
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    parts[1].write_bytes(parts[1].read_bytes()[:300])
    with pytest.raises(UserError, match="cut short") as error:
        load(parts[0], check=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("pre", "message"), [("nobodys", "unknown pre-tokenizer 'nobodys'"), (None, "does not name")])
def test_a_pre_tokenizer_that_is_not_known(tmp_path, pre, message):
    with pytest.raises(UserError, match=message):
        gguf.gguf_to_directory(write_gguf(tmp_path / "m.gguf", byte_level(), pre), tmp_path / "out")


@pytest.mark.parametrize(
    ("pre", "add_bos", "puts_bos", "digits"),
    [
        ("gpt-2", None, False, ["123456"]),
        ("gpt-2", True, True, ["123456"]),
        ("smollm", False, False, list("123456")),
        ("llama-bpe", None, True, ["123", "456"]),
        ("qwen2", None, False, list("123456")),
    ],
)
def test_a_gguf_splits_words_and_puts_a_bos_as_it_says(tmp_path, monkeypatch, pre, add_bos, puts_bos, digits):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    opened = load(write_gguf(tmp_path / "m.gguf", byte_level(), pre, add_bos), check=False)
    split = opened.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("123456")
    assert [piece for piece, _ in split] == digits
    assert opened.batch(["I think"]).form["bos"] == puts_bos
    assert opened.tokenizer.backend_tokenizer.model.ignore_merges == (pre == "llama-bpe")

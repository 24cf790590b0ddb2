"""Adapters: put into the model they were trained on, shown to act, and refused in one line where they cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from crosslens import SubjectError, cli, load
from crosslens.data.errors import UserError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ..helpers import tiny
from ..helpers.families import build

peft = pytest.importorskip("peft")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EVERYWHERE = ["q_proj", "v_proj", "o_proj", "down_proj"]


@pytest.fixture
def base(tmp_path):
    build("llama").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def trained(base, place, scale=0.1, targets=EVERYWHERE, **config):
    """A LoRA with random, not zero, weights, as peft saves it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, **config))
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    adapted.save_pretrained(place)
    return place


def with_peft(base, place, inputs, **opening):
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, **opening), place).eval()
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # where a CPU has it, bitsandbytes' product asks for 64 columns
    with torch.no_grad():
        return model(**inputs).logits


def test_it_computes_as_peft_does(base, tmp_path):
    place = trained(base, tmp_path / "lora")
    opened, plain = load(base, adapter=place), load(base, check=False)  # with every proof
    inputs = opened.batch(["w1 w2 w3 w4"]).inputs
    torch.testing.assert_close(opened.forward(inputs, keep=0), with_peft(base, place, inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(opened.forward(inputs), plain.forward(inputs))
    assert not torch.allclose(opened.W_O(1), plain.W_O(1)), "what is read is the adapted weight"
    assert opened.fingerprint != plain.fingerprint
    assert repr(opened).startswith("Subject(base + lora:")


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_beside_packed_weights(base, tmp_path, quantize):
    pytest.importorskip("bitsandbytes")
    place = trained(base, tmp_path / "lora")
    opened = load(base, adapter=place, quantize=quantize)  # with every proof: z · W_O among them
    plain = load(base, check=False, quantize=quantize)
    delta = load(base, adapter=place, check=False).W_O(1) - load(base, check=False).W_O(1)
    torch.testing.assert_close(opened.W_O(1) - plain.W_O(1), delta, rtol=1e-4, atol=1e-5)
    assert opened.name == f"base {quantize} + lora"
    assert opened.fingerprint != plain.fingerprint
    if quantize == "nf4":
        from transformers import BitsAndBytesConfig

        packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        inputs = opened.batch(["w1 w2 w3 w4"]).inputs
        theirs = with_peft(base, place, inputs, quantization_config=packing)
        torch.testing.assert_close(opened.forward(inputs, keep=0), theirs, rtol=1e-4, atol=1e-5)


def test_one_that_was_never_trained(base, tmp_path):
    place = trained(base, tmp_path / "lora", scale=0.0)
    with pytest.raises(SubjectError, match="adapter lora changes no logit of base"):
        load(base, adapter=place)


def damaged(place, what):
    config, weights = json.loads((place / CONFIG).read_text()), load_file(place / WEIGHTS)
    if what == "another base":
        config["base_model_name_or_path"] = "someone/else-1B"
    if what == "pickled":
        (place / WEIGHTS).rename(place / "adapter_model.bin")
        return
    if what == "no such modules":
        config["target_modules"] = ["no_such_proj"]
    if what == "one weight less":
        weights.pop(next(iter(weights)))
    if what == "one weight more":
        weights["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 16)
    if what == "another shape":
        name = next(iter(weights))
        weights[name] = torch.ones(4, 7)
    if what == "not finite":
        next(iter(weights.values()))[0] = torch.nan
    (place / CONFIG).write_text(json.dumps(config))
    save_file(weights, place / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("another base", "adapter lora was trained on someone/else-1B, not on "),
        ("pickled", "pickles are never read"),
        ("no such modules", "no_such_proj"),
        ("one weight less", "1 missing"),
        ("one weight more", "1 unexpected"),
        ("another shape", "size mismatch|shape"),
        ("not finite", "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(base, tmp_path, what, message):
    damaged(trained(base, tmp_path / "lora"), what)
    with pytest.raises(UserError, match=message) as error:
        load(base, adapter=tmp_path / "lora", check=False)
    assert "\n" not in str(error.value)


def test_no_adapter_and_no_peft(base, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no adapter in"):
        load(base, adapter=base)
    place = trained(base, tmp_path / "lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'crosslens\[adapters\]'"):
        load(base, adapter=place)


def test_more_than_packed_weights_is_refused(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    place = trained(base, tmp_path / "lora", targets=["q_proj", "embed_tokens"])
    with pytest.raises(UserError, match="open the model without quantize"):
        load(base, adapter=place, quantize="int8")


def test_a_run_is_named_by_its_adapter_and_verified(base, tmp_path, capsys):
    place = trained(base, tmp_path / "lora")
    words = ["--task", "passages:tokens=24", "--subject", str(base), "--limit", "4", "--out", str(tmp_path / "out")]
    cli.main(["run", "sinks", *words, "--adapter", str(place)])
    directory = capsys.readouterr().out.strip()
    assert json.loads(Path(directory, "record.json").read_text())["subject"]["name"] == "base + lora"
    cli.main(["verify", directory])
    assert "base + lora: weights" in capsys.readouterr().out

"""Quantised subjects: every instrument reads the numbers that the packed weights stand for, and nobody else's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from crosslens import Subject, SubjectError, attribution_sweep, cli, load
from crosslens.data.errors import UserError
from crosslens.probes.model.fingerprint import fetched
from crosslens.probes.model.head_weights import value_weight
from crosslens.probes.model.quantized import METHODS, is_opened
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ..helpers import tiny
from ..helpers.families import build

pytest.importorskip("bitsandbytes")


@pytest.fixture
def directory(tmp_path):
    return saved(tmp_path / "model", "llama")


def saved(place, family):
    build(family).save_pretrained(place)
    tiny.tokenizer().save_pretrained(place)
    return place


def unpacked(place, opened):
    """The plain model whose weights are those that the packed ones stand for."""
    plain = load(place, check=False).model
    layers = dict(plain.named_modules())
    with torch.no_grad():
        for name, layer in opened.model.named_modules():
            if is_opened(layer):
                turned = type(layers[name]).__name__ == "Conv1D"
                layers[name].weight.copy_(fetched(layer).T if turned else fetched(layer))
    return Subject(plain, opened.tokenizer)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("quantize", METHODS)
def test_it_computes_as_its_weights_unpacked(tmp_path, family, quantize):
    place = saved(tmp_path, family)
    opened = load(place, quantize=quantize)  # with every proof
    same = unpacked(place, opened)
    batch, other = opened.batch(["w1 w2 w3", "w4"]), same.batch(["w1 w2 w3", "w4"])
    torch.testing.assert_close(opened.last_logits(batch), same.last_logits(other), rtol=1e-5, atol=1e-6)
    for layer in range(opened.n_layers):
        torch.testing.assert_close(opened.W_O(layer), same.W_O(layer))
        torch.testing.assert_close(value_weight(opened, layer), value_weight(same, layer))
    plain = load(place, check=False)
    assert not torch.allclose(plain.last_logits(batch), opened.last_logits(batch))
    assert opened.fingerprint != plain.fingerprint
    assert opened.fingerprint == opened.fingerprint == load(place, quantize=quantize, check=False).fingerprint


@pytest.mark.parametrize("quantize", METHODS)
def test_gradients_are_those_of_the_weights_unpacked(directory, quantize):
    opened = load(directory, quantize=quantize, check=False)
    found = []
    for subject in (opened, unpacked(directory, opened)):
        clean, twin = subject.batch(["w1 w2 w3"]), subject.batch(["w1 w5 w3"])
        asked = {"positions": clean.final, "measure": lambda logits, rows: logits[:, 7]}
        found.append(attribution_sweep(subject, clean, twin, "z", **asked).values)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("quantize", METHODS)
def test_half_precision_is_proved_with_the_same_weights(directory, quantize):
    opened = load(directory, quantize=quantize, dtype="bfloat16")
    assert opened.W_O(0).dtype == torch.bfloat16


def test_neighbours_change_nothing(directory):
    """LLM.int8's own product would set the outliers of the whole batch apart."""
    opened = load(directory, quantize="int8", check=False)
    alone = opened.last_logits(opened.batch(["w1 w2 w3"]))
    together = opened.last_logits(opened.batch(["w1 w2 w3", "w9 w8 w7"]))[:1]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


def test_the_same_weights_as_transformers_packs(directory):
    opened = load(directory, quantize="nf4", check=False)
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(directory, quantization_config=packing, dtype=torch.float32)
    inputs = opened.batch(["w1 w2 w3 w4"]).inputs
    torch.testing.assert_close(opened.forward(inputs, keep=0), theirs(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_missing_weights_are_told_of_quantised_models_too(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    gone = next(name for name in weights if name.endswith("o_proj.weight"))
    del weights[gone]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=f"1 missing .{gone}"):
        load(directory, quantize="nf4", check=False)


def test_refusals_are_one_line(directory, monkeypatch):
    with pytest.raises(UserError, match="unknown quantize 'int3': int8 or nf4"):
        load(directory, quantize="int3")
    model = AutoModelForCausalLM.from_pretrained(directory, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    with pytest.raises(SubjectError, match=r"weights are packed .*quantize="):
        Subject(model)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'crosslens\[quantized\]'"):
        load(directory, quantize="int8")


def test_runs_tell_it_from_the_plain_model_and_are_verified(directory, tmp_path, capsys):
    words = ["run", "sinks", "--task", "passages:tokens=24", "--subject", str(directory), "--limit", "4"]
    for more in ([], ["--quantize", "nf4"]):
        cli.main([*words, "--out", str(tmp_path / "out"), *more])
    plain, packed = map(str.strip, capsys.readouterr().out.splitlines())
    record = json.loads(Path(packed, "record.json").read_text())
    assert record["subject"]["name"] == "model nf4"
    assert record["key"] != json.loads(Path(plain, "record.json").read_text())["key"]
    cli.main(["verify", packed])
    assert "model nf4: weights" in capsys.readouterr().out
    cli.main(["report", "--out", str(tmp_path / "out")])
    pages = "".join(page.read_text() for page in (tmp_path / "out").glob("*.html"))
    assert "model nf4" in pages
    assert str(directory) not in pages

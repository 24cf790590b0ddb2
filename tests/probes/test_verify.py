"""`crosslens verify`: a run proves itself again, and every way to damage it is one clear line."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, cli
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.probes.model.tolerance import rows_limit
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs import store, verify
from crosslens.probes.runs.run import Settings, run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..helpers import tiny
from ..helpers.families import build
from ..helpers.makers import analysis

LENSES = {"lenses": (lenses, lenses.Options(sites=("resid",)))}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    (directory,) = run(tiny.subject(), tiny.task(), LENSES, Settings(out=out, size=3))
    return directory


@pytest.fixture
def directory(made, tmp_path):
    return shutil.copytree(made, tmp_path / made.name)


def proved(directory, subject=None, task=None, **asked) -> list[str]:
    lines: list[str] = []
    verify.verify(directory, subject or tiny.subject(), task or tiny.task(), lenses, say=lines.append, **asked)
    return lines


def refused(directory, match, **asked):
    with pytest.raises(UserError, match=match) as error:
        proved(directory, **asked)
    assert "\n" not in str(error.value)


def reseal(directory, **changes):
    """A forger who knows how the seal is made."""
    record = store.read_record(directory)
    assert record is not None
    store.write_record(directory, record | changes)


def test_sound_run_is_proved_step_by_step_and_nothing_is_written(directory):
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    lines = proved(directory)
    assert before == {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert [line.split()[0] for line in lines] == ["record", "subject", "examples", "shards", "rows", "tables"]
    assert "equal bit for bit" in lines[4]
    assert "of 4 (drawn with seed 0)" in lines[4]
    assert proved(directory, sample=99)[4].startswith("rows      shards 0, 1, 2, 3 of 4")


def test_an_edited_model_proves_nothing(directory):
    subject = tiny.subject()
    with tracing(subject, edits={1: lambda call: call}):
        refused(directory, "needs tiny.* as it is", subject=subject)


def change_a_row(directory):
    """One number of one shard, under the right key."""
    path = directory / "rows" / "00002.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    rows = load_file(path)
    rows["logit_difference"][0] += 0.1
    save_file(rows, path, metadata)


def test_changed_row_is_found_by_the_sample(directory):
    change_a_row(directory)
    refused(directory, r"00002\.safetensors: logit_difference differs by", sample=4)


def test_changed_row_outside_the_sample_is_found_by_the_tables(directory):
    change_a_row(directory)
    refused(directory, r"accuracy\.parquet differs from its rows in column value", sample=0)


def test_changed_table(directory):
    path = directory / "tables" / "lens.parquet"
    table = pd.read_parquet(path)
    table.loc[3, "upper"] = np.nextafter(table["upper"].iloc[3], 1e9)
    table.to_parquet(path, index=False)
    refused(directory, r"lens\.parquet differs from its rows in column upper")


def test_missing_table(directory):
    (directory / "tables" / "lens.parquet").unlink()
    refused(directory, r"lens\.parquet cannot be read")


def test_edited_record(directory):
    text = (directory / "record.json").read_text()
    (directory / "record.json").write_text(text.replace('"n": 10', '"n": 11'))
    refused(directory, "was edited")


def test_edited_record_with_a_new_seal(directory):
    record = json.loads((directory / "record.json").read_text())
    reseal(directory, task=record["task"] | {"n": 11})
    refused(directory, "the key does not follow from the record")


def test_other_weights(directory):
    refused(directory, "the weights of tiny-llama are not those of the run", subject=tiny.subject(seed=1))


def test_other_examples(directory):
    task = tiny.task()
    inner = task.module.examples
    task.module.examples = lambda **k: [replace(e, id=e.id + "x") for e in inner(**k)]
    refused(directory, "now gives other examples", task=task)


def test_other_version(directory, monkeypatch):
    monkeypatch.setattr(lenses, "VERSION", lenses.VERSION + 1)
    refused(directory, "was made by lenses version")


def test_missing_and_foreign_shards(directory):
    shard = directory / "rows" / "00001.safetensors"
    shutil.copy(directory / "rows" / "00000.safetensors", shard)
    refused(directory, r"00001\.safetensors belongs to another run or other examples")
    shard.unlink()
    refused(directory, r"00001\.safetensors is broken")


def test_unfinished_and_empty(directory, tmp_path):
    reseal(directory, status="running")
    refused(directory, "is not complete")
    refused(tmp_path / "nothing", "is no run directory")


def test_another_machine_is_held_to_a_tolerance(directory):
    reseal(directory, machine={"system": "elsewhere"})
    assert "within 0.0001 of the largest value (another machine" in proved(directory)[4]
    change_a_row(directory)
    refused(directory, "logit_difference differs by", sample=4)


def test_half_precision_is_bit_for_bit_too(tmp_path):
    subject = Subject(build("llama").bfloat16(), tiny.tokenizer(), name="half")
    (directory,) = run(subject, tiny.task(), LENSES, Settings(out=tmp_path, size=4))
    assert "bit for bit" in proved(directory, subject=subject)[4]
    assert {t.dtype for t in load_file(directory / "rows" / "00000.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_elsewhere_is_held_to_its_roundings(tmp_path, dtype):
    subject = Subject(build("llama").to(dtype), tiny.tokenizer(), name="half")
    (directory,) = run(subject, tiny.task(), LENSES, Settings(out=tmp_path, size=4))
    reseal(directory, machine={"system": "elsewhere"})
    assert "within 0.0" in proved(directory, subject=subject)[4]
    limit = rows_limit(dtype, 3)
    saved = torch.tensor([0.2, -0.3, 1.0])
    assert verify._difference(saved + torch.tensor([0.4, 0, 0]), saved, counts_flip=True) > 4 * limit
    assert verify._difference(saved + torch.tensor([limit / 2, 0, 0]), saved, counts_flip=True) < limit
    hits = torch.ones(200)
    assert verify._difference(torch.cat([hits[1:], torch.zeros(1)]), hits, counts_flip=True) == pytest.approx(1 / 200)


def test_from_the_command_line(tmp_path, capsys):
    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    words = ["--task", "passages:tokens=24", "--subject", str(model), "--out", str(tmp_path), "--limit", "4"]
    cli.main(["run", "sinks", *words, "--sinks.dimensions", "3", "5", "--sinks.tau", "1.5", "--batch-size", "2"])
    directory = capsys.readouterr().out.split()[-1]
    cli.main(["verify", directory, "--sample", "1"])
    assert "equal bit for bit" in capsys.readouterr().out
    (table,) = (tmp_path / "runs").glob("*/tables/heads.parquet")
    shutil.copy(table.parent / "hidden.parquet", table)
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", directory])
    assert stop.value.code == 2
    assert "heads.parquet differs from its rows in shape" in capsys.readouterr().err


# ---------------------------------------------------------------- options that are none any more


@dataclass(frozen=True)
class Before:
    """The options of an older version: what was learned lay among them."""

    scale: float = 1.0
    cost: tuple[float, ...] = ()
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Now:
    """The flags alone."""

    scale: float = 1.0


def states(layer, batch, how):
    return {"first": how.options.scale * layer.resid_pre[:, 0, 0]}


def means(rows, how):
    return pd.DataFrame({"value": [rows["first"].mean()]})


def measuring(options, **more):
    return analysis(Options=options, observe=states, TABLES={"means": (means, ())}, **more)


def test_a_run_of_an_older_version_opens_and_is_not_computed_again(tmp_path):
    old, new = measuring(Before), measuring(Now, RETIRED={"cost": (), "heads": None})
    settings = Settings(limit=6, out=tmp_path)
    (directory,) = run(tiny.subject(), tiny.task(), {"made": (old, Before(2.0))}, settings)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.name != ".lock"}
    lines: list[str] = []
    verify.verify(directory, tiny.subject(), tiny.task(), new, say=lines.append)
    assert "equal bit for bit" in lines[4]
    assert run(tiny.subject(), tiny.task(), {"made": (new, Now(2.0))}, settings) == [directory]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (other,) = run(tiny.subject(), tiny.task(), {"made": (new, Now(3.0))}, settings)
    assert other != directory


def test_a_retired_option_that_was_given_is_one_line(tmp_path):
    old, new = measuring(Before), measuring(Now, RETIRED={"cost": (), "heads": None})
    asked = {"made": (old, Before(heads=(3,)))}
    (directory,) = run(tiny.subject(), tiny.task(), asked, Settings(limit=6, out=tmp_path))
    with pytest.raises(UserError, match=r"its option heads = \[3\] is none of the analysis now: run it again"):
        verify.verify(directory, tiny.subject(), tiny.task(), new, say=lambda line: None)

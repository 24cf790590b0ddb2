"""What YOUR_DATA.md shows is read, and runs; what it says of columns and errors is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from crosslens import cli
from crosslens.cli.parsing import parse
from crosslens.data.errors import UserError
from crosslens.data.own_rows import Columns
from crosslens.data.tasks import open_task, task_names
from PIL import Image, ImageDraw

PAGE = (Path(__file__).parents[1] / "YOUR_DATA.md").read_text("utf-8")
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("crosslens run ")]
READY = [line for line in COMMANDS if "/data/" not in line]  # benchmarks lie elsewhere


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return text


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with the page's files, and the pictures and the set that it names."""
    (tmp_path / "own.jsonl").write_text(block("jsonl"))
    (tmp_path / "own.csv").write_text(block("csv"))
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "counting.py").write_text(block("python"))
    square = Image.new("RGB", (40, 40), "white")
    ImageDraw.Draw(square).rectangle((4, 4, 36, 36), "red")
    square.save(tmp_path / "square.png")
    for kind in ("cats", "dogs"):
        (tmp_path / "animals" / kind).mkdir(parents=True)
        square.save(tmp_path / "animals" / kind / "one.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hub_set(place):
    datasets = pytest.importorskip("datasets")
    (place / "owner" / "set" / "data").mkdir(parents=True)
    columns = {"question": ["What is it?"], "label": ["a square"], "photo": [Image.open(place / "square.png")]}
    made = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
    made.to_parquet(str(place / "owner" / "set" / "data" / "test-00000-of-00001.parquet"))


@pytest.mark.parametrize("line", READY)
def test_every_example_is_read(place, line):
    run = parse(shlex.split(line)[1:])
    if run.task[0].startswith("hub:"):
        hub_set(place)
    examples = open_task(run.task[0]).examples(None, None, 0, template=run.form)
    assert len(examples) >= 1
    assert all(e.answer for e in examples)
    assert {e.images != () for e in examples} == {"owner/name" in line}


@pytest.mark.real
@pytest.mark.parametrize("line", [line for line in READY if "owner/name" not in line])
def test_every_example_of_text_runs(place, line):
    cli.main([*shlex.split(line)[1:], "--out", str(place / "out"), "--lenses.sites", "resid"])
    (directory,) = (place / "out" / "runs").iterdir()
    assert (directory / "tables" / "accuracy.parquet").is_file()


def test_columns_and_tasks_are_those_that_there_are():
    table = PAGE.partition("| column |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert set(named) - {"images"} == set(Columns().names())
    benchmarks = re.findall(r"^\| `(\w+)` \| .*\| .*\|.*\|$", PAGE.partition("| task |")[2], re.MULTILINE)
    assert len(benchmarks) == 7
    assert set(benchmarks) < set(task_names())


def test_errors_are_as_shown(place):
    first, second = (line.removeprefix("crosslens: ") for line in block("text").splitlines())
    text = (place / "own.jsonl").read_text().splitlines()
    (place / "own.jsonl").write_text("\n".join([*text[:2], text[2].replace('"Madrid"', "7")]))
    (place / "own.csv").write_text(block("csv").replace("36, 36", "36, 50"))
    for path, told in (("own.jsonl", first), ("own.csv", second)):
        with pytest.raises(UserError) as error:
            open_task(f"file:{path}").examples(None, None, 0)
        assert str(error.value) == told

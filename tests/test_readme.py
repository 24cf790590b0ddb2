"""What the README shows runs, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from crosslens.cli.parsing import COMMANDS, parse
from crosslens.cli.recipe_runs import known_recipes
from crosslens.reports.figures.circuits import STAGES

from .helpers import synthetic

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


YOUR_DATA = (Path(__file__).parents[1] / "YOUR_DATA.md").read_text("utf-8")
COMING_FROM = (Path(__file__).parents[1] / "COMING_FROM.md").read_text("utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_command_can_be_read():
    shown = [line for text in (README, YOUR_DATA) for block in blocks("", text) for line in block.splitlines()]
    lines = [line.partition("  #")[0] for line in shown]
    commands = [line.removeprefix("crosslens ") for line in lines if line.startswith("crosslens ")]
    assert len(commands) > 8
    for line in commands:
        words = shlex.split(line)
        assert type(parse(words)).__name__ == COMMANDS[words[0]].__name__, line


def test_every_directory_and_link_is_there():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("http") or (root / link).exists(), link
    room = ""
    house = README.partition("## The house")[2].partition("```")[2].partition("```")[0]
    for line in house.splitlines():
        names = re.findall(r"^[a-z]+/|(?<=\s)[a-z]+/", line.split("   ")[0] if line[:1].strip() else line)
        room, names = (names[0], names[1:]) if line[:1].strip() else (room, names)
        for name in ("", *names):
            assert (root / room / name).is_dir(), (room, name)
    for name in re.findall(r"recipe (\w+)|PAPER=(\w+)", README):
        assert {*name} & {*known_recipes()}, name


def invented_circuits(out: Path) -> None:
    """A finished run of circuits under `out`/runs, for the block that opens one."""
    sure = {"lower": -1.0, "upper": 2.0, "n": 8, "n_groups": 8, "condition": "BOS", "control": ""}
    heads = [{"layer": 0, "head": h, "value": float(h), **sure} for h in range(2)]
    named = [{**head, "part": "head", "measure": stage, "unit": "share"} for head in heads for stage in STAGES]
    synthetic.write_run(out / "runs", "circuits", "ioi", {"effects": synthetic.table(named, "circuits", "ioi")})


def test_a_run_is_opened_as_the_readme_says(tmp_path, monkeypatch):
    invented_circuits(tmp_path / "reports" / "out")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    (block,) = (block for block in blocks("python") if "open_run" in block)
    exec(block, space)
    assert len(space["table"]) == 2 * len(STAGES)
    assert space["figure"].data


@pytest.mark.real
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("crosslens.probes.runs.activations.home", lambda: tmp_path)
    invented_circuits(tmp_path / "reports" / "out")
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in blocks("python"):
        exec(block, space)
    assert "Rome" in capsys.readouterr().out
    assert space["sweep"].values.shape == (30, 16)


@pytest.mark.real
def test_the_python_of_coming_from_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in blocks("python", COMING_FROM):
        exec(block, space)
    batch, subject, pattern = space["batch"], space["subject"], space["pattern"]
    assert pattern.shape[:2] == (len(batch.examples), subject.n_heads)
    assert space["sweep"].values.shape == (subject.n_layers, subject.n_heads, len(batch.examples))
    assert not space["without"].isnan().any()
    assert space["alone"].values.shape == (1, len(batch.examples))
    assert len(space["at_image"]) == int(space["image"].sum()) > 0

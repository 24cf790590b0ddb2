"""Every test vector of published formulas, and that the comparison itself can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ... import vectors
from ...helpers import vector_kinds

FILES = sorted((Path(__file__).parents[2] / "data" / "vectors").glob("*.json"))
KINDS = vector_kinds.find_kinds()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_vector(file):
    assert vectors.check(file, KINDS) == "passed"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_single_precision_gives_the_same(file):
    vector = json.loads(file.read_text())
    inputs = {name: vectors.as_tensor(value) for name, value in vector["inputs"].items()}
    single = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    assert not list(vectors.differ(vector["expected"], KINDS[file.stem](**single), 1e-3))


def test_every_kind_has_its_vector():
    assert sorted(KINDS) == [file.stem for file in FILES]


def numbers(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where the numbers and truth values of expected values are."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(part, (*path, key))
    elif value is not None and not isinstance(value, str):
        yield path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_spoiled_vector_fails_wherever_it_is_spoiled(file):
    """Each name of the expected values is compared: its last number is moved by ten tolerances, and noticed."""
    vector = json.loads(file.read_text())
    inputs = {name: vectors.as_tensor(value) for name, value in vector["inputs"].items()}
    computed = KINDS[file.stem](**inputs)
    for name in vector["expected"]:
        spoiled = json.loads(file.read_text())["expected"]
        (*path, last) = [place for place in numbers(spoiled) if place[0] == name][-1]
        holder = spoiled
        for key in path:
            holder = holder[key]
        value = holder[last]
        moved = 10 * vector["tolerance"] + 1e-7 * (1 + abs(value))
        holder[last] = (not value) if isinstance(value, bool) else value + moved
        assert list(vectors.differ(spoiled, computed, vector["tolerance"])), name


def test_script_names_passed_failed_and_open_from_any_directory(tmp_path):
    folder = tmp_path / "vectors"
    folder.mkdir()
    good = json.loads(FILES[0].read_text())
    (folder / FILES[0].name).write_text(json.dumps(good))
    wrong = json.loads((FILES[0].parent / "rope_bases.json").read_text())
    wrong["expected"]["weights"][0] += 0.1
    (folder / "rope_bases.json").write_text(json.dumps(wrong))
    (folder / "not_yet_there.json").write_text(json.dumps(good))
    (folder / "sasc_score.json").write_text("{}")
    (folder / "tag_map.json").write_text(json.dumps(good | {"expected": {}}))
    done = run(folder, tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == f"{FILES[0].stem}: passed"
    assert lines[1] == "not_yet_there: open (no public function yet)"
    assert lines[2].startswith("rope_bases: failed (expected.weights[0] is 0.0064")
    assert lines[3].startswith("sasc_score: failed (KeyError")
    assert lines[4] == "tag_map: failed (nothing is expected)"
    assert lines[5].startswith("1 open")
    assert lines[6:] == ["1 passed, 3 failed"]


def test_script_succeeds_where_all_pass_and_refuses_an_empty_folder(tmp_path):
    (tmp_path / FILES[0].name).write_text(FILES[0].read_text())
    done = run(tmp_path, tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 passed, 0 failed")
    empty = run(tmp_path / "nothing", tmp_path)
    assert empty.returncode == 2
    assert "no vectors" in empty.stderr


def run(folder: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = Path(vectors.__file__)
    return subprocess.run([sys.executable, script, folder], capture_output=True, text=True, cwd=cwd, env=os.environ)

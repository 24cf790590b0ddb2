"""Where no example is left to measure, the command line and the page say so in one line."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest
from crosslens import cli
from crosslens.cli import model as commands
from crosslens.probes.runs import store
from crosslens.reports.pages.build import build

from ..helpers import contrasts, tiny
from ..helpers.families import build as family


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    family("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def one_group(n=None, seed=0, *, tokenizer):
    """Two groups among held-out examples, one of them the only measured one."""
    made = contrasts.examples(n, seed, tokenizer=tokenizer)
    return [replace(example, group="g0" if seed == 0 else f"g{i % 2}") for i, example in enumerate(made)]


@pytest.mark.parametrize(
    ("analysis", "make", "said", "tables"),
    [
        ("information_flow", contrasts.examples, "0 of 6 prompts are answered correctly", ["accuracy"]),
        (
            *("faithfulness", one_group, "faithfulness: no example is left in the groups that nothing was chosen on"),
            ["agreement", "effects", "positions", "task"],
        ),
    ],
)
def test_nothing_to_measure_is_one_line(model, tmp_path, capsys, monkeypatch, analysis, make, said, tables):
    monkeypatch.setattr(commands, "open_task", lambda spec: contrasts.task(make))
    monkeypatch.setattr(
        "crosslens.analyses.common.stats.split_half", lambda groups, *_: (groups == "g0", groups != "g0")
    )
    words = ["run", analysis, "--task", "twins", "--subject", str(model), "--limit", "6", "--out", str(tmp_path)]
    for _ in range(2):  # the second time it is read from the record
        capsys.readouterr()
        cli.main(words)
        told = capsys.readouterr()
        assert [line for line in told.err.splitlines() if line.startswith("nothing to measure: ")] == [
            line for line in told.err.splitlines() if said in line
        ]
        assert told.err.count("nothing to measure") == 1
    (directory,) = (tmp_path / "runs").iterdir()
    record = store.read_record(directory)
    assert record is not None
    assert record["status"] == "complete"
    assert [path.stem for path in sorted((directory / "tables").glob("*"))] == record["tables"] == tables
    assert all((pd.read_parquet(path)["n"] > 0).all() for path in (directory / "tables").glob("*"))
    build(tmp_path)
    page = (tmp_path / f"{directory.name}.html").read_text()
    assert re.search(rf"<h2>Nothing to measure</h2>\s*<p>{re.escape(said)}", page)

"""The README's picture is made of a finding."""

from __future__ import annotations

import pytest
from crosslens.data.errors import ReportError
from crosslens.reports.pages import cover
from crosslens.reports.pages.runs import read_runs

from ..helpers import synthetic


def runs(out, *, found: bool):
    tables = synthetic.sinks_tables()
    if found:
        tables["findings"] = synthetic.findings({"text": "The first token draws attention."})
    synthetic.write_run(out / "runs", "sinks", "passages", tables)
    return read_runs(out / "runs")[0]


def test_the_finding_is_the_title_of_its_figure(tmp_path):
    read = runs(tmp_path, found=True)
    figure = cover.cover(read, "sinks")
    said = next(one for one in read[0].findings if one["state"] == "found")
    assert str(said["text"]).split()[0] in figure.layout.title.text
    assert (figure.layout.width, figure.layout.height) == (cover.WIDTH, cover.HEIGHT)
    assert not figure.layout.updatemenus


def test_without_a_finding_there_is_none(tmp_path):
    with pytest.raises(ReportError, match="make figures first"):
        cover.cover(runs(tmp_path, found=False), "sinks")

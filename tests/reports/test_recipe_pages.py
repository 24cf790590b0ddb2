"""The page of a recipe: safe, and honest about what is not there."""

from __future__ import annotations

import json

from crosslens.reports.pages.build import build
from crosslens.reports.pages.page import portable

from ..helpers import synthetic


def report(tmp_path, **recipe):
    """A report of one run with a recipe beside it."""
    kept = {"accuracy": synthetic.lenses_tables()["accuracy"]}
    run = synthetic.write_run(tmp_path / "runs", "lenses", "facts", kept)
    texts = {name: name for name in ("title", "paper", "states", "differs", "command")}
    figures = [{"run": run.name, "figure": "accuracy", "shows": "As in the paper"}]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "one.json").write_text(json.dumps({**texts, "figures": figures, **recipe}))
    build(tmp_path)
    return (tmp_path / "recipe-one.html").read_text(), (tmp_path / "index.html").read_text(), run.name


def test_hostile_texts_stay_texts(tmp_path):
    evil = "</script><script>alert(1)</script>"
    text, index, run = report(tmp_path, title=evil, states=evil, command="crosslens --out /home/me/out")
    assert evil not in text
    assert evil not in index
    assert "/home/me" not in text
    assert f'href="{run}.html#fig-accuracy-box"' in text


def test_a_run_that_is_gone_is_told(tmp_path):
    text, _, _ = report(tmp_path, figures=[{"run": "gone", "figure": "kl", "shows": "Something"}])
    assert "its run is not finished" in text


def test_a_file_that_is_no_recipe_leaves_a_note(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "odd.json").write_text("[")
    synthetic.write_run(tmp_path / "runs", "lenses", "facts", {"accuracy": synthetic.lenses_tables()["accuracy"]})
    build(tmp_path)
    assert "recipes/odd.json cannot be read" in (tmp_path / "index.html").read_text()
    assert not (tmp_path / "recipe-odd.html").exists()


def test_directories_of_a_machine_leave_a_text_and_addresses_stay():
    assert portable("crosslens run sinks --subject /tmp/x/my-model --out ~/a/out") == (
        "crosslens run sinks --subject my-model --out out"
    )
    assert portable("--task coco:path=/data/coco,year=val2014") == "--task coco:path=coco,year=val2014"
    for same in ("https://a.org/b/c", "reports/out", "φ² / d", "owner/name", "n/a", "./here/there"):
        assert portable(same) == same

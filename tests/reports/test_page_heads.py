"""Pages and cards say how the prompts were put, and claims which condition they are about."""

from __future__ import annotations

import json
import re

import pytest
from crosslens.reports.pages.build import build
from crosslens.reports.pages.page import prompt_form

from ..helpers import synthetic


@pytest.mark.parametrize(
    ("template", "conditions", "said"),
    [
        ("raw", ["BOS"], "plain text, BOS"),
        ("chat", ["BOS", "no BOS"], "chat template, BOS and no BOS"),
        (None, ["no BOS"], "no BOS"),
        (None, None, "form unknown"),
    ],
)
def test_the_form_of_prompts_in_words(template, conditions, said):
    assert prompt_form({"task": {"template": template}, "conditions": conditions}) == said


def test_heads_of_pages_and_cards_and_claims_of_two_conditions(tmp_path):
    tables = synthetic.sinks_tables()
    claims = tables["claims"]
    both = {"claims": claims.loc[[0, 1, 0, 1]].assign(condition=["BOS", "BOS", "no BOS", "no BOS"])}
    both["claims"].loc[:, "verdict"] = ["holds", "holds", "fails", "holds"]
    path = synthetic.write_run(tmp_path / "runs", "sinks", "passages", {"dimensions": tables["dimensions"], **both})
    record = json.loads((path / "record.json").read_text())
    assert record["conditions"] == ["BOS", "no BOS"]
    build(tmp_path)
    page, gallery, every = ((tmp_path / f"{n}.html").read_text() for n in (path.name, "index", "claims"))
    assert "<b>plain text, BOS and no BOS</b>" in gallery
    assert "plain text" in page
    assert re.search(r"<b>[^<]+, BOS:</b>", page)
    assert len(re.findall(r"<b>[^<]+, no BOS:</b>", page)) == 2, "one holds, one fails"
    assert page.count("; no BOS</span>") == page.count("; BOS</span>") == 2
    assert every.count(", no BOS</a>") == every.count(", BOS</a>") == 2

"""Where layers have no attention, the analyses of its shape and of redundancy run to the end and leave these out."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from crosslens import Subject
from crosslens.analyses.attention import attention_profile, layer_similarity
from crosslens.analyses.redundancy import redundancy
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.families import build


@pytest.mark.parametrize(
    ("module", "table"),
    [(attention_profile, "layers"), (layer_similarity, "neighbours"), (redundancy, "importance")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_hybrid_has_its_attention_layers_alone(module, table, tmp_path):
    subject = Subject(build("lfm2"), tiny.tokenizer())
    name = module.__name__.rpartition(".")[2]
    settings = Settings(limit=6, out=tmp_path)
    (directory,) = run(subject, tiny.task(), {name: (module, module.Options())}, settings)
    rows = pd.read_parquet(Path(directory) / "tables" / f"{table}.parquet")
    if "part" in rows:
        rows = rows[rows["part"] == "attention"]
    known = rows.dropna(subset="value")
    assert {*known["layer"]} <= {*subject.decoder.attending}
    assert json.loads((Path(directory) / "record.json").read_text())["finished"]

"""A vision tower in front of a hybrid decoder: the analyses of images run, with NaN in layers without heads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from crosslens import Subject
from crosslens.analyses.attention import sinks
from crosslens.analyses.flow import head_divergence, information_flow
from crosslens.analyses.lenses import image_lens
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run

from ..helpers import families, vision, vision_subjects

ANALYSES = {
    "sinks": (sinks, sinks.Options(roles=("special", "question", "image"), dimensions=(1, 5), tau=1.0, draws=2)),
    "head_divergence": (head_divergence, head_divergence.Options(question="w3 w4.")),
    "information_flow": (information_flow, information_flow.Options(window=1, draws=1, stride=1)),
    "image_lens": (image_lens, image_lens.Options()),
}


def subject(monkeypatch):
    """Llava on LFM 2: a convolution, attention, a convolution."""
    text = families.HYBRID["lfm2"] | {"model_type": "lfm2", "vocab_size": vision.LANGUAGE["vocab_size"]}
    monkeypatch.setitem(vision.VISION, "llava", vision.VISION["llava"] | {"text_config": text})
    model, processor = vision_subjects.build("llava")
    vision_subjects._always_answer(model, processor.tokenizer.convert_tokens_to_ids("yes"))
    return Subject(model, processor, name="llava-lfm2")


def questions(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    made = []
    for i in range(n or 6):
        picture = Segment("image", vision_subjects.picture(50 * seed + i, (24, 24)))
        unrelated = (vision_subjects.picture(900 + i, (24, 24)),)
        segments = (picture, Segment("question", f" w{i % 5} w9"))
        made.append(Example(f"q{seed}-{i}", f"g{seed}-{i}", segments, " yes", (" no",), unrelated=unrelated))
    return made


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = subject(monkeypatch)
    module: Any = SimpleNamespace(
        __doc__="Tiny", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=questions
    )
    settings = Settings(out=tmp_path_factory.mktemp("vision"), limit=6)
    directories = run(opened, Task("tiny", module, {}), ANALYSES, settings)
    return {
        name: {path.stem: pd.read_parquet(path) for path in (directory / "tables").glob("*.parquet")}
        for name, directory in zip(ANALYSES, directories, strict=True)
    }


def counted(table, axis="layer"):
    """How many values each layer has, of how many rows."""
    return table.groupby(axis)["value"].agg(["count", "size"]).to_numpy().tolist()


def test_heads_read_the_image_where_there_are_heads(found):
    heads = found["head_divergence"]["heads"]
    for way in ("dropped", "masked", "swapped"):
        mine = heads[(heads["way"] == way) & (heads["measure"] == "l2")]
        assert counted(mine) == [[0, 4], [4, 4], [0, 4]]
    stability = found["head_divergence"]["stability"].set_index(["way", "measure"])["value"]
    assert 0 < stability["dropped", "share of the leading tenth"] <= 1, "of the four heads that there are"


def test_flows_from_the_image_are_cut_in_layers_with_heads(found):
    flows = found["information_flow"]["flows"]
    assert set(flows["layer"]) == {1}
    assert {"image → last", "question → last"} <= set(flows["flow"])
    assert flows[flows["measure"] == "change"]["value"].notna().all()


def test_visual_sinks_of_states_and_of_heads(found):
    tables = found["sinks"]
    assert counted(tables["visual_heads"][tables["visual_heads"]["measure"] == "visual mass"]) == [
        [0, 4],
        [4, 4],
        [0, 4],
    ]
    visual = tables["visual"]
    by_state = visual[visual["measure"] == "φ"].groupby("state")["value"]
    assert (by_state.count() == by_state.size()).all(), "φ is the residual's: every state has it"
    spoken = visual[(visual["measure"] == "contribution") & (visual["token"] == "first token")].set_index("state")
    assert spoken["value"].isna().tolist() == [True, False, True]


def test_image_tokens_are_read_in_every_state(found):
    lens = found["image_lens"]
    assert any("state" in table and set(table["state"].dropna()) == {0, 1, 2, 3} for table in lens.values())

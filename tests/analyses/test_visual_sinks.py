"""Visual sinks: the planted image token is found where it is, and nothing where nothing was planted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.attention import _visual_sinks, sinks
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import sinks as figures
from torch import nn

from ..helpers import vision_subjects
from .claims import sinks as planted_sinks

DIMENSION, PATCH = 7, 9  # of 6 × 6 patches: row 1, column 3


class Massive(nn.Module):
    """A projector that makes one image token massive in one dimension."""

    def __init__(self, inner, size):
        super().__init__()
        self.inner, self.size = inner, size
        self.linear_2 = inner.linear_2

    def forward(self, features):
        out = self.inner(features).clone()
        out[:, PATCH, DIMENSION] += self.size
        return out


def subject(planted: bool):
    model, processor = vision_subjects.build("llava")
    if planted:
        model.model.multi_modal_projector = Massive(model.model.multi_modal_projector, 50_000.0)
        model.get_input_embeddings().weight.data[1, DIMENSION] = 50_000.0  # the BOS, as in real models
    return Subject(model, processor, name="planted" if planted else "plain")


def questions(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Pictures with an object on the patch that is massive, in two of three; right and wrong words at random."""
    made = []
    for i in range(n or 6):
        segments = (
            Segment("image", vision_subjects.picture(50 * seed + i, (24, 24))),
            Segment("question", f" w{i % 5}"),
        )
        box = (12, 4, 16, 8) if i % 3 else (0, 0, 4, 4)
        boxes = {"asked_object": [box]}
        made.append(Example(f"q{seed}-{i}", f"g{seed}-{i // 2}", segments, " w7", (" w8",), boxes=boxes))
    return made


def analyse(planted, out, **options):
    module: Any = SimpleNamespace(
        __doc__="Tiny", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=questions
    )
    asked = sinks.Options(roles=("special", "question", "image"), draws=3, **options)
    settings = Settings(out=out, limit=6)
    (directory,) = run(subject(planted), Task("tiny", module, {}), {"sinks": (sinks, asked)}, settings)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(True, tmp_path_factory.mktemp("planted"), tau=5.0)


def test_the_planted_token_is_found_where_it_is(found):
    assert set(found["dimensions"]["dimension"]) == {DIMENSION}
    visual = found["visual"]
    assert visual.query("measure == 'sinks'")["value"].to_numpy() == pytest.approx(1 / 36)
    on = visual.query("measure == 'on objects' and control == ''")["value"].to_numpy()
    assert on == pytest.approx(4 / 6)
    patches = found["patches"].set_index(["row", "column"])["value"]
    assert patches.idxmax() == (PATCH // 6, PATCH % 6)
    claims = found["claims"].set_index("name")
    assert claims.loc["visual sinks", "value"] == pytest.approx(1 / 36)


def test_masking_is_measured_against_random_tokens(found):
    masking = found["masking"].query("measure == 'accuracy'")
    assert set(masking["control"]) == {"", "random image tokens", "nothing masked"}
    assert masking.query("tau == 5.0")["count"].to_numpy() == pytest.approx(1.0)
    opened = subject(True)
    batch = opened.batch(questions(6, tokenizer=None))
    cut = torch.zeros_like(batch.roles, dtype=torch.bool)
    cut[torch.arange(6), batch.where("image").int().argmax(1) + PATCH] = True

    def edit(call):
        return call.edited(mask=call.allowed() & ~(cut[:, None, None] & ~batch.where("image")[:, None, :, None]))

    with tracing(opened, edits=dict.fromkeys(range(3), edit)):
        logits = opened.last_logits(batch)
    right = logits.gather(1, batch.answers[:, None]) > logits.gather(1, batch.wrong[:, None])
    value = masking.query("tau == 5.0 and control == ''")["value"].item()
    assert value == pytest.approx(float(right.float().mean()))


def test_nothing_is_found_where_nothing_is(tmp_path):
    tables = analyse(False, tmp_path)
    assert (tables["visual"].query("measure == 'sinks'")["value"] == 0).all()
    assert "masking" not in tables
    told = tables["claims"][tables["claims"]["text"].str.startswith("Some image tokens")]
    assert told["verdict"].item() == "not testable"


def test_contributions_and_ratios_equal_the_maps(found):
    opened = subject(True)
    batch = opened.batch(questions(6, tokenizer=None), padding="left")
    cache = capture(opened, batch, ["pattern", "v", "resid_pre"])
    image, last = batch.where("image"), batch.last
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][torch.arange(6), :, last]  # [b, h, k]
        values = cache[f"blocks.{layer}.attn.hook_v"].repeat_interleave(2, 2)
        spoken = torch.einsum("bhk,bkhd,hdm->bkm", pattern, values, opened.W_O(layer)).norm(dim=-1)
        sink = spoken[torch.arange(6), image.int().argmax(1) + PATCH].mean()
        rows = found["visual"].query(f"measure == 'contribution' and token == 'visual sinks' and state == {layer}")
        assert rows["value"].item() == pytest.approx(float(sink.detach()), rel=1e-4)
        sinks_there = image & (metrics.sink_values(cache[f"blocks.{layer}.hook_resid_pre"], [DIMENSION]) >= 5.0)
        ratio = metrics.nonsink_ratio(pattern[:, :, None], image, sinks_there)[:, :, 0].mean(0)
        heads = found["visual_heads"].query(f"measure == 'non-sink ratio' and layer == {layer}")
        np.testing.assert_allclose(heads["value"], ratio, rtol=1e-4)


def test_thresholds_are_quantiles_and_the_learned_one():
    found = _visual_sinks.thresholds(torch.arange(101.0), 42.0)
    assert found == [42.0, 50.0, 75.0, 90.0, 97.0]
    assert _visual_sinks.thresholds(torch.tensor([float("nan")]), None) == []


def test_sinks_are_framed_on_their_pictures(found):
    """The planted token lies in one patch: that one is framed, on one picture of every group."""
    shown, count = found["on_pictures"], 3  # six examples in groups of two
    assert len(shown) == count * 36
    framed = shown[shown["sink"]]
    assert framed.groupby("example").size().tolist() == [1] * count
    assert framed[["row", "column"]].drop_duplicates().shape[0] == 1
    figure = figures.figures(found)["on-pictures"]
    assert len(figure.layout.images) == count
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in marks] == [1] * count


def test_every_visual_figure_is_drawn(found):
    drawn = figures.figures(found)
    assert {item.name for item in figures.VISUAL} <= set(drawn)


def test_the_masking_claim_is_about_the_learned_threshold():
    """A larger τ, at which masking does no harm, decides nothing."""
    tables = planted_sinks.planted("masking visual sinks", holds=False)
    difference = tables["masking"].query("measure == 'difference'")
    assert difference["value"].iloc[-1] > 0
    learned = difference[difference["learned"]]
    assert learned["tau"].item() == planted_sinks.LEARNED["tau"]
    claim = next(c for c in sinks.claims(tables) if c.name == "masking visual sinks")
    assert (claim.verdict, claim.value) == ("fails", learned["value"].item())

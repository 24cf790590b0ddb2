"""Crop and ask on planted models: one that reads only what is large, and looks where it is asked to; its twin looks
elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import another_question
from crosslens.analyses.localisation import crop_and_ask
from crosslens.analyses.localisation._crop_asking import ALONE, BESIDE, MEASURES, answers, refused, twice, with_crop
from crosslens.analyses.localisation._crop_boxes import ATTENDED, CROPS, RANDOM, at_random, covered, shown
from crosslens.analyses.localisation._crop_rows import input_size
from crosslens.analyses.localisation._crop_tables import SIZES
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.prompts.batch import Batch
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import crop_and_ask as figures
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims.crop_and_ask import rows as planted_rows
from .test_localisation import LAYER, Seen, task
from .test_localisation import subject as follows_shades

SIDE, PATCH, INPUT = 96, 4, 24  # px of a picture; of a patch and of what the model sees, in which the picture is shrunk
OPTIONS = crop_and_ask.Options(layers=1, draws=3, regions=1)


class Reads(Subject):
    """Answers by what it sees: w7 where a patch of any picture is wholly white, else w8."""

    def logits_at(self, inputs: Any, places: Tensor, *, gradient: bool = False) -> Tensor:
        assert isinstance(inputs, Batch)
        shades = avg_pool2d(inputs.inputs["pixel_values"], PATCH).mean(1).flatten(1)
        counts = [len(example.images) for example in inputs.examples]
        logits = torch.zeros(len(counts), len(self.tokenizer))
        yes, no = (self.tokenizer.convert_tokens_to_ids(word) for word in ("w7", "w8"))
        for row, own in enumerate(shades.split(counts)):
            logits[row, yes if bool((own > 0.8).any()) else no] = 5.0
        return logits


def subject(fixed: int | None = None, positions: int = 160) -> Subject:
    """The planted head follows the shade that is asked for, from a third of a patch on; or looks at a fixed patch."""
    made = follows_shades(fixed)
    made.model.config.get_text_config().max_position_embeddings = positions
    projector = made.model.model.multi_modal_projector
    assert isinstance(projector, Seen)
    projector.threshold = 0.3
    return Reads(made.model, made.processor, name="planted")


def pictures(n: int | None = None, seed: int = 0, *, tokenizer: Any = None, side: int = SIDE) -> list[Example]:
    """Even grey and a white square, which is asked for: in one patch as the model sees it; every fourth covers four."""
    rng, made, cell = np.random.default_rng(seed), [], side // 6
    for i in range(n or 12):
        pixels, size = np.full((side, side, 3), 128, np.uint8), 2 * cell if i % 4 == 3 else 3 * cell // 4
        top, left = (int(at) * cell + (cell // 8 if size < cell else 0) for at in rng.integers(0, 5, 2))
        pixels[top : top + size, left : left + size] = 255
        segments = (Segment("image", Image.fromarray(pixels)), Segment("question", " w4"))
        asked = {"asked_object": [(left, top, left + size, top + size)]}
        made.append(Example(f"p{seed}-{i:02d}", f"g{seed}-{i}", segments, " w7", (" w8",), boxes=asked))
    return made


def analyse(opened: Subject, out: Any, make: Any = pictures, **settings: Any) -> dict[str, pd.DataFrame]:
    asked = {"limit": 12, "out": out} | settings
    (directory,) = run(opened, task(make), {"crop_and_ask": (crop_and_ask, OPTIONS)}, Settings(**asked))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(subject(), tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return analyse(subject(fixed=14), tmp_path_factory.mktemp("elsewhere"))


def value(table: pd.DataFrame, **where: Any) -> float:
    return table.query(" and ".join(f"{name} == {value!r}" for name, value in where.items()))["value"].item()


def test_where_the_model_looks_a_crop_helps_it(found):
    for way in (BESIDE, ALONE):
        assert value(found["answers"], crop=ATTENDED, shown=way, measure="right") == 1.0
    for crop, way in (("the whole picture", ""), ("the whole picture twice", BESIDE)):
        assert value(found["answers"], crop=crop, shown=way, measure="right") == 0.25  # the large ones
    small, large = (found["sizes"].query(f"crop == {ATTENDED!r} and size == {name!r}") for name in SIZES[1:])
    gain = "measure == 'gain over the whole picture'"
    assert (set(small.query(gain)["value"]), set(large.query(gain)["value"])) == ({1.0}, {0.0})
    assert value(found["crops"], crop=ATTENDED, measure="of the object in the crop") > 0.75
    verdicts = found["claims"].set_index("name")["verdict"]
    assert set(verdicts[["the crop holds it", "cropping helps"]]) == {"holds"}


def test_a_look_at_a_fixed_place_helps_nobody(elsewhere):
    assert "holds" not in set(elsewhere["claims"]["verdict"])
    assert "found" not in set(elsewhere["findings"]["state"])
    answered = elsewhere["answers"]
    assert value(answered, crop=ATTENDED, shown=BESIDE, measure="right") <= 0.5
    ceiling = value(answered, crop="crop around the asked object", shown=ALONE, measure="right")
    assert ceiling == 1.0  # the same model, shown the place


def test_what_is_asked_costs_the_tokens_of_two_pictures(found):
    once = value(found["answers"], crop="the whole picture", shown="", measure="tokens")
    assert value(found["answers"], crop=ATTENDED, shown=ALONE, measure="tokens") == once
    assert value(found["answers"], crop=ATTENDED, shown=BESIDE, measure="tokens") == once + 36


def test_crops_equal_those_of_captured_patterns(found):
    """The crop of each picture from whole patterns, one example after the other."""
    opened, holds = subject(), []
    for example in pictures(12):
        maps = {}
        for name, one in (("own", example), ("general", another_question(example, OPTIONS.general))):
            batch = opened.batch([one])
            pattern = capture(opened, batch, ["pattern"])[f"blocks.{LAYER}.attn.hook_pattern"]
            maps[name] = pattern[0, :, -1, batch.where("image")[0]].mean(0).reshape(6, 6)
        crop = metrics.adaptive_crop(maps["own"] / maps["general"], (SIDE, SIDE), INPUT)
        holds.append(covered(example.boxes["asked_object"][0], crop))
    mine = value(found["crops"], crop=ATTENDED, measure="of the object in the crop")
    assert mine == pytest.approx(np.mean(holds))


def test_any_batching_gives_the_same_tables(found, tmp_path):
    other = analyse(subject(), tmp_path, size=5, padding="right")
    for name in ("answers", "crops", "tested"):
        np.testing.assert_allclose(found[name]["value"], other[name]["value"], rtol=1e-3, atol=1e-4)


def test_every_figure_is_drawn(found):
    drawn = figures.figures(found)
    assert set(drawn) == {item.name for item in figures.FIGURES}
    assert len(drawn["on-pictures"].layout.images) == 4


def test_where_two_pictures_are_refused_the_crop_alone_is_asked_about(tmp_path):
    opened = subject(positions=64)  # two pictures are 72 tokens
    told = refused(opened, pictures(1)[0], {"template": "raw", "bos": True})
    assert "reads at most 64" in told
    tables = analyse(opened, tmp_path)
    assert set(tables["answers"]["shown"]) == {"", ALONE}
    tested = tables["tested"].query("claim == 'cropping helps'")
    assert set(tested["than"]) == {"", RANDOM}
    assert tested["value"].min() > 0.4
    helps = tables["findings"].iloc[0]
    assert helps["figure"] in figures.figures(tables)
    said = crop_and_ask.methods(OPTIONS, crop_and_ask.Learned(refused=told), {"examples": 0, "groups": 0})
    assert "with the crop alone, since two pictures are refused" in said


def test_pictures_no_larger_than_the_input_are_left_out(tmp_path):
    def small(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
        return pictures(n, seed, side=INPUT)

    assert "answers" not in analyse(subject(), tmp_path, small, limit=6)
    rows = planted_rows()
    rows.values["cropped"][:] = 0
    with pytest.raises(NothingToMeasure, match="larger than what the model sees at once"):
        tables_from(crop_and_ask, rows)


def test_a_task_without_pictures_is_told(tmp_path):
    with pytest.raises(UserError, match="needs a task with pictures"):
        run(tiny.subject(), tiny.task(), {"crop_and_ask": (crop_and_ask, OPTIONS)}, Settings(limit=6, out=tmp_path))


def test_the_input_size_is_the_models_or_the_users():
    opened = subject()
    assert input_size(opened, 0) == INPUT
    assert input_size(opened, 31) == 31
    model, processor = vision_subjects.build("qwen2_vl")
    with pytest.raises(UserError, match=r"crop_and_ask\.window 448"):
        input_size(Subject(model, processor, name="any size"), 0)


def test_a_prompt_with_its_crop_has_both_pictures_in_front_of_the_question():
    example = pictures(1)[0]
    crop = (8, 16, 56, 64)
    beside, alone = (with_crop(example, crop, way) for way in (BESIDE, ALONE))
    assert [s.role for s in beside.segments] == ["image", "image", "question"]
    assert beside.images[1].tobytes() == alone.images[0].tobytes() == example.images[0].crop(crop).tobytes()
    assert (beside.text, beside.boxes) == (example.text, {})
    assert twice(example).images[1].tobytes() == example.images[0].tobytes()


def test_answers_are_read_as_they_would_be_one_by_one():
    """Right, log probability and margin of the real last logits, whatever the batch; nothing for what is missing."""
    made = follows_shades()
    examples = [*pictures(3, side=INPUT), None]
    form = {"template": "raw", "bos": True, "padding": "left"}
    found = answers(made, examples, form)
    assert found[-1].isnan().all()
    for row, example in enumerate(examples[:-1]):
        assert example is not None
        batch = made.batch([example], **form)
        logits = made.last_logits(batch)[0].float()
        own, other = logits[batch.answers[0]], logits[batch.wrong[0]]
        slow = [float(own > other), float(logits.log_softmax(-1)[batch.answers[0]]), float(own - other)]
        np.testing.assert_allclose(found[row], [*slow, float(batch.mask.sum())], rtol=1e-4, atol=1e-5)
    assert MEASURES[0] == "right"


def test_an_answer_that_is_spoken_is_read_where_it_is_predicted(tmp_path):
    opened = vision_subjects.save("llava", tmp_path)
    (example,) = pictures(1)
    spoken = replace(example, segments=(*example.segments, Segment("answer", f"{example.answer} w3")))
    alone, behind = (answers(opened, [one], {})[0, :-1] for one in (example, spoken))
    torch.testing.assert_close(alone, behind, atol=1e-4, rtol=1e-4)


def test_random_crops_belong_to_their_keys_and_lie_in_the_picture():
    assert at_random((20, 30), (100, 60), "a 0") == at_random((20, 30), (100, 60), "a 0")
    several = {at_random((20, 30), (100, 60), f"a {i}") for i in range(50)}
    assert len(several) > 40
    assert all(x >= 0 and r <= 100 and y >= 0 and b <= 60 and (r - x, b - y) == (20, 30) for x, y, r, b in several)
    assert at_random((100, 60), (100, 60), "a") == (0, 0, 100, 60)
    assert covered((10, 10, 20, 20), (15, 0, 40, 15)) == 0.25
    assert len(CROPS) == len(set(CROPS))


def test_an_example_with_two_pictures_has_no_crop():
    opened = subject()
    example = pictures(1)[0]
    (one,) = shown(opened.batch([example]), "asked_object")
    assert one is not None
    assert one.asked == example.boxes["asked_object"][0]
    assert one.area == pytest.approx((12 / 96) ** 2)
    assert shown(opened.batch([twice(example)]), "asked_object") == [None]

"""Localisation on planted models: a head that follows the question is found; one of a fixed place is no localiser."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import (
    BOX,
    HEADS,
    PERMUTED,
    QUESTION,
    another_question,
    one_of_each,
    permutations,
)
from crosslens.analyses.localisation import localisation
from crosslens.analyses.localisation._attention_maps import fused
from crosslens.analyses.localisation._heads import chosen_heads
from crosslens.analyses.localisation._places import places
from crosslens.analyses.localisation._scoring import SCORES, scores
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import localisation as figures
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims.localisation import rows as planted_rows

WHITE, BLACK = 4, 5  # dimensions that say so of a patch
ASKS = {"w4": 6, "w5": 7}  # and those of the words that ask for one
SAYS = 8  # the dimension through which the head says the answer
LAYER, HEAD, SIDE = 1, 2, 4
OPTIONS = localisation.Options(heads=1, window=2, gradients=True, occlusion=3, general="w10 w11 w12")
PLAIN = localisation.Options(heads=1, words=False, general="w10 w11 w12")


class Seen(nn.Module):
    """A projector that writes into each token whether its patch is white or black; or marks a fixed one."""

    threshold = 0.9  # of shades from −1 to 1

    def __init__(self, inner: nn.Module, model: Any, fixed: int | None):
        super().__init__()
        self.inner, self.fixed, self.pixels = inner, fixed, torch.zeros(0)
        self.linear_2 = inner.linear_2

        def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.pixels = kwargs.get("pixel_values", self.pixels)

        model.register_forward_pre_hook(keep, with_kwargs=True)

    def forward(self, features: Tensor) -> Tensor:
        out = self.inner(features).clone()
        shade: Float[Tensor, "b n"] = avg_pool2d(self.pixels, SIDE).mean(1).flatten(1).reshape(out.shape[:-1])
        out[..., WHITE] += 60.0 * (shade > self.threshold)
        out[..., BLACK] += 60.0 * (shade < -self.threshold)
        if self.fixed is not None:
            out[..., [WHITE, BLACK]] = 0.0
            out[:, self.fixed, [WHITE, BLACK]] = 60.0
        return out


@torch.no_grad()
def subject(fixed: int | None = None) -> Subject:
    """Head 1.2 attends to patches of the shade that the last word asks for and says w7; no other head reads shades."""
    model, processor = vision_subjects.build("llava")
    model.model.multi_modal_projector = Seen(model.model.multi_modal_projector, model, fixed)
    words = model.get_input_embeddings().weight
    words[:, [WHITE, BLACK, *ASKS.values()]] = 0.0
    for word, dimension in ASKS.items():
        words[processor.tokenizer.convert_tokens_to_ids(word), dimension] = 60.0
    for layer in model.model.language_model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight[:, [WHITE, BLACK, *ASKS.values()]] = 0.0
    attention = model.model.language_model.layers[LAYER].self_attn
    # The slowest pair of the rotary embedding: place hardly turns it.
    for projection, head, read in (
        (attention.q_proj, HEAD, tuple(ASKS.values())),
        (attention.k_proj, HEAD // 2, (WHITE, BLACK)),
    ):
        projection.weight[head * 8 : head * 8 + 8] = 0.0
        for dimension, source in zip((3, 7), read, strict=True):
            projection.weight[head * 8 + dimension, source] = 2.0
    width = slice(HEAD // 2 * 8, HEAD // 2 * 8 + 8)
    attention.v_proj.weight[width] = 0.0
    attention.v_proj.weight[width][0, [WHITE, BLACK]] = 0.5
    attention.o_proj.weight[:, [HEAD * 8, (HEAD + 1) * 8]] = 0.0
    attention.o_proj.weight[SAYS, HEAD * 8] = 10.0
    model.lm_head.weight[:, SAYS] = 0.0
    model.lm_head.weight[processor.tokenizer.convert_tokens_to_ids("w7"), SAYS] = 1.0
    return Subject(model, processor, name="planted")


@pytest.fixture(scope="module", autouse=True)
def few_held_out():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localisation, "FIT_EXAMPLES", 8)
        yield


def picture(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Grey noise with a white and a black square of two by two patches, and their boxes."""
    pixels = rng.integers(90, 160, (24, 24, 3)).astype(np.uint8)
    first, second = rng.choice(9, 2, replace=False)
    boxes = []
    for place, shade in ((first, 255), (second, 0)):
        top, left = (int(n) * 2 * SIDE for n in divmod(place, 3))
        pixels[top : top + 2 * SIDE, left : left + 2 * SIDE] = shade
        boxes.append((left, top, left + 2 * SIDE, top + 2 * SIDE))
    return Image.fromarray(pixels), boxes


def questions(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
    rng, made = np.random.default_rng(seed), []
    for i in range(n or 12):
        shown, boxes = picture(rng)
        segments = (Segment("image", shown), Segment("text", " w3"), Segment("question", f" w{4 + i % 2}"))
        mine = {"asked_object": [boxes[i % 2]], "other_objects": [boxes[1 - i % 2]]}
        made.append(Example(f"q{seed}-{i:02d}", f"g{seed}-{i}", segments, " w7", (" w8",), boxes=mine))
    return made


def task(make: Any = questions) -> Task:
    module: Any = SimpleNamespace(__doc__="Squares", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=make)
    return Task("squares", module, {})


def analyse(
    opened: Subject, out: Any, which: Task | None = None, options: Any = OPTIONS, **settings: Any
) -> dict[str, pd.DataFrame]:
    asked = {"limit": 12, "out": out} | settings
    (directory,) = run(opened, which or task(), {"localisation": (localisation, options)}, Settings(**asked))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def follows(tmp_path_factory):
    return analyse(subject(), tmp_path_factory.mktemp("follows"))


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    return analyse(subject(fixed=14), tmp_path_factory.mktemp("fixed"))


def score_of(table: pd.DataFrame, **where: Any) -> float:
    rows = table.query(" and ".join(f"{name} == {value!r}" for name, value in where.items()))
    return rows["value"].item()


def test_the_head_that_follows_the_question_is_chosen_and_its_map_hits(follows):
    assert follows["localizers"][["layer", "head"]].values.tolist() == [[LAYER, HEAD]]
    here = {"layer": LAYER, "head": HEAD}
    assert score_of(follows["heads"], **here, control="", score="AUROC") == pytest.approx(1.0)
    assert score_of(follows["heads"], **here, control="", score="IoU") == pytest.approx(1.0)
    assert score_of(follows["heads"], **here, control="", score="attention ratio") > 3
    assert score_of(follows["heads"], **here, control=BOX, score="AUROC") < 0.7
    assert score_of(follows["heads"], **here, control=QUESTION, score="AUROC") < 0.5
    beside = follows["methods"].query("method == 'localization heads' and measure == 'difference' and score == 'AUROC'")
    assert (beside.set_index("control").loc[[BOX, QUESTION, HEADS], "lower"] > 0).all()
    tested = follows["tested"].query("claim == 'few heads localise'").set_index("than")
    assert tested.loc["", "value"] == pytest.approx(1.0)
    assert (tested.loc[[BOX, HEADS], "lower"] > 0).all()  # the mean of all heads holds the planted one too


@pytest.mark.parametrize("method", ["attention", "gaze shift", "TAG", "grad-att", "occlusion"])
def test_other_maps_find_what_the_planted_head_looks_at(follows, method):
    """Each at the layer that half of the groups choose; controls do not."""
    mine = follows["methods"].query(f"method == {method!r} and score == 'AUROC'")
    values = mine.query("measure == 'score'").set_index("control")["value"]
    assert values[""] > 0.9, values
    assert values[BOX] < 0.7
    beside = mine.query("measure == 'difference'").set_index("control")
    assert (beside.loc[[BOX, PERMUTED], "lower"] > 0).all(), beside


def test_a_head_of_a_fixed_place_is_no_localiser(fixed):
    assert fixed["localizers"][["layer", "head"]].values.tolist() == [[LAYER, HEAD]]
    verdicts = fixed["claims"].set_index("name")["verdict"]
    assert "holds" not in set(verdicts), verdicts
    assert "found" not in set(fixed["findings"]["state"])
    # What it gives the box is what it gives it under another question.
    difference = fixed["methods"].query(f"measure == 'difference' and control == {QUESTION!r}")
    chosen = difference[difference["method"] == "localization heads"].set_index("score")["value"]
    assert chosen["share in the box"] == pytest.approx(0, abs=1e-3)
    assert chosen["pointing game"] == pytest.approx(0, abs=1e-3)


def test_scores_equal_those_of_captured_patterns(follows):
    """Attention and relative attention of one layer, from whole patterns, one example after the other."""
    opened, found = subject(), {"attention": [], "relative attention": []}
    for example in questions(12):
        rows = {}
        for name, one in (("own", example), ("general", another_question(example, OPTIONS.general))):
            assert one is not None
            batch = opened.batch([one])
            pattern = capture(opened, batch, ["pattern"])[f"blocks.{LAYER}.attn.hook_pattern"]
            rows[name] = pattern[0, :, -1, batch.where("image")[0]].mean(0).reshape(6, 6)
        left, top, right, bottom = (n // SIDE for n in example.boxes["asked_object"][0])
        box = metrics.Box(top, left, bottom - top, right - left)
        found["attention"].append(metrics.box_scores(rows["own"], box))
        found["relative attention"].append(metrics.box_scores(rows["own"] / rows["general"], box))
    table = follows["scores"].query(f"layer == {LAYER} and control == ''")
    for method, several in found.items():
        mine = table[table["method"] == method].set_index("score")["value"]
        assert mine["attention ratio"] == pytest.approx(np.mean([float(s.ratio) for s in several]), rel=1e-4)
        assert mine["AUROC"] == pytest.approx(np.mean([s.auroc for s in several]), rel=1e-4)
        assert mine["IoU"] == pytest.approx(np.mean([s.iou for s in several]), rel=1e-4)


def test_any_batching_gives_the_same_tables(follows, tmp_path):
    other = analyse(subject(), tmp_path, size=5, padding="right")
    for name in ("scores", "heads", "tested"):
        np.testing.assert_allclose(follows[name]["value"], other[name]["value"], rtol=1e-3, atol=1e-4)


def test_every_figure_is_drawn(follows):
    drawn = figures.figures(follows)
    assert {item.name for item in figures.FIGURES} - {"answers"} <= set(drawn)
    layout: Any = drawn["on-pictures-heads"].layout
    assert len(layout.images) == 4


def test_examples_without_one_box_are_left_out(tmp_path):
    def several(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
        made = questions(n, seed)
        two = [*made[0].boxes["asked_object"], *made[0].boxes["other_objects"]]
        object.__setattr__(made[0], "boxes", {"asked_object": two})
        return made

    tables = analyse(subject(), tmp_path / "one", task(several), PLAIN, limit=4)
    assert tables["scores"]["n"].max() == 3

    def none(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
        made = questions(n, seed)
        for example in made:
            object.__setattr__(example, "boxes", {})
        return made

    left = analyse(subject(), tmp_path / "none", task(none), PLAIN, limit=4)
    assert "scores" not in left
    rows = planted_rows()
    rows.values["scored"][:] = 0
    with pytest.raises(NothingToMeasure, match="no example has one picture of known geometry"):
        tables_from(localisation, rows)


def test_a_box_outside_its_picture_and_two_pictures_are_told(tmp_path):
    def beside(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
        made = questions(n, seed)
        object.__setattr__(made[1], "boxes", {"asked_object": [(20, 20, 30, 30)]})
        return made

    with pytest.raises(UserError, match=r"lies outside its picture of 24 × 24 pixels"):
        analyse(subject(), tmp_path / "outside", task(beside), PLAIN, limit=4)

    def pairs(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
        made = questions(n, seed)
        segments = (made[0].segments[0], *made[0].segments)
        object.__setattr__(made[0], "segments", segments)
        return made

    opened = subject()
    opened.model.config.get_text_config().max_position_embeddings = 128
    tables = analyse(opened, tmp_path / "two", task(pairs), PLAIN, limit=4)
    assert tables["scores"]["n"].max() == 3
    told = tables["unmapped"].set_index("n")["why"]
    assert "several pictures" in told.loc[1]


def test_a_task_without_pictures_is_told(tmp_path):
    with pytest.raises(UserError, match="occlusion -1"):
        localisation.fit(None, [], localisation.Options(occlusion=-1))
    with pytest.raises(UserError, match="needs a task with pictures"):
        analyse(tiny.subject(), tmp_path, tiny.task())


def test_boxes_and_cells_are_those_of_the_picture():
    opened = subject()
    batch = opened.batch(questions(3), padding="left")
    for place, example in zip(places(batch, "asked_object"), batch.examples, strict=True):
        assert place is not None
        left, top, right, bottom = (n // SIDE for n in example.boxes["asked_object"][0])
        assert place.box == metrics.Box(top, left, bottom - top, right - left)
        assert place.shape == (6, 6)
        assert place.moved(place.relative()) == place.box
        assert place.moved((0.0, 1.0)) == metrics.Box(0, 4, 2, 2)


def test_map_scores_are_box_scores_of_each_map_and_ties_count_in_proportion():
    torch.manual_seed(0)
    maps, box = torch.rand(3, 2, 5, 7), metrics.Box(1, 2, 2, 3)
    found = metrics.map_scores(maps, box)
    for i, j in np.ndindex(3, 2):
        one = metrics.box_scores(maps[i, j], box)
        slow = torch.tensor([one.ratio, one.share, float(one.hit), one.iou, one.auroc])
        torch.testing.assert_close(found[:, i, j], slow)
    even = metrics.map_scores(torch.ones(5, 7), box)
    size, cells = 6, 35
    hits = size * size / cells
    torch.testing.assert_close(
        even, torch.tensor([1.0, size / cells, size / cells, hits / (2 * size - hits), 0.5]), rtol=1e-5, atol=1e-6
    )
    zeros = metrics.map_scores(torch.zeros(5, 7), box)
    assert zeros[:2].isnan().all()
    torch.testing.assert_close(zeros[2:], even[2:])
    assert metrics.map_scores(torch.full((5, 7), torch.nan), box).isnan().all()


def test_scores_have_their_names():
    opened = subject()
    (place,) = places(opened.batch(questions(1)), "asked_object")
    assert place is not None
    inside = torch.zeros(36)
    inside[place.box.y * 6 + place.box.x] = 1.0
    named = dict(zip(SCORES, scores(inside, place).tolist(), strict=True))
    assert (named["share in the box"], named["pointing game"]) == (1.0, 1.0)
    assert named["attention ratio"] > 1


def test_windows_sum_layers_and_lack_where_the_stack_ends():
    torch.manual_seed(0)
    own, general = torch.rand(4, 3, 5), torch.rand(4, 3, 5)
    own[2], general[2] = torch.nan, torch.nan  # a layer without heads
    contrast = (own / (general + 1e-8)).nan_to_num()
    one = fused(own[:, :1], general[:, :1], 3)
    torch.testing.assert_close(one[:2], torch.stack([contrast[:3, 0].sum(0), contrast[1:, 0].sum(0)]))
    assert one[2:].isnan().all()
    several = fused(own, general, 3)
    slow = sum((t + 1) * contrast[:3, t].sum(0) for t in range(3))
    torch.testing.assert_close(several[0], slow)


def test_localization_heads_are_compact_and_look_at_the_image():
    """Of heads from the elbow on those with one blob are counted; a compact head that hardly looks is none."""
    torch.manual_seed(0)
    maps = []
    for _ in range(6):
        heads = torch.rand(2, 3, 6, 6) * 1e-3
        heads[0, 1, 2:4, 2:4] += 0.2  # one blob, much attention
        heads[1, 0, ::2, ::2] += 0.2 * 4 / 9  # as much, in many places
        heads[1, 2, 1, 1] += 1e-3  # one blob, hardly any
        maps.append(heads)
    choice = chosen_heads(maps, 1)
    assert choice.heads == [[0, 1]]
    assert choice.share == [1.0]
    assert choice.largest[0] in ([0, 1], [1, 0])
    nothing = torch.full((1, 3, 6, 6), torch.nan)
    assert chosen_heads([torch.cat([one, nothing]) for one in maps], 1).heads == [[0, 1]]


def test_draws_belong_to_their_keys():
    assert one_of_each("abc", ["x 0", "x 1"]) == one_of_each("abc", ["x 0", "x 1"])
    assert one_of_each("", ["x 0"]) == []
    orders = permutations(7, ["x 0", "x 1"])
    assert orders.sort(-1).values.tolist() == [list(range(7))] * 2
    assert not torch.equal(orders[0], orders[1])

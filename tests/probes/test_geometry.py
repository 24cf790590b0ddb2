"""Where image tokens lie on their pictures, proved by painting: which positions change with one part of a picture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from crosslens import Subject
from crosslens.data.example import Example, Segment
from crosslens.probes.prompts.geometry.find import find
from crosslens.probes.prompts.geometry.maps import cells, grids, maps, reasons
from crosslens.probes.prompts.geometry.seen import Seen
from crosslens.probes.prompts.geometry.views import OTHER_COUNT, REASONS, UNEVEN, View

from ..helpers.painted_families import SETTINGS, build_painted
from ..helpers.painting import prepared, prove, show
from ..helpers.vision_subjects import FAMILIES, MEAN, build, picture

# One wide, one tall, and two of a prompt.
SIZES = [((300, 200),), ((200, 420),), ((300, 200), (200, 420))]
SPLIT = {"do_image_splitting": True, "size": {"longest_edge": 32}}
CROPS = {
    "do_convert_rgb": True,
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 50,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
PADDED = transformers.LlavaImageProcessorPil(
    size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_pad=True, **MEAN
)


@pytest.mark.parametrize("family", FAMILIES)
def test_painted_cells_are_where_the_geometry_says(family):
    opened = prepared(*build(family))
    assert all(prove(opened, sizes) for sizes in SIZES)


@pytest.mark.parametrize("family", SETTINGS)
def test_painted_cells_of_more_families(family, tmp_path):
    opened = prepared(*build_painted(family, tmp_path))
    assert all(prove(opened, sizes) for sizes in SIZES)


@pytest.mark.parametrize(
    ("family", "of_images", "of_both", "kinds"),
    [
        ("idefics3", SPLIT, {}, ["tile"] * 4 + ["thumbnail"]),
        ("smolvlm", SPLIT, {}, ["tile"] * 4 + ["thumbnail"]),
        ("gemma3", {}, {"images_kwargs": CROPS}, ["thumbnail"] + ["tile"] * 2),
        ("llava_onevision", {}, {"vision_aspect_ratio": "anyres_max_1"}, ["thumbnail", "picture"]),
        ("llava", None, {}, ["picture"]),
    ],
)
def test_painted_cells_of_other_ways(family, of_images, of_both, kinds):
    """Pictures split into tiles, pan and scan, tiles interpolated to fewer cells, padding to a square."""
    model, processor = build(family)
    if of_images is None:
        processor.image_processor = PADDED
    for name, value in (of_images or {}).items():
        setattr(processor.image_processor, name, value)
    for name, value in of_both.items():
        setattr(processor, name, value)
        setattr(model.config, name, value)
    opened = prepared(model, processor)
    assert all(prove(opened, sizes) for sizes in SIZES)
    (shown,) = opened.batch([show(SIZES[0])]).geometry[0].pictures
    assert [view.kind for view in shown.views] == kinds
    assert repr(shown).startswith("Picture(300 × 200 pixels: ")


def subject(family: str) -> Subject:
    opened = Subject(*build(family), name=f"tiny-{family}")
    opened.model.config.max_position_embeddings = opened.model.config.get_text_config().max_position_embeddings = 512
    return opened


def example(name: str, *sizes: tuple[int, int]) -> Example:
    shown = [Segment("image", picture(i, size)) for i, size in enumerate(sizes)]
    return Example(name, name, (Segment("text", "w1 w2 "), *shown, Segment("question", " w3")))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "aya_vision"])
def test_maps_hold_each_patch_once_and_agree_with_the_cells(family, padding):
    """Values are positions: a map says which position lies where, wherever the prompt is padded."""
    batch = subject(family).batch(
        [example("one", (30, 30)), example("text"), example("two", (60, 30), (30, 60))], padding=padding
    )
    places = torch.arange(batch.roles.shape[1]).expand(batch.roles.shape)
    found, patches = maps(batch, places), batch.where("patches")
    assert [len(of_one) for of_one in found] == [1, 0, 2]
    for row, of_one in enumerate(found):
        mapped = torch.cat([one.flatten() for one in of_one]) if of_one else torch.tensor([], dtype=torch.long)
        assert torch.equal(mapped.sort().values, patches[row].nonzero()[:, 0])
    of_first = [tuple(of_one[0].shape) if of_one else (0, 0) for of_one in found]
    assert grids(batch).tolist() == [list(shape) for shape in of_first]
    for row, cell in enumerate(cells(batch)):
        own = patches[row].nonzero()[:, 0]
        there = cell[: len(own)].isfinite()
        assert not cell[len(own) :].isfinite().any()
        if found[row]:
            assert torch.equal(found[row][0].flatten()[cell[: len(own)][there].long()], own[there])
            assert there.sum() == found[row][0].numel()
    assert reasons(batch).tolist() == [0, 0, 0]


def test_separators_stand_between_patches_and_frames_around_them():
    """Aya Vision's tiles are numbered, Mistral 3's rows end in a break: by the tokens' own words."""
    for family, between, around in (
        ("aya_vision", {"TILE_1", "TILE_2", "<unk>", "<global-img>"}, {"<start>", "<end>"}),
        ("mistral3", {"<start>"}, {"<end>"}),
    ):
        batch = subject(family).batch([example("one", (60, 60) if family == "mistral3" else (60, 30))], bos=False)
        words = batch.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
        told = {role: {w for w, there in zip(words, batch.where(role)[0], strict=True) if there} for role in ROLES}
        assert told["image_separator"] <= between
        assert told["image_separator"]
        assert told["special"] == around


ROLES = ("image_separator", "special")


def test_frames_of_a_video_lie_below_each_other():
    """No processor here reads videos; the grid of one has a first number above 1."""
    vision = SimpleNamespace(patch_size=4, spatial_merge_size=2)
    model: Any = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    pixels = {"image_grid_thw": torch.tensor([[3, 4, 8]])}
    (film,) = find(Seen(model, None, [(80, 40)], pixels, ["…"], [24]), [list(range(5, 29))]).pictures
    assert [view.kind for view in film.views] == ["frame"] * 3
    assert torch.equal(film.map, torch.arange(5, 29).reshape(6, 4))
    assert film.box == (0, 0, 80, 40)
    assert film.views[2].boxes[1, 3].tolist() == [60, 20, 80, 40]


def test_numbers_that_do_not_add_up_are_no_geometry():
    opened = subject("llava")
    for owner in (opened.model.config, opened.processor):
        owner.vision_feature_select_strategy = "full"  # the class token is a placeholder
    batch = opened.batch([example("one", (30, 30))])
    assert batch.geometry[0].unknown == OTHER_COUNT
    assert batch.geometry[0].pictures == ()
    assert maps(batch, torch.zeros(batch.roles.shape)) == [[]]
    assert grids(batch).tolist() == [[0, 0]]
    assert not cells(batch).isfinite().any()
    assert [REASONS[i] for i in reasons(batch)] == [OTHER_COUNT]
    assert torch.equal(batch.where("patches"), batch.where("image"))


def test_tiles_that_do_not_join_are_no_geometry():
    """Slices of 2 × 2 and 2 × 1 tokens side by side (MiniCPM-V may size each on its own)."""
    images = SimpleNamespace(downsample_mode="4x")
    processor, model = SimpleNamespace(image_processor=images, slice_start_token="<slice>"), SimpleNamespace()
    for last, known in (([4, 4], True), ([4, 2], False)):
        n = 4 + 4 + last[0] * last[1] // 4
        sizes = {"target_sizes": torch.tensor([[4, 4], [4, 4], last])}
        seen = Seen(model, processor, [(80, 40)], sizes, ["…<slice>…<slice>…"], [n])
        found = find(seen, [list(range(n))])
        assert found.unknown == ("" if known else UNEVEN)


def test_cells_share_their_edges_and_fill_their_box():
    boxes = View("picture", 7, 3, (-1.5, 0, 30.5, 21)).boxes
    assert torch.equal(boxes[:, 1:, 0], boxes[:, :-1, 2])
    assert torch.equal(boxes[1:, :, 1], boxes[:-1, :, 3])
    assert boxes[0, 0, :2].tolist() == [-1.5, 0]
    assert boxes[-1, -1, 2:].tolist() == [30.5, 21]
    assert boxes[:, 0, 1].tolist() == list(range(0, 21, 3))

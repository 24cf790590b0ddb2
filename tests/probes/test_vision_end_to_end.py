"""Examples with images through the models' own processors: tokens, roles, marks, padding, saved models, runs."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture, load
from crosslens.analyses.lenses import lenses
from crosslens.cli import main
from crosslens.data.errors import SubjectError, UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.check.tokenizer import PROOF
from crosslens.probes.model.processors import open_processor, processor_class
from crosslens.probes.runs.run import Settings, run
from PIL import Image
from transformers import AutoConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from ..helpers.vision_subjects import FAMILIES, build, picture, save, tokenizer
from ..sweep.building import build as build_type
from .test_families import assert_close


def subject(family="llava"):
    return Subject(*build(family), name=f"tiny-{family}")


def example(i, words="w1 w2", size=(30, 30), **more):
    """Words, a picture, a question whose first word is marked."""
    segments = (
        Segment("text", words + " "),
        Segment("image", picture(i, size)),
        Segment("question", " w4 w5", {"asked": [(1, 3)]}),
    )
    return Example(f"e{i}", f"g{i}", segments, answer=" w6", wrong=(" w7",), **more)


def mixed():
    """Two examples with an image and one without, of three lengths."""
    return [example(0), Example("t", "t", (Segment("text", "w1 w7 w8"),)), example(1, "w1 w2 w3 w9")]


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_and_marks_follow_the_processor(family):
    opened = subject(family)
    image = opened.model.config.image_token_id
    batches = [opened.batch(mixed(), padding=padding, bos=True) for padding in ("left", "right")]
    for batch in batches:
        held = (batch.inputs["input_ids"] == image) & batch.mask
        assert torch.equal(batch.where("image"), held & ~batch.where("image_separator"))
        assert batch.where("image").sum(1).tolist()[1] == 0
        assert batch.where("image").sum(1)[0] >= 4
        assert batch.where("question").sum(1).tolist() == [2, 0, 2]
        assert batch.where("asked").sum(1).tolist() == [1, 0, 1]
        assert batch.where("text").sum(1).tolist() == [2, 3, 4]
        words = batch.inputs["input_ids"][batch.where("asked")]
        assert opened.tokenizer.convert_ids_to_tokens(words.tolist()) == ["w4", "w4"]
        assert batch.inputs["input_ids"][0].tolist().count(opened.tokenizer.bos_token_id) == 1
    left, right = batches
    assert torch.equal(left.aligned(left.roles), right.aligned(right.roles))
    assert torch.equal(left.aligned(left.where("asked")), right.aligned(right.where("asked")))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_examples_alone(family):
    opened = subject(family)
    for padding in ("left", "right"):
        batch = opened.batch(mixed(), padding=padding)
        together = opened.last_logits(batch)
        for i, one in enumerate(mixed()):
            assert_close(together[i], opened.last_logits(opened.batch([one]))[0], f"{family} {padding} {i}")


@pytest.mark.parametrize("family", FAMILIES)
def test_check_with_an_image_passes(family):
    frame = subject(family).check()
    frame = frame[frame["check"] != PROOF]  # a tokenizer of 50 words gives no sentence back
    assert frame["passed"].all()
    assert frame["where"].str.contains("with an image").sum() > 20
    told = frame["check"].str.startswith("features are added").sum()
    assert told == (2 if family == "qwen3_vl" else 0)


def test_without_a_bos():
    opened = subject()
    batch = opened.batch([example(0)], bos=False)
    assert opened.tokenizer.bos_token_id not in batch.inputs["input_ids"][0].tolist()
    with pytest.raises(UserError, match="BOS behind the image"):
        subject("paligemma").batch([example(0)], bos=False)


def test_chat_template_of_the_processor():
    batch = subject().batch([example(0)], template="chat", bos=True)
    words = batch.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0].tolist())
    assert words[:4] == ["<s>", "<unk>", "w1", "w2"]
    assert words[-1] == "<unk>"
    assert batch.where("question").sum() == 2
    assert batch.where("image").sum() == 36
    text_only = subject().batch([Example("t", "t", (Segment("question", "w1 w2"),))], template="chat")
    assert text_only.where("question").sum() == 2


def test_boxes_are_the_patches_they_touch():
    """36 tokens are 6 × 6 patches of 4 pixels, of a picture that was resized and cut to its middle."""
    opened = subject()
    boxes = {"corner": [(0, 0, 4, 4)], "edge": [(3, 0, 5, 4)], "two": [(0, 0, 1, 1), (23, 23, 24, 24)]}
    grid = _grid(opened, (24, 24), boxes)
    assert grid["corner"].nonzero().tolist() == [[0, 0]]
    assert grid["edge"].nonzero().tolist() == [[0, 0], [0, 1]]
    assert grid["two"].nonzero().tolist() == [[0, 0], [5, 5]]
    # Twice as wide: scaled by 1/2, the outer quarters are cut off.
    wide = _grid(opened, (96, 48), {"left": [(0, 0, 24, 48)], "middle": [(24, 0, 32, 8)]})
    assert not wide["left"].any()
    assert wide["middle"].nonzero().tolist() == [[0, 0]]
    unknown = subject()
    unknown.model.config.vision_feature_select_strategy = "full"  # the class token is one of its 37
    unknown.processor.vision_feature_select_strategy = "full"
    assert set(unknown.batch([example(0, boxes=boxes)]).marks) == {"asked"}


def test_boxes_are_marked_in_tiles_and_in_the_thumbnail():
    """Two tiles of 2 × 2 and the whole in 2 × 2: in the second tile's upper left, and in the thumbnail's right."""
    batch = subject("aya_vision").batch([example(0, size=(60, 30), boxes={"box": [(31, 1, 40, 10)]})])
    found = batch.where("box")[0][batch.where("image")[0]].reshape(3, 2, 2)
    assert found.nonzero().tolist() == [[1, 0, 0], [2, 0, 1]]


def _grid(opened, size, boxes):
    batch = opened.batch([example(0, size=size, boxes=boxes)])
    image = batch.where("image")[0]
    return {name: batch.where(name)[0][image].reshape(6, 6) for name in boxes}


def test_capture_keeps_the_pixels():
    opened = subject()
    dark, light = (Image.new("RGB", (24, 24), colour) for colour in ("black", "white"))
    found = []
    for shown in (dark, light):
        one = Example("a", "a", (Segment("image", shown), Segment("text", " w1")))
        batch = opened.batch([one])
        found.append(capture(opened, batch, ["blocks.0.hook_resid_pre"])["blocks.0.hook_resid_pre"])
    moved = (found[0] - found[1]).abs().amax(2)[0] > 0
    assert torch.equal(moved, batch.where("image")[0])


@pytest.mark.parametrize("words", ["w1 <image> w2", "<image>"])
def test_placeholders_in_texts_are_refused(words):
    with pytest.raises(UserError, match="placeholder"):
        subject().batch([example(0, words)])
    with pytest.raises(UserError, match="without an image"):
        subject().batch([words])


def test_two_images_in_one_prompt():
    shown = [Segment("image", picture(i)) for i in range(2)]
    one = Example("two", "g", (shown[0], Segment("text", " w1 "), shown[1], Segment("question", " w2")))
    opened = subject("gemma3")
    batch = opened.batch([one, example(3)])
    assert batch.where("image").sum(1).tolist() == [8, 4]
    together = opened.last_logits(batch)
    assert_close(together[0], opened.last_logits(opened.batch([one]))[0], "two images alone")
    swapped = Example("swapped", "g", (shown[1], Segment("text", " w1 "), shown[0], Segment("question", " w2")))
    assert (opened.last_logits(opened.batch([swapped]))[0] - together[0]).abs().max() > 1e-3


def test_no_processor_and_wrong_processor_are_named():
    model, made = build("llava")
    with pytest.raises(UserError, match="without a processor"):
        Subject(model, tokenizer()).batch([example(0)])
    model.config.image_token_index = model.config.image_token_id = 57
    with pytest.raises(SubjectError, match="do not belong together"):
        Subject(model, made).batch([example(0)])


def test_a_tokenizer_without_a_pad_token_pads_all_the_same():
    opened = subject()
    several = [example(0), example(1, "w1 w2 w3")]
    expected = opened.last_logits(opened.batch(several))
    opened.tokenizer.pad_token = None
    assert_close(opened.last_logits(opened.batch(several)), expected, "without a pad token")


@pytest.mark.parametrize("family", FAMILIES)
def test_odd_sizes_run_or_are_refused_in_one_line(family):
    opened = subject(family)
    # Mistral 3 takes neither a single image of a single token nor a side that shrinks to nothing.
    for size in [(30, 20), (60, 10)] if family == "mistral3" else [(1, 1), (2000, 10), (10, 2000)]:
        batch = opened.batch([example(0, size=size)])
        assert torch.isfinite(opened.last_logits(batch)).all()
        assert not batch.geometry[0].unknown
    if family == "mistral3":
        with pytest.raises(UserError, match=r"the processor refuses the images of e0: .*height=0"):
            opened.batch([example(0, size=(2000, 10))])
    with pytest.raises(UserError, match="200 times"):
        opened.batch([example(0, size=(2010, 10))])


def test_segments_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(_png(tmp_path)[:1500])
    with pytest.raises(UserError, match="not a readable image"):
        subject().batch([Example("x", "x", (Segment("image", Image.open(tmp_path / "cut.png")),))])
    not_opened: Any = tmp_path / "cut.png"
    with pytest.raises(UserError, match="open_image"):
        subject().batch([Example("x", "x", (Segment("image", not_opened),))])


def _png(tmp_path):
    picture().save(tmp_path / "whole.png")
    return (tmp_path / "whole.png").read_bytes()


def pictures(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Random words around random pictures."""
    return [example(i, " ".join(["w1"] * (1 + i % 3))) for i in range(n or 6)]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(family, tmp_path):
    made = save(family, tmp_path)
    opened = load(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for padding in ("left", "right"):
        expected, batch = made.batch(mixed(), padding=padding), opened.batch(mixed(), padding=padding)
        assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
        assert torch.equal(batch.roles, expected.roles)
        assert_close(opened.last_logits(batch), made.last_logits(expected), f"{family} {padding}")


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm", "mistral3"])
def test_batch_size_and_padding_leave_a_run_as_it_is(family, tmp_path, capsys):
    save(family, tmp_path / "model")
    opened = load(tmp_path / "model")
    module: Any = SimpleNamespace(
        __doc__="Pictures", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=pictures
    )
    tables = []
    for size, padding in ((1, "right"), (6, "left")):
        settings = Settings(out=tmp_path / f"out{size}", size=size, padding=padding)
        analyses = {"lenses": (lenses, lenses.Options())}
        (directory,) = run(opened, Task("pictures", module, {}), analyses, settings)
        tables.append(pd.read_parquet(directory / "tables" / "lens.parquet"))
    chosen = ~tables[0]["measure"].isin(["rank", "top1"])
    np.testing.assert_allclose(tables[0]["value"][chosen], tables[1]["value"][chosen], rtol=1e-4, atol=1e-6)
    main(["check", str(tmp_path / "model"), "--out", str(tmp_path)])
    assert "another image, other logits" in capsys.readouterr().out


MAIN_TABLES = {"head_divergence": "heads", "information_flow": "flows", "sinks": "visual"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_through_three_analyses(family, tmp_path):
    save(family, tmp_path / family, answer="yes")
    task = ["--task", "scenes:kinds=existence", "--limit", "4"]
    main(["run", *MAIN_TABLES, "--subject", str(tmp_path / family), *task, "--out", str(tmp_path)])
    for name, table in MAIN_TABLES.items():
        (directory,) = (tmp_path / "runs").glob(f"{name}.{family}.*")
        values = pd.read_parquet(directory / "tables" / f"{table}.parquet")["value"]
        assert len(values) > 10
        assert np.isfinite(values).mean() > 0.5


@pytest.mark.parametrize("family", ["cohere2_vision", "lfm2_vl"])
def test_images_that_torchvision_alone_can_process_are_named(family, tmp_path):
    if find_spec("torchvision"):
        pytest.skip("torchvision is here")
    build_type(("vision", family, "")).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=f"{family} processes images with torchvision alone: install") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "family",
    ["qwen3_5", "qwen3_5_moe", "gemma4", "glm46v", "exaone4_5", "mistral_large4", "glm5_next", "video_llama_3"],
)
def test_processors_of_families_without_a_tiny_subject_open(family, tmp_path):
    """The class that the family has, Pillow's images, the tokenizer in its place."""
    named = {"image_token": "<image>", "video_token": "<video>", "boi_token": "<start>", "eoi_token": "<end>"}
    tokenizer(**named).save_pretrained(tmp_path)
    config = AutoConfig.for_model(family)
    config.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    opened = open_processor("one", str(tmp_path), config)
    assert isinstance(opened, processor_class(PROCESSOR_MAPPING_NAMES[family]))
    assert type(opened.image_processor).__name__.endswith("Pil")
    assert opened.tokenizer.image_token == "<image>"

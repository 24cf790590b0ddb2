"""Prompts with images: which positions are the image, where they lie on it, and what the processor is asked for."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model import processing
from crosslens.probes.prompts.encode import encode
from crosslens.probes.runs.answers import own_answers
from tokenizers import Regex, pre_tokenizers

from ..helpers.vision_subjects import CHAT, FAMILIES, GRIDDED, build, picture

NEWLINES = ("llava_next", "llava_onevision")


def subject(family="llava", **changed):
    model, processor = build(family)
    for name, value in changed.items():
        setattr(processor, name, value)
    return Subject(model, processor, name=f"tiny-{family}")


def example(i=0, size=(30, 30), before="w1 ", after=" w4", **more):
    segments = (Segment("text", before), Segment("image", picture(i, size)), Segment("question", after))
    return Example(f"e{i}", f"g{i}", segments, **more)


def words(batch, row=0):
    return batch.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][row].tolist())


def test_newlines_that_merge_with_those_of_the_processor_are_no_image():
    """Gemma 3 writes two newlines around an image; with one of the prompt's they are a token of their own."""
    opened = subject("gemma3")
    split = [pre_tokenizers.Split(Regex("\\n+"), "isolated"), pre_tokenizers.Split(" ", "removed")]
    opened.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    batch = opened.batch([example(before="w1 \n", after="\nw4 w5")], bos=True)
    assert words(batch)[1:4] == ["w1", "<unk>", "<start>"]
    assert torch.equal(batch.where("image"), batch.inputs["input_ids"] == opened.model.config.image_token_id)
    assert batch.where("special").sum() == 5  # the BOS, both merged newlines, and the two tokens around the image
    assert batch.where("question").sum() == 2


@pytest.mark.parametrize("family", NEWLINES)
def test_learned_newlines_separate_and_are_no_patches(family):
    """The rows of the features that change with the model's newline."""
    opened = subject(family)
    batch = opened.batch([example(0), example(1, size=(60, 30))])
    inner, held = opened.model.model, batch.inputs["input_ids"] == opened.model.config.image_token_id
    names = ("pixel_values", "image_sizes", "batch_num_images")
    given = {name: batch.inputs[name] for name in names if name in batch.inputs}
    with torch.no_grad():
        before = torch.cat(list(inner.get_image_features(**given).pooler_output))
        inner.image_newline += 1
        moved = (torch.cat(list(inner.get_image_features(**given).pooler_output)) - before).abs().amax(1) > 0
    separators = batch.where("image_separator")
    for row, expected in enumerate(moved.split(held.sum(1).tolist())):
        assert torch.equal(separators[row][held[row]], expected)
    assert bool(moved.any())
    assert torch.equal(batch.where("image"), held & ~separators)
    assert torch.equal(batch.where("patches"), batch.where("image") & ~batch.where("thumbnail"))


@pytest.mark.parametrize("family", GRIDDED)
def test_images_stand_in_their_frame_in_raw_prompts_and_once_in_chats(family):
    opened = subject(family, chat_template=CHAT.replace("<image>", "<start><image><end>"))
    plain = "{% for m in messages %}{{ m.role }} {{ m.content }} </s>{% endfor %}assistant"
    for template, of_tokenizer in (("raw", ""), ("chat", ""), ("chat", plain)):
        if of_tokenizer:  # older checkpoints: the template lies with the tokenizer and takes strings
            opened.processor.chat_template, opened.tokenizer.chat_template = None, of_tokenizer
        shown = words(opened.batch([example(before="", after=" w4")], template=template))
        assert [shown.count(token) for token in ("<start>", "<end>")] == [1, 1]
        assert shown[shown.index("<image>") - 1] == "<start>"
    own = (Segment("text", "<start>"), Segment("image", picture()), Segment("text", "<end>"))
    assert words(opened.batch([Example("own", "own", own)])).count("<start>") == 1


def test_a_processor_saved_without_its_patch_size_is_completed():
    expected = subject().batch([example()])
    bare = {"patch_size": None, "vision_feature_select_strategy": None, "num_additional_image_tokens": 0}
    opened = subject(**bare)
    batch = opened.batch([example()])
    assert torch.equal(batch.inputs["input_ids"], expected.inputs["input_ids"])
    assert torch.isfinite(opened.last_logits(batch)).all()


def test_placeholders_of_the_model_are_refused_in_texts():
    with pytest.raises(UserError, match="1 × <image> in the prompt"):
        subject("gemma3").batch([example(before="w1 <image> ")])


class Counted:
    """A processor that counts how many images it is given."""

    def __init__(self, inner):
        self.__dict__ |= {"inner": inner, "images": 0}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        self.__dict__[name] = value

    def __call__(self, **arguments):
        self.images += sum(map(len, arguments["images"]))
        return self.inner(**arguments)


def test_every_picture_is_processed_once():
    opened = subject()
    opened.processor = Counted(opened.processor)
    several = [example(i) for i in range(3)]
    for one in several:
        encode(opened, one, "raw", True)
    batch = opened.batch(several, padding="left")
    opened.batch(several, bos=False)
    own_answers(opened, several, 2)
    assert opened.processor.images == 3
    several[0].images[0].paste((0, 0, 0), (0, 0, 30, 30))  # the same object, another picture
    drawn = opened.batch(several, padding="left")
    assert opened.processor.images == 4
    assert not torch.equal(drawn.inputs["pixel_values"][0], batch.inputs["pixel_values"][0])
    opened.processor.inner.image_processor.do_normalize = False
    assert not torch.equal(opened.batch([several[1]]).inputs["pixel_values"][0], batch.inputs["pixel_values"][1])


def test_pictures_beyond_the_budget_are_forgotten(monkeypatch):
    monkeypatch.setattr(processing, "MEMORY", 2 * 3 * 24 * 24 * 4)
    opened = subject()
    opened.processor = Counted(opened.processor)
    for i in (0, 1, 2, 2, 0):
        opened.batch([example(i)])
    assert opened.processor.images == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_one_by_one_are_those_of_the_whole_batch(family):
    opened = subject(family)
    several = [example(0), example(1, size=(60, 30)), example(2, size=(20, 50))]
    found = opened.batch(several).inputs
    holder = opened.processor.image_token
    made = opened.processor(
        text=[holder] * 3,
        images=[[picture(i, e.images[0].size)] for i, e in enumerate(several)],
        return_tensors="pt",
        padding=True,
    )
    names = [name for name in made if name not in processing.PER_TOKEN]
    assert "pixel_values" in names
    for name in names:
        assert torch.equal(found[name], made[name]), name

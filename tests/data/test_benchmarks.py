"""POPE and COCO from small files of the real formats: what is read, what is refused; object words in captions."""

from __future__ import annotations

import json

import pytest
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Objects
from crosslens.data.object_words import judge, mentions
from crosslens.data.tasks import coco, open_task, pope
from crosslens.probes.prompts.text_prompts import render
from PIL import Image

from ..helpers.vision_subjects import build

LINES = [
    {
        "question_id": 1,
        "image": "COCO_val2014_000000000042.jpg",
        "text": "Is there a dog in the image?",
        "label": "yes",
    },
    {"question_id": 2, "image": "COCO_val2014_000000000042.jpg", "text": "Is there a car in the image?", "label": "no"},
    {"question_id": 3, "image": "COCO_val2014_000000000073.jpg", "text": "Is there a bus in the image?", "label": "no"},
]


@pytest.fixture
def directory(tmp_path):
    """A directory as POPE's and COCO's files lie in one."""
    images = tmp_path / "val2014"
    images.mkdir()
    for number, colour in ((42, "red"), (73, "blue")):
        Image.new("RGB", (40, 30), colour).save(images / f"COCO_val2014_{number:012d}.jpg")
    for kind in pope.KINDS:
        (tmp_path / f"coco_pope_{kind}.json").write_text("\n".join(map(json.dumps, LINES)) + "\n")
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    pictures = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg", "height": 30, "width": 40} for n in (42, 73)]
    told = [{"image_id": 42, "id": 1, "caption": "A puppy on a bike."}, {"image_id": 73, "id": 2, "caption": "A sky."}]
    (annotations / "captions_val2014.json").write_text(json.dumps({"images": pictures, "annotations": told}))
    kinds = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car"}]
    drawn = [{"id": 9, "image_id": 42, "category_id": 18, "bbox": [1.0, 2.0, 10.5, 20.0], "area": 210, "iscrowd": 0}]
    whole = {"images": pictures, "annotations": drawn, "categories": kinds}
    (annotations / "instances_val2014.json").write_text(json.dumps(whole))
    return tmp_path


def test_pope_lines(directory):
    found = open_task(f"pope:path={directory},kind=adversarial").examples(None, None, 0)
    assert [e.answer for e in found] == ["Yes", "No", "No"]
    assert found[0].wrong == ("No",)
    assert [e.group for e in found] == [line["image"] for line in LINES]
    assert found[0].images[0].getpixel((3, 3))[0] > 200
    assert found[0].segments[1].content == "Is there a dog in the image?"
    (raw,) = open_task(f"pope:path={directory},opening=\\n").examples(None, 1, 0)
    assert raw.text == "\nIs there a dog in the image?"
    every = pope.examples(path=str(directory), kind="all")
    assert len({e.id for e in every}) == 9
    assert {e.meta["kind"] for e in every} == {"pope_random", "pope_popular", "pope_adversarial"}
    assert len(pope.examples(n=4, path=str(directory), kind="all", prefix=" ")) == 4


def test_pope_from_a_data_set(directory, tmp_path):
    """A parquet data set with the hub's columns, read by `datasets` from a directory as it is from the hub."""
    datasets = pytest.importorskip("datasets")
    picture = Image.new("RGB", (40, 30), "green")
    columns = {"question_id": ["1", "2"], "question": ["Is there a dog in the image?"] * 2, "answer": ["yes", "no"]}
    columns |= {"image_source": ["COCO_1", "COCO_2"], "image": [picture, picture], "category": ["popular", "random"]}
    kept = tmp_path / "hub" / "data"
    kept.mkdir(parents=True)
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.to_parquet(str(kept / "test-00000-of-00001.parquet"))
    (found,) = pope.examples(hub=str(tmp_path / "hub"), kind="popular")
    assert (found.id, found.group, found.answer) == ("pope-popular-1", "COCO_1", "Yes")
    assert found.images[0].size == (40, 30)
    with pytest.raises(UserError, match="cannot get"):
        pope.examples(hub=str(tmp_path / "nothing"))


def test_coco_captions_and_instances(directory):
    found = {e.id: e for e in open_task(f"coco:path={directory}").examples(None, None, 0)}
    dog = found["coco-42"]
    assert dog.objects.there == {"dog", "bicycle"}  # instances, and what the captions name
    assert dog.boxes == {"dog": [(1, 2, 12, 22)]}
    assert found["coco-73"].objects.there == frozenset()
    marks = judge(dog, " Two dogs and a car near bicycles.")
    assert marks == {"correct": [(5, 9), (25, 33)], "hallucinated": [(16, 19)]}


def test_coco_takes_a_file_of_synonyms(directory):
    synonyms = directory / "synonyms.txt"
    synonyms.write_text("dog, beast\ncar\nbicycle, bike\n")
    found = {e.id: e for e in open_task(f"coco:path={directory},synonyms={synonyms}").examples(None, None, 0)}
    assert found["coco-42"].objects.there == {"dog", "bicycle"}
    assert judge(found["coco-42"], "A beast and a puppy.") == {"correct": [(2, 7)], "hallucinated": []}
    synonyms.write_text("car\n" * 2)
    coco.words.cache_clear()
    with pytest.raises(UserError, match="annotation 9: the object 'dog' begins no line of synonyms="):
        coco.examples(path=str(directory), synonyms=str(synonyms))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "coco_pope_random.json").unlink(), "no file coco_pope_random.json"),
        (lambda d: (d / "coco_pope_random.json").write_text("{broken"), "line 1: not JSON"),
        (lambda d: (d / "coco_pope_random.json").write_text('{"image": "x.jpg", "text": "?"}'), "no field label"),
        (lambda d: (d / "coco_pope_random.json").write_text(json.dumps(LINES[0] | {"label": 3})), "yes or no"),
        (
            lambda d: (d / "coco_pope_random.json").write_text(json.dumps(LINES[0] | {"image": "x.jpg"})),
            r"coco_pope_random.json, line 1: task pope: no file x.jpg",
        ),
        (
            lambda d: (d / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(b"no picture"),
            r"coco_pope_random.json, line 3: .*000073.jpg is not an image",
        ),
        (lambda d: (d / "coco_pope_random.json").write_bytes(b"\n\xff\xfe{}"), "line 2: not JSON"),
    ],
)
def test_pope_refuses_in_one_line(directory, change, message):
    change(directory)
    with pytest.raises(UserError, match=message):
        pope.examples(path=str(directory))


def test_missing_directories_and_kinds_are_named(directory):
    with pytest.raises(UserError, match="path=DIRECTORY"):
        pope.examples()
    with pytest.raises(UserError, match="no directory"):
        coco.examples(path="/no/such/place")
    with pytest.raises(UserError, match="no kind 'hard'"):
        pope.examples(path=str(directory), kind="hard")
    (directory / "annotations" / "instances_val2014.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="no field categories"):
        coco.examples(path=str(directory))


def test_boxes_are_stated_for_the_turned_picture(directory):
    path = directory / "val2014" / "COCO_val2014_000000000042.jpg"
    picture = Image.open(path)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    with pytest.raises(UserError, match="30 × 40 pixels as it is shown, the annotation says 40 × 30"):
        coco.examples(path=str(directory))


CHATS = {
    "llava": (
        "{% for m in messages %}{{ m.role.upper() + ': ' }}"
        "{% for c in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "USER: <image>\n{} ASSISTANT:",
    ),
    "qwen2_vl": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<start><image><end>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_start|>user\n<start><image><end>{}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "gemma3": (
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<start>{% else %}{{ c.text | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<start_of_turn>user\n<start>{}<end_of_turn>\n<start_of_turn>model\n",
    ),
}


@pytest.mark.parametrize("family", CHATS)
def test_questions_stand_in_chats_as_published(directory, family):
    """The templates of LLaVA 1.5, Qwen-VL and Gemma 3, with the tiny processors' names for the image tokens."""
    model, processor = build(family)
    processor.chat_template, expected = CHATS[family]
    opened = Subject(model, processor)
    for spec, words in (("pope", LINES[0]["text"]), ("coco", "Please describe this image in detail.")):
        (example,) = open_task(f"{spec}:path={directory}").examples(None, 1, 0)
        assert render(opened, example, "chat")[0] == expected.format(words)


def test_mentions_take_the_longest_phrase_and_plurals():
    words = {"dog": "dog", "hot dog": "hot dog", "bus": "bus", "berry": "berry", "couch": "couch", "cat": "cat"}
    text = "Hot  dogs, a DOG, two buses; berries on couches. A category of cat's."
    assert [m.object for m in mentions(text, words)] == ["hot dog", "dog", "bus", "berry", "couch", "cat"]
    assert [text[m.start : m.end] for m in mentions(text, words)][:2] == ["Hot  dogs", "DOG"]
    assert mentions(text, {}) == []


def test_without_objects_nothing_is_judged():
    assert judge(Example("e", "g", ()), "a dog") == {}
    named = Example("e", "g", (), objects=Objects({"dog": "dog"}, frozenset()))
    assert judge(named, "a dog") == {"correct": [], "hallucinated": [(2, 5)]}


def test_unrelated_images_come_from_other_groups(directory):
    found = open_task(f"pope:path={directory}").examples(None, None, 0)
    blue = [e.unrelated[0].getpixel((3, 3))[2] > 200 for e in found]
    assert blue == [True, True, False]


def test_captions_of_scenes_know_their_objects():
    caption, colour = open_task("scenes:kinds=caption+colour").examples(None, 2, 0)
    there = {pair.split()[1] for pair in caption.meta["objects"].split(", ")}
    assert caption.objects.there == there
    assert set(caption.objects.words) > there
    assert colour.objects is None
    assert len(judge(caption, caption.answer)["correct"]) == len(there)
    assert judge(caption, caption.answer)["hallucinated"] == []
    assert caption.unrelated == () or caption.unrelated[0].size == (84, 84)

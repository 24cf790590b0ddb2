"""Published benchmarks from a few rows in their exact formats: answers, options, boxes, marks, and what is refused."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from crosslens.data.errors import UserError
from crosslens.data.local_or_hub import _index
from crosslens.data.tasks import gqa, open_task, vstar
from PIL import Image


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(map(json.dumps, content)) if path.suffix == ".jsonl" else json.dumps(content)
    path.write_text(lines)


def draw(path, size=(40, 30), colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def read(spec, n=None, **asked):
    return open_task(spec).examples(None, n, 0, **asked)


def shown(example, name):
    """What a mark of an example stands on."""
    return [s.content[a:b] for s in example.segments for a, b in s.marks.get(name, ())]


def hub(directory, columns: dict[str, list[Any]], split):
    datasets = pytest.importorskip("datasets")
    (directory / "data").mkdir(parents=True)
    made = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    made.to_parquet(str(directory / "data" / f"{split}-00000-of-00001.parquet"))
    return directory


# ---------------------------------------------------------------- GQA


def question(text, answer, kind, argument="", words=None, image="2370799"):
    """One entry of val_balanced_questions.json, with all of its fields."""
    steps = [{"operation": "select", "dependencies": [], "argument": "car (681267)"}]
    steps += [{"operation": "choose color", "dependencies": [0], "argument": argument}] if argument else []
    return {
        "semantic": steps,
        "entailed": [],
        "equivalent": ["0"],
        "question": text,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": "color", "local": "14-car_color"},
        "answer": answer,
        "semanticStr": "select: car (681267)->choose color [0]",
        "annotations": {"answer": {}, "question": words or {}, "fullAnswer": {"1": "681267"}},
        "types": {"detailed": kind, "semantic": "attr", "structural": "choose"},
        "fullAnswer": f"It is {answer}.",
    }


QUESTIONS = {
    "01": question("Is the car red or blue?", "red", "choose", "blue|red", {"2": "681267"}),
    "02": question("Is it a fire truck or a bus?", "bus", "objThisChoose", "fire truck|bus"),
    "03": question("Is the car left of or right of the red tree?", "left of", "relChooser", "x,left of|right of,s (9)")
    | {"annotations": {"question": {"2": "681267", "9:11": "9"}, "answer": {}, "fullAnswer": {}}},
    "04": question("What do both the car and the tree have in common?", "color", "twoCommon", "", {"4": "681267"}),
    "05": question("Is there a car or a bus in the picture?", "yes", "existThatOr", "", {"3": "681267"}),
    "06": question("On which side is the car?", "right", "positionQuery", "", {"5": "681267"}),
    "07": question("Who is wearing the hat?", "woman", "relS"),
}
GRAPH = {
    "width": 40,
    "height": 30,
    "location": "street",
    "weather": "sunny",
    "objects": {
        "681267": {"name": "car", "h": 10, "w": 20, "x": 1, "y": 2, "attributes": ["red"], "relations": []},
        "9": {"name": "tree", "h": 12, "w": 12, "x": 30, "y": 20, "attributes": [], "relations": []},
    },
}


@pytest.fixture
def gqa_files(tmp_path):
    put(tmp_path / "questions" / "val_balanced_questions.json", QUESTIONS)
    put(tmp_path / "sceneGraphs" / "val_sceneGraphs.json", {"2370799": GRAPH})
    draw(tmp_path / "images" / "2370799.jpg")
    return tmp_path


def test_gqa_has_six_subsets_in_turn(gqa_files):
    found = {e.meta["subset"]: e for e in read(f"gqa:{gqa_files}")}
    assert set(found) == set(gqa.SUBSETS)
    answers = {name: (e.answer, *e.wrong) for name, e in found.items()}
    assert answers == {
        "ChooseAttr": ("red", "blue"),
        "ChooseCat": ("bus", "fire truck"),
        "ChooseRel": ("left of", "right of"),
        "CompareAttr": ("color",),
        "LogicalObj": ("yes", "no"),
        "QueryAttr": ("right", "left"),
    }
    first = found["ChooseAttr"]
    assert [s.role for s in first.segments] == ["image", "question", "instruction"]
    assert first.segments[2].content == " \nAnswer the question using a single word or phrase."
    assert first.boxes == {"asked_object": [(1, 2, 21, 12)], "other_objects": [(30, 20, 40, 30)]}  # cut at the edge
    assert [shown(first, m) for m in ("asked_word", "true_option", "false_option")] == [["car"], ["red"], ["blue"]]
    relation = found["ChooseRel"]
    assert shown(relation, "asked_word") == ["car", "red tree"]
    assert shown(relation, "false_option") == ["right of"]
    assert len(relation.boxes["asked_object"]) == 2
    assert {e.group for e in found.values()} == {"gqa-2370799"}
    assert len(read(f"gqa:{gqa_files},subset=all")) == 7
    (raw,) = read(f"gqa:{gqa_files},subset=ChooseAttr,opening=\\n", template="raw")
    assert (raw.answer, shown(raw, "asked_word")) == (" red", ["car"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda d: put(d / "sceneGraphs" / "val_sceneGraphs.json", {}),
            "question 0.: val_sceneGraphs.json has no image",
        ),
        (lambda d: draw(d / "images" / "2370799.jpg", (30, 40)), "has 30 × 40 pixels, the scene graph says"),
        (lambda d: (d / "images" / "2370799.jpg").unlink(), "question 0.: task gqa: no file 2370799.jpg"),
        (
            lambda d: put(
                d / "sceneGraphs" / "val_sceneGraphs.json", {"2370799": GRAPH | {"objects": {"1": {"x": 1}}}}
            ),
            "object 1: no field y",
        ),
    ],
)
def test_gqa_that_is_broken(gqa_files, change, why):
    change(gqa_files)
    with pytest.raises(UserError, match=why):
        read(f"gqa:{gqa_files}")
    broken: list[str] = []
    with pytest.raises(UserError, match="all 6 rows were left out, the first for"):
        read(f"gqa:{gqa_files}", broken=broken)
    assert len(broken) == 6


# ---------------------------------------------------------------- VQA v2, TextVQA

TEN = [{"answer": "net" if i else "mesh", "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)]
ASKED = [
    {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
    {"image_id": 262148, "question": "Is it raining?", "question_id": 262148001},
]
TOLD = [
    {
        "question_type": kind,
        "multiple_choice_answer": answer,
        "answers": ten,
        "image_id": 262148,
        "answer_type": answer_type,
        "question_id": number,
    }
    for kind, answer, ten, answer_type, number in (
        ("where is the", "net", TEN, "other", 262148000),
        ("is it", "no", [one | {"answer": "no"} for one in TEN], "yes/no", 262148001),
    )
]


def test_vqav2(tmp_path):
    head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    put(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", head | {"task_type": "Open-Ended", "questions": ASKED})
    put(tmp_path / "v2_mscoco_val2014_annotations.json", head | {"annotations": TOLD})
    draw(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg")
    net, rain = read(f"vqav2:{tmp_path}")
    assert (net.answer, net.wrong, net.meta["agreed"], net.meta["kind"]) == ("net", (), 9, "other")
    assert (rain.answer, rain.wrong, rain.group) == ("no", ("yes",), "vqav2-262148")
    assert net.segments[1].content + net.segments[2].content == (
        "Where is he looking?\nAnswer the question using a single word or phrase."
    )
    assert [e.id for e in read(f"vqav2:{tmp_path},kind=yes/no")] == ["vqav2-262148001"]
    put(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": TOLD[:1]})
    with pytest.raises(UserError, match="question 262148001: no field multiple_choice_answer"):
        read(f"vqav2:{tmp_path}")
    assert len(read(f"vqav2:{tmp_path}", broken=[])) == 1


def test_vqav2_of_the_hub(tmp_path):
    columns = {name: [row[name] for row in TOLD] for name in TOLD[0]}
    columns |= {"question": [row["question"] for row in ASKED], "image": [Image.new("RGB", (40, 30))] * 2}
    place = hub(tmp_path / "set", columns, "validation")
    net, rain = read(f"vqav2:hub={place}")
    assert (net.answer, rain.wrong, net.meta["agreed"]) == ("net", ("yes",), 9)


READING = {
    "question": "what is the brand of this camera?",
    "image_id": "003a8ae2ef43b901",
    "image_classes": ["Cassette deck", "Camera"],
    "flickr_original_url": "https://farm2.staticflickr.com/a.jpg",
    "flickr_300k_url": "https://c4.staticflickr.com/b.jpg",
    "image_width": 1024,
    "image_height": 664,
    "answers": ["dakota digital", "nous les gosses", *["dakota"] * 4, *["dakota digital"] * 4],
    "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
    "question_id": 34602,
    "set_name": "val",
}
NAMES = ("word", "left", "top", "width", "height")
SEEN = [("DAKOTA", 0.25, 0.5, 0.25, 0.1), ("DIGITAL", 0.5, 0.5, 0.6, 0.1), ("6", 0.0, 0.0, 0.1, 0.1), (".", 0, 0, 0, 0)]


def ocr(word, left, top, width, height):
    turned = {"rotation": 3.2, "roll": 0, "pitch": 0, "yaw": 0}
    box = {"top_left_x": left, "top_left_y": top, "width": width, "height": height, **turned}
    return {"word": word, "bounding_box": box}


def test_textvqa(tmp_path):
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    put(tmp_path / "TextVQA_0.5.1_val.json", head | {"data": [READING]})
    draw(tmp_path / "train_images" / f"{READING['image_id']}.jpg")
    (bare,) = read(f"textvqa:{tmp_path}")
    _index.cache_clear()
    assert (bare.answer, bare.wrong, bare.meta["agreed"], bare.boxes) == ("dakota digital", (), 5, {})
    words = {"image_id": READING["image_id"], "ocr_tokens": [w for w, *_ in SEEN], "ocr_info": [ocr(*w) for w in SEEN]}
    put(tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [words]})
    (example,) = read(f"textvqa:{tmp_path}")
    assert example.boxes == {"answer_text": [(10, 15, 20, 18), (20, 15, 40, 18)], "other_text": [(0, 0, 4, 3)]}
    put(tmp_path / "TextVQA_0.5.1_test.json", head | {"data": [READING | {"answers": [""] * 10}]})
    _index.cache_clear()
    with pytest.raises(UserError, match="question 34602: no answers"):
        read(f"textvqa:{tmp_path},part=test")


def test_textvqa_of_the_hub(tmp_path):
    columns = {name: [value] for name, value in READING.items()} | {"image": [Image.new("RGB", (40, 30))]}
    (example,) = read(f"textvqa:hub={hub(tmp_path / 'set', columns, 'validation')}")
    assert (example.id, example.answer, example.boxes) == ("textvqa-34602", "dakota digital", {})


# ---------------------------------------------------------------- RefCOCO, V*


def test_refcoco(tmp_path):
    name = "COCO_train2014_000000581857.jpg"
    line = {"image": f"data/refcoco/train2014/{name}", "sent": "woman in red", "bbox": [1.2, 2.0, 41.0, 20.0]}
    put(tmp_path / "refcoco_val.jsonl", [line | {"height": 30, "width": 40}])
    draw(tmp_path / "train2014" / name)
    (example,) = read(f"refcoco:{tmp_path}")
    assert (example.text, example.answer) == ("Where is woman in red?", "")
    assert example.boxes == {"asked_object": [(1, 2, 40, 20)]}  # cut at the edge
    assert shown(example, "expression") == ["woman in red"]
    (raw,) = read(f"refcoco:{tmp_path},opening=\\n,question=Find {{}}.")
    assert (raw.text, shown(raw, "expression")) == ("\nFind woman in red.", ["woman in red"])
    put(tmp_path / "refcoco_val.jsonl", [line | {"bbox": [0, 0, 80, 20]}])
    with pytest.raises(UserError, match=r"refcoco_val\.jsonl, line 1: bbox lies outside the picture"):
        read(f"refcoco:{tmp_path}")
    with pytest.raises(UserError, match=r"needs one \{\} for the expression"):
        read(f"refcoco:{tmp_path},question=Where?")


def test_refcoco_of_the_hub(tmp_path):
    columns = {
        "question_id": ["469306"],
        "image": [Image.new("RGB", (40, 30))],
        "question": ["Please carefully observe the area circled in the image"],
        "answer": [["guy petting elephant", "foremost person"]],
        "segmentation": [[1.0, 2.0, 3.0, 4.0]],
        "bbox": [[5.0, 6.0, 10.0, 12.0]],
        "iscrowd": [0],
        "file_name": ["COCO_train2014_000000296747_0.jpg"],
    }
    (example,) = read(f"refcoco:hub={hub(tmp_path / 'set', columns, 'val')}")
    assert example.id == "refcoco-val-469306"
    assert example.text == "Where is guy petting elephant?"
    assert example.boxes == {"asked_object": [(5, 6, 15, 18)]}


V_TEXT = (
    "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\nAnswer with the option's "
)
V_LINE = {
    "image": "direct_attributes/sa_4690.jpg",
    "text": f"{V_TEXT}letter from the given choices directly.",
    "category": "direct_attributes",
    "label": "B",
    "question_id": "0",
}
V_BOX = {"target_object": ["glove"], "bbox": [[5, 6, 10, 12]], "question": "What is it?", "options": ["A", "B"]}


@pytest.fixture
def vstar_files(tmp_path):
    second = V_LINE | {"image": "relative_position/sa_1.jpg", "category": "relative_position", "question_id": "1"}
    put(tmp_path / "test_questions.jsonl", [V_LINE, second])
    for kind, name in zip(vstar.CATEGORIES, ("sa_4690", "sa_1"), strict=True):
        draw(tmp_path / kind / f"{name}.jpg")
        put(tmp_path / kind / f"{name}.json", V_BOX)
    return tmp_path


def test_vstar(vstar_files):
    first, second = read(f"vstar:{vstar_files}")
    assert (first.answer, first.wrong) == ("B", ("A", "C", "D"))
    assert first.boxes == {"asked_object": [(5, 6, 15, 18)]}
    assert shown(first, "true_option") == ["cotton"]
    assert (second.group, second.meta["objects"]) == ("vstar-sa_1", "glove")
    assert [e.id for e in read(f"vstar:{vstar_files},category=relative_position")] == ["vstar-1"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (V_LINE | {"label": "E"}, "line 1: the label 'E' is none of the options"),
        (V_LINE | {"image": "direct_attributes/gone.jpg"}, "line 1: task vstar: no file gone.jpg"),
        ({"category": "direct_attributes"}, "line 1: no field image"),
    ],
)
def test_vstar_that_is_broken(vstar_files, line, why):
    put(vstar_files / "test_questions.jsonl", [line, V_LINE])
    with pytest.raises(UserError, match=why):
        read(f"vstar:{vstar_files}")
    assert len(read(f"vstar:{vstar_files}", broken=[])) == 1


NEEDY = {"gqa": "val_balanced_questions.json", "vqav2": "v2_OpenEnded", "textvqa": "TextVQA_0.5.1_val.json"}
NEEDY |= {"refcoco": "refcoco_val.jsonl", "vstar": "test_questions.jsonl"}


@pytest.mark.parametrize(("name", "where"), [*product(NEEDY, ("", "/no/such/place", "empty"))])
def test_files_that_are_not_there(tmp_path, name, where):
    spec = f"{name}:path={tmp_path if where == 'empty' else where}" if where else name
    why = {"": f"--task {name}:path=DIRECTORY", "empty": f"no file {NEEDY[name]}"}.get(where, "no directory")
    with pytest.raises(UserError, match=why):
        read(spec)


@pytest.mark.parametrize(
    ("spec", "why"),
    [("gqa:subset=Attr", "no subset 'Attr'"), ("vqav2:kind=yes", "no kind"), ("vstar:category=x", "no c")],
)
def test_parts_that_are_not_there(tmp_path, spec, why):
    name, _, option = spec.partition(":")
    for file in ("val_balanced_questions.json", "val_sceneGraphs.json"):
        put(tmp_path / file, {})
    with pytest.raises(UserError, match=why):
        read(f"{name}:{tmp_path},{option}")

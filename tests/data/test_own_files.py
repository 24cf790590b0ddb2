"""A user's own file, folder, module or data set: what is read, and every way to break it as one line by place."""

from __future__ import annotations

import csv
import io
import json

import pytest
from crosslens.data.digest import digest_of
from crosslens.data.errors import UserError
from crosslens.data.tasks import Task, open_task, reopen
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

CAPITALS = [
    {
        "prompt": "The capital of France is",
        "answer": "Paris",
        "wrong": ["Rome", "Madrid"],
        "corrupt_prompt": "The capital of Italy is",
        "marks": {"subject": "France", "start": [0, 3]},
        "group": "Europe",
        "kind": "capital",
    },
    {"prompt": "Bonn lies on the", "answer": " Rhine", "wrong": "Elbe", "corrupt_prompt": None, "marks": None}
    | {"group": "rivers", "kind": "river"},
]
SHAPE = {"prompt": "What is it?", "image": "red.png", "answer": "ball"}


@pytest.fixture
def pictures(tmp_path):
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def written(directory, rows, name="own.jsonl"):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (directory / name).write_text(text + "\n")
    return directory / name


def read(path, *options, broken=None, **asked):
    task = open_task(",".join([f"file:{path}", *options]))
    return task.examples(None, asked.get("n"), 0, template=asked.get("template"), broken=broken)


def test_json_lines_of_text(tmp_path):
    first, second = read(written(tmp_path, CAPITALS))
    assert (first.id, first.group, first.meta) == ("own-1", "Europe", {"kind": "capital"})
    assert (first.answer, first.wrong) == (" Paris", (" Rome", " Madrid"))
    (segment,) = first.segments
    assert (segment.role, segment.marks) == ("text", {"subject": [(15, 21)], "start": [(0, 3)]})
    assert (first.corrupt.text, first.corrupt.answer, first.corrupt.wrong) == (
        "The capital of Italy is",
        " Rome",
        (" Paris",),
    )
    assert (second.answer, second.wrong, second.corrupt) == (" Rhine", (" Elbe",), None)


@pytest.mark.parametrize("form", ["raw", "chat", "Q: {question}\nA:", "Q: {question}\nA: ", "{question}"])
def test_answers_follow_the_form(tmp_path, form):
    (example, _) = read(written(tmp_path, CAPITALS), template=form)
    assert example.answer == ("Paris" if form in ("chat", "Q: {question}\nA: ") else " Paris")
    (example, _) = read(written(tmp_path, CAPITALS), "prefix=+", template=form)
    assert example.answer == "+Paris"


def as_csv(rows, end="\n", encoding="utf-8", separator=","):
    file = io.StringIO()
    heads = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, heads, lineterminator=end, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
    return file.getvalue().encode(encoding)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_every_way_to_write_a_table_says_the_same(tmp_path, end, encoding, kind):
    expected = read(written(tmp_path, CAPITALS, "same.jsonl"))
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / f"same.{kind}"
    lines = end.join(map(json.dumps, CAPITALS)).encode(encoding)
    path.write_bytes(lines if kind == "jsonl" else as_csv(CAPITALS, end, encoding, "\t" if kind == "tsv" else ","))
    found = read(path)
    assert [e.text for e in found] == [e.text for e in expected]
    assert [(e.answer, e.wrong, e.meta, e.group) for e in found] == [
        (e.answer, e.wrong, e.meta, e.group) for e in expected
    ]
    assert found[0].segments == expected[0].segments


@given(prompt=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip))
def test_any_text_survives_both_kinds_of_file(tmp_path_factory, prompt):
    if "<image>" in prompt:
        return
    directory = tmp_path_factory.mktemp("text")
    lines = written(directory, [{"prompt": prompt}])
    (directory / "own.csv").write_bytes(as_csv([{"prompt": prompt}]))
    for path in (lines, directory / "own.csv"):
        (example,) = read(path)
        assert example.text == prompt


def test_pictures_boxes_and_their_places(pictures):
    boxes = {"thing": [1, 2, 30, 20], "other": [[0, 0, 5, 5], [5, 5, 40, 30]]}
    rows = [SHAPE | {"boxes": boxes}, {"prompt": "<image>Here\n<image>there?", "image": ["red.png", "blue.png"]}]
    rows = [rows[0], rows[1] | {"answer": "yes", "boxes": None}]
    one, two = read(written(pictures, rows))
    assert [s.role for s in one.segments] == ["image", "question"]
    assert one.boxes == {"thing": [(1, 2, 30, 20)], "other": [(0, 0, 5, 5), (5, 5, 40, 30)]}
    assert [s.role for s in two.segments] == ["image", "question", "image", "question"]
    assert [s.content for s in two.segments if s.role == "question"] == ["Here\n", "there?"]
    twin = {"corrupt_image": "blue.png", "wrong": "cube", "marks": {"asked": "it"}}
    (example,) = read(written(pictures, [SHAPE | twin]))
    assert example.corrupt.images[0].getpixel((1, 1)) == (0, 0, 255)
    assert example.corrupt.segments[1].marks == example.segments[1].marks == {"asked": [(8, 10)]}


def test_the_same_picture_is_one_group_whatever_its_name(pictures):
    Image.new("RGB", (40, 30), "red").save(pictures / "again.bmp")
    rows = [SHAPE, SHAPE | {"image": "again.bmp"}, SHAPE | {"image": "blue.png"}]
    first, again, other = (e.group for e in read(written(pictures, rows)))
    assert first == again != other


def test_columns_may_have_other_names(pictures):
    rows = [{"question": "What is it?", "picture": "red.png", "label": "ball", "number": 3}]
    (example,) = read(written(pictures, rows), "prompt=question", "image=picture", "answer=label")
    assert (example.answer, example.meta) == (" ball", {"number": 3})
    with pytest.raises(UserError, match="line 1: no column 'lable'; there are question, picture, label"):
        read(written(pictures, rows), "prompt=question", "answer=lable")


def test_two_rows_with_one_id(tmp_path):
    path = written(tmp_path, [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y"}, {"prompt": "c", "id": "x"}])
    with pytest.raises(UserError, match=r"own\.jsonl, line 3: the id 'own-x' is that of .*own\.jsonl, line 1 too"):
        read(path)
    assert [e.id for e in read(path, broken=[])] == ["own-x", "own-y"]


def test_a_folder_with_one_question(pictures):
    for kind in ("cats", "dogs"):
        (pictures / "animals" / kind).mkdir(parents=True)
        Image.new("RGB", (9, 9), "red" if kind == "cats" else "blue").save(pictures / "animals" / kind / "one.png")
    asked = ("question=What animal is it?", "answer=folder")
    cat, dog = read(pictures / "animals", *asked)
    assert (cat.id, cat.answer, cat.text) == ("animals-cats/one.png", " cats", "What animal is it?")
    assert dog.answer == " dogs"
    assert len({cat.group, dog.group}) == 2
    (pictures / "none").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        read(pictures / "none", *asked)


GOOD = {"prompt": "Is it red?", "image": "red.png", "answer": "yes", "wrong": "no", "boxes": None, "marks": None}
BROKEN = [
    ("{broken", "not JSON"),
    ('["a list"]', "an object"),
    ({"image": "red.png"}, "no column 'prompt'; there are image"),
    ({k: v for k, v in GOOD.items() if k != "answer"}, "no column 'answer'; there are prompt, image, wrong"),
    (GOOD | {"answer": 3}, "column 'answer': 3 is int, text is needed"),
    (GOOD | {"answer": ""}, "column 'answer' is empty"),
    (GOOD | {"wrong": ["no", None]}, "column 'wrong': None is NoneType"),
    (GOOD | {"wrong": "yes"}, "'yes' is among the wrong ones"),
    (GOOD | {"prompt": ["Is it?"]}, "column 'prompt': .* is list"),
    (GOOD | {"prompt": "<image> and <image>?"}, "2 × <image> in the prompt for 1 image"),
    (GOOD | {"prompt": "<image>?", "image": None}, "1 × <image> in the prompt for 0 image"),
    (GOOD | {"image": "gone.png"}, "column 'image': no image at .*gone.png"),
    (GOOD | {"image": "text.png"}, "is not an image that Pillow can read"),
    (GOOD | {"image": "cut.png"}, "is not a readable image"),
    (GOOD | {"image": "deep.tiff"}, "32-bit pixels"),
    (GOOD | {"image": "long.png"}, "200 times as long as wide"),
    (GOOD | {"image": "https://a.b/c.png"}, "is an address: save the picture"),
    (GOOD | {"image": 5}, "int is no picture"),
    (
        GOOD | {"boxes": {"thing": [0, 0, 41, 30]}},
        r"the box 'thing' lies outside the picture: \[0, 0, 41, 30\] of 40 × 30",
    ),
    (GOOD | {"boxes": {"thing": [-1, 0, 4, 3]}}, "lies outside"),
    (GOOD | {"boxes": {"thing": [9, 0, 9, 3]}}, "is empty"),
    (GOOD | {"boxes": {"thing": [1, 2, 3]}}, "the box 'thing'"),
    (GOOD | {"boxes": {"thing": ["a", 0, 9, 3]}}, "four numbers"),
    (GOOD | {"boxes": [1, 2, 3, 4]}, "an object"),
    (GOOD | {"boxes": {"image": [0, 0, 4, 4]}}, "cannot be called 'image'"),
    (GOOD | {"boxes": {"thing": [0, 0, 4, 4]}, "image": None}, "boxes need one picture, the row has 0"),
    (GOOD | {"marks": {"asked": "green"}}, "'green' is no word of the prompt"),
    (GOOD | {"marks": {"asked": "e"}}, "'e' is no word"),
    (GOOD | {"marks": {"asked": [3, 99]}}, "no span of a prompt of 10 characters"),
    (GOOD | {"marks": {"asked": 7}}, "a word, a span"),
    (GOOD | {"marks": {"question": "red"}}, "cannot be called 'question'"),
    (GOOD | {"prompt": "<image>Is it?", "marks": {"asked": [5, 9]}}, "lies across <image>"),
    (GOOD | {"condition": "x"}, "column 'condition'"),
    (GOOD | {"corrupt_image": "small.png"}, "not as many and as large"),
]


@pytest.fixture(scope="module")
def broken_file(tmp_path_factory):
    """One good row, all the broken ones, a good row."""
    directory = tmp_path_factory.mktemp("broken")
    Image.new("RGB", (40, 30), "red").save(directory / "red.png")
    Image.new("RGB", (4, 3)).save(directory / "small.png")
    Image.new("F", (4, 4)).save(directory / "deep.tiff")
    Image.new("RGB", (20_000, 10)).save(directory / "long.png")
    (directory / "text.png").write_text("no picture")
    (directory / "cut.png").write_bytes((directory / "red.png").read_bytes()[:60])
    return written(directory, [GOOD, *(row for row, _ in BROKEN), GOOD | {"id": "last"}])


def test_broken_rows_are_counted_and_named(broken_file):
    broken: list[str] = []
    found = read(broken_file, broken=broken)
    assert [e.id for e in found] == ["own-1", "own-last"]
    assert len(broken) == len(BROKEN)
    for line, number in zip(broken, range(2, len(BROKEN) + 2), strict=True):
        assert f"own.jsonl, line {number}" in line
        assert "\n" not in line
    assert read(broken_file, n=1)[0].id == "own-1"


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_a_broken_row_is_refused_by_file_and_line(broken_file, number):
    row, why = BROKEN[number]
    path = written(broken_file.parent, [GOOD, "", row], f"one{number}.jsonl")
    with pytest.raises(UserError, match=rf"one{number}\.jsonl, line 3.*{why}"):
        read(path)


TABLES = [
    (b"", "line 1: the names of the columns"),
    (b"prompt,prompt\na,b\n", "line 1: two columns are named 'prompt'"),
    (b"prompt,\na,b\n", "line 1: a column has no name"),
    (b"prompt;answer\na;b\n", "line 1: the columns are separated by ';'"),
    (b"prompt,answer\n", "has no rows"),
    (b"prompt,answer\na,b,c\n", "line 2: 3 cells for 2 columns"),
    (b'prompt,answer\na,b\n"open,b\n', "line 3: not CSV"),
    (b'prompt,answer\n"two\nlines",b\n,c\n', "line 4: the column 'prompt' is empty"),
    (b"prompt,answer\n\xff,b\n", "is not UTF-8"),
    ("prompt,answer\na,b\n".encode("utf-16"), "is not UTF-8"),
    (b'prompt,boxes\na,"{broken"\n', "line 2, column 'boxes': not JSON"),
]


@pytest.mark.parametrize(("content", "why"), TABLES)
def test_broken_tables(tmp_path, content, why):
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(UserError, match=why):
        read(tmp_path / "own.csv")


def test_what_is_no_table(tmp_path):
    (tmp_path / "own.xlsx").write_bytes(b"PK")
    for path, why in ((tmp_path / "own.xlsx", "not as '.xlsx'"), (tmp_path / "none.csv", "no file or folder")):
        with pytest.raises(UserError, match=why):
            read(path)
    (tmp_path / "own.jsonl").write_bytes('{"prompt": "a"}'.encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        read(tmp_path / "own.jsonl")
    with pytest.raises(UserError, match="needs a file"):
        open_task("file").examples(None, None, 0)
    with pytest.raises(UserError, match=r"--task file:.*own\.jsonl"):
        open_task(str(tmp_path / "own.jsonl"))
    with pytest.raises(UserError, match="reads no rows that could be broken"):
        open_task("arithmetic").examples(None, 1, 0, broken=[])


def test_turned_and_animated_pictures(pictures):
    """A box is stated for the picture as it is shown; of an animation the first frame is, with a warning."""
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(pictures / "turned.jpg", exif=exif)
    (example,) = read(written(pictures, [SHAPE | {"image": "turned.jpg", "boxes": {"thing": [0, 0, 30, 40]}}]))
    assert example.images[0].size == (30, 40)
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(pictures / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="2 frames"):
        (example,) = read(written(pictures, [SHAPE | {"image": "two.gif"}]))
    assert example.images[0].getpixel((1, 1))[0] > 200


def test_held_out_rows_are_others(tmp_path):
    path = written(tmp_path, [{"prompt": f"Number {i} is"} for i in range(20)])
    task = open_task(f"file:{path}")
    used = task.examples(None, 8, 0)
    others = task.held_out(None, 6, 0, used)
    assert len(others) == 6
    assert {e.text for e in others}.isdisjoint({e.text for e in used})


MODULE = '''"""Counting, by hand"""
from crosslens.data.example import Example, Segment

def examples(n=None, seed=0, *, tokenizer=None, start=1):
    made = [Example(f"c{i}", f"c{i}", (Segment("text", f"{i} {i + 1}"),), f" {i + 2}") for i in range(start, start + 5)]
    return made[:n]
'''


def test_a_module_of_the_users(tmp_path):
    (tmp_path / "counting.py").write_text(MODULE)
    task = open_task(f"{tmp_path}/counting.py:start=3")
    assert (task.name, task.title, task.options) == ("counting.py", "Counting, by hand", {"start": 3})
    assert [e.text for e in task.examples(None, 2, 0)] == ["3 4", "4 5"]
    assert (task.module.TEMPLATE, task.module.BOS, task.module.VERSION) == ("raw", None, 1)
    facts = {"name": task.name, **task.facts(task.examples(None, 2, 0))}
    assert reopen(facts).options == {"start": 3}
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "counting.py").write_text(MODULE)
    again = reopen(facts, f"{tmp_path}/moved/counting.py")
    assert again.facts(again.examples(None, 2, 0)) | {"location": ""} == task.facts(task.examples(None, 2, 0)) | {
        "location": ""
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("examples = 3\n", "has no function examples"),
        ("def examples(n=None):\n    return []\n", "examples takes no 'seed'"),
        ("def examples(n, seed, tokenizer:\n", "line 1: not Python"),
        (MODULE.replace("made[:n]", "['text']"), "example 1 is str, an Example"),
        (MODULE.replace('f" {i + 2}"', "i"), "the answer 1 is int, text is needed"),
        (MODULE.replace('f"c{i}", f"c{i}"', '"c", "c"'), "two examples the same id, 'c'"),
        (MODULE.replace('Segment("text"', 'Segment("reader"'), "no role 'reader'"),
        (MODULE.replace('{i + 1}")', '{i + 1}", {"m": [(0, 99)]})'), "lies outside its text"),
    ],
)
def test_a_module_that_is_no_task(tmp_path, text, why):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=why):
        open_task(f"{tmp_path}/own.py").examples(None, None, 0)


def test_a_bug_of_the_module_keeps_its_traceback(tmp_path):
    (tmp_path / "own.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError):
        open_task(f"{tmp_path}/own.py")
    with pytest.raises(UserError, match="no task module"):
        open_task(f"{tmp_path}/none.py")


def test_content_is_what_is_shown_not_where_it_lies(pictures):
    path = written(pictures, [SHAPE])
    first = digest_of(read(path))
    Image.open(pictures / "red.png").save(pictures / "red.bmp")
    assert digest_of(read(written(pictures, [SHAPE | {"image": "red.bmp"}]))) == first
    for change in ({"answer": "cube"}, {"prompt": "What was it?"}, {"image": "blue.png"}, {"marks": {"asked": "it"}}):
        assert digest_of(read(written(pictures, [SHAPE | change]))) != first
    assert digest_of(read(written(pictures, [SHAPE | {"boxes": {"thing": [0, 0, 3, 3]}}]))) != first


def test_a_data_set_of_the_hub_by_its_columns(pictures):
    datasets = pytest.importorskip("datasets")
    shown = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    columns = {"question": ["What is it?"] * 2, "label": ["ball", "cube"], "photo": shown, "year": [1999, 2000]}
    place = pictures / "set" / "data"
    place.mkdir(parents=True)
    made = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
    made.to_parquet(str(place / "test-00000-of-00001.parquet"))
    asked = "prompt=question,image=photo,answer=label"
    task = open_task(f"hub:{pictures}/set:test,{asked}")
    one, two = task.examples(None, None, 0)
    assert (one.id, one.answer, two.answer, two.meta) == ("set-1", "ball", "cube", {"year": 2000})
    assert two.images[0].getpixel((3, 3)) == (0, 0, 255)
    assert task.name == "set:test"
    with pytest.raises(UserError, match="set, row 1: no column 'prompt'; there are question, label"):
        open_task(f"hub:{pictures}/set:test").examples(None, None, 0)
    with pytest.raises(UserError, match="OWNER/SET:SPLIT"):
        open_task("hub:owner/set").examples(None, None, 0)
    with pytest.raises(UserError, match="cannot get"):
        open_task(f"hub:{pictures}/none:test").examples(None, None, 0)


def test_tasks_of_the_project_keep_their_keys():
    task = open_task("arithmetic:digits=2")
    assert task.facts([]) == {"options": {"digits": 2}}
    assert open_task("pope:hub=owner/set").facts([])["location"] == ""
    assert isinstance(reopen({"name": "arithmetic", "options": {"digits": 2}}), Task)


def test_marks_of_the_twin_are_the_words_that_it_has(pictures):
    """A span stays where the prompt does; in another prompt only words keep their name."""
    marks = {"he": "he", "both": ["sees", "tree"], "span": [0, 2]}
    row = {"prompt": "he sees the tree", "marks": marks, "corrupt_prompt": "she sees the tree"}
    (example,) = read(written(pictures, [row]))
    assert example.segments[0].marks == {"he": [(0, 2)], "both": [(3, 7), (12, 16)], "span": [(0, 2)]}
    assert example.corrupt.segments[0].marks == {"both": [(4, 8), (13, 17)]}
    (example,) = read(
        written(pictures, [row | {"corrupt_prompt": None, "image": "red.png", "corrupt_image": "blue.png"}])
    )
    assert example.corrupt.segments[1].marks == example.segments[1].marks

"""Runs on a user's own data: named by its content, verified, moved, and with broken rows left out by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from crosslens import Subject, cli
from crosslens.analyses.flow import head_divergence
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.data.tasks import open_task
from crosslens.probes.runs import store, verify
from crosslens.probes.runs.preview import preview
from crosslens.probes.runs.run import Settings, run
from PIL import Image

from .helpers import tiny
from .helpers.vision_subjects import build

ANALYSES = {"lenses": (lenses, lenses.Options(sites=("resid",)))}
ROWS = [{"prompt": f"w{i} w{i + 1} w{i + 2}", "answer": f"w{i + 3}", "wrong": f"w{i}", "kind": "odd"} for i in range(8)]
MODULE = '''"""Counting words"""
from crosslens.data.example import Example, Segment

def examples(n=None, seed=0, *, tokenizer=None, first=1):
    made = [(f"c{i}", Segment("text", f"w{i} w{i + 1}"), f" w{i + 2}", f" w{i}") for i in range(first, first + 6)]
    return [Example(id, id, (text,), answer, (wrong,)) for id, text, answer, wrong in made][:n]
'''


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


def written(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def go(subject, spec, out, analyses=ANALYSES, **asked):
    (directory,) = run(subject, open_task(spec), analyses, Settings(out=out, **asked))
    return directory, store.read_record(directory)


def proved(directory, subject, place=None, module=lenses):
    lines: list[str] = []
    verify.verify(
        directory, subject, verify.task_of(verify.open_run(directory), place), module, sample=9, say=lines.append
    )
    return lines


def test_a_run_is_named_by_its_files_content_not_their_place(subject, tmp_path):
    one, record = go(subject, f"file:{written(tmp_path / 'a' / 'own.jsonl')}", tmp_path)
    assert one.name.startswith("lenses.tiny-llama.own.jsonl.")
    assert (record["task"]["name"], record["task"]["title"]) == (
        "own.jsonl",
        "Your own examples, from a file or a folder of pictures (own.jsonl)",
    )
    assert record["task"]["options"] == {}
    assert go(subject, f"file:{written(tmp_path / 'b' / 'own.jsonl')}", tmp_path)[0] == one
    changed = written(tmp_path / "c" / "own.jsonl", [*ROWS[:-1], ROWS[-1] | {"answer": "w50"}])
    assert go(subject, f"file:{changed}", tmp_path)[0] != one
    assert any("Answers are read as written" in note for note in record["notes"])


def test_a_run_of_a_file_is_verified_and_a_change_of_the_file_is_said(subject, tmp_path):
    path = written(tmp_path / "own.jsonl")
    directory, _ = go(subject, f"file:{path}", tmp_path)
    assert "examples  8 of own.jsonl, drawn again" in proved(directory, subject)
    moved = path.rename(tmp_path / "moved.jsonl")
    with pytest.raises(UserError, match=r"no file or folder .*own\.jsonl"):
        proved(directory, subject)
    written(path, [*ROWS[:-1], ROWS[-1] | {"kind": "even"}])
    with pytest.raises(UserError, match=r"own\.jsonl changed since the run \(sha256 .*run it again"):
        proved(directory, subject)
    with pytest.raises(UserError, match="changed since the run"):
        proved(directory, subject, str(path))
    moved.rename(path)
    assert proved(directory, subject, str(path))


def test_a_module_is_verified_and_a_change_of_it_is_said(subject, tmp_path):
    path = tmp_path / "counting.py"
    path.write_text(MODULE)
    directory, record = go(subject, f"{path}:first=2", tmp_path)
    assert (record["task"]["options"], record["task"]["title"]) == ({"first": 2}, "Counting words")
    assert proved(directory, subject)
    path.write_text(MODULE + "# a remark\n")
    with pytest.raises(UserError, match=r"counting\.py changed since the run"):
        proved(directory, subject)
    assert go(subject, f"{path}:first=2", tmp_path)[0] != directory


def test_a_picture_that_changed_is_said(tmp_path):
    opened = Subject(*build("llava"), name="tiny-llava")
    Image.new("RGB", (12, 8), "red").save(tmp_path / "one.png")
    Image.new("RGB", (12, 8), "green").save(tmp_path / "two.png")
    rows = [
        {"prompt": f"w{i}", "image": f"{name}.png", "answer": "w3", "wrong": "w4"} for i in (1, 2) for name in NAMES
    ]
    path = written(tmp_path / "own.jsonl", rows)
    module = {"head_divergence": (head_divergence, head_divergence.Options())}
    directory, record = go(opened, f"file:{path}", tmp_path, module)
    assert record["task"]["n_groups"] == 2
    Image.new("RGB", (12, 8), "blue").save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"what own\.jsonl shows or asks changed since the run \(a picture"):
        proved(directory, opened, module=head_divergence)


NAMES = ("one", "two")


def test_broken_rows_are_left_out_counted_and_named(subject, tmp_path):
    long = {"prompt": " ".join(["w1"] * 5000), "answer": "w2", "wrong": "w3"}
    broken = [ROWS[0] | {"answer": 3}, "{broken", ROWS[0] | {"marks": {"subject": "w"}}]
    path = written(tmp_path / "own.jsonl", [*ROWS, *broken])
    with pytest.raises(UserError, match=r"own\.jsonl, line 9, column 'answer'"):
        go(subject, f"file:{path}", tmp_path)
    directory, record = go(subject, f"file:{path}", tmp_path, skip_broken=True)
    assert record["task"]["n"] == 8
    assert [line.partition(":")[0] for line in record["task"]["left_out"]] == [
        "own.jsonl, line 9, column 'answer'",
        "own.jsonl, line 10",
        "own.jsonl, line 11",
    ]
    (note,) = (note for note in record["notes"] if "left out" in note)
    assert note.startswith("3 broken rows were left out (--skip-broken): own.jsonl, line 9")
    assert str(tmp_path) not in note
    assert proved(directory, subject)
    written(path, [long, *ROWS])
    lines = preview(subject, open_task(f"file:{path}"), ANALYSES, Settings(out=tmp_path, skip_broken=True))
    assert any("8 examples" in line or "9 examples" in line for line in lines)


def test_rows_that_this_model_cannot_be_shown_are_left_out_too(subject, tmp_path):
    Image.new("RGB", (12, 8)).save(tmp_path / "one.png")
    path = written(tmp_path / "own.jsonl", [*ROWS, ROWS[0] | {"image": "one.png"}])
    with pytest.raises(UserError, match="reads no images"):
        go(subject, f"file:{path}", tmp_path)
    _, record = go(subject, f"file:{path}", tmp_path, skip_broken=True)
    assert record["task"]["n"] == 8
    assert "reads no images" in record["task"]["left_out"][0]


def test_the_form_of_the_prompts_is_in_the_key_and_in_the_answers(subject, tmp_path):
    path = written(tmp_path / "own.jsonl")
    raw, _ = go(subject, f"file:{path}", tmp_path)
    asked, record = go(subject, f"file:{path}", tmp_path, template="w9 {question} w10")
    assert asked != raw
    assert record["task"]["template"] == "w9 {question} w10"
    assert [s for s, role in record["example"]["segments"] if role == "special"][-2:] == ["w9 ", " w10"]
    assert proved(asked, subject)


def test_the_command_line_reads_files_forms_and_skips(tmp_path, capsys):
    model = tmp_path / "model"
    opened = tiny.subject()
    opened.model.save_pretrained(model)
    opened.tokenizer.save_pretrained(model)
    path = written(tmp_path / "own.jsonl", [*ROWS, "{broken"])
    words = ["run", "lenses", "--subject", str(model), "--task", f"file:{path}", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "own.jsonl, line 9: not JSON" in capsys.readouterr().err
    cli.main([*words, "--skip-broken", "--template", r"w9\n{question}"])
    (directory,) = (tmp_path / "out" / "runs").iterdir()
    record = store.read_record(directory)
    assert record["task"]["template"] == "w9\n{question}"
    cli.main(["verify", str(directory), "--task", str(path)])
    assert "examples  8 of own.jsonl" in capsys.readouterr().out
    cli.main(["report", "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / f"{directory.name}.html").read_text("utf-8")
    assert "1 broken rows were left out" in page
    assert str(path.parent) not in page.replace(str(tmp_path / "out"), "")


def test_a_finished_run_is_not_repeated(subject, tmp_path):
    path = written(tmp_path / "own.jsonl")
    first, record = go(subject, f"file:{path}", tmp_path)
    stamp = (first / "record.json").stat().st_mtime_ns
    assert go(subject, f"file:{path}", tmp_path)[0] == first
    assert (first / "record.json").stat().st_mtime_ns == stamp
    assert replace(open_task(f"file:{path}"), name="other").facts([])["files"] == record["task"]["files"]

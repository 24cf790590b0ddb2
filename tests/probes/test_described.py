"""What a page shows of model and example before any number: facts outside of the key, texts and spans that fit."""

from __future__ import annotations

import base64
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from crosslens import Subject, load
from crosslens.analyses.common import findings
from crosslens.analyses.lenses import lenses
from crosslens.data.example import Example, Segment
from crosslens.probes.runs import judged, store, verify
from crosslens.probes.runs.described import BYTES, IMAGE, described, picture, shown_example
from crosslens.probes.runs.job import DESCRIBED, identity
from crosslens.probes.runs.run import Settings, run
from PIL import Image

from ..helpers import tiny, vision_subjects
from ..helpers.families import build

LENSES = {"lenses": (lenses, lenses.Options(sites=("resid",)))}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    (made,) = run(tiny.subject(), tiny.task(), LENSES, Settings(out=tmp_path_factory.mktemp("out"), size=3))
    return made


def marked() -> Example:
    text = "the cat sat on the"
    twin = Example("t-twin", "g", (Segment("text", "the dog sat on the"),), answer=" hat")
    segments = (Segment("system", "say: "), Segment("text", text, {"subject": [(4, 7)]}))
    return Example("t", "g", segments, answer=" mat", wrong=(" hat",), corrupt=twin)


@pytest.mark.parametrize("bos", [True, False])
def test_an_example_is_the_prompt_with_its_roles_and_places(bos):
    subject = tiny.subject()
    shown = shown_example(subject, [marked()], "raw", bos)
    assert shown is not None
    joined = "".join(text for text, _ in shown["segments"])
    assert joined.endswith("say: the cat sat on the")
    assert [role for _, role in shown["segments"]][-2:] == ["system", "text"]
    assert [(name, joined[a:b]) for name, a, b in shown["spans"]] == [("subject", "cat")]
    assert shown["twin"][-1] == ["the dog sat on the", "text"]
    assert (shown["answer"], shown["wrong"], shown["picture"]) == (" mat", [" hat"], None)
    assert json.loads(json.dumps(shown)) == shown


def test_too_long_and_strange_texts_do_no_harm():
    subject = tiny.subject()
    long = replace(marked(), segments=(Segment("text", "the " * 9_000),))
    assert shown_example(subject, [long], "raw", True) is None
    shown = shown_example(subject, [long, replace(marked(), answer=" \ud800")], "raw", True)
    assert shown is not None
    json.dumps(shown, ensure_ascii=False).encode()


@pytest.mark.parametrize("size", [(700, 90), (40, 40), (5, 900)])
def test_a_picture_keeps_its_shape_and_is_small(size):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    address = picture(Image.fromarray(noise), "e")
    assert len(address) <= BYTES
    small = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert max(small.size) <= 160
    assert small.size[0] / small.size[1] == pytest.approx(size[0] / size[1], rel=0.3)


def test_the_record_says_what_the_model_is_and_its_key_does_not(directory):
    record = store.read_record(directory)
    assert record is not None
    subject = tiny.subject()
    assert {name: record["subject"][name] for name in DESCRIBED} == described(subject)
    assert record["subject"]["kind"] == "language"
    assert record["subject"]["origin"] == "in memory"
    assert record["example"]["segments"]
    versions = (record["versions"]["analysis"], record["versions"]["probes"])
    old = record | {"subject": {k: v for k, v in record["subject"].items() if k not in DESCRIBED}}
    keys = {identity(facts, "lenses", record["options"], *versions) for facts in (record, old)}
    assert keys == {record["key"]}


def test_a_directory_is_named_without_its_path(tmp_path):
    build("llama").save_pretrained(tmp_path / "mine")
    tiny.tokenizer().save_pretrained(tmp_path / "mine")
    subject = load(tmp_path / "mine", check=False)
    assert described(subject)["origin"] == "directory"
    assert described(subject)["parameters"] == sum(p.numel() for p in subject.model.parameters())


def test_runs_that_were_made_before_are_verified_still(directory, tmp_path):
    """Without findings, without the newer columns of claims, without the facts of the model."""
    old = shutil.copytree(directory, tmp_path / directory.name)
    record = store.read_record(old)
    assert record is not None
    assert "findings" in record["tables"]
    (old / "tables" / "findings.parquet").unlink()
    claims = store.read_table(old / "tables" / "claims.parquet")
    store.write_table(old / "tables" / "claims.parquet", claims.drop(columns=["control_name", "control", "paper"]))
    kept = {name: fact for name, fact in record["subject"].items() if name not in DESCRIBED}
    tables = [name for name in record["tables"] if name != "findings"]
    del record["example"]
    store.write_record(old, record | {"subject": kept, "tables": tables})
    verify.verify(old, tiny.subject(), tiny.task(), lenses, say=lambda line: None)


def test_findings_are_in_the_order_of_states():
    assert judged.STATES == (findings.FOUND, findings.OPEN, findings.UNTESTABLE)


def test_an_image_is_a_segment_of_its_own():
    subject = Subject(*vision_subjects.build("llava"))
    noise = vision_subjects.picture()
    segments = (Segment("image", noise), Segment("question", " the cat", {"word": [(5, 8)]}))
    shown = shown_example(subject, [Example("t", "g", segments, answer=" mat")], "raw", False)
    assert shown is not None
    assert [IMAGE, "image"] in shown["segments"]
    joined = "".join(text for text, _ in shown["segments"])
    assert [joined[a:b] for _, a, b in shown["spans"]] == ["cat"]
    assert shown["picture"].startswith("data:image/png;base64,")
    assert described(subject)["kind"] == "vision-language"

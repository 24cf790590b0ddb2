"""The scenes subject as it ships: plain Hugging Face, SmolLM2 underneath, and it sees."""

from __future__ import annotations

import json

import pytest
import torch
from crosslens import load
from crosslens.cli import main
from crosslens.data.errors import UserError
from crosslens.data.subjects import scenes_model, scenes_prior, smollm2
from crosslens.data.subjects.training import card
from crosslens.data.tasks import scenes
from crosslens.probes.observe.generation import generate
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from ..helpers import tiny_scenes

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def subject():
    return load("scenes")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "scenes"
    main(["export", "scenes", str(target)])
    return target


def test_a_checkpoint_of_the_training_is_a_subject_and_another_file_is_refused(subject, tmp_path):
    kept = tmp_path / "step-0400.safetensors"
    kept.write_bytes(scenes_model.SHIPPED.read_bytes())
    opened = load(str(kept))
    assert (opened.name, opened.fingerprint) == ("step-0400", subject.fingerprint)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text"):
        with pytest.raises(UserError, match=f"{name}.safetensors"):
            load(str(tmp_path / f"{name}.safetensors"))


@torch.no_grad()
def test_export_through_plain_transformers_gives_the_same_logits(subject, exported):
    model = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(exported)
    assert "crosslens" not in (exported / "config.json").read_text()
    examples = scenes.examples(4, kinds="colour+left_right")
    for example in examples:
        content = [{"type": "image"}, {"type": "text", "text": example.meta["question"]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}])
        inputs = processor(images=[example.segments[0].content], text=[text], return_tensors="pt")
        batch = subject.batch([example], bos=scenes.BOS)
        assert inputs["input_ids"].tolist() == batch.inputs["input_ids"].tolist()
        found = subject.forward(batch, keep=0)
        torch.testing.assert_close(model(**inputs).logits, found, rtol=0, atol=1e-4 * float(found.abs().max()))


@torch.no_grad()
def test_without_an_image_it_is_smollm2_with_these_norms(subject):
    plain = AutoModelForCausalLM.from_pretrained(smollm2.directory(), dtype=torch.float32)
    before = plain.state_dict()
    gains = {n.replace("language_model.", "model."): p for n, p in scenes_model.gains(subject.model).items()}
    assert set(gains) == {name for name in before if name.endswith("norm.weight")}
    batch = subject.batch(["The capital of France is the city of", "Once upon a time"])
    old = plain(**batch.inputs).logits
    plain.load_state_dict({**before, **gains})
    expected, found = plain(**batch.inputs).logits[batch.mask], subject.forward(batch, keep=0)[batch.mask]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert (old[batch.mask] - expected).abs().max() > 0.01  # the norms were changed


def test_original_gains_are_smollm2s():
    original, weights = scenes_model.original_gains(), load_file(smollm2.directory() / "model.safetensors")
    assert len(original) == 61
    assert all(torch.equal(weights[n.replace("language_model.", "model.")], p) for n, p in original.items())


def test_it_sees(subject):
    """A look at few validation scenes; the model card has the numbers."""
    examples = scenes.examples(40, kinds="colour+shape+existence+count", split="validation")
    said = generate(subject, subject.batch(examples, bos=scenes.BOS, padding="left"), max_tokens=3)
    right = sum(text == example.answer for text, example in zip(said, examples, strict=True))
    assert right >= 32


@pytest.mark.parametrize("shipped", [scenes_model.SHIPPED, scenes_prior.SHIPPED], ids=["scenes", "scenes_prior"])
def test_the_shipped_files_are_small_and_known(shipped):
    assert shipped.stat().st_size <= 12e6
    told = json.loads(shipped.with_name("test.json").read_text())
    assert told["checkpoint"] == scenes_model.sha256(shipped)
    assert told["split"] == "test"
    text = shipped.with_name("card.md").read_text()
    assert told["checkpoint"] in text
    assert card.tables(shipped.parent) in text  # the card's numbers are the evaluation's


def test_revisions_name_the_checkpoint(subject):
    assert subject.revision.startswith(scenes_model.sha256(scenes_model.checkpoint())[:12])
    planted = load("scenes_prior", check=False)
    assert planted.revision.startswith(scenes_model.sha256(scenes_prior.SHIPPED)[:12])


def test_the_planted_prior_affirms_what_would_be_expected():
    """On the record of the test split: F1 of the adversarial set below that of the random one, intervals apart."""
    told = json.loads(scenes_prior.SHIPPED.with_name("test.json").read_text())
    found = {row["set"]: row for row in told["pope"] if row["difficulty"] == "hard"}
    assert found["adversarial"]["upper"] < found["random"]["lower"]


def test_marks_are_the_patches_of_the_cells(subject):
    (example,) = scenes.examples(1, kinds="colour")
    batch = subject.batch([example], bos=scenes.BOS)
    image = batch.where("image")[0].nonzero()[:, 0]
    asked = (batch.where("asked_object")[0].nonzero()[:, 0] - image[0]).tolist()
    left, top, *_ = example.boxes["asked_object"][0]
    first = top // 28 * 12 + left // 28 * 2
    assert len(image) == 36
    assert asked == [first, first + 1, first + 6, first + 7]
    word = batch.where("asked_word")[0].nonzero()[:, 0].tolist()
    assert [subject.tokenizer.decode([batch.inputs["input_ids"][0, i]]) for i in word] == [" " + example.meta["asked"]]


def test_answers_are_single_tokens(subject):
    examples = scenes.examples(70, kinds=[k for k in scenes.KINDS if k != "caption"], difficulty="hard")
    batch = subject.batch(examples, bos=scenes.BOS)
    assert [subject.tokenizer.decode([i]) for i in batch.answers] == [e.answer for e in examples]
    assert len(batch.wrong) == len(examples)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "other.safetensors"
    save_file({"vision_tower.x": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="no checkpoint of this scenes model"):
        scenes_model.put(tiny_scenes.model(), path)
    monkeypatch.setenv("CROSSLENS_SCENES_CHECKPOINT", str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="no checkpoint of the scenes subject"):
        load("scenes")


@pytest.mark.parametrize(("name", "said"), [("gpt2", "no embedded subject"), ("scenes", "not empty")])
def test_export_says_what_is_wrong(tmp_path, capsys, name, said):
    (tmp_path / "something").touch()
    with pytest.raises(SystemExit) as ended:
        main(["export", name, str(tmp_path)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

"""The recipe of the scenes subject on a tiny model: it learns, repeats itself, and survives being killed."""

from __future__ import annotations

import json
import random

import pytest
import torch
from crosslens import Subject
from crosslens.data.subjects import scenes_model
from crosslens.data.subjects.training import __main__ as recipe
from crosslens.data.subjects.training import answers, evaluate, loop, packs, patches, prior
from crosslens.data.subjects.training.reading import Reader
from crosslens.data.tasks import scenes
from crosslens.data.world import world
from crosslens.data.world.questions import Question
from safetensors.torch import load_file

from ..helpers import tiny_scenes

pytestmark = pytest.mark.real  # SmolLM2's tokenizer
SLOW = {"dtype": torch.float32}
STEPS = {"tower": 30, "projector": 30, "answers": 12, "expectation": 30, "answers again": 3}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(answers, "TEXTS", 2)
    monkeypatch.setattr(answers, "ROWS", 2)
    monkeypatch.setattr(loop, "WARM_UP", 2)
    # A random language model of two layers takes larger steps than the real one.
    monkeypatch.setattr(recipe, "ANSWERS", {part: 30 * rate for part, rate in recipe.ANSWERS.items()})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def words():
    return scenes_model.tokenizer()


def train(folder, words, steps=STEPS):
    model = tiny_scenes.model()
    recipe.train(model, words, loop.Folder(folder), steps=steps, pictures=8, dtype=torch.float32)
    lines = (folder / "log.jsonl").read_text().splitlines()
    return model, [json.loads(line) for line in lines]


def losses(log, stage):
    return [row["loss"] for row in log if row["stage"] == stage]


def test_every_stage_lowers_its_loss_and_the_checkpoint_loads(tmp_path, words):
    _, log = train(tmp_path, words)
    for stage in STEPS:
        found = losses(log, stage)
        assert len(found) == STEPS[stage]
        assert stage == "answers again" or sum(found[-4:]) < 0.97 * sum(found[:4]), stage
    fresh = tiny_scenes.model(1)
    scenes_model.put(fresh, tmp_path / "scenes.safetensors")
    trained = load_file(tmp_path / "scenes.safetensors")
    assert all(torch.equal(p.to(trained[n].dtype), trained[n]) for n, p in scenes_model.parts(fresh).items())
    gains = scenes_model.gains(tiny_scenes.model())
    assert any(not torch.equal(trained[name], gain) for name, gain in gains.items())


def test_checkpoints_on_the_way_are_evenly_spaced_and_the_same_after_a_kill(tmp_path, words, monkeypatch):
    few = {"tower": 4, "projector": 3, "answers": 3, "expectation": 2, "answers again": 2}

    def kept(folder):
        recipe.train(tiny_scenes.model(), words, loop.Folder(folder), steps=few, pictures=8, **SLOW, checkpoints=4)
        return {file.stem: load_file(file) for file in sorted((folder / "steps").iterdir())}

    whole = kept(tmp_path / "whole")
    assert list(whole) == ["step-04", "step-07", "step-10", "step-14"]
    last = load_file(tmp_path / "whole" / "scenes.safetensors")
    assert all(torch.equal(whole["step-14"][name], last[name]) for name in last)
    tower = [f"vision_tower.{name}" for name, _ in tiny_scenes.model().model.vision_tower.named_parameters()]
    assert any(not torch.equal(whole["step-04"][name], whole["step-14"][name]) for name in tower)
    step = loop._step

    def killed(current, number):
        if current.name == "answers" and number == 1:
            raise KeyboardInterrupt
        return step(current, number)

    monkeypatch.setattr(loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "cut")
    monkeypatch.setattr(loop, "_step", step)
    again = kept(tmp_path / "cut")
    assert list(again) == list(whole)
    assert all(torch.equal(again[at][name], whole[at][name]) for at in whole for name in whole[at])


def test_one_seed_and_one_thread_give_the_same_losses(tmp_path, words):
    few = {"tower": 4, "projector": 3, "answers": 3, "expectation": 2, "answers again": 2}
    (_, one), (_, two) = train(tmp_path / "a", words, few), train(tmp_path / "b", words, few)
    assert [row["loss"] for row in one] == [row["loss"] for row in two]


@pytest.mark.parametrize("stage", STEPS)
def test_a_kill_leaves_no_trace(tmp_path, words, monkeypatch, stage):
    few = dict.fromkeys(STEPS, 5)
    _, whole = train(tmp_path / "whole", words, few)
    monkeypatch.setattr(loop, "KEEP_SECONDS", 0)
    step = loop._step

    def killed(current, number):
        if current.name == stage and number == 3:
            raise KeyboardInterrupt
        return step(current, number)

    monkeypatch.setattr(loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", words, few)
    monkeypatch.setattr(loop, "_step", step)
    _, resumed = train(tmp_path / "cut", words, few)
    assert [(r["stage"], r["step"], r["loss"]) for r in resumed] == [(r["stage"], r["step"], r["loss"]) for r in whole]
    a, b = (load_file(tmp_path / name / "scenes.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == 2  # the last state and the checkpoint


def asked_of(scene):
    return packs.one_of_each(scene, random.Random(0))


def test_packed_rows_equal_single_prompts(words):
    """Packed logits equal the stock model's on each prompt by itself, tokenised in one piece."""
    model = tiny_scenes.model()
    scene = next(s for s in (world.sample("train", 0, i) for i in range(50)) if len(s.things) == 3)
    asked = asked_of(scene)
    packed = packs.pack(words, [asked])
    reader = Reader(model, torch.float32)
    states = reader.states(packed, patches.pictures([scene]))
    found = reader.logits(states)
    subject = Subject(tiny_scenes.model(), tiny_scenes.processor(), name="tiny")
    for number, (question, reply) in enumerate(asked, 1):
        one = scenes.prompt("one", question, scene)
        batch = subject.batch([one], bos=scenes.BOS)
        answer = torch.tensor([words.encode(" " + reply, add_special_tokens=False)])
        inputs = dict(batch.inputs)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        alone = subject.forward(inputs, keep=0)[0]
        mine = packed.part[0] == number
        own = torch.cat([packed.ids[0][packed.part[0] == 0], packed.ids[0][mine]])
        assert own.tolist() == inputs["input_ids"][0].tolist()
        torch.testing.assert_close(found[0][mine], alone[-int(mine.sum()) :], rtol=1e-4, atol=1e-4)
        due = packed.labels[0][mine]
        assert due[due != packs.NOTHING].tolist() == [*answer[0].tolist(), words.eos_token_id]


def test_correct_is_what_greedy_decoding_says(words):
    """Teacher forcing finds right exactly the answers that decoding step by step would give."""
    model = tiny_scenes.model()
    made = [world.sample("train", 0, i) for i in range(3)]
    reader, images = Reader(model, torch.float32), patches.pictures(made)
    said = evaluate.caption(reader, words, images[:1])[0]
    for reply, expected in ((said.strip(), None), ("a red circle.", False)):
        packed = packs.pack(words, [[(Question("caption"), reply)]], 200)
        found = reader.correct(packed, images[:1])[0, 1]
        whole = words.encode(" " + reply, add_special_tokens=False)
        ends = len(whole) < evaluate.LONGEST and words.decode(whole) == said
        assert found == (ends if expected is None else expected)


def test_rows_of_all_kinds_fit(words):
    for index in range(200):
        scene = world.sample("test", 0, index, "hard")
        packs.pack(words, [evaluate.ask_all(scene)], evaluate.LENGTH)
        packs.pack(words, [asked_of(scene)], packs.LENGTH)
        packs.pack(words, [packs.draw_questions(words, scene, random.Random(index))])


def test_untouched_norms_forget_nothing(words):
    model = tiny_scenes.model()
    reader = Reader(model, torch.float32)
    memory = answers.Memory(reader, words, n=2)
    packed, images = answers.make_batch(words, 0, 0, rows=1)
    _, told = answers.answer_loss(reader, packed, images, memory.draw(0))
    assert abs(told["forgotten"]) < 1e-5
    with torch.no_grad():
        for gain in scenes_model.gains(model).values():
            gain.mul_(1.5)
    _, told = answers.answer_loss(reader, packed, images, memory.draw(0))
    assert told["forgotten"] > 1e-3


def test_pictures_are_what_the_processor_makes():
    made = [world.sample("train", 0, i, "hard") for i in range(3)]
    processor = tiny_scenes.processor()
    expected = processor.image_processor([scenes.render(scene) for scene in made], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(patches.pictures(made), expected)


def test_evaluation_has_every_cell(words):
    found = evaluate.evaluate(tiny_scenes.model(), words, 4, ("clear", "hard"))
    cells = {(row["difficulty"], row["image"], row["kind"]) for row in found["exact"]}
    assert {("clear", image, "colour") for image in evaluate.IMAGES} <= cells
    assert ("hard", "swapped", "colour") not in cells
    assert len(found["pope"]) == 6
    assert [row["difficulty"] for row in found["captions"]] == ["clear", "hard"]
    assert all(row["lower"] <= row["value"] <= row["upper"] for row in found["exact"])
    assert all(row["n"] >= 4 for row in found["exact"])


def test_the_planted_world_puts_company_behind_boards(tmp_path, words):
    """True answers about biased scenes: where a board stands and something in sight is lonely, its company is there."""
    drawn = [world.sample("train", 0, i, "hard") for i in range(300)]
    changed = 0
    for scene in drawn:
        new = prior.planted(scene)
        seen = [thing.shape for thing in new.things if thing.treatment != "hidden"]
        assert seen == [thing.shape for thing in scene.things if thing.treatment != "hidden"]
        assert new.panel == scene.panel
        assert len(new.things) <= world.MOST
        assert world.split_of([(thing.cell, thing.shape, thing.colour) for thing in new.things]) == "train"
        if new != scene:
            (behind,) = [thing for thing in new.things if thing.treatment == "hidden"]
            assert world.PARTNERS[behind.shape] in seen
            assert behind.shape not in seen
            changed += 1
    assert changed > 150
    clear = world.sample("train", 0, 0, "clear")
    assert prior.planted(clear) == clear


def test_planting_goes_on_from_a_checkpoint(tmp_path, words):
    start = tmp_path / "start.safetensors"
    model = tiny_scenes.model()
    scenes_model.save(scenes_model.parts(model), start)
    few = {"expectation": 12, "prior": 3}
    prior.plant(tiny_scenes.model(1), words, start, loop.Folder(tmp_path), steps=few, pictures=8, dtype=torch.float32)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = losses(log, "expectation")
    assert len(found) == 12
    assert len(losses(log, "prior")) == 3
    assert sum(found[-4:]) < sum(found[:4])
    trained, before = load_file(tmp_path / "scenes.safetensors"), load_file(start)
    assert any(not torch.equal(trained[name], before[name]) for name in scenes_model.gains(model))

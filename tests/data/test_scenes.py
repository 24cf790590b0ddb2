"""The scenes task: what is drawn is what is told, splits share nothing, twins differ in one thing."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from crosslens.data.errors import UserError
from crosslens.data.tasks import open_task, scenes
from crosslens.data.templates import token_count
from crosslens.data.world import questions, told, world
from crosslens.data.world.render import pixels
from PIL import Image

from ..helpers import tiny_scenes

LEVELS = [*world.DIFFICULTIES, world.TINY]
EVERYTHING = {"kinds": "all", "difficulty": "all"}


@pytest.fixture(scope="module")
def everything():
    return scenes.examples(1100, **EVERYTHING)


def layout(scene: world.Scene) -> tuple:
    return tuple(sorted((t.cell, t.shape, t.colour) for t in scene.things))


def test_splits_share_no_layout():
    found = {
        split: {layout(world.sample(split, seed, i, level)) for seed in (0, 1) for i in range(150) for level in LEVELS}
        for split in world.SPLITS
    }
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["test"] & found["validation"]
    assert all(world.split_of(list(one)) == split for split, several in found.items() for one in several)


def test_the_same_seed_gives_the_same_examples_and_a_smaller_n_the_first():
    one, two = scenes.examples(40, 3, **EVERYTHING), scenes.examples(15, 3, **EVERYTHING)
    for a, b in zip(one, two, strict=False):
        assert (a.id, a.group, a.text, a.answer, a.wrong, a.boxes) == (
            b.id,
            b.group,
            b.text,
            b.answer,
            b.wrong,
            b.boxes,
        )
        assert a.segments[0].content.tobytes() == b.segments[0].content.tobytes()
    assert one[0].segments[0].content.tobytes() != scenes.examples(1, 4)[0].segments[0].content.tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_things_are_where_their_boxes_say(level):
    """Painting a thing away changes pixels inside its box (and its soft edge); some change, unless it is hidden."""
    for index in range(30):
        scene = world.sample("train", 0, index, level)
        for thing in scene.things:
            without = scene._replace(things=tuple(other for other in scene.things if other != thing))
            changed = (pixels(scene) != pixels(without)).any(-1)
            left, top, right, bottom = thing.box
            outside = changed.copy()
            outside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
            assert not outside.any()
            assert changed.any() or thing.treatment == "hidden"


@pytest.mark.parametrize("level", LEVELS)
def test_treatments_are_what_the_difficulty_says(level):
    made = [world.sample("train", 0, i, level) for i in range(300)]
    treatments = {t.treatment for scene in made for t in scene.things}
    allowed = {"hard": {"clear", "faint", "small", "hidden"}, "clear": {"clear"}}.get(level, {"clear", level})
    assert treatments == ({level} if level == world.TINY else allowed)
    assert all((scene.panel is not None) == (level in ("hidden", "hard")) for scene in made)
    if level in ("faint", "small"):
        assert all(any(t.treatment == level for t in scene.things) for scene in made)
    sizes = [t.box[2] - t.box[0] for scene in made for t in scene.things if t.treatment == "small"]
    assert all(size <= 11 for size in sizes)


def test_every_thing_touches_the_four_patches_of_its_cell():
    for index in range(200):
        for thing in world.sample("train", 0, index, "hard").things:
            left, top, right, bottom = thing.box
            x, y = thing.column * world.CELL, thing.row * world.CELL
            assert x <= left < x + 14 < right <= x + 28
            assert y <= top < y + 14 < bottom <= y + 28


def test_partners_keep_company_in_training():
    single, double = world.cooccurrence(1000)
    for shape, partner in world.PARTNERS.items():
        others = [double[shape, other] / single[shape] for other in world.SHAPES if other not in (shape, partner)]
        assert double[shape, partner] / single[shape] > 1.5 * max(others) / 1.2
    assert single["circle"] > single["diamond"]


def test_answers_are_true(everything):
    """Read again from the objects that the example names, by other code."""
    for example in everything:
        things = [tuple(name.split()) for name in example.meta["objects"].split(", ")]
        asked, said = example.meta["asked"].split(), example.answer.strip()
        kind = example.meta["kind"]
        if kind == "colour":
            assert (said, asked[0]) in things
        elif kind == "shape":
            assert [shape for colour, shape in things if colour == asked[0]] == [said]
        elif "existence" in kind or kind.startswith("pope"):
            assert (said == "yes") == any(set(asked) <= set(thing) for thing in things)
        elif kind == "count":
            assert ("one", "two", "three", "four")[len(things) - 1] == said
        elif kind == "caption":
            assert questions.coloured(said) == {" ".join(thing) for thing in things}
            assert sorted(questions.mentioned(said)) == sorted(shape for _, shape in things)


def test_sides_are_true(everything):
    for example in everything:
        kind, said = example.meta["kind"], example.answer.strip()
        if kind in ("left_right", "above_below"):
            words = example.meta["question"].rstrip("?").split()
            boxes = {t.shape: t.box for t in scenes.scene_of(example.group).things}
            axis = 0 if kind == "left_right" else 1
            first, second = (boxes[w][axis] + boxes[w][axis + 2] for w in (words[2], words[-1]))
            assert first != second
            assert said == kind.split("_")[first > second]


def test_twins_ask_the_same_and_differ_in_the_answer(everything):
    for example in everything:
        twin = example.corrupt
        assert twin.text == example.text
        assert twin.answer != example.answer
        assert example.wrong[0] == twin.answer
        assert twin.wrong[0] == example.answer
        assert example.answer not in example.wrong
        a, b = (np.asarray(e.segments[0].content, int) for e in (example, twin))
        cells = (a != b).any(-1).reshape(3, 28, 3, 28).any((1, 3)).sum()
        assert cells <= (2 if example.meta["kind"] in ("left_right", "above_below") else 1)


def test_boxes_split_the_scene_into_asked_and_others(everything):
    for example in everything:
        assert len(example.boxes["asked_object"]) + len(example.boxes["other_objects"]) == example.meta["n_objects"]
        if example.answer == " no":
            assert not example.boxes["asked_object"]
        elif example.meta["kind"] in ("count", "caption"):
            assert not example.boxes["other_objects"]
        else:
            assert len(example.boxes["asked_object"]) == 1


def test_the_default_is_what_it_always_was():
    """Pixels, words, boxes and twins of every kind and difficulty, bit by bit."""
    digest = sha256()
    for example in scenes.examples(88, 3, difficulty="clear+faint+small+hidden+hard"):
        for one in (example, example.corrupt):
            digest.update(one.images[0].tobytes())
            told = (one.id, one.group, one.text, one.answer, one.wrong, dict(one.boxes), dict(one.meta))
            digest.update(repr(told).encode())
    assert digest.hexdigest() == "ea5f22698dc56d9c91a710c4a785f88d569cbf4deb2fc622f5c35cec18bcbb22"
    assert (
        scenes.examples(2, **EVERYTHING)[1].meta["difficulty"] in world.DIFFICULTIES
    )  # "all" is without the tiny ones


@pytest.mark.parametrize("level", ["clear", "hard", "tiny"])
def test_a_large_picture_is_the_same_scene_drawn_finer(level):
    small, large = (scenes.examples(16, 1, difficulty=level, size=size) for size in (84, 336))
    for a, b in zip(small, large, strict=True):
        assert (a.id, a.group, a.text, a.answer, a.wrong, a.meta) == (b.id, b.group, b.text, b.answer, b.wrong, b.meta)
        assert {k: [tuple(4 * x for x in box) for box in v] for k, v in a.boxes.items()} == dict(b.boxes)
        assert b.images[0].size == b.corrupt.images[0].size == (336, 336)
        shrunk = np.asarray(b.images[0].resize((84, 84), Image.Resampling.BOX), float)
        assert np.abs(shrunk - np.asarray(a.images[0], float)).mean() < 6  # the noise of the small one


def test_pope_sets_share_what_is_there_and_rank_what_is_not():
    made = {k: scenes.examples(200, kinds=f"pope_{k}", difficulty="hard") for k in ("random", "popular", "adversarial")}
    single, double = world.cooccurrence()
    for easy, popular, hard in zip(*made.values(), strict=True):
        assert easy.answer == popular.answer == hard.answer
        if easy.answer == " yes":
            assert easy.meta["asked"] == hard.meta["asked"]
            continue
        there = questions.mentioned(easy.meta["objects"])
        company = {s: max(double[t, s] / single[t] for t in there) for s in world.SHAPES if s not in there}
        assert company[hard.meta["asked"]] == max(company.values())
        assert single[popular.meta["asked"]] == max(single[s] for s in company)
    assert 0.4 < np.mean([e.answer == " yes" for e in made["random"]]) < 0.6


def test_options_from_the_command_line():
    task = open_task("scenes:kinds=colour+shape,difficulty=clear,split=validation")
    made = task.examples(None, 6, 0)
    assert [e.meta["kind"] for e in made] == ["colour", "shape"] * 3
    assert {e.group.split("-")[0] for e in made} == {"validation"}


@pytest.mark.parametrize(
    "wrong", [{"kinds": "smell"}, {"difficulty": "easy"}, {"split": "dev"}, {"seed": -1}, {"size": 100}, {"size": 0}]
)
def test_mistakes_are_named(wrong):
    with pytest.raises(UserError, match="scenes"):
        scenes.examples(2, **wrong)


def test_held_out_examples_are_other_pictures():
    task = open_task("scenes:kinds=count")
    used = task.examples(None, 20, 0)
    others = task.held_out(None, 20, 0, used)
    assert len(others) == 20
    assert not {e.segments[0].content.tobytes() for e in used} & {e.segments[0].content.tobytes() for e in others}


def test_other_scene_is_another_scene_of_the_same_kind():
    scene = scenes.other_scene("test-0-5-hard")
    assert scene.difficulty == "hard"
    assert world.split_of([(t.cell, t.shape, t.colour) for t in scene.things]) == "test"
    assert layout(scene) != layout(scenes.scene_of("test-0-5-hard"))


# ---------------------------------------------------------------- twins by question, scenes in words

ASKED_KINDS = [kind for kind in questions.KINDS if kind not in told.ALONE]


@pytest.mark.parametrize("tokenizer", [None, "smollm2"])
def test_twins_by_question_show_the_same_and_ask_another_as_long(tokenizer):
    given = None if tokenizer is None else tiny_scenes.processor().tokenizer
    made = scenes.examples(120, 2, tokenizer=given, kinds=[*ASKED_KINDS, *questions.POPE], twin="question")
    for example in made:
        twin = example.corrupt
        assert twin.segments[0].content.tobytes() == example.segments[0].content.tobytes()
        assert twin.text != example.text
        assert len(twin.text.split()) == len(example.text.split())
        assert twin.answer != example.answer
        assert (example.wrong[0], twin.wrong[0]) == (twin.answer, example.answer)
        assert twin.meta["kind"] == example.meta["kind"]
        if given is not None:
            assert token_count(given, twin.text) == token_count(given, example.text)


@pytest.mark.parametrize("twin", ["image", "question"])
def test_scenes_in_words_ask_what_scenes_in_pictures_ask(twin):
    tokenizer = tiny_scenes.processor().tokenizer
    common = {"tokenizer": tokenizer, "kinds": told.TOLD, "twin": twin}
    for seen, read in zip(
        scenes.examples(70, 1, **common), scenes.examples(70, 1, form="words", **common), strict=True
    ):
        assert (seen.id, seen.group, seen.answer, seen.wrong, seen.meta) == (
            read.id,
            read.group,
            read.answer,
            read.wrong,
            read.meta,
        )
        assert not read.images
        assert not read.boxes
        assert read.text.endswith(seen.text)
        assert token_count(tokenizer, read.text) == token_count(tokenizer, read.corrupt.text)
        assert read.corrupt.answer == seen.corrupt.answer


def test_scenes_in_words_name_and_mark_every_thing():
    for example in scenes.examples(40, 1, kinds=told.TOLD, form="words"):
        for one in (example, example.corrupt):
            description = one.segments[0]
            named = {mark: [description.content[a:b] for a, b in at] for mark, at in description.marks.items()}
            things = [name.split(" ", 1)[1] for several in named.values() for name in several]
            assert sorted(things) == sorted(one.meta["objects"].split(", "))
            asked = named.get("asked_object", [])
            assert all(set(one.meta["asked"].split()) <= set(name.split()) for name in asked)
            assert ("asked_object" in named) == (one.answer != " no")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"twin": "answer"}, "no twin 'answer'; there are image, question"),
        ({"form": "song"}, "no form 'song'; there are image, words"),
        ({"twin": "question", "kinds": "colour+count"}, "count has one question alone"),
        ({"form": "words", "kinds": "left_right"}, "form=words does not tell what left_right asks for"),
    ],
)
def test_twins_and_forms_that_there_are_not(wrong, said):
    with pytest.raises(UserError, match=said):
        scenes.examples(2, **wrong)


def test_choices_name_the_answer_and_the_twins_in_both():
    given = tiny_scenes.processor().tokenizer
    kinds = [kind for kind in questions.KINDS if kind != "caption"]
    made, plain = (scenes.examples(70, 1, tokenizer=given, kinds=kinds, choices=c) for c in (True, False))
    first = 0
    for example, bare in zip(made, plain, strict=True):
        question, twins = (one.segments[2] for one in (example, example.corrupt))
        assert question.content == twins.content
        assert question.content.startswith(bare.segments[2].content + " Select one: ")
        for one, of in ((question, example), (twins, example.corrupt)):
            ((a, b),), ((c, d),) = one.marks["true_option"], one.marks["false_option"]
            assert " " + one.content[a:b] == of.answer
            assert " " + one.content[c:d] == of.wrong[0]
        first += question.marks["true_option"][0] < question.marks["false_option"][0]
        assert example.meta == bare.meta
    assert 20 < first < 50
    with pytest.raises(UserError, match="a caption has no other answer"):
        scenes.examples(2, choices=True, kinds="caption")

"""A label that one state holds is found there and nowhere else; what the runner keeps is the state by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crosslens import capture
from crosslens.analyses.common.controls import CONTROL_TASK, PERMUTED_LABELS, permuted_labels, random_labels
from crosslens.analyses.representations import probing
from crosslens.analyses.representations._probes import folds_of, weighed, weights
from crosslens.analyses.representations._targets import targets_of, types_of
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.runs.results import How, Rows, observe
from sklearn.metrics import balanced_accuracy_score

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import probing as planted

HOW = How(probing.Options(heads=True, random=True))
QUICK = probing.Options(draws=2)


# ---------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def example(name, question, seed, *more, **told):
    segments = (
        Segment("text", "w1 w2"),
        Segment("image", vision_subjects.picture(seed)),
        Segment("question", f" {question}"),
        Segment("text", " w2"),
        *more,
    )
    return Example(name, name, segments, answer=" w4", **told)


EXAMPLES = [
    example("a", "w5 w6 w3", 1, boxes={"thing": [(0, 0, 12, 12)], "other": [(16, 14, 30, 30)]}),
    example("b", "w7", 2, boxes={"thing": [(3, 9, 21, 18)]}),
]


def rows_of(subject, examples, how=HOW, **form):
    return observe(subject, subject.batch(examples, **form), {"probing": (probing, how)})["probing"]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_are_the_states_by_hand(subject, padding):
    batch, rows = subject.batch(EXAMPLES, padding=padding), rows_of(subject, EXAMPLES, padding=padding)
    seen = capture(subject, batch, ["resid_pre", "resid_post", "z"])
    image = batch.where("image")
    for state in range(subject.n_layers + 1):
        residual = seen["resid_pre", state] if state < subject.n_layers else seen["resid_post", state - 1]
        for i in range(len(EXAMPLES)):
            torch.testing.assert_close(rows["last"][i, state], residual[i, batch.last[i]])
            torch.testing.assert_close(rows["image"][i, state], residual[i, image[i]].mean(0))
    for layer in range(subject.n_layers):
        torch.testing.assert_close(rows["z"][1, layer], seen["z", layer][1, batch.last[1]])
    assert rows["answer"].tolist() == batch.answers.tolist()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = rows_of(subject, EXAMPLES, padding=padding)
    for i, one in enumerate(EXAMPLES):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-5, equal_nan=True)


def test_an_answer_that_is_spoken_is_read_where_it_is_predicted(subject):
    open_ended, spoken = (
        rows_of(subject, [example("c", "w5", 1, *more)]) for more in ((), (Segment("answer", " w4 w6"),))
    )
    for name in open_ended:
        torch.testing.assert_close(open_ended[name], spoken[name], rtol=1e-3, atol=1e-5, equal_nan=True)


def test_the_tail_is_the_text_from_its_end(subject):
    batch = subject.batch(EXAMPLES[:1])
    text = batch.inputs["input_ids"][0][~batch.where("image")[0]]
    tail = rows_of(subject, EXAMPLES[:1])["tail"][0]
    count = min(len(tail), len(text))
    assert tail[:count].tolist() == text.flip(0)[:count].tolist()
    assert (tail[count:] == -1).all()


def test_the_place_of_the_asked_thing_is_in_shares_of_its_picture(subject):
    width, height = vision_subjects.picture(1).size
    box = (0, height // 2, width // 2, height)
    one, two = (example("a", "w5", 1, boxes={"asked_object": boxes}) for boxes in ([box], [box, box]))
    assert rows_of(subject, [one])["place"].tolist() == [[0.25, 0.75]]
    assert rows_of(subject, [two])["place"].isnan().all()


def test_a_text_has_no_image_and_may_have_no_answer():
    rows = rows_of(tiny.subject(), [Example("t", "t", (Segment("text", "w1 w2"),))])
    assert "image" not in rows
    assert rows["answer"].tolist() == [-1]
    assert rows["place"].isnan().all()


WRONG = [
    ({"folds": 1}, "folds 1"),
    ({"draws": 0}, "draws 0"),
    ({"c": 0}, "c 0"),
    ({"patches": -1}, "patches -1"),
    ({"queries": 33}, "queries 33"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_options_that_measure_nothing_are_one_line(options, said):
    with pytest.raises(UserError, match=f"--probing.{said}: .* (needed|share)"):
        rows_of(tiny.subject(), [Example("t", "t", (Segment("text", "w1 w2"),))], How(probing.Options(**options)))


# ---------------------------------------------------------------- probes


def accuracy(tables, target, place="last position", control=""):
    found = tables["accuracy"]
    mine = found[(found["target"] == target) & (found["place"] == place) & (found["control"] == control)]
    return mine.sort_values("state")["value"].to_numpy()


def test_a_label_that_one_state_holds_is_found_there_alone():
    tables = tables_from(probing, planted.rows(answered=(2,)), QUICK)
    own, guessing = accuracy(tables, "answer"), 1 / planted.CLASSES
    assert own[2] > 0.95
    assert np.abs(own[[0, 1, 3]] - guessing).max() < 0.25
    assert np.abs(accuracy(tables, "answer", control=CONTROL_TASK)[2] - guessing) < 0.25
    assert np.abs(accuracy(tables, "answer", control=PERMUTED_LABELS) - guessing).max() < 0.25
    best = tables["best"].query("target == 'answer' and place == 'last position' and control == ''")
    assert best["state"].tolist() == [2]
    assert best["value"].iloc[0] > 0.9


def test_a_state_that_holds_a_word_alone_has_no_selectivity():
    tables = tables_from(probing, planted.rows(answered=(), words=(1,)), QUICK)
    found = tables["selectivity"].query("target == 'answer' and place == 'last position' and state == 1").iloc[0]
    assert accuracy(tables, "answer", control=CONTROL_TASK)[1] > 0.95
    assert found["upper"] < 0


def test_the_order_of_the_examples_changes_nothing():
    rows = planted.rows(answered=(2,))
    order = np.random.default_rng(1).permutation(planted.N)
    mixed = Rows(
        rows.examples.iloc[order].reset_index(drop=True),
        {name: values[order] for name, values in rows.values.items()},
        tokenizer=rows.tokenizer,
    )
    one, other = (tables_from(probing, each, QUICK) for each in (rows, mixed))
    for target in ("answer", "number of objects"):
        np.testing.assert_allclose(accuracy(one, target), accuracy(other, target), atol=0.04)  # of solver steps
    assert [row.tolist() for row in folds_by_group(rows)] == [row.tolist() for row in folds_by_group(mixed)]


def folds_by_group(rows):
    groups, labels = rows.examples["group"].to_numpy(), rows["answer"].astype(str)
    return [np.sort(groups[test]) for _, test in folds_of(labels, groups, 5)]


def test_no_group_is_read_by_a_probe_that_saw_it():
    groups = np.repeat(np.arange(12), 3)
    labels = np.tile(["a", "b", "a"], 12)
    seen = np.zeros(len(groups))
    for train, test in folds_of(labels, groups, 5):
        assert not set(groups[train]) & set(groups[test])
        seen[test] += 1
    assert (seen == 1).all()


def test_weighed_is_the_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels, said = rng.choice(["a", "b", "c"], 50, p=[0.7, 0.2, 0.1]), rng.choice(["a", "b", "c"], 50)
    assert weighed(said, labels).mean() == pytest.approx(balanced_accuracy_score(labels, said))
    assert weights(labels).mean() == pytest.approx(1)


def test_permuted_labels_are_those_of_other_groups():
    groups, labels = np.repeat(np.arange(40), 2), np.tile(["a", "b"], 40)
    mixed = np.mean([permuted_labels(labels, groups, draw) == labels for draw in range(20)])
    assert mixed == pytest.approx(0.5, abs=0.05)  # though every group has one of each, in this order
    alone = np.repeat([f"l{i}" for i in range(40)], 2)
    moved = permuted_labels(alone, groups, 0)
    assert sorted(moved) == sorted(alone)
    assert (moved[::2] == moved[1::2]).all()


def test_random_labels_belong_to_their_words():
    words = np.array(["x", "y", "z", "x", "w"])
    given = random_labels(words, ["a", "b"], 3)
    assert given[0] == given[3]
    assert sorted(dict(zip(words, given, strict=True)).values()) == ["a", "a", "b", "b"]


# ---------------------------------------------------------------- targets


def targets(**columns):
    rows = planted.rows(pictures=False)
    return targets_of(replace(rows, examples=rows.examples.assign(**columns)), 5)


def test_targets_are_told_with_the_reason_why_they_are_not_read():
    many, one = [f"m{i}" for i in range(planted.N // 5)] * 5, "same"
    rare = ["rare"] * 4 + ["a", "b"] * ((planted.N - 4) // 2)
    found = targets(relation=["x", "y"] * (planted.N // 2), many=[f"{w}" for w in many], one=one, rare=rare)
    assert found["relation"].classes == ["x", "y"]
    assert found["answer"].left_out == found["relation"].left_out == found["many"].left_out == ""
    assert found["one"].left_out == "all examples are of one class"
    assert found["rare"].classes == ["a", "b"]
    assert (found["rare"].labels[:4] == "").all()
    assert targets(a=["x", "y"] * 30, b=["u", "v"] * 30)["b"].left_out == "the same classes as “a”"
    names = [f"m{i}" for i in range(planted.N)]
    assert targets(names=names)["names"].left_out == "fewer than two classes stand in 5 groups"


def test_targets_that_are_the_same_are_read_once():
    rows = planted.rows(pictures=False)
    twins = replace(rows, examples=rows.examples.assign(twin=rows["answer"].astype(str)))
    assert set(tables_from(probing, twins, QUICK)["accuracy"]["target"]) == {"answer"}


def test_the_word_of_the_control_task_is_not_the_target():
    rows = planted.rows()
    answers = rows["answer"].astype(str)
    words = types_of(rows, "last", answers)
    assert words is not None
    assert words.tolist() == rows["tail"][:, 1].astype(int).astype(str).tolist()
    assert types_of(rows, "last", rows["tail"][:, 1].astype(int).astype(str)) is None
    assert types_of(rows, "image", answers).tolist() == [t.split(", ")[0] for t in rows.examples["objects"]]


def test_heads_are_read_where_asked():
    rows = planted.rows(pictures=False)
    z = np.random.default_rng(0).normal(size=(planted.N, 2, 3, 4))
    z[:, 0] = np.nan  # a layer without heads
    z[:, 1, 2, 0] += 8 * (rows["answer"] == 0)
    z[:, 1, 2, 1] += 8 * (rows["answer"] == 1)
    rows.values["z"] = z
    found = tables_from(probing, rows, QUICK)["heads"].query("target == 'answer' and control == ''")
    assert found["layer"].tolist() == [1, 1, 1]
    assert found.set_index("head")["value"].idxmax() == 2


def test_labels_of_one_class_or_too_few_groups_are_nothing_to_measure_in_one_line():
    rows = planted.rows(pictures=False, answers=False)
    with pytest.raises(NothingToMeasure, match="neither answers nor other labels"):
        tables_from(probing, rows, QUICK)
    few = replace(planted.rows(pictures=False), examples=rows.examples.assign(group=["a", "b", "c"] * 20))
    with pytest.raises(NothingToMeasure, match="answer: fewer than two classes stand in 5 groups") as raised:
        tables_from(probing, few, QUICK)
    assert "\n" not in str(raised.value)
    assert list(raised.value.tables) == ["targets", "tested"]


def test_a_mixed_task_reads_images_where_there_are_some():
    rows = planted.rows()
    rows.values["image"][:20] = np.nan
    found = tables_from(probing, rows, QUICK)["accuracy"]
    mine = found.query("target == 'number of objects' and control == ''").groupby("place")["n"].max()
    assert mine.to_dict() == {"last position": planted.N, "mean over image tokens": planted.N - 20}

"""Cosines, kernels and layers by hand; what pairs share in one state is found there, of shuffled pairs nowhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from crosslens import capture
from crosslens.analyses import metrics
from crosslens.analyses.common.claims import HOLDS, UNTESTABLE
from crosslens.analyses.common.controls import DRAWS, IMAGE, PAIRS, another_image, other_groups, random_half
from crosslens.analyses.representations import similarity
from crosslens.analyses.representations._similarity_modes import MODES, MORE
from crosslens.analyses.representations._similarity_rows import text_tokens
from crosslens.analyses.representations._similarity_tested import SHARED
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.runs.results import How, Rows, observe

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import similarity as planted

HOW = How(similarity.Options())


# ---------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def example(name, question, seed):
    segments = (
        Segment("text", "w1 w2"),
        Segment("image", vision_subjects.picture(seed)),
        Segment("question", f" {question}"),
    )
    return Example(name, name, segments)


EXAMPLES = [example("a", "w5 w6 w3", 1), example("b", "w7", 2)]


def rows_of(subject, examples, **form):
    return observe(subject, subject.batch(examples, **form), {"similarity": (similarity, HOW)})["similarity"]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_are_the_mean_states_by_hand(subject, padding):
    batch, rows = subject.batch(EXAMPLES, padding=padding), rows_of(subject, EXAMPLES, padding=padding)
    seen = capture(subject, batch, ["resid_pre", "resid_post"])
    for state in range(subject.n_layers + 1):
        residual = seen["resid_pre", state] if state < subject.n_layers else seen["resid_post", state - 1]
        for i in range(len(EXAMPLES)):
            torch.testing.assert_close(rows["image"][i, state], residual[i, batch.where("image")[i]].mean(0))
            torch.testing.assert_close(rows["text"][i, state], residual[i, text_tokens(batch)[i]].mean(0))


def test_text_is_neither_the_first_token_nor_special_ones(subject):
    batch = subject.batch(EXAMPLES)
    kept = text_tokens(batch)
    words = [batch.inputs["input_ids"][i][kept[i]].tolist() for i in range(2)]
    known = [subject.tokenizer.convert_tokens_to_ids(text.split()) for text in ("w1 w2 w5 w6 w3", "w1 w2 w7")]
    assert words == known
    bare = tiny.subject().batch([Example("t", "t", (Segment("text", "w1 w2 w3"),))], bos=False)
    assert text_tokens(bare).sum() == 2


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = rows_of(subject, EXAMPLES, padding=padding)
    for i, one in enumerate(EXAMPLES):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-5)


def test_an_example_without_image_or_label_is_one_line():
    bare = Example("t", "t", (Segment("text", "w1 w2"),))
    with pytest.raises(UserError, match="example t has neither an image nor a label") as raised:
        rows_of(tiny.subject(), [bare])
    assert "\n" not in str(raised.value)
    assert list(rows_of(tiny.subject(), [replace(bare, meta={"label": "x"})])) == ["text"]


# ---------------------------------------------------------------- token modes

MODES_HOW = How(similarity.Options(modes=True))
SHOWN = [replace(one, unrelated=(vision_subjects.picture(5 + i),)) for i, one in enumerate(EXAMPLES)]


def modes_of(subject, examples, **form):
    batch = subject.batch(examples, **form)
    return observe(subject, batch, {"similarity": (similarity, MODES_HOW)})["similarity"]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_token_modes_are_those_of_the_whole_matrix(subject, padding):
    found = modes_of(subject, SHOWN, padding=padding)["modes"]
    for i, one in enumerate(SHOWN):
        own = subject.batch([one])
        text = text_tokens(own)[0]
        for picture, shown in enumerate((own, subject.batch([another_image(one)]))):
            images = capture(subject, shown, ["resid_pre", "resid_post"])
            words = capture(subject, own, ["resid_pre", "resid_post"])
            for state in range(subject.n_layers + 1):
                at = ("resid_pre", state) if state < subject.n_layers else ("resid_post", state - 1)
                x, y = images[at][0, shown.where("image")[0]], words[at][0, text]
                matrix = torch.cosine_similarity(x[:, None], y[None], dim=-1)
                slow = [matrix.mean(), matrix.max(), matrix.quantile(0.5), matrix.amax(1).mean()]
                torch.testing.assert_close(found[i, state, picture], torch.stack(slow), rtol=1e-3, atol=1e-5)


def test_token_modes_belong_to_their_example(subject):
    text = replace(EXAMPLES[0], segments=(Segment("text", "w1 w2"),), meta={"label": "x"})
    several = [SHOWN[0], EXAMPLES[1], text, SHOWN[1]]
    together = modes_of(subject, several)["modes"]
    assert together[1, :, 1].isnan().all()  # has no other image
    assert together[2].isnan().all()  # has none at all
    for i in (0, 3):
        torch.testing.assert_close(together[i], modes_of(subject, [several[i]])["modes"][0], rtol=1e-3, atol=1e-5)
    assert "modes" not in modes_of(subject, [text])


def test_modes_of_the_own_image_stand_beside_those_of_another():
    rows = planted.pictures(count=12)
    rows.values["modes"] = np.random.default_rng(0).normal(size=(12, 3, 2, 4))
    rows.values["modes"][0, :, 1] = np.nan  # has no other image: neither number counts
    table = tables_from(similarity, rows)["modes"].set_index(["measure", "control", "mode", "state"])
    own, other = rows["modes"][1:].mean(0).swapaxes(0, 1)
    for at, mode in enumerate(MODES):
        for state in range(3):
            assert table.loc[("cosine", "", mode, state), "value"] == pytest.approx(own[state, at])
            assert table.loc[("cosine", IMAGE, mode, state), "value"] == pytest.approx(other[state, at])
            assert table.loc[(MORE, "", mode, state), "value"] == pytest.approx(own[state, at] - other[state, at])
    assert set(table["n"]) == {11}
    assert "modes" not in tables_from(similarity, planted.pictures())


def test_modes_of_a_model_that_reads_no_images_are_refused_in_one_line():
    labelled = Example("t", "t", (Segment("text", "w1 w2"),), meta={"label": "x"})
    with pytest.raises(UserError, match=r"--similarity.modes compares image tokens .* reads no images") as raised:
        modes_of(tiny.subject(), [labelled])
    assert "\n" not in str(raised.value)


def test_what_token_modes_hold_is_of_one_example(subject):
    held = [similarity.memory(subject, batch, 64, MODES_HOW.options) for batch in (1, 8)]
    assert held[0] == held[1] > 0
    assert similarity.memory(subject, 8, 64, HOW.options) == 0
    assert similarity.row_size(subject, 64, MODES_HOW.options) > similarity.row_size(subject, 64, HOW.options)


# ---------------------------------------------------------------- tables, the slow way


def few(n_groups=10, each=2):
    """Rows of several examples a group, one of them without an image."""
    rng = np.random.default_rng(3)
    image, text = rng.normal(size=(2, n_groups * each, 3, 5)) + 0.5
    image[4] = np.nan
    return planted.rows_with({"image": image, "text": text}, [f"g{i % n_groups}" for i in range(n_groups * each)])


def languages(n_groups=9):
    rng = np.random.default_rng(3)
    labels = [label for label in "abc" for _ in range(n_groups)][:-1]  # the last page is not there in c
    text = rng.normal(size=(len(labels), 3, 5)) + 0.5
    return planted.rows_with({"text": text}, [f"g{i % n_groups}" for i in range(len(labels))], label=labels)


def cos(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def pairs_by_hand(rows, s, t):
    """(cosine, group, group, whether they belong together) of all pairs, as they are and centred."""
    groups = rows.examples["group"].to_numpy()
    sets = {}
    if "image" in rows.values:
        there = np.flatnonzero(~np.isnan(rows["image"][:, 0, 0]))
        sets = {"image": (rows["image"], there), "text": (rows["text"], there)}
        order = [("image", "text")]
    else:
        for label in "abc":
            sets[label] = (rows["text"], np.flatnonzero(rows.examples["label"] == label))
        order = [("a", "b"), ("a", "c"), ("b", "c")]
    for centred in (False, True):
        found = []
        for one, other in order:
            (x, own), (y, others) = sets[one], sets[other]
            mean_x, mean_y = (x[own, s].mean(0), y[others, t].mean(0)) if centred else (0, 0)
            for i in own:
                for j in others:
                    together = i == j if one == "image" else groups[i] == groups[j]
                    found.append((cos(x[i, s] - mean_x, y[j, t] - mean_y), groups[i], groups[j], together))
        yield found


def by_hand(found):
    every = np.array([value for value, *_ in found])
    same = np.array([together for *_, together in found])
    apart = np.array([g != h for _, g, h, _ in found])
    return {
        "all pairs": every.mean(),
        "same": every[same].mean(),
        "different": every[apart].mean(),
        "same − different": every[same].mean() - every[apart].mean(),
    }


@pytest.mark.parametrize("rows", [few(), languages()], ids=["pictures", "labels"])
def test_cosines_are_those_of_all_pairs_one_by_one(rows):
    tables = tables_from(similarity, rows)
    own = tables["likeness"].query("control == ''").set_index(["states", "measure", "state"])["value"]
    for state in range(3):
        for form, found in zip(("as they are", "centred"), pairs_by_hand(rows, state, state), strict=True):
            for measure, value in by_hand(found).items():
                assert own[form, measure, state] == pytest.approx(value), (form, measure, state)
    crossed = tables["layers"]
    kind = crossed["sets"].iloc[0]
    cells = crossed[crossed["sets"] == kind].set_index(["measure", "state", "other"])["value"]
    for s, t in ((0, 0), (0, 2), (2, 1)):
        plain, centred = (by_hand(found) for found in pairs_by_hand(rows, s, t))
        assert cells["different", s, t] == pytest.approx(plain["different"])
        assert cells["same − different", s, t] == pytest.approx(centred["same − different"])


def test_permuted_pairs_are_those_of_other_groups():
    rows = few(each=1)
    keep = ~np.isnan(rows["image"][:, 0, 0])
    rows = rows.where(keep)
    x, y = (states[:, 1] / np.linalg.norm(states[:, 1], axis=1)[:, None] for states in (rows["image"], rows["text"]))
    order = np.argsort(rows.examples["group"].to_numpy())
    drawn = [np.mean((x[order] * y[order][other_groups(len(x), draw)]).sum(1)) for draw in range(DRAWS)]
    table = tables_from(similarity, rows)["likeness"].query("states == 'as they are' and state == 1")
    different = table.query("measure == 'different' and control == ''")["value"].item()
    beside = table.query("measure == 'same − different' and control == @PAIRS")["value"].item()
    assert beside == pytest.approx(np.mean(drawn) - different)


def test_the_mean_over_all_pairs_is_the_public_metric():
    rows = planted.pictures(count=12)
    own = tables_from(similarity, rows)["likeness"].query("measure == 'all pairs' and states == 'as they are'")
    for state in range(planted.STATES):
        image, text = (torch.from_numpy(rows[name][:, state]) for name in ("image", "text"))
        assert own["value"].iloc[state] == pytest.approx(metrics.pairwise_cosine(image, text).mean.item())


def test_cka_is_the_public_metric_of_the_groups_means():
    rows = few()
    there = rows.where(~np.isnan(rows["image"][:, 0, 0]))
    groups = there.examples["group"].to_numpy()
    names = np.unique(groups)
    found = tables_from(similarity, rows)["cka"].query("control == ''").set_index(["measure", "state"])["value"]
    for state in range(3):
        x, y = (
            torch.from_numpy(np.stack([there[set_][groups == name, state].mean(0) for name in names]))
            for set_ in ("image", "text")
        )
        for measure, unbiased in (("plain", False), ("unbiased", True)):
            assert found[measure, state] == pytest.approx(metrics.linear_cka(x, y, unbiased=unbiased).item())


def test_labels_that_lack_pages_have_the_folds_of_all():
    rows = languages(30)
    gone = (rows.examples["label"] == "b") & rows.examples["group"].isin(["g3", "g4", "g5"])
    some = rows.where(~gone.to_numpy())
    found = tables_from(similarity, some)["cka"].query("control == '' and measure == 'plain' and state == 1")
    pages = some.examples.assign(row=range(len(some.examples))).pivot(index="group", columns="label", values="row")
    values = []
    for pair in (["a", "b"], ["a", "c"], ["b", "c"]):
        both = pages[pair].dropna().astype(int).to_numpy()
        assert len(both) < 30
        values.append(metrics.linear_cka(*(torch.from_numpy(some["text"][at, 1]) for at in both.T)).item())
    assert found["value"].item() == pytest.approx(np.mean(values))
    assert found["lower"].item() < found["value"].item()


def test_sets_that_are_the_same_have_cosine_and_cka_1():
    rows = planted.pictures()
    rows.values["image"] = rows["text"].copy()
    tables = tables_from(similarity, rows)
    own = (
        tables["likeness"]
        .query("control == '' and states == 'as they are'")
        .pivot(index="state", columns="measure", values="value")
    )
    assert np.allclose(own["same"], 1)
    assert np.allclose(own["same − different"], 1 - own["different"])
    assert np.allclose(tables["cka"].query("control == ''")["value"], 1)
    images = tables["likeness"].query("control == 'different images' and states == 'as they are'")
    assert np.allclose(images["value"], own["different"])


# ---------------------------------------------------------------- planted


def content(tables, control=""):
    found = tables["likeness"].query("measure == 'same − different' and control == @control")
    return found[found["states"] == "centred"].sort_values("state")


def verdict(tables, name):
    return next(claim.verdict for claim in similarity.claims(tables) if claim.name == name)


def test_what_pairs_share_in_one_state_is_found_there_and_of_shuffled_pairs_nowhere():
    tables = planted.tables_of(shared=(3,))
    found = content(tables)
    assert (found["lower"] > 0.5).to_numpy().tolist() == [state == 3 for state in range(planted.STATES)]
    assert np.abs(content(tables, PAIRS)["value"]).max() < 0.05
    assert tables["tested"].query("claim == @SHARED and than == ''")["state"].item() == 3
    assert verdict(tables, SHARED) == HOLDS
    holding = 0
    for shift in range(1, 11):  # by luck one in 40 holds
        twin = planted.pictures(shared=(3,))
        twin.values["text"] = np.roll(twin["text"], shift, axis=0)
        table = similarity.TABLES["tested"][0](twin, HOW)
        assert np.abs(table.query("claim == @SHARED")["value"]).max() < 0.2
        holding += verdict({"tested": table}, SHARED) == HOLDS
    assert holding <= 2


def test_what_all_share_is_likeness_and_no_content():
    tables = planted.tables_of(alike=(2, 3, 4, 5), shared=())
    own = tables["likeness"].query("control == '' and states == 'as they are' and measure == 'different'")
    assert own.set_index("state")["value"].loc[[2, 3, 4, 5]].min() > 0.5
    assert np.abs(content(tables)["value"]).max() < 0.12  # 4 standard errors


def test_an_interval_covers_where_groups_are_drawn_twice():
    """A group that is drawn twice is no other to itself: what pairs share must not lift the others' cosine."""
    tables = planted.tables_of(shared=range(planted.STATES), alike=())
    for measure in ("different", "all pairs"):
        rows = tables["likeness"].query("control == '' and states == 'as they are'")
        rows = rows[rows["measure"] == measure]
        middle = (rows["lower"] + rows["upper"]) / 2
        assert np.abs(middle - rows["value"]).max() < 0.25 * (rows["upper"] - rows["lower"]).min()


def test_the_order_of_the_examples_changes_nothing():
    rows = planted.texts()
    order = np.random.default_rng(1).permutation(len(rows.examples))
    mixed = Rows(rows.examples.iloc[order].reset_index(drop=True), {"text": rows["text"][order]})
    one, other = (tables_from(similarity, each) for each in (rows, mixed))
    for name in one:
        numbers = [table[["value", "lower", "upper"]].to_numpy() for table in (one[name], other[name])]
        np.testing.assert_allclose(*numbers, atol=1e-8)


def test_the_other_half_and_other_groups():
    for count in (5, 12):
        other = other_groups(count, 3)
        assert sorted(other) == list(range(count))
        assert (other != np.arange(count)).all()
        assert random_half(count, 3).sum() == count // 2


# ---------------------------------------------------------------- what cannot be compared


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (planted.texts(labels=1), "no images and 1 labels: English; --task texts has languages"),
        (planted.rows_with({"text": np.ones((4, 3, 2))}, list("abcd")), "no images and 0 labels: none"),
        (few(n_groups=1, each=8), "fewer than two groups have an image and text: raise --limit"),
    ],
)
def test_nothing_to_compare_is_one_line(rows, said):
    with pytest.raises(NothingToMeasure, match=said) as raised:
        tables_from(similarity, rows)
    assert "\n" not in str(raised.value)


def test_pages_that_no_two_labels_share_have_no_pairs():
    tables = planted.pages_of(paired=False)
    assert "same − different" not in set(tables["likeness"]["measure"])
    assert "different" in set(tables["likeness"]["measure"])
    assert "cka" not in tables
    assert {claim.verdict for claim in similarity.claims(tables)} == {UNTESTABLE}
    assert "no group has texts of two labels" in set(tables["tested"]["untestable"])


def test_too_few_groups_or_states_are_not_testable():
    assert "cka" not in planted.tables_of(count=4)
    few_states = planted.tables_of(states=3)["tested"].set_index("claim")["untestable"]
    assert few_states["image and text grow alike"] == "fewer than 4 states"
    few_groups = planted.tables_of(count=3)["tested"].set_index("claim")["untestable"]
    assert few_groups[SHARED] == "fewer than four groups to choose a state on half of them"

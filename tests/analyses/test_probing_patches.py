"""Single patches, the vision tower, random weights and pooling: rows by hand, scikit-learn's probes, planted rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import PERMUTED_LABELS, RANDOM_WEIGHTS
from crosslens.analyses.representations import probing
from crosslens.analyses.representations._attentive import Pool, Variant, read_pooled
from crosslens.analyses.representations._logistic import fitted
from crosslens.analyses.representations._patch_reading import INSIDE, OF_THING, PLACE
from crosslens.analyses.representations._patches import WORDS, patches
from crosslens.analyses.representations._principal import components
from crosslens.analyses.representations._probes import folds_of, read
from crosslens.data.tasks import scenes
from crosslens.probes.model.random_weights import random_twin
from crosslens.probes.model.stack import VISION
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import probing as planted
from .test_probing import EXAMPLES, HOW, QUICK, rows_of


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


# ---------------------------------------------------------------- rows


def tower_by_hand(subject, batch):
    kept = []
    with (
        torch.no_grad(),
        tracing(subject, lambda layer: kept.append((layer.resid_pre, layer.resid_post)), stack=VISION),
    ):
        subject.forward(batch)
    return torch.stack([*(before for before, _ in kept), kept[-1][1]], 1)[:, :, 1:]  # without the class token


def test_patches_of_the_decoder_and_the_tower_are_the_states_by_hand(subject):
    batch, rows = subject.batch(EXAMPLES), rows_of(subject, EXAMPLES)
    seen, tower = capture(subject, batch, ["resid_pre", "resid_post"]), tower_by_hand(subject, batch)
    for i, told in enumerate(rows["patch|told"]):
        where = batch.where("image")[i].nonzero()[:, 0].reshape(6, 6)
        for at, (row, column) in enumerate(told[:, :2].int().tolist()):
            for layer in range(subject.n_layers):
                torch.testing.assert_close(rows["patch"][i, layer, at], seen["resid_pre", layer][i, where[row, column]])
            last = seen["resid_post", subject.n_layers - 1][i, where[row, column]]
            torch.testing.assert_close(rows["patch"][i, -1, at], last)
            torch.testing.assert_close(rows["tower|patch"][i, :, at], tower[i, :, 6 * row + column])
    torch.testing.assert_close(rows["tower"], tower.mean(2))
    torch.testing.assert_close(rows["whole"], tower[:, -1].half())


def test_patches_lie_inside_or_touch_nothing():
    """On 30 × 30 pixels a cell is 5: the middles 2.5 … 27.5."""
    found = patches(tiny_vision().batch([EXAMPLES[1]]), 36)
    assert found.inside[0].nansum() == 3 * 2  # columns 1 … 3, rows 2 and 3
    for (row, column), inside in zip(found.cell[0].tolist(), found.inside[0].tolist(), strict=True):
        x, y = 5 * column + 2.5, 5 * row + 2.5
        touched = 5 * column < 21 and 5 * column + 5 > 3 and 5 * row < 18 and 5 * row + 5 > 9
        assert np.isnan(row) or (inside == 1) == (3 <= x < 21 and 9 <= y < 18)
        assert np.isnan(row) or inside == 1 or not touched


def tiny_vision():
    return Subject(*vision_subjects.build("llava"))


def test_what_lies_on_a_patch_of_a_scene_is_the_thing_drawn_there():
    (example,) = scenes.examples(1, kinds="count")
    found = patches(tiny_vision().batch([example]), 8)
    things = scenes.things_of(example)
    assert {(thing.colour, thing.shape) for thing in things.values()} == {
        tuple(one.split()) for one in example.meta["objects"].split(", ")
    }
    inside = found.inside[0] == 1
    for (row, column), (colour, shape) in zip(found.cell[0][inside], found.thing[0][inside].int(), strict=True):
        x, y = 14 * float(column) + 7, 14 * float(row) + 7
        (thing,) = [t for (a, b, c, d), t in things.items() if a <= x < c and b <= y < d]
        assert (thing.colour, thing.shape) == (WORDS["colour"][colour], WORDS["shape"][shape])
    assert found.thing[0][~inside].isnan().all()
    assert scenes.things_of(example.corrupt) == {}
    assert scenes.things_of(EXAMPLES[0]) == {}


def test_random_weights_are_other_weights_of_the_same_shape_every_time(subject):
    twin = random_twin(subject)
    own, other = subject.model.state_dict(), twin.model.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}
    drawn = [name for name in own if own[name].float().std() > 0 and own[name].ndim > 1]
    assert drawn
    assert not any(torch.equal(own[name], other[name]) for name in drawn)
    rows = rows_of(subject, EXAMPLES)
    seen = capture(twin, twin.batch(EXAMPLES), ["resid_pre"])
    last = twin.batch(EXAMPLES).last
    torch.testing.assert_close(rows["random|last"][:, 1], seen["resid_pre", 1][torch.arange(2), last])


def test_what_is_not_asked_for_is_not_kept(subject):
    quiet = How(probing.Options(patches=0, tower=False, queries=0))
    assert set(rows_of(subject, EXAMPLES, quiet)) == {"last", "image", "answer", "tail", "place"}
    without = rows_of(subject, EXAMPLES, How(probing.Options(tower=False)))
    middle = capture(subject, subject.batch(EXAMPLES), ["resid_pre"])["resid_pre", subject.n_layers // 2]
    image = subject.batch(EXAMPLES).where("image")
    torch.testing.assert_close(without["whole"][1], middle[1, image[1]].half())
    assert "random|last" not in rows_of(tiny.subject(), ["w1 w2"], How(probing.Options()))
    assert "random|last" in rows_of(tiny.subject(), ["w1 w2"], HOW)


# ---------------------------------------------------------------- the solver


@pytest.mark.parametrize(("n", "d", "classes"), [(60, 90, 4), (300, 20, 2), (60, 90, 2)])
def test_probes_are_those_of_scikit_learn(n, d, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    states = rng.normal(size=(n, 2, d)) * np.exp(rng.normal(size=d)) + 2 * np.eye(d)[labels][:, None] + 3
    states[:, :, -1] = 1e6  # a channel that never varies
    train, test = np.arange(n) < 0.8 * n, np.arange(n) >= 0.8 * n
    whole = torch.from_numpy(states.swapaxes(0, 1))
    x, held_out = components(whole[:, train], whole[:, test], 16)
    codes = torch.from_numpy(np.stack([labels, rng.permutation(labels)]))
    found = fitted(x, codes[:, train], 0.1)
    for state in range(2):
        reduce = make_pipeline(StandardScaler(), PCA(16, svd_solver="full")).fit(states[train, state])
        own, other = reduce.transform(states[train, state]), reduce.transform(states[test, state])
        scale = np.sqrt(np.square(own).mean())
        np.testing.assert_allclose(held_out[state].abs().numpy(), np.abs(other / scale), rtol=1e-3, atol=1e-4)
        for i, labels_of in enumerate(codes):
            by_hand = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(own / scale, labels_of[train])
            logits = held_out[state] @ found.weights[state, :, :, i] + found.biases[state, :, i]
            np.testing.assert_allclose(logits.softmax(1).numpy(), by_hand.predict_proba(other / scale), atol=0.01)


def test_examples_without_a_label_are_neither_learned_from_nor_read():
    rng = np.random.default_rng(0)
    labels, groups = np.tile(["a", "b", ""], 20), np.arange(60)
    states = rng.normal(size=(60, 1, 3))
    states[labels == "a", 0, 0] += 9
    folds = folds_of(labels, groups, 5)
    found = read(states, [labels, np.where(labels == "", "a", labels)], folds, QUICK)
    assert np.isnan(found[0][labels == ""]).all()
    assert np.nanmean(found[0]) == pytest.approx(1.0)
    assert not np.isnan(found[1]).any()


# ---------------------------------------------------------------- planted patches


def on_patches(tables, target, control=""):
    found = tables["patches"]
    mine = found[(found["target"] == target) & (found["control"] == control)]
    return mine.sort_values("state")["value"].to_numpy()


def test_what_lies_there_is_found_in_the_one_state_that_holds_it():
    tables = tables_from(probing, planted.rows(lying=(2,)), QUICK)
    for target in (INSIDE, OF_THING.format("colour"), OF_THING.format("shape")):
        own = on_patches(tables, target)
        assert own[2] > 0.95
        assert np.abs(own[[0, 1, 3]] - 0.5).max() < 0.2
        for control in (PLACE, PERMUTED_LABELS):
            assert np.abs(on_patches(tables, target, control) - 0.5).max() < 0.2
    counts = tables["patches"].groupby("target")["n"].max()
    assert counts.to_dict() == {
        INSIDE: 4 * planted.N,
        OF_THING.format("colour"): 2 * planted.N,
        OF_THING.format("shape"): 2 * planted.N,
    }


def test_where_place_tells_it_the_control_says_so():
    tables = tables_from(probing, planted.rows(lying=(2,), by_place=True), QUICK)
    assert on_patches(tables, INSIDE, PLACE).min() > 0.95


def test_random_weights_are_a_control_where_there_are_some():
    rows = planted.rows(lying=(2,))
    for name in ("last", "image", "patch"):
        rows.values[f"random|{name}"] = np.random.default_rng(5).normal(size=rows[name].shape)
    tables = tables_from(probing, rows, QUICK)
    assert np.abs(on_patches(tables, INSIDE, RANDOM_WEIGHTS) - 0.5).max() < 0.2
    assert RANDOM_WEIGHTS in set(tables["accuracy"]["control"])
    assert RANDOM_WEIGHTS not in set(tables_from(probing, planted.rows(), QUICK)["accuracy"]["control"])


# ---------------------------------------------------------------- pooling


def test_a_query_pools_its_block_of_the_values():
    torch.manual_seed(0)
    x, queries, values = torch.randn(1, 5, 6), torch.randn(1, 2, 6), torch.randn(1, 2, 6, 3)
    pool = Pool(queries, values, torch.zeros(1, 6, 2), torch.zeros(1, 2))
    looks = pool.looks(x, torch.ones(1, 5, dtype=torch.bool), torch.ones(1))
    by_hand = metrics.query_pooling(x[0], queries[0], values[0].transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(looks[0, 0].double(), by_hand.attention.double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pool.pooled(x, looks)[0, 0].double(), by_hand.state.double(), rtol=1e-4, atol=1e-5)


def test_queries_find_the_patch_that_tells_and_the_mean_does_not():
    rows = planted.rows(pooled="one patch")
    tables = tables_from(probing, rows, QUICK)
    found = tables["pooling"].query("target == 'number of objects'").set_index(["pooling", "control"])["value"]
    assert found["learned queries", ""] > 0.85
    assert found["mean of the patches", ""] < 0.75
    assert abs(found["learned queries", PERMUTED_LABELS] - 0.5) < 0.2
    maps = tables["query_maps"]
    assert maps.groupby(["example", "query"])["value"].mean().to_numpy() == pytest.approx(1, abs=1e-3)
    marked = dict(zip(rows.examples["id"], rows["whole"][..., 1].argmax(1), strict=True))
    at = maps["row"] * planted.SIDE + maps["column"] == maps["example"].map(marked)
    most = maps.groupby(["example", at.rename("marked"), "row", "column"])["value"].max().groupby("marked").mean()
    assert most[True] > 2 > most[False]  # times alike, of the query that looks most


def test_patches_that_are_not_there_change_nothing():
    rows = planted.rows(pooled="one patch")
    x, labels = torch.from_numpy(rows["whole"]), rows.examples["n_objects"].to_numpy().astype(int) - 1
    padded = torch.cat([x, torch.full_like(x[:, :2], torch.nan)], 1)
    folds = folds_of(labels.astype(str), rows.examples["group"].to_numpy(), 3)
    one, other = (read_pooled(each, [Variant(labels, True)], folds, 2) for each in (x, padded))
    assert (one.said == other.said).mean() > 0.98
    np.testing.assert_allclose(other.looks[..., :-2], one.looks, atol=0.02)
    assert np.isnan(other.looks[..., -2:]).all()

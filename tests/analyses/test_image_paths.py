"""Paths restricted to positions are the engine's own; a head heard at one place is found there and not at the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject
from crosslens.analyses.circuits import image_paths
from crosslens.analyses.circuits._image_path_tables import DEEPER, LAST, PICTURE, TEXT, THROUGH, TOKENS
from crosslens.analyses.common.stats import split_half
from crosslens.data.errors import UserError
from crosslens.data.tasks import scenes
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.paths import Receiver, path_sweep
from crosslens.probes.prompts.batch import corrupt_twins
from crosslens.probes.runs.results import How

from ..helpers import contrasts, tiny, tiny_scenes
from ..helpers.makers import tables_from
from .claims import image_paths as planted

HOW = How(image_paths.Options(), image_paths.Learned([[1, 0], [1, 2]], ["none"]))
KINDS = "existence+colour"


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_scenes.model(), tiny_scenes.processor(), name="tiny-scenes")


def made(subject: Any, n: int, **options: Any) -> list[Any]:
    return scenes.examples(n, 0, tokenizer=subject.tokenizer, kinds=KINDS, **options)


def rows_of(subject: Any, examples: list[Any], **form: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return image_paths.measure(subject, subject.batch(examples, **form), {}, HOW)


@pytest.mark.parametrize("form", ["image", "words"])
def test_rows_are_paths_and_patches_at_those_positions(subject, form):
    examples = made(subject, 2, form=form)
    batch = subject.batch(examples)
    seen = batch.where("image")
    if form == "words":
        seen = batch.marks.get("asked_object", seen) | batch.marks["other_objects"]
    twins, measure = (
        corrupt_twins(subject, batch),
        logit_difference(batch.answers, torch.tensor([batch.first_token_of(e, e.corrupt.answer) for e in examples])),
    )
    receivers = [Receiver(1, head, part) for head in (0, 2) for part in "kv"]
    rows = rows_of(subject, examples)
    places = {PICTURE: seen, TEXT: batch.mask & ~seen & ~batch.final}
    for name, where in places.items():
        path = path_sweep(subject, batch, twins, receivers, measure=measure, positions=where)
        torch.testing.assert_close(
            rows[f"path|{name}"], (path.values - path.clean).movedim(-1, 0), atol=1e-5, rtol=1e-4
        )
    layer = patch_sweep(subject, batch, twins, "attn_out", positions=batch.final, measure=measure)
    expected = (layer.values - layer.clean).movedim(-1, 0)
    torch.testing.assert_close(rows[f"layer|{LAST}"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    examples = made(subject, 3)[::-1]
    together = rows_of(subject, examples, padding=padding)
    for i, one in enumerate(examples):
        for name, values in rows_of(subject, [one]).items():
            torch.testing.assert_close(together[name][i], values[0], rtol=1e-3, atol=1e-5)


def test_another_question_changes_nothing_at_the_picture(subject):
    rows = rows_of(subject, made(subject, 2, twin="question"))
    assert rows[f"path|{PICTURE}"].abs().max() < 1e-5
    assert not rows[f"layer|{PICTURE}"].any()
    assert rows["tokens"].tolist() == [0, 0]
    assert rows[f"path|{TEXT}"].abs().max() > 1e-4


# ---------------------------------------------------------------- planted rows


def test_the_share_by_hand():
    rows = planted.rows()
    tested = tables_from(image_paths, rows)["tested"].set_index(["claim", "than"])["value"]
    first, other = split_half(rows.examples["group"])
    sums = {}
    for place in (PICTURE, TEXT):
        values = -rows[f"path|{place}"]
        sums[place] = (values[other] * np.sign(values[first].mean(0))).sum()
    share = sums[PICTURE] / (sums[PICTURE] + sums[TEXT])
    assert tested[THROUGH, ""] == pytest.approx(share)
    assert tested[THROUGH, TOKENS] == pytest.approx(share - 0.6)
    assert 0.1 < share < 0.3


def test_the_planted_head_is_found_at_its_place():
    paths = tables_from(image_paths, planted.rows(picture=0.0))["paths"]
    strongest = paths.loc[paths["value"].abs().idxmax()]
    assert (strongest["place"], strongest["layer"], strongest["head"]) == (TEXT, 2, 1)
    assert paths[paths["place"] == PICTURE]["value"].abs().max() < 0.02


def test_attention_that_does_nothing_at_the_picture_has_no_depth():
    """Noise lies in the middle of all layers by itself, before a late layer at the last position."""
    rows = planted.rows()
    rng = np.random.default_rng(1)
    rows.values[f"layer|{PICTURE}"][:] = rng.normal(0, 0.05, rows[f"layer|{PICTURE}"].shape)
    tested = tables_from(image_paths, rows)["tested"].set_index("claim")
    assert (
        tested.loc[DEEPER, "untestable"]
        == "the two halves of the groups do not agree on what attention does at: picture"
    )


def test_twins_of_one_picture_say_nothing_of_it():
    rows = planted.rows()
    rows.values["tokens"][:] = 0
    tested = tables_from(image_paths, rows)["tested"]
    assert set(tested["untestable"]) == {"the twins have the same picture"}


def test_what_was_chosen_on_is_not_measured():
    rows = planted.rows()
    groups = sorted(set(rows.examples["group"]))[:10]
    tables = tables_from(image_paths, rows, selected_on=groups)
    assert set(tables["paths"]["n"]) == {30}
    assert set(tables["layers"]["n"]) == {60}


# ---------------------------------------------------------------- what is refused


def test_a_task_without_a_picture_and_no_movers():
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(2, tokenizer=None))
    with pytest.raises(UserError, match="no picture, and no words that tell its things"):
        image_paths.measure(subject, batch, {}, HOW)
    with pytest.raises(UserError, match="movers 0: at least one"):
        image_paths.fit(subject, [batch], image_paths.Options(movers=0))
    assert "1.0, 1.2" in image_paths.methods(HOW.options, HOW.learned, {"examples": 8})

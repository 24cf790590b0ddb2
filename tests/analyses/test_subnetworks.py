"""Laws of sub-networks: squares by hand, the public metrics, padding and order, planted channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.representations import subnetworks
from crosslens.analyses.representations._subnetworks_rows import READS, SUMMED, some_rows
from crosslens.analyses.representations._subnetworks_tables import CHANNELS, EXCHANGED, HALVES, Overlaps, random_iou
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe

from ..helpers import tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import subnetworks as planted

HOW = How(subnetworks.Options())


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


def shown(seed):
    words = Segment("text", f"w{seed} w2 w3" + " w4" * seed)
    return Example(
        f"e{seed}", f"g{seed}", (Segment("text", "w9 w8"), Segment("image", vision_subjects.picture(seed)), words)
    )


EXAMPLES = [shown(seed) for seed in range(3)]


def rows_of(subject, examples, **form):
    return observe(subject, subject.batch(examples, **form), {"subnetworks": (subnetworks, HOW)})["subnetworks"]


def test_squares_by_hand(subject):
    batch, seen = subject.batch(EXAMPLES), {}
    found = rows_of(subject, EXAMPLES)
    with tracing(subject, lambda layer: seen.update({layer.index: (layer.z.flatten(2), layer["mlp_post"])})):
        subject.forward(batch)
    for i in range(2):
        image = batch.where("image")[i]
        for name, site in (("heads", 0), ("neurons", 1)):
            expected = seen[1][site][i, image].square().sum(0)
            torch.testing.assert_close(found[f"image|{name}"][i, 1], expected)
    assert set(found) == set(SUMMED)


def test_rows_do_not_depend_on_padding_and_order(subject):
    whole, other = rows_of(subject, EXAMPLES), rows_of(subject, EXAMPLES[::-1], padding="left")
    for name, values in whole.items():
        torch.testing.assert_close(other[name].flip(0), values, rtol=1e-4, atol=1e-5)


def test_rows_of_weights_are_those_of_the_layer(subject):
    found = some_rows(subject)
    layer = subject.layers[1]
    for name, module in {"Q": layer.self_attn.q_proj, "O": layer.self_attn.o_proj, "down": layer.mlp.down_proj}.items():
        whole = module.weight.detach().abs()
        assert all((whole == row).all(1).any() for row in found[name][1])


def test_overlap_is_the_public_metric_and_of_nothing_but_the_sums():
    rows = planted.rows()
    found = Overlaps(rows, 0.5).of(np.ones(planted.FOLDS))
    for at, name in enumerate(READS):
        masks = []
        for one in ("image", "text"):
            norms = torch.from_numpy(np.sqrt(rows.sums[f"{one}|{READS[name]}"].sum(0)[2])).float()[None]
            masks.append(metrics.used_weights(torch.from_numpy(rows.weights[name][2]).float(), norms, 0.5))
        assert found[2, at] == pytest.approx(float(metrics.mask_overlap(*masks)))


def test_planted_channels_are_found_and_exchanged_ones_are_not():
    ones = np.ones(planted.FOLDS)
    same, apart = (Overlaps(planted.rows(shared=shared), 0.5) for shared in (1.0, 0.0))
    assert same.mean(ones) > 0.8
    assert same.mean(ones, HALVES) - same.mean(ones) < 0.1
    assert apart.mean(ones) < random_iou(0.5)
    assert apart.mean(ones, EXCHANGED) > 0.7
    assert abs(same.mean(ones, CHANNELS) - random_iou(0.5)) < 0.15


def test_texts_and_options_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match=r"--subnetworks.sparsity 1\.5: a share"):
        subnetworks.weights(tiny.subject(), subnetworks.Options(1.5))
    with pytest.raises(NothingToMeasure, match="no example has an image"):
        tables_from(subnetworks, planted.rows(images=False))

"""Layers without heads: NaN in stacked rows, left out of rankings, overlaps, correlations, sums and means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crosslens.analyses import metrics
from crosslens.analyses.common.agreement import spearman
from crosslens.analyses.common.circuit_overlap import circuit_overlap
from crosslens.analyses.common.frames import of_heads
from crosslens.probes.runs.results import stack_layers

BARE = [0, 3]
THERE = [1, 2, 4]


def maps(seed):
    """Effects [5, 4] of which two layers have none, and the same of the other three alone."""
    effects = np.random.default_rng(seed).normal(size=(5, 4))
    effects[BARE] = np.nan
    return effects, effects[THERE]


def test_rows_are_nan_where_an_observer_gives_none():
    one = torch.arange(6.0).reshape(2, 3)
    stacked = stack_layers([{"z": None, "mlp": one}, {"z": one, "mlp": one, "last": one}, {"z": None, "mlp": one}])
    assert stacked["z"].shape == (2, 3, 3)
    assert stacked["z"][:, [0, 2]].isnan().all()
    assert torch.equal(stacked["z"][:, 1], one)
    assert not stacked["mlp"].isnan().any()
    assert stacked["last"].shape == (2, 1, 3), "a name of some layers alone is no missing head"


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_shares_are_of_the_heads_that_there_are(share):
    whole, alone = (torch.tensor(x) for x in maps(0))
    assert metrics.top_heads(whole, share) == [(THERE[a], b) for a, b in metrics.top_heads(alone, share)]


def test_one_missing_head_is_still_an_error():
    whole, _ = (torch.tensor(x) for x in maps(0))
    whole[1, 2] = torch.nan
    with pytest.raises(ValueError, match="a head without an effect"):
        metrics.top_heads(whole, 0.1)
    with pytest.raises(ValueError, match="NaN"):
        circuit_overlap(whole, whole)
    with pytest.raises(ValueError, match="no heads"):
        metrics.top_heads(torch.full((2, 2), torch.nan), 0.1)


def test_overlaps_are_those_of_the_other_layers():
    (a, few_a), (b, few_b), (c, few_c) = (maps(seed) for seed in range(3))
    found = circuit_overlap(a, b, share=0.3, halves_a=(a, c), halves_b=(b, c))
    expected = circuit_overlap(few_a, few_b, share=0.3, halves_a=(few_a, few_c), halves_b=(few_b, few_c))
    for name in ("share", "jaccard", "p_value", "p_hypergeometric"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.heads == [(THERE[layer], head) for layer, head in expected.heads]
    assert 0 < found.ceiling <= 1


def test_correlations_and_sums():
    (a, few_a), (b, few_b) = maps(0), maps(1)
    assert spearman(a.ravel(), b.ravel()) == pytest.approx(spearman(few_a.ravel(), few_b.ravel()))
    rows = np.stack([a, b])
    np.testing.assert_allclose(of_heads(rows).sum((1, 2)), [few_a.sum(), few_b.sum()])
    complete = rows[:, THERE]
    assert of_heads(complete) is complete, "sums keep their bits where all layers have heads"
    rows[1] = np.nan
    assert np.isnan(of_heads(rows).sum((1, 2))).tolist() == [False, True], "a missing example stays missing"

"""POPE's and CHAIR's measures: the official reading of answers, the sets' average, counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from crosslens.analyses.common import stats
from crosslens.analyses.common.hallucination import (
    CHAIR,
    POPE,
    affirms,
    chair,
    over_sets,
    pope,
    pope_averaged,
    pope_by_set,
    says_yes,
)

# answer: (as POPE's evaluate.py reads it, as it is meant)
ANSWERS = {
    "Yes, there is a dog.": (True, True),
    "No": (False, False),
    "no, there is not": (False, False),
    "There is no dog. Yes.": (False, False),
    "There is a dog, not a cat.": (False, False),
    "NO": (True, False),
    "Not at all.": (True, False),
    "No\nThe image shows a dog.": (True, False),
    "No,there is none": (True, False),
    "No!": (True, False),
    "I cannot see one.": (True, False),
    "It isn't there. No.": (True, False),
    "yes and no": (False, True),
    "Yes. There is no doubt.": (True, True),
    "There is a dog in the image.": (True, True),
    "": (True, None),
    "...": (True, None),
    ". No": (True, False),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.items())
def test_answers_are_read_as_the_authors_do_and_as_they_are_meant(answer, expected):
    assert (says_yes(answer), affirms(answer)) == expected


def test_measures_of_answers():
    said, truth = [True, True, False, False, True], [True, False, True, False, True]
    expected = {"accuracy": 0.6, "precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3, "yes rate": 0.6, "false alarms": 0.5}
    found = pope(said, truth)
    assert tuple(found) == POPE
    assert found == pytest.approx(expected)
    assert np.isnan(pope([False], [False])["precision"])
    with pytest.raises(ValueError, match="must be"):
        pope([True], [True, False])


def test_sets_are_averaged_behind_their_ratios():
    rng = np.random.default_rng(0)
    said, truth, sets = rng.random(90) < 0.6, rng.random(90) < 0.5, np.repeat(["random", "popular", "adversarial"], 30)
    sets[:20] = "popular"  # sets of unequal size: an average of ratios is no ratio of sums
    apart = [pope(said[sets == name], truth[sets == name]) for name in np.unique(sets)]
    found = pope_averaged(said, truth, sets)
    for name in POPE:
        assert found[name] == pytest.approx(np.mean([one[name] for one in apart]))
    assert abs(found["F1"] - pope(said, truth)["F1"]) > 1e-4
    value, lower, upper = stats.bootstrap_statistic(pope_by_set(said, truth, sets), np.arange(90), over_sets)
    assert value[POPE.index("F1")] == pytest.approx(found["F1"])
    assert (lower < value).all()
    assert (value < upper).all()
    with pytest.raises(ValueError, match="one name each"):
        pope_by_set(said, truth, sets[:5])


def test_measures_of_captions():
    found = chair([3, 2, 0], [1, 0, 0], [2, 1, 0], [2, 2, 1], [10, 8, 3])
    assert tuple(found) == CHAIR
    expected = {"CHAIR_S": 1 / 3, "CHAIR_I": 1 / 5, "recall": 3 / 5, "object words": 5 / 3, "length": 7.0}
    assert found == pytest.approx(expected)
    assert "length" not in chair([1], [1], [0], [1])
    with pytest.raises(ValueError, match="more hallucinated"):
        chair([1], [2], [0], [1], [3])

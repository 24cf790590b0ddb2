"""Visibility follows the mask; the uniform null."""

import pytest
from crosslens.analyses import metrics

from ...helpers.patterns import LENGTHS, SIZE, ragged


@pytest.mark.parametrize("side", ["left", "right"])
def test_first_real_token_and_visibility_follow_the_mask(side):
    _, mask = ragged(side)
    first = metrics.first_real(mask)
    starts = [SIZE - n if side == "left" else 0 for n in LENGTHS]
    assert first.nonzero().tolist() == [[i, start] for i, start in enumerate(starts)]
    visible = metrics.causal_visibility(mask)
    assert visible.sum((1, 2)).tolist() == [n * (n + 1) // 2 for n in LENGTHS]
    assert not visible.triu(1).any()

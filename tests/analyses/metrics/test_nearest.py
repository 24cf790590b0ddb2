"""Nearest words against the slow way; vectors like some states have their mean and covariance."""

import pytest
import torch
from crosslens.analyses import metrics

from ...helpers.patterns import BAD_SHAPE


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_word_similarity_is_the_largest_cosine_of_any_occurrence_at_any_layer():
    states, bank, word = drawn(5, 7), drawn(3, 9, 7, seed=1), torch.tensor([0, 1, 2, 0, 1, 2, 3, 3, 0])
    similar, layer = metrics.word_similarity(states, bank, word)
    for i, state in enumerate(states):
        for w in range(4):
            there = bank[:, word == w]
            cosines = torch.nn.functional.cosine_similarity(state.expand_as(there), there, dim=-1)
            assert similar[i, w] == pytest.approx(float(cosines.max()), abs=1e-6)
            assert layer[i, w] == cosines.amax(1).argmax()


def test_lengths_do_not_matter_and_a_state_of_nan_is_near_nothing():
    states, bank, word = drawn(2, 4), drawn(2, 3, 4, seed=1), torch.arange(3)
    one, _ = metrics.word_similarity(states, bank, word)
    other, _ = metrics.word_similarity(9 * states, bank * torch.tensor([2.0, 0.1, 5.0])[:, None], word)
    torch.testing.assert_close(one, other)
    states[0] = torch.nan
    similar, _ = metrics.word_similarity(states, bank, word)
    assert similar[0].isnan().all()
    torch.testing.assert_close(similar[1], one[1])


def test_centred_directions_have_no_mean_and_leave_nan_out():
    states = drawn(6, 3)
    centred = metrics.centred_directions(states)
    torch.testing.assert_close(centred.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    behind = torch.cat([states, torch.full((2, 3), torch.nan)])
    torch.testing.assert_close(metrics.centred_directions(behind)[:6], centred)


def test_vectors_like_states_have_their_mean_and_covariance():
    states = drawn(8, 3) * torch.tensor([5.0, 1.0, 0.1]) + torch.tensor([1.0, 2.0, 3.0])
    made = metrics.like_states(states, drawn(40000, 8, seed=2))
    torch.testing.assert_close(made.mean(0), states.mean(0), atol=0.1, rtol=0.02)
    torch.testing.assert_close(made.T.cov(), states.T.cov(), atol=0.05, rtol=0.05)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="bank has shape"):
        metrics.word_similarity(drawn(2, 4), drawn(2, 0, 4), torch.arange(0))
    with pytest.raises(BAD_SHAPE):
        metrics.word_similarity(drawn(2, 4), drawn(2, 3, 4), torch.arange(2))
    with pytest.raises(ValueError, match="one state"):
        metrics.like_states(drawn(1, 4), drawn(3, 1))

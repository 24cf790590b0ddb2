"""Direct logit attribution: parts sum to the measure, whatever norms and biases stand between them and the logits."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.probes.intervene.direct_attribution import direct_attribution
from crosslens.probes.intervene.measures import logit_difference, probability
from crosslens.probes.intervene.positions import at_last
from crosslens.probes.intervene.readout import clean_values
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import anatomy
from crosslens.probes.model.frozen_norms import Affine, affine, attention_tail, written_by_heads
from crosslens.probes.model.head import linear_head

from ..helpers import by_hand

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
FAMILIES = ["llama", "gpt2", "gpt_neox", "granite", "cohere2", "qwen3", "opt", "phi"]
NORMED = ["gemma2", "gemma3_text", "olmo2", "glm4"]  # a norm between the heads and the residual


def attributed(family, padding="left"):
    subject = Subject(by_hand.build(family))
    base = record(subject, by_hand.inputs(family, padding), ("z", "mlp_out"))
    return subject, base, direct_attribution(subject, base, MEASURE)


@pytest.mark.parametrize("family", FAMILIES + NORMED)
def test_parts_sum_to_the_measure(family):
    subject, base, parts = attributed(family)
    total = parts.heads.sum((0, 1)) + parts.mlps.sum(0) + parts.rest
    if linear_head(subject.model) is not None:  # else a cap bends them
        torch.testing.assert_close(total, clean_values(base, MEASURE), atol=1e-4, rtol=1e-4)
    logits = subject.norm(base.resid) @ subject.W_U.T + (0 if subject.b_U is None else subject.b_U)
    expected = logits.gather(1, MEASURE.correct[:, None]) - logits.gather(1, MEASURE.wrong[:, None])
    torch.testing.assert_close(total, expected[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES + NORMED)
def test_the_rest_is_the_embedding_and_the_biases(family):
    """Every part through the held norms by hand: nothing is left over that the rest would hide."""
    subject, base, parts = attributed(family, "right")
    direction = MEASURE.direction(subject.W_U)
    norm = affine(subject.norm, base.resid)
    state = at_last(base.layers[0].resid_pre, base.last)
    bias = torch.zeros(3) if subject.b_U is None else subject.b_U[MEASURE.correct] - subject.b_U[MEASURE.wrong]
    for i, kept in enumerate(base.layers):
        state = state + written_by_heads(subject, i, at_last(kept.site("z"), base.last))[1]
    expected = ((norm.share(state, base.resid) + norm.bias) * direction).sum(-1) + bias
    torch.testing.assert_close(parts.rest, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", NORMED)
def test_heads_and_biases_through_their_norm_are_what_the_attention_adds(family):
    subject = Subject(by_hand.build(family))
    base = record(subject, by_hand.inputs(family, "none"), ("z", "attn_out"))
    for i, kept in enumerate(base.layers):
        assert attention_tail(subject.layers[i]) is not None
        heads, bias = written_by_heads(subject, i, kept.site("z").flatten(0, 1))
        expected = kept.site("attn_out").flatten(0, 1) * anatomy.multiplier(subject.layers[i])
        torch.testing.assert_close(heads.sum(1) + bias, expected, atol=1e-5, rtol=1e-4)


def test_a_head_with_a_bias_counts():
    """Phi adds a bias to its logits: a part of the rest, and of the measure."""
    subject, _, parts = attributed("phi")
    with torch.no_grad():
        subject.model.lm_head.bias[MEASURE.correct] += 5.0
    base = record(subject, by_hand.inputs("phi", "left"), ("z", "mlp_out"))
    moved = direct_attribution(subject, base, MEASURE)
    torch.testing.assert_close(moved.rest, parts.rest + 5.0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.heads, parts.heads)


def test_rows_of_the_unembedding_are_taken_before_they_are_cast():
    """The whole of it in float32 would be gigabytes beside a large model."""
    subject, seen = Subject(by_hand.build("llama").to(torch.bfloat16)), []
    base = record(subject, by_hand.inputs("llama", "left"), ("z", "mlp_out"))

    def direction(weight):
        seen.append(weight.dtype)
        return MEASURE.direction(weight)

    measure = lambda logits, rows: MEASURE(logits, rows)  # noqa: E731
    measure.direction = direction
    direct_attribution(subject, base, measure)
    clean_values(base, measure)
    assert seen == [torch.bfloat16] * 2
    weight = subject.model.lm_head.weight
    expected = weight.float()[MEASURE.correct] - weight.float()[MEASURE.wrong]
    assert torch.equal(MEASURE.direction(weight), expected), "cast before they are subtracted"


def test_mistakes_are_one_line(monkeypatch):
    subject = Subject(by_hand.build("gemma2"))
    base = record(subject, by_hand.inputs("gemma2", "right"), ("z", "mlp_out"))
    with pytest.raises(UserError, match="linear"):
        direct_attribution(subject, base, probability(torch.tensor([1, 2, 3])))
    monkeypatch.setattr(Affine, "scale", lambda self, x: 2 * torch.ones_like(x[..., :1]))
    with pytest.raises(UserError, match=r"is not a norm.*no share of their own"):
        direct_attribution(subject, base, MEASURE)

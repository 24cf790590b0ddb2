"""Direct logit attribution: parts sum to the measure, and the frozen norm is the norm at its own state."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.example import UserError
from crosslens.probes.direct import direct_attribution, frozen_norm
from crosslens.probes.measures import logit_difference, probability
from crosslens.probes.replay import record
from crosslens.probes.sweep import clean_values

from . import by_hand

MEASURE = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "granite", "cohere2", "qwen3", "opt"])
def test_parts_sum_to_the_measure(family):
    subject = Subject(by_hand.build(family))
    base = record(subject, by_hand.inputs(family, "left"), ("z", "mlp_out"))
    parts = direct_attribution(subject, base, MEASURE)
    bias = subject.norm(torch.zeros_like(base.resid[:1])).float()  # 0 but for a layer norm's
    through = frozen_norm(subject.norm, base.resid)
    torch.testing.assert_close(through(base.resid) + bias, subject.norm(base.resid), atol=1e-5, rtol=1e-4)
    total = parts.heads.sum((0, 1)) + parts.mlps.sum(0) + parts.rest
    torch.testing.assert_close(total, clean_values(base, MEASURE), atol=1e-4, rtol=1e-4)


def test_the_rest_is_the_embedding_where_nothing_has_a_bias():
    subject = Subject(by_hand.build("llama"))
    base = record(subject, by_hand.inputs("llama", "right"), ("z", "mlp_out"))
    parts = direct_attribution(subject, base, MEASURE)
    state = base.layers[0].resid_pre[torch.arange(3), base.last]
    direction = MEASURE.direction(subject.model.lm_head.weight.float())
    expected = (frozen_norm(subject.norm, base.resid)(state) * direction).sum(-1)
    torch.testing.assert_close(parts.rest, expected, atol=1e-4, rtol=1e-3)


def test_mistakes_are_one_line():
    subject = Subject(by_hand.build("gemma2"))
    base = record(subject, by_hand.inputs("gemma2", "right"), ("z", "mlp_out"))
    with pytest.raises(UserError, match="norms what its attention writes"):
        direct_attribution(subject, base, MEASURE)
    with pytest.raises(UserError, match="linear"):
        direct_attribution(subject, base, probability(torch.tensor([1, 2, 3])))

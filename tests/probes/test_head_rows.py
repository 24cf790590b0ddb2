"""The vocabulary read a few rows or words at a time: the same numbers, and nothing larger than the budget."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.probes.model import head

from ..helpers import families, tiny

FAMILIES = ["llama", "gpt2", "gemma2", "granite", "cohere2", "phi"]  # bias, scale, soft cap


def readings(subject):
    """What a lens reads, as a dictionary and as a tensor."""

    def read(states):
        logits = subject.unembed(subject.norm(states)).float()
        top = logits.topk(3, -1)
        return {"sum": logits.logsumexp(-1), "ids": top.indices, "top": top.values}

    return read


@pytest.mark.parametrize("budget", [1, 4 * families.VOCAB * 3, 2**30])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_few_rows_at_a_time(family, budget):
    subject, states = tiny.subject(family), torch.randn(7, 32)
    whole = readings(subject)(states)
    found = head.in_rows(readings(subject), subject.model, states, budget=budget)
    assert torch.equal(found["ids"], whole["ids"])
    for name in ("sum", "top"):
        torch.testing.assert_close(found[name], whole[name], atol=1e-5, rtol=1e-5)
    sums = head.in_rows(lambda x: readings(subject)(x)["sum"], subject.model, states, budget=budget)
    torch.testing.assert_close(sums, whole["sum"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_some_words_are_part_of_all(family):
    subject, states, words = tiny.subject(family), torch.randn(5, 32), torch.tensor([3, 60, 17])
    whole = subject.unembed(subject.norm(states)).float()
    found = head.of_words(subject.model, words)(subject.norm(states))
    torch.testing.assert_close(found, whole[:, words], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.word_directions(subject.model, words), subject.W_U[words].float())
    assert head.vocabulary(subject.model) == whole.shape[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("budget", [1, 4 * 32 * 5, 2**30])
@torch.no_grad()
def test_directions_along_all_words(monkeypatch, dtype, budget):
    monkeypatch.setattr(head, "LOGITS", budget)
    subject, x = Subject(families.build("granite").to(dtype)), torch.randn(2, 3, 32)
    weight, _, scale = head.head_parts(subject.model)
    expected = x @ weight.float().T * scale  # W_U itself has the scale rounded in, in half precision
    torch.testing.assert_close(head.along_words(subject.model, x), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat(head.few_words(weight)), weight)

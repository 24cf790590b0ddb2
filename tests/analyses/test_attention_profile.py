"""Indicators equal the published metrics on whole maps, whatever the padding; a sink is found, uniform attention gives
the nulls.
"""

from __future__ import annotations

import math

import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.attention import attention_profile
from crosslens.analyses.attention._profile_maps import even_ranks, of_maps
from crosslens.analyses.attention._profile_rows import INDICATORS, LENGTHS, indicators
from crosslens.analyses.attention._profile_shuffled import by_length_of_shuffled
from crosslens.analyses.common.controls import SHUFFLED_KEYS, SHUFFLED_PROMPT
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe

from ..helpers import tiny
from ..helpers.families import build

TEXTS = ["w1 w2 w3 w4 w5 w6 w7 w1 w3 w5 w2 w2 w6 w4 w1 w7 w3 w2 w5", "w4 w2 w7 w1"]
EXAMPLES = [Example(f"text {i}", "a", (Segment("text", text),)) for i, text in enumerate(TEXTS)]
FAMILIES = ["llama", "gemma2", "gpt2", "mistral", "gpt_oss"]
HOW = How(attention_profile.Options(length=12))


def subject_of(name: str) -> Subject:
    return Subject(build(name), tiny.tokenizer())


def rows_of(subject, texts, **form):
    batch = subject.batch(texts, **form)
    return observe(subject, batch, {"attention_profile": (attention_profile, HOW)})["attention_profile"]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_indicators_are_those_of_the_whole_map(name, padding):
    subject = subject_of(name)
    batch, kept = subject.batch(TEXTS, padding=padding), []
    rows = rows_of(subject, TEXTS, padding=padding)
    with torch.no_grad(), tracing(subject, lambda layer: kept.append((layer.pattern(), layer.attention.allowed()))):
        subject.forward(batch)
    for layer, (pattern, allowed) in enumerate(kept):
        for i, real in enumerate(batch.mask):
            maps = pattern[i][:, real][..., real]
            seen = allowed.expand(len(TEXTS), *allowed.shape[1:])[i, 0][real][:, real].sum(-1)
            compared(rows, layer, i, maps, seen)


def compared(rows, layer, i, maps, seen):
    near = {"rtol": 2e-4, "atol": 2e-5}
    n = len(seen)
    entropy = metrics.row_entropy(maps)[:, 1:]
    torch.testing.assert_close(rows["entropy"][i, layer], entropy.mean(-1), **near)
    torch.testing.assert_close(rows["even|entropy"][i, layer], seen[1:].double().log().mean().float(), **near)
    torch.testing.assert_close(rows["squares"][i, layer], maps[:, 1:].square().sum(-1).mean(-1), **near)
    torch.testing.assert_close(rows["first"][i, layer], maps[:, 1:, 0].mean(-1), **near)
    for d in range(4):
        if n > max(d, 1):
            own = maps.diagonal(-d, 1, 2)[:, 1 if d == 0 else 0 :]
            torch.testing.assert_close(rows[f"distance {d}"][i, layer], own.mean(-1), **near)
    mean = metrics.row_entropy(maps.mean(0))[1:].mean()
    torch.testing.assert_close(rows["entropy of mean"][i, layer], mean, **near)
    gap = 1 - maps.diagonal(dim1=1, dim2=2)[:, 1:].amax(-1)
    torch.testing.assert_close(rows["gap"][i, layer], gap, **near)
    if int(seen.max()) == n:  # no window
        fit = metrics.fit_trivial(maps[None], torch.ones(1, n, dtype=torch.bool)).r2
        torch.testing.assert_close(rows["trivial"][i, layer], fit, rtol=1e-3, atol=1e-4, equal_nan=True)
        apart = maps[:, 1:].std(0, correction=0).sum() / seen[1:].sum()
        torch.testing.assert_close(rows["diversity"][i, layer], apart, **near)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(padding):
    subject = subject_of("llama")
    together = rows_of(subject, EXAMPLES, padding=padding)
    for i, example in enumerate(EXAMPLES):
        alone = rows_of(subject, [example])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


def test_uniform_attention_gives_the_stated_nulls():
    subject = planted(0.0)
    rows = rows_of(subject, TEXTS[:1])
    for name in (*INDICATORS, "trivial"):
        own, even = rows[name][0], rows[f"even|{name}"][0]
        torch.testing.assert_close(own, even[:, None].expand_as(own), rtol=1e-3, atol=1e-4, msg=name)
    assert rows["diversity"].abs().max() < 1e-5
    torch.testing.assert_close(rows["gap"], torch.full_like(rows["gap"], 0.5))
    known = ~rows["by length"].isnan()
    torch.testing.assert_close(rows["by length"][known], torch.ones(int(known.sum())), rtol=1e-4, atol=1e-4)
    ranks, effective = even_ranks(12)
    torch.testing.assert_close(rows["rank"], torch.full_like(rows["rank"], ranks))
    torch.testing.assert_close(
        rows["effective rank"], torch.full_like(rows["effective rank"], effective), rtol=1e-3, atol=0
    )
    assert rows["apart"].abs().max() < 1e-5


def planted(strength: float) -> Subject:
    """A model whose heads do not look at the words: alike on all keys."""
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.mul_(strength)
    return Subject(model, tiny.tokenizer())


def test_shuffled_rows_keep_their_sharpness_and_lose_their_places():
    subject = subject_of("llama")
    batch, kept = subject.batch(TEXTS[:1]), []
    with torch.no_grad(), tracing(subject, lambda layer: kept.append(of_maps(layer, batch, 12))):
        subject.forward(batch)
    for found in kept:
        assert found["apart, twin"].isfinite().all()
        assert (found[f"rank|{SHUFFLED_KEYS}"] <= 1).all()
        assert not torch.equal(found["effective rank"], found[f"effective rank|{SHUFFLED_KEYS}"])


def test_shuffled_tokens_are_the_same_tokens_with_the_first_in_place(monkeypatch):
    subject = subject_of("llama")
    batch, seen = subject.batch(TEXTS, padding="left"), []
    plain = subject.forward
    monkeypatch.setattr(subject, "forward", lambda b, *a, **k: (seen.append(b), plain(b, *a, **k))[1])
    rows = by_length_of_shuffled(subject, batch)
    assert set(rows) == {f"by length|{SHUFFLED_PROMPT}", f"by length, twin|{SHUFFLED_PROMPT}"}
    ids, other = batch.inputs["input_ids"], seen[0].inputs["input_ids"]
    assert not torch.equal(ids, other)
    torch.testing.assert_close(ids.sort(1).values, other.sort(1).values)
    start = batch.start
    rows_at = torch.arange(len(TEXTS))
    assert torch.equal(ids[rows_at, start], other[rows_at, start])
    assert torch.equal(ids[~batch.mask], other[~batch.mask])


def test_a_row_is_in_the_bin_of_its_number_of_keys():
    subject = planted(1.0)
    batch, kept = subject.batch(TEXTS[:1]), []
    with torch.no_grad(), tracing(subject, lambda layer: kept.append((indicators(layer, batch), layer.sums.entropy))):
        subject.forward(batch)
    for found, entropy in kept:
        keys = torch.arange(1, entropy.shape[2] + 1)
        for one in range(LENGTHS):
            rows = (keys >= max(2, 2**one)) & (keys < 2 ** (one + 1))
            expected = (entropy[0].mean(0)[rows] / keys[rows].log()).mean() if rows.any() else torch.tensor(math.nan)
            torch.testing.assert_close(found["by length"][0, one], expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_prompt_of_one_token_is_refused_in_one_line():
    with pytest.raises(UserError, match="has one token"):
        rows_of(subject_of("llama"), ["w1"], bos=False)

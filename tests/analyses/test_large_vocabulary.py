"""A large vocabulary: nothing larger than the budget is made, and few words learn with the gradient of all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from crosslens import Subject
from crosslens.analyses.common.descent import Descent, kl_to
from crosslens.analyses.lenses import (
    _attention_lens,
    _attribution,
    _learning,
    _lens_words,
    _tuned_lens,
    _value_circuit,
    group_lens,
    learned_lenses,
    lenses,
    logit_attribution,
)
from crosslens.analyses.lenses._learning import Training, learn, open_lens
from crosslens.probes.model import head
from crosslens.probes.runs import lens_store
from crosslens.probes.runs.results import How
from crosslens.probes.runs.results import observe as ride
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.families import SHAPE
from ..helpers.largest import Largest
from .test_learned_lenses import corpus

MANY, BUDGET = 30_000, 2**20
FEW = Training(passages=6, steps=6, batch=16, tuned_steps=2, tuned_batch=16, tuned_positions="4")


def large(words=MANY, family="llama"):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SHAPE | {"vocab_size": words})
    return Subject(AutoModelForCausalLM.from_config(config).eval(), tiny.tokenizer(), name="large")


@pytest.fixture
def budgets(monkeypatch, tmp_path):
    """Budgets far below examples × vocabulary, and a corpus of its own."""
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_learning, "open_task", lambda spec: corpus())
    for module, name in ((head, "LOGITS"), (_lens_words, "BUDGET")):
        monkeypatch.setattr(module, name, BUDGET)
    monkeypatch.setattr(head.rows_at_once, "__defaults__", (BUDGET,))
    monkeypatch.setattr(head.in_rows, "__kwdefaults__", {"budget": BUDGET})


READERS = {
    "lenses": (lenses, lenses.Options()),
    "logit_attribution": (logit_attribution, logit_attribution.Options()),
    "group_lens": (group_lens, group_lens.Options(groups=("few=w1,w2,w3", "other=w7"))),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_hold_no_more_than_a_few_rows(budgets, monkeypatch, name):
    """A run of 40 examples: all their logits would be 4.8 MB, a budget's are 1."""
    subject, (module, options) = large(), READERS[name]
    batch, how = subject.batch(tiny.examples(40, tokenizer=None)), How(options)
    kept = ride(subject, batch, {"kept": (SimpleNamespace(observe=module.observe), how)})["kept"]
    with torch.no_grad(), Largest() as largest:
        rows = module.measure(subject, batch, kept, how)
    assert largest.bytes <= 2 * BUDGET, f"{largest.bytes:,}"
    monkeypatch.setattr(head.in_rows, "__kwdefaults__", {"budget": 2**30})
    whole = module.measure(subject, batch, kept, how)
    for key, values in rows.items():
        torch.testing.assert_close(values, whole[key], atol=1e-5, rtol=1e-4, equal_nan=True)


@torch.no_grad()
def test_weights_alone_hold_no_more(budgets):
    """Of the value circuit: directions of a few heads, words of a few rows; and it is the same whatever the budget."""
    subject = large()
    with Largest() as largest:
        found = _value_circuit.promoted(subject, 2, 3)
    assert largest.bytes <= 2 * BUDGET, f"{largest.bytes:,}"
    norm = subject.norm.weight
    heads = subject.W_O(1)[0]
    assert found["promotes_ids"].shape == (3, 4, 2, 3)
    assert heads.shape[1] == len(norm)


@pytest.mark.parametrize("budget", [1, 4 * 61 * 3, 2**30])
def test_a_value_circuit_is_the_same_for_any_budget(monkeypatch, budget):
    subject = tiny.subject("granite")
    whole = _value_circuit.promoted(subject, 2, 3)
    monkeypatch.setattr(head.in_rows, "__kwdefaults__", {"budget": budget})
    monkeypatch.setattr(head, "LOGITS", budget)
    found = _value_circuit.promoted(subject, 2, 3)
    for name, values in whole.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)


def test_learning_holds_no_more_than_its_budgets(budgets):
    """Maps of all words would be 3.8 MB a layer, logits of a minibatch 1.9."""
    subject = large()
    with Largest() as largest:
        name = learn(subject, FEW)
    assert largest.bytes <= 2 * BUDGET, f"{largest.bytes:,}"
    record = lens_store.record_of(name)
    assert record["words"] == BUDGET // (16 * 32)
    assert open_lens(subject, name, "attention", 1)["weight"].shape == (4, 8, record["words"] + 1)


def test_a_run_says_how_many_words_were_learned(budgets, tmp_path):
    subject, options = large(), learned_lenses.Options(**vars(FEW), measured="3")
    (directory,) = run(
        subject, tiny.task(), {"learned_lenses": (learned_lenses, options)}, Settings(limit=6, out=tmp_path)
    )
    methods = (directory / "record.json").read_text("utf-8")
    assert "of the 2,048 words likeliest in the mean output" in methods


def given(family="llama", n=24):
    """z of layer 1 and the last residual at random positions, and a subject that some words are chosen of."""
    subject = tiny.subject(family)
    generator = torch.Generator().manual_seed(0)
    z, final = torch.randn(n, 4, 8, generator=generator), torch.randn(n, 32, generator=generator)
    marginal = subject.unembed(subject.norm(final)).softmax(-1).mean(0).detach()
    return subject, z, final, _lens_words.choose(subject, 20, marginal, final)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "granite", "phi"])
def test_few_words_learn_with_the_gradient_of_the_whole_vocabulary(family):
    subject, z, final, chosen = given(family)
    weights = _attention_lens.start(subject, 1, z, final, chosen.words)
    weights = {name: w.detach() for name, w in weights.items()}
    rows, whole = torch.arange(len(z)), _lens_words.whole_target(subject, final)
    gradients = []
    for few in (True, False):
        learned = {name: weights[name].clone().requires_grad_() for name in ("weight", "bias")}
        if few:
            loss = kl_to(chosen.target(subject, final)(rows), _attention_lens._said(learned, z))
        else:
            loss = kl_to(whole(rows), _attention_lens.logits(weights | learned, z, subject))
        loss.backward()
        gradients.append([w.grad for w in learned.values()])
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "granite", "phi"])
@torch.no_grad()
def test_the_start_of_few_words_is_that_of_all(family):
    """Words with maps of their own have the same logits; the others the same shares among themselves; their sum is
    right at the mean z."""
    subject, z, final, chosen = given(family)
    whole = _attention_lens.logits(_attention_lens.start(subject, 1, z, final), z)
    weights = _attention_lens.start(subject, 1, z, final, chosen.words)
    found = _attention_lens.logits(weights, z, subject)
    others = torch.ones(61, dtype=torch.bool).index_fill(0, chosen.words, False)
    torch.testing.assert_close(found[:, chosen.words], whole[:, chosen.words], atol=1e-4, rtol=1e-4)
    shares = [logits[:, others].softmax(-1) for logits in (found, whole)]
    torch.testing.assert_close(*shares, atol=1e-5, rtol=1e-4)
    mean = z.mean(0, keepdim=True)
    full = _attention_lens.logits(_attention_lens.start(subject, 1, z, final), mean)
    sums = [logits[:, others].logsumexp(-1) for logits in (_attention_lens.logits(weights, mean, subject), full)]
    torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-4)
    for own in range(4):
        mine = _attention_lens.head_logits(weights, z, own)
        every = _attention_lens.head_logits(_attention_lens.start(subject, 1, z, final), z, own)
        torch.testing.assert_close(mine, every[:, chosen.words], atol=1e-4, rtol=1e-4)


def test_a_minibatch_in_parts_has_the_same_gradient(tmp_path, monkeypatch):
    subject, _, final, _ = given()
    states, descent = final + torch.randn(24, 32), Descent(3, 12, 1e-2)
    asked = (subject, 0, states, final, "ridge", descent)
    whole, losses = _tuned_lens.train(*asked, tmp_path / "a")
    monkeypatch.setattr(_tuned_lens, "rows_at_once", lambda words: 5)
    parts, again = _tuned_lens.train(*asked, tmp_path / "b")
    torch.testing.assert_close(torch.tensor(again), torch.tensor(losses))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_words_on_prompts_are_the_same_for_any_budget(monkeypatch):
    subject, how = tiny.subject("gpt2"), How(logit_attribution.Options())
    batch = subject.batch(["w1 w2 w3 w4", "w5 w6 w7"])
    kept = ride(subject, batch, {"k": (SimpleNamespace(observe=logit_attribution.observe), how)})["k"]
    whole = _attribution.head_words(subject, kept, 3)
    monkeypatch.setattr(head.in_rows, "__kwdefaults__", {"budget": 1})
    found = _attribution.head_words(subject, kept, 3)
    assert torch.equal(found["word_ids"], whole["word_ids"])
    torch.testing.assert_close(found["word_logits"], whole["word_logits"], atol=1e-5, rtol=1e-4)

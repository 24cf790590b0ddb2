"""Counts are those by hand, one neuron a language is found and its removal hurts that language alone."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.common.labels import label_of
from crosslens.analyses.common.places import text_without_first
from crosslens.analyses.neurons import neurons
from crosslens.analyses.neurons._counts import TEXT, labels_in
from crosslens.analyses.neurons._learning import learn
from crosslens.analyses.neurons._removal import HOW, removed
from crosslens.analyses.neurons._specific import entropy_bar, specific, twins
from crosslens.analyses.neurons._units import Units
from crosslens.analyses.neurons._words import read_texts, reads, sides, writes
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.observe.tracing import rewrite_output, tracing
from crosslens.probes.runs.results import How, Rows, observe

from ..helpers import tiny
from ..helpers.families import build

WORDS = {"French": " ".join(f"w{i}" for i in range(1, 21)), "German": " ".join(f"w{i}" for i in range(21, 41))}
LABELS = [*WORDS]
LAYER, NEURON = 1, {"French": 3, "German": 7}


def example(i: int, label: str) -> Example:
    words = WORDS[label].split()
    text = " ".join(words[(3 * i + k * (1 + i % 7)) % 20] for k in range(7 + i % 4))
    return Example(f"{label} {i}", f"page {i}", (Segment("text", text),), meta={"label": label})


EXAMPLES = [example(i, label) for i in range(12) for label in LABELS]


def model_of(planted: bool) -> Subject:
    """One neuron fires on the words of each language, and what it writes matters; its twin has no such neuron."""
    model, tokenizer = build("llama"), tiny.tokenizer()
    if planted:
        mlp, embedding = model.model.layers[LAYER].mlp, model.get_input_embeddings().weight.data
        for at, (label, words) in enumerate(WORDS.items()):
            mark = torch.zeros(embedding.shape[1])
            mark[at] = 200.0  # silent on all other words
            ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words.split()]
            embedding[:, at] = -4.0
            embedding[ids, at] = 4.0
            for layer in model.model.layers:  # nobody else is told
                for module in (*layer.self_attn.children(), layer.mlp.gate_proj, layer.mlp.up_proj):
                    if getattr(module, "in_features", 0) == embedding.shape[1] and module is not layer.self_attn.o_proj:
                        module.weight.data[:, at] = 0.0
            mlp.gate_proj.weight.data[NEURON[label]] = mark
            mlp.down_proj.weight.data[:, NEURON[label]] *= 20
    return Subject(model, tokenizer)


def rows_of(subject, examples, how, **form):
    return observe(subject, subject.batch(examples, **form), {"neurons": (neurons, how)})["neurons"]


def how_of(subject, **options):
    made = neurons.Options(positions=4, share=0.02, rate=0.9, **options)
    return How(made, neurons.fit(subject, [subject.batch(EXAMPLES)], made))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_counts_are_those_by_hand(padding):
    subject = tiny.subject()
    batch, how = subject.batch(EXAMPLES, padding=padding), how_of(subject)
    kept = observe(subject, batch, {"neurons": (neurons, how)})["neurons"]
    layers, counted = [], text_without_first(batch)
    with torch.no_grad(), tracing(subject, layers.append):
        subject.forward(batch)
        for i, one in enumerate(EXAMPLES):
            label, real = labels_in(EXAMPLES).index(label_of(one)), counted[i]
            for layer in layers:
                fires = torch.nn.functional.silu(layer["mlp_pre"][i, real]) > 0
                torch.testing.assert_close(kept[f"active|{label}"][i, layer.index], fires.sum(0).float())
                size = metrics.neuron_removal(layer["mlp_post"][i, real], layer.stack.W_down(layer.index).T).sum(0)
                top = kept[f"important|{label}"][i, layer.index].bool()
                assert int(top.sum()) == round(0.14 * len(size))
                assert size[top].min() >= size[~top].max()
                assert kept[f"active|{1 - label}"][i, layer.index].isnan().all()
            assert kept[f"tokens|{label}"][i, 0] == int(real.sum())


def test_rows_belong_to_their_example():
    subject = tiny.subject()
    how = how_of(subject)
    for padding in ("left", "right"):
        together = rows_of(subject, EXAMPLES[:6], how, padding=padding)
        for i, one in enumerate(EXAMPLES[:6]):
            for name, value in rows_of(subject, [one], how).items():
                torch.testing.assert_close(
                    together[name][i], value[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=f"{name} {padding}"
                )


@pytest.mark.parametrize("planted", [True, False])
def test_one_neuron_a_language_is_found_and_hurts_its_language_alone(planted):
    subject = model_of(planted)
    how = how_of(subject)
    own = {label: (LAYER, NEURON[label]) for label in LABELS}
    found = [own[label] in [tuple(one) for one in how.learned.specific[i]] for i, label in enumerate(LABELS)]
    assert all(found) is planted
    if not planted:
        return
    alone = how.learned._replace(specific=[[own[label]] for label in LABELS], means=[[0.0]] * 2, random=[])
    cost = removed(subject, subject.batch(EXAMPLES), alone, 4)["removed"][..., 0]
    is_own = torch.tensor([[label_of(one) == label for label in LABELS] for one in EXAMPLES])
    assert cost[is_own].abs().min() > 1e-3
    assert cost[~is_own].abs().max() < 1e-5


def test_a_neuron_reads_the_words_that_it_fires_on_and_writes_what_it_raises():
    subject = model_of(True)
    batch = subject.batch(EXAMPLES)
    own = {label: (LAYER, NEURON[label]) for label in LABELS}
    mlp = subject.model.model.layers[LAYER].mlp
    for label in LABELS:  # what the gate multiplies is positive on all words
        mlp.up_proj.weight.data[NEURON[label]] = 0.0
        mlp.up_proj.weight.data[NEURON[label], LABELS.index(label)] = 1.0
        mlp.down_proj.weight.data[:, NEURON[label]] = subject.W_U[5 + LABELS.index(label)]
    neurons = [*own.values()]
    texts = read_texts(subject, [batch], neurons)
    assert sides(texts).tolist() == [1.0, 1.0]
    read, written = reads(texts, neurons), writes(subject, neurons, sides(texts))
    for label in LABELS:
        said = subject.tokenizer.batch_decode([[token] for token in read[own[label]]])
        assert {word.strip() for word in said} <= {*WORDS[label].split()}
        expected = (subject.W_U @ subject.W_U[5 + LABELS.index(label)]).topk(6).indices
        assert written[own[label]] == expected.tolist()


def test_permuted_labels_leave_nothing_as_specific():
    """Of so many folds: the bar is that of the true labels."""
    subject = model_of(True)
    probability = learn(subject, [subject.batch(EXAMPLES)], LABELS, neurons.Options())[TEXT].probability
    bar = entropy_bar(probability, 0.02, 0.9)
    mixed = [Example(e.id, e.group, e.segments, meta={"label": LABELS[i // 2 % 2]}) for i, e in enumerate(EXAMPLES)]
    other = learn(subject, [subject.batch(mixed)], LABELS, neurons.Options())[TEXT].probability
    assert sum(map(len, specific(probability, 0.02, 0.9, bar))) >= 2
    assert not any(specific(other, 0.02, 0.9, bar * 0.5))


def test_removal_is_the_forward_with_the_neurons_at_zero():
    subject = tiny.subject()
    batch, chosen = subject.batch(EXAMPLES[:4]), [[(0, 1), (2, 5)], [(1, 2)]]
    learned = neurons.Learned(LABELS, chosen, [[0.3, -0.2], [0.5]], [])
    rows = removed(subject, batch, learned, 64)
    for at, values in ((0, [0.0, 0.0]), (1, [0.3, -0.2])):
        with ExitStack() as stack, torch.no_grad():
            for (layer, neuron), value in zip(chosen[0], values, strict=True):

                def put(tensor, neuron=neuron, value=value):
                    tensor = tensor.clone()
                    tensor[..., neuron] = value
                    return tensor

                rewrite_output(stack, subject.layers[layer], "mlp_post", put)
            logits = subject.model(**subject.prepare(batch)).logits.float().log_softmax(-1)
        ids = batch.inputs["input_ids"]
        for i in range(4):
            real = batch.mask[i].nonzero()[:, 0]
            loss = -logits[i, real[:-1], ids[i, real[1:]]].mean()
            torch.testing.assert_close(rows["clean"][i] + rows["removed"][i, 0, at], loss, rtol=1e-4, atol=1e-5)
    assert rows["removed"].shape[-1] == len(HOW)
    assert rows["removed"][..., 2].isnan().all()  # no twins were drawn


def test_twins_are_as_many_of_the_same_layers_and_none_of_them():
    probability = torch.rand(3, 50, 2)
    chosen = specific(probability, 0.1, 0.5)
    for draw in range(3):
        for own, other in zip(chosen, twins(probability, chosen, draw), strict=True):
            assert sorted(layer for layer, _ in own) == [layer for layer, _ in other]
            assert not {*other} & {neuron for some in chosen for neuron in some}


def test_units_weigh_and_permute():
    rng = np.random.default_rng(0)
    sums = {
        f"{name}|{i}": rng.integers(1, 9, (4, 2, 5)).astype(float) for name in ("active", "important") for i in (0, 1)
    }
    sums |= {f"tokens|{i}": np.full((4, 2), 10.0) for i in (0, 1)}
    rows = Rows(pd.DataFrame({"id": []}), {}, sums=sums, counts={name: np.full(v.shape, 3) for name, v in sums.items()})
    units = Units(rows, 2)
    expected = np.stack([sums[f"active|{i}"].sum(0) / 40 for i in (0, 1)], -1)
    np.testing.assert_allclose(units.probability().numpy(), expected)
    without = units.probability(np.array([0, 1, 1, 1])).numpy()
    np.testing.assert_allclose(without[..., 0], sums["active|0"][1:].sum(0) / 30)
    for label in units.permuted(5):
        for fold in range(4):
            assert sorted(label[units.fold == fold]) == [0, 1]


@pytest.mark.parametrize("wrong", [{"share": 2.0}, {"rate": 0.0}, {"top": -1.0}, {"draws": 0}])
def test_options_that_mean_nothing_are_refused_in_one_line(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"--neurons.{name}"):
        neurons.fit(tiny.subject(), [], neurons.Options(**wrong))


def test_what_cannot_be_compared_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"neurons compares 2 to 8 labels .* have 1: French"):
        labels_in(EXAMPLES[::2])
    with pytest.raises(UserError, match="have 0: none"):
        labels_in([Example("a", "a", (Segment("text", "w1"),))])

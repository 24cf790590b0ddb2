"""Counts of tower, projector and image tokens, and channels, are those by hand; a picture's neuron is found."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.common.places import text_without_first
from crosslens.analyses.neurons import neurons
from crosslens.analyses.neurons._channels import channel_changes, channels, query_rows
from crosslens.analyses.neurons._counts import BETWEEN, IMAGE, KEYS, PREFIXES, QUERIES, TEXT, TOWER, labels_in
from crosslens.analyses.neurons._learning import learn
from crosslens.analyses.neurons._tower import counts_before
from crosslens.analyses.neurons._units import Units, units_of
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model import anatomy
from crosslens.probes.model.stack import PROJECTOR, VISION
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, Rows, observe
from PIL import Image

from ..helpers import tiny, vision_subjects
from .test_neurons import EXAMPLES, rows_of

KINDS = {"bright": 240, "dark": 15}


def shown(i: int, kind: str) -> Example:
    """A plain picture of one kind."""
    picture = Image.new("RGB", (30, 30), (KINDS[kind] - i % 4,) * 3)
    segments = (Segment("image", picture), Segment("question", f" w{5 + i % 3} w6 w7"))
    return Example(f"{kind} {i}", f"picture {i}", segments, " w4", (" w5",), meta={"light": kind, "number": i % 2})


PICTURES = [shown(i, kind) for i in range(6) for kind in KINDS]
WITHOUT = Example("text", "text", (Segment("text", "w5 w6 w7 w8"),), " w4", (" w5",), meta={"light": "dark"})
OPTIONS = neurons.Options(by="light", positions=4, share=0.05, rate=0.5, draws=1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return vision_subjects.save("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def how(subject: Subject) -> How:
    return How(OPTIONS, neurons.fit(subject, [subject.batch(PICTURES)], OPTIONS))


@pytest.mark.parametrize(("part", "stack"), [(TOWER, VISION), (BETWEEN, PROJECTOR)])
def test_counts_before_the_decoder_are_those_by_hand(subject, part, stack):
    batch = subject.batch([PICTURES[0], WITHOUT, PICTURES[3]])
    found = counts_before(subject, batch, 0.14)[part]
    for i in (0, 2):
        layers: list[Any] = []
        with torch.no_grad(), tracing(subject, layers.append, stack=stack):
            subject.forward(subject.batch([batch.examples[i]]))
            for layer in layers:
                acts = layer["mlp_post"].flatten(0, 1)
                fires = (layer["mlp_pre"] > 0).flatten(0, 1).sum(0)
                torch.testing.assert_close(found["active"][i, layer.index], fires.float())
                size = metrics.neuron_removal(acts, layer.stack.W_down(layer.index).T).sum(0)
                top = found["important"][i, layer.index].bool()
                assert size[top].min() >= size[~top].max()
                assert found["tokens"][i, layer.index] == len(acts)
    assert all(value[1].isnan().all() for value in found.values())  # has no picture


def test_words_and_image_tokens_are_counted_apart(subject, how):
    batch = subject.batch(PICTURES)
    kept = observe(subject, batch, {"neurons": (SimpleNamespace(observe=neurons.observe), how)})["neurons"]
    for i, example in enumerate(PICTURES):
        label = [*KINDS].index(example.meta["light"])
        assert kept[f"tokens|{label}"][i, 0] == text_without_first(batch)[i].sum()
        assert kept[f"image tokens|{label}"][i, 0] == batch.where("image")[i].sum()
        assert kept[f"image active|{1 - label}"][i].isnan().all()


def test_rows_with_pictures_and_channels_belong_to_their_example(subject):
    options = neurons.Options(by="light", positions=4, share=0.05, rate=0.5, draws=1, channels=True)
    how = How(options, neurons.fit(subject, [subject.batch(PICTURES)], options))
    assert {*how.learned.beside} == {IMAGE, TOWER, BETWEEN, QUERIES, KEYS}
    several = [PICTURES[0], PICTURES[5], WITHOUT]
    for padding in ("left", "right"):
        together = rows_of(subject, several, how, padding=padding)
        for i, one in enumerate(several):
            alone = rows_of(subject, [one], how)
            for name, value in together.items():
                expected = alone[name][0] if name in alone else torch.full_like(value[i], torch.nan)
                torch.testing.assert_close(value[i], expected, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


@pytest.mark.parametrize("planted", [True, False])
def test_a_neuron_for_one_kind_of_picture_is_found(planted, tmp_path):
    subject = vision_subjects.save("llava", tmp_path)
    width = tell_light(subject, planted)
    own = {"bright": (0, width - 1), "dark": (0, width - 2)}
    learned = neurons.fit(subject, [subject.batch(PICTURES)], replace(OPTIONS, share=0.1))
    chosen = learned.beside[TOWER]["specific"]
    found = [own[kind] in [tuple(one) for one in chosen[i]] for i, kind in enumerate(learned.labels)]
    assert found == [planted] * 2
    if planted:  # and no other kind's
        assert not any(own[kind] in [tuple(one) for one in chosen[1 - i]] for i, kind in enumerate(learned.labels))


@torch.no_grad()
def tell_light(subject: Subject, planted: bool) -> int:
    """Patches say how light they are and nothing else, in two dimensions that two neurons of layer 0 alone read; the
    twin has no such neurons.
    """
    tower: Any = anatomy.find_tower(subject.model)
    patches = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d))
    patches.weight.zero_()
    patches.weight[0], patches.weight[1] = 1.0, -1.0  # whose mean is 0, so that no norm tells the others
    for norm in (module for module in tower.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    for layer in subject.vision.layers:
        attention = layer.self_attn
        for module in (attention.q_proj, attention.k_proj, attention.v_proj, layer.mlp.fc1):
            module.weight[:, :2] = 0.0
    mlp = subject.vision.layers[0].mlp
    for at, sign in ((-1, 10.0), (-2, -10.0)):
        mlp.fc1.weight[at], mlp.fc1.bias[at], mlp.fc2.weight[:, at] = 0.0, 0.0, 0.0
        if planted:
            mlp.fc1.weight[at, 0] = sign
    return mlp.fc1.out_features


@pytest.mark.parametrize(("part", "stack"), [(TOWER, VISION), (BETWEEN, PROJECTOR)])
def test_removal_before_the_decoder_is_the_forward_with_neurons_at_zero(subject, how, part, stack):
    batch = subject.batch([PICTURES[0], PICTURES[1]])
    chosen = [[(0, 1), (0, 3)], [(0, 2)]]
    known = how.learned.beside[part] | {"specific": chosen}
    how = replace(how, learned=how.learned._replace(beside={part: known}))
    found = neurons.measure(subject, batch, {}, how)
    for label, own in enumerate(chosen):
        handles = []
        for index in {layer for layer, _ in own}:
            units = [neuron for layer, neuron in own if layer == index]

            def zero(_, inputs, units=units):
                changed = inputs[0].clone()
                changed[..., units] = 0.0
                return (changed,)

            down = subject.vision.layers[index].mlp.fc2 if stack == VISION else subject.projector.layers[0].linear_2
            handles.append(down.register_forward_pre_hook(zero))
        with torch.no_grad():
            logits = subject.model(**subject.prepare(batch)).logits.float().log_softmax(-1)
        for handle in handles:
            handle.remove()
        loss = -logits[torch.arange(2), batch.last, batch.answers]
        without = found["clean"] + found[f"{PREFIXES[part]}removed"][:, label, 0]
        torch.testing.assert_close(without, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_channels_are_those_of_the_whole_maps(family):
    subject = tiny.subject(family)
    batch = subject.batch(EXAMPLES[:3], padding="left")
    layers: list[Any] = []
    with torch.no_grad(), tracing(subject, layers.append):
        subject.forward(batch)
        call = layers[1].attention
        changes = channel_changes(call, *query_rows(batch.mask, 64))
        shared = channels(call, batch.mask)[1]
    heads, per_key = call.query.shape[1], call.query.shape[1] // call.key.shape[1]
    for i, real in enumerate(batch.mask):
        squares = torch.zeros(heads, call.query.shape[-1])
        for head in range(heads):
            q, k = call.query[i, head, real], call.key[i, head // per_key, real]
            if family == "llama":  # no softcap, no window
                squares[head] = metrics.channel_removal(q, k, scale=call.scale).square()
                torch.testing.assert_close(changes[i, head], squares[head], rtol=1e-3, atol=1e-6)
        if family == "llama":
            by_key = squares.unflatten(0, (-1, per_key)).sum(1)
            torch.testing.assert_close(shared[i], by_key.flatten(), rtol=1e-3, atol=1e-6)
    assert bool((changes > 0).any())


def test_query_rows_are_evenly_spaced_and_at_most_so_many():
    kept = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    rows, real = query_rows(kept, 3)
    assert rows[real].tolist() == [1, 3, 5, 4, 5]
    assert real.sum(1).tolist() == [3, 2, 0]


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"--neurons.by colour: .* no such column; there are light, number"):
        labels_in(PICTURES, "colour")
    with pytest.raises(UserError, match=r"have 1: bright; --neurons.by takes another column of light, number"):
        labels_in(PICTURES[::2], "light")
    assert labels_in(PICTURES, "number") == ["0", "1"]


def test_a_label_without_words_is_refused_in_one_line():
    subject = tiny.subject()
    several = [*EXAMPLES[:4], Example("x", "x", (Segment("text", ""),), meta={"label": "none"})]
    with pytest.raises(UserError, match="no held-out example has words behind its first token"):
        neurons.fit(subject, [subject.batch(several)], neurons.Options())


def test_examples_without_a_label_are_left_out():
    subject = tiny.subject()
    other = Example("x", "x", (Segment("text", "w1 w2 w3"),), meta={"label": ""})
    batches = ([subject.batch(EXAMPLES[:4])], [subject.batch([*EXAMPLES[:4], other])])
    first, second = (learn(subject, one, ["French", "German"], neurons.Options())[TEXT] for one in batches)
    torch.testing.assert_close(first.probability, second.probability)


def test_what_is_held_does_not_grow_with_documents():
    """A 7B shape, whose 352,256 neurons are counted by fold and never by document."""
    shape = {"n_layers": 32, "vision": None, "n_heads": 32, "n_kv_heads": 32, "d_head": 128, "d_model": 4096}
    subject: Any = SimpleNamespace(**shape, text_config=SimpleNamespace(intermediate_size=11008))
    options = neurons.Options(removal=False)
    counted = 32 * (2 * 11008 + 1)
    assert neurons.row_size(subject, 128, options) == neurons.row_size(subject, 4096, options)
    assert neurons.row_size(subject, 128, options) >= 2 * 8 * counted
    one, two = (neurons.memory(subject, batch, 128, options) for batch in (1, 2))
    assert two - one == 2 * 4 * 8 * counted  # 45 MB a document of a batch
    assert neurons.row_size(subject, 128, neurons.Options(channels=True)) > neurons.row_size(subject, 128, options)


def test_sums_are_made_into_units_once():
    sums = {f"{name}|{i}": np.ones((4, 2, 5)) for name in ("active", "important") for i in (0, 1)}
    sums |= {f"tokens|{i}": np.ones((4, 2)) for i in (0, 1)}
    rows = Rows(pd.DataFrame({"id": []}), {}, sums=sums, counts=sums)
    how = How(neurons.Options(), neurons.Learned(["a", "b"]))
    first = units_of(rows, how)
    assert [*first] == [TEXT]
    assert units_of(rows, how)[TEXT] is first[TEXT]
    other = Rows(pd.DataFrame({"id": []}), {}, sums=sums, counts=sums)
    assert units_of(other, how)[TEXT] is not first[TEXT]
    assert units_of(rows, how)[TEXT] is first[TEXT]  # two conditions in turn


def test_labels_are_permuted_over_folds_where_a_fold_has_one_alone():
    sums = {f"{name}|{i}": np.ones((6, 2, 5)) for name in ("active", "important") for i in (0, 1)}
    sums |= {f"tokens|{i}": np.repeat((np.arange(6) % 2 == i)[:, None], 2, 1).astype(float) for i in (0, 1)}
    units = Units(Rows(pd.DataFrame({"id": []}), {}, sums=sums, counts=sums), 2)
    drawn = [label.tolist() for label in units.permuted(8)]
    assert all(sorted(label) == sorted(units.label) for label in drawn)
    assert any(label != units.label.tolist() for label in drawn)

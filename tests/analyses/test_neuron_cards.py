"""Contexts and n-grams are those by hand, scores those of the public metric; labels explain planted neurons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.common.places import text_without_first
from crosslens.analyses.neurons import neurons
from crosslens.analyses.neurons._contexts import BEFORE, BEHIND, CONTEXTS, Card, cards, ngrams
from crosslens.analyses.neurons._explained import CLAIM, Scores, shown
from crosslens.analyses.neurons._words import Text, read_texts, sides, turned
from crosslens.data.tokens import inside
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, Rows

from ..helpers import tiny
from .test_neurons import EXAMPLES, LABELS, LAYER, NEURON, how_of, label_of, model_of, rows_of

PLACES = [(0, 3), (2, 11), (1, 0), (0, 5)]


def by_hand(subject, one):
    """What W_down reads in one text alone: ids [p], [layer][p, n], the tokens that are counted."""
    batch, layers = subject.batch([one]), []
    with torch.no_grad(), tracing(subject, lambda layer: layers.append(layer["mlp_post"][0].clone())):
        subject.forward(batch)
    return batch.inputs["input_ids"][0], layers, text_without_first(batch)[0]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_texts_are_read_as_each_alone(padding):
    subject = tiny.subject()
    texts = read_texts(subject, [subject.batch(EXAMPLES[:5], padding=padding)], PLACES)
    for text, one in zip(texts, EXAMPLES[:5], strict=True):
        ids, layers, counted = by_hand(subject, one)
        assert text.ids.tolist() == ids.tolist()
        for i, (layer, neuron) in enumerate(PLACES):
            torch.testing.assert_close(text.acts[counted, i], layers[layer][counted, neuron], rtol=1e-3, atol=1e-5)
        assert text.acts[~counted].isnan().all()


def test_cards_are_those_by_hand():
    subject = tiny.subject()
    texts = read_texts(subject, [subject.batch(EXAMPLES)], PLACES)
    side = sides(texts)
    found = cards(turned(texts, side), PLACES, side)
    for i, place in enumerate(PLACES):
        large = sum(float((t.acts[:, i] * t.acts[:, i].abs()).nansum()) for t in texts)
        assert found[place].side == (1 if large >= 0 else -1)
        peaks: dict[tuple[int, ...], float] = {}
        runs: dict[tuple[int, ...], list[float]] = {}
        for text in texts:
            ids, values = text.ids.tolist(), (found[place].side * text.acts[:, i]).tolist()
            known = [(value, at) for at, value in enumerate(values) if value == value]
            value, at = max(known)
            window = tuple(ids[max(0, at - BEFORE) : at + BEHIND + 1])
            if value > 0:
                peaks[window] = max(value, peaks.get(window, 0))
            for value, at in known:
                for size in (1, 2, 3):
                    if at + 1 >= size:
                        runs.setdefault(tuple(ids[at + 1 - size : at + 1]), []).append(value)
        best = sorted(peaks.items(), key=lambda item: -item[1])[:CONTEXTS]
        assert [tuple(ids) for _, _, *ids in found[place].contexts] == [window for window, _ in best]
        np.testing.assert_allclose([value for value, *_ in found[place].contexts], [v for _, v in best], rtol=1e-5)
        means = {ids: float(np.mean(values)) for ids, values in runs.items()}
        np.testing.assert_allclose(found[place].spread, np.std([*means.values()]), rtol=1e-4)
        for value, count, *ids in found[place].ngrams:
            assert count == len(runs[tuple(ids)])
            np.testing.assert_allclose(value, means[tuple(ids)], rtol=1e-4)
        several = {ids: mean for ids, mean in means.items() if len(runs[ids]) > 1}
        assert found[place].ngrams[0][0] == pytest.approx(max(several.values()), rel=1e-4)
        assert len({ids[-1] for _, _, *ids in found[place].ngrams}) == len(found[place].ngrams)


def test_no_ngram_spans_an_image_and_single_ones_are_shown_where_none_is_repeated():
    ids, places = torch.tensor([4, 5, 6]), torch.tensor([0, 1, 9])
    text = Text(ids, places, torch.tensor([[torch.nan], [1.0], [3.0]]))
    found = ngrams([text])
    parts = zip(found.ids.tolist(), found.means.tolist(), strict=True)
    known = {tuple(token for token in row if token >= 0): mean for row, (mean,) in parts}
    assert known == {(5,): 1.0, (6,): 3.0, (4, 5): 1.0}
    (card,) = cards([text], [(0, 0)], torch.ones(1)).values()
    assert card.ngrams[0] == [3.0, 1, 6]
    assert card.contexts == [[3.0, 2, 4, 5, 6]]


def test_a_neuron_that_is_large_below_0_is_turned():
    acts = torch.tensor([[torch.nan, torch.nan], [0.5, 0.5], [-2.0, 2.0]])
    texts = [Text(torch.tensor([1, 2, 3]), torch.arange(3), acts)]
    side = sides(texts)
    assert side.tolist() == [-1, 1]
    assert turned(texts, side)[0].acts[2].tolist() == [2, 2]


def test_scores_are_those_of_the_public_metric():
    """Of every neuron and label, with all n-grams of the held-out texts as the reference."""
    subject = tiny.subject()
    how = how_of(subject, removal=False)
    rows = as_rows(rows_of(subject, EXAMPLES, how), EXAMPLES)
    scores = Scores(rows, how)
    values, _, _ = scores.interval(scores.by_neuron())
    assert values.shape == (len(shown(how.learned)), len(LABELS))
    many = [(layer, neuron) for _, layer, neuron, _ in shown(how.learned)]
    texts = read_texts(subject, [subject.batch(EXAMPLES)], many)
    texts = turned(texts, sides(texts))
    responses, reference = torch.stack([text.acts.nanmean(0) for text in texts]), ngrams(texts).means
    own = np.array([label_of(one) for one in EXAMPLES])
    for i in range(len(many)):
        for j, label in enumerate(sorted(LABELS)):
            mine = torch.from_numpy(own == label)
            expected = metrics.explanation_score(responses[mine, i], responses[~mine, i], reference[:, i])
            assert values[i, j] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_neuron_is_explained_by_its_language_and_its_twin_is_not(planted):
    subject = model_of(planted)
    up = subject.model.model.layers[LAYER].mlp.up_proj.weight.data
    for at, label in enumerate(LABELS if planted else []):  # what the gate multiplies is positive on all words
        up[NEURON[label]] = 0.0
        up[NEURON[label], at] = 1.0
    how = how_of(subject, removal=False)
    own = [(LAYER, NEURON[label]) for label in sorted(LABELS)]
    texts = read_texts(subject, [subject.batch(EXAMPLES)], own)
    side = sides(texts)
    known = cards(turned(texts, side), own, side)
    learned = how.learned._replace(specific=[[one] for one in own], cards=[[known[one]] for one in own])
    rows = as_rows(rows_of(subject, EXAMPLES, How(how.options, learned)), EXAMPLES)
    scores = Scores(rows, How(how.options, learned))
    value, lower, _ = scores.interval(scores.by_label())
    assert (np.diag(lower) > 0.2).all() == planted
    assert not (lower > 0)[~np.eye(2, dtype=bool)].any()
    np.testing.assert_allclose(value.sum(1), 0, atol=1e-6)  # of two labels one is for, the other against


def test_tables_of_cards():
    subject = tiny.subject()
    how = how_of(subject, removal=False)
    rows = as_rows(rows_of(subject, EXAMPLES, how), EXAMPLES, subject.tokenizer)
    makers = neurons.TABLES | neurons.RUN_TABLES
    tables = {name: makers[name][0](rows, how) for name in ("cards", "contexts", "ngrams")}
    cards_table = tables["cards"]
    assert set(cards_table["measure"]) == {"SASC score"}  # no sums here
    assert len(cards_table) == len(shown(how.learned)) * len(LABELS)
    first = tables["contexts"].iloc[0]
    card = next(card for _, *place, card in shown(how.learned) if place == [first["layer"], first["neuron"]])
    said = "".join(first[piece] for piece in ("before", "peak", "behind"))
    ids = [int(one) for one in card.contexts[0][2:]]
    assert said.replace(" ", "") == inside(subject.tokenizer, [ids])[0].replace(" ", "")
    assert {"side", "ngram", "rank", "n"} <= set(tables["ngrams"])
    tested = neurons.TABLES["tested"][0](rows, how)
    assert len(tested[tested["claim"] == CLAIM]) == 2


def as_rows(values, examples, tokenizer=None):
    names = {"id": [e.id for e in examples], "group": [e.group for e in examples]}
    frame = pd.DataFrame(names | {"condition": "no BOS", "label": [label_of(e) for e in examples]})
    arrays = {name: value.numpy() for name, value in values.items()}
    return Rows(frame, arrays, tokenizer=tokenizer)


def test_what_has_no_text_or_no_neuron_has_no_score():
    subject = tiny.subject()
    how = how_of(subject, removal=False)
    rows = as_rows(rows_of(subject, EXAMPLES[:5], how), EXAMPLES[:5])
    rows.values["acts"][-1] = np.nan  # a text of one token
    assert len(Scores(rows, how).label) == 4
    none = How(how.options, how.learned._replace(specific=[[], []], cards=[[], []]))
    assert "acts" not in rows_of(subject, EXAMPLES[:2], none)
    assert neurons.TABLES["explained"][0](as_rows(rows_of(subject, EXAMPLES[:2], none), EXAMPLES[:2]), none) is None
    assert Card().contexts == ()

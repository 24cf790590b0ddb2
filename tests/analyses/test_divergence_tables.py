"""Head divergence's words, sentences, controls and claims on planted rows, without or with a tiny model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crosslens.analyses.common import stats
from crosslens.analyses.common.claims import CONTROL_TOO, HOLDS, UNTESTABLE
from crosslens.analyses.flow import _divergence_heads, _divergence_words, _passes, head_divergence
from crosslens.analyses.flow._answer_words import _ends, answer_words, sentence_starts
from crosslens.data.example import Example, Segment
from crosslens.probes.runs.answers import with_answers

from ..helpers.makers import tables_from
from .claims import head_divergence as planting
from .test_head_divergence import captions, seeing


def claim(tables, name):
    (one,) = [claim for claim in head_divergence.claims(tables) if claim.name == name]
    return one


# ---------------------------------------------------------------- where words and sentences begin


def told(text, marks=None):
    """The rows of an answer, of as many tokens as it has."""
    (example,) = captions(1, tokenizer=None)
    answer = Segment("answer", text, marks or {})
    batch = seeing().batch([Example("e", "g", (*example.segments, answer))])
    return {name: row[0] for name, row in answer_words(seeing(), batch).items()}


def test_a_word_directly_behind_another_has_its_own_first_token():
    marks = {"correct": [(4, 6), (7, 9)], "hallucinated": [(10, 12)]}
    found = told(" w1 w5 w6 w2", marks)
    assert found["correct"].tolist() == [0, 1, 1, 0]
    assert found["hallucinated"].tolist() == [0, 0, 0, 1]
    assert found["end"].tolist() == [3, 6, 9, 12]  # the first space counts


def test_a_word_of_several_tokens_begins_once():
    found = told(" w1 w5 w6 w2", {"correct": [(4, 9)]})  # one span over two tokens
    assert found["correct"].tolist() == [0, 1, 0, 0]


def test_words_and_sentences_do_not_depend_on_padding_and_company():
    subject = seeing()
    said = {"c0": " w2 w4 . w30 w1", "c1": " w3", "c2": ""}
    examples = with_answers(captions(3, tokenizer=None), said)
    both = {side: answer_words(subject, subject.batch(examples, padding=side)) for side in ("left", "right")}
    alone = answer_words(subject, subject.batch(examples[:1]))
    for name, rows in both["left"].items():
        assert torch.equal(rows.nan_to_num(-1), both["right"][name].nan_to_num(-1)), name
        n = alone[name].shape[1]
        assert torch.equal(rows[:1, :n].nan_to_num(-1), alone[name].nan_to_num(-1)), name
    assert both["left"]["correct"][0].nansum() == 2
    assert both["left"]["sentence"][0].tolist() == [0, 0, 1, 1]
    assert both["left"]["hallucinated"][0].nansum() == 1
    assert both["left"]["correct"][2].isnan().all()


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("A dog runs. A cat sits.", [0, 12]),
        ("  One 3.5 m long.\nTwo", [2, 18]),
        ('He said "go!" Then', [0, 14]),
        ("A\n\n\nB? C", [0, 4, 7]),
        ("", []),
    ],
)
def test_sentences_begin_behind_full_stops_and_lines(text, starts):
    assert sentence_starts(text) == starts


def test_ends_count_the_space_that_a_tokenizer_drops():
    """Llama's decode of a first piece has no space: tokens would be shown one letter too early."""
    pieces = {1: " ab", 2: "c", 3: " d"}
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(pieces[i] for i in ids).lstrip(" "))
    example = Example("e", "g", (Segment("answer", " abc d"),))
    batch = SimpleNamespace(inputs={"input_ids": torch.tensor([[1, 2, 3]])}, examples=[example], tokenizer=tokenizer)
    ends = _ends(batch, torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool))  # type: ignore[arg-type]
    assert ends.tolist() == [[3, 4, 6]]


def test_sentences_are_items_of_their_own():
    """ "A dog runs. A cat sits." with the cat absent."""
    score = np.array([[1.0, 2, 3, 4, 5, 9, 7, 8]])
    rows = planting.rows(groups=1)
    marks = {"correct": [0, 1, 0, 0, 0, 0, 0, 0], "hallucinated": [0, 0, 0, 0, 0, 1, 0, 0]}
    rows.values.update({name: np.array([mark], float) for name, mark in marks.items()})
    rows.values["sentence"] = np.array([[0.0, 0, 0, 0, 1, 1, 1, 1]])
    found = _divergence_words.items(rows, score, "sentence", 4)
    assert found["wrong"].tolist() == [False, True]
    assert found["score"].tolist() == [2.5, 7.25]
    assert _divergence_words.items(rows, score, "caption", 4)["wrong"].tolist() == [True]
    rows.values["correct"][:] = 0
    assert _divergence_words.items(rows, score, "sentence", 4)["wrong"].tolist() == [True]  # the other names nothing


# ---------------------------------------------------------------- controls and claims


def test_what_the_control_shows_as_well_does_not_hold():
    few = tables_from(head_divergence, planting.rows(maps=planting.FEW, control=planting.FEW), planting.OPTIONS)
    assert claim(few, "few heads").verdict == CONTROL_TOO
    one = tables_from(head_divergence, planting.rows(maps=planting.STEEP, control=planting.STEEP), planting.OPTIONS)
    assert claim(one, "one ranking").verdict == CONTROL_TOO
    words = tables_from(head_divergence, planting.rows(words=1.0, control_words=2.5), planting.OPTIONS)
    found = claim(words, "hallucinated words")
    assert found.verdict == CONTROL_TOO
    assert "another image" in found.numbers
    assert found.margin < 0


def test_without_control_or_words_a_claim_is_not_testable():
    rows = planting.rows(maps=planting.FEW, words=2.0)
    for name in list(rows.values):
        if name.startswith(planting.QUESTION):
            del rows.values[name]
    rows.values["hallucinated"][:] = 0
    tables = tables_from(head_divergence, rows, planting.OPTIONS)
    assert {one.verdict for one in head_divergence.claims(tables)} == {UNTESTABLE}
    assert "no hallucinated or no correct words" in claim(tables, "hallucinated words").numbers


def test_margins_are_differences_of_what_is_shown():
    tables = tables_from(head_divergence, planting.rows(maps=planting.FEW, words=1.0, seed=3), planting.OPTIONS)
    auroc = tables["auroc"].set_index(["way", "level"])["value"]
    stability = tables["stability"].set_index(["way", "measure"])["value"]
    margins = tables["margins"].set_index(["way", "measure", "control"])["value"]
    for way, control in _divergence_heads.CONTROLS.items():
        for level in _divergence_words.LEVELS[:2]:
            gap = auroc[planting.WAY, level] - auroc[way, level]
            assert margins[planting.WAY, level, control] == pytest.approx(gap)
        for measure in (_divergence_heads.RANKING, _divergence_heads.LEADING):
            gap = stability[planting.WAY, measure] - stability[way, measure]
            assert margins[planting.WAY, measure, control] == pytest.approx(gap)


@pytest.mark.parametrize("groups", [5, 9])
def test_few_groups_find_no_head_in_noise(groups):
    """30 heads that differ from their control by nothing but what varies between groups."""
    any_head = 0
    for seed in range(40):
        rows = planting.rows(groups=groups, repeats=3, seed=seed)
        table = _divergence_heads.excess(rows, planting.WAY, planting.OPTIONS)
        any_head += (table.query("control == 'another image' and measure == 'relative'")["p_family"] <= 0.05).any()
    assert any_head <= 5


def test_a_head_above_its_control_is_found_among_all():
    rows = planting.rows(groups=9)
    rows.values["dropped|relative"][:, 1, 4] += 1.0
    table = _divergence_heads.excess(rows, planting.WAY, planting.OPTIONS).query("measure == 'relative'")
    for _, part in table.groupby("control"):
        assert part.loc[part["p_family"] <= 0.05, ["layer", "head"]].to_numpy().tolist() == [[1, 4]]


def test_a_ranking_that_only_copies_share_is_none():
    """Three copies of each of five maps of noise: alike within a group, unlike between groups."""
    rows = planting.rows(groups=5, repeats=3)
    found = _divergence_heads.stability(rows, planting.WAY, planting.OPTIONS).set_index("measure")["value"]
    assert abs(found[_divergence_heads.RANKING]) < 0.3


def test_leading_heads_of_noise_lead_no_more_on_the_other_half():
    shares, above = [], 0
    for seed in range(30):
        rows = planting.rows(groups=12, seed=seed)
        found = _divergence_heads.stability(rows, planting.WAY, planting.OPTIONS).set_index("measure")
        shares.append(found["value"][_divergence_heads.LEADING])
        above += found["lower"][_divergence_heads.LEADING_EXCESS] > 0
    assert np.mean(shares) == pytest.approx(0.1, abs=0.003)
    assert above <= 4


def test_pooled_divergence_is_a_ratio_of_sums():
    rows = planting.rows(maps=planting.FEW)
    rows.values["dropped|norms"] = 1 + np.arange(planting.GROUPS)[:, None, None] * np.ones((1, 3, 10))
    found = _divergence_heads.heads(rows, planting.WAY, planting.OPTIONS).query("measure == 'pooled'")
    expected = rows["dropped|l2"].sum(0) / rows["dropped|norms"].sum(0)
    np.testing.assert_allclose(found["value"], expected.ravel())
    assert (found["unit"] == _divergence_heads.POOLED_UNIT).all()


def test_norms_are_those_of_both_passes():
    subject = seeing()
    batch = subject.batch(with_answers(captions(2, tokenizer=None), {"c0": " w2 w4", "c1": " w3"}))
    seen = torch.randn(2, subject.n_layers, 2, subject.n_heads, 8)
    places = torch.tensor([[3, 4], [3, -1]])
    found = _passes.compare(subject, seen, batch, places)
    silent = _passes.compare(subject, torch.zeros_like(seen), batch, places)
    own = seen.norm(dim=-1)  # [b, layer, n, h]
    mean = torch.stack([own[0].mean(1), own[1, :, 0]]) / 2
    torch.testing.assert_close(found["norms"], silent["norms"] + mean)
    torch.testing.assert_close(silent["norms"], silent["l2"] / 2)


def test_differences_of_auroc_are_paired():
    rng = np.random.default_rng(0)
    groups, positive = np.repeat(np.arange(20), 5), rng.random(100) < 0.5
    strata = np.tile(np.arange(5), 20) % 2
    a = rng.normal(size=100) + positive
    b = a + 0.01 * rng.normal(size=100)
    value, lower, upper = stats.auroc_difference(a, b, positive, strata, groups)
    apart = [stats.stratified_auroc(x, positive, strata, groups) for x in (a, b)]
    assert value == pytest.approx(apart[0].value - apart[1].value)
    assert upper - lower < 0.2 * (apart[0].upper - apart[0].lower)
    with pytest.raises(ValueError, match="must be"):
        stats.auroc_difference(a, b[:50], positive, strata, groups)


def test_planted_words_hold_only_over_their_control():
    tables = tables_from(head_divergence, planting.rows(words=2.0), planting.OPTIONS)
    assert claim(tables, "hallucinated words").verdict == HOLDS

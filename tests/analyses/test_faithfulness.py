"""`faithfulness`: the whole circuit is the model, none of it is every head resampled, a planted one is enough."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses import metrics
from crosslens.analyses.circuits import _curves, _faithfulness_tables, _positions, faithfulness
from crosslens.analyses.common import controls
from crosslens.analyses.common.agreement import agreement_table, recall
from crosslens.analyses.common.claims import CONTROL_TOO, UNTESTABLE
from crosslens.analyses.common.contrast import Contrast, contrast
from crosslens.data.errors import UserError
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.recording import record
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.prompts.batch import corrupt_twins
from crosslens.probes.runs.results import Rows
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, planted, tiny
from .claims import faithfulness as claims_of


def analyse(out, make=contrasts.examples, **settings):
    settings = {"limit": 8, "out": out} | settings
    analyses = {"faithfulness": (faithfulness, faithfulness.Options(draws=3))}
    (directory,) = run(tiny.subject(), contrasts.task(make), analyses, Settings(**settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return analyse(tmp_path_factory.mktemp("faithfulness"), make=contrasts.four_groups)


def test_the_ends_of_the_curve(found):
    curve = found["curve"].query("measure == 'logit difference'")
    assert set(curve["n"]) != {8}, "groups that the ranking comes from are not scored"
    assert set(curve["ranking"]) == set(_faithfulness_tables.RANKINGS)
    nothing_kept = curve[curve["share"] == 0]
    np.testing.assert_allclose(nothing_kept["value"], nothing_kept["value"].iloc[0], atol=1e-6)
    assert set(curve["heads"]) == {0, 1, 2, 6, 12}
    assert set(curve[curve["share"] == 1.0]["control"]) == {""}, "there are no other heads where all are kept"
    faithful = found["curve"].query("measure == 'faithfulness'")
    if len(faithful):
        whole = faithful[faithful["share"] == 1.0]["value"]
        np.testing.assert_allclose(whole, 1.0, atol=1e-6)


def test_a_circuit_without_heads_has_every_head_resampled():
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(4, tokenizer=None), padding="left")
    twins = corrupt_twins(subject, batch)
    measure = logit_difference(batch.answers, batch.wrong)
    base, donor = record(subject, batch, ("z",)), record(subject, twins, ("z",))
    ranking = tuple((layer, head) for layer in range(3) for head in range(4))
    given = Contrast(base, donor, measure, batch.answers, batch.wrong[:, None])
    points = _curves.curve_points(subject, given, ranking, 1)
    z = capture(subject, twins, ["z"])
    rewrites = {(i, "z"): lambda _, i=i: z[f"blocks.{i}.attn.hook_z"] for i in range(3)}
    with tracing(subject, rewrites=rewrites):
        expected = measure(subject.last_logits(batch), torch.arange(4))
    torch.testing.assert_close(points[:, 0, 0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points[:, 0, -1], measure(subject.last_logits(batch), torch.arange(4)))


def test_a_planted_circuit_is_enough():
    subject = planted.induction_model()
    base, donor, answers, others = planted.prompts()
    measure = logit_difference(answers, others)
    runs = [record(subject, one, ("z",)) for one in (base, donor)]
    sweep = patch_sweep(subject, *runs, "z", positions=runs[0].mask, measure=measure)
    effects = (sweep.values - sweep.clean).mean(-1)
    assert {(0, 0), (1, 0)} == {tuple(x) for x in (effects.abs() > 0.1).nonzero().tolist()}
    ranking = ((0, 0), (1, 0), (0, 1), (1, 1))
    points = _curves.curve_points(subject, Contrast(*runs, measure, answers, others[:, None]), ranking, 20).mean(0)
    share_half = _faithfulness_tables.SHARES.index(0.5)
    torch.testing.assert_close(points[0, share_half], sweep.clean.mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(points[1:, share_half], points[0, 0].expand(20), atol=1e-4, rtol=1e-4)


def test_areas():
    one = metrics.circuit_areas(np.ones(8), _faithfulness_tables.SHARES)
    assert one == pytest.approx({"CPR": 1, "CMD": 0, "CPR, log axis": 1, "CMD, log axis": 0})
    line = metrics.circuit_areas(np.array(_faithfulness_tables.SHARES), _faithfulness_tables.SHARES)
    assert (line["CPR"], line["CMD"]) == pytest.approx((0.5, 0.5))


def test_cpr_ranks_by_help_and_cmd_by_size():
    """An additive model of 10 heads, 4 logits of which 5 − 4 + 3 come from three of them."""
    contributions = torch.tensor([0, 5, 0, -4, 0, 3, 0, 0, 0, 0.0]).reshape(2, 5)
    helpful, ranking = faithfulness._rankings(-contributions)  # patching a head takes away what it adds
    assert helpful[:2] == [[0, 1], [1, 0]]
    assert helpful[-1] == [0, 3]
    assert ranking[:3] == [[0, 1], [0, 3], [1, 0]]

    def curve(heads, counts):
        return np.array([sum(float(contributions[tuple(head)]) for head in heads[:count]) for count in counts]) / 4

    ours = _faithfulness_tables.head_counts(10)
    assert metrics.circuit_areas(curve(helpful, ours), _faithfulness_tables.SHARES)["CPR"] == pytest.approx(1.54375)
    assert metrics.circuit_areas(curve(ranking, ours), _faithfulness_tables.SHARES)["CMD"] == pytest.approx(0.24375)
    theirs = [int(share * 10) for share in metrics.MIB_SHARES]
    assert metrics.circuit_areas(curve(helpful, theirs), metrics.MIB_SHARES)["CPR"] == pytest.approx(1.54375)
    assert metrics.circuit_areas(curve(ranking, theirs), metrics.MIB_SHARES)["CMD"] == pytest.approx(0.24275)


def test_areas_stand_beside_a_control_over_the_same_shares():
    """CPR and CMD are of their own rankings; where a control ends, both curves are compared up to there."""
    rows = claims_of.rows()
    rows.values["random"][..., -2:] = np.nan  # no other heads from half of them on
    rows.values["curve"][:, _faithfulness_tables.RANKINGS.index(_faithfulness_tables.SIZE)] *= 0.5
    area = claims_of.made(rows)["area"].set_index(["measure", "control"])["value"]
    assert set(area.index.get_level_values("measure")) >= {"CPR", "CPR, mean up to 20%", "CMD, mean up to 20%"}
    assert area["CPR", ""] == pytest.approx(0.93, abs=0.03)
    assert area["CMD", ""] > 0.4
    assert ("CPR", controls.HEADS) not in area.index
    assert area["CPR, mean up to 20%", controls.HEADS] < 0.2 < area["CPR, mean up to 20%", ""]


def test_without_a_control_nothing_is_said_against_it():
    rows = claims_of.rows()
    rows.values["random"][..., _faithfulness_tables.TENTH] = np.nan
    verdicts = {claim.name: claim.verdict for claim in faithfulness.claims(claims_of.made(rows))}
    assert (verdicts["faithful"], verdicts["not depth"]) == (UNTESTABLE, UNTESTABLE)


def test_a_circuit_that_random_heads_equal_is_none():
    claims = faithfulness.claims(claims_of.made(claims_of.rows(random=0.95)))
    assert {claim.name: claim.verdict for claim in claims}["faithful"] == CONTROL_TOO


def test_estimates_that_are_exact_agree():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(6, 3, 4))
    values = {"head|exact": exact, "head|1 step": exact, "head|5 steps": -exact}
    values |= {name.replace("head", "mlp"): value[..., 0] for name, value in values.items()}
    table = agreement_table(Rows(pd.DataFrame({"group": list("aabbcc")}), values), "exact")
    table = table[table["part"] == "head"].set_index(["estimate", "measure"])["value"]
    assert table["1 step", "Spearman"] == pytest.approx(1)
    assert table["5 steps", "Spearman"] == pytest.approx(-1)
    assert table["5 steps", "recall of the top 10%"] == 1
    assert recall(np.array([3, 1, 2, 0.0]), np.array([0, 3, 2, 1.0]), 0.5) == 0.5


@pytest.mark.parametrize("settings", [{"size": 2, "padding": "left"}])
def test_batches_and_padding_change_nothing(found, tmp_path, settings):
    other = analyse(tmp_path, make=contrasts.four_groups, **settings)
    for name in ("curve", "effects", "positions"):
        pd.testing.assert_frame_equal(other[name], found[name], rtol=2e-3, atol=2e-5)


def test_positions_are_disjoint_and_all():
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(4, tokenizer=None), padding="left")
    places = _positions.named_positions(batch)
    assert list(places) == ["last", "second_subject", "indirect_object", "other"]
    assert torch.equal(torch.stack(list(places.values())).int().sum(0), batch.mask.int())


@pytest.mark.parametrize("padding", ["left", "right"])
def test_effects_by_position_are_those_of_each_position(padding):
    """The twins part at the second word: at the first one nothing has an effect, at the others what a sweep says."""
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(5, tokenizer=None), padding=padding)
    found = contrast(subject, batch, _positions.SITES)
    places = _positions.named_positions(batch)
    rows = _positions.effects_by_position(subject, batch, found)
    assert torch.equal(found.parted, batch.mask & (places["indirect_object"].cumsum(1) > 0))
    for site in ("z", "mlp_out"):
        each = patch_sweep(subject, found.base, found.donor, site, positions="each", measure=found.measure)
        effects = (each.values - each.clean).nan_to_num()
        for name in ("last", "second_subject", "indirect_object"):
            expected = torch.einsum("...pb,bp->b...", effects, places[name].float())
            torch.testing.assert_close(rows[f"position|{site}|{name}"], expected, atol=1e-5, rtol=1e-4)
        assert rows[f"position|{site}|second_subject"].eq(0).all()
        assert rows[f"position|{site}|last"].abs().max() > 1e-3


def test_one_group_cannot_be_halved(tmp_path):
    def single(n=None, seed=0, *, tokenizer):
        from dataclasses import replace

        return [replace(e, group="g") for e in contrasts.examples(n, seed, tokenizer=tokenizer)]

    with pytest.raises(UserError, match="two groups"):
        analyse(tmp_path, make=single)

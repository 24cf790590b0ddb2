"""`faithfulness`: the whole circuit is the model, none of it is every head resampled, a planted one is enough."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses import faithfulness
from crosslens.analyses.agreement import agreement_table, recall
from crosslens.analyses.contrast import Contrast, contrast
from crosslens.data.example import UserError
from crosslens.probes.batch import corrupt_twins
from crosslens.probes.measures import logit_difference
from crosslens.probes.replay import record
from crosslens.probes.rows import Rows
from crosslens.probes.run import Settings, run
from crosslens.probes.sweep import patch_sweep
from crosslens.probes.trace import tracing

from . import contrasts, planted, tiny


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
    assert set(curve["n"]) == {4}, "groups that the ranking comes from are not scored"
    ends = curve[curve["share"].isin([0.0, 1.0])]
    ours, theirs = (
        ends[ends["control"] == c].sort_values("share")["value"].to_numpy() for c in ("", faithfulness.RANDOM)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert set(curve["heads"]) == {0, 1, 2, 6, 12}
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
    options = faithfulness.Options(draws=1, ranking=ranking)
    points = faithfulness._curves(subject, Contrast(base, donor, measure, batch.answers, batch.wrong[:, None]), options)
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
    options = faithfulness.Options(draws=20, ranking=ranking)
    points = faithfulness._curves(subject, Contrast(*runs, measure, answers, others[:, None]), options).mean(0)
    share_half = faithfulness.SHARES.index(0.5)
    torch.testing.assert_close(points[0, share_half], sweep.clean.mean(), atol=1e-4, rtol=1e-4)
    assert points[1:, share_half].mean() < 0.5 * points[0, share_half]


def test_areas():
    one = faithfulness.areas(np.ones(8))
    assert one == pytest.approx({"CPR": 1, "CMD": 0, "CPR, log axis": 1, "CMD, log axis": 0})
    line = faithfulness.areas(np.array(faithfulness.SHARES))
    assert (line["CPR"], line["CMD"]) == pytest.approx((0.5, 0.5))


def test_estimates_that_are_exact_agree():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(6, 3, 4))
    values = {"head|exact": exact, "head|1 step": exact, "head|5 steps": -exact}
    values |= {name.replace("head", "mlp"): value[..., 0] for name, value in values.items()}
    table = agreement_table(Rows(pd.DataFrame({"group": list("aabbcc")}), values), "exact", draws=20)
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
    places = faithfulness.named_positions(batch)
    assert list(places) == ["last", "second_subject", "indirect_object", "other"]
    assert torch.equal(torch.stack(list(places.values())).int().sum(0), batch.mask.int())


@pytest.mark.parametrize("padding", ["left", "right"])
def test_effects_by_position_are_those_of_each_position(padding):
    """The twins part at the second word: at the first one nothing has an effect, at the others what a sweep says."""
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(5, tokenizer=None), padding=padding)
    found = contrast(subject, batch, faithfulness.SITES)
    places = faithfulness.named_positions(batch)
    rows = faithfulness._by_position(subject, batch, found)
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

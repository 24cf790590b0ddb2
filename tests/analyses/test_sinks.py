"""`sinks` finds the massive token that was planted, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses import metrics
from crosslens.analyses.attention import _sink_summary, sinks
from crosslens.analyses.common.frames import mean_of_present
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.makers import how_of, tables_from
from .claims import rows_of
from .claims import sinks as planted_sinks

DIMENSION, TOKEN = 7, 1  # the BOS token's embedding is massive in this dimension


def planted():
    subject = tiny.subject()
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[TOKEN, DIMENSION] = 50_000.0
    return subject


def analyse(subject, out, **options):
    (directory,) = run(
        subject,
        tiny.task(),
        {"sinks": (sinks, sinks.Options(**options))},
        Settings(limit=10, out=out, bos=(True, False)),
    )
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # φ cannot exceed √32 = 5.7 here: 5 leaves no room for chance.
    return analyse(planted(), tmp_path_factory.mktemp("planted"), tau=5.0)


def test_planted_dimension_and_token_are_found(found):
    _, tables = found
    assert set(tables["dimensions"]["dimension"]) == {DIMENSION}
    tokens = tables["tokens"]
    by_phi = tokens[(tokens["measure"] == "sink by φ") & (tokens["control"] == "")]
    with_bos = by_phi[by_phi["condition"] == "BOS"]
    assert (with_bos.loc[with_bos["position"] == 0, "value"] == 1).all()
    assert (with_bos.loc[with_bos["position"] > 0, "value"] == 0).all()
    assert (by_phi.loc[by_phi["condition"] == "no BOS", "value"] == 0).all()


def test_nothing_is_found_where_nothing_is(tmp_path):
    _, tables = analyse(tiny.subject(), tmp_path)
    assert tables["dimensions"].empty
    assert tables["threshold"]["value"].isna().all()
    assert (tables["heads"].query("measure == 'sink_share'")["value"] == 0).all()
    assert (tables["agreement"]["phi_sinks"] == 0).all()
    claims = tables["claims"].query("condition == 'BOS'").set_index("name")
    assert claims.loc["massive dimensions", "value"] == 0
    assert "no such dimension" in claims["numbers"]["massive dimensions"]
    told = tables["claims"]["numbers"].str.contains("no massive dimension was found")
    assert (tables["claims"]["verdict"] == "not testable")[told].all()
    assert told.any()


def test_heads_equal_the_maps(found):
    """Shares and received attention equal what whole maps say, example by example."""
    _, tables = found
    subject = planted()
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 10, 0))
    maps = capture(subject, batch, ["pattern"])
    first = batch.mask & (batch.mask.cumsum(1) == 1)
    heads = tables["heads"]
    for layer in range(3):
        share = metrics.attention_share(maps[f"blocks.{layer}.attn.hook_pattern"], first)
        weights = (batch.mask & ~first).float()
        mean = ((share * weights[:, None]).sum(2) / weights.sum(1)[:, None]).mean(0)
        for measure in ("first_share", "sink_share"):  # the planted sink is the first token
            rows = heads[(heads["measure"] == measure) & (heads["control"] == "") & (heads["condition"] == "BOS")]
            value = rows[rows["layer"] == layer].sort_values("head")["value"].to_numpy()
            np.testing.assert_allclose(value, mean.numpy(), atol=1e-5)


def test_received_equals_the_column_means(found):
    _, tables = found
    subject = planted()
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 10, 0), padding="left")
    maps = capture(subject, batch, ["pattern"])
    received = metrics.column_attention(maps["blocks.1.attn.hook_pattern"], batch.mask).mean(1)
    mean = np.nanmean(batch.aligned(received).numpy(), 0)
    tokens = tables["tokens"].query("measure == 'received' and control == '' and condition == 'BOS' and state == 1")
    np.testing.assert_allclose(tokens.sort_values("position")["value"].to_numpy(), mean[: len(tokens)], atol=1e-5)


def test_roles_choose_the_tokens(tmp_path):
    """Asked about text alone, the BOS is no candidate."""
    _, tables = analyse(planted(), tmp_path, roles=("text",), dimensions=(DIMENSION,), tau=5.0)
    agreement = tables["agreement"].query("condition == 'BOS' and control == ''")
    assert (agreement["phi_sinks"] == 0).all()


def test_shuffles_stay_among_the_tokens_that_are_asked_about():
    """Half of the width is not asked about: criteria that are independent agree as often as their shuffles do."""
    rng = np.random.default_rng(0)
    n, layers, width = 60, 4, 40
    asked = np.arange(width) < 20
    there = np.where(asked, 0.0, np.nan)
    phi, received = ((rng.random((n, layers, width)) < 0.3) + there for _ in range(2))
    rows = rows_of({"phi": phi, "column_mean": received, "length": np.full(n, 20)}, groups=n)
    by_phi, by_attention = _sink_summary.criteria(rows, how_of(sinks, sinks.Options(receives=1.0), tau=0.5))
    mixed = _sink_summary.shuffled(rows, by_attention)
    assert not mixed[:, :, ~asked].any()
    assert (mixed.sum(2) == by_attention.sum(2)).all()
    assert (mixed != by_attention).any()
    found, chance = (mean_of_present(_sink_summary.jaccard(by_phi, x)).mean() for x in (by_attention, mixed))
    assert found == pytest.approx(chance, abs=0.02)
    few = rows.where(np.arange(n) % 2 == 1)
    np.testing.assert_array_equal(_sink_summary.shuffled(few, by_attention[1::2]), mixed[1::2])


def test_a_threshold_that_separates_nothing_says_so():
    """All tokens are alike: τ lies among them, the page says so, and what rests on τ is not testable."""
    rng = np.random.default_rng(1)
    for holds in (True, False):
        values = planted_sinks.values()
        values["phi"] = np.where(holds, values["phi"], 2 + rng.random(values["phi"].shape))
        tables = tables_from(sinks, rows_of(values, groups=20), planted_sinks.OPTIONS, **planted_sinks.LEARNED)
        claims = {claim.name: claim for claim in sinks.claims(tables)}
        note, agree = tables["threshold"]["note"].item(), claims["criteria agree"]
        assert note == "" if holds else note.startswith("τ separates nothing")
        assert (agree.verdict == "not testable") == (not holds)

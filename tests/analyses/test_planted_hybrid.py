"""A hybrid whose route is known: sweeps and analyses find its mixer and its head, and nothing where the route is cut.

Every analysis of text runs on it: tables have NaN where a layer has no heads, and pages name that layer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses.attention import sinks
from crosslens.analyses.circuits import circuits, edges, faithfulness
from crosslens.analyses.circuits._circuit_tables import DIRECT, EXACT
from crosslens.analyses.circuits._edge_names import OUTPUT, edge_name
from crosslens.analyses.common.contrast import contrast
from crosslens.analyses.flow import information_flow
from crosslens.analyses.lenses import lenses, logit_attribution
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.knockout import knockout_sweep
from crosslens.probes.intervene.patching import patch_sweep
from crosslens.probes.intervene.paths import path_sweep
from crosslens.probes.runs import store
from crosslens.probes.runs.preview import preview
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.pages.build import build

from ..helpers import planted_hybrid

ANALYSES = {
    "sinks": (sinks, sinks.Options()),
    "lenses": (lenses, lenses.Options()),
    "logit_attribution": (logit_attribution, logit_attribution.Options(words=2, prompts=1, directions=1)),
    "information_flow": (information_flow, information_flow.Options(window=1, draws=1)),
    "circuits": (circuits, circuits.Options(share=0.2)),
    "faithfulness": (faithfulness, faithfulness.Options(draws=2)),
    "edges": (edges, edges.Options(strongest=8)),
}


def analysed(subject, out, names=tuple(ANALYSES)):
    analyses = {name: ANALYSES[name] for name in names}
    directories = run(subject, planted_hybrid.task(), analyses, Settings(out=out, limit=16))
    return {
        name: {path.stem: pd.read_parquet(path) for path in (directory / "tables").glob("*.parquet")}
        for name, directory in zip(names, directories, strict=True)
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("hybrid")


@pytest.fixture(scope="module")
def found(out):
    return analysed(planted_hybrid.subject(), out)


def pair(subject):
    batch = subject.batch(planted_hybrid.examples(12), template="raw", bos=False)
    return batch, contrast(subject, batch, ("z", "mlp_out", "attn_out"))


def test_sweeps_find_the_mixer_and_the_head():
    subject = planted_hybrid.subject()
    batch, two = pair(subject)
    both = {"positions": two.parted, "measure": two.measure}
    heads, mixers = (patch_sweep(subject, two.base, two.donor, site, **both).effects for site in ("z", "attn_out"))
    whole = (two.donor.logits - two.base.logits).abs().max()
    assert heads[:, 0].isnan().all()
    assert (heads[:, 1, 0] < -1.5 * whole).all(), "head 1.0 carries all of it"
    assert (mixers[:, 0] < -1.5 * whole).all(), "and so does the convolution"
    assert heads[:, [1, 2], [1, 1]].abs().max() < 0.01 * whole
    assert heads[:, 2, 0].abs().max() < 0.01 * whole
    paths = path_sweep(subject, two.base, two.donor, measure=two.measure).effects
    torch.testing.assert_close(paths[:, 1, 0], heads[:, 1, 0], rtol=0.02, atol=1e-3)
    cut = knockout_sweep(subject, two.base, batch.marks["answer"], batch.final, window=1, measure=two.measure).effects
    assert cut[:, 0].isnan().all()
    assert (cut[:, 1] < 100 * cut[:, 2]).all(), "both are negative"


def test_the_strongest_edges_are_the_route():
    """The convolution speaks to the keys of head 1.0, that head to the output."""
    subject = planted_hybrid.subject()
    _, two = pair(subject)
    edges_found = edge_attribution(subject, two.base, two.donor, measure=two.measure, steps=5)
    size = edges_found.values.mean(-1).abs().nan_to_num(-1)
    places = [divmod(int(i), size.shape[1]) for i in size.flatten().argsort(descending=True)[:4]]
    names = [edge_name(edges_found.writers[j], edges_found.readers[i]) for i, j in places]
    assert {"1.0 → " + OUTPUT, "mixer 0 → k of 1.0"} <= set(names)


def test_nothing_is_found_where_the_route_is_cut(tmp_path):
    subject = planted_hybrid.subject(planted=False)
    _, two = pair(subject)
    both = {"positions": two.parted, "measure": two.measure}
    for site in ("z", "attn_out"):
        assert patch_sweep(subject, two.base, two.donor, site, **both).effects.nan_to_num(0).abs().max() < 0.1
    tables = analysed(subject, tmp_path, ("circuits", "information_flow"))
    assert tables["circuits"]["tested"]["untestable"].str.contains("not solved").any()
    assert set(tables["information_flow"]) == {"accuracy"}, "no prompt is answered"


def test_circuits_name_the_head(found):
    circuit = found["circuits"]["circuit"]
    for stage in (EXACT, DIRECT):
        best = circuit[(circuit["stage"] == stage) & (circuit["rank"] == 1)]
        assert set(zip(best["layer"], best["head"], strict=True)) == {(1, 0)}
        assert set(best["name"]) == {"mover"}
    tested = found["circuits"]["tested"].set_index(["claim", "than"])
    assert tested.loc[("sparse", ""), "value"] > 0.9
    effects = found["circuits"]["effects"]
    heads = effects[effects["part"] == "head"]
    assert heads[heads["layer"] == 0]["value"].isna().all()
    assert heads[heads["layer"] > 0]["value"].notna().all()
    assert (heads[heads["layer"] == 0]["n"] == 0).all()
    assert effects[effects["part"] == "mlp"]["value"].notna().all()


def test_one_head_of_four_is_faithful(found):
    """The shares are of the four heads that there are, not of six places."""
    curve = found["faithfulness"]["curve"]
    own = curve[(curve["measure"] == "faithfulness") & (curve["control"] == "")]
    assert set(own["heads"]) == {0, 1, 2, 4}
    assert own[own["share"] == 0.2]["value"].to_numpy() == pytest.approx(1.0, abs=0.02)
    effects = found["faithfulness"]["effects"]
    assert effects[(effects["part"] == "head") & (effects["layer"] == 0)]["value"].isna().all()


def test_flows_are_cut_where_there_are_heads(found):
    flows = found["information_flow"]["flows"]
    mine = flows[(flows["flow"] == "answer → last") & (flows["measure"] == "change")]
    assert set(mine["layer"]) == {1, 2}
    assert set(mine["width"]) == {1}
    own = mine[mine["control"] == ""].set_index("layer")["value"]
    assert own[1] < -50
    assert abs(own[2]) < 1
    stages = found["information_flow"]["stages"]
    assert stages["value"].notna().all()


def test_parts_sum_to_the_logit(found):
    """What the convolution writes is a part of its own, and the heads of its layer are missing, not 0."""
    tables = found["logit_attribution"]
    assert tables["completeness"]["largest"].max() < 1e-3
    parts = tables["parts"].set_index(["part", "layer"])["value"]
    assert parts["mixer"][0].notna().all()
    assert parts["mixer"][1].isna().all()
    assert parts["attention"][0].isna().all()
    assert set(tables["top"]["layer"]) <= {1, 2}
    assert set(tables["words"]["layer"]) == set(tables["ov"]["layer"]) == {1, 2}


def test_sinks_have_attention_where_there_is_some(found):
    heads = found["sinks"]["heads"]
    for measure in ("first_share", "hidden_rate"):
        values = heads[heads["measure"] == measure].groupby("layer")["value"]
        assert values.count().tolist() == [0, 2, 2]
    received = found["sinks"]["tokens"].query("measure == 'received'")
    assert set(received["state"]) == {1, 2}
    summary = found["sinks"]["summary"].set_index(["measure", "against"])["value"]
    first = heads[(heads["measure"] == "first_share") & (heads["layer"] == 1)]["value"]  # the middle half is layer 1, 2
    later = heads[(heads["measure"] == "first_share") & (heads["layer"] == 2)]["value"]
    expected = np.concatenate([first, later]).mean()
    assert summary["first token", ""] == pytest.approx(expected, rel=1e-5)


def test_plan_and_pages_name_the_layer(found, out):
    subject = planted_hybrid.subject()
    lines = preview(subject, planted_hybrid.task(), ANALYSES, Settings(out=out, limit=16))
    assert any("Layer 0 of 3 have no attention but Lfm2ShortConv" in line for line in lines)
    for directory in (out / "runs").iterdir():
        notes = store.read_record(directory)["notes"]
        assert any("no attention but Lfm2ShortConv" in note for note in notes), directory.name
    build(out)
    pages = [page.read_text("utf-8") for page in out.glob("*.planted*.html")]
    assert len(pages) == len(ANALYSES)
    assert all("no attention but Lfm2ShortConv" in page for page in pages)
    assert not any("could not be drawn" in page for page in pages)

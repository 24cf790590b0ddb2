"""`edge_circuits`: a circuit built by hand is found and does the task alone; files of circuits; bad input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, cli
from crosslens.analyses import metrics
from crosslens.analyses.circuits import _edge_levels, edge_circuits
from crosslens.analyses.circuits._edge_auroc import RANDOM
from crosslens.analyses.circuits._edge_circuit_tables import OF_NEURONS
from crosslens.analyses.circuits._edge_levels import (
    HELP,
    NEVER,
    SHARES,
    SIZE,
    circuits_of,
    graph_of,
    levels_of,
    pack,
    random_levels,
    shuffled_levels,
    unpack,
)
from crosslens.analyses.circuits._edge_saved import save_circuit
from crosslens.analyses.common.agreement import FIVE
from crosslens.data.errors import UserError
from crosslens.probes.intervene.edge_ablation import edge_sweep
from crosslens.probes.intervene.edge_attribution import edge_attribution
from crosslens.probes.intervene.edge_files import load_edges, save_edges
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.recording import record
from crosslens.probes.runs.run import Settings, run

from ..helpers import by_hand, contrasts, families, planted, tiny

SITES = ("z", "mlp_out")


def analyse(out, make=contrasts.four_groups, **options):
    analyses = {"edge_circuits": (edge_circuits, edge_circuits.Options(**options))}
    (directory,) = run(tiny.subject(), contrasts.task(make), analyses, Settings(limit=8, out=out))
    tables = {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}
    return tables, json.loads((directory / "record.json").read_text())


def planted_runs(found=True):
    subject = planted.induction_model(planted=found)
    base, donor, answers, others = planted.prompts()
    runs = [record(subject, one, SITES) for one in (base, donor)]
    return subject, runs, logit_difference(answers, others)


def test_the_built_circuit_does_the_task_and_the_twin_has_none():
    subject, (base, donor), measure = planted_runs()
    graph = graph_of(base)
    truth = planted.edges_of(planted.BUILT, graph)
    random = [shuffled_levels(truth.to(torch.uint8).sub(1), graph, draw) for draw in range(4)]  # 0 and 255
    sweep = edge_sweep(subject, base, donor, [truth, *(one == 0 for one in random)], measure=measure)
    span = (sweep.clean - sweep.donor).mean()
    faithful = (sweep.values - sweep.donor).mean(1) / span
    assert faithful[0] == pytest.approx(1, abs=0.02)
    assert min(faithful[1:]) < 0.5
    for edge in truth.nonzero().tolist():  # and every edge of it is needed
        less = truth.clone()
        less[tuple(edge)] = False
        lost = edge_sweep(subject, base, donor, [less], measure=measure)
        if edge[0] != [tuple(r) for r in graph.readers].index(("q", 0, 0)):  # places are the same in both runs
            assert ((lost.values[0] - sweep.donor).mean() / span) < 0.9 or edge[1] == 0, edge
    _, (base, donor), _ = planted_runs(found=False)
    assert (measure(base.logits, torch.arange(6)) - measure(donor.logits, torch.arange(6))).abs().max() < 0.1


def test_gradients_find_the_built_circuit():
    subject, (base, donor), measure = planted_runs()
    graph = graph_of(base)
    exact = torch.full(graph.possible.shape, torch.nan)
    for reader, writer in graph.possible.nonzero().tolist():
        kept = graph.possible.clone()
        kept[reader, writer] = False
        sweep = edge_sweep(subject, base, donor, [kept], measure=measure)
        exact[reader, writer] = (sweep.values[0] - sweep.clean).mean()
    matters = exact.nan_to_num().abs() > 0.2
    assert 3 <= matters.sum() <= len(planted.BUILT)
    assert not (matters & ~planted.edges_of(planted.BUILT, graph)).any()
    edges = edge_attribution(subject, base, donor, measure=measure, steps=20)
    assert metrics.edge_auroc(edges.values.mean(-1), matters) > 0.95
    assert metrics.edge_auroc(exact, matters) == 1.0


def test_levels_grow_and_are_kept_in_a_short_text():
    _, (base, _), _ = planted_runs()
    graph = graph_of(base)
    effects = torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(0))
    effects = effects.masked_fill(~graph.possible, torch.nan)
    for choice in ("top", "greedy"):
        for ranking in (HELP, SIZE):
            levels = levels_of(effects, graph, ranking, "edge", choice)
            assert torch.equal(unpack(pack(levels), levels.shape), levels)
            assert (levels[~graph.possible] == NEVER).all()
            assert torch.equal(levels <= len(SHARES) - 1, graph.possible)
            pick = metrics.top_edges if choice == "top" else metrics.greedy_edges
            for circuit, share in zip(circuits_of(levels), SHARES, strict=False):
                count = int(share * int(graph.possible.sum()))
                assert torch.equal(circuit, pick(-effects, graph.owners, count, ranking == SIZE))
    nodes = levels_of(effects, graph, SIZE, "node", "top")
    assert torch.equal(nodes <= len(SHARES) - 1, graph.possible)
    with pytest.raises(UserError, match="the model has"):
        unpack(pack(levels), (3, 3))


def test_shuffled_circuits_keep_the_layers_of_their_edges():
    _, (base, _), _ = planted_runs()
    graph = graph_of(base)
    levels = torch.where(graph.possible, torch.arange(graph.possible.numel()).view_as(graph.possible) % 9, NEVER)
    mixed = shuffled_levels(levels.to(torch.uint8), graph, 0)
    assert not torch.equal(mixed, levels)
    assert torch.equal(mixed.sort().values.sum(), levels.sort().values.sum())
    readers = torch.tensor([reader.layer for reader in graph.readers])
    for layer in readers.unique():
        before, after = (one[readers == layer].flatten().sort().values for one in (levels, mixed.long()))
        assert torch.equal(before, after)


def test_a_whole_run_and_its_ends(tmp_path):
    found, written = analyse(tmp_path)
    curve = found.get("curve")
    kept = found["kept"].query("measure == 'edges' and method == '5 steps'")
    assert kept["value"].is_monotonic_increasing or set(kept["ranking"]) == {HELP, SIZE}
    assert set(found["nodes"]["value"]) <= set(SHARES)
    assert written["fitted"]["selected_on"]
    if curve is not None:
        whole = curve[curve["share"] == 1.0]["value"]
        np.testing.assert_allclose(whole, 1.0, atol=1e-6)
    assert set(found["tested"]["claim"]) == {"few edges", "five gradients", "helpful edges"}


@pytest.mark.parametrize(
    "options",
    [
        {"ablated": "mean"},
        {"ablated": "nothing"},
        {"level": "node"},
        {"choice": "greedy"},
        {"activations": True},
        {"official": True},
        {"level": "neuron"},
        {"level": "neuron", "ablated": "mean"},
    ],
)
def test_other_circuits_run(tmp_path, options):
    found, _ = analyse(tmp_path, **options)
    assert len(found["kept"])


def test_circuits_of_neurons_are_told_as_such(tmp_path):
    found, written = analyse(tmp_path, level="neuron")
    neurons = found["kept"].query("measure == 'neurons' and method == '5 steps'")
    whole = tiny.subject().d_model * len(written["fitted"]["writers"])
    assert sorted(neurons["value"]) == sorted([int(share * whole) for share in SHARES] * 2)
    assert set(found["tested"]["untestable"]) == {OF_NEURONS}
    learned = edge_circuits.Learned(**{name: written["fitted"][name] for name in edge_circuits.Learned._fields})
    levels = unpack(learned.levels[f"{FIVE}|{SIZE}"], (learned.width, len(learned.writers)))
    drawn = random_levels(levels, graph_of(planted_runs()[1][0]), "neuron", 0)
    assert not torch.equal(drawn, levels)
    assert torch.equal(drawn.sort(0).values, levels.sort(0).values)  # as many of each writer
    with pytest.raises(UserError, match="a circuit of neurons has no edges"):
        save_circuit(tmp_path / "own.json", written, FIVE, "size", 0.1)


def test_files_of_circuits_go_out_and_in(tmp_path):
    subject = tiny.subject()  # two heads share a key
    batch = subject.batch(contrasts.examples(4, tokenizer=None))
    base = record(subject, batch, SITES)
    graph = graph_of(base)
    scores = torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(0))
    kept = graph.possible & (scores > 0.5)
    save_edges(tmp_path / "circuit.json", base, scores, kept)
    found = json.loads((tmp_path / "circuit.json").read_text())
    heads, layers = subject.n_heads, subject.n_layers
    whole = sum((1 + i * (heads + 1)) * 3 * heads + 1 + i * (heads + 1) + heads for i in range(layers)) + 1
    assert len(found["edges"]) == whole + layers * (heads + 1)  # as EAP-IG counts them, keys and values by query head
    assert set(found["cfg"]) == {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}
    again, same = load_edges(tmp_path / "circuit.json", base)
    assert torch.equal(same, kept)
    shared = torch.tensor([heads // base.layers[0].value.shape[1] if r.kind in "kv" else 1 for r in graph.readers])
    torch.testing.assert_close(
        again, (scores * shared[:, None]).masked_fill(~graph.possible, torch.nan), equal_nan=True
    )
    given, written = analyse(tmp_path / "run", circuit=str(tmp_path / "circuit.json"))
    assert "the given circuit" in set(given["kept"]["method"])
    levels = unpack(written["fitted"]["levels"][f"{FIVE}|{SIZE}"], kept.shape)
    count = save_circuit(tmp_path / "own.json", written, FIVE, "size", 0.1)  # without the model
    ranks, own = load_edges(tmp_path / "own.json", base)
    assert torch.equal(own, levels <= SHARES.index(0.1))
    assert count == own.sum()
    assert torch.equal(ranks.isnan(), ~graph.possible)
    assert set((ranks / shared[:, None])[graph.possible].tolist()) <= {*map(float, range(1, 11))}
    assert ((ranks / shared[:, None])[own] >= len(SHARES) - SHARES.index(0.1)).all()


@pytest.mark.parametrize("family", ["gpt2", "phi"])
def test_a_file_of_a_record_is_that_of_the_model(tmp_path, family):
    """phi's MLPs stand beside its heads: a file says so."""
    subject = Subject(by_hand.build(family))
    base = record(subject, by_hand.inputs(family, "left"), SITES)
    graph = graph_of(base)
    effects = torch.randn(graph.possible.shape, generator=torch.Generator().manual_seed(0))
    levels = levels_of(effects.masked_fill(~graph.possible, torch.nan), graph, HELP, "edge", "top")
    sizes = {name: getattr(subject, name) for name in ("n_layers", "n_heads", "d_model")}
    fitted = {"levels": {f"{FIVE}|{HELP}": pack(levels)}, "readers": graph.readers, "writers": graph.writers}
    written = {"analysis": "edge_circuits", "name": "run", "subject": sizes, "fitted": fitted}
    save_circuit(tmp_path / "record.json", written, FIVE, "helpful", 0.5)
    save_edges(tmp_path / "model.json", base, len(SHARES) - levels.float(), levels <= SHARES.index(0.5))
    assert json.loads((tmp_path / "record.json").read_text()) == json.loads((tmp_path / "model.json").read_text())


def test_a_given_circuit_judges_the_scores(tmp_path):
    """A circuit that the run's own scores made is ranked first; a random one is not; one of no edge judges nothing."""
    _, written = analyse(tmp_path / "first")
    subject = tiny.subject()
    base = record(subject, subject.batch(contrasts.examples(4, tokenizer=None)), SITES)
    graph = graph_of(base)
    whole = unpack(written["fitted"]["levels"][f"{FIVE}|{SIZE}"], graph.possible.shape)
    random = torch.rand(graph.possible.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    circuits = {"own": whole <= SHARES.index(0.2), "random": random & graph.possible, "none": random & False}
    tables = {}
    for name, kept in circuits.items():
        save_edges(tmp_path / f"{name}.json", base, kept.float(), kept)
        tables[name], _ = analyse(tmp_path / name, circuit=str(tmp_path / f"{name}.json"))
    own = tables["own"]["auroc"].set_index(["method", "control"])["value"]
    assert own[FIVE, ""] > 0.95
    assert own[FIVE, RANDOM] < own[FIVE, ""] - 0.1
    assert abs(tables["random"]["auroc"].query("control == ''")["value"] - 0.5).max() < 0.15
    assert "auroc" not in tables["none"]


def test_a_circuit_is_saved_from_the_command_line(tmp_path, capsys):
    _, written = analyse(tmp_path)
    run_directory = tmp_path / "runs" / written["name"]
    cli.main(["circuit", str(run_directory), str(tmp_path / "one.json"), "--ranking", "size", "--share", "0.1"])
    assert "edges in the circuit" in capsys.readouterr().out
    assert json.loads((tmp_path / "one.json").read_text())["cfg"]["n_layers"] == tiny.subject().n_layers
    for words, said in (
        ([], "name a run of edge_circuits and a file"),
        ([str(tmp_path), "one.json"], "is no run directory"),
        ([str(run_directory), str(tmp_path / "nowhere" / "one.json")], "cannot write the circuit to"),
        ([str(run_directory), "one.json", "--share", "0.3"], "no circuit of 0.3 of the edges: 0.001, 0.002"),
        ([str(run_directory), "one.json", "--method", "best"], "has no circuit by 'best': 1 step, 5 steps, both ends"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["circuit", *words])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="is a run of sinks"):
        save_circuit(tmp_path / "one.json", {"analysis": "sinks", "name": "sinks.x"}, FIVE, "size", 0.1)


def test_bad_input_is_one_line(tmp_path):
    subject, (base, _), _ = planted_runs()
    save_edges(tmp_path / "other.json", base, torch.zeros(graph_of(base).possible.shape), graph_of(base).possible)
    tiny_base = record(tiny.subject(), tiny.subject().batch(contrasts.examples(2, tokenizer=None)), SITES)
    with pytest.raises(UserError, match="another model"):
        load_edges(tmp_path / "other.json", tiny_base)
    (tmp_path / "text.json").write_text("[1]")
    (tmp_path / "few.json").write_text(json.dumps(json.loads((tmp_path / "other.json").read_text()) | {"edges": {}}))
    for name, said in (("none", "cannot read"), ("text", "no circuit"), ("few", "no edge")):
        with pytest.raises(UserError, match=said):
            load_edges(tmp_path / f"{name}.json", base)
    for options in (
        {"level": "unit"},
        {"level": "neuron", "activations": True},
        {"choice": "best"},
        {"ablated": "noise"},
        {"level": "node", "choice": "greedy"},
    ):
        with pytest.raises(UserError, match="edge_circuits"):
            analyse(tmp_path, **options)
    assert _edge_levels.LEVELS == ("edge", "node", "neuron")
    assert subject.n_layers == 2


def test_a_family_that_no_circuit_runs_on_is_refused_before_any_gradient(monkeypatch, tmp_path):
    monkeypatch.setattr(edge_circuits, "effects_of", lambda *_, **__: pytest.fail("a gradient was taken"))
    subject = Subject(families.build("qwen3_next"), tiny.tokenizer())
    batch = subject.batch(contrasts.four_groups(8, tokenizer=subject.tokenizer))
    with pytest.raises(UserError, match="circuits of edges: another mixer"):
        edge_circuits.fit(subject, [batch], edge_circuits.Options())

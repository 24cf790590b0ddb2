"""Options of the circuit analyses: bad ones are one line before anything is run, given ones are said to be given."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
from crosslens.analyses.circuits import circuits, edge_circuits, edges, faithfulness, overlap, steering
from crosslens.analyses.common.claims import UNTESTABLE
from crosslens.data.errors import UserError
from crosslens.probes.runs.results import How
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, tiny

EVERY = tuple((layer, head) for layer in range(3) for head in range(4))
SETS = ("1.0", "2.1", "1.0 2.1", "1.2")
BAD = [
    (edge_circuits, {"draws": 0}, "--edge_circuits.draws 0: at least 1"),
    (edges, {"strongest": 0}, "--edges.strongest 0: at least 1"),
    (edges, {"strongest": -1}, "--edges.strongest -1: at least 1"),
    (edges, {"movers": -1}, "--edges.movers -1: at least 0"),
    (edges, {"heads": ((9, 0),)}, "--edges.heads: .* has no head 9.0"),
    (circuits, {"share": 0.0}, "--circuits.share 0: a share above 0"),
    (circuits, {"share": 2.0}, "--circuits.share 2: a share above 0"),
    (circuits, {"movers": -1}, "--circuits.movers -1: at least 0"),
    (circuits, {"heads": ((0, 9),)}, "--circuits.heads: .* has no head 0.9"),
    (faithfulness, {"draws": 0}, "--faithfulness.draws 0: at least 1"),
    (faithfulness, {"ranking": EVERY[:-1]}, "--faithfulness.ranking: 11 heads, 11 of them different; .* 12 heads"),
    (faithfulness, {"ranking": (*EVERY[:-1], EVERY[0])}, "--faithfulness.ranking: 12 heads, 11 of them different"),
    (faithfulness, {"ranking": (*EVERY, EVERY[0])}, "--faithfulness.ranking: 13 heads"),
    (faithfulness, {"ranking": (*EVERY[:-1], (3, 0))}, "--faithfulness.ranking: .* has no head 3.0"),
    *((steering, {name: -1}, f"--steering.{name} -1") for name in ("inhibition", "negative", "own", "gatherers")),
    (steering, {"draws": 0}, "--steering.draws 0"),
    (steering, {"heads": SETS[:2]}, "--steering.heads: 2 texts; it needs 4"),
    (steering, {"heads": (*SETS[:3], "")}, "--steering.heads: no head for found on this task"),
    (steering, {"heads": (*SETS[:3], "1.9")}, "--steering.heads: .* has no head 1.9"),
    (steering, {"heads": (*SETS[:3], "1-2")}, "names no heads"),
]


def name_of(module):
    return module.__name__.rpartition(".")[2]


@pytest.mark.parametrize(("module", "options", "said"), BAD, ids=lambda one: str(one) if isinstance(one, dict) else "")
def test_a_bad_number_is_one_line_before_anything_is_run(module, options, said):
    subject = tiny.subject()
    assert (subject.n_layers, subject.n_heads) == (3, 4)
    with pytest.raises(UserError, match=said) as found:
        module.fit(subject, [], module.Options(**options))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("share", [0.0, 2.0, -0.1])
def test_a_share_of_overlap_is_asked_for_where_its_tables_begin(share):
    maker = overlap.TABLES[next(iter(overlap.TABLES))][0]
    with pytest.raises(UserError, match=r"overlap\.share"):
        maker({}, How(overlap.Options(share=share)))


def analyse(module, options, out):
    analyses = {name_of(module): (module, options)}
    task = contrasts.task(contrasts.four_groups)
    (directory,) = run(tiny.subject(), task, analyses, Settings(limit=8, out=out))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_given_heads_are_steered_and_claims_about_found_ones_are_untestable(tmp_path):
    options = steering.Options(targets="indirect_object", draws=2, heads=SETS)
    found = analyse(steering, options, tmp_path)
    assert set(found["repair"]["n"]) == {8}, "nothing was chosen: all groups are scored"
    claims = found["claims"].set_index("name")
    assert set(claims["verdict"]) == {UNTESTABLE}
    assert claims["numbers"].str.contains("given").all()
    said = steering.methods(options, steering.Learned(SETS), {})
    assert "were given, not found" in said
    assert "IOI" not in said


def test_a_given_ranking_is_the_curves_whole_and_said_to_be_given(tmp_path):
    options = faithfulness.Options(draws=2, ranking=EVERY, positions=False)
    curve = analyse(faithfulness, options, tmp_path)["curve"].query("measure == 'logit difference'")
    assert set(curve["n"]) == {8}
    assert "given" in faithfulness.methods(options, faithfulness.Learned(EVERY, EVERY), {"examples": 0})


@pytest.mark.parametrize(
    ("module", "options", "given", "chosen"),
    [
        (circuits, {}, 0, True),
        (circuits, {"heads": ((1, 0),)}, 1, False),
        (circuits, {"heads": ((1, 0),), "further": True}, 1, True),
        (edges, {}, 0, True),
        (edges, {"heads": ((1, 0),)}, 1, True),
        (edges, {"edges": ("embeddings → MLP 0",)}, 1, True),
        (edges, {"heads": ((1, 0),), "edges": ("embeddings → MLP 0",)}, 1, False),
        (faithfulness, {}, 0, True),
        (faithfulness, {"ranking": EVERY}, 1, False),
    ],
)
def test_methods_say_what_was_given_and_only_then(module, options, given, chosen):
    learned = module.Learned(**({} if not chosen else {"selected_on": ("g0", "g1")}))
    said = module.methods(module.Options(**options), learned, {"examples": 32})
    assert ("given, not found" in said or "that was given" in said) == bool(given)
    assert ("held-out examples of 2 groups" in said) == chosen


@pytest.mark.parametrize(("ablated", "warned"), [("twin", False), ("mean", True), ("nothing", True)])
@pytest.mark.parametrize("level", ["edge", "neuron"])
def test_a_ranking_by_the_twin_is_not_mibs_where_something_else_ablates(level, ablated, warned):
    options = edge_circuits.Options(level=level, ablated=ablated)
    said = edge_circuits.methods(options, SimpleNamespace(selected_on=()), {"examples": 32})
    assert ("not MIB's ranking for this ablation" in said) == warned

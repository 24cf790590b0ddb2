"""What the runner asks of an analysis: claims of one condition each, methods with true numbers, fits in batches."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
from crosslens.analyses.attention import sinks
from crosslens.analyses.circuits import circuits, edges, faithfulness
from crosslens.analyses.common import claims
from crosslens.probes.runs.judged import judged
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.store import read_record

from ..helpers import contrasts, tiny
from ..helpers.makers import analysis


class Numbered(NamedTuple):
    """A claim that says how many stand on its page."""

    text: str
    asked: str
    count: int = 0

    @staticmethod
    def corrected(claims: Sequence[Numbered]) -> list[Numbered]:
        return [claim._replace(count=len(claims)) for claim in claims]


def recording(asked: list[dict[str, pd.DataFrame]]) -> Any:
    def ask(tables):
        asked.append(tables)
        return [Numbered("a", str(sorted(tables))), Numbered("b", str(sorted(tables)))]

    return SimpleNamespace(__name__="analysis", claims=ask)


def test_claims_see_one_condition_and_are_corrected_together():
    tables = {
        "heads": pd.DataFrame({"condition": ["BOS", "no BOS", "BOS"], "value": [1, 2, 3]}),
        "weights": pd.DataFrame({"value": [4, 5]}),
    }
    asked: list[dict[str, pd.DataFrame]] = []
    found = judged(recording(asked), tables, ["BOS", "no BOS"])
    assert [t["heads"]["value"].tolist() for t in asked] == [[1, 3], [2]]
    assert all(list(t["heads"].index) == list(range(len(t["heads"]))) for t in asked)
    assert all(t["weights"]["value"].tolist() == [4, 5] for t in asked)
    assert found["condition"].tolist() == ["BOS", "BOS", "no BOS", "no BOS"]
    assert found["count"].tolist() == [4] * 4


def test_claims_without_conditions_are_asked_once():
    asked: list[dict[str, pd.DataFrame]] = []
    found = judged(recording(asked), {"weights": pd.DataFrame({"value": [1]})}, ["BOS", "no BOS"])
    assert len(asked) == 1
    assert found["condition"].tolist() == ["BOS and no BOS"] * 2
    assert judged(SimpleNamespace(__name__="a", claims=lambda tables: []), {}, ["BOS"]).empty


def test_the_claims_of_the_analyses_can_be_corrected():
    made = [claims.Claim("text", "source", "numbers", "holds", p_value=0.03)] * 2
    assert [claim.p_page for claim in claims.Claim.corrected(made)] == [0.06, 0.06]


class Nothing(NamedTuple):
    """What is learned by counting."""


def counting(made: list[Any]) -> Any:
    """An analysis that keeps what it learns from and what its methods are told."""
    return analysis(
        FIT_EXAMPLES=6,
        Learned=Nothing,
        fit=lambda subject, batches, options: made.extend(batches) or Nothing(),
        methods=lambda options, learned, fitted_on: f"{fitted_on['examples']} of {fitted_on['groups']}",
        observe=lambda layer, batch, how: {"x": layer.resid_pre[:, 0, 0]},
    )


def test_methods_are_told_what_was_learned_from_and_fits_come_in_batches(tmp_path):
    batches: list[Any] = []
    analyses = {"counting": (counting(batches), sinks.Options())}
    settings = Settings(limit=10, bos=(True, False), size=4, out=tmp_path)
    (directory,) = run(tiny.subject(), tiny.task(), analyses, settings)
    record = read_record(directory)
    assert record is not None
    learned_from = {example.id: example for batch in batches for example in batch.examples}
    measured = tiny.examples(10, 0, tokenizer=None)
    assert {e.group for e in learned_from.values()}.isdisjoint({e.group for e in measured})
    assert len(learned_from) == 6
    assert record["fitted_on"] == {"examples": 6, "groups": len({e.group for e in learned_from.values()})}
    assert record["methods"] == f"6 of {record['fitted_on']['groups']}"
    assert [len(batch.examples) for batch in batches] == [4, 2, 4, 2]
    assert [batch.form["bos"] for batch in batches] == [True, True, False, False]


def test_a_page_says_that_its_task_has_no_groups_to_spare(tmp_path):
    analyses = {"counting": (counting([]), sinks.Options())}
    (directory,) = run(tiny.subject(), contrasts.task(contrasts.four_groups), analyses, Settings(limit=8, out=tmp_path))
    record = read_record(directory)
    assert record is not None
    assert any(note.startswith("4 groups of the held-out examples are measured too") for note in record["notes"])


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (circuits, circuits.Options()),
        (edges, edges.Options(strongest=3)),
        (faithfulness, faithfulness.Options()),
        (sinks, sinks.Options(min_abs=0.1, min_ratio=1.5)),
    ],
)
def test_what_is_learned_does_not_depend_on_the_batches(module, options):
    subject = tiny.subject()
    examples = contrasts.examples(8, tokenizer=None)
    whole = module.fit(subject, [subject.batch(examples, bos=bos) for bos in (True, False)], options)
    parts = [subject.batch(some, bos=bos) for bos in (True, False) for some in (examples[:3], examples[3:])]
    learned = module.fit(subject, parts, options)
    assert learned == {name: pytest.approx(v) if _is_of_numbers(v) else v for name, v in whole.items()}
    assert any(whole.values())


def _is_of_numbers(value) -> bool:
    return isinstance(value, float) or (isinstance(value, list) and all(isinstance(one, float) for one in value))

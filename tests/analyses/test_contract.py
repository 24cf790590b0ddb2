"""What the runner asks of an analysis: claims of one condition each, methods with true numbers, fits in batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from crosslens import analyses
from crosslens.analyses.attention import sinks
from crosslens.analyses.circuits import circuits, edge_circuits, edges, faithfulness, overlap
from crosslens.analyses.common import claims
from crosslens.analyses.contract import check, open_analysis
from crosslens.data.errors import NothingToMeasure, UserError
from crosslens.probes.runs.judged import judged
from crosslens.probes.runs.results import How, Rows
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.store import read_record
from crosslens.probes.runs.tables import tables_of

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
    counted = {"counting": (counting(batches), sinks.Options())}
    settings = Settings(limit=10, bos=(True, False), size=4, out=tmp_path)
    (directory,) = run(tiny.subject(), tiny.task(), counted, settings)
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
    counted = {"counting": (counting([]), sinks.Options())}
    (directory,) = run(tiny.subject(), contrasts.task(contrasts.four_groups), counted, Settings(limit=8, out=tmp_path))
    record = read_record(directory)
    assert record is not None
    assert any(note.startswith("4 groups of the held-out examples are measured too") for note in record["notes"])


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (circuits, circuits.Options()),
        (edges, edges.Options(strongest=3)),
        (faithfulness, faithfulness.Options()),
        (edge_circuits, edge_circuits.Options()),
        (sinks, sinks.Options(min_abs=0.1, min_ratio=1.5)),
    ],
)
def test_what_is_learned_does_not_depend_on_the_batches(module, options):
    subject = tiny.subject()
    examples = contrasts.examples(8, tokenizer=None)
    whole = module.fit(subject, [subject.batch(examples, bos=bos) for bos in (True, False)], options)
    parts = [subject.batch(some, bos=bos) for bos in (True, False) for some in (examples[:3], examples[3:])]
    learned = module.fit(subject, parts, options)
    expected = {name: pytest.approx(v) if _is_of_numbers(v) else v for name, v in whole._asdict().items()}
    assert learned._asdict() == expected
    assert any(whole)


def _is_of_numbers(value) -> bool:
    return isinstance(value, float) or (isinstance(value, list) and all(isinstance(one, float) for one in value))


# ---------------------------------------------------------------- names

SOUND = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pandas import DataFrame as borrowed

VERSION: int = 1
QUESTION, PAPER = "Who?", "nobody"
_LIMIT = 3


@dataclass(frozen=True)
class Options:
    """None."""


def methods(options, learned, fitted_on):
    return ""


def observe(layer, batch, how):
    return {}


def _shares(rows, how):
    return None


TABLES = {"shares": (_shares, ())}
'''


def module_of(tmp_path, text: str) -> Any:
    path = tmp_path / "modality_share.py"
    path.write_text(text)
    spec = spec_from_file_location("modality_share", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", analyses.find_analyses())
def test_every_analysis_of_the_house_holds_to_the_contract(name):
    module = open_analysis(name)
    assert (module.__doc__ or "").strip().splitlines()[0]
    flags, retired = {f.name for f in fields(module.Options)}, getattr(module, "RETIRED", {})
    assert not flags & set(retired)
    if hasattr(module, "Learned"):
        json.dumps(module.Learned()._asdict())  # every field has a default, and a plain one
        assert set(retired) <= set(module.Learned._fields)


def test_ids_are_unique_over_the_rooms():
    files = [path for path in Path(str(analyses.__file__)).parent.glob("*/*.py") if not path.name.startswith("_")]
    ids = [path.stem for path in files if path.parent.name not in analyses.SHARED]
    assert sorted(ids) == list(analyses.find_analyses())
    with pytest.raises(UserError, match=r"^unknown analysis 'nowhere': one of attention_profile, "):
        open_analysis("nowhere")


def test_a_sound_module_passes(tmp_path):
    check("modality_share", module_of(tmp_path, SOUND))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SOUND.replace("VERSION: int", "VERSON: int"), "lacks VERSION"),
        (SOUND.replace("class Options", "class Option"), "lacks Options"),
        (SOUND.replace("def methods", "def method"), "lacks methods"),
        (SOUND + "\n\ndef claim(tables):\n    return []\n", "public name 'claim' (did you mean claims?"),
        (SOUND + "\n\ndef finsh(subject, batch):\n    return {}\n", "public name 'finsh' ("),
        (SOUND + "\n\ndef mesure(subject, batch, kept, how):\n    return {}\n", "'mesure' (did you mean measure?"),
        (SOUND + "\nWIDTH: int = 3\n", "public name 'WIDTH' (helpers begin with _"),
        (SOUND + "\nFIRST, SECOND = 1, 2\n", "public name 'FIRST'"),
        (SOUND + "\n\nclass Helper:\n    pass\n", "public name 'Helper'"),
        (SOUND + "\n\ndef claims(tables):\n    return []\n", "lacks CLAIMS (as it has claims)"),
        (
            SOUND + "\n\ndef fit(subject, batches, options):\n    return 1\n",
            "lacks Learned (as it has fit), FIT_EXAMPLES",
        ),
        (SOUND.replace("def observe", "def _observe"), "measures nothing"),
    ],
)
def test_what_is_missing_or_unknown_is_one_line_that_names_it(tmp_path, text, said):
    module = module_of(tmp_path, text)
    with pytest.raises(UserError) as error:
        check("modality_share", module)
    assert said in str(error.value)
    assert "analysis modality_share" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="analysis modality_share"):
        run(tiny.subject(), tiny.task(), {"modality_share": (module, None)}, Settings(limit=2, out=tmp_path))


def test_what_is_made_of_finished_runs_is_no_run_of_a_model(tmp_path):
    with pytest.raises(UserError, match="overlap is made of finished runs of circuits"):
        run(tiny.subject(), tiny.task(), {"overlap": (overlap, overlap.Options())}, Settings(limit=2, out=tmp_path))


# ---------------------------------------------------------------- tables


def two_conditions() -> Rows:
    examples = pd.DataFrame({"id": list("abab"), "group": list("abab"), "condition": ["BOS"] * 2 + ["no BOS"] * 2})
    return Rows(examples, {"x": np.array([1.0, 2, 3, 4])})


def test_makers_see_one_condition_and_columns_have_one_order():
    def means(rows, how):
        assert rows.examples["condition"].nunique() == 1
        return pd.DataFrame({"kind": ["all"], "unit": ["m"], "value": [rows["x"].mean()], "layer": [how.options]})

    module = analysis(
        TABLES={
            "means": (means, ("kind",)),
            "late": (lambda rows, how: None if rows["x"].max() < 3 else pd.DataFrame({"value": [1]}), ()),
            "never": (lambda rows, how: None, ()),
        },
        RUN_TABLES={"whole": (lambda rows, how: pd.DataFrame({"token": ["t"], "n": [len(rows.examples)]}), ("token",))},
    )
    tables = tables_of(module, two_conditions(), How(7))
    assert set(tables) == {"means", "late", "whole"}
    assert list(tables["means"]) == ["condition", "layer", "value", "unit", "kind"]
    assert tables["means"]["value"].tolist() == [1.5, 3.5]
    assert tables["means"]["condition"].tolist() == ["BOS", "no BOS"]
    assert tables["late"]["condition"].tolist() == ["no BOS"]
    assert tables["whole"].to_dict("list") == {"n": [4], "token": ["t"]}


def test_a_column_that_no_table_declares_is_an_error_that_names_it():
    module = analysis(TABLES={"means": (lambda rows, how: pd.DataFrame({"value": [1], "sied": ["left"]}), ("side",))})
    with pytest.raises(ValueError, match=r"table means: column 'sied' is neither shared nor among its own \(side\)"):
        tables_of(module, two_conditions(), How(None))


@pytest.mark.parametrize("empty", [{"BOS"}, {"BOS", "no BOS"}])
def test_nothing_to_measure_is_of_every_condition(empty):
    def some(rows, how):
        if rows.examples["condition"].iloc[0] in empty:
            raise NothingToMeasure(f"nothing in {len(rows.examples)}")
        return pd.DataFrame({"value": [1]})

    module = analysis(TABLES={"some": (some, ()), "all": (lambda rows, how: pd.DataFrame({"value": [1]}), ())})
    if len(empty) == 1:
        assert tables_of(module, two_conditions(), How(None))["some"]["condition"].tolist() == ["no BOS"]
        return
    with pytest.raises(NothingToMeasure, match="nothing in 2") as raised:
        tables_of(module, two_conditions(), How(None))
    assert list(raised.value.tables) == ["all"]

"""The analysis `repairs`: what it measures equals what the model says, tables come out, controls are named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.analyses import metrics
from crosslens.analyses.common import hallucination
from crosslens.analyses.repairs import _answers, repairs
from crosslens.analyses.repairs._tables import LEAD
from crosslens.analyses.repairs._variants import VAR_RULES, VHR_RULES, variants
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Objects, Segment
from crosslens.data.tasks import Task
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.answers import own_answers
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import repairs as figures

from ..helpers import tiny, vision_subjects
from ..helpers.makers import how_of, tables_from
from ..helpers.vision import build, inputs
from ..probes.test_families import assert_close
from .claims import repairs as planted_repairs
from .test_head_divergence import captions

OPTIONS = {"alphas": (2.0, 3.0), "ps": (0.4,), "betas": (0.4,), "draws": 2, "tokens": 4, "timed": 2, "threshold": 0.01}
OPTIONS |= {"dimensions": (3, 9), "tau": 1.2}


def questions(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Is it yes (w7) or no (w8)? The tiny tokenizer has neither word, so the words stand for themselves."""
    made = []
    for i in range(n or 8):
        segments = (Segment("image", vision_subjects.picture(50 * seed + i)), Segment("question", f" w{9 + i % 4} w3"))
        answers = (" w7", " w8") if i % 2 else (" w8", " w7")
        meta = {"kind": f"pope_{'random' if i < 4 else 'popular'}"}
        made.append(Example(f"q{i}", f"g{seed}-{i // 2}", segments, answers[0], answers[1:], meta=meta))
    return made


def seeing():
    return Subject(*vision_subjects.build("llava"), name="tiny-llava")


def analyse(make, out, subject=None, **more):
    module: Any = SimpleNamespace(__doc__="Tiny", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=make)
    analyses = {"repairs": (repairs, repairs.Options(**OPTIONS))}
    settings = Settings(out=out, **{"limit": 8, **more})
    (directory,) = run(subject or seeing(), Task("tiny", module, {}), analyses, settings)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    return analyse(questions, tmp_path_factory.mktemp("answers"))


def test_tables_of_answers(answered, tmp_path):
    assert set(answered) == {"measures", "differences", "preconditions", "cost", "heads", "claims", "findings"}
    whole = answered["measures"].query("subset == 'all'").set_index(["repair", "setting", "control"])
    measures, leads = (whole.loc[whole["measure"] == name, "value"] for name in ("accuracy", LEAD))
    subject = seeing()
    batch = subject.batch(questions(8, tokenizer=None))
    logits = subject.last_logits(batch)
    lead = logits.gather(1, batch.answers[:, None]) - logits.gather(1, batch.wrong[:, None])
    assert measures["none", 0.0, ""] == pytest.approx(float((lead > 0).float().mean()))
    assert leads["none", 0.0, ""] == pytest.approx(float(lead.mean()), abs=1e-5)
    with repairs.vhr(subject, alpha=3.0):
        moved = subject.last_logits(batch)
    right = moved.gather(1, batch.answers[:, None]) > moved.gather(1, batch.wrong[:, None])
    assert measures["VHR", 3.0, ""] == pytest.approx(float(right.float().mean()))
    names = set(answered["measures"]["control"])
    assert names == {"", "random heads", "least divergent heads", "all heads, same norm", "random columns"}
    assert set(answered["measures"]["subset"]) == {"all", "pope_random", "pope_popular"}
    assert set(answered["cost"]["repair"]) == {"none", "VHR", "VAR", "ACT"}
    assert len(answered["claims"]) == 4
    rules = {name for name in measures.index.get_level_values("repair") if "," in name}
    assert rules == {f"VHR, {name}" for name in VHR_RULES} | {f"VAR, {name}" for name in VAR_RULES}
    again = analyse(questions, tmp_path, size=3, padding="left")
    for name in ("measures", "heads"):
        np.testing.assert_allclose(again[name]["value"], answered[name]["value"], atol=1e-5)


def test_every_figure_is_drawn(answered):
    drawn = figures.figures(answered)
    assert list(drawn) == [item.name for item in figures.FIGURES]
    assert set(drawn["differences"].layout.yaxis.ticktext) >= {"VHR", "VAR", "ACT"}
    assert "control: random columns" in {trace.name for trace in drawn["differences"].data}
    assert "ACT − random columns" in drawn["margins"].layout.yaxis.ticktext


def test_differences_are_paired(answered):
    found, measures = answered["differences"], answered["measures"]
    values = measures.set_index(["measure", "subset", "repair", "setting", "control"])["value"]
    for row in found.to_dict("records"):
        mine = values[row["measure"], row["subset"], row["repair"], row["setting"], row["control"]]
        other = ("none", 0.0, "") if row["against"] == "plain" else (row["repair"], row["setting"], row["against"])
        if "," in row["repair"] and row["against"] != "plain":  # another rule, against the repair as it is
            other = (row["against"], row["setting"], "")
        assert row["value"] == pytest.approx(mine - values[(row["measure"], row["subset"], *other)], abs=1e-9)
        assert np.isnan(row["lower"]) == (row["n_groups"] < 5)


def test_tables_of_captions(tmp_path):
    tables = analyse(captions, tmp_path, limit=4)
    assert set(tables["measures"]["measure"]) == set(hallucination.CHAIR)
    plain = tables["measures"].query("repair == 'none'").set_index("measure")
    said = own_answers(seeing(), captions(4, tokenizer=None), 4)
    counts = [_answers.counts_of(e, said[e.id].text) for e in captions(4, tokenizer=None)]
    for name, value in hallucination.chair(*zip(*counts, strict=True)).items():
        assert plain["value"][name] == pytest.approx(value, nan_ok=True)


def test_both_kinds_in_one_task_are_refused():
    subject = seeing()
    batch = subject.batch([*questions(1, tokenizer=None), *captions(1, tokenizer=None)])
    with pytest.raises(UserError, match="two tasks"):
        repairs.measure(subject, batch, {}, how_of(repairs, repairs.Options(**OPTIONS)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"alphas": ()}, "alphas is empty"),
        ({"ps": ()}, "ps is empty"),
        ({"betas": (0.4, float("nan"))}, "betas 0.4 nan"),
        ({"draws": 0}, "draws 0: at least 1"),
        ({"tokens": 0}, "tokens 0: at least 1"),
        ({"timed": -1}, "timed -1: at least 0"),
        ({"calibrated_on": 0}, "calibrated_on 0: at least 1"),
        ({"image": "blurred"}, "image blurred: one of dropped, masked"),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong, said):
    with pytest.raises(UserError, match=f"--repairs.{said}"):
        repairs.fit(None, [], repairs.Options(**wrong))


def test_both_kinds_are_refused_before_anything_is_fitted():
    """Also where no batch has both."""
    kinds: Any = [SimpleNamespace(examples=made(2, tokenizer=None)) for made in (questions, captions)]
    with pytest.raises(UserError, match="two tasks"):
        repairs.fit(None, kinds, repairs.Options(**OPTIONS))


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl", "qwen3_vl", "paligemma"])
def test_act_effects_equal_whole_forwards(family):
    """Every head calibrated alone by the repair itself."""
    subject = Subject(build(family))
    given = inputs(subject.model, "right", lengths=(9, 8, 7))
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    heads = [(layer, head) for layer in (1, 2) for head in (0, 3)]
    found = repairs.act_effects(subject, given, measure, heads=heads, threshold=0.08)
    clean = measure(subject.last_logits(given), torch.arange(3))
    for pair in heads:
        with repairs.act(subject, heads=[pair], threshold=0.08):
            moved = measure(subject.last_logits(given), torch.arange(3))
        torch.testing.assert_close(found[pair], moved - clean, rtol=1e-4, atol=1e-5)
    assert any(bool((value != 0).any()) for value in found.values())


def test_a_planted_hidden_sink_is_found_and_calibrated():
    """A map with one greedy column: that column alone, in the heads that have it."""
    subject = seeing()
    batch = subject.batch(questions(2, tokenizer=None))
    column = 5

    def greedy(call):
        def pull(pattern, rows, part):
            new = pattern.clone()
            pulled = 0.6 * (rows > column)[:, None].float()
            new[:, 1] *= 1 - pulled.transpose(1, 2)
            new[:, 1, :, column] += pulled[:, 0]
            return new

        return call.edited(pattern_edit=pull)

    with tracing(subject, edits={1: greedy}), repairs.act(subject, heads=[(1, 0), (1, 1)], threshold=0.5) as found:
        subject.last_logits(batch)
    assert found.sinks[1].nonzero().tolist() == [[0, 1, column], [1, 1, column]]


def test_counts_of_a_caption():
    example = Example("c", "g", (), objects=Objects({"dog": "dog", "hot dog": "hot dog"}, frozenset({"dog"})))
    assert _answers.counts_of(example, "Two dogs and a hot dog.") == [2.0, 1.0, 1.0, 1.0, 6.0]


def test_edited_patterns_are_what_observers_see():
    """Inside a repair, an observer reads the repaired map."""
    subject = seeing()
    batch = subject.batch(questions(3, tokenizer=None))
    plain, seen = [], []
    with tracing(subject, lambda layer: plain.append(layer.pattern())):
        subject.forward(batch)
    with (
        repairs.act(subject, heads=[(1, 2)], threshold=0.02) as found,
        tracing(subject, lambda layer: seen.append(layer.pattern())),
    ):
        subject.forward(batch)
    expected = metrics.calibrate_sinks(plain[1], found.sinks[1], 0.4)
    assert_close(seen[1], expected, "pattern")
    assert float((seen[1] - plain[1]).abs().max()) > 1e-3


def verdicts(**planted):
    tables = planted_repairs.made(**planted)
    return {claim.name: claim for claim in repairs.claims(tables)}


def test_a_repair_is_judged_against_its_control_and_its_preconditions():
    helped = {"VHR": 0.5, "VAR": 0.5, "ACT": 0.5}
    assert {c.verdict for c in verdicts(mended=helped).values()} == {"holds"}
    assert {c.verdict for c in verdicts(mended=helped, controls=0.5).values()} == {"holds, and so does the control"}
    bare = verdicts(mended=helped, visual=0.0)
    assert (bare["VAR raises accuracy"].verdict, bare["VHR raises accuracy"].verdict) == ("not testable", "holds")
    assert "visual sink" in bare["VAR raises accuracy"].numbers
    guessing = verdicts(mended=helped, solved=0.5)
    assert {c.verdict for c in guessing.values()} == {"not testable"}
    assert "at chance" in guessing["ACT raises accuracy"].numbers
    said = {f"{name} lowers CHAIR_I" for name in helped}
    assert set(verdicts(mended=helped, captions=True)) == said | {"VHR below 1 raises CHAIR_I"}


def test_an_alpha_below_1_has_to_do_the_opposite():
    """It is judged by its own random heads, on the lead of the right answer; not where no such α was run."""
    name = "VHR below 1 lowers the lead"
    harms = {"VHR": 0.5, "VHR below 1": -0.5}
    assert verdicts(mended=harms, leads=True)[name].verdict == "holds"
    assert verdicts(mended={"VHR": 0.5, "VHR below 1": 0.5}, leads=True)[name].verdict == "fails"
    assert verdicts(mended=harms, controls=-0.5, leads=True)[name].verdict == "holds, and so does the control"
    options = repairs.Options(alphas=(2.0,))
    assert {v.setting for v in variants(options, repairs.Learned()) if v.repair == "VHR"} == {2.0}
    tables = planted_repairs.made(harms, leads=True)
    found = tables["differences"]
    bare = {**tables, "differences": found[~((found["repair"] == "VHR") & (found["setting"] < 1))]}
    assert {claim.name: claim.verdict for claim in repairs.claims(bare)}[name] == "not testable"
    drawn = figures.figures(tables)["differences"]
    assert "VHR, α = 0.5" in drawn.layout.yaxis.ticktext


def test_the_smallest_effect_that_n_shows_stands_beside_each_difference():
    found = planted_repairs.made({"VHR": 0.5})["differences"].query("measure == 'accuracy' and subset == 'all'")
    moved = found[(found["repair"] == "VHR") & (found["against"] == "plain") & (found["control"] == "")].iloc[0]
    assert moved["detectable"] == pytest.approx(max(moved["upper"] - moved["value"], moved["value"] - moved["lower"]))
    still = found[(found["repair"] == "VAR") & (found["against"] == "plain") & (found["control"] == "")].iloc[0]
    assert still["upper"] == still["lower"] == 0
    assert still["detectable"] == pytest.approx(1 - 0.025 ** (1 / still["n_groups"]))


def test_an_edit_that_changed_no_answer_is_undecided():
    claim = verdicts(mended={})["VAR raises accuracy"]
    assert claim.verdict == "undecidable here"
    assert "nothing varied" in claim.numbers


def test_f1_is_averaged_over_the_sets():
    """Three sets of the same questions, of which only one is answered badly."""
    rows = planted_repairs.rows({"VHR": 0.5})
    kinds = [f"pope_{name}" for name in ("random", "popular", "adversarial")]
    rows.examples["kind"] = [kinds[i % 3] for i in range(len(rows.examples))]
    tables = tables_from(repairs, rows, planted_repairs.OPTIONS, **planted_repairs.LEARNED)
    measures, differences = (tables[name].query("setting != 0.5") for name in ("measures", "differences"))
    averaged = measures[(measures["measure"] == "F1, mean of 3 sets") & (measures["control"] == "")].set_index("repair")
    assert (averaged["lower"] < averaged["value"]).all()
    assert (averaged["value"] < averaged["upper"]).all()
    for repair in ("none", "VHR"):
        apart = measures[(measures["repair"] == repair) & (measures["control"] == "") & (measures["measure"] == "F1")]
        assert averaged["value"][repair] == pytest.approx(apart.set_index("subset")["value"][kinds].mean())
    gained = differences[(differences["measure"] == "F1, mean of 3 sets") & (differences["repair"] == "VHR")]
    row = gained[(gained["against"] == "plain") & (gained["control"] == "")]
    assert row["value"].item() == pytest.approx(averaged["value"]["VHR"] - averaged["value"]["none"])
    assert row["lower"].item() > 0


def test_generated_answers_are_read_as_pope_reads_them():
    subject = seeing()
    examples = [replace(e, answer=" Yes" if i % 2 else " No") for i, e in enumerate(questions(4, tokenizer=None))]
    batch = subject.batch(examples)
    options = repairs.Options(**{**OPTIONS, "pope": "generated", "alphas": (2.0,), "draws": 1, "betas": (0.4,)})
    found = repairs.measure(subject, batch, {}, how_of(repairs, options))["none|0|"][:, 0]
    said = own_answers(subject, examples, 4)
    yes = torch.tensor([float(hallucination.says_yes(said[e.id].text)) for e in examples])
    assert torch.equal(found[:, 1], yes)
    assert torch.equal(found[:, 0], (yes == torch.tensor([0.0, 1.0, 0.0, 1.0])).float())
    with pytest.raises(UserError, match="reads yes or no"):
        repairs.measure(subject, subject.batch(questions(2, tokenizer=None)), {}, how_of(repairs, options))


@pytest.mark.parametrize("choose", ["logits", "accuracy"])
def test_prompts_without_images_are_answered_under_act_alone(tmp_path, choose):
    options = repairs.Options(**{**OPTIONS, "choose": choose, "timed": 0})
    (directory,) = run(tiny.subject(), tiny.task(), {"repairs": (repairs, options)}, Settings(limit=10, out=tmp_path))
    tables = {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}
    assert set(tables["measures"]["repair"]) == {"none", "ACT"}
    assert set(tables["measures"]["measure"]) == {"accuracy", LEAD}
    assert "heads" not in tables
    told = tables["claims"].set_index("text")["numbers"]
    assert {str(text).split()[0] for text, why in told.items() if why == "not run here"} == {"VHR", "VAR"}
    assert "preconditions" in figures.figures(tables)


def test_the_page_says_what_was_run():
    said = repairs.methods(repairs.Options(), repairs.Learned(dimensions=(3,), tau=2.0), {"examples": 8, "groups": 4})
    assert "stop at 48 tokens (the papers' at 512)" in said
    assert "0.6 is the share kept" in said
    assert "all positions" in said
    assert 0.4 in repairs.Options().ps


def test_where_no_answer_changes_the_lead_of_the_right_one_shows_what_a_repair_does():
    rows = planted_repairs.rows({})
    for key, values in rows.values.items():
        if key.count("|") == 2:
            more = 0.25 if key.startswith("VHR") and key.endswith("|") else 0.0
            rows.values[key] = np.concatenate([values, 0 * values[..., :1] + more], 2)
    told = tables_from(repairs, rows, planted_repairs.OPTIONS, **planted_repairs.LEARNED)
    asked = "repair == 'VHR' and setting == 2 and control == '' and against == 'plain' and subset == 'all'"
    of = told["differences"].query(asked).set_index("measure")
    assert of.loc[LEAD, "value"] == pytest.approx(0.25)
    assert of.loc[LEAD, "unit"] == "logits"
    known = told["differences"].query("measure != @LEAD").reset_index(drop=True)
    pd.testing.assert_frame_equal(known, planted_repairs.made({})["differences"])  # nothing else has changed


def test_findings_say_what_n_shows_and_how_far_the_right_answer_leads():
    tables = planted_repairs.made({"VHR": 0.5}, leads=True)
    told = {finding.text.split()[0]: finding.text for finding in repairs.findings(tables)}
    assert "n = 120 shows no change below" in told["VHR"]
    row = tables["differences"].query("repair == 'VHR' and setting == 2 and control == '' and measure == @LEAD")
    moved = row.set_index("against")["value"]
    assert f"lead of the right answer moves by {moved['plain']:+.2f} logits [" in told["VHR"]
    assert f"{moved['plain'] - moved['random heads']:+.2f} with random heads" in told["VHR"]
    assert "what changes less than" in told["VAR"]
    bare = planted_repairs.made({"VHR": 0.5})
    assert not any("lead" in finding.text for finding in repairs.findings(bare))

"""The subject card: planted answers give known numbers, any batching the same rows, and a page."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.analyses.cards import _tables, _text_ability, subject_card
from crosslens.analyses.cards.subject_card import Options, measure
from crosslens.data.subjects import scenes_model
from crosslens.data.tasks import open_task, scenes
from crosslens.probes.observe.generation import generate
from crosslens.probes.runs.results import How, condition_of, merge
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import subject_card as drawn
from crosslens.reports.pages import build

from ..helpers import tiny_scenes, vision_subjects
from ..helpers.makers import tables_from

SPEC = "scenes:kinds=all,difficulty=clear+hard"


def planted(monkeypatch, says):
    """Rows of 220 examples answered by `says(example, image)`."""

    def answers(subject, batch, image, options):
        shown = [image == "real" or e.meta["difficulty"] == options.controls_on for e in batch.examples]
        return [says(e, image) if seen else None for e, seen in zip(batch.examples, shown, strict=True)]

    monkeypatch.setattr(subject_card, "_answers", answers)
    examples = scenes.examples(220, kinds="all", difficulty="clear+hard")
    found = measure(None, SimpleNamespace(examples=tuple(examples)), {}, How(Options()))  # pyright: ignore
    return merge([found], [condition_of(True)] * len(examples), examples)


def truth(example, image):
    return example.answer.strip() if image == "real" else "nothing"


def cells(table: pd.DataFrame, **where) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_a_model_that_is_always_right(monkeypatch):
    made = tables_from(subject_card, planted(monkeypatch, truth))
    real = cells(made["accuracy"], control="")
    assert (real["value"] == 1).all()
    assert set(real["kind"]) == {*scenes.KINDS, *scenes.POPE}
    assert (real["n"] == 10).all()
    assert (cells(made["accuracy"], control="swapped image")["value"] == 0).all()
    assert (cells(made["pope"], measure="F1")["value"] == 1).all()
    assert (cells(made["captions"], measure="CHAIR_I")["value"] == 0).all()
    assert (cells(made["captions"], measure="object set")["value"] == 1).all()
    verdicts = {claim.name: claim.verdict for claim in subject_card.claims(made)}
    assert verdicts["object set"] == "undecidable here"  # ten of ten: at least .69
    assert verdicts["swapped"] == "holds"
    assert verdicts["IOI"] == "not testable"


def test_the_best_constant_is_chosen_on_other_scenes():
    """Of answers drawn at random none is better than chance; chosen where it is scored, the best of them would be."""
    rng, n = np.random.default_rng(0), 400
    examples = pd.DataFrame({"group": np.arange(n), "difficulty": "clear", "kind": "colour"})
    examples["question"] = "what colour is the " + pd.Series(rng.integers(0, 40, n)).astype(str)
    examples["answer"] = rng.choice(list("abcdefgh"), n)
    constant = _tables._constant(examples)
    assert constant.mean() == pytest.approx(1 / 8, abs=0.05)
    own = examples.groupby("question")["answer"].transform(lambda told: told.mode().iloc[0])
    assert (own == examples["answer"]).mean() > 0.25
    lone = _tables._constant(examples.assign(question=examples["question"] + examples["group"].astype(str)))
    assert np.isfinite(lone).all()  # no wording comes twice: the best answer to that kind
    assert np.isnan(_tables._constant(examples.head(1))).all()


def test_a_model_that_does_not_see_says_nothing_of_swapped_images(monkeypatch):
    made = tables_from(subject_card, planted(monkeypatch, lambda e, image: "nothing"))
    verdicts = {claim.name: claim.verdict for claim in subject_card.claims(made)}
    assert verdicts["swapped"] == "not testable"


@pytest.mark.parametrize("said", ["Yes", "yes.", " YES. "])
def test_case_and_full_stop_do_not_matter(said):
    yes, no = (e for e in (scenes.examples(40, kinds="existence")[i] for i in _first_yes_and_no()))
    assert subject_card._right(yes, said) == 1
    assert subject_card._right(no, said) == 0
    assert subject_card._right(yes, "yes, it is") == 0


def _first_yes_and_no():
    answers = [e.answer for e in scenes.examples(40, kinds="existence")]
    return answers.index(" yes"), answers.index(" no")


@pytest.mark.parametrize("template", ["raw", "chat"])
def test_answers_are_asked_for_in_the_form_of_the_run(monkeypatch, template):
    """The template that the record states, on a subject without a BOS."""
    model, processor = vision_subjects.build("llava")
    processor.chat_template = vision_subjects.CHAT
    processor.tokenizer.bos_token = None
    opened, asked = Subject(model, processor, name="tiny"), []

    def record(subject, batch, *, max_tokens):
        asked.append(dict(batch.form))
        return ["yes"] * len(batch.examples)

    monkeypatch.setattr(subject_card, "generate", record)
    batch = opened.batch(scenes.examples(11, kinds="all"), template=template, bos=False)
    found = measure(opened, batch, {}, How(Options()))
    assert set(found["right|real"].unique().tolist()) == {0.0, 1.0}
    assert len(asked) == 6
    assert all(form == {"template": template, "bos": False, "padding": "left"} for form in asked)


def test_a_model_that_always_says_yes(monkeypatch):
    made = tables_from(subject_card, planted(monkeypatch, lambda e, image: "yes"))
    examples = scenes.examples(220, kinds="all", difficulty="clear+hard")
    for level in ("clear", "hard"):
        mine = [e for e in examples if e.meta["kind"] == "pope_random" and e.meta["difficulty"] == level]
        there = sum(e.answer == " yes" for e in mine)
        pope = cells(made["pope"], difficulty=level, set="random").set_index("measure")["value"]
        assert pope["F1"] == pytest.approx(2 * there / (there + len(mine)))
        assert pope["false alarms"] == 1
        assert pope["recall"] == 1


def test_a_caption_that_adds_a_moon(monkeypatch):
    def says(example, image):
        return f"{example.answer.strip()[:-1]}, a red moon."

    made = tables_from(subject_card, planted(monkeypatch, says))
    examples = [e for e in scenes.examples(220, kinds="all", difficulty="clear+hard") if e.meta["kind"] == "caption"]
    for level in ("clear", "hard"):
        mine = [e for e in examples if e.meta["difficulty"] == level]
        absent = sum("moon" not in e.meta["objects"] for e in mine)
        words = sum(e.meta["n_objects"] + 1 for e in mine)
        found = cells(made["captions"], difficulty=level).set_index("measure")["value"]
        assert found["CHAIR_I"] == pytest.approx(absent / words)
        assert found["CHAIR_S"] == pytest.approx(absent / len(mine))
        assert found["recall"] == 1


def test_samples_keep_what_was_said(monkeypatch):
    made = tables_from(subject_card, planted(monkeypatch, lambda e, image: "a réd ♥"))["samples"]
    assert set(made["said"]) == {"a réd ♥"}
    assert made["picture"].str.startswith("data:image/png;base64,").all()
    assert len(made) == 8


def test_text_table_by_hand():
    found = [["ioi", "top-1", f"g{i}", float(i != 0), 1.0, 1] for i in range(4)]
    found += [["passages", "NLL", f"d{i}", 11.0 * (i + 1), 10.0 * (i + 1), 5] for i in range(3)]
    made = _text_ability.text_table(found).set_index(["source", "norms"])["value"]
    assert made["ioi", "change"] == pytest.approx(-0.25)
    assert made["ioi", "SmolLM2's"] == 1
    assert made["passages", "SmolLM2's"] == pytest.approx(60 / 15)
    assert made["passages", "change"] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def subject():
    return Subject(tiny_scenes.model(), tiny_scenes.processor(), name="tiny")


@pytest.mark.real
def test_any_batching_gives_the_same_rows(subject):
    examples = scenes.examples(22, kinds="all", difficulty="clear+hard")
    whole = measure(subject, subject.batch(examples), {}, How(Options()))
    parts = [measure(subject, subject.batch(examples[i : i + 5]), {}, How(Options())) for i in range(0, 22, 5)]
    for name, value in whole.items():
        np.testing.assert_array_equal(value.numpy(), torch.cat([part[name] for part in parts]).numpy())


@pytest.mark.real
def test_generate_is_step_by_step_argmax(subject):
    examples = scenes.examples(4, kinds="colour+left_right")
    batch = subject.batch(examples, padding="left")
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    start, ended = ids.shape[1], torch.zeros(4, dtype=torch.bool)
    for _ in range(4):
        said = subject.last_logits({**batch.inputs, "input_ids": ids, "attention_mask": mask}).argmax(-1)
        said[ended] = subject.tokenizer.eos_token_id
        ended |= said == subject.tokenizer.eos_token_id
        ids = torch.cat([ids, said[:, None]], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    expected = subject.tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
    assert generate(subject, batch, max_tokens=4) == expected
    with pytest.raises(ValueError, match="left padding"):
        generate(subject, subject.batch(examples))


@pytest.mark.real
def test_a_whole_run_and_its_page(subject, tmp_path):
    task = open_task(SPEC)
    analyses = {"subject_card": (subject_card, Options(texts=4))}
    run(
        subject,
        task,
        analyses,
        Settings(limit=44, out=tmp_path, command="crosslens run subject_card"),
        before=lambda: None,
    )
    index, *others = build.build(tmp_path)
    page = next(p for p in others if p.name.startswith("subject_card"))
    text = page.read_text()
    assert "could not be drawn" not in text
    assert "data:image" in text  # the example's picture; in no table
    assert "<td>data:image" not in text
    assert index.exists()
    for figure in ("pictures", "accuracy", "controls", "pope", "captions"):
        assert f'id="fig-{figure}' in text


@pytest.mark.real
def test_old_gains_come_and_go(smollm2):
    model = scenes_model.build()
    with torch.no_grad():
        for gain in scenes_model.gains(model).values():
            gain.mul_(2)
    original = scenes_model.original_gains()
    with _text_ability.old_gains(model):
        assert all(torch.equal(p, original[n]) for n, p in scenes_model.gains(model).items())
    assert all(torch.equal(p, 2 * original[n]) for n, p in scenes_model.gains(model).items())
    assert _text_ability.text_ability(smollm2, 4) == []
    assert _text_ability.text_ability(SimpleNamespace(name="tiny"), 4) == []


def test_figures_of_nothing_are_none():
    assert drawn.figures({}) == {}

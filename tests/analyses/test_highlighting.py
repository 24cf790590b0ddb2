"""Highlighting: sweeps are whole edited forwards, a planted head is found and its twin not, a run says what it did."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from crosslens import record, repairs
from crosslens.analyses.common.controls import HEADS, SPAN, example_keys, random_circuits, random_spans
from crosslens.analyses.common.option_logits import OptionLogits, lead
from crosslens.analyses.steered import highlighting
from crosslens.analyses.steered._highlighted import gains_alone, highlighted_rows
from crosslens.analyses.steered._neutral import ALL, OURS, PLAIN, neutral_losses
from crosslens.data.errors import UserError
from crosslens.data.tasks import passages
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, tiny
from ..helpers.planted import copying_model
from ..probes.test_families import assert_close

OPTIONS = highlighting.Options(alphas=(0.5, 0.02), top=3, draws=3, neutral=0)
CHOSEN = [(0, 1), (1, 0), (2, 3)]


def batch_of(subject, padding="left", n=4):
    return subject.batch(contrasts.examples(n, tokenizer=None), padding=padding)


@torch.no_grad()
def test_every_row_is_a_whole_edited_forward():
    """The slow way: a forward in the block of `repairs.pasta`, all rows edited."""
    subject = tiny.subject()
    batch = batch_of(subject)
    rows, span = highlighted_rows(subject, batch, CHOSEN, OPTIONS), batch.marks["indirect_object"]
    measure = OptionLogits.of(batch, "test")
    for edit, heads in (("chosen", CHOSEN), ("every", None)):
        for at, alpha in enumerate(OPTIONS.alphas):
            with repairs.pasta(subject, batch, span, alpha, heads):
                logits = subject.model(**subject.prepare(batch)).logits[torch.arange(4), batch.last]
            assert_close(rows[f"lead|{edit}"][:, at], lead(measure(logits.float(), torch.arange(4))), edit)
    assert rows[f"lead|{HEADS}"].shape == rows[f"lead|{SPAN}"].shape == (4, 2, OPTIONS.draws)
    drawn = random_circuits(CHOSEN, subject.n_heads, OPTIONS.draws)
    others = [random_spans(span, batch.mask, example_keys(batch.example_ids, draw)) for draw in range(OPTIONS.draws)]
    for control, several in ((HEADS, [(span, some) for some in drawn]), (SPAN, [(other, CHOSEN) for other in others])):
        for draw, (where, heads) in enumerate(several):
            for at, alpha in enumerate(OPTIONS.alphas):
                with repairs.pasta(subject, batch, where, alpha, heads):
                    logits = subject.model(**subject.prepare(batch)).logits[torch.arange(4), batch.last]
                expected = lead(measure(logits.float(), torch.arange(4)))
                assert_close(rows[f"lead|{control}"][:, at, draw], expected, control)
    assert (rows["lead|chosen"] - rows["lead|clean"][:, None]).abs().max() > 1e-5


def test_a_row_belongs_to_its_example_alone():
    subject = tiny.subject()
    together = highlighted_rows(subject, batch_of(subject), CHOSEN, OPTIONS)
    for padding in ("left", "right"):
        for i, example in enumerate(contrasts.examples(4, tokenizer=None)):
            alone = highlighted_rows(subject, subject.batch([example], padding=padding), CHOSEN, OPTIONS)
            for name, values in alone.items():
                assert_close(values[0], together[name][i], name)


def test_a_planted_head_is_found_and_its_twin_is_not():
    """The head reads all tokens alike and writes what it reads: to highlight the answer is all that it needs."""
    ids = torch.tensor([[3, 5, 1, 2, 7], [4, 6, 2, 1, 9]])
    span = torch.zeros(ids.shape, dtype=torch.bool).index_fill(1, torch.tensor([1]), True)
    measure = OptionLogits(ids[:, 1], ids[:, :1])
    for planted in (True, False):
        base = record(copying_model(planted=planted), {"input_ids": ids})
        gains = gains_alone(base, span, measure, 0.01).mean(0)
        if planted:
            assert gains.argmax() == 2  # head 1.0 of 2 × 2
            assert gains[1, 0] > 0.2
        else:
            assert gains.abs().max() < 1e-4


def test_another_span_is_as_long_and_elsewhere():
    chosen = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    allowed = torch.ones_like(chosen).index_fill(1, torch.tensor([0]), False)
    seen = set()
    for draw in range(20):
        drawn = random_spans(chosen, allowed, [f"a {draw}", f"b {draw}"])
        assert torch.equal(drawn.sum(1), chosen.sum(1))
        assert not (drawn & (chosen | ~allowed)).any()
        assert (drawn[0].nonzero()[:, 0].diff() == 1).all()
        seen.add(int(drawn[0].int().argmax()))
    assert seen == {4, 5, 6}
    tight = torch.tensor([[1, 1, 0, 1, 1, 0, 1]]).bool()  # no stretch of 2 is free beside these two
    drawn = random_spans(tight & (torch.arange(7) < 2), ~torch.tensor([[0, 0, 0, 1, 0, 0, 0]]).bool(), ["c 0"])
    assert int(drawn.sum()) == 2


def test_neutral_text_is_read_under_the_same_edit(monkeypatch):
    monkeypatch.setattr(
        passages,
        "examples",
        lambda n, seed, *, tokenizer, tokens: contrasts.examples(n, seed, tokenizer=tokenizer, size=12),
    )
    documents, losses = neutral_losses(tiny.subject(), CHOSEN, 2, replace(OPTIONS, neutral=4))
    assert len(documents) == 4
    assert set(losses) == {PLAIN, OURS, ALL, HEADS}
    assert all(len(values) == 4 for values in losses.values())
    assert losses[OURS] != losses[PLAIN] != losses[ALL]


def analyse(out, **settings):
    task = contrasts.task(contrasts.four_groups)
    (directory,) = run(
        tiny.subject(),
        task,
        {"highlighting": (highlighting, OPTIONS)},
        Settings(**{"limit": 40, "out": out} | settings),
    )
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(tmp_path):
    found = analyse(tmp_path / "one")
    effects, gain = found["effects"], found["gain"]
    assert set(effects["n"]) == {20}, "groups that heads were chosen on are not scored"
    assert found["heads"]["chosen"].sum() == OPTIONS.top
    value = effects[(effects["measure"] == "the answer's lead") & (effects["control"] == "")]
    value = value.set_index(["steered", "alpha"])["value"]
    than = gain[(gain["measure"] == "the answer's lead") & (gain["steered"] == OURS)].set_index("than")["value"]
    assert value[OURS, 0.02] - value["nothing highlighted", 1.0] == pytest.approx(than["nothing highlighted"])
    assert {*effects[effects["control"] == SPAN]["alpha"]} == {*OPTIONS.alphas}, "controls at every strength"
    numbers = found["claims"].set_index("name")["numbers"]
    assert "no neutral text was read" in numbers["neutral text stays"]
    other = analyse(tmp_path / "two", size=5, padding="left")
    pd.testing.assert_frame_equal(other["effects"], effects, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spans": ("colour",)}, "no mark colour"),
        ({"alphas": (0.0,)}, "alphas = 0"),
        ({"alphas": (-1.0, 0.5)}, "alphas = -1"),
        ({"top": 99}, "--highlighting.top 99"),
        ({"alphas": ()}, "at least one weight"),
    ],
)
def test_mistakes_are_one_line(options, said, tmp_path):
    analysis = {"highlighting": (highlighting, replace(OPTIONS, **options))}
    with pytest.raises(UserError, match=said):
        run(tiny.subject(), contrasts.task(), analysis, Settings(8, out=tmp_path))

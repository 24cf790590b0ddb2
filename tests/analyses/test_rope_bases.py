"""Rotary bases: every loss is that of a model that has the base, mixtures are the public metric, rows are their own."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from crosslens import Subject, repairs
from crosslens.analyses import metrics
from crosslens.analyses.common.losses import scored
from crosslens.analyses.steered import rope_bases
from crosslens.analyses.steered._based import (
    DISTRIBUTIONS,
    MIXED,
    NEAR,
    TRAINED,
    WITHIN,
    alone,
    based,
    kinds,
    losses_of,
    near,
)
from crosslens.data.errors import UserError
from crosslens.probes.intervene.rope import own_base
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, families, tiny
from ..probes.test_families import assert_close

FACTORS = (1.0, 0.05, 3.0)
OPTIONS = rope_bases.Options(FACTORS, positions=8)


def with_base(subject, base):
    """The same weights and tokenizer with another base in the model's configuration."""
    other = tiny.subject()
    rotary = other.model.model.rotary_emb
    pairs = len(rotary.inv_freq)
    rotary.inv_freq = base ** (-torch.arange(pairs).float() / pairs)
    assert torch.equal(subject.model.lm_head.weight, other.model.lm_head.weight)
    return other


def of(subject, padding="left", n=4):
    return subject.batch(tiny.examples(n, tokenizer=None), padding=padding)


def log_probabilities(subject, batch):
    with torch.no_grad():
        return subject.model(**subject.prepare(batch)).logits.float()


def test_the_base_is_read_from_the_frequencies():
    subject = tiny.subject()
    assert own_base(subject) == pytest.approx(subject.model.config.rope_parameters["rope_theta"], rel=1e-4)
    assert own_base(with_base(subject, 500.0)) == pytest.approx(500.0, rel=1e-4)


def test_every_loss_is_that_of_a_model_that_has_the_base():
    """The slow way: a model for each base, whole forwards, and mixtures of their logits at the place that is read."""
    subject = tiny.subject()
    batch = of(subject)
    rows, asked, own = based(subject, batch, FACTORS, 8), scored(batch, 8), own_base(subject)
    logits = {factor: log_probabilities(with_base(subject, own * factor), batch) for factor in (*FACTORS, *near(3))}
    names = kinds(FACTORS)
    for i in range(4):
        at, targets = (one[i][asked.targets[i] >= 0] for one in asked)
        held = {factor: one[i][at] for factor, one in logits.items()}
        expected = {TRAINED: held[1.0]} | {alone(factor): held[factor] for factor in FACTORS}
        far, close = (torch.stack([held[one] for one in some], 1) for some in (FACTORS, near(3)))
        expected[MIXED], expected[NEAR] = metrics.mix_bases(far).logits, metrics.mix_bases(close).logits
        expected[DISTRIBUTIONS] = far.softmax(-1).mean(1).log()
        for kind, one in expected.items():
            loss = -one.log_softmax(-1).gather(1, targets[:, None])[:, 0]
            mine = names.index(kind)
            assert_close(rows["loss"][i, mine].sum(), loss.sum(), kind)
            assert_close(rows["probability"][i, mine].sum(), (-loss).exp().sum(), kind)
        assert_close(rows["weight"][i], metrics.mix_bases(far).weights.sum(0), "weights")
        assert rows["count"][i].sum() == len(targets)
    assert (rows["loss"][:, names.index(alone(0.05))] - rows["loss"][:, 0]).abs().max() > 1e-6


def test_the_mixture_is_that_of_generation():
    subject = tiny.subject()
    batch = of(subject)
    mixed = repairs.buckets(subject, batch, [own_base(subject) * factor for factor in FACTORS])
    loss = -mixed.logits.log_softmax(-1).gather(1, batch.answers[:, None])[:, 0]
    assert_close(based(subject, batch, FACTORS, 8)["loss"][:, kinds(FACTORS).index(MIXED)].sum(1), loss, "mixed")


def test_a_row_belongs_to_its_example_alone():
    subject = tiny.subject()
    together = based(subject, of(subject), FACTORS, 8)
    for padding in ("left", "right"):
        for i, example in enumerate(tiny.examples(4, tokenizer=None)):
            alone_ = based(subject, subject.batch([example], padding=padding), FACTORS, 8)
            for name, values in alone_.items():
                assert_close(values[0], together[name][i], name)


def test_mixtures_of_bases_that_agree_are_any_of_them():
    logits = torch.randn(1, 5, 11, generator=torch.Generator().manual_seed(0)).expand(7, -1, -1)
    loss, weights = losses_of(logits, torch.arange(5), 3)
    assert_close(loss, loss[:1].expand_as(loss), "alike")
    assert_close(weights, torch.full((5, 3), 1 / 3), "weights")


def test_a_base_that_is_sure_of_the_right_word_helps_and_one_that_is_sure_of_another_does_not():
    """Planted: of three bases one is sure; the mixture follows it, the mean of distributions less."""
    plain = torch.zeros(7, 1, 4)
    for token, helps in ((2, True), (3, False)):
        planted = plain.clone()
        planted[3, 0, token] = 6.0
        loss, weights = losses_of(planted, torch.tensor([2]), 3)
        named = dict(zip(kinds((1.0, 2.0, 3.0)), loss[:, 0].tolist(), strict=True))
        assert weights[0, 2] > 0.9
        assert (named[MIXED] < named[TRAINED] - 0.5) == helps
        assert named[NEAR] == pytest.approx(named[TRAINED])
        assert abs(named[DISTRIBUTIONS] - named[TRAINED]) < abs(named[MIXED] - named[TRAINED])


def test_near_bases_lie_within_a_hundredth():
    assert near(3) == pytest.approx([1 - WITHIN, 1, 1 + WITHIN])


def analyse(out, **settings):
    (directory,) = run(
        tiny.subject(),
        tiny.task(),
        {"rope_bases": (rope_bases, OPTIONS)},
        Settings(**{"limit": 12, "out": out} | settings),
    )
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(tmp_path):
    found = analyse(tmp_path / "one")
    changes, levels = found["changes"], found["levels"]
    whole = levels[(levels["context"] == "all contexts") & (levels["measure"] == "loss")].set_index("base")["value"]
    gap = changes[(changes["context"] == "all contexts") & (changes["measure"] == "loss")].set_index("base")["value"]
    assert gap[MIXED] == pytest.approx(whole[MIXED] - whole[TRAINED], abs=1e-6)
    assert gap[alone(1.0)] == 0
    weights = found["weights"]
    assert weights[weights["control"] == ""]["value"].sum() == pytest.approx(1)
    waves = found["waveform"].set_index(["base", "distance"])["value"]
    expected = metrics.rope_waveform(torch.tensor([10]), 3 * own_base(tiny.subject()), 8)
    assert waves[alone(3.0), 10] == pytest.approx(float(expected), abs=1e-4)
    other = analyse(tmp_path / "two", size=5, padding="left")
    pd.testing.assert_frame_equal(other["changes"], changes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factors": (1.0,)}, "--rope_bases.factors 1"),
        ({"factors": ()}, "--rope_bases.factors nothing"),
        ({"factors": (-1.0, 2.0)}, "factors -1 2"),
        ({"positions": 0}, "--rope_bases.positions 0"),
    ],
)
def test_mistakes_are_one_line(options, said, tmp_path):
    analysis = {"rope_bases": (rope_bases, replace(OPTIONS, **options))}
    with pytest.raises(UserError, match=said):
        run(tiny.subject(), tiny.task(), analysis, Settings(8, out=tmp_path))


def test_a_model_without_rotary_positions_is_refused(tmp_path):
    subject = Subject(families.build("gpt2"), tiny.tokenizer(), name="tiny-gpt2")
    with pytest.raises(UserError, match="rotary"):
        run(subject, contrasts.task(), {"rope_bases": (rope_bases, OPTIONS)}, Settings(8, out=tmp_path))

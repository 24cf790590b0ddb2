"""Steering equals an eager forward whose pattern rows are set by hand; its controls match; a run says so."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.analyses import steering
from crosslens.data import ioi
from crosslens.data.example import UserError
from crosslens.probes.measures import logit_difference
from crosslens.probes.replay import record
from crosslens.probes.run import Settings, run

from . import by_hand, contrasts, tiny
from .test_sweep import close, whole_logits


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3"])
def test_steered_heads_attend_to_the_targets(family, padding):
    given = by_hand.inputs(family, padding)
    subject = Subject(by_hand.build(family))
    mask = given["attention_mask"].bool()
    place = mask.long().cumsum(1) - 1
    targets, last = mask & ((place == 1) | (place == 2)), mask & (place == mask.sum(1, keepdim=True) - 1)
    heads = [(0, 1), (1, 0), (1, 3), (2, 2)]
    sweep = steering.steer_attention(subject, given, heads, targets, measure=whole_logits)

    def reading(layer):
        def read(query, key, value):
            """A query of the last row that finds nothing but the targets: their keys become long and alike."""
            kept[layer] = value
            return query, key, value

        return read

    def said(layer):
        def change(z):
            z = z.clone()
            for one, head in heads:
                if one == layer:
                    mean = torch.einsum("bp,bpe->be", targets.float() / 2, kept[layer][:, head])
                    z[:, :, head] = torch.where(last[..., None], mean[:, None], z[:, :, head])
            return z

        return change

    kept = {}
    reads, z = {i: reading(i) for i in range(3)}, {i: said(i) for i in range(3)}
    expected = by_hand.at_last(by_hand.logits(family, given, reads=reads, z=z), given)
    close(sweep.values[0], expected)


def test_mistakes_are_one_line():
    given = by_hand.inputs("llama", "right")
    subject, mask = Subject(by_hand.build("llama")), given["attention_mask"].bool()
    measure = logit_difference(torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8]))
    first = torch.zeros_like(mask)
    for heads, targets, said in (
        ([(0, 0)], first, "no target"),
        ([(0, 0)], mask, "last position"),
        ([(3, 0)], first.index_fill(1, torch.tensor([0]), True), "no head 3.0"),
    ):
        with pytest.raises(UserError, match=said):
            steering.steer_attention(subject, given, heads, targets, measure=measure)


def test_random_heads_keep_the_layers():
    subject = tiny.subject()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = steering._random_heads([(0, 1), (2, 0), (2, 3)], subject, generator)
        assert sorted(layer for layer, _ in drawn) == [0, 2, 2]
        assert not {(0, 1), (2, 0), (2, 3)} & set(drawn)
        assert len(set(drawn)) == 3


def test_random_tokens_are_others_and_as_many():
    subject = tiny.subject()
    examples = contrasts.examples(6, tokenizer=None)
    batch = subject.batch(examples, padding="left")
    targets = batch.marks["indirect_object"]
    base = record(subject, batch, ("z",))
    draws = [steering._random_tokens(batch, base, targets, i) for i in range(20)]
    for drawn in draws:
        assert not (drawn & (targets | ~batch.mask)).any()
        assert torch.equal(drawn.sum(1), targets.sum(1))
        assert not drawn[torch.arange(6), batch.last].any()
    assert len({tuple(d.flatten().tolist()) for d in draws}) > 10
    alone = subject.batch(examples[:1])
    one = steering._random_tokens(alone, record(subject, alone, ("z",)), alone.marks["indirect_object"], 3)
    assert torch.equal(one[0], draws[3][0][batch.mask[0]][: one.shape[1]])


@pytest.fixture
def words_as_ioi(monkeypatch):
    """The tiny tokenizer knows no names: IOI is played by random words."""
    monkeypatch.setattr(
        ioi, "examples", lambda n=None, seed=0, *, tokenizer: contrasts.examples(n, seed, tokenizer=tokenizer)
    )


def analyse(out, **settings):
    options = steering.Options(targets="indirect_object", draws=4)
    analyses = {"steering": (steering, options)}
    task = contrasts.task(contrasts.four_groups)
    (directory,) = run(tiny.subject(), task, analyses, Settings(**{"limit": 40, "out": out} | settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(words_as_ioi, tmp_path):
    found = analyse(tmp_path / "one")
    repair, gain = found["repair"], found["gain"]
    assert set(repair["n"]) == {20}, "groups that heads were chosen on are not scored"
    assert set(repair["set"]) == {"nothing steered", "guessing", *steering.SETS}
    assert set(repair["control"]) == {"", steering.HEADS, steering.TOKENS}
    value = repair[repair["measure"] == "accuracy"].set_index(["set", "control"])["value"]
    difference = gain[(gain["measure"] == "accuracy") & (gain["than"] == "nothing steered")].set_index("set")["value"]
    assert value["both", ""] - value["nothing steered", ""] == pytest.approx(difference["both"])
    assert found["claims"]["text"].str.contains("oracle").all()
    other = analyse(tmp_path / "two", size=5, padding="left")
    pd.testing.assert_frame_equal(other["repair"], repair, rtol=1e-3, atol=1e-4)


def test_a_task_without_the_mark(words_as_ioi, tmp_path):
    with pytest.raises(UserError, match="no mark 'other_colors'"):
        run(tiny.subject(), contrasts.task(), {"steering": (steering, steering.Options())}, Settings(8, out=tmp_path))


def test_a_run_of_both_conditions(words_as_ioi, tmp_path):
    both, alone = (analyse(tmp_path / str(len(bos)), bos=bos)["claims"] for bos in ((True, False), (True,)))
    assert both["condition"].tolist() == ["BOS", "BOS", "no BOS", "no BOS"]
    # The start of the numbers: behind it may stand what their count on the page does to the verdict.
    assert both["numbers"].str[:30].tolist()[:2] == alone["numbers"].str[:30].tolist()

"""Steering equals an eager forward whose pattern rows are set by hand; its controls match; a run says so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses.circuits import _gatherers, steering
from crosslens.analyses.common.claims import CONTROL_TOO, FAILS, HOLDS, UNTESTABLE
from crosslens.analyses.common.contrast import contrast
from crosslens.data.errors import UserError
from crosslens.data.tasks import ioi
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import anatomy
from crosslens.probes.runs.results import Rows
from crosslens.probes.runs.run import Settings, run

from ..helpers import by_hand, contrasts, tiny
from ..helpers.makers import tables_from
from ..probes.test_sweep import close, whole_logits
from .claims import steering as claims_of


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3"])
def test_steered_heads_attend_to_the_targets(family, padding):
    given = by_hand.inputs(family, padding)
    subject = Subject(by_hand.build(family))
    mask = given["attention_mask"].bool()
    before_last = mask.sum(1, keepdim=True) - mask.long().cumsum(1)
    targets, last = mask & ((before_last == 1) | (before_last == 2)), mask & (before_last == 0)
    heads = [(0, 1), (1, 0), (1, 3), (2, 2)]
    sweep = steering.steer_attention(subject, given, heads, targets, measure=whole_logits)

    steered = [torch.zeros(len(mask), subject.n_heads, mask.shape[1], dtype=torch.bool) for _ in range(3)]
    for layer, head in heads:
        steered[layer][:, head] = last
    # The pattern row is set through the model's own softmax: every other edge is cut, equal scores are even weights.
    masks = {i: rows[..., None] & ~targets[:, None, None] for i, rows in enumerate(steered)}
    reads = {
        i: lambda query, key, value, rows=rows: (query.masked_fill(rows[..., None], 0.0), key, value)
        for i, rows in enumerate(steered)
    }
    expected = by_hand.at_last(by_hand.logits(family, given, masks=masks, reads=reads), given)
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
    own = set(repair["set"][repair["control"] == steering.HEADS])
    assert own, "some set has as many other heads in its layers"
    assert set(repair["set"]) == {"nothing steered", "guessing", *steering.SETS}
    assert set(repair["control"]) == {"", steering.HEADS, steering.TOKENS}
    value = repair[repair["measure"] == "accuracy"].set_index(["set", "control"])["value"]
    difference = gain[(gain["measure"] == "accuracy") & (gain["than"] == "nothing steered")].set_index("set")["value"]
    assert value["both", ""] - value["nothing steered", ""] == pytest.approx(difference["both"])
    assert found["claims"].set_index("name").loc[["both", steering.OWN], "text"].str.contains("oracle").all()
    assert {*found["silent"]["n"], *found["looks"]["n"]} == {20}
    assert "the model does not solve IOI" in found["claims"].set_index("name").loc["both", "numbers"]
    other = analyse(tmp_path / "two", size=5, padding="left")
    for name in ("repair", "silent", "looks"):
        pd.testing.assert_frame_equal(other[name], found[name], rtol=1e-3, atol=1e-4)


def test_a_task_without_the_mark(words_as_ioi, tmp_path):
    with pytest.raises(UserError, match="no mark 'other_colors'"):
        run(tiny.subject(), contrasts.task(), {"steering": (steering, steering.Options())}, Settings(8, out=tmp_path))


def repairs(claims):
    """The two claims about the repair."""
    return [claim for claim in claims if claim.name in (steering.BORROWED, steering.OWN)]


def test_two_conditions_are_judged_apart():
    """With and without BOS steering does another thing: no verdict is made of both."""
    parts = [claims_of.rows(), claims_of.rows(steered=0.1, condition="no BOS")]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].values}
    both = Rows(pd.concat([part.examples for part in parts], ignore_index=True), values)
    tested = tables_from(steering, both, steering.Options(draws=claims_of.DRAWS))["tested"]
    verdicts = {
        condition: {claim.verdict for claim in repairs(steering.claims({"tested": rows}))}
        for condition, rows in tested.groupby("condition")
    }
    assert verdicts == {"BOS": {HOLDS}, "no BOS": {FAILS}}


def test_a_repair_that_random_heads_do_as_well_is_none():
    tables = tables_from(steering, claims_of.rows(control=0.95), steering.Options(draws=claims_of.DRAWS))
    claims = repairs(steering.claims(tables))
    assert {claim.verdict for claim in claims} == {CONTROL_TOO}
    assert all(steering.HEADS in claim.numbers for claim in claims)
    unsolved = tables_from(steering, claims_of.rows(), steering.Options(draws=claims_of.DRAWS), ioi=False)
    assert [claim.verdict for claim in repairs(steering.claims(unsolved))] == [UNTESTABLE, HOLDS]


def test_a_control_that_does_not_exist_makes_a_claim_untestable():
    rows = claims_of.rows()
    rows.values[f"right|{steering.HEADS}"][:] = np.nan
    tables = tables_from(steering, rows, steering.Options(draws=claims_of.DRAWS))
    assert not (tables["repair"].query("measure == 'accuracy'")["control"] == steering.HEADS).any()
    assert {claim.verdict for claim in repairs(steering.claims(tables))} == {UNTESTABLE}


def test_silent_heads_say_nothing_anywhere():
    """As an eager forward whose heads' output is set to 0 before the output projection."""
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(6, tokenizer=None))
    found, heads = contrast(subject, batch, ("z",)), [(0, 1), (1, 0), (1, 3)]
    kept = _gatherers.without(found, heads, 3)

    def mute(layer):
        def hook(module, args):
            z = args[0].unflatten(-1, (subject.n_heads, -1)).clone()
            z[:, :, [head for at, head in heads if at == layer]] = 0
            return (z.flatten(-2), *args[1:])

        return anatomy.output_projection(subject.layers[layer]).register_forward_pre_hook(hook)

    hooks = [mute(layer) for layer in (0, 1)]
    logits = subject.model(**subject.prepare(batch)).logits[torch.arange(6), batch.last]
    for hook in hooks:
        hook.remove()
    wrong = logits.gather(1, found.options[:, :1])[:, 0]
    expected = logits.gather(1, found.answers[:, None])[:, 0] - wrong
    assert found.options.shape[1] == 1
    torch.testing.assert_close(kept["silent|difference"], expected.detach(), atol=1e-4, rtol=1e-3)
    assert kept[f"silent|right|{steering.HEADS}"].shape == (6, 3)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_movers_look_where_their_pattern_says(padding):
    """As it is: the rows of the captured pattern. Steered heads of a layer before them change it, later ones do not."""
    subject = tiny.subject()
    batch = subject.batch(contrasts.examples(6, tokenizer=None), padding=padding)
    base, targets = record(subject, batch, ("z",)), batch.where("second_subject")
    kept = _gatherers.looks(base, batch, [(1, 1), (1, 2)], [(0, 0)], targets)
    pattern = capture(subject, batch, ["pattern"], queries=batch.last[:, None])["blocks.1.attn.hook_pattern"][
        :, [1, 2], 0
    ]
    expected = (pattern * batch.where("indirect_object")[:, None]).sum(-1).mean(1)
    torch.testing.assert_close(kept["looks|the answer|clean"], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(kept["looks|the answer|steered"], expected, atol=1e-6)
    later = _gatherers.looks(base, batch, [(1, 1), (1, 2)], [(2, 0)], targets)
    torch.testing.assert_close(later["looks|the answer|steered"], expected, atol=1e-5, rtol=1e-4)
    assert _gatherers.looks(base, batch, [(0, 0)], [(0, 0)], targets) == {}, "a steered head is no witness"

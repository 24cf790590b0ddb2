"""Laws of directions: edits against hooked forwards, rows of their own, a planted axis and its twin, mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses.common.controls import SUBSPACE, random_in_subspace
from crosslens.analyses.steered import directions
from crosslens.analyses.steered._directed import READ, directed
from crosslens.analyses.steered._learned_directions import directions as learn
from crosslens.data.errors import UserError
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, tiny

STRENGTHS = (-1.0, 2.0)


def asked(n=None, seed=0, *, tokenizer=None):
    """Random words that are asked for one of three answers, the first more often."""
    made = contrasts.examples(n, seed, tokenizer=tokenizer)
    answers = (" w0", " w1", " w0", " w2")
    kept = []
    for i, example in enumerate(made):
        own = answers[i % 4]
        others = tuple(word for word in (" w1", " w0", " w2") if word != own)
        kept.append(replace(example, answer=own, wrong=others, corrupt=None, group=f"g{i}"))
    return kept


def learned(subject, kinds=1):
    torch.manual_seed(0)
    width = subject.decoder.d_model
    units = torch.nn.functional.normalize(torch.randn(kinds, subject.n_layers, width), dim=-1)
    return directions.Learned("w0", units.tolist(), [0.5] * subject.n_layers)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_edits_are_those_of_hooked_forwards(padding):
    subject = tiny.subject()
    batch, told = subject.batch(asked(4), padding=padding), learned(subject)
    rows = directed(subject, batch, told, STRENGTHS)
    assert rows[f"edited|{READ[0]}"].shape == (4, 1, subject.n_layers, 3)
    for layer in range(subject.n_layers):
        for step, of in enumerate(_edits(torch.tensor(told.units[0][layer]))):
            logits = _hooked(subject, batch, layer, of)
            expected = [_by_hand(subject, example, row) for example, row in zip(batch.examples, logits, strict=True)]
            for name, values in zip(READ, zip(*expected, strict=True), strict=True):
                told_here = rows[f"edited|{name}"][:, 0, layer, step]
                torch.testing.assert_close(told_here, torch.tensor(values), rtol=1e-3, atol=1e-4)


def _edits(unit):
    return (lambda x: x - 0.5 * unit, lambda x: x + unit, lambda x: x - (x @ unit)[:, None] * unit)


@torch.no_grad()
def _hooked(subject, batch, layer, of):
    places = torch.arange(len(batch.examples)), batch.last

    def edit(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        states[places] = of(states[places])
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = subject.model.model.layers[layer].register_forward_hook(edit)
    try:
        return subject.model(**batch.inputs).logits[places]
    finally:
        handle.remove()


def _by_hand(subject, example, logits):
    logit = {word: float(logits[subject.tokenizer.convert_tokens_to_ids(word)]) for word in ("w0", "w1", "w2")}
    gap = logit["w0"] - (logit["w1"] + logit["w2"]) / 2
    own = example.answer.strip()
    return gap, gap if own == "w0" else logit[own] - logit["w0"], float(max(logit, key=logit.__getitem__) == own)


def test_rows_belong_to_their_example():
    subject = tiny.subject()
    examples = asked(5)
    other = replace(examples[2], answer=" w5", wrong=(" w6",))  # does not offer the answer
    examples[2] = other
    told = learned(subject, kinds=2)
    whole = directed(subject, subject.batch(examples, padding="left"), told, STRENGTHS)
    for i, example in enumerate(examples):
        alone = directed(subject, subject.batch([example]), told, STRENGTHS)
        for name, values in alone.items():
            torch.testing.assert_close(values[0], whole[name][i], rtol=1e-3, atol=1e-4, equal_nan=True)
    assert whole[f"clean|{READ[0]}"].isnan().tolist() == [False, False, True, False, False]


def test_a_batch_without_the_answer_has_rows_that_can_be_saved():
    """Each name has memory of its own: safetensors refuses what is shared."""
    subject = tiny.subject()
    batch = subject.batch([replace(example, answer=" w5", wrong=(" w6",)) for example in asked(2)])
    rows = directed(subject, batch, learned(subject), STRENGTHS)
    assert all(values.isnan().all() for values in rows.values())
    assert len({values.data_ptr() for values in rows.values()}) == 2 * len(READ)


def test_a_planted_axis_is_found_and_its_twin_is_not():
    generator = torch.Generator().manual_seed(0)
    labels, groups = torch.arange(80) % 2 == 0, np.array([f"g{i}" for i in range(80)])
    states = torch.randn(80, 2, 8, generator=generator)
    states[labels, 1, 3] += 4.0
    units, spreads = learn(states, labels, groups, 2, 4)
    assert units.shape == (5, 2, 8)
    assert abs(float(units[0, 1, 3])) > 0.95
    assert (units[1:, 1, 3].abs() < 0.9).all(), "neither permuted labels nor random directions are the axis"
    assert float(spreads[1]) == pytest.approx(1.0, abs=0.3)


def test_random_directions_lie_among_the_largest_components():
    states = torch.randn(30, 2, generator=torch.Generator().manual_seed(1)) @ torch.eye(2, 6)
    drawn = torch.stack([random_in_subspace(states, 2, str(i)) for i in range(5)])
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(5))
    assert drawn[:, 2:].abs().max() < 1e-5
    assert not torch.allclose(drawn[0], drawn[1])


def analyse(out, **settings):
    analyses = {"directions": (directions, directions.Options(strengths=STRENGTHS, texts=0))}
    chosen = Settings(**{"limit": 40, "out": out} | settings)
    (directory,) = run(tiny.subject(), contrasts.task(asked), analyses, chosen)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run_does_not_depend_on_batches(tmp_path):
    found, other = analyse(tmp_path / "one"), analyse(tmp_path / "two", size=5, padding="left")
    assert {"", SUBSPACE} < set(found["sweep"]["control"])
    pd.testing.assert_frame_equal(found["sweep"], other["sweep"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positive": "w9"}, "0 held-out examples have 'w9'"),
        ({"strengths": (0.0, 1.0)}, "other than 0"),
        ({"strengths": (-1.0,)}, "above 0"),
        ({"draws": 0}, "at least 1"),
    ],
)
def test_mistakes_are_one_line(options, said):
    subject = tiny.subject()
    batches = [subject.batch(asked(8))]
    with pytest.raises(UserError, match=said):
        directions.fit(subject, batches, directions.Options(**options))


def test_a_task_without_wrong_answers_is_refused():
    subject = tiny.subject()
    batches = [subject.batch([replace(example, answer="", wrong=()) for example in asked(8)])]
    with pytest.raises(UserError, match="answer and a wrong one"):
        directions.fit(subject, batches, directions.Options())

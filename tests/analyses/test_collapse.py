"""Distances by hand from prompts that are run one by one; a planted model that averages collapses, one that counts
does not.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import RANDOM_WEIGHTS
from crosslens.analyses.representations import collapse
from crosslens.analyses.representations._collapse_rows import OTHER, _another, named
from crosslens.analyses.representations._collapse_tables import over_first
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model.random_weights import random_twin
from crosslens.probes.runs.results import How, Rows, observe

from ..helpers import families, tiny, vision_subjects
from ..helpers.makers import tables_from
from .claims import collapse as planted

HOW = How(collapse.Options(first=2))


def example(before: str, word: str, times: int) -> Example:
    return Example(f"{word}-{times}", word, (Segment("text", " ".join([before, *[word] * times])),))


EXAMPLES = [example("w1 w2", "w3", 9), example("w4", "w5", 5), example("w1 w6 w2", "w7", 20)]


def rows_of(subject: Any, examples: list[Example], how: How = HOW, **form: Any) -> dict[str, torch.Tensor]:
    return observe(subject, subject.batch(examples, **form), {"collapse": (collapse, how)})["collapse"]


def last_states(subject: Subject, text: str) -> torch.Tensor:
    """[states, d]: what enters the layers, and what leaves them, at the end of a prompt that is run alone."""
    batch = subject.batch([text])
    seen = capture(subject, batch, ["resid_pre", "resid_post"])
    states = [seen["resid_pre", layer] for layer in range(subject.n_layers)]
    return torch.stack([*states, seen["resid_post", subject.n_layers - 1]])[:, 0, -1]


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_are_the_distances_by_hand(subject, padding):
    rows = rows_of(subject, EXAMPLES, padding=padding)
    twin = random_twin(subject)
    for i, (before, word, times) in enumerate([("w1 w2", "w3", 9), ("w4", "w5", 5), ("w1 w6 w2", "w7", 20)]):
        another = subject.tokenizer.decode([_another(subject, subject.tokenizer.convert_tokens_to_ids(word))]).strip()
        for at, n in enumerate((2, 4, 8, 16)):
            run, more = (" ".join([before, *[word] * count]) for count in (n, n + 1))
            for control, one, a, b in (
                ("", subject, run, more),
                (OTHER, subject, more, f"{run} {another}"),
                (RANDOM_WEIGHTS, twin, run, more),
            ):
                found = {name: rows[named(name, control)][i, ..., at] for name in ("apart", "final", "chunks")}
                if n + 1 > times:
                    assert all(bool(value.isnan().all()) for value in found.values())
                    continue
                states = [last_states(one, text) for text in (a, b)]
                normed = [one.norm(state[-1]) for state in states]
                torch.testing.assert_close(found["apart"], metrics.relative_distance(*states), rtol=2e-3, atol=2e-5)
                torch.testing.assert_close(found["final"], metrics.relative_distance(*normed), rtol=2e-3, atol=2e-5)
                torch.testing.assert_close(found["chunks"], metrics.collapse_distance(*normed), rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_belong_to_their_example(subject, padding):
    together = rows_of(subject, EXAMPLES, padding=padding)
    for i, one in enumerate(EXAMPLES):
        for name, values in rows_of(subject, [one]).items():
            own, rest = together[name][i].split([values.shape[-1], together[name].shape[-1] - values.shape[-1]], -1)
            torch.testing.assert_close(own, values[0], rtol=2e-3, atol=2e-5, equal_nan=True)
            assert bool(rest.isnan().all())


# ---------------------------------------------------------------- planted models


def averaging(counts: bool) -> Subject:
    """A GPT-2 whose attention is uniform and whose MLPs do nothing: its last state is the mean over its tokens and what
    it adds of the position, which is nothing unless it counts.
    """
    model = families.build("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, : 2 * model.config.n_embd] = 0
            block.attn.c_attn.bias[: 2 * model.config.n_embd] = 0
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
        if not counts:
            model.transformer.wpe.weight.zero_()
    return Subject(model, tiny.tokenizer(), name="averaging")


@pytest.mark.parametrize("counts", [False, True])
def test_a_model_that_averages_collapses_and_one_that_counts_does_not(counts):
    words = [f"w{i}" for i in range(1, 9)]
    examples = [example("w20 w21", word, 33) for word in words]
    rows = rows_of(averaging(counts), examples)
    frame = planted.rows().examples.iloc[: len(words)].assign(group=words)
    tables = tables_from(collapse, Rows(frame, {name: value.numpy() for name, value in rows.items()}), HOW.options)
    own = tables["tested"].query("claim == 'one more is seen less and less' and than == ''").iloc[0]
    assert own["n"] == len(words)
    if counts:
        assert own["lower"] > 0.5
    else:
        assert own["upper"] < 0.05
    other = tables["tested"].query("claim == 'another token is still seen' and than == ''").iloc[0]
    assert other["value"] > 0.5
    assert tables["distances"]["times"].drop_duplicates().tolist() == [2, 4, 8, 16, 32]


def test_a_run_without_a_text_before_it_says_nothing():
    """All tokens are alike, so that all states are, whatever the weights."""
    subject = tiny.subject()
    rows = rows_of(subject, [example("w3", "w3", 8)], bos=False)
    values = {name: value.numpy() for name, value in rows.items()}
    assert values["final"].max() < 1e-5
    assert np.isnan(over_first(Rows(planted.rows().examples[:1], values), "")).all()
    planted_rows = planted.rows(start=1e-9)
    tested = tables_from(collapse, planted_rows)["tested"]
    assert tested["untestable"].str.contains("let a text stand before the run").all()


def test_random_weights_are_of_the_same_shape_and_the_same_every_time(subject):
    twin, before = random_twin(subject), torch.random.get_rng_state()
    assert random_twin(subject) is twin
    assert torch.equal(torch.random.get_rng_state(), before)
    again = random_twin(tiny.subject(seed=1))
    own, other = (dict(one.model.named_parameters()) for one in (twin, again))
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert {name: p.shape for name, p in own.items()} == {n: p.shape for n, p in subject.model.named_parameters()}
    assert twin.tokenizer is subject.tokenizer
    assert not torch.equal(twin.W_U, subject.W_U)


def test_without_the_second_model_there_is_no_such_control(subject):
    rows = rows_of(subject, EXAMPLES[:1], How(collapse.Options(first=2, twin=False)))
    assert not [name for name in rows if RANDOM_WEIGHTS in name]
    tested = tables_from(collapse, planted.rows(twin=False))["tested"]
    assert RANDOM_WEIGHTS not in set(tested["than"])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("examples", "options", "said"),
    [
        (
            [example("w1", "w2", 3)],
            {"first": 2},
            "w2-3 ends in a token that stands there 3 times in a row; 5 are needed",
        ),
        (EXAMPLES, {"first": 0}, "--collapse.first 0: a run of at least one token"),
        ([example("w1", "w2", 5000)], {"first": 2}, "tokens, tiny-llama reads at most"),
    ],
)
def test_what_cannot_be_measured_is_one_line(subject, examples, options, said):
    with pytest.raises(UserError, match=said) as raised:
        rows_of(subject, examples, How(collapse.Options(**options)))
    assert "\n" not in str(raised.value)


def test_an_image_is_refused(tmp_path):
    seeing = vision_subjects.save("llava", tmp_path)
    segments = (Segment("text", "w1"), Segment("image", vision_subjects.picture(1)), Segment("text", " w2 w2 w2 w2 w2"))
    with pytest.raises(UserError, match="collapse reads texts"):
        rows_of(seeing, [Example("a", "a", segments)])


def test_packed_weights_have_no_twin(subject):
    config = SimpleNamespace(quantization_config={"quant_method": "bitsandbytes"})
    packed: Any = SimpleNamespace(name="packed", model=torch.nn.Linear(1, 1))
    packed.model.config = config
    with pytest.raises(UserError, match="packed has packed weights"):
        random_twin(packed)

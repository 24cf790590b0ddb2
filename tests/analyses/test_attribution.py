"""Attribution: laws on tiny models, and a planted answer that rests on one word, or on nothing in the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from crosslens import Subject
from crosslens.analyses.attribution import attribution
from crosslens.analyses.attribution._features import features_of
from crosslens.analyses.attribution._game import KL, game_of
from crosslens.analyses.attribution._methods import ABLATION, GRADIENT, IG, METHODS, OCCLUSION, SHAPLEY, attributions
from crosslens.analyses.attribution._rows import ATTENTION, WEIGHTED, value_sizes
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.intervene.mixtures import entering_first, mean_word
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import attribution as figures

from ..helpers import tiny, vision_subjects
from ..helpers.makers import how_of, tables_from
from ..helpers.painting import prepared
from .claims.attribution import rows as planted_rows

OPTIONS = attribution.Options(blocks=2, steps=8, samples=2, points=3, draws=2, at_once=4)


def game(subject: Subject, example: Example, **changed: Any):
    batch = subject.batch([example])
    return batch, game_of(subject, batch, mean_word(subject), replace(OPTIONS, **changed))[0]


def seeing() -> tuple[Subject, Example]:
    subject = prepared(*vision_subjects.build("llava"))
    shown, other = vision_subjects.picture(0, (24, 24)), vision_subjects.picture(1, (24, 24))
    segments = (Segment("image", shown), Segment("question", " w3 w4 w5"))
    return subject, Example("seen", "seen", segments, " w7", (" w8",), unrelated=(other,))


def by_hand(subject: Subject, batch: Any, entering: torch.Tensor) -> torch.Tensor:
    """log p of every next token in one whole forward, with another tensor in front of the first layer."""
    with tracing(subject, None, rewrites={(0, "resid_pre"): lambda _: entering}):
        return subject.last_logits(batch)[0].log_softmax(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_ablation_equals_one_forward_each(family):
    subject = tiny.subject(family)
    example = tiny.examples(1, tokenizer=subject.tokenizer)[0]
    batch, made = game(subject, example)
    found = attributions(made, ABLATION, OPTIONS, "")
    own = made.mixture.base.layers[0].resid_pre
    absent = entering_first(subject, mean_word(subject).expand(1, own.shape[1], -1))
    clean = subject.last_logits(batch)[0].log_softmax(-1)
    for feature, where in enumerate(made.features.positions):
        without = torch.where(where[:, None], absent, own)
        changed = by_hand(subject, batch, without)
        assert found[feature] == pytest.approx(float(clean[batch.answers[0]] - changed[batch.answers[0]]), abs=1e-4)
        present = 1 - torch.eye(len(found))[feature : feature + 1]
        divergence = (clean.exp() * (clean - changed)).sum()
        assert made.values(present)[0, KL] == pytest.approx(float(divergence), abs=1e-4)


def test_sums_are_complete_and_neither_steps_at_once_nor_neighbours_change_them():
    subject = tiny.subject()
    example = tiny.examples(1, tokenizer=subject.tokenizer)[0]
    _, made = game(subject, example)
    count = len(made.features.positions)
    ends = made.values(torch.stack([torch.ones(count), torch.zeros(count)]))
    for target in (0, 1):
        made.target = target
        shapley = attributions(made, SHAPLEY, OPTIONS, "a")
        assert float(shapley.sum()) == pytest.approx(float(ends[0, target] - ends[1, target]), abs=1e-5)
        gaps = []
        for steps in (2, 64):
            path = attributions(made, IG, replace(OPTIONS, steps=steps), "")
            gaps.append(abs(float(path.sum() - ends[0, target] + ends[1, target])))
        assert gaps[1] < 1e-3, gaps
    made.target = 0
    _, again = game(subject, example)
    for method in METHODS:
        other = attributions(again, method, replace(OPTIONS, at_once=1), "a")
        torch.testing.assert_close(attributions(made, method, OPTIONS, "a"), other, atol=1e-4, rtol=1e-4)
    assert not torch.equal(attributions(made, SHAPLEY, OPTIONS, "a"), attributions(made, SHAPLEY, OPTIONS, "b"))


def test_integrated_gradients_are_captums_own_on_the_embedding():
    """Gradients to how present a word is, summed along the way, are those to its embedding."""
    subject = tiny.subject()
    batch, made = game(subject, tiny.examples(1, tokenizer=subject.tokenizer)[0])
    inner, answer = subject.model, int(batch.answers[0])
    embed = inner.get_input_embeddings()
    mean = mean_word(subject)
    own = embed(batch.inputs["input_ids"])
    absent = torch.where((made.features.owner >= 0)[None, :, None], mean, own)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        return inner(input_ids=ids).logits[:, -1].log_softmax(-1)[:, answer]

    # Captum makes baselines of ids; here the embedding's output is the input, so the hook is told the way itself.
    weights, nodes = np.polynomial.legendre.leggauss(8)[1] / 2, (np.polynomial.legendre.leggauss(8)[0] + 1) / 2
    total = torch.zeros_like(own)
    for weight, at in zip(weights, nodes, strict=True):
        entering = (absent + float(at) * (own - absent)).detach().requires_grad_()
        value = inner(inputs_embeds=entering).logits[:, -1].log_softmax(-1)[:, answer].sum()
        total += float(weight) * torch.autograd.grad(value, entering)[0]
    expected = made.features.sums(((own - absent) * total).sum(-1)[0].detach())
    torch.testing.assert_close(attributions(made, IG, OPTIONS, ""), expected, atol=1e-4, rtol=1e-3)
    layer = LayerIntegratedGradients(forward, embed)
    zero = torch.zeros_like(batch.inputs["input_ids"])
    found: Any = layer.attribute(batch.inputs["input_ids"], zero, n_steps=2)
    assert found.shape == own.shape


def test_pictures_are_taken_apart_in_blocks_and_the_other_picture_stands_in():
    subject, example = seeing()
    batch, made = game(subject, example)
    features = made.features
    assert (features.words, features.grid) == (3, (2, 2))
    assert torch.equal(features.positions.any(0), batch.where("image")[0] | batch.where("question")[0])
    assert features.positions[3:].sum(1).tolist() == [9, 9, 9, 9]
    # All blocks away: the very prompt with the other picture.
    away = made.values(torch.tensor([[1.0, 1, 1, 0, 0, 0, 0]]))[0, 0]
    (other,) = (replace(example, segments=(Segment("image", example.unrelated[0]), example.segments[1])),)
    swapped = subject.batch([other], **batch.form)
    expected = subject.last_logits(swapped)[0].log_softmax(-1)[batch.answers[0]]
    assert away == pytest.approx(float(expected), abs=1e-4)
    for method in METHODS:
        assert torch.isfinite(attributions(made, method, OPTIONS, "")).all()


def test_what_cannot_be_taken_apart_leaves_words_alone():
    subject, example = seeing()
    batch = subject.batch([replace(example, unrelated=())])
    made, reason = game_of(subject, batch, mean_word(subject), OPTIONS)
    assert (made.features.grid, reason) == ((0, 0), 2)
    made, reason = game_of(subject, batch, mean_word(subject), replace(OPTIONS, baseline="blank"))
    assert (made.features.grid, reason) == ((2, 2), 0)


def test_words_of_several_tokens_stay_together_and_many_are_grouped():
    subject = tiny.subject()
    batch = subject.batch(tiny.examples(2, tokenizer=subject.tokenizer))
    for row in range(2):
        for most in (3, 50):
            found = features_of(batch, row, most, 3)
            spoken = int(batch.where("text")[row].sum())
            assert found.words == min(most, spoken)
            assert int(found.positions.sum()) == spoken
            assert (found.owner[found.owner >= 0].diff() >= 0).all()


def rows_of(subject: Subject, examples: list[Example], padding: str, options: Any = OPTIONS) -> dict[str, torch.Tensor]:
    batch = subject.batch(examples, padding=padding)
    return observe(subject, batch, {"attribution": (attribution, how_of(attribution, options))})["attribution"]


def test_rows_belong_to_their_example_alone():
    subject = tiny.subject()
    examples = tiny.examples(3, tokenizer=subject.tokenizer)
    alone = [rows_of(subject, [example], "right") for example in examples]
    for padding in ("left", "right"):
        together = rows_of(subject, examples, padding)
        for i, one in enumerate(alone):
            assert set(one) == set(together)
            for name, value in one.items():
                mine = together[name][i][tuple(slice(size) for size in value.shape[1:])]
                torch.testing.assert_close(mine, value[0], atol=2e-4, rtol=1e-3, equal_nan=True, msg=name)


def test_weighted_attention_is_the_norm_of_what_a_head_writes():
    subject = tiny.subject()
    batch = subject.batch(tiny.examples(2, tokenizer=subject.tokenizer))
    found = {}
    with tracing(subject, lambda layer: found.update({layer.index: (layer.v.float(), value_sizes(layer))})):
        subject.forward(batch)
    for index, (values, sizes) in found.items():
        groups = sizes.shape[1] // values.shape[2]
        for head in range(sizes.shape[1]):
            written = values[:, :, head // groups] @ subject.W_O(index)[head]
            torch.testing.assert_close(sizes[:, head], written.norm(dim=-1), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- planted


@torch.no_grad()
def planted(rests: bool) -> Subject:
    """All words say nothing but w5, which the last position reads; without `rests` the answer follows from nothing.

    One layer attends to all alike and writes what w5 is into a dimension that the answer's row of W_U reads.
    """
    subject = tiny.subject()
    model: Any = subject.model
    words = model.get_input_embeddings().weight
    words.copy_(0.02 * torch.randn(words.shape, generator=torch.Generator().manual_seed(0)))
    words[:, 0], words[:, 2] = 1.0, 0.0
    words[:, 1] = -3.0 / (len(words) - 1) if rests else 0.0  # the mean word says nothing
    ids = {word: subject.tokenizer.convert_tokens_to_ids(word) for word in ("w5", "w7", "w8")}
    words[ids["w5"], 1] = 3.0 if rests else 0.0
    layers: Any = subject.layers
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, layer.mlp.down_proj):
            part.weight.zero_()
        if index == 0:
            attention.v_proj.weight[0, 1] = 1.0
            attention.o_proj.weight[2, 0] = 1.0
    head = model.get_output_embeddings()
    if head.weight.data_ptr() == words.data_ptr():
        head.weight = torch.nn.Parameter(torch.zeros_like(words))
    head.weight.zero_()
    head.weight[ids["w7"], 2] = 1.5  # small enough that its probability never comes near 1
    return Subject(model, subject.tokenizer, name="planted")


def resting(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
    """Prompts of six words with w5 anywhere but last."""
    rng, made = np.random.default_rng(seed), []
    for i in range(n or 12):
        words = [f"w{k}" for k in rng.choice(np.arange(10, 40), 6, replace=False)]
        place = int(rng.integers(0, 5))
        words[place] = "w5"
        text = " ".join(words)
        at = text.index("w5")
        segments = (Segment("text", text, {"subject": [(at, at + 2)]}),)
        made.append(Example(f"r{seed}-{i:02d}", f"g{seed}-{i}", segments, " w7", (" w8",)))
    return made


def analyse(rests: bool, out: Any) -> dict[str, pd.DataFrame]:
    task = tiny.task()
    task.module.examples = resting  # pyright: ignore[reportAttributeAccessIssue]
    (directory,) = run(planted(rests), task, {"attribution": (attribution, OPTIONS)}, Settings(limit=8, out=out))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_an_answer_that_rests_on_one_word_is_found_and_one_on_nothing_is_not(tmp_path):
    found, nothing = analyse(True, tmp_path / "rests"), analyse(False, tmp_path / "nothing")
    parts = found["parts"].set_index(["method", "control"])["value"]
    assert parts[GRADIENT, ""] > abs(parts[GRADIENT].drop("").item())  # a slope at the end of the way says less
    for method in (IG, ABLATION, SHAPLEY, OCCLUSION):
        assert parts[method, ""] > 3 * abs(parts[method].drop("").item()), method
    gains = found["methods"].query("measure == 'gain'").set_index(["curve", "method"])["lower"].to_dict()
    assert min(gains[which] for which in (("deletion", ABLATION), ("deletion", SHAPLEY), ("insertion", IG))) > 0
    looked = found["looked"].query(
        "part == 'mean map' and correlation == 'Pearson' and first.str.startswith('without')"
    )
    weighted = looked[(looked["map"] == WEIGHTED)].set_index("control")[["value", "lower"]].to_dict()
    assert weighted["lower"][""] > 0.9  # what is read is one word's value; attention alone is flat
    assert weighted["value"]["the saliency permuted"] < 0.3
    assert weighted["value"]["another example's saliency"] < 0.5
    flat = nothing["parts"]["value"].abs().max()
    assert flat < 0.05, flat
    assert not (nothing["findings"]["state"] == "found").any()
    assert "holds" not in set(nothing["claims"]["verdict"])
    assert ATTENTION in set(looked["map"])
    drawn = figures.figures(found)
    assert next(iter(drawn)) == "words"


def test_one_group_has_no_other_saliency_and_nothing_is_said():
    several = planted_rows("")
    one = several.where((several.examples["group"] == several.examples["group"][0]).to_numpy())
    tables = tables_from(attribution, one)
    said = {finding.text.split(":")[0]: finding.state for finding in attribution.findings(tables)}
    assert list(said.values()).count("not testable") == 2, said


def test_what_a_user_gets_wrong_is_one_line():
    subject = tiny.subject()
    batch = subject.batch(tiny.examples(1, tokenizer=subject.tokenizer))
    for changed, told in (({"baseline": "noise"}, "baseline 'noise'"), ({"points": 0}, "points 0")):
        with pytest.raises(UserError, match=told):
            attribution.measure(subject, batch, {}, How(replace(OPTIONS, **changed)))
    with pytest.raises(UserError, match="empty answer"):
        attribution.measure(subject, subject.batch(["w1 w2"]), {}, How(OPTIONS))

"""Sums are those by hand, one expert a language is found, and taking it out hurts that language alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, metrics
from crosslens.analyses.common.controls import EXPERTS, EXPERTS_SHUFFLED, PERMUTED_LABELS
from crosslens.analyses.common.labels import label_of
from crosslens.analyses.common.places import text_without_first
from crosslens.analyses.experts import experts
from crosslens.analyses.experts._expert_choice import labels_in, specific, twins
from crosslens.analyses.experts._expert_rows import by_layer, routed_rows
from crosslens.analyses.experts._expert_sums import Sums
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.observe.routing import routing
from crosslens.probes.runs.results import How, Rows, merge
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.families import build
from ..helpers.makers import tables_from

WORDS = {"French": [f"w{i}" for i in range(1, 21)], "German": [f"w{i}" for i in range(21, 41)]}
LABELS = [*WORDS]
LAYER, EXPERT = 1, {"French": 2, "German": 0}


def example(i: int, label: str) -> Example:
    text = " ".join(WORDS[label][(3 * i + k * (1 + i % 7)) % 20] for k in range(7 + i % 4))
    return Example(f"{label} {i}", f"page {i}", (Segment("text", text),), meta={"label": label})


EXAMPLES = [example(i, label) for i in range(12) for label in LABELS]


def model_of(planted: bool, family: str = "mixtral") -> Subject:
    """One router sends the words of each language to an expert of its own; its twin's does not."""
    model, tokenizer = build(family), tiny.tokenizer()
    if planted:
        embedding = model.get_input_embeddings().weight.data
        for at, (label, words) in enumerate(WORDS.items()):
            embedding[:, at] = -4.0
            embedding[tokenizer.convert_tokens_to_ids(words), at] = 4.0
            for layer in model.model.layers:  # nobody else is told, and nobody says otherwise
                layer.self_attn.o_proj.weight.data[at] = 0.0
                layer.mlp.experts.down_proj.data[:, at] = 0.0
                for name in ("q_proj", "k_proj", "v_proj"):
                    getattr(layer.self_attn, name).weight.data[:, at] = 0.0
                layer.mlp.experts.gate_up_proj.data[..., at] = 0.0
                layer.mlp.gate.weight.data[:, at] = 0.0
            model.model.layers[LAYER].mlp.gate.weight.data[EXPERT[label]] = 0.0
            model.model.layers[LAYER].mlp.gate.weight.data[EXPERT[label], at] = (
                3.0  # more, and the softmax of all others is 0
            )
            model.model.layers[LAYER].mlp.experts.down_proj.data[EXPERT[label]] *= 100
    return Subject(model, tokenizer)


def how_of(subject, **options):
    made = experts.Options(**{"positions": 4, "share": 0.01} | options)
    return How(made, experts.fit(subject, [subject.batch(EXAMPLES)], made))


def rows_of(subject, examples, how, **form):
    return experts.measure(subject, subject.batch(examples, **form), {}, how)


def test_tables_are_the_metric_of_all_tokens_at_once():
    subject = tiny.subject("qwen3_moe")
    batch, how, seen = subject.batch(EXAMPLES), how_of(subject), dict[int, torch.Tensor]()
    with torch.no_grad(), routing(subject, lambda layer, routed: seen.update({layer: routed.logits})):
        subject.forward(batch)
    rows = merge([rows_of(subject, EXAMPLES, how)], ["no BOS"] * len(EXAMPLES), EXAMPLES)
    tables = tables_from(experts, rows, how.options, **how.learned._asdict())
    load, entropy, never = (tables[name] for name in ("load", "entropy", "never"))
    kept = text_without_first(batch).flatten()
    shares = []
    for layer, logits in seen.items():
        use = metrics.expert_use(logits[kept], how.learned.k)
        shares.append(float(use.never_active_share))
        mine = load[(load["layer"] == layer) & (load["label"] == "all") & (load["measure"] == "tokens")]
        np.testing.assert_allclose(mine["value"], use.load * how.learned.k, rtol=1e-5)
        told = entropy[(entropy["layer"] == layer) & (entropy["control"] == "")]["value"].to_numpy()
        parts = torch.stack([use.token_entropy_mean, use.entropy_of_mean_gate, use.mutual_information])
        np.testing.assert_allclose(told, parts / np.log(4), atol=1e-5)
    last = never[(never["texts"] == len(EXAMPLES)) & (never["control"] == "")]["value"].item()
    assert last == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_rows_belong_to_their_example(family):
    subject = tiny.subject(family)
    how = how_of(subject)
    for padding in ("left", "right"):
        together = rows_of(subject, EXAMPLES[:6], how, padding=padding)
        for i, one in enumerate(EXAMPLES[:6]):
            for name, value in rows_of(subject, [one], how).items():
                torch.testing.assert_close(
                    together[name][i], value[0], rtol=1e-3, atol=1e-4, equal_nan=True, msg=f"{name} {padding}"
                )
    dense = family == "deepseek_v3"  # its first layer has no router
    assert bool(together["chosen"][:, 0].isnan().all()) is dense
    tokens = together["tokens"][:, None].expand(-1, subject.n_layers - dense)
    torch.testing.assert_close(together["chosen"][:, int(dense) :].sum(-1), how.learned.k * tokens)


@pytest.mark.parametrize("planted", [True, False])
def test_one_expert_a_language_is_found_and_hurts_its_language_alone(planted):
    subject = model_of(planted)
    how = how_of(subject)
    found = [[(LAYER, EXPERT[label])] == how.learned.specific[i] for i, label in enumerate(LABELS)]
    assert all(found) is planted
    rows = rows_of(subject, EXAMPLES, how)
    if not planted:
        return
    own = torch.tensor([[label_of(one) == label for label in LABELS] for one in EXAMPLES])
    cost = rows["removed"][..., 0]
    assert cost[own].abs().mean() > 1e-2
    assert cost[own].abs().min() > 1e-5
    assert cost[~own].abs().max() == 0
    shares = rows["chosen"][:, LAYER][:, [EXPERT[label] for label in LABELS]] / rows["tokens"][:, None]
    assert shares[own].min() == 1
    assert shares[~own].max() == 0


def test_removal_is_the_loss_of_a_forward_without_the_experts():
    subject = tiny.subject("olmoe")
    how = how_of(subject, positions=64, draws=1)
    own = [[(0, 1), (2, 3)], [(1, 2)]]
    rows = rows_of(subject, EXAMPLES[:4], How(how.options, how.learned._replace(specific=own, random=[[[], [(0, 0)]]])))
    batch = subject.batch(EXAMPLES[:4])
    for label, at, some in ((0, 0, own[0]), (1, 0, own[1]), (1, 1, [(0, 0)])):
        with torch.no_grad(), routing(subject, removed=by_layer(some)):
            logits = subject.model(**subject.prepare(batch)).logits.float().log_softmax(-1)
        for i in range(4):
            real, ids = batch.mask[i].nonzero()[:, 0], batch.inputs["input_ids"][i]
            loss = -logits[i, real[:-1], ids[real[1:]]].mean()
            torch.testing.assert_close(rows["clean"][i] + rows["removed"][i, label, at], loss, rtol=1e-4, atol=1e-5)
    assert rows["removed"][:, 0, 1].isnan().all()  # no twins were drawn


def test_specific_experts_and_their_twins():
    load = torch.rand(3, 4, 16, generator=torch.Generator().manual_seed(0)).double().numpy()
    load[:, 2] = np.nan  # a layer without a router
    chosen = specific(load, 5)
    for i, own in enumerate(chosen):
        more = [load[i, a, b] - np.delete(load[:, a, b], i).mean() for a, b in own]
        assert len(own) == 5
        assert more == sorted(more, reverse=True)
        assert min(more) > 0
    for draw in range(3):
        for own, other in zip(chosen, twins(load, chosen, draw), strict=True):
            assert sorted(layer for layer, _ in own) == [layer for layer, _ in other]
            assert not {*other} & {expert for some in chosen for expert in some}
    assert twins(load[:, :, :1], [[(0, 0)], [], []], 0) == [[], [], []]  # no other expert there


def sums_of(chosen, tokens, labels, k=1):
    n, layers, _ = chosen.shape
    frame = pd.DataFrame({"group": [f"g{i:02d}" for i in range(n)], "label": labels})
    values = {"chosen": chosen, "gates": chosen, "entropy": np.zeros((n, layers)), "tokens": tokens}
    return Sums(Rows(frame, values), experts.Learned(k, ("a", "b")), "")


def test_never_active_falls_with_texts_and_labels_share_what_both_use():
    rng = np.random.default_rng(0)
    n = 24
    labels = np.array(["a", "b"])[np.arange(n) // 2 % 2]
    chosen = rng.integers(0, 2, (n, 3, 8)) * rng.random((n, 1, 1)).round()
    chosen[labels == "a", :, 0] = 9
    chosen[labels == "b", :, 1] = 9
    sums = sums_of(chosen, np.full(n, 9.0), labels)
    shares, tokens = sums.never_by_texts(np.ones(n), [1, 4, n])
    assert shares[0] > shares[1] >= shares[2] == sums.never(np.ones(n))
    assert tokens.tolist() == [9, 36, 9 * n]
    np.testing.assert_allclose(sums.shared(np.ones(n)), np.eye(2))
    mixed = sums.shared(np.ones(n), np.arange(n) % 2)
    assert mixed[0, 1] == pytest.approx(mixed[1, 0], abs=1)
    assert np.isnan(sums.shared(np.where(labels == "a", 1.0, 0.0))[1]).all()


@pytest.mark.parametrize("by", ["relation", "none"])
def test_a_whole_run_with_and_without_labels(by, tmp_path):
    task = tiny.task()
    (directory,) = run(
        tiny.subject("mixtral"),
        Task("words", task.module, {}),
        {"experts": (experts, experts.Options(by=by, positions=3))},
        Settings(limit=12, size=4, out=tmp_path),
    )
    names = {path.stem for path in (directory / "tables").iterdir()}
    assert {"load", "never", "entropy", "tested"} <= names
    assert ("removal" in names) is (by == "relation")


@pytest.mark.parametrize("wrong", [{"share": 2.0}, {"draws": 0}, {"positions": 0}])
def test_options_that_mean_nothing_are_refused_in_one_line(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"--experts.{name}"):
        experts.fit(tiny.subject("mixtral"), [], experts.Options(**wrong))


def test_a_dense_model_and_too_many_labels_are_one_line():
    subject = tiny.subject()
    with pytest.raises(UserError, match=r"experts needs a mixture of experts .* llama has no experts to read"):
        experts.fit(subject, [subject.batch(EXAMPLES)], experts.Options())
    many = [Example(str(i), str(i), (Segment("text", "w1"),), meta={"label": f"l{i}"}) for i in range(9)]
    with pytest.raises(UserError, match=r"up to 8 labels .* have 9: l0"):
        labels_in(many, "")
    assert labels_in(EXAMPLES[::2], "") == []  # one alone


def test_controls_stand_in_the_tables():
    subject = model_of(True)
    how = how_of(subject)
    rows = merge([rows_of(subject, EXAMPLES, how)], ["no BOS"] * len(EXAMPLES), EXAMPLES)
    tables = tables_from(experts, rows, how.options, **how.learned._asdict())
    for name, control in (
        ("never", EXPERTS_SHUFFLED),
        ("entropy", EXPERTS_SHUFFLED),
        ("overlap", PERMUTED_LABELS),
        ("removal", EXPERTS),
    ):
        assert set(tables[name]["control"]) == {"", control}, name
    assert routed_rows(subject, subject.batch(EXAMPLES[:1]))[0]["tokens"].item() == len(EXAMPLES[0].text.split())

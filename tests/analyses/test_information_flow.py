"""Information flow: a planted route is found in its layers and nowhere else; tables do not depend on batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, knockout_sweep
from crosslens.analyses.flow import _flow_rows, _flow_tables
from crosslens.analyses.flow import information_flow as flow
from crosslens.analyses.flow._flows import flows_of
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import scenes
from crosslens.probes.intervene import proofs
from crosslens.probes.intervene.measures import logit_difference
from crosslens.probes.runs import store
from crosslens.probes.runs.answers import own_answers
from crosslens.probes.runs.results import How
from crosslens.probes.runs.run import Settings, run
from transformers import LlamaConfig, LlamaForCausalLM

from ..helpers import tiny, tiny_scenes
from .claims import rows_of
from .claims.information_flow import planted as planted_tables

# Tokens of the planted model, and the features of its residual stream.
BOS, RED, BLUE, WORD, ASK = range(5)
IS_BOS, IS_IMAGE, IS_QUESTION, IS_LAST, COLOUR, TOLD, SAID = range(7)
FIRST, SECOND, LAYERS = 1, 3, 5
PROMPTS = torch.tensor([[BOS, RED, RED, WORD, WORD, ASK], [BOS, BLUE, BLUE, WORD, WORD, ASK]])
IMAGE, QUESTION, LAST = (torch.tensor([[c in some for c in range(6)]] * 2) for some in ((1, 2), (3, 4), (5,)))


@torch.no_grad()
def planted(route: bool = True) -> Subject:
    """Layer FIRST: question rows read the colour of image tokens; layer SECOND: the last row reads it from them.

    Other rows look at the BOS. Without the route, layer FIRST writes nothing.
    """
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=4,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        for name, weight in layer.named_parameters():
            if "norm" not in name and "v_proj" not in name:
                weight.zero_()
    words = torch.zeros(5, 16)
    words[BOS, IS_BOS] = words[WORD, IS_QUESTION] = words[ASK, IS_LAST] = 1
    words[[RED, BLUE], IS_IMAGE], words[RED, COLOUR], words[BLUE, COLOUR] = 1, 1, -1
    model.model.embed_tokens.weight.copy_(words)
    model.lm_head.weight.zero_()
    model.lm_head.weight[RED, SAID], model.lm_head.weight[BLUE, SAID] = 5, -5
    _head(model.model.layers[FIRST], IS_QUESTION, IS_IMAGE, COLOUR, TOLD if route else None)
    _head(model.model.layers[SECOND], IS_LAST, IS_QUESTION, TOLD, SAID)
    return Subject(model)


def _head(layer, reader, read, what, where):
    """Head 0: rows with feature `reader` attend to `read`, the others to the BOS; it moves `what` to `where`.

    Channels 3 and 7 rotate so slowly that positions do not matter.
    """
    attention = layer.self_attn
    attention.q_proj.weight[3, reader] = 30
    others = [f for f in (IS_BOS, IS_IMAGE, IS_QUESTION, IS_LAST) if f != reader]
    attention.q_proj.weight[7, others] = 30
    attention.k_proj.weight[3, read] = attention.k_proj.weight[7, IS_BOS] = 1
    attention.v_proj.weight[:8] = 0
    attention.v_proj.weight[0, what] = 1
    if where is not None:
        attention.o_proj.weight[where, 0] = 1


def effect(subject, source, target, window=1):
    """Change of the logit difference in the answer's favour, [layer], mean over the two prompts."""
    inputs = {"input_ids": PROMPTS, "attention_mask": torch.ones_like(PROMPTS)}
    measure = logit_difference(torch.tensor([RED, BLUE]), torch.tensor([BLUE, RED]))
    sweep = knockout_sweep(subject, inputs, source, target, window=window, measure=measure)
    return (sweep.values - sweep.clean).mean(1), float(sweep.clean.mean())


def test_the_planted_route_is_found_in_its_layers():
    subject = planted()
    for source, target, where in ((IMAGE, QUESTION, FIRST), (QUESTION, LAST, SECOND)):
        change, clean = effect(subject, source, target)
        assert clean > 1
        assert float(change[where]) == pytest.approx(-clean, rel=0.02)
        others = [layer for layer in range(LAYERS) if layer != where]
        assert float(change[others].abs().max()) < 0.01 * clean
    direct, clean = effect(subject, IMAGE, LAST)
    assert float(direct.abs().max()) < 0.01 * clean


def test_windows_find_it_from_around():
    change, clean = effect(planted(), IMAGE, QUESTION, window=3)
    found = [layer for layer in range(LAYERS) if float(change[layer]) < -0.9 * clean]
    assert found == [FIRST - 1, FIRST, FIRST + 1]


def test_nothing_is_found_where_nothing_is_planted():
    for source, target in ((IMAGE, QUESTION), (QUESTION, LAST), (IMAGE, LAST)):
        change, _ = effect(planted(route=False), source, target)
        assert float(change.abs().max()) < 1e-4


# ---------------------------------------------------------------- the analysis on a tiny text subject


def examples(n=None, seed=0, *, tokenizer=None):
    """Words whose answer is what the tiny model says, with a twin that has another subject."""
    made = []
    for example in tiny.examples(n, seed, tokenizer=tokenizer):
        (segment,) = example.segments
        words = segment.content.split()
        other = next(w for w in tiny.WORDS if w not in words and len(w) == len(words[0]))
        twin = " ".join([other, *words[1:]])
        corrupt = Example(
            example.id + "-twin", example.group, (Segment("text", twin, segment.marks),), example.wrong[0]
        )
        made.append(Example(example.id, example.group, example.segments, *_said(example), corrupt, meta=example.meta))
    return made


def _said(example):
    return SAID_BY_MODEL.get(example.id, example.answer), example.wrong


SAID_BY_MODEL: dict[str, str] = {}


@pytest.fixture(scope="module")
def task():
    """The tiny task, every other answer the model's own, so that some are right and some wrong."""
    subject, task = tiny.subject(), tiny.task()
    for example in tiny.examples(tokenizer=subject.tokenizer)[::2]:
        said = int(subject.last_logits(subject.batch([example]))[0].argmax())
        SAID_BY_MODEL[example.id] = " " + subject.tokenizer.convert_ids_to_tokens(said)
    task.module.examples = examples
    yield task
    SAID_BY_MODEL.clear()
    task.module.examples = tiny.examples


def tables(task, out, **settings):
    options = flow.Options(window=2, draws=3, stride=2, subset="relation")
    (directory,) = run(tiny.subject(), task, {"information_flow": (flow, options)}, Settings(out=out, **settings))
    return {path.stem: pd.read_parquet(path) for path in (directory / "tables").glob("*.parquet")}


def test_tables_of_a_text_task(task, tmp_path):
    found = tables(task, tmp_path)
    assert set(found) == {"accuracy", "answer", "claims", "findings", "flows", "sites", "stages", "trace", "valid"}
    flows = found["flows"]
    assert set(flows["flow"]) == {"subject → last", "other text → last", "last → last"}
    assert {"", "resampled", "random positions"} == set(flows["control"])
    right = found["accuracy"].query("measure == 'top-1 accuracy' and subset == 'all'")
    assert float(right["value"].iloc[0]) == pytest.approx(flows["n"].max() / 10)
    assert set(flows.query("control == 'random positions'")["layer"]) == {0, 2}
    assert flows.groupby("layer")["width"].first().tolist() == [1, 2, 2]
    assert set(found["trace"]["place"]) <= {*flow.BUCKETS}


def test_the_last_state_is_the_models_own_output_with_the_norm_and_without(task):
    subject = tiny.subject()
    batch = subject.batch(task.examples(subject.tokenizer, 6, 0))
    rows = flow.measure(subject, batch, {}, How(flow.Options(window=2, draws=1, stride=3, trace=False)))
    for norm in flow.NORMS:
        torch.testing.assert_close(rows[f"answer|{norm}"][:, -1], rows["clean"][:, 0], atol=1e-6, rtol=1e-4)
    assert (rows["answer|no norm"][:, 1] - rows["answer|final norm"][:, 1]).abs().max() > 1e-4


def test_an_answer_counts_but_for_case_and_space(task):
    subject = tiny.subject()
    batch = subject.batch([replace(example(), answer=said) for said in (" w4", " W4", " w5", " w4 ")])
    own = torch.tensor([subject.tokenizer.convert_tokens_to_ids("w4")] * 4)
    assert _flow_rows.right_answers(subject, batch, own).tolist() == [1, 1, 0, 1]


def test_an_answer_of_several_tokens_counts_whole_and_its_first_token_is_measured(task):
    subject = tiny.subject()
    asked = replace(example(), answer=" w4 w5")
    said = own_answers(subject, [asked], 2, bos=True)["e"].ids
    answers = [" " + " ".join(subject.tokenizer.convert_ids_to_tokens(ids)) for ids in (said, [said[0], said[0] + 1])]
    batch = subject.batch(
        [replace(asked, id=f"e{i}", answer=answer, wrong=()) for i, answer in enumerate(answers)], bos=True
    )
    rows = flow.measure(subject, batch, {}, How(flow.Options(window=2, draws=1, stride=3, trace=False)))
    assert rows["correct"].tolist() == [1, 0]
    first = subject.last_logits(batch).softmax(-1)[0, said[0]]
    assert rows["clean"][0, 0] == pytest.approx(float(first), rel=1e-4)
    with pytest.raises(UserError, match="begin with the same token"):
        subject.batch([replace(asked, wrong=(" w4 w6",))]).option_ids  # noqa: B018


def example():
    return Example("e", "g", (Segment("text", "w1 w2"),), " w4", (" w5",))


def test_equal_curves_differ_by_nothing_though_the_control_skips_windows():
    """A control is drawn at every third window: its flow is compared at the same ones."""
    curve = 0.2 + 0.6 * np.random.default_rng(0).random(30)
    own = np.tile(np.stack([curve, np.log(curve), curve, curve], -1), (9, 1, 1))
    control = own.copy()
    control[:, [layer for layer in range(30) if layer % 3]] = np.nan
    values = {"clean": np.ones((9, 4)), "flow|a → last|": own, "flow|a → last|random positions": control}
    stages = _flow_tables._by_thirds(rows_of(values, groups=9), flow.Options()).set_index("stage")
    for third in _flow_tables.STAGES:
        np.testing.assert_allclose(stages.loc[f"flow − control, {third}", "value"], 0, atol=1e-12)


def test_sums_first_weigh_the_sure_examples():
    left = np.array([[0.1], [0.9]])  # of .2 and .9: one loses half, the other nothing
    values = {"clean": np.array([[0.2] * 4, [0.9] * 4]), "flow|a → last|": np.repeat(left[..., None], 4, 2)}
    values[f"answer|{flow.NORMS[0]}"] = np.zeros((2, 2))
    found = _flow_tables._changes(rows_of(values, groups=2), flow.Options(window=1)).set_index("measure")["value"]
    assert found["change"] == pytest.approx(-25)
    assert found[_flow_tables.RATIO_LAST] == pytest.approx(-100 * 0.1 / 1.1)


def test_nothing_is_claimed_of_a_task_at_chance():
    tables = planted_tables("subject is read", holds=True)
    made = {claim.name: claim.verdict for claim in flow.claims(tables)}
    assert made["subject is read"] == "holds"
    chance = tables["accuracy"]["measure"] == "accuracy − guessing"
    tables["accuracy"].loc[chance, ["value", "lower", "upper"]] = 0.02, -0.05, 0.09
    assert {claim.verdict for claim in flow.claims(tables)} == {"not testable"}


@pytest.mark.parametrize("settings", [{"size": 1}, {"size": 3, "padding": "left"}])
def test_tables_do_not_depend_on_batches(task, tmp_path, settings):
    expected, found = tables(task, tmp_path / "a"), tables(task, tmp_path / "b", **settings)
    for name, table in expected.items():
        if name != "claims":
            pd.testing.assert_frame_equal(found[name], table, rtol=1e-3, atol=1e-3)


def test_random_sources_are_as_many_and_elsewhere(task):
    subject = tiny.subject()
    batch = subject.batch(task.examples(subject.tokenizer, None, 0))
    for one in flows_of(batch, draws=5):
        if one.drawn is None:
            continue
        _, drawn, there = one.drawn
        assert bool((drawn.sum(-1)[:, there] == one.source.sum(-1)[there]).all())
        assert not bool((drawn & one.source).any())
        assert not bool(drawn.any(0)[torch.arange(len(batch.start)), batch.start].any()), "never the first token"
        assert not bool((drawn & ~batch.mask).any())


def test_the_record_says_where_layers_could_not_be_replayed(task, tmp_path, monkeypatch):
    monkeypatch.setattr(proofs, "replay_error", lambda base: 1.0)
    options = flow.Options(window=2, draws=1, stride=3)
    (directory,) = run(tiny.subject(), task, {"information_flow": (flow, options)}, Settings(out=tmp_path, limit=4))
    assert any("whole forwards were run" in note for note in store.read_record(directory)["notes"])
    expected = tables(task, tmp_path / "replayed", limit=4)["accuracy"]
    found = pd.read_parquet(directory / "tables" / "accuracy.parquet")
    pd.testing.assert_frame_equal(found[found["subset"] == "all"], expected[expected["subset"] == "all"], rtol=1e-4)


def test_questions_that_end_with_their_options_have_flows_of_each():
    subject = Subject(tiny_scenes.model(), tiny_scenes.processor(), name="tiny-scenes")
    made = scenes.examples(4, tokenizer=subject.tokenizer, kinds="colour+existence", choices=True)
    batch = subject.batch(made)
    flows = {one.name: one for one in flows_of(batch, draws=2)}
    parts = [flows[f"{name} → last"] for name in ("question without options", "true option", "false option")]
    assert torch.equal(torch.stack([one.source for one in parts]).sum(0), flows["question → last"].source.int())
    told = {"true option": lambda e: e.answer, "false option": lambda e: e.wrong[0]}
    for name, of in told.items():
        source = flows[f"{name} → last"].source
        for example, ids, where in zip(made, batch.inputs["input_ids"], source, strict=True):
            assert subject.tokenizer.decode(ids[where]) == of(example)
    plain = scenes.examples(4, tokenizer=subject.tokenizer, kinds="colour+existence")
    assert not any("option" in one.name for one in flows_of(subject.batch(plain), draws=2))

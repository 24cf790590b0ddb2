"""Factual recall: the regression by hand, rows by hand from hooks, an MLP that copies a mover and one that does not."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.analyses.circuits import recall
from crosslens.analyses.circuits._recall_fit import (
    Prompts,
    exchanged,
    explained,
    kinds_of,
    offset,
    weight_intervals,
    weights,
)
from crosslens.analyses.circuits._recall_rows import ANSWER, OTHER, copied_rows, direct_rows, readers, words_of
from crosslens.analyses.circuits._recall_tables import DIRECT
from crosslens.analyses.circuits._recall_tested import ATTENTION, REDIRECTED
from crosslens.analyses.common.claims import HOLDS, UNTESTABLE
from crosslens.analyses.common.contrast import contrast
from crosslens.analyses.common.controls import HEADS, UNIFORM, WORDS
from crosslens.data.errors import UserError
from crosslens.probes.runs.results import How
from crosslens.probes.runs.run import Settings, run

from ..helpers import contrasts, tiny
from ..probes.test_families import assert_close
from .claims import recall as planted

MOVERS = [[1, 0], [1, 3]]
LEARNED = recall.Learned(MOVERS, 2, ["g0"])


def prompts(n: int = 24, kinds: int = 2) -> Prompts:
    groups = np.array([f"g{i // 2:02d}" for i in range(n)])
    return Prompts(np.array([f"k{i % kinds}" for i in range(n)]), groups, np.arange(n) < n // 2)


def written(n: int = 24, k: int = 3, d: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, k, d)), rng.normal(size=(n, d))


def test_the_regression_is_least_squares_with_a_vector_for_each_kind():
    (o, m), p = written(), prompts()
    n, k, d = o.shape
    design = np.zeros((n, d, k + 2 * d))
    design[..., :k] = o.transpose(0, 2, 1)
    for i in range(n):
        design[i, np.arange(d), k + d * (p.kinds[i] == "k1") + np.arange(d)] = 1
    found, *_ = np.linalg.lstsq(design[p.fitted].reshape(-1, k + 2 * d), m[p.fitted].ravel(), rcond=None)
    np.testing.assert_allclose(weights(o, m, p), found[:k], atol=1e-10)
    np.testing.assert_allclose(offset(o, m, p)[0], found[k : k + d], atol=1e-10)
    rest = m - design @ found
    whole = np.stack([m[i] - m[p.fitted & (p.kinds == p.kinds[i])].mean(0) for i in range(n)])
    gained, around = explained(o, m, p)
    np.testing.assert_allclose(around, (whole**2).sum(1))
    np.testing.assert_allclose(gained, (whole**2).sum(1) - (rest**2).sum(1))
    np.testing.assert_allclose(weight_intervals(o, m, p)[0], weights(o, m, p), atol=1e-10)


def test_what_is_planted_is_found_and_noise_explains_nothing_of_other_prompts():
    (o, noise), p = written(200, 2, 32), prompts(200)
    m = 2 * o[:, 0] - o[:, 1] + (p.kinds == "k1")[:, None]
    np.testing.assert_allclose(weights(o, m, p), [2, -1])
    np.testing.assert_allclose(offset(o, m, p), np.repeat(p.kinds[:, None] == "k1", 32, 1), atol=1e-10)
    for of, expected in ((m, 1.0), (noise, 0.0)):
        gained, around = explained(o, of, p)
        assert gained[~p.fitted].sum() / around[~p.fitted].sum() == pytest.approx(expected, abs=0.03)


def test_prompts_are_exchanged_within_kind_and_half_and_never_for_one_of_the_same_group():
    p = prompts()
    for draw in range(3):
        other = exchanged(p, draw)
        assert (p.kinds[other] == p.kinds).all()
        assert (p.fitted[other] == p.fitted).all()
        assert (p.groups[other] != p.groups).all()
    alone = Prompts(np.array(["a", "b"]), np.array(["g0", "g1"]), np.array([True, False]))
    assert exchanged(alone, 0).tolist() == [0, 1]


def test_a_kind_is_a_relation_in_a_template():
    frame = pd.DataFrame({"id": [1, 2], "relation": ["capital", "capital"], "template": [1, 2]})
    assert kinds_of(frame).tolist() == ["capital 1", "capital 2"]
    assert kinds_of(frame[["id"]]).tolist() == ["", ""]


# ---------------------------------------------------------------- rows


def marked(n=None, seed=0, *, tokenizer):
    """The tiny task with its second word marked as the subject."""
    made = []
    for example in contrasts.examples(n, seed, tokenizer=tokenizer):
        (segment,) = example.segments
        span = segment.marks["indirect_object"]
        made.append(replace(example, segments=(segment._replace(marks={"subject": span}),)))
    return made


def measured(subject, examples, padding="right"):
    batch = subject.batch(examples, padding=padding)
    return recall.measure(subject, batch, {}, How(recall.Options(), LEARNED))


@torch.no_grad()
def by_hand(subject, example):
    """What heads of layer 1 and the MLP of layer 2 add at the last position, attention, residual: by plain hooks."""
    blocks, seen = subject.model.model.layers, {}
    handles = [
        blocks[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.update(z=args[0][0, -1])),
        blocks[2].mlp.register_forward_hook(lambda _, args, out: seen.update(mlp=out[0, -1])),
    ]
    batch = subject.batch([example])
    out = subject.model(**subject.prepare(batch))
    for handle in handles:
        handle.remove()
    z = seen["z"].unflatten(0, (subject.n_heads, subject.d_head))
    weight = blocks[1].self_attn.o_proj.weight.unflatten(1, (subject.n_heads, subject.d_head))
    return torch.einsum("hd,mhd->hm", z, weight), seen["mlp"], patterns(subject, batch), out.logits[0, -1]


def patterns(subject, batch):
    """Attention of the last row on the subject, [layer, h], of eager maps."""
    config = subject.model.config
    own, config._attn_implementation = config._attn_implementation, "eager"
    found = subject.model(**subject.prepare(batch), output_attentions=True).attentions
    config._attn_implementation = own
    return torch.stack(found)[:, 0, :, -1] @ batch.marks["subject"][0].float()


def test_rows_are_what_hooks_see_and_belong_to_their_example():
    subject, examples = tiny.subject(), marked(4, tokenizer=None)
    whole = measured(subject, examples, "left")
    for i, example in enumerate(examples):
        heads, mlp, looks, _ = by_hand(subject, example)
        assert_close(whole["movers"][i], heads[[0, 3]], "movers")
        assert_close(whole["mlp"][i], mlp, "mlp")
        assert_close(whole[f"head|{ATTENTION}"][i], looks, "attention")
        length = len(subject.batch([example]).mask[0])
        assert float(whole[UNIFORM][i]) == pytest.approx(1 / length)
        alone = measured(subject, [example])
        for name, values in alone.items():
            assert_close(values[0], whole[name][i], name)
    assert whole["random"].shape[1:3] == (5, 2)
    assert whole[f"head|{DIRECT}"].shape == (4, subject.n_layers, subject.n_heads)


@torch.no_grad()
def test_what_words_read_sums_to_their_logits():
    subject, examples = tiny.subject(), marked(3, tokenizer=None)
    found = contrast(subject, subject.batch(examples))
    words = words_of(subject, found)
    reads = readers(subject, found.base, words)
    rows = direct_rows(subject, found.base, words)
    for i, example in enumerate(examples):
        *_, logits = by_hand(subject, example)
        for name, ids in ((ANSWER, found.answers), (OTHER, found.measure.wrong)):
            above = float(logits[ids[i]] - logits.mean())
            assert float(reads[name][i] @ found.base.resid[i]) == pytest.approx(above, abs=1e-4)
            mlp = reads[name][i] @ found.base.layers[2].site("mlp_out")[i, found.base.last[i]]
            assert float(rows[f"mlp|direct|{name}"][i, 2]) == pytest.approx(float(mlp), abs=1e-4)
        drawn = words[WORDS].words[i]
        assert not {int(found.answers[i])} & set(drawn.tolist())
        assert float(reads[WORDS][i] @ found.base.resid[i]) == pytest.approx(
            float(logits[drawn].mean() - logits.mean()), abs=1e-4
        )


@contextmanager
def mlp_of(subject, layer, what):
    """The MLP of a layer writes `what(seen)`: of the heads' output z of layer 1, or of the first layer's input."""
    blocks, seen = subject.model.model.layers, {}
    handles = [
        blocks[0].register_forward_pre_hook(
            lambda _, args, kw: seen.update(x=(*args, kw.get("hidden_states"))[0]), with_kwargs=True
        ),
        blocks[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.update(z=args[0])),
        blocks[layer].mlp.register_forward_hook(lambda *_: what(seen)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_an_mlp_that_copies_a_mover_is_found_and_its_twin_is_not():
    """R² by the movers: 1 where the MLP writes −0.5 × head 1.0, none where it writes a turned embedding."""
    subject = tiny.subject()
    d = subject.d_head
    weight = subject.model.model.layers[1].self_attn.o_proj.weight[:, :d]

    def copies(seen):
        return -0.5 * seen["z"][..., :d] @ weight.T + 1

    def another(seen):
        return seen["x"].roll(5, -1).flip(-1)

    examples = marked(40, tokenizer=None)
    p = Prompts(np.array([""] * 40), np.array([e.group for e in examples]), np.arange(40) < 20)
    r2 = {}
    for what in (copies, another):
        with mlp_of(subject, 2, what):
            base = contrast(subject, subject.batch(examples)).base
            rows = {name: t.double().numpy() for name, t in copied_rows(subject, base, LEARNED).items()}
        gained, around = explained(rows["movers"], rows["mlp"], p)
        r2[what] = gained[~p.fitted].sum() / around[~p.fitted].sum()
        if what is copies:
            np.testing.assert_allclose(weights(rows["movers"], rows["mlp"], p), [-0.5, 0], atol=1e-4)
            gained, around = explained(rows["random"][:, 0], rows["mlp"], p)
            assert gained[~p.fitted].sum() / around[~p.fitted].sum() < 0.9
    assert r2[copies] == pytest.approx(1, abs=1e-4)
    assert r2[another] < 0.2


# ---------------------------------------------------------------- runs


def analyse(out, task=None, **settings):
    chosen = Settings(**{"limit": 24, "out": out} | settings)
    options = recall.Options(movers=2)
    (directory,) = run(tiny.subject(), task or contrasts.task(marked), {"recall": (recall, options)}, chosen)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(tmp_path):
    found = analyse(tmp_path / "one")
    heads, copied = found["heads"], found["copied"]
    assert heads[heads["chosen"]].groupby(["layer", "head"]).ngroups == 2
    assert {"", HEADS} <= set(copied["control"])
    assert set(found["weights"]["unit"]) == {"times"}
    other = analyse(tmp_path / "two", size=5)
    pd.testing.assert_frame_equal(other["redirection"], found["redirection"], rtol=1e-3, atol=1e-3)
    assert set(found["claims"]["verdict"]) == {"not testable"}, "nothing is solved here"


def test_a_task_without_a_marked_subject_has_no_attention(tmp_path):
    found = analyse(tmp_path, contrasts.task())
    assert set(found["heads"]["measure"]) == {DIRECT}


@pytest.mark.parametrize(("options", "said"), [({"movers": 0}, "--recall.movers 0"), ({"mlp": 9}, "layers 0 to")])
def test_mistakes_are_one_line(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run(
            tiny.subject(),
            contrasts.task(marked),
            {"recall": (recall, recall.Options(**options))},
            Settings(8, out=tmp_path),
        )


def test_a_task_of_one_relation_lacks_the_control_that_the_statement_names():
    (claim,) = [one for one in recall.claims(planted.tables_of(relations=1)) if one.name == REDIRECTED]
    assert (claim.verdict, "answers of other relations" in claim.numbers) == (UNTESTABLE, True)
    (claim,) = [one for one in recall.claims(planted.tables_of()) if one.name == REDIRECTED]
    assert claim.verdict == HOLDS


def test_chance_is_over_all_heads_of_the_map_of_paths_alone():
    heads = planted.tables_of()["heads"]
    paths, looks = (heads[heads["measure"] == name] for name in (DIRECT, ATTENTION))
    assert paths["p_value"].notna().all()
    assert looks["p_value"].isna().all()
    assert (paths[paths["chosen"]]["p_value"] < 0.05).all()
    assert (paths[~paths["chosen"]]["p_value"] > 0.05).all()

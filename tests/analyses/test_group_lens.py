"""Group probabilities are sums over the vocabulary; a planted group is found; a word of two tokens is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.lenses import _group_concepts as concepts
from crosslens.analyses.lenses import group_lens
from crosslens.data.errors import UserError
from crosslens.data.tasks import translation
from crosslens.data.word_groups import ALIKE, CONCEPTS, GROUPS, LANGUAGES, token_groups
from crosslens.probes.runs.results import How
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny

OWN = ("few=w1,w2,w3", "other=w7")


def analyse(subject, out, groups=OWN, **settings):
    options = group_lens.Options(groups=groups)
    settings = Settings(limit=10, out=out, **settings)
    (directory,) = run(subject, tiny.task(), {"group_lens": (group_lens, options)}, settings)
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_last_state_sums_the_models_own_output(tmp_path):
    subject = tiny.subject()
    tables = analyse(subject, tmp_path)
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 10, 0))
    p = subject.last_logits(batch).softmax(-1)
    last = tables["groups"].query("state == 3 and control == '' and subset == 'all'").set_index("group")["value"]
    ids = subject.tokenizer.convert_tokens_to_ids(["w1", "w2", "w3"])
    np.testing.assert_allclose(last["few"], float(p[:, ids].sum(1).mean()), rtol=1e-5)
    assert tables["kl"].query("state == 3")["value"].max() < 1e-6
    assert set(tables["groups"]["subset"]) == {"all", "even", "odd"}


def test_everything_together_is_one(tmp_path):
    """All words of the vocabulary but one, and that one, sum to 1 less the special tokens."""
    subject = tiny.subject()
    whole = "all=" + ",".join(tiny.WORDS[1:])
    tables = analyse(subject, tmp_path, (whole, "first=w0"))
    states = tables["groups"].query("control == '' and subset == 'all'").groupby("state")["value"].sum()
    assert (states <= 1 + 1e-6).all()
    assert (states > 0.5).all()


def test_planted_group_is_found_at_its_state(tmp_path):
    subject = tiny.subject()
    token = subject.tokenizer.convert_tokens_to_ids("w7")
    direction = (subject.W_U[token] / subject.norm.weight).detach()
    handle = subject.layers[1].mlp.register_forward_hook(lambda m, args, out: out + 300 * direction / direction.norm())
    try:
        groups = analyse(subject, tmp_path)["groups"]
    finally:
        handle.remove()
    found = groups.query("group == 'other' and control == '' and subset == 'all'").set_index("state")["value"]
    assert found.idxmax() == 2
    assert found[2] > 3 * found[1]
    control = groups.query("group == 'other' and control == 'random tokens' and subset == 'all'").set_index("state")
    assert control["value"][2] < found[2] / 3


def asked(n=None, seed=0, *, tokenizer=None):
    """Tiny prompts whose words stand for two concepts."""
    made = tiny.examples(n, seed, tokenizer=tokenizer)
    return [replace(e, group=f"c{i % 12}", meta={"target": "French", "relation": "x"}) for i, e in enumerate(made)]


@torch.no_grad()
def test_concepts_are_probabilities_of_their_first_tokens(monkeypatch):
    rows = [(f"c{i}", f"w{2 * i + 20}", "none", "none") for i in range(12)]
    monkeypatch.setattr(concepts, "ROWS", rows)
    concepts._first_tokens.cache_clear()
    subject = tiny.subject()
    monkeypatch.setattr(concepts, "_first_tokens", lambda t: {w: known(t, w) for row in rows for w in row})
    batch = subject.batch(asked(4))
    own, others = concepts.concept_ids(batch)
    p = subject.last_logits(batch).softmax(-1)
    read = concepts.concept_rows(p, own, others)
    for i, example in enumerate(batch.examples):
        prompt = example.segments[0].content.split()
        row = next(row for row in rows if row[0] == example.group)
        value = read["concept|in the answer's language"][i]
        if row[1] in prompt:
            assert value.isnan()
            continue
        torch.testing.assert_close(value, p[i, known(subject.tokenizer, row[1])])
        rest = [r[1] for r in rows if r is not row and r[1] not in prompt]
        mean = p[i, [known(subject.tokenizer, word) for word in rest]].mean()
        torch.testing.assert_close(read["concept|in the answer's language|others"][i], mean)


def known(tokenizer, word):
    """The id of a tiny word; those of concepts, which it does not have, are spread over the others."""
    return (
        tokenizer.convert_tokens_to_ids(word)
        if word.startswith("w")
        else 4 + int(word[1:])
        if word[1:].isdigit()
        else -1
    )


def test_examples_without_a_concept_have_none():
    batch = tiny.subject().batch(tiny.task().examples(tiny.tokenizer(), 3, 0))
    own, others = concepts.concept_ids(batch)
    assert (own == -1).all()
    assert (others == -1).all()


def test_shares_pool_counts_over_prompts(tmp_path):
    subject = tiny.subject()
    ids = {"some": tiny.WORDS[:10], "other": tiny.WORDS[10:30]}
    shares = analyse(subject, tmp_path, [f"{name}={','.join(words)}" for name, words in ids.items()])["shares"]
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 10, 0))
    top = subject.last_logits(batch).topk(10).indices
    known = [torch.tensor(subject.tokenizer.convert_tokens_to_ids(words)) for words in ids.values()]
    counts = torch.stack([torch.isin(top, words).sum(1) for words in known], 1)
    last = shares.query("control == '' and state == 3").set_index("group")["value"]
    np.testing.assert_allclose(last[[*ids]], metrics.pooled_shares(counts))
    lengths = shares.query("control == 'random words of the vocabulary' and state == 3").set_index("group")["value"]
    np.testing.assert_allclose(lengths[[*ids]], [1 / 3, 2 / 3])


def test_any_batching_gives_the_same_tables(tmp_path):
    one = analyse(tiny.subject(), tmp_path / "a")
    other = analyse(tiny.subject(), tmp_path / "b", size=3, padding="left")
    for name in ("groups", "shares", "kl"):
        np.testing.assert_allclose(one[name]["value"], other[name]["value"], rtol=1e-4, atol=1e-6)


def test_bad_groups_are_named(tmp_path):
    tokenizer = tiny.tokenizer()
    with pytest.raises(UserError, match="group 'pets': 'w1 w2' is 2 tokens for this tokenizer and one is needed"):
        token_groups(tokenizer, ["pets=w3,w1 w2"])
    with pytest.raises(UserError, match="unknown word group 'animals'"):
        token_groups(tokenizer, ["animals"])
    with pytest.raises(UserError, match="has no words"):
        token_groups(tokenizer, ["pets="])
    with pytest.raises(UserError, match=r"--group_lens\.top 0"):
        group_lens.measure(tiny.subject(), None, {}, How(group_lens.Options(top=0)))


def test_lists_are_aligned():
    assert all(len(row.split()) == len(LANGUAGES) for row in CONCEPTS.splitlines())
    english = set(GROUPS["languages"]["English"])
    for language in LANGUAGES[1:]:
        words = GROUPS["languages"][language]
        assert len(words) == len(set(words))
        assert not (set(words) & english | set(words) & ALIKE)


def test_translation_prompts():
    made = translation.examples(9, 0, pairs="French-German+English-Spanish", shots=2)
    assert len({e.id for e in made}) == 9
    first = made[0]
    assert first.meta == {"relation": "French to German", "target": "German"}
    (segment,) = first.segments
    ((start, end),) = segment.marks["subject"]
    row = next(r.split() for r in CONCEPTS.splitlines() if r.split()[0] == first.group)
    assert segment.content[start:end] == row[1]
    assert segment.content.endswith("\nDeutsch:")
    assert segment.content.count("Français:") == 3
    assert (first.answer, first.wrong) == (" " + row[3], (" " + row[0],))
    assert row[3] not in segment.content.split()
    with pytest.raises(UserError, match="no pair 'French-Latin'"):
        translation.examples(2, pairs="French-Latin")
    with pytest.raises(UserError, match="shots"):
        translation.examples(2, shots=50)


@pytest.mark.real
def test_groups_of_smollm2(smollm2):
    found = token_groups(smollm2.tokenizer, list(GROUPS))
    assert {group: len(ids) >= 5 for group, ids in found.items()} == dict.fromkeys(found, True)
    assert [smollm2.tokenizer.decode([i]) for i in found["digits"]] == list("0123456789")
    everything = [i for group in LANGUAGES for i in found[group]]
    assert len(everything) == len(set(everything))

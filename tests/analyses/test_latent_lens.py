"""Words in context: the bank against a plain forward, planted states found and random ones not, tokens of things."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses.lenses import _word_bank, latent_lens
from crosslens.analyses.lenses._latent_rows import LATENT, OWN, RANDOM, SHUFFLED
from crosslens.analyses.lenses._latent_truths import Truth, truths
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.scene_sentences import sentences
from crosslens.data.tasks import scenes
from crosslens.data.world.world import COLOURS, SHAPES
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from .test_image_lens import example, subject, task

OPTIONS = latent_lens.Options(words=2, shown=2, each=3)
TEXTS = [f"w{i} w{i + 1} w{i + 2} w6 w{i + 3}, w{i + 4}" for i in range(12)]


@pytest.fixture(autouse=True)
def texts(monkeypatch, tmp_path):
    """A corpus of a few words of the tiny tokenizer; sentences about shapes are unknown words to it."""
    made = [Example(f"t{i}", f"t{i}", (Segment("text", text),)) for i, text in enumerate(TEXTS)]
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_word_bank, "open_task", lambda _: SimpleNamespace(examples=lambda *_: made))
    _word_bank.open_bank.cache_clear()


def analyse(opened: Any, out: Any, which: Any = None, options: Any = OPTIONS, **settings: Any):
    (directory,) = run(opened, which or task(), {"latent_lens": (latent_lens, options)}, Settings(out=out, **settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def bank_of(opened: Any) -> _word_bank.Bank:
    return _word_bank.open_bank(_word_bank.learn(opened, OPTIONS), opened)


def test_the_bank_has_the_states_of_whole_words_behind_the_first_positions():
    opened = subject()
    bank = bank_of(opened)
    batch = opened.batch([Example("t0", "t0", (Segment("text", TEXTS[0]),))], bos=True)
    kept = capture(opened, batch, [f"blocks.{state}.hook_resid_pre" for state in (0, *bank.layers)])
    # BOS and w0 are left out; "w3," is another token than the word
    assert bank.words[:4] == ("w1", "w2", "w6", "w4")
    for index, layer in enumerate(bank.layers):
        state = kept[f"blocks.{layer}.hook_resid_pre"][0, 2]
        torch.testing.assert_close(bank.states[index, 0], state / state.norm(), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(bank.embeddings[0], kept["blocks.0.hook_resid_pre"][0, 2])
    counts = torch.bincount(bank.word)
    assert int(counts.max()) == OPTIONS.each
    assert int(counts[bank.words.index("w6")]) == OPTIONS.each
    assert [opened.tokenizer.decode([i]) for i in bank.ids.tolist()] == list(bank.words)


def test_a_bank_is_collected_once_and_belongs_to_its_model(monkeypatch):
    opened = subject()
    name = _word_bank.learn(opened, OPTIONS)
    monkeypatch.setattr(_word_bank, "capture", None)
    assert _word_bank.learn(opened, OPTIONS) == name
    assert bank_of(opened).words


def planted(opened: Any, tmp_path: Any, state: torch.Tensor) -> dict[str, pd.DataFrame]:
    """Behind layer 0 the asked object's tokens hold this state."""
    mark = opened.batch([example(0)]).where("asked_object")[0]

    def write(module, args, out):
        hidden = out[0] if isinstance(out, tuple) else out
        if hidden.shape[1] == len(mark):
            hidden = torch.where(mark[None, :, None], state.expand_as(hidden), hidden)
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    handle = opened.layers[0].register_forward_hook(write)
    try:
        return analyse(opened, tmp_path)
    finally:
        handle.remove()


@pytest.mark.parametrize("of_a_word", [True, False])
def test_states_of_words_are_named_and_random_ones_are_not(tmp_path, of_a_word):
    opened = subject()
    bank = bank_of(opened)
    drawn = torch.randn(bank.states.shape[-1], generator=torch.Generator().manual_seed(0))
    there = bank.states[0, bank.word == bank.words.index("w6")][0]
    tables = planted(opened, tmp_path, 7 * (there if of_a_word else drawn))
    rows = tables["named"].query("state == 1 and lens == @LATENT").set_index("control")["value"]
    assert (rows[""] == 1) == of_a_word
    if of_a_word:
        assert rows["shuffled image tokens"] < 0.6
        assert rows["background"] < 0.6
        words = tables["words"].query("state == 1 and rank == 1 and lens == @LATENT and example == 'e0'")
        assert {(0, 0), (0, 1), (1, 0), (1, 1)} <= set(
            words[words["token"] == "w6"][["row", "column"]].itertuples(index=False, name=None)
        )
        assert words[words["token"] == "w6"]["value"].max() == pytest.approx(1, abs=1e-3)


def test_shares_are_counted_over_the_tokens_of_all_things():
    words = ("red", "circle", "the")
    first = Truth(torch.tensor([1, 1, 0, 0, 0]).bool(), frozenset({"red", "circle"}), frozenset({"the"}))
    second = Truth(torch.tensor([0, 0, 1, 0, 0]).bool(), frozenset({"the"}), frozenset())
    said = {LATENT: torch.tensor([0, 2, 2, 1, -1]), RANDOM: torch.tensor([1, 1, 0, 0, 0])}
    found = latent_lens.named(said, [first, second], words)
    at = {name.split("|")[2]: float(value) for name, value in found.items()}
    assert at[OWN] == pytest.approx(2 / 3)
    assert at["other"] == pytest.approx(1 / 3)  # the second's token does not name the first, one of the first's does
    assert at["background"] == pytest.approx(1 / 4)
    assert at[SHUFFLED] == pytest.approx((2 * 2 / 5 + 1 * 2 / 5) / 3)
    assert at["image"] == pytest.approx(1 / 2)
    assert at[RANDOM] == pytest.approx(2 / 3)


def test_things_of_scenes_lie_where_they_are_drawn():
    opened = subject()
    (one,) = scenes.examples(1, kinds="caption")
    batch = opened.batch([one])
    (found,) = truths(batch, {*COLOURS, *SHAPES}, "asked_object")
    things = scenes.things_of(one)
    assert [thing.words for thing in found] == [{thing.colour, thing.shape} for thing in things.values()]
    for told, (left, top, right, bottom) in zip(found, things, strict=True):
        middles = [(14 * (i % 6) + 7, 14 * (i // 6) + 7) for i in range(36)]
        assert told.where.tolist() == [left <= x < right and top <= y < bottom for x, y in middles]
        assert told.others
    (few,) = truths(batch, {"red"}, "asked_object")
    assert all(thing.words == {"red"} for thing in few)


def test_every_colour_and_shape_stands_in_as_many_sentences():
    text = " ".join(sentences()).lower()
    for words in (COLOURS, SHAPES):
        counts = [text.count(word) for word in words]
        assert min(counts) > 0.6 * max(counts) > 0


def test_any_batching_gives_the_same_tables(tmp_path):
    one, other = (
        analyse(subject(), tmp_path / padding, size=size, padding=padding)
        for size, padding in ((2, "left"), (5, "right"))
    )
    for name in ("named", "layers", "hubs", "nearness", "words"):
        np.testing.assert_allclose(one[name]["value"], other[name]["value"], rtol=1e-3, atol=1e-4)


def test_bad_input_is_named(tmp_path):
    words = Example("words", "w", (Segment("text", "w1 w2"),))
    with pytest.raises(UserError, match="example words has no image tokens: latent_lens"):
        analyse(subject(), tmp_path, task(words))
    with pytest.raises(UserError, match="tiny-llama has no vision tower: latent_lens"):
        analyse(tiny.subject(), tmp_path, tiny.task())
    with pytest.raises(UserError, match=r"--latent_lens\.each 0"):
        analyse(subject(), tmp_path, options=latent_lens.Options(each=0))
    for wrong in ({"words": 5000}, {"occurrences": 1}):
        with pytest.raises(UserError, match=r"the bank has \d+ words, \d+ are needed: lower --latent_lens.words"):
            latent_lens.fit(subject(), [], latent_lens.Options(**wrong))

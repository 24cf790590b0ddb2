"""A BOS comes first where the tokenizer puts one, unless somebody says otherwise."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.data.tasks import Task
from crosslens.probes.prompts.bos import conditions, habit
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.tokenizer_kinds import byte_level, llama
from .test_chat import TURNS

OPENS = "{{ bos_token }}" + TURNS


def subject(**named: Any) -> Any:
    return llama(byte_level(**named))


def first_is_bos(opened, **how):
    batch = opened.batch(["I think"], **how)
    return bool(batch.inputs["input_ids"][0, 0] == opened.tokenizer.bos_token_id)


@pytest.mark.parametrize("own", [True, False])
def test_the_tokenizers_habit(own):
    opened = subject(add_bos_token=own)
    assert habit(opened) == own == first_is_bos(opened)
    assert opened.batch(["I"]).form["bos"] == own
    assert first_is_bos(opened, bos=True)
    assert not first_is_bos(opened, bos=False)
    assert conditions(opened, "raw", None) == (own,)
    assert conditions(opened, "raw", None, of_task=True) == (True,)
    assert conditions(opened, "raw", (False,), of_task=True) == (False,)


def test_a_bos_that_does_not_exist():
    opened = subject(bos_token=None)
    assert conditions(opened, "raw", None, of_task=True) == conditions(opened, "raw", (True, False)) == (False,)
    with pytest.raises(UserError, match="the tokenizer of tiny-llama has none"):
        conditions(opened, "raw", (True,))
    with pytest.raises(UserError, match="the tokenizer of tiny-llama has none"):
        opened.batch(["I"], bos=True)


def test_a_chat_template_that_brings_its_own():
    opened = subject(chat_template=OPENS)
    assert conditions(opened, "chat", (True, False)) == conditions(opened, "chat", None) == (True,)
    assert conditions(opened, "raw", (True, False)) == (True, False)
    ids = opened.batch(["I"], template="chat").inputs["input_ids"][0].tolist()
    assert ids.count(opened.tokenizer.bos_token_id) == 1
    with pytest.raises(UserError, match="the chat template of tiny-llama writes one"):
        opened.batch(["I"], template="chat", bos=False)
    # A tokenizer's template that writes none means none, whatever the tokenizer does without it.
    assert conditions(subject(chat_template=TURNS, add_bos_token=True), "chat", None) == (False,)


def task(bos: bool | None) -> Task:
    module: Any = SimpleNamespace(
        __doc__="Words", VERSION=1, TEMPLATE="raw", BOS=bos, SOURCE="tests", examples=tiny.examples
    )
    return Task("words", module, {})


@pytest.mark.parametrize(("of_task", "asked", "noted"), [(None, None, 0), (False, None, 1), (None, (True, False), 1)])
def test_a_run_follows_the_habit_and_notes_what_does_not(tmp_path, of_task, asked, noted):
    settings = Settings(limit=2, out=tmp_path, bos=asked)
    (directory,) = run(tiny.subject(), task(of_task), {"lenses": (lenses, lenses.Options())}, settings)
    record = json.loads((directory / "record.json").read_text())
    assert (
        record["conditions"] == {None: ["BOS"], (True, False): ["BOS", "no BOS"]}[asked]
        if of_task is None
        else ["no BOS"]
    )
    assert sum("tokenizer puts a BOS before every prompt" in note for note in record["notes"]) == noted


def test_one_text_is_no_list_of_prompts():
    with pytest.raises(UserError, match="'hello' is one text: give a list of prompts"):
        tiny.subject().batch("hello")

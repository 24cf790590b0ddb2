"""Roles in chats: by position, whatever the template does to the texts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment

from ..helpers.tokenizer_kinds import byte_level, llama

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
OWN_WORDS = "A I assistant: I think.\n" + TURNS
STRIPS = TURNS.replace("m.content", "m.content | trim")
REWRITES = TURNS.replace("m.content", "m.content | upper")
TWICE = TURNS.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TURNS
THINKING = Example(
    "t", "t", (Segment("question", "I", {"who": [(0, 1)]}), Segment("instruction", " think", {"what": [(1, 6)]}))
)


def said(batch, name):
    """The text of the tokens of a role or mark."""
    ids = batch.inputs["input_ids"][batch.where(name)]
    return batch.tokenizer.decode(ids)


def asked(template, example=THINKING):
    return llama(byte_level(chat_template=template)).batch([example], template="chat")


@pytest.mark.parametrize("template", [TURNS, OWN_WORDS, STRIPS, NO_SYSTEM])
def test_roles_and_marks_are_where_the_texts_went(template):
    batch = asked(template)
    assert (said(batch, "question"), said(batch, "instruction").strip()) == ("I", "think")
    assert (said(batch, "who"), said(batch, "what").strip()) == ("I", "think")
    assert "user" in said(batch, "special")
    end = batch.tokenizer.decode(batch.inputs["input_ids"][0])
    assert end.endswith("<user>I think\n<assistant>")


def test_a_template_that_strips():
    """What is stripped off has no tokens; marks of what is left stay where they were."""
    example = Example("t", "t", (Segment("system", "  Mary "), Segment("question", "\n I think \n", {"m": [(4, 9)]})))
    batch = asked(STRIPS, example)
    assert (said(batch, "system"), said(batch, "question"), said(batch, "m").strip()) == ("Mary", "I think", "think")
    lost = replace(example, segments=(Segment("question", " I", {"gone": [(0, 1)]}),))
    with pytest.raises(UserError, match="'gone' on nothing touches no token"):
        asked(STRIPS, lost)


@pytest.mark.parametrize("template", [REWRITES, TWICE])
def test_a_template_that_changes_texts_is_refused(template):
    with pytest.raises(UserError, match="the chat template changes its texts"):
        asked(template)


def test_a_template_that_refuses_a_system_turn_says_so():
    example = Example("t", "t", (Segment("system", "A I"), *THINKING.segments))
    with pytest.raises(UserError, match=r"refuses these turns \(system, user\): no system turn"):
        asked(NO_SYSTEM, example)


def test_a_mark_needs_a_token():
    """ByteLevel's offsets leave out the leading space: a mark on it alone is on nothing."""
    example = Example("m", "m", (Segment("text", "I think", {"space": [(1, 1)]}),))
    with pytest.raises(UserError, match="the mark 'space' on nothing touches no token"):
        llama(byte_level()).batch([example])

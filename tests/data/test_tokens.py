"""Answers' ids in context, labels of ids, and the proof that a tokenizer gives back what it was given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from crosslens import SubjectError
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment, is_single_token
from crosslens.data.tokens import ids_in_text, labels, texts
from crosslens.probes.check.tokenizer import PROOF, check_tokenizer
from crosslens.probes.runs.results import Rows
from tokenizers import decoders, normalizers

from ..helpers.tokenizer_kinds import byte_level, llama, sentencepiece

KINDS = (byte_level, sentencepiece)
PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [True, False])
def test_an_answer_is_the_token_behind_its_prompt(kind, bos):
    opened = llama(kind())
    example = Example("e", "e", (Segment("text", PROMPT),), " Mary", (" John",))
    batch = opened.batch([example], bos=bos)
    whole = opened.batch([PROMPT + " Mary"], bos=bos).inputs["input_ids"][0]
    assert whole[:-1].tolist() == batch.inputs["input_ids"][0].tolist()
    assert batch.answers.tolist() == whole[-1:].tolist()
    assert is_single_token(opened.tokenizer, " Mary")
    assert ids_in_text(opened.tokenizer, " Mary") == whole[-1:].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_joins_its_prompt_is_refused(kind):
    example = Example("e", "e", (Segment("text", "I gave it to Ma"),), "ry")
    with pytest.raises(UserError, match="example e: the answer 'ry' joins the end of its prompt"):
        _ = llama(kind()).batch([example]).answers


@pytest.mark.parametrize("kind", KINDS)
def test_two_ids_never_share_a_label(kind):
    tokenizer = kind()
    every = labels(tokenizer, range(len(tokenizer) + 2))  # a model's vocabulary may be padded
    assert len(set(every)) == len(every) == len(tokenizer) + 2
    rows = Rows(pd.DataFrame(), {}, tokenizer=tokenizer)
    ids = np.array([[5, 260], [260, len(tokenizer)]])
    assert rows.words(ids).tolist() == [[every[i] for i in row] for row in ids.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_characters_are_shown_as_bytes(kind):
    tokenizer = kind()
    ids = tokenizer.encode("🙂", add_special_tokens=False)[-4:]
    assert labels(tokenizer, ids) == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    (mary,) = ids_in_text(tokenizer, " Mary")
    assert labels(tokenizer, [mary]) == [" Mary"] == [texts(tokenizer)[mary]]


class Told:
    """What `check_tokenizer` asks of the check."""

    def __init__(self, subject):
        self.subject, self.proved = subject, []

    def note(self, check, where, passed, value, limit):
        self.proved.append((check, where, passed))


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(kind):
    told = Told(llama(kind()))
    check_tokenizer(told)  # pyright: ignore[reportArgumentType]
    assert told.proved == [(PROOF, where, True) for where in ("spaces", "accents", "scripts", "emoji")]


def test_text_that_comes_back_otherwise_is_refused():
    wrong_decoder, no_accents = sentencepiece(), byte_level()
    wrong_decoder.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    no_accents.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    for tokenizer, where in ((wrong_decoder, "spaces"), (no_accents, "accents")):
        with pytest.raises(SubjectError, match=f"{PROOF} fails at {where}"):
            check_tokenizer(Told(llama(tokenizer)))  # pyright: ignore[reportArgumentType]

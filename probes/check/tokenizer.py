"""Proof that the tokenizer gives back what it was given: spaces, accents, other scripts, emoji."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.errors import SubjectError

if TYPE_CHECKING:
    from .findings import Findings

PROOF = "decoding gives the text back"
SENTENCES = {
    "spaces": "Two  spaces, a\ttab;\n\na new paragraph , and then the end .",
    "accents": "Où est l'été naïf d'Åsa Łukasz? Das weiß Jürgen – señor!",
    "scripts": "東京は日本の首都です。Москва слезам не верит. مرحبا",
    "emoji": "Well done 🙂👍🏽!",
}


def check_tokenizer(findings: Findings) -> None:
    """One proof a sentence, but for those with characters that the vocabulary lacks: they prove nothing.

    SubjectError: a sentence comes back otherwise.
    """
    tokenizer = findings.subject.tokenizer
    if tokenizer is None:
        return
    for name, sentence in SENTENCES.items():
        ids = tokenizer.encode(sentence, add_special_tokens=False)
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            continue
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        findings.note(PROOF, name, back == sentence, 0, 0)
        if back != sentence:
            raise SubjectError(
                f"{findings.subject.family} ({findings.subject.name}): {PROOF} fails at {name}: {sentence!r} became "
                f"{back!r}; the tokenizer is not the one that belongs to this model"
            )

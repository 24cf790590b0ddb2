"""A prompt in the model's own chat template, and where its segments went.

The template is filled twice: with the texts, and with signs in their place. Where the signs stand the texts stand; a
text is never searched for, since the template may hold the same words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from ...data.errors import UserError
from ...data.example import Example

if TYPE_CHECKING:
    from ..model.subject import Subject

SIGN = re.compile("\ue000([0-9]+)\ue001")  # private characters, which no template writes
TURNS = {"system": "system", "answer": "assistant"}


class Place(NamedTuple):
    """Where a segment's first character stands, and between which characters its turn shows anything."""

    start: int
    low: int
    high: int

    def put(self, start: int, end: int) -> tuple[int, int]:
        """Characters of the segment as characters of the prompt; what the template strips off is left out."""
        return max(self.low, self.start + start), min(self.high, self.start + end)


class Piece(NamedTuple):
    """What the template is given at once, made of whole segments (by number); text: None for an image."""

    turn: str
    text: str | None
    segments: tuple[int, ...]


def chat(subject: Subject, example: Example, texts: Sequence[str], holder: str) -> tuple[str, list[Place]]:
    """The prompt and the place of every segment; holder: what stands where an image is.

    UserError: no template, or one that refuses the turns, changes a text beyond its outer white space or shows it not
    once.
    """
    typed = getattr(subject.processor, "chat_template", None) is not None and subject.processor is not subject.tokenizer
    owner = subject.processor if typed else subject.tokenizer
    if not getattr(owner, "chat_template", None):
        raise UserError("template 'chat' asked for, but this tokenizer has no chat template: use 'raw'")
    pieces = _pieces(example, texts, typed)
    shown = [i for i, piece in enumerate(pieces) if piece.text]
    signs = [f"\ue000{i}\ue001" if i in shown else "" for i in range(len(pieces))]
    filled = _fill(owner, example, pieces, [piece.text or "" for piece in pieces], typed)
    parts = SIGN.split(_fill(owner, example, pieces, signs, typed))
    if sorted(parts[1::2], key=int) == [str(i) for i in shown]:
        for stripped in product(*(_stripped(piece.text or "") for piece in pieces)):
            text, starts, holders = _put_together(parts, stripped, holder)
            if text == filled:
                return text, _places(pieces, stripped, starts, texts, holders)
    raise UserError(f"example {example.id}: the chat template changes its texts ({texts[0][:40]!r} …); use 'raw'")


def _pieces(example: Example, texts: Sequence[str], typed: bool) -> list[Piece]:
    """A processor's template takes segment by segment (an image has no text), a tokenizer's whole turns."""
    pieces: list[Piece] = []
    for i, (segment, text) in enumerate(zip(example.segments, texts, strict=True)):
        turn = TURNS.get(segment.role, "user")
        if typed:
            pieces.append(Piece(turn, text if isinstance(segment.content, str) else None, (i,)))
        elif pieces and pieces[-1].turn == turn:
            pieces[-1] = Piece(turn, (pieces[-1].text or "") + text, (*pieces[-1].segments, i))
        else:
            pieces.append(Piece(turn, text, (i,)))
    return pieces


def _fill(owner: Any, example: Example, pieces: Sequence[Piece], texts: Sequence[str], typed: bool) -> str:
    """The template around these texts. UserError: it refuses them."""
    messages: list[dict[str, Any]] = []
    for piece, text in zip(pieces, texts, strict=True):
        part: Any = {"type": "image"} if piece.text is None else {"type": "text", "text": text}
        if not typed:
            messages.append({"role": piece.turn, "content": text})
        elif messages and messages[-1]["role"] == piece.turn:
            messages[-1]["content"].append(part)
        else:
            messages.append({"role": piece.turn, "content": [part]})
    is_open = messages[-1]["role"] == "user"
    try:
        return owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open)
    except Exception as error:  # a template is a program of the checkpoint's: what it raises is its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        turns = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"example {example.id}: the chat template refuses these turns ({turns}): {reason}; use 'raw'"
        ) from error


def _stripped(text: str) -> dict[str, None]:
    """What a template may leave of a text: it, or it without outer white space."""
    return dict.fromkeys((text, text.strip(), text.rstrip(), text.lstrip()))


def _put_together(
    parts: Sequence[str], texts: Sequence[str], holder: str
) -> tuple[str, dict[int, int], list[tuple[int, int]]]:
    """The template's own words with the texts between them, where each begins, and where the images stand."""
    text, starts, holders = "", {}, []
    for i, part in enumerate(parts):
        if i % 2:
            starts[int(part)] = len(text)
            part = texts[int(part)]
        elif holder:
            holders += [(len(text) + m.start(), len(text) + m.end()) for m in re.finditer(re.escape(holder), part)]
        text += part
    return text, starts, holders


def _places(
    pieces: Sequence[Piece],
    stripped: Sequence[str],
    starts: dict[int, int],
    texts: Sequence[str],
    holders: list[tuple[int, int]],
) -> list[Place]:
    """Of every segment; images take the template's placeholders in their order."""
    images = iter(holders)
    places = []
    for i, piece in enumerate(pieces):
        if piece.text is None:
            low, high = next(images, (0, 0))
            places.append(Place(low, low, high))
            continue
        low = starts.get(i, 0)
        start = low - (len(piece.text) - len(piece.text.lstrip())) * (stripped[i][:1] != piece.text[:1])
        for segment in piece.segments:
            places.append(Place(start, low, low + len(stripped[i])))
            start += len(texts[segment])
    return places

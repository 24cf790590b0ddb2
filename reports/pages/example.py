"""One example of a run in its parts: what the model read, which part is what, what was asked of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

LONG = 700  # characters of a prompt that are shown
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
WEIGHT = 40_000  # characters of a picture; a larger one stays away


def example_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of `record["example"]`; None where the record has none, or not in this form.

    pieces, twin: (text, role, name of the span or ""); roles: those that occur; spans: names of spans that occur.
    """
    kept = record.get("example")
    if not isinstance(kept, dict) or not _is_prompt(kept.get("segments")):
        return None
    pieces = _pieces(kept["segments"], kept.get("spans"))
    twin = kept.get("twin")
    wrong = kept.get("wrong")
    picture = str(kept.get("picture") or "")
    return {
        "pieces": pieces,
        "twin": _pieces(twin, None) if _is_prompt(twin) and twin else None,
        "roles": list(dict.fromkeys(role for _, role, _ in pieces)),
        "answer": _text(kept.get("answer")),
        "wrong": [_text(one) for one in wrong][:6] if isinstance(wrong, list) else [],
        "picture": picture if len(picture) <= WEIGHT and PICTURE.fullmatch(picture) else None,
    }


def _is_prompt(segments: Any) -> bool:
    pairs = isinstance(segments, list) and all(isinstance(one, (list, tuple)) and len(one) == 2 for one in segments)
    return pairs and all(isinstance(part, str) for one in segments for part in one)


def _pieces(segments: Sequence[Sequence[str]], spans: Any) -> list[tuple[str, str, str]]:
    """The prompt cut where a role or a named span begins or ends, at most LONG characters of it."""
    named = [span for span in spans if _is_span(span)] if isinstance(spans, list) else []
    pieces, at = [], 0
    for text, role in segments:
        end = at + len(text)
        cuts = {at, end, *(place for _, a, b in named for place in (a, b) if at < place < end)}
        ordered = sorted(cuts)
        for a, b in pairwise(ordered):
            name = next((str(n) for n, x, y in named if x <= a and b <= y), "")
            pieces.append((text[a - at : b - at], role, name.replace("_", " ")))
        at = end
    return _cut(pieces)


def _is_span(span: Any) -> bool:
    return isinstance(span, (list, tuple)) and len(span) == 3 and all(isinstance(place, int) for place in span[1:])


def _cut(pieces: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The end of a long prompt matters most: there the model answers; its beginning says what it is."""
    if sum(len(text) for text, _, _ in pieces) <= LONG:
        return pieces
    head, tail = _first(pieces, LONG // 2), _first([(t[::-1], r, n) for t, r, n in pieces[::-1]], LONG // 2)
    return [*head, (" … ", "cut", ""), *[(t[::-1], r, n) for t, r, n in tail[::-1]]]


def _first(pieces: list[tuple[str, str, str]], length: int) -> list[tuple[str, str, str]]:
    kept = []
    for text, role, name in pieces:
        if length <= 0:
            break
        kept.append((text[:length], role, name))
        length -= len(text)
    return kept


def _text(value: Any) -> str:
    return "" if value is None else str(value)

"""Named spans of a prompt and named boxes of a picture, as a user's file states them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UserError
from .example import ROLES

Spans = dict[str, list[tuple[int, int]]]
Box = tuple[int, int, int, int]
TAKEN = (*ROLES, "patches", "thumbnail")  # names that positions of a batch have already


def spans_of(marks: Mapping[str, Any] | None, prompt: str, at: str) -> Spans:
    """{name: word, words, [start, end], or several of these} -> character spans; a word stands for all its places.

    UserError: a word that the prompt lacks, a span outside it, a name that is taken.
    """
    found: Spans = {}
    for name, value in (marks or {}).items():
        _require_name(name, "mark", at)
        several = [value] if isinstance(value, str) or _is_span(value) else value
        if not isinstance(several, list | tuple) or not several:
            raise UserError(f"{at}: the mark {name!r} is a word, a span [start, end] or a list of them, not {value!r}")
        found[name] = [span for one in several for span in _places(one, prompt, f"{at}: the mark {name!r}")]
    return found


def _places(one: Any, prompt: str, at: str) -> list[tuple[int, int]]:
    if _is_span(one):
        start, end = one
        if not 0 <= start < end <= len(prompt):
            raise UserError(f"{at}: [{start}, {end}] is no span of a prompt of {len(prompt)} characters")
        return [(start, end)]
    if not isinstance(one, str) or not one.strip():
        raise UserError(f"{at} is a word or a span [start, end], not {one!r}")
    if not (places := _spans(one, prompt)):
        raise UserError(f"{at}: {one!r} is no word of the prompt")
    return places


def _spans(words: str, prompt: str) -> list[tuple[int, int]]:
    """Where words stand by themselves: "he" is not in "the"."""
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", prompt)]


def has_words(value: Any, prompt: str) -> bool:
    """Whether a mark is a word, or words, that another prompt has too."""
    words = [value] if isinstance(value, str) else value
    return isinstance(words, list) and all(isinstance(word, str) and _spans(word, prompt) for word in words)


def _is_span(value: Any) -> bool:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    return is_pair and all(isinstance(n, int) and not isinstance(n, bool) for n in value)


def boxes_of(boxes: Mapping[str, Any] | None, sizes: Sequence[tuple[int, int]], at: str) -> dict[str, list[Box]]:
    """{name: [left, top, right, bottom], or several} in pixels of the picture as it is shown, turned as its EXIF says.

    sizes: of the row's pictures. UserError: no picture or several, no such numbers, a box that lies outside.
    """
    if not boxes:
        return {}
    if len(sizes) != 1:
        raise UserError(f"{at}: boxes need one picture, the row has {len(sizes)}")
    found = {}
    for name, value in boxes.items():
        _require_name(name, "box", at)
        is_one = isinstance(value, list | tuple) and len(value) == 4 and not isinstance(value[0], list | tuple)
        several = [value] if is_one else value
        if not isinstance(several, list | tuple):
            raise UserError(f"{at}: the box {name!r} is [left, top, right, bottom] or a list of them, not {value!r}")
        found[name] = [box_inside(one, sizes[0], f"{at}: the box {name!r}") for one in several]
    return found


def box_inside(box: Any, size: tuple[int, int], at: str, slack: float = 0) -> Box:
    """(left, top, right, bottom) as whole pixels. slack: pixels that it may reach over an edge, where it is cut.

    UserError: not four numbers, empty, or outside the picture.
    """
    is_four = isinstance(box, list | tuple) and len(box) == 4
    if not is_four or not all(isinstance(n, int | float) and n == n and abs(n) < 1e9 for n in box):
        raise UserError(f"{at} is {box!r}: four numbers left, top, right, bottom are needed")
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise UserError(f"{at} is empty: left {left}, top {top}, right {right}, bottom {bottom}")
    width, height = size
    if min(left, top) < -slack or right > width + slack or bottom > height + slack:
        raise UserError(f"{at} lies outside the picture: {list(box)} of {width} × {height} pixels")
    cut = max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise UserError(f"{at} is less than a pixel: {list(box)}")
    return cut


def _require_name(name: Any, what: str, at: str) -> None:
    if not isinstance(name, str) or not name.strip() or name in TAKEN:
        raise UserError(f"{at}: a {what} cannot be called {name!r} (taken: {', '.join(TAKEN)})")

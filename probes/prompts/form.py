"""A prompt in a form of the user's own: "USER: {image}\\n{question} ASSISTANT:"."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from ...data.errors import UserError
from ...data.example import Example
from .chat import Place

FIELDS = ("system", "image", "question")


def filled(form: str, example: Example, texts: Sequence[str]) -> tuple[str, list[Place]]:
    """The prompt and the place of every segment, which `texts` holds as text, an image as its placeholder.

    {image}: all images (where it stands several times, one each); {system}: what the system says; {question}: all else
    in order, images and system too where the form has no field of theirs. What the form writes itself is "special".
    An answer stands behind the form. UserError: no {question}, an unknown field, an image too few.
    """
    pieces = _pieces(form)
    names = [name for _, name in pieces if name]
    kinds = [_kind(segment.role, names) for segment in example.segments]
    waiting = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in (*FIELDS, "answer")}
    _require_images(form, example, len(waiting["image"]), names.count("image"))
    one_each = names.count("image") > 1
    text, starts = "", dict[int, int]()
    for literal, name in [*pieces, ("", "answer")]:
        text += literal
        some = waiting.get(name or "", [])
        taken, waiting[name or ""] = (some[:1], some[1:]) if name == "image" and one_each else (some, [])
        for i in taken:
            starts[i] = len(text)
            text += texts[i]
    places = [Place(starts.get(i, len(text)), 0, len(text)) for i in range(len(texts))]
    return text, places


def _pieces(form: str) -> list[tuple[str, str | None]]:
    """The form's own words, each with the field behind it."""
    try:
        pieces = [(literal, name) for literal, name, *_ in Formatter().parse(form)]
    except ValueError as error:
        raise UserError(f"template {form!r} cannot be read: {error}; a brace of its own is written twice") from error
    names = [name for _, name in pieces if name is not None]
    if names.count("question") != 1 or names.count("system") > 1 or not set(names) <= set(FIELDS):
        raise UserError(
            f"unknown template {form!r}: raw, chat, or a text with {{question}} once, {{image}}, {{system}}"
        )
    return pieces


def _kind(role: str, names: Sequence[str]) -> str:
    """The field that a segment of this role goes to."""
    return role if role == "answer" or (role in names and role != "question") else "question"


def _require_images(form: str, example: Example, images: int, fields: int) -> None:
    if fields and (images < fields or (fields > 1 and images != fields)):
        raise UserError(f"example {example.id}: {images} image(s) for {fields} × {{image}} in the template {form!r}")

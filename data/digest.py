"""Content as a name: of a file, and of what the examples of a run show and ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from .example import Example


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(examples: Iterable[Example]) -> str:
    """sha256 of everything that a run's numbers take from its examples: texts, pixels, marks, boxes, answers, groups.

    It does not depend on where the files lie, nor on how the pictures are stored.
    """
    digest = hashlib.sha256()
    for example in examples:
        for part in _parts(example):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _parts(example: Example) -> Iterator[bytes]:
    said = [example.id, example.group, example.answer, example.wrong, example.boxes, dict(example.meta)]
    yield json.dumps(said, sort_keys=True, default=str).encode()
    for role, content, marks in example.segments:
        yield json.dumps([role, {name: list(spans) for name, spans in marks.items()}], sort_keys=True).encode()
        yield content.encode("utf-8", "surrogatepass") if isinstance(content, str) else repr(content.size).encode()
        yield b"" if isinstance(content, str) else content.mode.encode() + content.tobytes()
    if example.objects is not None:
        words = sorted(example.objects.words.items()), sorted(example.objects.there)
        yield json.dumps(words).encode()
    if example.corrupt is not None:
        yield from _parts(example.corrupt)

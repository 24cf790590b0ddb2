"""What one cell of a user's file holds: a text, a list, an object, pictures; in CSV the last three as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from .errors import UserError
from .images import open_image, open_picture, rgb


def either(cells: Mapping[str, Any], name: str) -> Any:
    """The column, or "images" where it has its usual name."""
    return cells.get(name) if name != "image" or cells.get(name) is not None else cells.get("images")


def images_of(value: Any, home: Path, at: str) -> list[Image]:
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, at)
    return [_picture(one, home, at) for one in (value if isinstance(value, list | tuple) else [value])]


def _picture(value: Any, home: Path, at: str) -> Image:
    """A path, a picture, or what `datasets` keeps of one that is not decoded."""
    try:
        if isinstance(value, Image):
            return rgb(value, "the image")
        if isinstance(value, Mapping) and value.get("bytes"):
            return open_picture(io.BytesIO(value["bytes"]), "the image")
        path = value.get("path") if isinstance(value, Mapping) else value
        if not isinstance(path, str):
            raise UserError(f"{type(path).__name__} is no picture: the path of a file is needed")
        if "://" in path:
            raise UserError(f"{path} is an address: save the picture and name the file")
        return open_image(home / Path(path).expanduser())
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def text(cells: Mapping[str, Any], column: str, at: str) -> str:
    value = cells.get(column)
    if value is None or value == "":
        raise UserError(f"{at}: the column {column!r} is empty" if column in cells else f"{at}: no column {column!r}")
    return texts([value], column, at)[0]


def texts(values: Sequence[Any], column: str, at: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise UserError(
                f"{at}, column {column!r}: {value!r} is {type(value).__name__}, text is needed: put it in quotes"
            )
        if not value.strip():
            raise UserError(f"{at}, column {column!r}: the text is empty")
    return list(values)


def listed(cells: Mapping[str, Any], column: str, at: str) -> list[Any]:
    """One text, or a list of them; in a cell as JSON."""
    value = cells.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, f"{at}, column {column!r}")
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def object_of(cells: Mapping[str, Any], column: str, at: str) -> dict[str, Any] | None:
    """An object; in a cell as JSON."""
    value = cells.get(column)
    if value is None or value == "":
        return None
    value = _parsed(value, f"{at}, column {column!r}") if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise UserError(f"{at}, column {column!r}: an object {{name: …}} is needed, not {str(value)[:60]}")
    return {name: one for name, one in value.items() if one is not None}


def _parsed(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{at}: not JSON: {error}") from error


def plain(value: Any) -> str:
    return "" if value is None else str(value).strip()


def told(value: Any) -> Any:
    """A cell as a table keeps it; None for what it cannot."""
    if isinstance(value, str | int | float | bool):
        return value
    try:
        return None if value is None else json.dumps(value, ensure_ascii=False)
    except TypeError:
        return None

"""Benchmarks from a local directory or from the hub: files, JSON, JSON lines, pictures; a missing one is one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Image

from .errors import UserError
from .images import open_image, rgb


class Row(NamedTuple):
    """One row, not read yet. where: for errors, "animals.csv, line 3"; name: for ids, "3"; read: its columns, raises
    UserError.
    """

    where: str
    name: str
    read: Callable[[], Mapping[str, Any]]


def local(path: str, task: str, what: str) -> Path:
    """The directory of a benchmark's files. UserError: none named, or no directory."""
    if not path:
        raise UserError(f"task {task} needs its files: --task {task}:path=DIRECTORY ({what})")
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise UserError(f"task {task}: no directory {directory} ({what})")
    return directory


def find(directory: Path, name: str, task: str) -> Path:
    """A file of this name anywhere below the directory, the nearest first. UserError: none."""
    found = _index(directory).get(name)
    if found is None or not found.is_file():
        raise UserError(f"task {task}: no file {name} in {directory}")
    return found


@lru_cache(maxsize=4)
def _index(directory: Path) -> dict[str, Path]:
    """File name -> the nearest file of that name; one walk serves all images."""
    paths = sorted(directory.rglob("*"), key=lambda path: (-len(path.parts), str(path)))
    return {path.name: path for path in paths if path.is_file()}


def read_json(path: Path) -> Any:
    """UserError: not JSON."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def json_rows(path: Path) -> Iterator[Row]:
    """The lines of a JSON-lines file that are not blank, by number from 1; a byte order mark is left out."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16: save it as UTF-8")
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield Row(where, str(number), partial(_json_object, line, where))


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    """UserError: a line that is no JSON object."""
    try:
        item = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(item, dict):
        raise UserError(f"{where}: an object {{…}} is needed")
    return item


def field(item: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    """The first of these fields that is there. UserError: none is."""
    for name in names:
        if item.get(name) is not None:
            return item[name]
    raise UserError(f"{where}: no field {' or '.join(names)}; there are {', '.join(item)}")


def picture(value: Any, directory: Path, task: str, where: str) -> Image:
    """A picture of a benchmark: as a hub's table has it, or a file of this name below the directory.

    UserError: neither, no such file, or one that cannot be read.
    """
    try:
        if isinstance(value, Image):
            return rgb(value, "the image")
        if isinstance(value, str):
            return open_image(find(directory, Path(value).name, task))
        raise UserError(f"the image is {type(value).__name__}, a picture is needed")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def hub_rows(name: str, split: str, revision: str, task: str, config: str = "") -> list[Row]:
    """The rows of a data set of the hub, or of a directory that `datasets` reads; pictures are decoded one by one.

    UserError: no `datasets`, a set that cannot be got.
    """
    table = _from_hub(name, split, revision, task, config)
    return [Row(f"{name}, row {at + 1}", str(at + 1), partial(table.__getitem__, at)) for at in range(len(table))]


def _from_hub(name: str, split: str, revision: str, task: str, config: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"task {task} reads {name} with the package datasets: pip install 'crosslens[hub]'") from error
    try:
        return load_dataset(name, config or None, split=split, revision=revision or None)
    except Exception as error:  # its errors share no type
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"task {task}: cannot get {name}, split {split}: {first}") from error

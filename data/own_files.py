"""A user's file or folder as rows: JSON lines, CSV, TSV, pictures; each row knows where it stands."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .errors import UserError
from .local_or_hub import Row, json_rows

LINES, CELLS = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")


def rows_of(path: Path) -> list[Row]:
    """The rows of a .jsonl, .csv or .tsv file, or one for each picture below a folder (columns image, name, folder).

    UTF-8, with a byte order mark or without, any line ends. UserError: no such file, another kind of file, another
    encoding, no rows; CSV whose quotes or headings are broken.
    """
    if path.is_dir():
        return _pictures(path)
    if not path.is_file():
        raise UserError(f"no file or folder {path}")
    suffix = path.suffix.lower()
    if suffix not in (*LINES, *CELLS):
        raise UserError(f"{path} is read as {', '.join((*LINES, *CELLS))} or a folder of pictures, not as {suffix!r}")
    rows = list(json_rows(path) if suffix in LINES else _cells(path, CELLS[suffix]))
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _cells(path: Path, separator: str) -> Iterator[Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    start = 1
    try:
        heads = [head.strip() for head in next(reader, [])]
        _require_heads(heads, path, separator)
        start = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                where = f"{path}, line {start}"
                yield Row(where, str(start), partial(_columns, heads, cells, where))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not {path.suffix[1:].upper()}: {error}") from error


def _require_heads(heads: Sequence[str], path: Path, separator: str) -> None:
    if not any(heads):
        raise UserError(f"{path}, line 1: the names of the columns are needed")
    twice = [head for head in heads if heads.count(head) > 1]
    if twice or "" in heads:
        raise UserError(
            f"{path}, line 1: {f'two columns are named {twice[0]!r}' if any(twice) else 'a column has no name'}"
        )
    if len(heads) == 1 and separator == "," and ";" in heads[0]:
        raise UserError(f"{path}, line 1: the columns are separated by ';': separate them by commas")


def _columns(heads: Sequence[str], cells: Sequence[str], where: str) -> dict[str, str | None]:
    """Empty cells are None."""
    if len(cells) != len(heads):
        raise UserError(f"{where}: {len(cells)} cells for {len(heads)} columns: text with commas stands in quotes")
    return {head: cell if cell.strip() else None for head, cell in zip(heads, cells, strict=True)}


def _pictures(folder: Path) -> list[Row]:
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in PICTURES and p.is_file()]
    if not found:
        raise UserError(f"{folder} has no pictures ({', '.join(PICTURES)})")
    return [_picture(path, folder) for path in found]


def _picture(path: Path, folder: Path) -> Row:
    name = path.relative_to(folder).as_posix()
    columns = {"image": name, "name": path.stem, "folder": path.parent.name if path.parent != folder else ""}
    return Row(str(path), name, lambda: columns)

"""Whether the report that lies there is of the runs that lie there: then nothing is drawn again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import plotly

from .ledger import LEDGER

NOTE = "report.json"  # beside the pages: what they were made of
PACKAGE = Path(__file__).parents[1]


def unchanged(out: Path, static: bool) -> list[Path] | None:
    """The pages of the report in `out`, where it was made of these runs by this code and nobody touched it since."""
    try:
        note = json.loads((out / NOTE).read_text("utf-8"))
        same = note["made_of"] == _made_of(out, static) and note["written"] == _files(map(out.joinpath, note["pages"]))
        return [out / page for page in note["pages"]] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(out: Path, static: bool, pages: Iterable[str]) -> bytes:
    """What `unchanged` reads: pages by name, just written."""
    pages = list(pages)
    note = {"made_of": _made_of(out, static), "pages": pages, "written": _files(map(out.joinpath, pages))}
    return json.dumps(note).encode()


def _made_of(out: Path, static: bool) -> dict[str, Any]:
    """The files of runs and recipe pages, and the code that draws them."""
    code = (LEDGER.read_bytes() if LEDGER.is_file() else b"") + b"".join(
        path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".html", ".css", ".js", ".toml")
    )
    places = [path for name in ("runs", "recipes") for path in sorted((out / name).rglob("*"))]
    shown = [path for path in places if path.suffix in (".json", ".parquet")]
    return {
        "files": _files(shown),
        "code": hashlib.sha256(code + plotly.__version__.encode()).hexdigest(),
        "static": static,
    }


def _files(paths: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of each."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]

"""What lies in the cache and may be made again: activations, learned lenses, converted GGUF files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from ...data.cached import cache_root
from ...data.errors import UserError
from . import activations, lens_store, store

ACTIVATIONS, LENS, GGUF = "activations", "learned lens", "converted GGUF"


class Kept(NamedTuple):
    """A directory of the cache. of: what it was made from, in words."""

    kind: str
    directory: Path
    of: str

    @property
    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file()) / 1e6

    @property
    def seconds(self) -> float:
        """Since the directory was last written."""
        return time.time() - self.directory.stat().st_mtime

    def is_named_in(self, record: dict[str, Any]) -> bool:
        """Whether a finished run was made with it: its numbers could not be proved again from what is left."""
        if self.kind == LENS:
            fitted = record.get("fitted", {})
            return self.directory.name in (fitted.get(name) for name in ("lens", "dictionary", "beside"))
        return self.kind == GGUF and record.get("subject", {}).get("name") == self.of


def kept() -> list[Kept]:
    """All of it, in the order of the kinds; nothing where there is no cache."""
    places = [(ACTIVATIONS, activations.home(), "runs/*"), (LENS, lens_store.home(), "*")]
    places.append((GGUF, cache_root(), "gguf-*"))
    found = [(kind, path) for kind, home, pattern in places for path in sorted(home.glob(pattern)) if path.is_dir()]
    return [Kept(kind, path, _of(kind, path)) for kind, path in found]


def _of(kind: str, directory: Path) -> str:
    """The model, and the task or corpus; a converted file's own name."""
    if kind == GGUF:
        return directory.name.removeprefix("gguf-").rsplit("-", 2)[0]  # behind it the file's size and time
    try:
        record = store.read_record(directory)
    except UserError:
        return "unreadable"
    if record is None:
        return "unfinished"
    return f"{record['subject']['name']} on {record['task' if kind == ACTIVATIONS else 'corpus']['name']}"

"""The cache directory: directories that are built there once, and small facts that need not be found out twice."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError


def cache_root() -> Path:
    """`$CROSSLENS_CACHE`, else ~/.cache/crosslens. Not created here."""
    return Path(os.environ.get("CROSSLENS_CACHE") or "~/.cache/crosslens").expanduser()


def is_complete(directory: Path) -> bool:
    """Whether a converted model lies there. A directory appears by one rename, so any part stands for all."""
    return (directory / "config.json").is_file()


def keep_fact(name: str, fact: Any) -> None:
    """Keep plain values under a name (letters and digits). A cache that cannot be written keeps nothing."""
    file = cache_root() / "facts" / f"{name}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(fact, stream)
        os.replace(scratch, file)
    except OSError:
        return


def kept_fact(name: str) -> Any:
    """What `keep_fact` kept; None where nothing is, or what is there cannot be read."""
    try:
        return json.loads((cache_root() / "facts" / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Let `build` fill a scratch directory beside `target`, then rename it there.

    Two processes may do this at once: the slower one finds the target taken and drops its own copy.
    """
    if is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            build(Path(scratch))
            _publish(Path(scratch), target)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {target}: {why}; set CROSSLENS_CACHE to a writable directory") from error
    return target


def _publish(scratch: Path, target: Path) -> None:
    scratch.chmod(0o755)  # what temporary means is private; a cache may be shared
    for file in scratch.iterdir():
        file.chmod(0o644)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    try:
        os.replace(scratch, target)
    except OSError:
        if not is_complete(target):
            raise

"""Files that are either whole or absent: shards of rows, tables, the record. No pickle anywhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.example import UserError


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(temporary)`, then rename to `path`: a killed run leaves the old file or none, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    refuse_links(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if _disk_full(error):
            raise UserError(f"no space left while writing {path}: free some and run the same command again") from error
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        raise


def refuse_links(path: Path) -> None:
    """A run directory holds plain files: a link could lead reading and writing out of it. UserError."""
    for part in (path, path.parent):
        if part.is_symlink():
            raise UserError(f"{part} is a link, and a run directory holds plain files: remove it and run again")


def _disk_full(error: Exception) -> bool:
    # safetensors reports the operating system's error as text of its own type.
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)


def save_rows(path: Path, rows: dict[str, Tensor], key: str, ids: Sequence[str]) -> None:
    """One shard: rows (first axis = example) with the run's key and the example ids."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in rows.items()}
    metadata = {"key": key, "ids": json.dumps(list(ids))}
    write_whole(path, lambda to: save_file(whole, to, metadata))


def read_rows(path: Path, key: str, ids: Sequence[str], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """A shard's rows, or those of `names` alone. UserError: cut short, of another run, or of other examples."""
    hint = "move it away and run the same command again"
    refuse_links(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key or metadata.get("ids") != json.dumps(list(ids)):
                raise UserError(f"{path} belongs to another run or other examples: {hint}")
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is broken ({str(error).splitlines()[0]}): {hint}") from error


def key_of(identity: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of everything that a run's numbers depend on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """record.json with a seal, so that an edited record is noticed."""
    body = {key: value for key, value in record.items() if key != "seal"}
    text = json.dumps(body | {"seal": key_of(body)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(directory / "record.json", lambda to: to.write_text(text, "utf-8"))


def write_json(path: Path, content: Any) -> None:
    """A small file of plain values."""
    write_whole(path, lambda to: to.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8"))


def read_json(path: Path) -> Any:
    """What `write_json` wrote, None where there is none. UserError: unreadable, or a link."""
    refuse_links(path)
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read: move it away and run the same command again") from error


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record, None where there is none. UserError: unreadable, or edited since it was written."""
    path = directory / "record.json"
    refuse_links(path)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        seal = record.pop("seal")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a record: move {directory} away and run again") from error
    if seal != key_of(record):
        raise UserError(f"{path} was edited after it was written: move {directory} away and run again")
    return record


def read_table(path: Path) -> pd.DataFrame:
    """A table of a run. UserError: missing, broken, or a link."""
    refuse_links(path)
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): run the same command again") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as parquet, without index."""
    write_whole(path, lambda to: table.to_parquet(to, index=False))


def _sweep(directory: Path) -> None:
    """Delete what a killed run left half written."""
    for temporary in directory.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One run at a time in a directory. UserError: another one is at work, or the directory cannot be written."""
    refuse_links(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            _sweep(directory)
            yield
    except Timeout as error:
        raise UserError(f"another run is at work in {directory}: wait for it, or choose another --out") from error
    except OSError as error:
        raise UserError(f"cannot write into {directory} ({error.strerror}): choose another --out") from error

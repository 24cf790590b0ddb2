"""Files that are either whole or absent: shards of rows, tables, the record. No pickle anywhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...data.errors import UserError


def safe_name(text: str, longest: int = 120, also: str = "") -> str:
    """A file's name without path separators (a subject may be a directory): its last `longest` characters.

    also: characters that are kept beside letters, digits and ".-_".
    """
    return "".join(c if c.isalnum() or c in ".-_" + also else "-" for c in text)[-longest:].lstrip(".-")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(temporary)`, then rename to `path`: a killed run leaves the old file or none, never half of one."""
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    refuse_links(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "r+b") as file:  # Windows flushes nothing that is open for reading alone
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
    """sha256 of the canonical JSON of everything that a run's numbers depend on. UserError: a value without JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> str:
    """A path by its name; of other objects the text may say where in memory they lie."""
    if isinstance(value, Path):
        return str(value)
    raise UserError(f"{value!r} cannot name a run: options are texts, numbers, and lists of them")


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
    """Delete what killed runs left half written, and nothing that another worker may be writing."""
    for temporary in directory.rglob(".*.tmp"):
        if _is_abandoned(temporary):
            temporary.unlink(missing_ok=True)


def _is_abandoned(temporary: Path) -> bool:
    """Whether its writer has ended: on this machine by its process, elsewhere (and on Windows) by a day's silence."""
    written_by = re.fullmatch(r".+\.([^.]+)\.(\d+)\.tmp", temporary.name)
    if written_by is None or written_by[1] != _host() or os.name == "nt":
        return time.time() - temporary.stat().st_mtime > 86400
    try:
        os.kill(int(written_by[2]), 0)  # sends nothing, asks whether it is there
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(written_by[2]) == os.getpid()


def _host() -> str:
    return safe_name(platform.node()).replace(".", "-") or "here"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One run at a time in a directory. UserError: another one is at work, or the directory cannot be written.

    What fails inside is not the lock's affair: it keeps its own error.
    """
    lock = FileLock(directory / ".lock", timeout=0)
    refuse_links(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _sweep(directory)
    except Timeout as error:
        raise UserError(f"another run is at work in {directory}: wait for it, or choose another --out") from error
    except OSError as error:
        lock.release()
        raise UserError(f"cannot write into {directory} ({error.strerror}): choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")

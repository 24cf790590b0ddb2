"""Writing a file of the report: at once, and only where something changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...data.errors import ReportError


def write_file(path: Path, data: bytes) -> None:
    """Replace a file at once, so that a reader never sees half of it; leave it alone if nothing changed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror or error}") from None

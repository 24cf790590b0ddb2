"""What a model is called: by its own name, not by the place where it lies."""

from __future__ import annotations

from pathlib import Path

from ...data.errors import UserError
from ...data.subjects import EMBEDDED
from ...data.subjects.gguf_parts import PART

FILES = (".gguf", ".safetensors")  # the second: of the scenes training


def name_of(where: str) -> str:
    """A directory's or file's own name ("/models/tiny", "tiny.gguf", "tiny-00001-of-00002.gguf" -> "tiny"); others as
    they are.
    """
    path = Path(where).expanduser()
    if where and path.exists():
        if part := PART.fullmatch(path.name):
            return part[1]
        return path.stem if path.is_file() else path.resolve().name
    return where


def called(where: str, quantize: str | None = None, adapter: str | Path | None = None) -> str:
    """A subject's name, with what makes it another model: "tiny int8 + lora"."""
    name = where if where in EMBEDDED else name_of(where)
    packed = f" {quantize}" if quantize else ""
    return name + packed + (f" + {name_of(str(adapter))}" if adapter else "")


def place_of(where: str) -> str:
    """The whole path of what lies here, a hub id as it is."""
    return location_of(where) or where


def location_of(where: str) -> str | None:
    """The whole path of a local model, None of a hub id."""
    path = Path(where).expanduser()
    return str(path.resolve()) if where and path.exists() else None


def require_subject(name: str) -> None:
    """UserError: what can be no subject, told without opening anything: neither embedded, nor here, nor a hub id."""
    path = Path(name).expanduser()
    if name in EMBEDDED or (path.is_file() and path.suffix in FILES):
        return
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{name} is a directory without config.json: not a Hugging Face model")
        if not any(path.glob("*.safetensors")):
            raise UserError(f"{name} has no *.safetensors: convert the checkpoint first (pickles are never read)")
    elif path.exists():
        raise UserError(f"{name} is neither a model directory, a .gguf file, nor a checkpoint of the scenes training")
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"unknown subject {name!r}: an embedded one ({', '.join(EMBEDDED)}), a directory, a .gguf file, "
            "or a hub id owner/name"
        )

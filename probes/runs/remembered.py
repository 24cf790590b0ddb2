"""What need not be found out twice: whose weights lie in a directory, and that a subject's instruments were proved.

Reading needs no torch. Files are the same where name, size and time are; whatever is not sure is not remembered.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import probes
from ...data.cached import keep_fact, kept_fact
from ...data.subjects.gguf_parts import parts_of


def remember_subject(subject: Any, where: str, flags: dict[str, Any]) -> None:
    """Keep who was opened from `where` with these flags (revision, device, dtype …)."""
    files = _read(where, flags)
    if files:
        facts = {
            "name": subject.name,
            "revision": subject.revision,
            "fingerprint": subject.fingerprint,
            "dtype": str(subject.dtype).removeprefix("torch."),
            "device": subject.device.type,
        }
        keep_fact(_hash("subject", where, flags), {"files": files, "subject": facts})


def recall_subject(where: str, flags: dict[str, Any]) -> dict[str, Any] | None:
    """Name, revision, fingerprint, dtype, device; None where no subject was opened so, or its files have changed."""
    kept = kept_fact(_hash("subject", where, flags))
    if not isinstance(kept, dict) or not kept["files"] or kept["files"] != _read(where, flags):
        return None
    return kept["subject"]


def _read(where: str, flags: dict[str, Any]) -> list[list[Any]]:
    """Name, size and time of all files that a subject is read from; none where that is not known."""
    model, adapter = _files(where, flags.get("revision")), flags.get("adapter")
    beside = _files(adapter, None, "adapter_config.json") if adapter else [[]]
    return [*model, *beside] if model and beside else []


def _files(where: str, revision: str | None, file: str = "config.json") -> list[list[Any]]:
    """The same of a model's or an adapter's directory; file: one that there has to be."""
    place = Path(where).expanduser()
    if not place.exists():
        place = _snapshot(where, revision, file)
    found = parts_of(place) if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in found if file.is_file()]


def _snapshot(where: str, revision: str | None, file: str) -> Path:
    """Where the hub's copy of a model lies on this machine; nowhere if it was never fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(where, file, revision=revision or "main")
    except HFValidationError:
        found = None
    return Path(found).parent if isinstance(found, str) else Path("/nowhere")


def prove_once(subject: Any) -> None:
    """`subject.check()`, but where this very subject passed it with this very code on such a machine.

    Whose tokenizer cannot be told apart, or whose code came with the checkpoint, is proved every time.
    """
    if is_proved(subject):
        return
    subject.check()
    if (name := _proof(subject)) is not None:
        keep_fact(name, "proved")


def is_proved(subject: Any) -> bool:
    """Whether `prove_once` has nothing to do."""
    name = _proof(subject)
    return name is not None and kept_fact(name) == "proved"


def _proof(subject: Any) -> str | None:
    """A name for everything that the proofs depend on; None where some of it is not known."""
    backend = getattr(subject.tokenizer, "backend_tokenizer", None)
    if backend is None or type(subject.model).__module__.startswith("transformers_modules"):
        return None
    of_processor = getattr(subject.processor, "to_json_string", str)()
    reads = backend.to_str(), subject.tokenizer.special_tokens_map, type(subject.processor).__name__, of_processor
    runs = subject.model.config.to_json_string(), subject.fingerprint, str(subject.dtype), str(subject.device)
    return _hash("proof", *reads, *runs, platform.machine(), version("torch"), version("transformers"), _code())


@cache
def _code() -> str:
    """The text of everything that proves and is proved."""
    files = sorted(Path(probes.__path__[0]).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:40]

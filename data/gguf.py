"""A GGUF file made into an ordinary Hugging Face directory, once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .example import UserError


def cache_root() -> Path:
    """`$CROSSLENS_CACHE`, else ~/.cache/crosslens. Not created here."""
    return Path(os.environ.get("CROSSLENS_CACHE") or "~/.cache/crosslens").expanduser()


def is_complete(directory: Path) -> bool:
    """Whether a converted model lies there. A directory appears by one rename, so any part stands for all."""
    return (directory / "config.json").is_file()


def gguf_to_directory(gguf: Path, target: Path) -> Path:
    """Dequantise `gguf` to float32 safetensors in `target`; does nothing when `target` is already there.

    Raises UserError for a file that is missing, cut or of an unknown architecture, or a target that
    cannot be written.
    """
    gguf, target = Path(gguf), Path(target)
    return build_once(target, lambda scratch: _convert(gguf, scratch))


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


def _convert(gguf: Path, scratch: Path) -> None:
    pre = _check(gguf)
    model, tokenizer = _load(gguf)
    _plain(model).save_pretrained(scratch)
    _restore_pre_tokenizer(tokenizer, pre)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(scratch)


def _check(gguf: Path) -> str:
    """The name of the file's pre-tokenizer ("" where it has none)."""
    from gguf import GGUFReader

    if not gguf.is_file():
        raise UserError(f"{gguf}: no such file")
    try:
        fields = GGUFReader(gguf).fields
    except Exception as error:  # the reader has no error of its own: a cut file fails wherever it ends
        raise UserError(f"{gguf} is no GGUF file, or cut short; get it again") from error
    return str(fields["tokenizer.ggml.pre"].contents()) if "tokenizer.ggml.pre" in fields else ""


def _load(gguf: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        return (
            AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32),
            AutoTokenizer.from_pretrained(**where),
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{gguf}: transformers cannot read this GGUF file ({reason})") from error


def _plain(loaded: Any) -> Any:
    """The same weights in a fresh model: one loaded from GGUF counts as quantised and refuses to be saved."""
    from transformers import AutoModelForCausalLM

    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    fresh = AutoModelForCausalLM.from_config(loaded.config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    return fresh


def _restore_pre_tokenizer(tokenizer: Any, pre: str) -> None:
    """SmolLM splits digits off before anything else; the GGUF reader of transformers forgets it."""
    from tokenizers import pre_tokenizers

    if pre == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])

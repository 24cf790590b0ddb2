"""A GGUF file made into an ordinary Hugging Face directory, once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cached import build_once
from ..errors import UserError
from .gguf_parts import COUNT, parts_of, write_whole
from .gguf_tokenizer import KEYS, Facts, facts, restore

# What is written at a time: a file's tensors are copied before they reach the disk.
SHARD = "1GB"


def gguf_to_directory(gguf: Path, target: Path) -> Path:
    """Dequantise `gguf`, or the model that it is a part of, to float32 safetensors in `target`; nothing is done when
    `target` is already there.

    Raises UserError for a file or a part that is missing, cut or of an unknown architecture, or a target that cannot
    be written.
    """
    gguf, target = Path(gguf), Path(target)
    return build_once(target, lambda scratch: _convert(gguf, scratch))


def _convert(gguf: Path, scratch: Path) -> None:
    parts = parts_of(gguf)
    facts = _facts(parts)
    model, tokenizer = _load_parts(parts)
    _plain(model).save_pretrained(scratch, max_shard_size=SHARD)
    restore(tokenizer, facts)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(scratch)


def _facts(parts: list[Path]) -> Facts:
    """What the file says of itself, before anything is built. UserError: no GGUF file, a part of one, no tokenizer."""
    from gguf import GGUFReader

    gguf = parts[0]
    if not gguf.is_file():
        raise UserError(f"{gguf}: no such file")
    try:
        fields = GGUFReader(gguf).fields
        said = {name: fields[name].contents() for name in (*KEYS, COUNT) if name in fields}
    except Exception as error:  # the reader has no error of its own: a cut file fails wherever it ends
        raise UserError(f"{gguf} is no GGUF file, or cut short; get it again") from error
    if said.get(COUNT, 1) != len(parts):
        raise UserError(
            f"{gguf} is one of {said[COUNT]} parts of a model: give the parts their names back (…-00001-of-0000"
            f"{said[COUNT]}.gguf), or join them (llama-gguf-split --merge)"
        )
    return facts(gguf, said)


def _load_parts(parts: list[Path]) -> tuple[Any, Any]:
    """Model and tokenizer; of several parts through one file that is deleted behind."""
    if len(parts) == 1:
        return _load(parts[0])
    with TemporaryDirectory(prefix="crosslens-") as scratch:
        try:
            whole = write_whole(parts, Path(scratch) / parts[0].name)
        except OSError as error:
            raise UserError(f"cannot join the parts of {parts[0]}: {error.strerror or error}") from error
        except Exception as error:  # the reader has no error of its own
            raise UserError(f"a part of {parts[0]} is no GGUF file, or cut short; get all again") from error
        return _load(whole)


def _load(gguf: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        opened: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
        model, loading = opened
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{gguf}: transformers cannot read this GGUF file ({reason})") from error
    refuse_incomplete(str(gguf), loading)
    return model, tokenizer


def refuse_incomplete(name: str, loading: Mapping[str, Any]) -> None:
    """UserError: weights that the model lacks, has no place for, or has in another shape (transformers' loading info).

    Where transformers only warns, the model would run with random weights. Tied weights are not missing.
    """
    mismatched = [f"{key} {tuple(found)} for {tuple(asked)}" for key, found, asked in loading["mismatched_keys"]]
    faults = {
        "missing": loading["missing_keys"],
        "unexpected": loading["unexpected_keys"],
        "misshapen": mismatched,
    }
    told = [f"{len(names)} {what} ({_listed(names)})" for what, names in faults.items() if names]
    if told:
        raise UserError(f"{name}: its weights and its config do not belong together: {'; '.join(told)}")


def _listed(names: Iterable[str]) -> str:
    several = sorted(names)
    return ", ".join(several[:3]) + (" …" if len(several) > 3 else "")


def _plain(loaded: Any) -> Any:
    """The same weights, not copied, in a fresh model: one loaded from GGUF counts as quantised and is not saved."""
    import torch
    from transformers import AutoModelForCausalLM

    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(loaded.config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    return fresh

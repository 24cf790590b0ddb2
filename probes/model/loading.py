"""From a name to a proved Subject: embedded model, directory, GGUF file or hub id."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ...data.cached import cache_root
from ...data.errors import SubjectError, UserError
from ...data.subjects import EMBEDDED, scenes_model
from ...data.subjects.gguf import gguf_to_directory, refuse_incomplete
from ...data.subjects.gguf_parts import parts_of
from .adapters import adapt
from .checkpoint_files import settings_in, weight_bytes
from .fingerprint import weights_of
from .naming import called, location_of, place_of, require_subject
from .processors import open_processor
from .quantized import open_packed, packing
from .subject import Subject


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    adapter: str | Path | None = None,
    check: bool = True,
    trust_remote_code: bool = False,
) -> Subject:
    """Open a model and prove its instruments.

    name: an embedded subject ("smollm2", "scenes", "scenes_prior"), a local directory, a GGUF file, or a hub id
    "owner/name" (the only case that may use the network). device: "auto" (a GPU where there is one), "map" (spread by
    accelerate), or torch's name. dtype: "auto" (the checkpoint's on a GPU, float32 on a CPU), or torch's name.
    quantize: "int8" or "nf4" packs the weights of linear layers into 8 or 4 bits while they are read (bitsandbytes);
    what they stand for is computed with in `dtype`. adapter: a directory or hub id of peft's; it is shown to act.
    check: run `Subject.check`.
    Weights are read from safetensors alone; code in a checkpoint runs only with `trust_remote_code`.
    Raises UserError (unknown name, broken files; missing, spare, NaN or packed weights; an adapter of another model)
    and SubjectError (a family that cannot be read, an adapter that changes nothing).
    """
    opened: dict[str, Any] = {"name": str(name), "revision": revision, "device": device, "dtype": dtype}
    opened |= {"quantize": quantize, "adapter": adapter and place_of(str(adapter))}
    opened["trust_remote_code"] = trust_remote_code
    where: dict[str, Any] = packing(quantize)
    path, revision = _find(str(name), revision)
    spread = {"device_map": "auto"} if device == "map" else {}
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device in ("auto", "map") else device
    # Packed weights are made where they stay.
    where |= spread or ({"device_map": {"": device}} if quantize else {})
    where["trust_remote_code"] = trust_remote_code
    if not Path(path).exists():
        where["revision"] = revision
    model, processor = _read(str(name), path, where, _dtype(dtype, device))
    if "device_map" not in where:
        model = _to(model, device)
    if quantize:
        open_packed(model)
    if adapter:
        adapt(model, getattr(processor, "tokenizer", processor), str(adapter), str(name))
    _refuse_nan(str(name), model)
    subject = Subject(model, processor, name=called(str(name), quantize, adapter), revision=revision)
    subject.location = None if str(name) in EMBEDDED else location_of(str(name))
    subject.opened = opened
    if check:
        subject.check()
    return subject


def shortage(name: str, *, revision: str | None, device: str, dtype: str, quantize: str | None, **_: Any) -> str:
    """One line where a model's weights alone are more than what is free, else "": told before anything is opened.

    Arguments as in `load`. Nothing is told of embedded subjects, GGUF files, and models spread over several devices.
    """
    gpu = torch.cuda.is_available() and device.startswith(("cuda", "auto"))
    if name in EMBEDDED or Path(name).suffix == ".gguf" or device == "map":
        return ""
    asked = _dtype(dtype, "cuda" if gpu else "cpu")
    item = asked.itemsize if isinstance(asked, torch.dtype) else None
    try:
        needed = weight_bytes(name, revision, item, {"int8": 1.0, "nf4": 0.5625}.get(quantize or ""))
    except (OSError, ValueError, KeyError):  # no such model, or broken files: `load` says so
        return ""
    free = torch.cuda.mem_get_info()[0] if gpu else psutil.virtual_memory().available
    if needed <= free:
        return ""
    return (
        f"this machine is too small: the weights of {name} take {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; "
        "take --dtype bfloat16, --quantize, --device map, or another machine"
    )


def export(name: str, target: Path) -> Path:
    """An embedded subject as a Hugging Face directory. UserError: not embedded, or something lies at `target`."""
    if name not in EMBEDDED:
        raise UserError(f"{name!r} is no embedded subject: one of {', '.join(EMBEDDED)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not empty: name a new directory")
    home = Path(_find(name, None)[0])
    try:
        shutil.copytree(home, target, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _find(name: str, revision: str | None) -> tuple[str, str | None]:
    """The directory or hub id behind a name, and its revision."""
    require_subject(name)
    if name in EMBEDDED:
        home = import_module(f"....data.subjects.{EMBEDDED[name]}", __name__)
        return str(home.directory()), home.revision()
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        stats = [part.stat() for part in parts_of(path)]
        told = f"{sum(s.st_size for s in stats)}-{max(s.st_mtime_ns for s in stats)}"
        return str(gguf_to_directory(path, cache_root() / f"gguf-{path.stem}-{told}")), revision
    if path.is_file() and path.suffix == ".safetensors":
        return str(scenes_model.directory(path)), revision
    return (str(path), revision) if path.is_dir() else (name, revision)


def _read(name: str, path: str, where: dict[str, Any], dtype: torch.dtype | str) -> tuple[Any, Any]:
    reading = {key: value for key, value in where.items() if key in ("revision", "trust_remote_code")}
    try:
        config = AutoConfig.from_pretrained(path, **reading)
        sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        _refuse_foreign_shards(name, path, reading.get("revision"))
        _refuse_unreadable(name, config, sees)
        opener = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        reading_weights = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        # Weights of another shape are told by name below.
        opened: Any = opener.from_pretrained(path, ignore_mismatched_sizes=True, **reading_weights, **where)
        model, info = opened
        if sees:
            processor = open_processor(name, path, config, **reading)
        else:
            processor = AutoTokenizer.from_pretrained(path, **reading)
    except (UserError, SubjectError):
        raise
    except Exception as error:  # whatever fails while foreign files are read, lies in them
        raise UserError(_why(name, path, error)) from error
    refuse_incomplete(name, info)
    _complete_padding(getattr(processor, "tokenizer", processor), model.config)
    return model, processor


def _refuse_unreadable(name: str, config: Any, sees: bool) -> None:
    """SubjectError: no decoder alone. UserError: weights packed into few bits, which nothing here can take apart."""
    packed = getattr(config, "quantization_config", None)
    if packed:
        method = packed.get("quant_method") if isinstance(packed, dict) else getattr(packed, "quant_method", None)
        raise UserError(
            f"{name}: its weights are packed ({method or 'quantization_config'}): take the checkpoint that is not, "
            "with --quantize int8 or nf4 where it has to be small, or a GGUF file, which is unpacked"
        )
    foreign = getattr(config, "auto_map", None)
    if config.is_encoder_decoder or not (sees or foreign or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING):
        kind = "an encoder with a decoder" if config.is_encoder_decoder else "no causal language model"
        raise SubjectError(f"{name} cannot be opened: {config.model_type} is {kind}")


def _complete_padding(tokenizer: Any, config: Any) -> None:
    """A tokenizer without a pad token gets the config's, if it is special (words must stay words), or its EOS."""
    if tokenizer is None or tokenizer.pad_token_id is not None:
        return
    ids = [getattr(config.get_text_config(), name, None) for name in ("pad_token_id", "eos_token_id")]
    several = [one for i in ids for one in (i if isinstance(i, list) else [i])]
    special = [tokenizer.convert_ids_to_tokens(i) for i in several if i in tokenizer.all_special_ids]
    tokenizer.pad_token = next(iter(special), tokenizer.eos_token)


def _refuse_foreign_shards(name: str, path: str, revision: str | None) -> None:
    """An index may only name safetensors files beside it: transformers would unpickle others, or look elsewhere."""
    index = settings_in(path, SAFE_WEIGHTS_INDEX_NAME, revision)
    for shard in set(index.get("weight_map", {}).values()):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(f"{name}: {SAFE_WEIGHTS_INDEX_NAME} looks for weights in {shard} (pickles are never read)")


def _why(name: str, path: str, error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if Path(path).exists():
        return f"cannot read the model in {name}: {first_line}"
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"cannot get {name} from the hub{offline}: {first_line}"


def _dtype(dtype: str, device: str) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(f"unknown dtype {dtype!r}: float32, bfloat16 or float16")
    return found


def _to(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _refuse_nan(name: str, model: torch.nn.Module) -> None:
    for tensor_name, tensor in weights_of(model):
        # Both ends of the range are finite only if every value is: one pass, nothing allocated, in any precision.
        if tensor.numel() and not all(bool(end.isfinite()) for end in tensor.aminmax()):
            raise UserError(f"{name}: weights are not finite (first in {tensor_name}): the checkpoint is broken")


__all__ = ["EMBEDDED", "SubjectError", "export", "load"]

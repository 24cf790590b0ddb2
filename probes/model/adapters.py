"""An adapter put into a model: merged into its weights, or beside them where they are packed; and shown to act."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...data.errors import SubjectError, UserError
from ...data.subjects import EMBEDDED
from . import vision_inputs
from .checkpoint_files import file_in, settings_in
from .naming import name_of
from .quantized import is_opened

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INSTALL = "adapters need peft: pip install 'crosslens[adapters]'"
SENTENCE = "The capital of France is Paris, and two and two are four."


@torch.no_grad()
def adapt(model: Any, tokenizer: Any, adapter: str, base: str) -> None:
    """Puts the adapter in `adapter`, a directory or a hub id, into the model that was opened as `base`.

    UserError: no peft, no adapter there, pickled weights, another model's, or one whose weights and modules are not
    those of the model. SubjectError: it changes no logit.
    """
    settings = _settings(adapter)
    _require_base(adapter, settings, base)
    inputs = _inputs(model, tokenizer)
    before = model(**inputs).logits
    _put(model, adapter, settings)
    if torch.equal(before, model(**inputs).logits):
        raise SubjectError(f"adapter {name_of(adapter)} changes no logit of {name_of(base)}: it was never trained")


def _settings(adapter: str) -> dict[str, Any]:
    """What the adapter says of itself. UserError: nothing lies there."""
    try:
        settings = settings_in(adapter, CONFIG)
    except (OSError, ValueError) as error:  # no such hub id, or no JSON
        raise UserError(f"adapter {adapter}: {CONFIG} cannot be read ({str(error).splitlines()[0]})") from error
    if not settings:
        raise UserError(f"no adapter in {adapter}: a directory, or a hub id owner/name, with {CONFIG}")
    return settings


def _require_base(adapter: str, settings: dict[str, Any], base: str) -> None:
    """UserError: it was trained on a model of another name; a name is all that an adapter says of its model."""
    trained_on = str(settings.get("base_model_name_or_path") or "")
    names = {_last_part(base), *(("smollm2-135m-instruct",) if base in EMBEDDED else ())}
    if trained_on and _last_part(trained_on) not in names:
        raise UserError(
            f"adapter {name_of(adapter)} was trained on {trained_on}, not on {base}: open that model, or, where both "
            f"are the same, name it so in the adapter's {CONFIG} (base_model_name_or_path)"
        )


def _last_part(name: str) -> str:
    return name_of(name).rstrip("/").rpartition("/")[2].lower()


def _inputs(model: Any, tokenizer: Any) -> dict[str, Any]:
    """A sentence as the model takes it."""
    if tokenizer is None or vision_inputs.required(model):
        return vision_inputs.few_words(model)
    ids = torch.tensor([tokenizer(SENTENCE)["input_ids"]], device=model.device)
    words = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return words | ({"token_type_ids": torch.zeros_like(ids)} if vision_inputs.has_prefix(model) else {})


def _put(model: Any, adapter: str, settings: dict[str, Any]) -> None:
    try:
        from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise UserError(INSTALL) from error
    weights = _weights(adapter)
    try:
        config = PeftConfig.from_peft_type(**settings | {"inference_mode": True})
        adapted: Any = get_peft_model(model, config)
        found = set_peft_model_state_dict(adapted, weights)
    except Exception as error:  # whatever fails lies in the adapter's files, or in that they are not this model's
        told = " ".join(str(error).split())
        raise UserError(f"adapter {adapter} does not fit {name_of(model.config.name_or_path)}: {told[:300]}") from error
    own = {name for name, _ in adapted.named_parameters() if ".default." in name}
    _require_complete(adapter, sorted(own.intersection(found.missing_keys)), sorted(found.unexpected_keys))
    if any(is_opened(layer) for layer in model.modules()):
        _require_beside(adapter, adapted)
        model.eval()
    elif hasattr(adapted.base_model, "merge_and_unload"):
        adapted.base_model.merge_and_unload()
    else:
        raise UserError(f"adapter {adapter} is of type {config.peft_type}, which is no change of weights: take a LoRA")


def _weights(adapter: str) -> dict[str, Tensor]:
    """UserError: none in safetensors."""
    place = file_in(adapter, WEIGHTS)
    if place is None:
        raise UserError(f"adapter {adapter} has no {WEIGHTS}: convert it first (pickles are never read)")
    return load_file(place)


def _require_complete(adapter: str, missing: list[str], unexpected: list[str]) -> None:
    told = [f"{len(names)} {what} ({names[0]} …)" for what, names in (("missing", missing), ("unexpected", unexpected))
            if names]  # fmt: skip
    if told:
        raise UserError(f"adapter {adapter}: its weights and its config do not belong together: {'; '.join(told)}")


def _require_beside(adapter: str, adapted: Any) -> None:
    """UserError where an adapter changes more than packed layers, or otherwise than by adding to their weights."""
    config = adapted.peft_config["default"]
    changed = [layer for layer in adapted.modules() if hasattr(layer, "base_layer")]
    plain = config.peft_type == "LORA" and not config.use_dora and not config.modules_to_save and config.bias == "none"
    if not plain or not all(map(is_opened, changed)):
        raise UserError(
            f"adapter {adapter} changes more than the packed layers' weights: open the model without quantize"
        )

"""The embedded vision-language model: SmolLM2, a small CLIP tower and a projector, in LLaVA's stock architecture."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..cached import build_once, cache_root
from ..errors import UserError
from . import smollm2

LAYOUT = 2  # raised when the directory is written otherwise
SHIPPED = Path(__file__).with_name("scenes") / "scenes.safetensors"
IMAGE_TOKEN, REPLACED = "<image>", "<empty_output>"  # a token that SmolLM2 reserves and never uses
TOWER: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "image_size": 84,
    "patch_size": 14,
    "projection_dim": 192,
}
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.content is string %}Question: {{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% endif %}{% endfor %}"
    "{% for c in m.content %}{% if c.type == 'text' %}{{ '\\n' }}Question: {{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %} Answer:"
)
FORM = "{image}\nQuestion: {question} Answer:"  # the same as a form, behind which an answer can stand


def checkpoint() -> Path:
    """The trained weights: `$CROSSLENS_SCENES_CHECKPOINT` if set, else those that ship with the package."""
    path = Path(os.environ.get("CROSSLENS_SCENES_CHECKPOINT") or SHIPPED).expanduser()
    if not path.is_file():
        raise UserError(f"no checkpoint of the scenes subject at {path}: train it with make scenes-model")
    return path


def revision(weights: Path | None = None) -> str:
    """What the weights are: the checkpoint's hash and the language model under it."""
    return f"{sha256(weights or checkpoint())[:12]} on {smollm2.REVISION}"


def training_log() -> list[dict[str, Any]]:
    """The log that lies beside the checkpoint: stage, step, losses, accuracies; empty where there is none."""
    log = checkpoint().with_name("log.jsonl")
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def directory(weights: Path | None = None) -> Path:
    """A Hugging Face directory of the whole model in the cache; made at the first call.

    Raises UserError where the checkpoint is missing or of another shape, or the cache cannot be written.
    """
    weights = weights or checkpoint()
    target = cache_root() / f"scenes-{sha256(weights)[:16]}-{LAYOUT}"
    return build_once(target, lambda scratch: _write(weights, scratch))


def _write(weights: Path, scratch: Path) -> None:
    model = build()
    put(model, weights)
    model.save_pretrained(scratch)
    processor().save_pretrained(scratch)


def build(text: Any = None, tower: dict[str, Any] | None = None) -> Any:
    """LLaVA with SmolLM2's weights (or those of another Llama in memory), tower and projector fresh, float32."""
    import torch
    from transformers import AutoModelForCausalLM, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    if text is None:
        text = AutoModelForCausalLM.from_pretrained(smollm2.directory(), dtype=torch.float32)
        text.config.name_or_path = ""  # An exported directory names no path of the machine that made it.
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**(tower or TOWER)),
        text_config=text.config,
        image_token_index=tokenizer().convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,  # every layer of the tower is used
        vision_feature_select_strategy="default",  # without the class token
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(text.config, name))
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.tie_weights()
    model.generation_config = text.generation_config
    return model


def parts(model: Any) -> dict[str, Any]:
    """The tensors that a checkpoint holds: tower, projector, and the gains of the language model's norms."""
    inner = model.model
    named = {f"vision_tower.{n}": p for n, p in inner.vision_tower.named_parameters()}
    named |= {f"multi_modal_projector.{n}": p for n, p in inner.multi_modal_projector.named_parameters()}
    return named | gains(model)


def gains(model: Any) -> dict[str, Any]:
    """The gains of the language model's norms: all of it that was trained."""
    parameters = model.model.language_model.named_parameters()
    return {f"language_model.{n}": p for n, p in parameters if n.endswith("norm.weight")}


def original_gains() -> dict[str, Any]:
    """SmolLM2's own gains under the names of `gains`."""
    from safetensors import safe_open

    with safe_open(smollm2.directory() / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if name.endswith("norm.weight")]  # noqa: SIM118
        return {f"language_model.{name.removeprefix('model.')}": file.get_tensor(name) for name in names}


def save(tensors: dict[str, Any], path: Path) -> None:
    """Write a checkpoint from `parts`: half precision, the gains in full."""
    import torch
    from safetensors.torch import save_file

    kinds = {name: torch.float32 if name.startswith("language_model.") else torch.float16 for name in tensors}
    save_file({name: tensor.detach().to(kinds[name]).contiguous() for name, tensor in tensors.items()}, path)


def put(model: Any, path: Path) -> None:
    """Load a checkpoint into the model. UserError where names or shapes are others, or the file cannot be read."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        wanted, found = parts(model), load_file(path)
    except SafetensorError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if {n: tuple(p.shape) for n, p in wanted.items()} != {n: tuple(t.shape) for n, t in found.items()}:
        raise UserError(f"{path} is no checkpoint of this scenes model: other tensors or shapes")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(found[name])


def tokenizer() -> Any:
    """SmolLM2's tokenizer with `<image>` in the place of a token that is never used."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    plain = AutoTokenizer.from_pretrained(smollm2.directory())
    written = json.loads(plain.backend_tokenizer.to_str())
    vocabulary = written["model"]["vocab"]
    vocabulary[IMAGE_TOKEN] = vocabulary.pop(REPLACED)
    for token in written["added_tokens"]:
        token["content"] = IMAGE_TOKEN if token["content"] == REPLACED else token["content"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        bos_token=plain.bos_token,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        unk_token=plain.unk_token,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )
    made.model_max_length = plain.model_max_length
    return made


def processor() -> Any:
    """The processor that belongs to the model: 84 × 84 pixels, 36 image tokens, its prompt as the chat template."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side, half = TOWER["image_size"], [0.5] * 3
    square = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    given: dict[str, Any] = {**square, "image_mean": half, "image_std": half}
    images = CLIPImageProcessorPil(**given)
    return LlavaProcessor(
        images,
        tokenizer(),
        patch_size=TOWER["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT,
    )

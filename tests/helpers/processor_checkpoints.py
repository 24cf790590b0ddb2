"""What becomes of a family's processor where there is no torchvision: opened from a directory, with a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from crosslens.data.errors import UserError
from crosslens.probes.model.processors import open_processor
from crosslens.probes.model.vision_inputs import complete_processor
from transformers import AutoConfig, AutoProcessor, PreTrainedTokenizerFast
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from . import vision_subjects

KNOWN = [family for family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if family in PROCESSOR_MAPPING_NAMES]
# Encoders with a decoder are refused; of the others no processor can be made of its default settings alone.
LEFT_OUT = ("florence2", "t5gemma2", "udop", "pix2struct", "pp_formulanet", "pi0")
LEFT_OUT += ("diffusion_gemma", "evolla", "fuyu", "instructblipvideo")
FAMILIES = [family for family in KNOWN if family not in LEFT_OUT]
YES, NO_VIDEO = "yes", "yes, without its video part"
TORCHVISION = "needs torchvision"
NOT_TOLD = "opens, but does not tell where an image's tokens stand: prompts with pictures are refused"
OWN_FORM = "opens, but wants its prompts in a form of its own: prompts with pictures are refused"
# What checkpoints keep in their files, and the classes have no default for.
KEPT = {
    "num_query_tokens": 4,
    "num_image_tokens": 16,
    "image_seq_length": 16,
    "patch_size": 14,
    "vision_feature_select_strategy": "full",
}
LACKING = re.compile(r"attribute '?(\w+?_token)")


def verdict(family: str) -> str:
    """One of the sentences above."""
    with TemporaryDirectory() as home:
        try:
            processor = opened(family, Path(home))
        except UserError as error:
            if "torchvision alone" in str(error):
                return TORCHVISION
            raise
        found = YES if _opens_by_itself(home) else NO_VIDEO
    try:
        return found if _tells(processor) else NOT_TOLD
    except ValueError:
        return OWN_FORM


def opened(family: str, home: Path) -> Any:
    """The family's processor with its default settings, and with the special tokens that it asks its tokenizer for."""
    config, tokens = AutoConfig.for_model(family), {}
    config.save_pretrained(home)
    (home / "preprocessor_config.json").write_text(json.dumps(_images(family)))
    while True:
        _tokenizer(tokens).save_pretrained(home)
        try:
            processor = open_processor(family, str(home), config)
        except (AttributeError, ValueError) as error:
            asked = LACKING.search(str(error))
            if asked is None or asked[1] in tokens:
                raise
            tokens[asked[1]] = f"<{asked[1]}>"
            continue
        own = {name: token or f"<{name}>" for name, token in vars(processor).items() if _is_new(name, token, processor)}
        if not own.keys() - tokens.keys():
            break
        tokens |= own
    for owner in (processor, processor.image_processor):
        for name in [name for name in KEPT if getattr(owner, name, 0) is None]:
            setattr(owner, name, KEPT[name])
    model: Any = SimpleNamespace(config=config, named_parameters=list)
    complete_processor(model, processor)
    return processor


def _images(family: str) -> dict[str, str]:
    """Mixtures take the image processor of the family they are one of; their checkpoints say so."""
    named = IMAGE_PROCESSOR_MAPPING_NAMES.get(family.removesuffix("_moe"), {})
    return (
        {} if family in IMAGE_PROCESSOR_MAPPING_NAMES or "pil" not in named else {"image_processor_type": named["pil"]}
    )


def _is_new(name: str, token: Any, processor: Any) -> bool:
    """Whether the processor has a special token that its tokenizer does not know yet."""
    if not name.endswith("_token"):
        return False
    return token is None or (isinstance(token, str) and token not in processor.tokenizer.get_vocab())


def _tokenizer(tokens: dict[str, str]) -> PreTrainedTokenizerFast:
    made = vision_subjects.tokenizer(**tokens)
    made.add_special_tokens({"additional_special_tokens": [*vision_subjects.SPECIAL, *tokens.values()]})
    return made


def _opens_by_itself(home: str) -> bool:
    """Whether transformers opens it too, without what `open_processor` does."""
    try:
        AutoProcessor.from_pretrained(home)
    except (ImportError, ValueError, KeyError):
        return False
    return True


def _tells(processor: Any) -> bool:
    """Whether it puts a picture into a prompt and tells where."""
    holder = getattr(processor, "image_token", None)
    if holder is None:
        return False
    made = processor(
        text=[f"w1 {holder} w2"],
        images=[[vision_subjects.picture(0, (320, 320))]],
        return_tensors="pt",
        return_text_replacement_offsets=True,
        text_kwargs={"add_special_tokens": False, "padding": False},
    )
    return made.get("text_replacement_offsets") is not None


def groups() -> dict[str, list[str]]:
    """Verdict -> families."""
    found = {family: verdict(family) for family in FAMILIES}
    order = (YES, NO_VIDEO, TORCHVISION, NOT_TOLD, OWN_FORM)
    return {one: [family for family in FAMILIES if found[family] == one] for one in order}

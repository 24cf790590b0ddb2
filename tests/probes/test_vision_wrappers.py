"""Ways of reading images that are not LLaVA's: towers that are refused alone, pictures that every prompt needs, layers
that read pictures between the others, positions that number them, patches of all pictures in one row.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from crosslens import Subject, capture, load
from crosslens.data.errors import SubjectError, UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.check import subject_checks
from crosslens.probes.model.processing import joined
from crosslens.probes.model.processors import NoVideo, images_only
from transformers import AutoModelForImageTextToText

from ..helpers import processor_checkpoints, vision, vision_subjects
from ..sweep.building import build, enlivened, inputs, text_inputs
from ..sweep.exceptions import exceptions
from ..sweep.judging import _check, _example
from ..sweep.shrinking import merged, tiny_config
from .test_families import assert_close


def subject(family: str, kind: str = "vision") -> Subject:
    return Subject(build((kind, family, "")))


def given(family: str, seed: int = 0) -> dict[str, torch.Tensor]:
    one = ("vision", family, "")
    found, without = inputs(one, build(one), seed)
    assert not without
    return found


def test_a_tower_that_is_not_proved_is_refused_alone():
    """MiniCPM's has a merger between two layers."""
    opened, shown = subject("minicpmv4_6"), given("minicpmv4_6")
    _check(opened, shown, with_image=True)
    for ask in (lambda: opened.stack("vision"), lambda: capture(opened, shown, ["vision.z"])):
        with pytest.raises(SubjectError, match=r"minicpmv4_6: its vision tower cannot be read: .* at layer 1, in the"):
            ask()
    assert len(capture(opened, shown, ["resid_pre"])) == opened.n_layers


def test_a_tower_without_known_parts_is_refused_alone():
    opened = subject("llava")
    del opened.model.model.vision_tower.encoder.layers[0].self_attn.out_proj
    with pytest.raises(SubjectError, match="has no output projection"):
        opened.stack("vision")
    assert len(capture(opened, text_inputs(0), ["z"])) == opened.n_layers


def test_layers_may_call_what_enters_them_otherwise():
    """Llama 4's tower calls its layers with `hidden_state=`."""
    opened, shown = subject("llama4"), given("llama4")
    read = capture(opened, shown, ["vision.resid_pre", "vision.resid_post"])
    assert_close(read["vision.resid_pre", 1], read["vision.resid_post", 0], "what the first layer wrote")


@pytest.mark.parametrize("family", ["instructblip", "blip-2"])
def test_a_model_that_needs_pictures_is_proved_with_one(family):
    opened, shown = subject(family), given(family)
    proofs = opened.check()
    assert (proofs["check"] == "patterns equal eager attention's").sum() == opened.n_layers
    with pytest.raises(UserError, match=r"needs pixel_values.*: it reads no prompt without an image$"):
        opened.forward(text_inputs(0))
    for i in range(2):
        assert_close(opened.last_logits(shown)[i], opened.last_logits(_example(shown, i))[0], f"{family} {i}")


def test_pictures_are_counted_where_the_model_itself_reads_them():
    opened, shown = subject("blip-2"), given("blip-2")
    with pytest.raises(UserError, match="as many placeholders as its own images make"):
        opened.forward(shown | {"pixel_values": shown["pixel_values"][:1]})


def test_a_model_that_needs_videos_is_refused_in_words():
    with pytest.raises(SubjectError, match="reads no prompt without a picture, and not one picture alone"):
        subject("instructblipvideo").check()


def test_layers_that_read_the_image_are_not_among_those_of_texts():
    """Llama 3.2 Vision: the others are Llama's own, and read texts as plain transformers does."""
    opened = subject("mllama")
    assert len(opened.model.model.language_model.layers) == 4
    assert [type(layer).__name__ for layer in opened.layers] == ["MllamaSelfAttentionDecoderLayer"] * 2
    opened.check()
    plain = build(("vision", "mllama", ""), "eager")
    with torch.no_grad():
        assert_close(opened.forward(text_inputs(0), keep=0), plain(**text_inputs(0), use_cache=False).logits, "texts")
    with pytest.raises(UserError, match="mllama reads an image in 2 layers of cross-attention") as error:
        opened.forward(given("mllama"))
    assert "\n" not in str(error.value)


def test_images_are_numbered_by_prompt_and_not_by_batch():
    """HunYuan-VL as transformers has it gives a prompt other logits as a batch's second one; here it does not."""
    opened, shown = subject("hunyuan_vl"), given("hunyuan_vl")
    del shown["position_ids"]
    together = opened.forward(shown, keep=0)
    for i in range(2):
        assert_close(together[i], opened.forward(_example(shown, i), keep=0)[0], f"prompt {i}")
    with torch.no_grad():
        plain = opened.model(**shown, use_cache=False).logits
    assert_close(together[0], plain[0], "the first prompt")
    assert (together[1] - plain[1]).abs().max() > 1e-4


def test_padding_before_a_text_does_not_count():
    opened, texts = subject("hunyuan_vl"), text_inputs(0)
    before = {name: torch.nn.functional.pad(tensor, (3, 0)) for name, tensor in texts.items()}
    assert_close(opened.forward(before, keep=0)[:, 3:], opened.forward(texts, keep=0), "behind padding")


def minicpm() -> Subject:
    """MiniCPM-V 4.6 with its own processor for small pictures, cut into slices."""
    small = {"image_token_id": vision.IMAGE, "video_token_id": vision.VIDEO, "vision_config": {"image_size": 32}}
    config = tiny_config("minicpmv4_6", merged(exceptions("vision", "minicpmv4_6"), small))
    torch.manual_seed(0)
    model = enlivened(AutoModelForImageTextToText.from_config(config)).eval()
    named = {f"{what}_{end}_token": f"<{end}>" for what in ("image", "slice", "image_id") for end in ("start", "end")}
    words = vision_subjects.tokenizer(image_token="<image>", video_token="<video>", **named)
    seen = transformers.MiniCPMV4_6ImageProcessorPil(
        patch_size=4, scale_resolution=16, max_slice_nums=2, use_image_id=False
    )
    return Subject(model, images_only(transformers.MiniCPMV4_6Processor)(seen, NoVideo(), words))


def pictured(i: int, size: tuple[int, int]) -> Example:
    shown = Segment("image", vision_subjects.picture(i, size))
    return Example(f"e{i}", "g", (Segment("text", "w1 " * (i + 1)), shown, Segment("question", " w4 w5")))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_patches_in_one_row_are_joined_in_that_row(padding):
    opened, several = minicpm(), [pictured(0, (30, 30)), pictured(1, (20, 40))]
    batch = opened.batch(several, padding=padding)
    assert len(batch.inputs["pixel_values"]) == 1
    together = opened.last_logits(batch)
    for i, one in enumerate(several):
        assert_close(together[i], opened.last_logits(opened.batch([one]))[0], f"example {i}")


def test_pictures_as_high_as_a_patch_are_told_from_rows_of_patches():
    model: Any = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(patch_size=4)))
    rows = [{"pixel_values": torch.ones(1, 3, 4, width)} for width in (8, 12)]
    assert joined(model, rows)["pixel_values"].shape == (1, 3, 4, 20)
    pictures = [{"pixel_values": torch.ones(1, 3, 8, 8)}] * 2
    assert joined(model, pictures)["pixel_values"].shape == (2, 3, 8, 8)


def test_a_processor_that_cannot_be_followed_leaves_the_decoder_open(monkeypatch):
    opened = Subject(*vision_subjects.build("llava"))
    call = transformers.LlavaProcessor.__call__

    def untold(self, *args, **kwargs):
        return {name: value for name, value in call(self, *args, **kwargs).items() if "offsets" not in name}

    monkeypatch.setattr(transformers.LlavaProcessor, "__call__", untold)
    proofs = opened.check()
    assert proofs["check"].str.contains("a picture can be put into a prompt (llava: its processor", regex=False).any()
    with pytest.raises(SubjectError, match="does not tell what it puts in place of an image"):
        opened.batch([pictured(0, (30, 30))])


def test_a_checkpoint_whose_processor_cannot_be_followed_opens_from_its_directory(tmp_path, monkeypatch):
    """BLIP-2 writes an image's tokens before the prompt, wherever its placeholder stands."""
    processor_checkpoints.opened("blip-2", tmp_path)
    build(("vision", "blip-2", "")).save_pretrained(tmp_path)
    monkeypatch.setattr(subject_checks, "check_tokenizer", lambda findings: None)  # 50 words give no sentence back
    proofs = load(tmp_path).check()
    told = "a picture can be put into a prompt (blip-2: its processor does not tell"
    assert proofs["check"].str.contains(told, regex=False).any()


def test_a_projector_with_cross_attention_is_no_layer_of_the_decoder():
    opened, shown = subject("aria"), given("aria")
    assert torch.isfinite(opened.forward(shown)).all()

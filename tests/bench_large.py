"""A LLaVA of 7B's shape with random weights in bfloat16: seconds and memory of one prompt, beside the memory planned.

    python tests/bench_large.py         32 layers: 18 GB of free memory are needed
    python tests/bench_large.py 1       so many layers

Peaks are the process's high-water mark so far, weights included.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from crosslens import Subject, capture, knockout_sweep, measures
from crosslens.probes.runs import costs
from crosslens.tests.helpers.noise import fill
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.initialization import no_init_weights

# LLaVA-1.5-7B: its image has 24 × 24 patches of 14 pixels.
IMAGE, PATCHES, SIDE, WORDS = 32000, 576, 336, 32064
POSITIONS, BEFORE = 620, 5


def large(layers: int) -> Any:
    """The model, made in bfloat16 at once: a float32 copy would not fit beside it."""
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": WORDS}
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = LlavaConfig(
        text_config=LlamaConfig(num_hidden_layers=layers, **shape).to_dict(),
        vision_config=CLIPVisionConfig(image_size=SIDE, patch_size=14, projection_dim=768, **tower).to_dict(),
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
    )
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    fill(model)
    return model


def prompt() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """620 tokens, 576 of them an image's; where the image is, and the last position."""
    ids = torch.randint(3, 1000, (1, POSITIONS), generator=torch.Generator().manual_seed(0))
    place = torch.arange(POSITIONS)[None]
    image = (place >= BEFORE) & (place < BEFORE + PATCHES)
    ids[image] = IMAGE
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).bfloat16()
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    return given, image, place == POSITIONS - 1


def timed(name: str, work: Callable[[], Any]) -> Any:
    start = perf_counter()
    found = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {name:44s}{perf_counter() - start:8.1f} s   peak {peak:6.2f} GB", flush=True)
    return found


def main() -> None:
    """Open, read the last row's patterns, knock out three windows."""
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    model = timed(f"weights, {layers} layers", lambda: large(layers))
    subject = timed("opened", lambda: Subject(model))
    given, image, last = prompt()
    weights = sum(weight.nbytes for weight in model.parameters())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - weights
    sweep = costs.recording(subject, 1, POSITIONS) + costs.variants(subject, 3, 1, 1, POSITIONS)
    stages = {"check": costs.checking(subject), "forward": costs.forward(subject, 1, POSITIONS), "sweep": sweep}
    told = ", ".join(f"{stage} {(weights + needed) / 2**30:.2f} GB" for stage, needed in stages.items())
    print(f"  planned with the weights: {told}; libraries and all else so far {held / 2**30:.2f} GB")
    rows = torch.tensor([[POSITIONS - 1]])
    timed("plain forward", lambda: subject.forward(given))
    timed("patterns of the last row", lambda: capture(subject, given, ["pattern"], queries=rows))
    middles = sorted({layers // 4, layers // 2, 3 * layers // 4})
    asked = {"window": 9, "measure": measures.probability(torch.tensor([5])), "centres": middles}
    found = timed(
        "image → last, three windows, with proofs", lambda: knockout_sweep(subject, given, image, last, **asked)
    )
    print(f"  {found}")


if __name__ == "__main__":
    main()

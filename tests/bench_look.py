"""One look at a picture as large as a 7B model's, beside plain forwards of its prompt and answer.

    python tests/bench_look.py          (BENCH_ROUNDS=9 for more rounds)

A LLaVA of random weights whose language model has SmolLM2's shape: 576 image tokens, a prompt of 620, an answer of 20.
Processor time. The limit of all attention methods together, their controls (two more prompts in the same forward)
included, is 4.
"""

from __future__ import annotations

import copy
import os
from time import process_time
from typing import Any

import torch
from bench import interleaved, plain
from crosslens import Subject, load, look
from crosslens.analyses.common.controls import GENERAL_PROMPT
from crosslens.analyses.look import asking, maps, observing
from crosslens.analyses.look.looking import HEADS, K
from crosslens.data.subjects.scenes_model import FORM
from PIL import Image

SIDE, PROMPT, ANSWER = 336, 620, 20


def subject() -> Any:
    """The subject `scenes` with a picture of 576 tokens, its weights random."""
    own = load("scenes", check=False)
    config, processor = copy.deepcopy(own.model.config), copy.deepcopy(own.processor)
    config.vision_config.image_size = SIDE
    processor.image_processor.size = {"shortest_edge": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    torch.manual_seed(0)
    with torch.no_grad():
        model = type(own.model)(config).eval()
    return Subject(model, processor, name="SmolLM2's shape")


def words(make: Any, count: int) -> str:
    """As many words as make so many tokens of the prompt or of the answer."""
    said = "one"
    while make(said) < count:
        said += " one"
    return said


def main() -> None:
    """Print the ratio of a look to the plain forward of one prompt with its answer."""
    opened, picture = subject(), Image.new("RGB", (SIDE, SIDE), "navy")

    def asked(question: str, answer: str = " one") -> Any:
        return asking.ask(
            opened, asking.prompt(question, [picture]), answer, ANSWER, FORM, None, GENERAL_PROMPT
        ).prompts

    question = words(lambda text: int(asked(text).mask[0].sum()) - 1, PROMPT)
    answer = words(lambda text: int(asked(question, text).where("answer")[0].sum()), ANSWER)
    batch = asked(question, answer)
    alone = opened.batch(batch.examples[:1], **batch.form)
    print(f"{int(alone.mask.sum())} tokens, {int(alone.where('answer').sum())} of them the answer")
    interleaved(
        {
            "plain forward of prompt and answer": plain(opened, alone),
            "the three prompts, plain": plain(opened, batch),
            "all attention methods and their controls": lambda: attention(opened, asked(question, answer)),
            "look: these, and the lens of every place": lambda: look(
                opened, question, picture, answer=answer, template=FORM
            ),
        },
        rounds=int(os.environ.get("BENCH_ROUNDS", "3")),
        clock=process_time,
    )


def attention(opened: Any, prompts: Any) -> None:
    """What a look measures of attention, and TAM: all but the lens."""
    seen = observing.observe(opened, prompts, heads=HEADS, states=(), k=K)
    maps.by_layer(seen)
    maps.token_maps(opened, prompts, seen)


if __name__ == "__main__":
    main()

"""Image tokens through the lens: a word written into a patch is read there, with tiny LLaVA and its own processor."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture
from crosslens.analyses.lenses import image_lens
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run
from PIL import Image

from ..helpers import tiny
from ..helpers.vision_subjects import build, picture
from .claims.image_lens import tables_of

BOX = (0, 0, 8, 8)  # four of the 36 patches of a 24-pixel picture


def example(i: int) -> Example:
    segments = (Segment("image", picture(i, (24, 24))), Segment("question", " w4 w5"))
    boxes = {"asked_object": [BOX], "other_objects": [(16, 16, 24, 24)]}
    return Example(f"e{i}", f"g{i // 2}", segments, " w6", (" w7", " w8"), boxes=boxes, meta={"kind": "colour"})


def task(*more: Example) -> Task:
    def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
        return [*(example(i) for i in range(n or 5)), *more]

    module: Any = SimpleNamespace(
        __doc__="Pictures", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=examples
    )
    return Task("pictures", module, {})


def subject() -> Subject:
    return Subject(*build("llava"), name="tiny-llava")


def analyse(opened, out, which=None, **settings):
    module = {"image_lens": (image_lens, image_lens.Options(shown=2))}
    (directory,) = run(opened, which or task(), module, Settings(out=out, **settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_planted_word_is_read_at_its_patches(tmp_path):
    """Layer 1 adds w6's unembedding at the asked object's patches alone."""
    opened = subject()
    token = opened.tokenizer.convert_tokens_to_ids("w6")
    direction = (opened.W_U[token] / opened.norm.weight).detach()
    mark = opened.batch([example(0)]).where("asked_object")[0]
    assert mark.sum() == 4

    def write(module, args, out):
        return out + 300 * mark[None, :, None] * direction / direction.norm()

    handle = opened.layers[1].mlp.register_forward_hook(write)
    try:
        tables = analyse(opened, tmp_path)
    finally:
        handle.remove()
    rows = tables["agreement"].query("subset == 'all' and state == 2").set_index(["measure", "control"])["value"]
    assert rows["agreement", ""] == 1
    assert rows["named", ""] == 1
    assert rows["named", "other objects"] == 0
    assert rows["agreement", "chance"] == pytest.approx(1 / 3)
    grid = tables["grid"].query("state == 2 and rank == 1 and example == 'e0'")
    assert len(grid) == 36
    assert set(grid[grid["token"] == "w6"][["row", "column"]].itertuples(index=False, name=None)) == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    entropy = tables["entropy"].query("state == 2").set_index("place")["value"]
    assert entropy["asked object"] < entropy["background"]
    shown = Image.open(io.BytesIO(base64.b64decode(tables["pictures"]["png"].iloc[0])))
    assert shown.size == (84, 84)
    assert tables["chosen"].query("measure == 'asked object − chance'")["value"].iloc[0] == pytest.approx(2 / 3)
    assert tables["claims"]["verdict"].iloc[0] == "undecidable here"  # three groups


def test_the_best_of_many_null_states_is_not_measured_on_what_chose_it():
    """Nothing there, 16 late states, 60 examples: 2.5 % of claims may hold by luck, not the 18 % of the luckiest."""
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(60):
        shared = rng.normal(size=(60, 1))
        asked = (0.8 * shared + rng.normal(size=(60, 31)) > 0.55).astype(float)
        tables = tables_of(asked, np.full((60, 31), np.nan), groups=60)
        verdicts += [claim.verdict for claim in image_lens.claims(tables)]
    assert verdicts.count("holds") <= 5


@torch.no_grad()
def test_words_equal_the_slow_way(tmp_path):
    opened = subject()
    tables = analyse(opened, tmp_path)
    batch = opened.batch([example(0)])
    kept = capture(opened, batch, ["resid_pre"])["blocks.1.hook_resid_pre"][batch.where("image")]
    p = opened.unembed(opened.norm(kept)).softmax(-1)
    grid = tables["grid"].query("example == 'e0' and state == 1 and rank == 1")
    np.testing.assert_allclose(grid["value"], p.max(-1).values, rtol=1e-4)
    assert list(grid["token"]) == [opened.tokenizer.decode([i]) for i in p.argmax(-1).tolist()]


def test_any_batching_gives_the_same_tables(tmp_path):
    one, other = (
        analyse(subject(), tmp_path / padding, size=size, padding=padding)
        for size, padding in ((2, "left"), (5, "right"))
    )
    for name in ("agreement", "entropy", "grid"):
        np.testing.assert_allclose(one[name]["value"], other[name]["value"], rtol=1e-3, atol=1e-5)


def test_without_boxes_or_options_words_are_still_shown(tmp_path):
    plain = replace(example(0), boxes={}, wrong=(), id="plain", group="plain")
    which = task()
    which.module.examples = lambda n=None, seed=0, *, tokenizer: [plain]
    tables = analyse(subject(), tmp_path, which)
    assert set(tables) == {"entropy", "grid", "pictures", "claims", "findings"}
    assert set(tables["entropy"]["place"]) == {"background"}


def test_an_example_without_an_image_is_named(tmp_path):
    words = Example("words", "w", (Segment("text", "w1 w2"),))
    with pytest.raises(UserError, match="example words has no image tokens"):
        analyse(subject(), tmp_path, task(words))
    with pytest.raises(UserError, match="has no image tokens: image_lens needs a task with pictures"):
        analyse(tiny.subject(), tmp_path, tiny.task())

"""Looking: sweeps are whole edited forwards, a planted head that reads too little is helped and its twin is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, repairs
from crosslens.analyses import metrics
from crosslens.analyses.common.controls import HEADS, PERMUTED, another_image
from crosslens.analyses.common.option_logits import OptionLogits, lead
from crosslens.analyses.steered import _looking_fit, looking
from crosslens.analyses.steered._gazes import Gazes, elsewhere, gazes, of_another_image, source_layer
from crosslens.analyses.steered._looked import (
    BLANK,
    CHOSEN,
    EVERY,
    GAZE,
    NO,
    OTHER,
    OTHER_MAP,
    YES,
    asked_of,
    looked,
)
from crosslens.analyses.steered._looking_fit import PLAIN, image_share, losses_of_text, reading_heads
from crosslens.analyses.steered._looking_tables import LESS, change
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task, passages, with_unrelated
from crosslens.probes.runs.results import Rows
from crosslens.probes.runs.run import Settings, run
from PIL import Image

from ..helpers import contrasts, tiny, vision_subjects
from ..probes.test_families import assert_close
from .test_localisation import HEAD, LAYER, SAYS
from .test_localisation import subject as white_is_said

OPTIONS = looking.Options(factors=(0.5, 4.0), alphas=(1.0, 3.0), top=2, draws=2, texts=0)
KEEPS = 9  # the dimension that tells the planted head of w9
LEARNED = looking.Learned([[0, 1], [1, 2]], {CHOSEN: 4.0, EVERY: 4.0, GAZE: 3.0})


def subject() -> Subject:
    return Subject(*vision_subjects.build("llava"), name="tiny-llava")


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
    """A white patch and a black one on grey; the question names white, and the answer is what the planted head says."""
    rng, made = np.random.default_rng(seed), []
    for i in range(n or 8):
        picture = Image.new("RGB", (24, 24), (128, 128, 128))
        for shade, cell in zip((255, 0), rng.choice(36, 2, replace=False), strict=True):
            picture.paste((shade,) * 3, tuple(4 * int(at) for at in (cell % 6, cell // 6, cell % 6 + 1, cell // 6 + 1)))
        asked = " ".join(f"w{10 + int(word)}" for word in rng.integers(0, 8, 2 + i % 2)) + " w4"
        segments = (Segment("image", picture), Segment("text", " w9 "), Segment("question", asked))
        answers = (" yes", " no") if i % 4 == 1 else (" no", " yes") if i % 4 == 3 else (" w7", " w8")
        made.append(Example(f"p{seed}-{i:02d}", f"g{i // 2}", segments, answers[0], (answers[1],)))
    return with_unrelated(made)


def task() -> Task:
    module: Any = SimpleNamespace(
        __doc__="Shades", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=examples
    )
    return Task("shades", module, {})


def of(made: Subject, padding: str = "right", n: int = 4) -> Any:
    return made.batch(examples(n), padding=padding)


@torch.no_grad()
def test_every_row_is_a_whole_edited_forward():
    """The slow way: a forward in the block of `repairs.look` or `gaze`, all rows edited."""
    made = subject()
    batch = of(made)
    rows, measure = looked(made, batch, LEARNED, OPTIONS), OptionLogits.of(batch, "test")
    gaze, other = gazes(made, batch, "asked_word"), of_another_image(made, batch, "asked_word")
    heads = [(0, 1), (1, 2)]
    asked = {
        CHOSEN: [repairs.look(made, batch, factor, heads) for factor in OPTIONS.factors],
        EVERY: [repairs.look(made, batch, factor) for factor in OPTIONS.factors],
        GAZE: [repairs.gaze(made, batch, gaze.saliency, alpha) for alpha in OPTIONS.alphas],
        f"{GAZE}|{PERMUTED}": [repairs.gaze(made, batch, elsewhere(gaze, batch, i).saliency, 3.0) for i in range(2)],
        f"{GAZE}|{OTHER_MAP}": [repairs.gaze(made, batch, other.saliency, 3.0)],
    }
    for name, edits in asked.items():
        for at, edit in enumerate(edits):
            with edit:
                logits = made.model(**made.prepare(batch)).logits[torch.arange(4), batch.last]
            assert_close(rows[f"lead|{name}"][:, at], lead(measure(logits.float(), torch.arange(4))), name)
        assert (rows[f"lead|{name}"] - rows["lead|clean"][:, None]).abs().max() > 1e-6, name
    assert rows[f"lead|{CHOSEN}|{HEADS}"].shape == (4, OPTIONS.draws)
    assert rows[f"lead|{CHOSEN}|{BLANK}"].shape == (4, 2)


def test_a_row_belongs_to_its_example_alone():
    made = subject()
    together = looked(made, of(made), LEARNED, OPTIONS)
    for padding in ("left", "right"):
        for i, example in enumerate(examples(4)):
            alone = looked(made, made.batch([example], padding=padding), LEARNED, OPTIONS)
            for name, values in alone.items():
                assert_close(values[0].nan_to_num(), together[name][i].nan_to_num(), name)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_map_is_the_public_metric_of_the_whole_pattern(padding):
    made = subject()
    batch = of(made, padding)
    found, source = gazes(made, batch, "asked_word"), source_layer(made)
    whole = []
    with torch.no_grad():
        made.model.set_attn_implementation("eager")
        whole = made.model(**made.prepare(batch), output_attentions=True).attentions[source]
    for i in range(4):
        question = batch.where("question")[i].nonzero()[:, 0]
        rows = torch.arange(int(question[0]) - 1, int(question[-1]) + 1)
        seen = whole[i][:, rows][:, :, batch.where("image")[i]]
        expected = metrics.gaze_shift(seen[None].float(), torch.arange(len(question))).saliency
        assert_close(found.saliency[i, : len(expected)], expected, "gaze")
    assert found.there.all()


def test_maps_elsewhere_and_of_another_image():
    made = subject()
    batch = of(made)
    own, width = gazes(made, batch, "asked_word"), 36
    mixed = elsewhere(own, batch, 0)
    assert torch.equal(mixed.saliency.sort(1).values, own.saliency.sort(1).values)
    assert not torch.equal(mixed.saliency, own.saliency)
    other = of_another_image(made, batch, "asked_word")
    swapped = made.batch([another_image(example) for example in batch.examples], **batch.form)
    assert_close(other.saliency, gazes(made, swapped, "asked_word").saliency, "another image")
    assert other.saliency.shape == (4, width)
    alone = made.batch([replace(example, unrelated=()) for example in batch.examples], **batch.form)
    nothing = of_another_image(made, alone, "asked_word")
    assert isinstance(nothing, Gazes)
    assert not nothing.there.any()
    assert looked(made, alone, LEARNED, OPTIONS)[f"lead|{GAZE}|{OTHER_MAP}"].isnan().all()


def planted(*, heard: bool) -> Subject:
    """Head 1.2 says w7 as far as it reads white patches, of which w9 keeps it; no word hears the twin's."""
    made = white_is_said()
    attention = made.layers[LAYER].self_attn
    with torch.no_grad():
        made.model.get_input_embeddings().weight[made.tokenizer.convert_tokens_to_ids("w9"), KEEPS] = 60.0
        attention.q_proj.weight[HEAD * 8 : HEAD * 8 + 8] *= 0.3
        attention.k_proj.weight[HEAD // 2 * 8 + 3, KEEPS] = 2.4
        if not heard:
            made.model.lm_head.weight[:, SAYS] = 0.0
    return made


def test_a_head_that_reads_too_little_is_helped_and_its_twin_is_not():
    learned = LEARNED._replace(heads=[[LAYER, HEAD]])
    gained = {}
    for heard in (True, False):
        made = planted(heard=heard)
        batch = made.batch([example for example in examples(16) if example.answer == " w7"])
        rows = {name: values.numpy() for name, values in looked(made, batch, learned, OPTIONS).items()}
        found = Rows(pd.DataFrame({"group": range(8)}), rows)
        gained[heard] = change(found, "lead", CHOSEN).mean(0)
        if heard:
            assert change(found, "lead", CHOSEN, HEADS).mean() < 0.2 * gained[True][1]
            assert change(found, "lead", CHOSEN, BLANK).mean(0)[1] < 0.2 * gained[True][1]
    assert gained[True][1] > 0.1 > -0.01 > gained[True][0]
    assert np.abs(gained[False]).max() < 0.05 * gained[True][1]  # what its length does to the final norm


def test_the_heads_that_read_the_picture_most():
    made = subject()
    batch = of(made, "left")
    share, heads = image_share(made, batch), reading_heads(made, [batch], 1)
    with torch.no_grad():
        made.model.set_attn_implementation("eager")
        maps = made.model(**made.prepare(batch), output_attentions=True).attentions
    expected = torch.stack([one[torch.arange(4), :, batch.last] for one in maps], 1)
    expected = (expected * batch.where("image")[:, None, None]).sum(-1)
    assert_close(share, expected, "share")
    assert heads == [divmod(int(expected.mean(0).argmax()), expected.shape[2])]


def test_text_behind_a_picture_is_read_under_the_same_edits(monkeypatch):
    def made_up(n, seed, *, tokenizer, tokens):
        return contrasts.examples(n, seed, tokenizer=tokenizer, size=12)

    monkeypatch.setattr(passages, "examples", made_up)
    made = subject()
    documents, losses = losses_of_text(made, [of(made)], [(0, 1), (1, 2)], LEARNED.strengths, replace(OPTIONS, texts=4))
    assert len(documents) == 4
    assert set(losses) == {PLAIN, CHOSEN, EVERY, HEADS}
    assert losses[CHOSEN] != losses[PLAIN] != losses[EVERY]
    text = _looking_fit._behind(made_up(4, 1, tokenizer=None, tokens=64)[0], examples(1)[0].images[0])
    batch = made.batch([text], **of(made).form)
    with torch.no_grad(), repairs.look(made, batch, 4.0):
        logits = made.model(**made.prepare(batch)).logits[0].log_softmax(-1)
    ids, first = batch.inputs["input_ids"][0], int(batch.where("image")[0].nonzero()[-1, 0]) + 1
    expected = -logits[first:-1].gather(1, ids[first + 1 :, None]).mean()
    assert losses[EVERY][0] == pytest.approx(float(expected), rel=1e-4)


def test_what_is_right():
    kinds = [asked_of(example) for example in examples(4)]
    assert kinds == [OTHER, YES, OTHER, NO]


def analyse(out, options=OPTIONS, **settings):
    (directory,) = run(
        subject(), task(), {"looking": (looking, options)}, Settings(**{"limit": 24, "out": out} | settings)
    )
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(looking, "FIT_EXAMPLES", 8)
    found = analyse(tmp_path / "one")
    effects, levels = found["effects"], found["levels"]
    assert set(effects["questions"]) == {"all questions", "yes is right", "no is right", "other questions"}
    whole = effects[(effects["questions"] == "all questions") & (effects["measure"] == "the answer's lead")]
    own = whole[whole["control"] == ""].set_index(["edit", "strength"])["value"]
    level = levels[levels["measure"] == "the answer's lead"].set_index(["edit", "strength"])["value"]
    assert own[EVERY, 4.0] == pytest.approx(level[EVERY, 4.0] - level["as it is", 1.0])
    assert set(found["draws"]["draw"]) == {-1, 0, 1}
    other = analyse(tmp_path / "two", size=5, padding="left")
    pd.testing.assert_frame_equal(other["effects"], effects, rtol=1e-3, atol=1e-4)
    more = analyse(tmp_path / "three", replace(OPTIONS, factors=(2.0,), draws=0))
    numbers = more["claims"].set_index("name")
    assert "no factor is below 1" in numbers.loc[LESS, "numbers"]
    assert numbers.loc["chosen heads help", "verdict"] == "not testable"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factors": (0.0, 2.0)}, "--looking.factors 0 2"),
        ({"factors": (0.5,)}, "above 1"),
        ({"factors": ()}, "--looking.factors nothing"),
        ({"alphas": (-1.0,)}, "--looking.alphas -1"),
        ({"top": 99}, "--looking.top 99"),
        ({"draws": -1}, "--looking.draws -1"),
    ],
)
def test_mistakes_are_one_line(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run(subject(), task(), {"looking": (looking, replace(OPTIONS, **options))}, Settings(8, out=tmp_path))


def test_a_text_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="image"):
        run(tiny.subject(), contrasts.task(), {"looking": (looking, OPTIONS)}, Settings(8, out=tmp_path))

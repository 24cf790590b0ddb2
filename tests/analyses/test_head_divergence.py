"""Head divergence: equal to two plain forwards on every vision-language family; planted heads; tables."""

from __future__ import annotations

import json
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.analyses import metrics
from crosslens.analyses.flow import _divergence_words, _passes, head_divergence
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Objects, Segment
from crosslens.data.tasks import Task
from crosslens.probes.model import anatomy
from crosslens.probes.observe.generation import generate_answers
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.prompts import image_ablation
from crosslens.probes.runs.answers import own_answers
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify
from crosslens.reports.figures import head_divergence as figures

from ..helpers import tiny, vision_subjects
from ..helpers.vision import COUNTS_IMAGES, END, IMAGE, PER_TOKEN, START, VISION, alone, build, inputs
from ..probes.test_families import assert_close, positions

WORDS = 2  # the last tokens of every prompt, at which heads are compared


@torch.no_grad()
def plain(family, given, hidden=None):
    """The inputs of every layer's o_proj in a plain eager forward, [layer, p, h, d], one prompt; `hidden`: key
    positions that later rows may not read."""
    model = build(family, implementation="eager")
    z = {}
    told = {} if family in COUNTS_IMAGES else {"position_ids": positions(given)}

    def keep(index):
        return lambda module, args: z.__setitem__(index, args[0][0])

    def mask(module, args, kwargs):
        if hidden is not None:
            old = kwargs["attention_mask"].clone()
            rows = ~hidden
            old[..., rows[:, None] & hidden[None]] = torch.finfo(old.dtype).min
            kwargs["attention_mask"] = old
        return args, kwargs

    with ExitStack() as stack:
        for i, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
            stack.callback(anatomy.output_projection(layer).register_forward_pre_hook(keep(i)).remove)
            stack.callback(anatomy.attention_of(layer).register_forward_pre_hook(mask, with_kwargs=True).remove)
        model(**given, **told, use_cache=False)
    return torch.stack([z[i].reshape(z[i].shape[0], 4, -1) for i in range(3)])


def without_image(family, given):
    """One prompt's inputs with the image taken out by hand, and its frame where the family has one."""
    ids = given["input_ids"][0]
    framed = family in ("gemma3", "glm4v", *COUNTS_IMAGES)
    block = (ids == IMAGE) | (framed & ((ids == START) | (ids == END)))
    return {k: v[:, ~block] for k, v in given.items() if k in PER_TOKEN}


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", VISION)
def test_vhd_equals_two_plain_forwards(family, padding):
    model = build(family)
    given, subject = inputs(model, padding), Subject(model)
    last = image_ablation.real_positions(given).int().cumsum(1).argmax(1)
    wanted = last[:, None] - torch.arange(WORDS - 1, -1, -1)
    seen = []
    with tracing(subject, lambda layer: seen.append(_passes.z_at(layer.z, wanted))):
        subject.forward(given)
    seen = torch.stack(seen, 1)
    dropped, stayed = image_ablation.drop_image(subject, given)
    hide = image_ablation.hide_image(image_ablation.image_columns(subject, given))
    found = {
        "dropped": _passes.compare(subject, seen, dropped, image_ablation.moved(stayed, wanted)),
        "masked": _passes.compare(subject, seen, given, wanted, hide),
    }
    for i in range(3):
        one = alone(given, i)
        hidden = one["input_ids"][0] == IMAGE
        with_image = plain(family, one)[:, -WORDS:]
        for way, other in (
            ("dropped", plain(family, without_image(family, one))),
            ("masked", plain(family, one, hidden)),
        ):
            for kind in _passes.KINDS:
                expected = metrics.head_divergence(with_image, other[:, -WORDS:], kind=kind).mean(1)
                assert_close(found[way][kind][i], expected, f"{family} {way} {kind}")
            l2 = metrics.head_divergence(with_image, other[:, -WORDS:]).transpose(0, 1)
            assert_close(found[way]["t_vhd"][i], metrics.total_divergence(l2, 4), f"{family} {way} T-VHD")
            assert float(expected.max()) > 1e-3


WORDS_THERE = Objects({f"w{i}": f"w{i}" for i in range(0, 48, 2)}, frozenset(f"w{i}" for i in range(0, 24, 2)))


def captions(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Random pictures with a question of one to three words; every other word names an object."""
    made = []
    for i in range(n or 6):
        question = " " + " ".join(f"w{j}" for j in range(3, 4 + i % 3))
        segments = (Segment("image", vision_subjects.picture(100 * seed + i)), Segment("text", " w1"))
        segments += (Segment("question", question), Segment("text", " w2"))
        made.append(Example(f"c{i}", f"g{seed}-{i // 2}", segments, objects=WORDS_THERE))
    return made


def task() -> Task:
    module: Any = SimpleNamespace(
        __doc__="Pictures", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=captions
    )
    return Task("captions", module, {})


def seeing(family="llava"):
    return Subject(*vision_subjects.build(family), name=f"tiny-{family}")


def measured(out, **settings):
    subject, options = seeing(), head_divergence.Options(strata=2, bins=5)
    settings = Settings(out=out, **{"limit": 6, "answer_tokens": 7, **settings})
    (directory,) = run(subject, task(), {"head_divergence": (head_divergence, options)}, settings)
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("run"))


def test_tables_do_not_depend_on_batches_and_padding(found, tmp_path):
    _, tables = found
    assert {
        "heads",
        "layers",
        "excess",
        "stability",
        "words",
        "auroc",
        "margins",
        "captions",
        "claims",
        "findings",
    } == set(tables)
    _, others = measured(tmp_path, size=1, padding="left")
    for name, table in tables.items():
        assert len(table) == len(others[name]), name
        if "value" in table:
            np.testing.assert_allclose(table["value"], others[name]["value"], rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_way_and_control_is_there(found):
    _, tables = found
    heads = tables["heads"]
    assert set(heads["way"]) == {"dropped", "masked", "swapped", "question changed"}
    assert set(heads["control"]) == {"", "another image", "another question"}
    assert (heads.groupby(["way", "measure"]).size() == 12).all()
    assert (heads["value"] >= 0).all()
    assert set(tables["auroc"]["level"]) <= set(_divergence_words.LEVELS)
    assert (tables["captions"].groupby(["way", "example"])["token"].count() > 0).all()
    assert len(tables["claims"]) == len(head_divergence.CLAIMS)


def test_every_figure_is_drawn(found):
    _, tables = found
    drawn = figures.figures(tables)
    assert list(drawn) == [item.name for item in figures.FIGURES]
    assert all("n\u00a0=" in figure.layout.meta["caption"] for figure in drawn.values())


def test_verify_generates_and_compares(found):
    directory, _ = found
    said = []
    verify(directory, seeing(), task(), head_divergence, say=said.append)
    assert any(line.startswith("answers   6 of 6") for line in said)


def answered(family="llava", n=3):
    """A batch with given answers of one to three tokens."""
    examples = [
        Example(e.id, e.group, (*e.segments, Segment("answer", " " + " ".join(f"w{5 + j}" for j in range(i + 1)))))
        for i, e in enumerate(captions(n, tokenizer=None))
    ]
    return seeing(family), examples


@torch.no_grad()
def test_teacher_forcing_equals_token_by_token_with_cache():
    """T-VHD of every answer token, from two generations that keep their own caches."""
    subject, examples = answered()
    batch = subject.batch(examples)
    options = head_divergence.Options(ways=("dropped",), question="", k=2)
    rows = observe(subject, batch, {"x": (head_divergence, How(options))})["x"]
    for i, example in enumerate(examples):
        one = subject.batch([example])
        answer = one.inputs["input_ids"][0][one.where("answer")[0]].tolist()
        prompt = {k: v[:, : -len(answer)] if k in PER_TOKEN else v for k, v in one.inputs.items()}
        blind_prompt, _ = image_ablation.drop_image(subject, prompt)
        vhd = metrics.head_divergence(stepwise(subject, prompt, answer), stepwise(subject, blind_prompt, answer))
        expected = metrics.total_divergence(vhd, 2)
        assert_close(rows["dropped|t_vhd"][i, : len(answer)], expected, "T-VHD")
        assert rows["dropped|t_vhd"][i, len(answer) :].isnan().all()


def stepwise(subject, prompt, answer):
    """z at the last position before each answer token, [n, layer, h, d], one cached step after the other."""
    z: list[torch.Tensor] = []
    with ExitStack() as stack:
        for layer in subject.layers:
            hook = anatomy.output_projection(layer).register_forward_pre_hook(lambda m, a: z.append(a[0][0, -1]))
            stack.callback(hook.remove)
        state = subject.model(**prompt, use_cache=True).past_key_values
        for token in answer[:-1]:
            state = subject.model(input_ids=torch.tensor([[token]]), past_key_values=state).past_key_values
    return torch.stack(z).reshape(len(answer), subject.n_layers, subject.n_heads, -1)


LAYER, HEAD, MARK = 1, 2, 5


@torch.no_grad()
def planted():
    """All heads attend to texts alone, uniformly, but one, which attends to the image; nothing is ever written."""
    text = vision_subjects.vision.VISION["llava"]["text_config"] | {"num_key_value_heads": 4}
    tower = vision_subjects.vision.VISION["llava"]["vision_config"] | {"image_size": 24}
    model = vision_subjects.vision.build("llava", text_config=text, vision_config=tower)
    model.get_input_embeddings().weight[:, MARK] = 3.0
    model.model.multi_modal_projector.linear_2.bias[MARK] = -9.0
    for index, layer in enumerate(anatomy.find_layers(anatomy.find_decoder(model), 3)):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        for head in range(4):
            sign = -1.0 if (index, head) == (LAYER, HEAD) else 1.0
            for projection, weight in ((layer.self_attn.q_proj, 6.0), (layer.self_attn.k_proj, 6.0 * sign)):
                projection.weight[8 * head : 8 * head + 8].zero_()
                projection.weight[8 * head + 7, MARK] = weight  # the slowest rotation: places hardly matter
    return Subject(model, vision_subjects.PROCESSORS["llava"](), name="planted")


def test_the_planted_head_alone_is_above_its_control(tmp_path):
    options = {"head_divergence": (head_divergence, head_divergence.Options(ways=("dropped", "masked")))}
    (directory,) = run(planted(), task(), options, Settings(out=tmp_path, limit=6, answer_tokens=4))
    heads = pd.read_parquet(directory / "tables" / "heads.parquet").query("measure == 'l2'")
    values = {way: part.set_index(["layer", "head"])["value"] for way, part in heads.groupby("way")}
    control = values["question changed"]
    for way in ("dropped", "masked"):
        above = values[way] > control
        assert above[above].index.tolist() == [(LAYER, HEAD)]
        assert values[way][LAYER, HEAD] > 100 * values[way].drop((LAYER, HEAD)).max()


def test_bad_prompts_are_one_clear_line():
    subject = seeing()
    observing = {"x": (head_divergence, How(head_divergence.Options()))}
    bare = Example("bare", "g", (Segment("question", "w1 w2"),))
    with pytest.raises(UserError, match="example bare has no image"):
        observe(subject, subject.batch([*captions(1, tokenizer=None), bare]), observing)
    text = tiny.subject()
    with pytest.raises(UserError, match="no image token"):
        observe(text, text.batch(["w1 w2"]), observing)
    picture = vision_subjects.picture()
    at_once = Example("at-once", "g", (Segment("text", "w1 "), Segment("image", picture), Segment("answer", " w2")))
    with pytest.raises(UserError, match="example at-once: the answer follows directly on the image"):
        observe(subject, subject.batch([at_once]), observing)
    alone = Example("alone", "g", (Segment("image", picture), Segment("text", " w1")))
    inputs = {k: v[:, 1:-1] if k in PER_TOKEN else v for k, v in subject.batch([alone]).inputs.items()}
    with pytest.raises(UserError, match="nothing is left"):
        image_ablation.drop_image(subject, inputs)


def test_a_context_that_would_cut_the_answer_is_refused():
    subject = seeing()
    subject.model.config.get_text_config().max_position_embeddings = 45
    with pytest.raises(UserError, match="the context would cut the answer"):
        own_answers(subject, captions(3, tokenizer=None), 4)
    uneven = subject.batch(captions(3, tokenizer=None))
    with pytest.raises(UserError, match="padding on the left"):
        generate_answers(subject, uneven, 2)


def test_answers_read_back_as_they_were_generated(found):
    directory, _ = found
    answers = json.loads((directory / "answers.json").read_text())
    assert all(answer["text"].startswith(" w") for answer in answers.values())
    unknown = tiny.tokenizer().unk_token_id  # not shown in a text, so it cannot come back
    assert all(answer["same"] == (unknown not in answer["ids"]) for answer in answers.values())
    assert {answer["same"] for answer in answers.values()} == {True, False}
    record = json.loads((directory / "record.json").read_text())
    assert "that read back as other tokens" in record["notes"][0]


def test_several_images_are_all_used():
    """Two images in one prompt: both are dropped, and both hidden."""
    subject = seeing("gemma3")
    shown = [Segment("image", vision_subjects.picture(i)) for i in range(2)]
    two = Example(
        "two", "g", (Segment("text", "w1 "), shown[0], Segment("text", " w3 "), shown[1], Segment("question", " w2"))
    )
    batch = subject.batch([two])
    dropped, _ = image_ablation.drop_image(subject, batch.inputs)
    words = subject.tokenizer.convert_ids_to_tokens(dropped["input_ids"][0].tolist())
    assert words == ["<s>", "w1", "w3", "w2"]
    options = head_divergence.Options(question="")
    rows = observe(subject, batch, {"x": (head_divergence, How(options))})["x"]
    assert float(rows["dropped|l2"].max()) > 0
    assert rows["swapped|l2"].isnan().all()

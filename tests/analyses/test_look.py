"""`look`: the planted head is found at the patch it looks at; numbers equal the slow way; forwards are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from crosslens import Subject, capture, look, metrics, tracing
from crosslens.analyses.lenses import logit_attribution
from crosslens.analyses.look import asking, maps, observing, texts
from crosslens.data.errors import UserError

from ..helpers import planted_looking, tiny
from ..helpers.vision_subjects import build, picture

ASKED = {"answer": "w6 w7", "heads": 4}


@pytest.fixture(scope="module")
def llava():
    model, processor = build("llava")
    model.config.get_text_config().max_position_embeddings = 256
    return Subject(model, processor, name="tiny-llava")


@pytest.fixture(scope="module")
def planted():
    return planted_looking.subject()


@pytest.mark.parametrize("place", [(1, 4), (5, 0)])
def test_the_planted_head_is_first_and_its_map_is_the_painted_patch(planted, place):
    content = look(planted, "w1 w2", planted_looking.picture(*place), **ASKED).content
    first, second = content["heads"]["rows"][:2]
    assert (first["layer"], first["head"]) == (planted_looking.LAYER, planted_looking.HEAD)
    assert first["gain"] > 0.1
    assert abs(second["gain"]) < 1e-4
    cell = content["pictures"][0]["cells"][place[0]][place[1]]
    own = {side: values[:, 0] for side, values in content["heads"]["maps"].items()}
    assert (own["asked"][:, cell] > 0.95).all()
    assert (own["general"][:, cell] > 0.95).all()  # it looks there whatever is asked
    assert (own["blank"].max(-1) < 0.05).all()
    attention = content["maps"][0]["values"]
    gained = attention["asked"] - attention["blank"]
    assert (gained[:, planted_looking.LAYER].argmax(-1) == cell).all()


def test_another_patch_has_another_map(planted):
    one, other = (look(planted, "w1 w2", planted_looking.picture(*at), **ASKED).content for at in ((0, 1), (4, 4)))
    assert not np.allclose(one["heads"]["maps"]["asked"][:, 0], other["heads"]["maps"]["asked"][:, 0])


def test_every_number_is_that_of_plain_forwards(llava):
    asked = asking.ask(llava, asking.prompt("w1 w2", [picture(0, (24, 24))]), "w6 w7", 4, None, None, "w3 w4 w5 w9")
    batch = asked.prompts
    assert batch.mask.sum(1).unique().numel() > 1  # one of the prompts is padded
    seen = observing.observe(llava, batch, heads=5, states=(1,), k=2)
    sites = ("pattern", "z", "v", "resid_pre", "resid_post")
    single = [llava.batch([one], **{**batch.form, "padding": "right"}) for one in batch.examples]
    caches = [capture(llava, one, sites) for one in single]
    at = [one.where("patches").nonzero()[:, 1] for one in single]
    places = [one.where("answer").nonzero()[:, 1] - 1 for one in single]
    total = torch.zeros(2, 2)
    for layer in range(llava.n_layers):
        rows = [c["pattern", layer][0][:, q][:, :, k] for c, q, k in zip(caches, places, at, strict=True)]
        W_O = llava.W_O(layer)
        for r, row in enumerate(rows):
            torch.testing.assert_close(seen.attention[r, :, layer], row.mean(0), atol=1e-5, rtol=1e-4)
            v = caches[r]["v", layer][0, at[r]].repeat_interleave(llava.n_heads // llava.n_kv_heads, 1)
            norms = torch.einsum("chd,hde->hce", v, W_O).norm(dim=-1)
            torch.testing.assert_close(seen.carried[r, :, layer], (row * norms[:, None]).mean(0), atol=1e-5, rtol=1e-3)
        z = [c["z", layer][0, q] for c, q in zip(caches, places, strict=True)]
        for i, other in enumerate((2, 1)):
            total[i] += metrics.head_divergence(z[0], z[other]).topk(2, -1).values.sum(-1)
    torch.testing.assert_close(seen.vhd, total, atol=1e-4, rtol=1e-4)
    for i, r in enumerate((0, 2)):
        ids = single[r].inputs["input_ids"][0, places[r] + 1]
        plain = llava.forward(single[r], keep=0)[0, places[r]].log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(seen.log_p[i], plain, atol=1e-5, rtol=1e-4)
    for one in seen.heads:
        own = caches[2]["pattern", one.head[0]][0, one.head[1], places[2]][:, at[2]]
        torch.testing.assert_close(one.maps[2].float(), own, atol=1e-3, rtol=1e-2)
    gains = (seen.shares[0] - seen.shares[2]).mean(-1)
    assert [one.gain for one in seen.heads] == pytest.approx(gains.flatten().topk(5).values.tolist())
    final = llava.norm(caches[0]["resid_post", llava.n_layers - 1][0, at[0]])
    words = maps.lens_words(llava, seen)
    assert words.probability[-1, :, 0] == pytest.approx(
        llava.unembed(final).softmax(-1).amax(-1).detach().numpy(), abs=1e-5
    )
    assert words.states == [1, llava.n_layers]


def test_relative_attention_is_near_one_where_both_look_alike_and_grows_with_the_question():
    general = torch.rand(2, 3, 9)
    alike, doubled = maps._relative(general, general), maps._relative(general * 2, general)
    assert (alike < 1).all()
    assert alike.max() > 0.9
    assert doubled == pytest.approx(2 * alike, rel=1e-5)
    assert np.isfinite(maps._relative(general, torch.zeros_like(general))).all()


@pytest.mark.parametrize("answer", ["w6 w7", ""])
def test_a_look_costs_at_most_four_forwards_of_prompt_and_answer(llava, answer):
    """Positions that the first layer sees: three prompts, and where the answer is generated one prompt more."""
    seen: list[int] = []
    handle = llava.layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2].numel()))
    with handle:
        found = look(llava, "w1 w2", picture(0, (24, 24)), answer=answer, tokens=5, general="w3 w4").content
    whole = asking.ask(llava, asking.prompt("w1 w2", [picture(0, (24, 24))]), found["answer"], 5, None, None, "w3 w4")
    assert sum(seen) <= 4 * int(whole.prompts.mask.sum(1).max())
    assert found["given"] is bool(answer)


def test_all_pictures_are_used(llava):
    content = look(llava, "w1 w2", [picture(0, (24, 24)), picture(1, (24, 24))], **ASKED).content
    cells = [np.array(one["cells"]) for one in content["pictures"]]
    assert [one.shape for one in cells] == [(6, 6), (6, 6)]
    assert sorted(np.concatenate([one.ravel() for one in cells])) == list(range(content["counted"]))
    assert content["maps"][0]["values"]["asked"].shape == (2, llava.n_layers, 72)
    assert content["maps"][-1]["key"] == "tam"
    assert (content["maps"][-1]["values"]["asked"] >= 0).all()


def test_large_looks_keep_bands_of_layers(llava, monkeypatch):
    fine = look(llava, "w1 w2", picture(0, (24, 24)), **ASKED).content["maps"][0]
    monkeypatch.setattr(maps, "BUDGET", 8 * 2 * 36 * 2)
    coarse = look(llava, "w1 w2", picture(0, (24, 24)), **ASKED).content["maps"][0]
    assert coarse["levels"] == ["layers 0–1", "layer 2"]
    assert coarse["values"]["blank"][:, 0] == pytest.approx(fine["values"]["blank"][:, :2].mean(1), abs=1e-6)


def test_where_the_geometry_is_unknown_numbers_are_left(llava, monkeypatch):
    from crosslens.probes.prompts import image_prompts
    from crosslens.probes.prompts.geometry.views import NO_NUMBERS, Geometry

    monkeypatch.setattr(image_prompts, "find", lambda seen, held: Geometry(unknown=NO_NUMBERS))
    content = look(llava, "w1 w2", picture(0, (24, 24)), **ASKED).content
    assert content["unknown"] == NO_NUMBERS
    assert content["pictures"][0]["cells"] == []
    assert len(content["heads"]["rows"]) == 4
    assert set(look(llava, "w1 w2", picture(0, (24, 24)), **ASKED).figures) == {"words", "t_vhd", "layers", "heads"}


def test_figures_and_name_in_a_notebook(llava, tmp_path):
    found = look(llava, "w1 w2", picture(0, (24, 24)), **ASKED)
    assert set(found.figures) == {"map", "words", "t_vhd", "layers", "heads"}
    assert repr(found) == "Look(tiny-llava: 'w1 w2' → 'w6 w7', 1 pictures, 2 tokens)"
    assert found.save(tmp_path / "look.html").stat().st_size < 300_000


# ---------------------------------------------------------------- one text


def another_word(opened: Subject, batch: Any, answer: str) -> str:
    """The likeliest word but the answer, as the tokenizer writes it."""
    for token in opened.last_logits(batch)[0].argsort(descending=True).tolist():
        text = opened.tokenizer.decode([token])
        if repr(text) != answer and text.strip():
            return text
    raise AssertionError("one word alone")


def test_a_text_shows_every_head_as_it_attends():
    opened = tiny.subject()
    content = look(opened, "w1 w2 w3 w4 w5").content
    batch = opened.batch(["w1 w2 w3 w4 w5"])
    cache, n = capture(opened, batch, ["pattern"]), int(batch.mask.sum())
    rows, columns = np.tril_indices(n)
    assert len(content["heads"]) == opened.n_layers * opened.n_heads == content["all_heads"]
    for one, own in zip(content["heads"], content["patterns"], strict=True):
        whole = cache["pattern", one["layer"]][0, one["head"]].numpy()
        assert own == pytest.approx(whole[rows, columns], abs=1e-3)
    other = another_word(opened, batch, content["answer"])
    assert content["beside"] == repr(other)
    found = logit_attribution.show(opened, batch, logit_attribution.Options(token=other))["heads"]
    beside = {(int(r.layer), int(r.head)): r.value for r in found.itertuples()}
    assert all(one["beside"] == pytest.approx(beside[one["layer"], one["head"]]) for one in content["heads"])
    sizes = [abs(one["logit"]) for one in content["heads"]]
    assert sizes == sorted(sizes, reverse=True)
    assert content["means"][1] == pytest.approx(cache["pattern", 1][0].mean(0).numpy()[rows, columns], abs=1e-6)


def test_a_long_text_keeps_the_heads_that_write_most_and_all_layers(monkeypatch):
    opened, text = tiny.subject(), "w1 w2 w3 w4 w5"
    every = look(opened, text).content
    monkeypatch.setattr(texts, "BUDGET", 4 * every["patterns"].shape[1])
    some = look(opened, text).content
    assert 0 < len(some["heads"]) < len(every["heads"]) == some["all_heads"]
    assert some["heads"] == every["heads"][: len(some["heads"])]
    assert some["patterns"] == pytest.approx(every["patterns"][: len(some["heads"])], abs=1e-6)
    monkeypatch.setattr(texts, "BUDGET", 4)
    with pytest.raises(UserError, match="tokens, a page of its attention holds"):
        look(opened, text)


# ---------------------------------------------------------------- mistakes


def refused(told: str, *args: Any, **more: Any) -> None:
    with pytest.raises(UserError, match=told) as error:
        look(*args, **more)
    assert "\n" not in str(error.value)


def test_bad_input_is_told_in_one_line(llava, tmp_path):
    shown = picture(0, (24, 24))
    refused("reads no images", tiny.subject(), "w1", shown)
    refused("name a question", llava, "  ", shown)
    refused("no image at", llava, "w1", tmp_path / "none.png")
    refused("placeholder out of texts", llava, "w1 <image>", shown, answer="w6")
    refused("without an image", llava, "w1 <image> w2")
    refused("at least one of each", llava, "w1", shown, tokens=0)
    refused("image 1 is int", llava, "w1", [shown, 3])
    refused("the answer is int", llava, "w1", shown, answer=3)
    refused("the question is NoneType", llava, None, shown)
    refused("is not one token", tiny.subject(), "w1 w2", answer="w3 w4")
    refused("unknown template", llava, "w1", shown, template="{what}", answer="w6")
    with tracing(llava, edits={0: lambda call: call}):
        refused("needs tiny-llava as it is", llava, "w1", shown)


def test_an_answer_that_is_empty_is_refused(llava, monkeypatch):
    from crosslens.probes.observe.generation import Answer

    monkeypatch.setattr(asking, "own_answers", lambda *args, **more: {"look": Answer([], "", False)})
    refused("answers nothing", llava, "w1", picture(0, (24, 24)))


def test_a_template_that_moves_the_answer_is_refused(llava, monkeypatch):
    """As the embedded subject's chat template would: it writes every turn as a question."""
    own = llava.processor.chat_template.replace("{{ m.role }} ", "")
    monkeypatch.setattr(
        llava.processor, "chat_template", own.replace("{% if add_generation_prompt %}", "{% if true %}")
    )
    refused("writes another prompt", llava, "w1", picture(0, (24, 24)), answer="w6")


def test_the_embedded_subjects_have_a_form_of_their_own():
    class Named:
        name, processor, tokenizer = "scenes_prior", None, None

    assert asking.usual_form(Named(), asking.prompt("What?", [picture()])).startswith("{image}\nQuestion: {question}")

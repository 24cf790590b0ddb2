"""Activations on disk equal a capture; the second call runs nothing."""

from __future__ import annotations

import pytest
import torch
from crosslens import cached, capture, cli
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.runs.activations import Options, cached_together, chosen_positions, size_of
from crosslens.probes.runs.run import Settings

from ..helpers import tiny
from ..helpers.families import build


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    return tmp_path


def test_last_position_equals_capture():
    subject, task = tiny.subject(), tiny.task()
    kept = cached(subject, task, ["resid_pre", "z"], limit=6, settings=Settings(size=4))
    resid, z = kept["resid_pre"], kept["z"]
    assert resid.shape == (6, 3, 32)
    assert z.shape == (6, 3, 4, 8)
    examples = {e.id: e for e in task.examples(subject.tokenizer, 6, 0)}
    for row, name in enumerate(kept.examples["id"]):
        batch = subject.batch([examples[name]])
        found = capture(subject, batch, ["resid_pre", "z"])
        for layer in range(3):
            last = int(batch.last)
            torch.testing.assert_close(resid[row, layer], found[f"blocks.{layer}.hook_resid_pre"][0, last])
            torch.testing.assert_close(z[row, layer], found[f"blocks.{layer}.attn.hook_z"][0, last])


def test_marks_and_all_positions():
    subject, task = tiny.subject(), tiny.task()
    marked = cached(subject, task, ["resid_pre"], "subject", limit=4)["resid_pre"]
    assert marked.shape[2] == 1
    everything = cached(subject, task, ["resid_pre"], "all", limit=4, settings=Settings(size=2))["resid_pre"]
    lengths = [int(subject.batch([e]).mask.sum()) for e in task.examples(subject.tokenizer, 4, 0)]
    there = everything.isfinite().all(-1)[:, 0].sum(1)
    assert sorted(there.tolist()) == sorted(lengths)


def test_second_call_runs_nothing():
    subject, task = tiny.subject(), tiny.task()
    first = cached(subject, task, limit=4)
    subject.model.register_forward_pre_hook(lambda *a: pytest.fail("a forward was run"))
    again = cached(subject, task, limit=4)
    torch.testing.assert_close(first["resid_pre"], again["resid_pre"], rtol=0, atol=0)


def test_unknown_and_too_large_sites():
    for site in ("pattern", "resid"):
        with pytest.raises(KeyError, match=site):
            cached(tiny.subject(), tiny.task(), [site])


def test_command_fills_lists_and_prunes(home, tmp_path, capsys):
    model = tmp_path / "model"
    build("llama").save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    words = ["--subject", str(model), "--task", "passages:tokens=20", "--limit", "3"]
    cli.main(["cache", "fill", *words, "--sites", "z", "resid_pre"])
    out, err = capsys.readouterr()
    assert "MB in" in err
    assert str(home) in out
    cli.main(["cache", "list"])
    assert "MB  " in capsys.readouterr().out
    cli.main(["cache", "prune", "--keep-days", "0"])
    assert "deleted" in capsys.readouterr().out
    assert not list(home.glob("activations/runs/*"))


def test_unknown_cache_command():
    with pytest.raises((UserError, SystemExit)):
        cli.main(["cache", "empty"])


def test_sites_of_one_layer_have_no_layer_axis():
    subject, task = tiny.subject(), tiny.task()
    name = "blocks.1.attn.hook_z"
    one = cached(subject, task, [name, "resid_pre"], "all", limit=6, settings=Settings(size=4))
    every = cached(subject, task, ["z"], "all", limit=6, settings=Settings(size=4))
    assert one[name].shape == every["z"][:, 1].shape
    assert torch.equal(one[name].nan_to_num(), every["z"][:, 1].nan_to_num())
    assert one["resid_pre"].shape[1] == 3
    tokens = one.tokens(name)
    assert tokens.shape == (int((~one[name].isnan()).all((2, 3)).sum()), 4, 8)


def test_drawn_positions_do_not_depend_on_padding():
    subject, task = tiny.subject(), tiny.task()
    right, left = (
        cached(subject, task, ["resid_pre"], "3", limit=6, settings=Settings(size=size, padding=padding))["resid_pre"]
        for size, padding in ((6, "right"), (2, "left"))
    )
    assert right.shape == (6, 3, 3, 32)
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    batch = subject.batch(task.examples(subject.tokenizer, 6, 0))
    drawn = chosen_positions(batch, "3")
    assert (drawn.sum(1) == 3).all()
    assert not drawn[:, 0].any()  # never the first
    assert torch.equal(chosen_positions(batch, "last").nonzero()[:, 1], batch.last)


def test_several_choices_ride_one_forward(monkeypatch):
    subject, task = tiny.subject(), tiny.task()
    seen = []
    forward = subject.forward
    monkeypatch.setattr(subject, "forward", lambda inputs, **more: seen.append(1) or forward(inputs, **more))
    wanted = [Options(("resid_pre",), "3"), Options(("blocks.0.attn.hook_z",), "last")]
    kept = cached_together(subject, task, wanted, 6, settings=Settings(size=6))
    assert len(seen) == 1
    assert [part.options for part in kept] == wanted
    alone = cached(subject, task, ["blocks.0.attn.hook_z"], "last", limit=6, settings=Settings(size=6))
    assert len(seen) == 1  # the same key, whatever rode with it
    assert torch.equal(alone.tokens("blocks.0.attn.hook_z"), kept[1]["blocks.0.attn.hook_z"])


def test_tokens_of_all_layers_are_refused():
    """Flattened, their layers would pass for examples and every shorter example be dropped."""
    kept = cached(tiny.subject(), tiny.task(), ["z"], "all", limit=4)
    with pytest.raises(UserError, match=r"blocks\.3\.attn\.hook_z"):
        kept.tokens("z")


def few_letters_many_words(n=None, seed=0, *, tokenizer):
    """The longest text is not the longest prompt."""
    words = ["w41 w42 w43", "w1 w2 w3 w4", "w41 w42 w43"]
    return [Example(f"e{i}", f"g{i}", (Segment("text", text),)) for i, text in enumerate(words)]


@pytest.mark.parametrize("positions", ["all", "last", "2"])
def test_the_size_that_is_told_is_the_most(positions):
    subject, task = tiny.subject(), tiny.task()
    task.module.examples = few_letters_many_words
    options = Options(("resid_pre", "blocks.1.attn.hook_z"), positions)
    told = size_of(subject, task, options, None, 0)
    (kept,) = cached_together(subject, task, [options], settings=Settings(size=3))
    assert told == sum(kept[site].nbytes for site in options.sites)

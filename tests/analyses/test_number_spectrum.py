"""Waves over the numbers: rows the slow way, filters against hooked forwards, a planted wave and its twin, mistakes."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import Subject, capture, metrics
from crosslens.analyses.common.controls import NUMBERS, SUBSPACES, WORDS
from crosslens.analyses.lenses import number_spectrum
from crosslens.analyses.lenses._number_rows import READ, measured, numbers, parts_of
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.runs.run import Settings, run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..helpers import contrasts, tiny
from ..helpers.families import build
from .claims.number_spectrum import tables_of

OPTIONS = number_spectrum.Options(draws=1)


def digits():
    """The tiny tokenizer with ten digits in the place of its first ten words."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = [*map(str, range(10)), *tiny.WORDS[10:]]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names, add_bos_token=True)


def subject(family: str = "llama") -> Subject:
    return Subject(build(family, 0), digits(), name=f"tiny-{family}")


def sums(n=None, seed=0, *, tokenizer=None):
    rng = random.Random(seed)
    made = []
    for i in range(n or 10):
        words = " ".join(rng.sample(tiny.WORDS[10:], rng.randint(3, 6)))
        a, b = rng.randint(1, 4), rng.randint(1, 5)
        segments = (Segment("text", f"{words} {a} {b}"),)
        made.append(Example(f"s{i}", f"g{i // 2}", segments, f" {a + b}", (f" {a}",)))
    return made


def rows_of(opened, batch, options=OPTIONS):
    kept = {}
    for name, site in (("attention", "attn_out"), ("MLP", "mlp_out")):
        cached = capture(opened, batch, [site])
        at = torch.arange(len(batch.last)), batch.last
        kept[name] = torch.stack([cached[f"blocks.{i}.hook_{site}"][at] for i in range(opened.n_layers)], 1)
    return measured(opened, batch, kept, options)


@torch.no_grad()
def test_logits_of_numbers_are_products_with_their_rows():
    opened = subject()
    batch = opened.batch(sums(3))
    rows, ids = rows_of(opened, batch), numbers(opened.tokenizer)
    assert [opened.tokenizer.decode([i]) for i in ids] == list("0123456789")
    written = capture(opened, batch, ["mlp_out"])["blocks.1.hook_mlp_out"][torch.arange(3), batch.last]
    expected = written @ opened.W_U[ids].T
    expected -= expected.mean(1, keepdim=True)
    torch.testing.assert_close(rows["logits|MLP"][:, 1], expected, rtol=1e-4, atol=1e-6)
    power = metrics.period_power(rows["logits|MLP"])
    assert rows["random|MLP"].shape == power.shape, "as many random words as numbers"
    fourier = torch.fft.rfft(rows["logits|MLP"]).abs().square()[..., 1:] / 10
    fourier[..., :-1] *= 2
    torch.testing.assert_close(power, fourier, rtol=1e-4, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("module", "place"), [("self_attn", 0), ("mlp", 1)])
def test_filters_are_those_of_hooked_forwards(padding, module, place):
    opened = subject()
    batch = opened.batch(sums(4), padding=padding)
    rows, ids = rows_of(opened, batch), numbers(opened.tokenizer)
    at = torch.arange(4), batch.last
    for index, part in enumerate(parts_of(10, OPTIONS.cut).values()):
        q = metrics.period_directions(opened.W_U[ids].detach(), part).float()

        def edit(module, args, output, q=q):
            states = (output[0] if isinstance(output, tuple) else output).clone()
            states[at] -= states[at] @ q @ q.T
            return (states, *output[1:]) if isinstance(output, tuple) else states

        handles = [getattr(layer, module).register_forward_hook(edit) for layer in opened.layers]
        logits = opened.model(**batch.inputs).logits[at][:, ids]
        for handle in handles:
            handle.remove()
        answer = rows["answer"].long()
        right = logits[torch.arange(4), answer]
        lead = right - (logits.sum(1) - right) / 9
        torch.testing.assert_close(rows[f"filtered|{READ[0]}"][:, 0, place, index], lead, rtol=1e-3, atol=1e-4)
        off = (logits.argmax(1) - answer).abs().float()
        torch.testing.assert_close(rows[f"filtered|{READ[2]}"][:, 0, place, index], off)


def test_rows_belong_to_their_example():
    opened = subject()
    examples = sums(4)
    whole = rows_of(opened, opened.batch(examples, padding="left"))
    for i, example in enumerate(examples):
        for name, values in rows_of(opened, opened.batch([example])).items():
            torch.testing.assert_close(values[0], whole[name][i], rtol=1e-3, atol=1e-4)


def analyse(opened, out, **settings):
    analyses = {"number_spectrum": (number_spectrum, OPTIONS)}
    (directory,) = run(opened, contrasts.task(sums), analyses, Settings(**{"limit": 10, "out": out} | settings))
    return {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def test_a_run_does_not_depend_on_batches(tmp_path):
    found, other = (analyse(subject(), tmp_path / str(i), **how) for i, how in enumerate(({}, {"size": 3})))
    assert set(found["filters"]["control"]) == {"", NUMBERS, SUBSPACES}
    for name in ("spectrum", "slow", "offsets", "size", "filters"):
        pd.testing.assert_frame_equal(found[name], other[name], rtol=1e-3, atol=1e-3)
    sums_of = found["spectrum"].groupby(["module", "layer", "control"])["value"].sum()
    np.testing.assert_allclose(sums_of, 1, rtol=1e-5)


def test_a_planted_wave_is_found_and_its_twin_is_not(tmp_path):
    """MLP 1 writes cosines of period 5 over the numbers at every position."""
    opened = subject()
    rows = opened.W_U[numbers(opened.tokenizer)].detach().double()
    wave = torch.cos(2 * torch.pi * 2 * torch.arange(10) / 10).double()
    direction = (torch.linalg.pinv(rows) @ wave).float()
    handle = opened.layers[1].mlp.register_forward_hook(lambda module, args, out: out + 300 * direction)
    try:
        tables = analyse(opened, tmp_path)
    finally:
        handle.remove()
    shares = tables["spectrum"].query("layer == 1 and period == '5'").set_index(["module", "control"])["value"]
    assert shares["MLP", ""] > 0.95
    assert shares["MLP", NUMBERS] == pytest.approx(2 / 9)
    assert shares["MLP", WORDS] < 0.5
    assert shares["attention", ""] < 0.6


def test_of_numbers_in_any_order_a_share_is_that_of_its_waves():
    generator = torch.Generator().manual_seed(0)
    logits = torch.cos(2 * torch.pi * torch.arange(10) / 10)
    orders = torch.stack([torch.randperm(10, generator=generator) for _ in range(4000)])
    power = metrics.period_power(logits[orders])
    torch.testing.assert_close(power.sum(0) / power.sum(), torch.tensor([2.0, 2, 2, 2, 1]) / 9, rtol=0.05, atol=0.0)


def test_the_expected_share_stands_beside_the_measured_one():
    spectrum = tables_of()["spectrum"].query("module == 'MLP' and layer == 0 and control == @NUMBERS")
    np.testing.assert_allclose(spectrum.sort_values("component")["value"], np.array([2, 2, 2, 2, 1]) / 9)


def test_mistakes_are_one_line():
    opened = subject()
    batch = opened.batch(sums(2))
    with pytest.raises(UserError, match=r"--number_spectrum\.cut 9: from 2 to 5"):
        rows_of(opened, batch, number_spectrum.Options(cut=9))
    with pytest.raises(UserError, match=r"--number_spectrum\.draws 0"):
        rows_of(opened, batch, number_spectrum.Options(draws=0))
    with pytest.raises(UserError, match="only 0 numbers from 0 on are one token"):
        numbers(tiny.tokenizer())
    words = [Example("w", "g", (Segment("text", "w20 w21"),), " w22", (" w23",))]
    with pytest.raises(UserError, match="example w: its answer ' w22' does not begin with a number"):
        rows_of(opened, opened.batch(words))

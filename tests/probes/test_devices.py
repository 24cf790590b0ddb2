"""Layers spread or offloaded by accelerate, and half precision: the same numbers within stated tolerances."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from crosslens import Subject, capture, knockout_sweep
from crosslens.analyses.attention import sinks
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.data.tasks import open_task
from crosslens.probes.model.loading import _refuse_nan, load
from crosslens.probes.model.tolerance import rows_limit
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import _difference, verify

from ..helpers import tiny
from ..helpers.families import build, prompts

SITES = ["z", "rot_q", "v", "pattern", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
ANALYSES = {
    "sinks": (sinks, sinks.Options(dimensions=(3, 5), tau=1.5)),
    "lenses": (lenses, lenses.Options()),
}


def spread(model, folder: Path, how: str):
    """The model with accelerate's hooks: its instances' `forward` is replaced, and its weights may be away."""
    if how == "hooks":
        return dispatch_model(model, {"": "cpu"}, force_hooks=True)
    if how == "cpu":
        return cpu_offload(model, torch.device("cpu"))
    if how == "disk":
        return disk_offload(model, str(folder), torch.device("cpu"))
    parts = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    rest = {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    return dispatch_model(model, parts | rest, main_device="cpu", offload_dir=str(folder))


@pytest.mark.parametrize("how", ["hooks", "cpu", "disk", "mixed"])
def test_spread_model_is_read_like_a_whole_one(tmp_path, how):
    whole = Subject(build("llama"), tiny.tokenizer(), name="tiny-llama")
    subject = Subject(spread(build("llama"), tmp_path / "weights", how), tiny.tokenizer(), name="tiny-llama")
    assert subject.device == torch.device("cpu")
    assert subject.fingerprint == whole.fingerprint
    assert subject.check()["passed"].all()
    torch.testing.assert_close(subject.W_O(2), whole.W_O(2), rtol=0, atol=0)
    found, expected = (capture(s, prompts("left"), SITES) for s in (subject, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    last = torch.zeros(3, 9, dtype=torch.bool)
    last[:, -1] = True
    flow = {"source": last.roll(-1, 1), "target": last, "window": 2, "measure": lambda logits, rows: logits}
    sweeps = (knockout_sweep(s, prompts("left"), **flow).values for s in (subject, whole))
    torch.testing.assert_close(*sweeps, rtol=1e-6, atol=1e-6)
    logits = (s.last_logits(prompts("right")) for s in (subject, whole))
    torch.testing.assert_close(*logits, rtol=0, atol=0)


def test_spread_model_runs_and_verifies(tmp_path):
    whole = run(tiny.subject(), tiny.task(), ANALYSES, Settings(limit=6, size=3, out=tmp_path / "a"))
    subject = Subject(spread(build("llama"), tmp_path / "weights", "mixed"), tiny.tokenizer(), name="tiny-llama")
    made = run(subject, tiny.task(), ANALYSES, Settings(limit=6, size=3, out=tmp_path / "b"))
    for a, b in zip(made, whole, strict=True):
        assert a.name == b.name, "the same weights, the same key"
        for path in (b / "tables").glob("*.parquet"):
            pd.testing.assert_frame_equal(pd.read_parquet(a / "tables" / path.name), pd.read_parquet(path))
    verify(made[1], subject, tiny.task(), lenses, say=lambda line: None)


def test_device_map_from_a_directory(tmp_path):
    build("llama").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    subject = load(str(tmp_path), device="map", dtype="float32")
    assert subject.fingerprint == load(str(tmp_path)).fingerprint


def test_offloaded_nan_is_found(tmp_path):

    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        _refuse_nan("x", spread(model, tmp_path, "disk"))


# --- half precision

# How far bfloat16 tables may lie from float32 ones, as a share of the metric's largest value in its table. Measured
# on SmolLM2 with 4 examples: φ 0.033, energy 0.027, received 0.007, shares of heads 0.011, |x| 0.013,
# probability 0.05 (mlp_out; 0.024 elsewhere), KL 0.008, entropy 0.023, rank 0.012, logit difference 0.001.
BFLOAT16 = {
    "phi": 0.07,
    "energy": 0.06,
    "received": 0.02,
    "first_share": 0.03,
    "sink_share": 0.03,
    "|x|": 0.06,
    "φ": 0.02,
    "probability": 0.1,
    "kl": 0.02,
    "entropy": 0.05,
    "rank": 0.05,
    "logit difference": 0.02,
}
# Counts over a threshold move in steps: so many of a cell's examples (or a quarter of the heads of one, for hidden
# sinks) may lie on its other side.
STEPS = {
    "hidden": 0.25,
    "hidden_rate": 2,
    "sink by φ": 1,
    "sink by attention": 1,
    "Jaccard": 1,
    "top1": 1,
    "pair accuracy": 1,
    "pair accuracy − guessing": 1,
}


def measured(directory: Path) -> dict[tuple[str, ...], pd.DataFrame]:
    """Every table of a run cut into metrics; a table with one metric is named by its unit.

    Numbers that claims are about are made of the same rows as the other tables'.
    """
    found = {}
    for path in (directory / "tables").glob("*.parquet"):
        table = pd.read_parquet(path)
        if path.stem not in ("claims", "findings", "summary", "compared"):
            table["measure"] = table["measure"] if "measure" in table else table["unit"]
            by = ["measure", *(name for name in ("site", "norm") if name in table)]
            found |= {(path.stem, *key): rows for key, rows in table.groupby(by)}
    return found


def assert_near(found: list[Path], expected: list[Path], share: float) -> None:
    for a, b in zip(found, expected, strict=True):
        tables = measured(a)
        for key, table in measured(b).items():
            value, other = table["value"], tables[key]["value"]
            step = STEPS.get(key[1])
            limit = BFLOAT16[key[1]] * share * value.abs().max() if step is None else step / table["n"]
            assert (value.isna() == other.isna()).all(), key
            worst = float(((value - other).abs().fillna(0) / limit).max())
            assert worst <= 1 + 1e-9, (key, worst)


@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 1.0), (torch.float16, 0.5)])
def test_half_precision_on_a_tiny_model(tmp_path, dtype, share):
    subject = Subject(build("llama").to(dtype), tiny.tokenizer(), name="tiny-llama")
    assert subject.check()["passed"].all()
    half = run(subject, tiny.task(), ANALYSES, Settings(limit=10, out=tmp_path / "half"))
    whole = run(tiny.subject(), tiny.task(), ANALYSES, Settings(limit=10, out=tmp_path / "whole"))
    assert {d.name for d in half}.isdisjoint({d.name for d in whole}), "the dtype is part of the key"
    assert_near(half, whole, share)


@pytest.mark.parametrize(("dtype", "share"), [(torch.bfloat16, 1.0), (torch.float16, 0.5)])
def test_batches_of_two_sizes_in_half_precision(tmp_path, dtype, share):
    """The same tables but for roundings, which matrices of other shapes make elsewhere."""
    subject = Subject(build("llama").to(dtype), tiny.tokenizer(), name="tiny-llama")
    few, many = (
        run(subject, tiny.task(), ANALYSES, Settings(limit=10, size=size, out=tmp_path / str(size))) for size in (2, 5)
    )
    assert_near(few, many, share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_any_batch_size(dtype):
    """1, 2 and 8 prompts at a time, of one length: the README's limit, which follows from dtype and depth."""
    subject, rows = Subject(build("llama").to(dtype), tiny.tokenizer(), name="tiny-llama"), []
    every = tiny.examples(120, tokenizer=subject.tokenizer)
    lengths = [len(subject.tokenizer(example.text).input_ids) for example in every]
    same = max(set(lengths), key=lengths.count)
    examples = [example for example, length in zip(every, lengths, strict=True) if length == same][:8]
    ways = {"sinks": How(ANALYSES["sinks"][1], sinks.Learned((3, 5), 1.5)), "lenses": How(ANALYSES["lenses"][1])}
    asked = {name: (ANALYSES[name][0], how) for name, how in ways.items()}
    for size in (1, 2, 8):
        found = [observe(subject, subject.batch(examples[i : i + size]), asked) for i in range(0, 8, size)]
        names = [(analysis, name) for analysis, own in found[0].items() for name in own]
        rows.append({(a, name): torch.cat([one[a][name] for one in found]) for a, name in names})
    limit = rows_limit(dtype, subject.n_layers)
    for other in rows[1:]:
        for name, expected in rows[0].items():
            assert _difference(other[name], expected, counts_flip=dtype != torch.float32) <= limit, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_patterns_are_float32_whatever_the_model_is(dtype):
    found = capture(Subject(build("gemma2").to(dtype)), prompts("left"), ["pattern", "z"])
    for layer in range(3):
        pattern = found[f"blocks.{layer}.attn.hook_pattern"]
        assert pattern.dtype == torch.float32
        real = prompts("left")["attention_mask"].bool()[:, None].expand(-1, 4, -1)
        torch.testing.assert_close(pattern.sum(-1)[real], torch.ones(int(real.sum())), rtol=0, atol=1e-6)
        assert found[f"blocks.{layer}.attn.hook_z"].dtype == dtype


@pytest.mark.real
def test_bfloat16_on_smollm2(smollm2, tmp_path):
    half = load("smollm2", dtype="bfloat16", device="cpu")
    for spec, name, module in (("passages:tokens=48", "sinks", sinks), ("ioi", "lenses", lenses)):
        chosen = {name: (module, module.Options())}
        found, expected = (
            run(subject, open_task(spec), chosen, Settings(limit=4, out=tmp_path / str(subject.dtype)))
            for subject in (half, smollm2)
        )
        assert_near(found, expected, 1.0)

"""Rows that are summed by fold: the same sums for any batching, proved again, and a run that stays small."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens.data.example import Example, Segment
from crosslens.probes.runs import store
from crosslens.probes.runs.plan import Shard
from crosslens.probes.runs.preview import preview
from crosslens.probes.runs.results import Rows, merge
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.sums import FOLDS, FoldSums, folds_of, summed
from crosslens.probes.runs.verify import verify

from ..helpers import tiny
from ..helpers.makers import analysis


def neurons(layer, batch, how):
    """Where the state is above 0, and the state itself, at the last position; NaN for some examples."""
    state = layer.resid_pre[torch.arange(len(batch.last)), batch.last].float()
    lacking = torch.tensor([name.endswith(("1", "2", "3")) for name in batch.example_ids])
    return {
        "active": (state > 0).float(),
        "state": state.masked_fill(lacking[:, None], torch.nan),
        "first": state[:, 0],
    }


def shares(rows: Rows, how: Any) -> pd.DataFrame:
    folds, sums, counts = rows.folds["fold"].to_numpy(), rows.sums["state"], rows.counts["state"]
    layer, unit = (axis.ravel() for axis in np.indices(sums.shape[1:]))
    cells = [pd.DataFrame({"fold": f, "layer": layer, "neuron": unit, "value": s.ravel(), "n": c.ravel()})
             for f, s, c in zip(folds, sums, counts, strict=True)]  # fmt: skip
    active = (rows.sums["active"].sum(0) / rows.counts["active"].sum(0)).ravel()
    return pd.concat(cells, ignore_index=True).assign(active=np.tile(active, len(folds)))


TABLES = {"shares": (shares, ("fold", "neuron", "active"))}
SUMMED = analysis(observe=neurons, SUMS=("active", "state"), TABLES=TABLES)
BY_EXAMPLE = analysis(observe=neurons)


def made(out, module=SUMMED, **settings):
    settings = {"limit": 12, "bos": (True, False), "out": out} | settings
    (directory,) = run(tiny.subject(), tiny.task(), {"made": (module, module.Options())}, Settings(**settings))
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("settings", [{"size": 1}, {"size": 2, "padding": "left"}, {"tokens": 30}])
def test_sums_over_shards_are_the_same_for_any_sharding(whole, tmp_path, settings):
    tables = [pd.read_parquet(path / "tables" / "shares.parquet") for path in (whole, made(tmp_path, **settings))]
    np.testing.assert_array_equal(tables[0]["active"], tables[1]["active"])  # whole numbers: to the bit
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-6)


def test_sums_over_shards_equal_sums_over_rows(whole, tmp_path):
    """Beside the slow way: every example's rows kept, and summed by the fold of its group."""
    record, directory = store.read_record(whole), made(tmp_path, BY_EXAMPLE)
    slow = store.read_record(directory)
    assert record is not None
    assert slow is not None
    examples = {e.id: e for e in tiny.examples(12, 0, tokenizer=None)}
    folds = folds_of(e.group for e in examples.values())
    assert {s["fold"] for s in record["plan"]["shards"]} == set(folds.values())
    parts = []
    for i, shard in enumerate(slow["plan"]["shards"]):
        rows = store.read_rows(directory / "rows" / f"{i:05d}.safetensors", slow["key"], shard["ids"])
        fold = [folds[examples[name].group] for name in shard["ids"]]
        for f in set(fold):
            mine = rows["state"][[x == f for x in fold]].double()
            cells = pd.DataFrame({"value": mine.nansum(0).flatten(), "n": (~mine.isnan()).sum(0).flatten()})
            parts.append(cells.assign(cell=range(len(cells)), fold=f, condition="BOS" if shard["bos"] else "no BOS"))
    expected = pd.concat(parts).groupby(["condition", "fold", "cell"])[["value", "n"]].sum()
    table = pd.read_parquet(whole / "tables" / "shares.parquet")
    table["cell"] = table.groupby(["condition", "fold"]).cumcount()
    found = table.set_index(["condition", "fold", "cell"]).sort_index()
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["n"], expected["n"])
    assert (found["n"] == 0).any() or found["n"].nunique() > 1, "some rows are missing"


def test_a_summed_run_is_proved_again_and_goes_on(whole, tmp_path):
    lines: list[str] = []
    verify(whole, tiny.subject(), tiny.task(), SUMMED, sample=99, say=lines.append)
    assert "equal bit for bit" in lines[4]
    directory = made(tmp_path)
    record = store.read_record(directory)
    assert record is not None
    (directory / "rows" / "00003.safetensors").unlink()
    store.write_record(
        directory, {k: v for k, v in record.items() if k not in ("seal", "tables")} | {"status": "running"}
    )
    assert made(tmp_path) == directory
    before, after = (pd.read_parquet(path / "tables" / "shares.parquet") for path in (whole, directory))
    pd.testing.assert_frame_equal(before, after)


def test_rows_by_example_stay_beside_the_sums(whole):
    record = store.read_record(whole)
    assert record is not None
    rows = store.read_rows(whole / "rows" / "00000.safetensors", record["key"], record["plan"]["shards"][0]["ids"])
    assert rows["first"].shape == (2, 3)
    assert rows["sum|active"].shape == (1, 3, 32)
    assert rows["count|active"].tolist() == [2]
    lacking = [tuple(counts.shape) for counts in _counts(whole, record)]
    assert set(lacking) == {(1,), (1, 3, 32)}, "one number where no row is NaN"


def _counts(directory, record):
    for i, shard in enumerate(record["plan"]["shards"]):
        path = directory / "rows" / f"{i:05d}.safetensors"
        yield store.read_rows(path, record["key"], shard["ids"])["count|state"]


def test_folds_are_whole_groups_of_like_number_whatever_their_order():
    groups = [f"g{i}" for i in range(130)]
    folds = folds_of(groups)
    assert folds == folds_of([*reversed(groups), *groups])
    sizes = np.bincount(list(folds.values()))
    assert len(sizes) == FOLDS
    assert sizes.max() - sizes.min() <= 1
    assert sorted(folds_of(["a", "b", "c"]).values()) == [0, 1, 2]


def test_a_plan_foretells_what_sums_take(tmp_path):
    sized = analysis(observe=neurons, SUMS=("active", "state"), TABLES=TABLES, row_size=lambda s, p, o: 96 * 1000)
    lines = preview(tiny.subject(), tiny.task(), {"made": (sized, sized.Options())}, Settings(limit=12, out=tmp_path))
    assert "about 4.6 MB" in lines[-1]  # six folds of 96,000 numbers in float64


LIVE = 6  # arrays of one sum that may live at once beside those of the folds: rows, sum, count, the old and the new


def live_bytes() -> int:
    return sum(t.untyped_storage().nbytes() for t in gc.get_objects() if type(t) is torch.Tensor)


@pytest.mark.parametrize("count", [200, 800])
def test_files_and_memory_do_not_grow_with_examples(tmp_path, count):
    """10⁵ examples × 50,000 numbers, scaled down: what lives while shards are saved and merged is of the folds' size,
    whatever the number of examples; rows by example would be `count` × 4,000 × 4 bytes.
    """
    numbers, batch = 4_000, 10
    examples = [Example(f"e{i:05d}", f"g{i % 40:02d}", (Segment("text", "w1"),)) for i in range(count)]
    folds, shards = folds_of(e.group for e in examples), []
    for fold in range(FOLDS):
        ids = [e.id for e in examples if folds[e.group] == fold]
        shards += [Shard(True, tuple(ids[i : i + batch]), fold) for i in range(0, len(ids), batch)]
    gc.collect()
    before, most = live_bytes(), 0
    for i, shard in enumerate(shards):
        seeds = [int(name[1:]) for name in shard.ids]
        active = torch.stack([torch.randint(0, 2, (numbers,), generator=_seeded(s)).float() for s in seeds])
        rows = summed({"active": active}, ("active",))
        store.save_rows(tmp_path / f"{i:05d}.safetensors", rows, "key", shard.ids)
        most = max(most, live_bytes() - before) if i % 7 == 0 else most
    sizes = {path.stat().st_size for path in tmp_path.iterdir()}
    assert max(sizes) < 8 * numbers + 4_000, "a file holds one sum, not the batch's rows"
    total = FoldSums()

    def saved():
        nonlocal most
        for i, shard in enumerate(shards):
            yield shard, "BOS", store.read_rows(tmp_path / f"{i:05d}.safetensors", "key", shard.ids)
            held = sum(a.nbytes for of in (total.sums, total.counts) for d in of.values() for a in d.values())
            assert held <= 2 * FOLDS * numbers * 8
            most = max(most, live_bytes() - before) if i % 7 == 0 else most

    ids = {e.id: e for e in examples}
    rows = merge(total.without_sums(saved()), ["BOS"] * count, [ids[name] for shard in shards for name in shard.ids])
    assert most < LIVE * batch * numbers * 8
    sums, counts = total.stacked()
    expected = sum(torch.randint(0, 2, (numbers,), generator=_seeded(i)).double() for i in range(count))
    np.testing.assert_array_equal(sums["active"].sum(0), expected)
    assert int(counts["active"].mean(1).sum()) == count
    assert len(rows.examples) == count


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

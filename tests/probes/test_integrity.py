"""Nothing lost, nothing silently reused: kills at random moments, a full disk, links and foreign files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.probes.model.loading import load
from crosslens.probes.runs import store
from crosslens.probes.runs.run import Settings, run
from safetensors.torch import load_file

from ..helpers import tiny
from ..helpers.families import build

LENSES = {"lenses": (lenses, lenses.Options(sites=("resid",)))}


def go(out: Path, **settings) -> Path:
    (directory,) = run(tiny.subject(), tiny.task(), LENSES, Settings(**({"out": out, "size": 3} | settings)))
    return directory


def tables(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "tables").iterdir())}


def assert_same_rows(found: Path, expected: Path) -> None:
    """Bit for bit; the files themselves name their metadata in any order."""
    names = sorted(path.name for path in (expected / "rows").iterdir())
    assert sorted(path.name for path in (found / "rows").iterdir()) == names
    for path in (expected / "rows").iterdir():
        rows, others = load_file(path), load_file(found / "rows" / path.name)
        assert rows.keys() == others.keys()
        assert all(torch.equal(rows[name].view(torch.uint8), others[name].view(torch.uint8)) for name in rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return go(tmp_path_factory.mktemp("whole"))


def forget_end(directory: Path) -> None:
    """The run as it was before its tables were made."""
    record = store.read_record(directory)
    assert record is not None
    store.write_record(directory, record | {"status": "running"})


@pytest.fixture
def unfinished(whole, tmp_path) -> Path:
    directory = shutil.copytree(whole, tmp_path / "runs" / whole.name)
    shutil.rmtree(directory / "tables")
    forget_end(directory)
    return directory


# One process imports everything once and forks: a child is killed at a random moment and another one goes on.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.probes.test_integrity import go

def child(out, seconds=None):
    pid = os.fork()
    if not pid:
        go(out)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

base, rng = Path({base!r}), random.Random(0)
go(base / "warm")
began = time.monotonic()
assert child(base / "whole") == 0
whole = time.monotonic() - began
for i in range(5):
    # A fifth of the time each, so that all stages of a run are met.
    code = child(base / f"killed-{{i}}", whole * (i + rng.random()) / 5)
    print("killed" if code == -signal.SIGKILL else "finished")
    assert child(base / f"killed-{{i}}") == 0
"""


def test_killed_at_random_moments_and_resumed(tmp_path):
    code = KILLER.format(root=str(Path(__file__).parents[2]), base=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split().count("killed") >= 3
    (expected,) = (tmp_path / "whole" / "runs").iterdir()
    for i in range(5):
        (found,) = (tmp_path / f"killed-{i}" / "runs").iterdir()
        assert found.name == expected.name
        assert tables(found) == tables(expected)
        assert_same_rows(found, expected)


def test_one_shard_equals_four(whole, tmp_path):
    one = go(tmp_path, size=None, tokens=10**6)
    counts = [len(json.loads((d / "record.json").read_text())["plan"]["shards"]) for d in (one, whole)]
    assert counts == [1, 4]
    for path in (whole / "tables").glob("*.parquet"):
        found, expected = pd.read_parquet(one / "tables" / path.name), pd.read_parquet(path)
        if path.stem not in ("claims", "findings"):
            pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)


def mounted(folder: Path, size: str) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.parametrize("size", ["8k", "28k", "44k"])
def test_disk_is_full(whole, tmp_path, size):
    """A real one: full at the record, at a shard, at a table; more room, the same command, the same tables."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or not mounted(disk, size):
        pytest.skip("a small file system can be mounted by root only")
    try:
        with pytest.raises(UserError, match=r"no space left while writing .*: free some") as error:
            go(disk)
        assert "\n" not in str(error.value)
        assert not list(disk.rglob("*.tmp"))
        assert subprocess.run(["mount", "-o", "remount,size=16m", str(disk)]).returncode == 0
        resumed = go(disk)
        assert tables(resumed) == tables(whole)
        assert_same_rows(resumed, whole)
    finally:
        subprocess.run(["umount", str(disk)])


# --- foreign files


def refused(unfinished: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        go(unfinished.parents[1])
    assert "\n" not in str(error.value)


def test_shard_of_a_run_on_other_weights(unfinished, tmp_path):
    settings = Settings(out=tmp_path / "other", size=3)
    (other,) = run(tiny.subject(seed=1), tiny.task(), LENSES, settings)
    shutil.copy(other / "rows" / "00001.safetensors", unfinished / "rows" / "00001.safetensors")
    refused(unfinished, r"00001\.safetensors belongs to another run")


def test_shard_in_the_place_of_another(unfinished):
    rows = unfinished / "rows"
    shutil.copy(rows / "00000.safetensors", rows / "00002.safetensors")
    refused(unfinished, r"00002\.safetensors belongs to another run or other examples")


def files(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in [place, *place.rglob("*")] if path.is_file()}


@pytest.mark.parametrize("name", ["rows/00001.safetensors", "rows", "tables", "record.json", ".lock", ""])
def test_links_out_of_the_run_directory(unfinished, tmp_path, name):
    """A link is refused before anything is read or written through it."""
    inside, outside = unfinished / name, tmp_path / "outside"
    if inside.exists():
        inside.rename(outside)
    else:
        outside.mkdir()
    before = files(outside)
    inside.symlink_to(outside)
    refused(unfinished, r"is a link, and a run directory holds plain files")
    assert files(outside) == before


# --- checkpoints with a pickle inside


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "ran"))


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A tiny model with pickles beside its weights, under every name that Hugging Face knows."""
    path = tmp_path / "model"
    build("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "tokenizer.pkl"):
        (path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    return path


def test_pickles_beside_the_weights_are_not_read(hostile, tmp_path):
    load(str(hostile))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["alone", "with foreign safetensors", "under another name", "in shards"])
def test_pickles_instead_of_weights_are_not_read(hostile, tmp_path, how):
    weights = hostile / "model.safetensors"
    if how == "with foreign safetensors":
        weights.rename(hostile / "other.safetensors")
    elif how == "under another name":
        shutil.copy(hostile / "pytorch_model.bin", weights)
    else:
        weights.unlink()
    if how == "in shards":
        write_index(hostile, "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickles are never read|cannot read the model") as error:
        load(str(hostile))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def write_index(model: Path, shard: str) -> None:
    """An index that looks for weights in `shard`."""
    names = load_file(model / "model.safetensors") if (model / "model.safetensors").exists() else ["model.norm.weight"]
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "other.safetensors").touch()


@pytest.mark.parametrize("absolute", [True, False])
def test_weights_outside_of_the_directory_are_not_read(hostile, tmp_path, absolute):
    target = tmp_path / "secret.safetensors"
    write_index(hostile, str(target) if absolute else "../secret.safetensors")
    (hostile / "model.safetensors").rename(target)
    with pytest.raises(UserError, match=r"looks for weights in .*secret\.safetensors"):
        load(str(hostile))


def test_sharded_weights_are_read(tmp_path):
    build("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert load(str(tmp_path)).fingerprint == tiny.subject().fingerprint


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()

"""Workers compute the same bits as one process, whoever dies; what cannot work is one line."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import pandas as pd
import psutil
import pytest
from crosslens import Subject, load
from crosslens.analyses.lenses import lenses
from crosslens.data.errors import UserError
from crosslens.probes.runs import workers as module
from crosslens.probes.runs.rows import threads
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.workers import Workers, _RayCrew

from ..helpers import tiny
from ..helpers.families import build

KILLS = int(os.environ.get("KILLS", "2"))  # by hand more

pytest.importorskip("ray", reason="workers need Ray: pip install 'crosslens[cluster]'")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """A tiny model from a directory, as workers open it."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    build("llama").save_pretrained(place)
    tiny.tokenizer().save_pretrained(place)
    return load(place, check=False)


def lens_run(subject, out, workers=None, limit=40):
    """Tables of a run in shards of two examples, one thread each."""
    task = tiny.task()
    with threads(1):
        (directory,) = run(
            subject,
            task,
            {"lenses": (lenses, lenses.Options())},
            Settings(limit=limit, size=2, out=out),
            workers=workers,
        )
    return {path.stem: pd.read_parquet(path) for path in sorted((directory / "tables").glob("*.parquet"))}


def require_same(tables, expected):
    assert list(tables) == list(expected)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, expected[name], check_exact=True)


def test_workers_give_the_bits_of_one_process_also_when_they_are_killed(subject, tmp_path, monkeypatch):
    expected = lens_run(subject, tmp_path / "alone")
    with Workers(2) as workers:
        require_same(lens_run(subject, tmp_path / "two", workers), expected)
        killed = kill_at_random(monkeypatch)
        for again in range(KILLS):
            require_same(lens_run(subject, tmp_path / f"killed-{again}", workers), expected)
        assert len(killed) == KILLS
    _, left = psutil.wait_procs(actors(), timeout=20)
    assert not left


def kill_at_random(monkeypatch):
    """In each run one worker is killed, at a moment of its own; the processes that were."""
    rng, killed, plain = random.Random(0), [], _RayCrew.give
    state = {"run": None, "at": 0, "given": 0}

    def give(crew, worker, shard):
        plain(crew, worker, shard)
        if crew.work_of is not state["run"]:
            state.update(run=crew.work_of, at=rng.randint(2, 18), given=0)
        state["given"] += 1
        if state["given"] == state["at"]:
            time.sleep(rng.uniform(0, 0.2))
            victim = rng.choice(actors())
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    monkeypatch.setattr(_RayCrew, "give", give)
    return killed


def actors():
    """Ray's processes that hold a worker of ours."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.status() != psutil.STATUS_ZOMBIE and "ray::_Worker" in " ".join(cmd(one))]


def cmd(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_subject_without_files_cannot_be_shared(tmp_path):
    with pytest.raises(UserError, match="only exists in this process"), Workers(2) as workers:
        lens_run(Subject(build("llama"), tiny.tokenizer(), name="tiny"), tmp_path, workers)


def test_a_worker_with_other_files_is_refused(subject, tmp_path):
    mine = load(subject.location, check=False)
    mine.model.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    with pytest.raises(UserError, match="opened another model than the driver"), Workers(1) as workers:
        lens_run(mine, tmp_path, workers, limit=4)


def test_no_cluster_at_an_address_is_one_line(subject, tmp_path):
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"), Workers(1, "127.0.0.1:1") as workers:
        lens_run(subject, tmp_path, workers, limit=4)


def test_no_ray_says_how_to_install_it(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"), Workers(2) as workers:
        lens_run(subject, tmp_path, workers, limit=4)


def test_no_workers_are_none():
    with pytest.raises(UserError, match="at least one"):
        Workers(0)
    assert module.Workers(10**6).threads == 1

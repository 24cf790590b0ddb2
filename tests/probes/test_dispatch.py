"""Shards reach workers: none is idle, none is lost, what fails goes elsewhere, what keeps failing is named."""

from __future__ import annotations

import heapq
import random
import tracemalloc

import pytest
from crosslens.data.errors import UserError
from crosslens.probes.runs.dispatch import AHEAD, ATTEMPTS, Outcome, dispatch


class Simulated:
    """Workers in a time of their own. seconds(worker, shard): how long; None: never. fails: (worker, shard) pairs."""

    def __init__(self, size, seconds, fails=lambda worker, shard: "", driver=0.0):
        self.size, self.seconds, self.fails, self.driver = size, seconds, fails, driver
        self.now, self.free, self.events = 0.0, [0.0] * size, []
        self.busy, self.lives, self.given, self.most = [0.0] * size, [0] * size, [], 0

    def clock(self):
        return self.now

    def give(self, worker, shard):
        self.now += self.driver
        self.given.append((worker, shard))
        needs = self.seconds(worker, shard)
        if needs is None:
            self.free[worker] = float("inf")
            return
        end = max(self.now, self.free[worker]) + needs
        self.free[worker] = end
        heapq.heappush(self.events, (end, worker, shard, self.lives[worker], needs))
        self.most = max(self.most, len(self.events))

    def wait(self, seconds):
        while self.events and self.events[0][3] != self.lives[self.events[0][1]]:
            heapq.heappop(self.events)
        if not self.events or self.events[0][0] > self.now + seconds:
            self.now += seconds
            return []
        end, worker, shard, _, needs = heapq.heappop(self.events)
        self.now = max(self.now, end)
        why = self.fails(worker, shard)
        self.busy[worker] += 0 if why else needs
        return [Outcome(worker, shard, None if why else f"rows of {shard}", why)]

    def replace(self, worker):
        self.lives[worker] += 1
        self.free[worker] = self.now


def test_ten_thousand_shards_keep_64_workers_busy():
    rng = random.Random(0)
    lengths = [rng.lognormvariate(0, 0.6) for _ in range(10_000)]
    crew = Simulated(64, lambda worker, shard: lengths[shard], driver=0.005)
    done = [shard for shard, _ in dispatch(range(10_000), crew, clock=crew.clock)]
    assert sorted(done) == list(range(10_000))
    assert sum(lengths) / (64 * crew.now) > 0.9
    assert crew.most <= 64 * AHEAD


def test_the_driver_holds_no_more_for_more_shards():
    def peak(count):
        tracemalloc.start()
        crew = Simulated(8, lambda worker, shard: 1.0)
        crew.given = Nothing()
        assert sum(1 for _ in dispatch(range(count), crew, clock=crew.clock)) == count
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    few, many = peak(1_000)[0], peak(100_000)[0]
    assert many < 1.5 * few + 100_000


class Nothing:
    """A list that forgets."""

    def append(self, item):
        """Forget it."""


def test_a_shard_that_fails_is_tried_elsewhere():
    crew = Simulated(3, lambda worker, shard: 1.0, lambda worker, shard: "gone" if (worker, shard) == (1, 1) else "")
    done = dict(dispatch(range(9), crew, clock=crew.clock))
    assert done == {shard: f"rows of {shard}" for shard in range(9)}
    tried = [worker for worker, shard in crew.given if shard == 1]
    assert tried[0] == 1
    assert tried[-1] != 1
    assert crew.lives == [0, 1, 0], "one worker was replaced"


def test_what_waited_behind_a_failure_has_not_failed():
    """Shards 0 and 1 lie with one worker; 0 fails every time, 1 never."""
    crew = Simulated(1, lambda worker, shard: 1.0, lambda worker, shard: "out of memory" if shard == 0 else "")
    with pytest.raises(UserError, match=r"failed 3 times: batch 1 \(out of memory\)"):
        list(dispatch(range(4), crew, clock=crew.clock))
    assert sorted({shard for _, shard in crew.given}) == [0, 1, 2, 3]
    assert [shard for _, shard in crew.given].count(0) == ATTEMPTS


def test_all_others_are_done_before_a_lost_shard_is_named():
    crew = Simulated(2, lambda worker, shard: 1.0, lambda worker, shard: "gone" if shard == 3 else "")
    done: list[int] = []
    with pytest.raises(UserError, match="batch 4"):
        done.extend(shard for shard, _ in dispatch(range(8), crew, clock=crew.clock))
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7]


def test_a_worker_that_hangs_costs_its_shard_alone():
    hung = []

    def seconds(worker, shard):
        if shard == 2 and not hung:
            return hung.append(worker)
        return 1.0

    crew = Simulated(2, seconds)
    done = sorted(shard for shard, _ in dispatch(range(6), crew, patience=30.0, clock=crew.clock))
    assert done == list(range(6))
    assert sum(crew.lives) == 1
    assert crew.now < 100


def test_nothing_to_do_asks_nobody():
    crew = Simulated(2, lambda worker, shard: 1.0)
    assert list(dispatch([], crew, clock=crew.clock)) == []
    assert crew.given == []

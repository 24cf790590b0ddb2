"""A log gets a line now and then, with what is left; what is soon over says nothing."""

from __future__ import annotations

import pytest
from crosslens.data import progress as module
from crosslens.data.progress import duration, progress, tracked


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_a_log_says_what_is_left_from_what_this_process_did(clock, capsys):
    for _ in tracked(range(6), "sinks on ioi", done=4):
        clock[0] += 20.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sinks on ioi: 6 of 10 batches, about 80 s left",
        "sinks on ioi: 8 of 10 batches, about 40 s left",
    ]


def test_what_is_soon_over_says_nothing(clock, capsys):
    with progress("answers", 3, unit="examples") as count:
        clock[0] += 5.0
        count(2)
        clock[0] += 60.0
        count(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "told"), [(40.2, "40 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_durations_read_as_one_says_them(seconds, told):
    assert duration(seconds) == told

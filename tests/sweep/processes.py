"""Each type in a process of its own, forked from one that has imported everything, with limits of time and memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from .building import Type
from .judging import Verdict, judge

MEMORY, SECONDS = 10 * 2**30, 60


def judged(types: Sequence[Type], at_once: int) -> Iterator[tuple[Type, Verdict]]:
    """The verdicts as they come in."""
    waiting, running = list(types), {}
    with TemporaryDirectory() as home:
        while waiting or running:
            while waiting and len(running) < at_once:
                one = waiting.pop(0)
                place = Path(home) / "-".join(one).replace("/", "-")
                running[_begin(one, place)] = (one, place, time.monotonic())
            time.sleep(0.05)
            for pid, (one, place, begun) in list(running.items()):
                late = time.monotonic() - begun > SECONDS
                if late:
                    os.kill(pid, signal.SIGKILL)
                if os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                    del running[pid]
                    yield one, _verdict(place, f"ended after {SECONDS} s" if late else "its process died")


def _begin(one: Type, place: Path) -> int:
    """Start the process of a type; its id. What it prints lies beside its verdict."""
    pid = os.fork()
    if pid:
        return pid
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        output = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        place.write_text(json.dumps(judge(one)), "utf-8")
    finally:
        os._exit(0)


def _verdict(place: Path, otherwise: str) -> Verdict:
    return Verdict(*json.loads(place.read_text("utf-8"))) if place.exists() else Verdict("traceback", otherwise)

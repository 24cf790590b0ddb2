"""A run processes every picture once, whatever asks for it: the plan, its batches, what it learns from, answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run

from ..analyses.test_head_divergence import captions, seeing
from ..helpers.makers import analysis


class Learned(NamedTuple):
    """How many examples there were to learn from."""

    examples: int = 0


def fit(subject, batches, options):
    for _ in range(2):  # as whoever ranks heads first and thresholds then
        for batch in batches:
            subject.forward(subject.batch(batch.examples, **batch.form))
    return Learned(sum(len(batch.examples) for batch in batches))


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("answer_tokens", [0, 2])
def test_every_picture_is_processed_once(tmp_path, monkeypatch, answer_tokens, learns):
    subject, seen = seeing(), []
    call = type(subject.processor).__call__

    def counted(self, *arguments, **named):
        seen.append(named["images"][0][0].tobytes())
        return call(self, *arguments, **named)

    monkeypatch.setattr(type(subject.processor), "__call__", counted)
    parts = {"fit": fit, "FIT_EXAMPLES": 4, "Learned": Learned} if learns else {}
    observing = analysis(observe=lambda layer, batch, how: {"x": layer.resid_pre[:, 0, 0]}, **parts)
    module: Any = SimpleNamespace(__doc__="", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="", examples=captions)
    analyses = {name: (observing, observing.Options()) for name in ("first", "second")}
    run(subject, Task("captions", module, {}), analyses, Settings(limit=10, answer_tokens=answer_tokens, out=tmp_path))
    assert len(seen) == len(set(seen)) == (14 if learns else 10)

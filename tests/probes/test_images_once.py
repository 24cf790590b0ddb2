"""A run processes every picture once, whatever asks for it: the plan, its batches, answers, several analyses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run

from ..analyses.test_head_divergence import captions, seeing
from ..helpers.makers import analysis


@pytest.mark.parametrize("answer_tokens", [0, 2])
def test_every_picture_is_processed_once(tmp_path, monkeypatch, answer_tokens):
    subject, calls = seeing(), []
    call = type(subject.processor).__call__

    def counted(self, *arguments, **named):
        calls.append(1)
        return call(self, *arguments, **named)

    monkeypatch.setattr(type(subject.processor), "__call__", counted)
    observing = analysis(observe=lambda layer, batch, how: {"x": layer.resid_pre[:, 0, 0]})
    module: Any = SimpleNamespace(__doc__="", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="", examples=captions)
    analyses = {name: (observing, observing.Options()) for name in ("first", "second")}
    run(subject, Task("captions", module, {}), analyses, Settings(limit=10, answer_tokens=answer_tokens, out=tmp_path))
    assert len(calls) == 10

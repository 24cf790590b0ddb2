"""What was asked of which model on which task: verdicts where a run is there, the command where none is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .runs import Run
from .verdicts import counts
from .words import task_words

# In the order of the questions: what can it do, where does attention go, when is the answer known, through where and
# by whom does it come, can it be changed. What is not here follows by name.
ORDER = (
    *("subject_card", "sinks", "head_divergence"),
    *("lenses", "learned_lenses", "jacobian_lens", "patchscope", "group_lens", "number_spectrum"),
    *("image_lens", "latent_lens", "module_lens"),
    *("information_flow", "routes", "edges", "edge_circuits", "logit_attribution", "circuits", "faithfulness"),
    *("overlap", "steering", "repairs"),
)


def matrix(runs: Sequence[Run]) -> dict[str, Any]:
    """Columns: model and task; rows: an analysis with a cell for each column: its runs, or what would run it."""
    columns = {_column(run): run for run in runs}
    ordered = sorted(columns)
    analyses = sorted({str(run.record["analysis"]) for run in runs}, key=_place)
    rows = [_row(name, [run for run in runs if run.record["analysis"] == name], ordered, columns) for name in analyses]
    heads = [{"model": model, "task": task} for model, task in ordered]
    return {"columns": heads, "rows": rows}


def _place(analysis: str) -> tuple[int, str]:
    return (ORDER.index(analysis) if analysis in ORDER else len(ORDER)), analysis


def _column(run: Run) -> tuple[str, str]:
    return run.model, task_words(run.record["task"])


def _row(name: str, mine: Sequence[Run], columns: Sequence[Any], known: Mapping[Any, Run]) -> dict[str, Any]:
    made_of_runs = any("joined" in run.record for run in mine)
    cells = []
    for column in columns:
        here = [{"run": run, "counts": counts(run.claims)} for run in mine if _column(run) == column]
        command = "" if here or made_of_runs else _command(name, known[column])
        cells.append({"runs": here, "command": command})
    return {"analysis": name, "title": mine[0].title, "cells": cells}


def _command(analysis: str, like: Run) -> str:
    """What runs this analysis on the model and the task of another run; none where that one joins several tasks."""
    task = like.record["task"]
    if "joined" in like.record:
        return ""
    options = task.get("options")
    options = options if isinstance(options, Mapping) else {}
    said = ",".join(f"{name}={_value(value)}" for name, value in options.items())
    spec = f"{task.get('name')}:{said}" if said else str(task.get("name"))
    return f"crosslens run {analysis} --subject {like.model} --task {spec}"


def _value(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)

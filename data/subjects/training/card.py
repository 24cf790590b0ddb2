"""The tables of the model card, from what the evaluation and the training wrote down.

`python -m crosslens.data.training.card DIR` prints them; `card.md` in data/subjects holds them, and a test
compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...world.questions import KINDS
from ...world.world import DIFFICULTIES

IMAGES = {"real": "its image", "swapped": "another image"}


def tables(folder: Path) -> str:
    """Markdown of all tables; folder: with test.json and log.jsonl."""
    test = json.loads((folder / "test.json").read_text("utf-8"))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    parts = (_exact(test), _controls(test), _pope(test), _captions(test), _curves(log))
    return "\n\n".join(parts) + "\n"


def thin(log: Sequence[dict[str, Any]], every: int = 10) -> list[dict[str, Any]]:
    """The log as it ships: every tenth step, and those with validation."""
    return [row for row in log if row["step"] % every == 0 or any(name.startswith("validation") for name in row)]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return f"**{title}**\n\n" + "\n".join(f"| {line} |" for line in lines)


def _interval(row: dict[str, Any], name: str = "value", low: str = "lower", high: str = "upper") -> str:
    return f"{row[name]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"


def _exact(test: dict[str, Any]) -> str:
    found = {(row["difficulty"], row["kind"]): row for row in test["exact"] if row["image"] == "real"}
    levels = [level for level in DIFFICULTIES if (level, KINDS[0]) in found]
    rows = [[kind, *(_interval(found[level, kind]) for level in levels)] for kind in KINDS]
    n = min(row["n"] for row in found.values())
    return _table(f"Exact answers, test split, n ≥ {n} a cell, Wilson 95 %", ["kind", *levels], rows)


def _controls(test: dict[str, Any]) -> str:
    found = {(row["image"], row["kind"]): row for row in test["exact"] if row["difficulty"] == "clear"}
    rows = [
        [kind, *(_interval(found[image, kind]) for image in IMAGES), f"{found['swapped', kind]['constant']:.3f}"]
        for kind in KINDS
        if kind != "caption"
    ]
    header = ["kind", *IMAGES.values(), "best constant answer per wording"]
    return _table("Clear scenes with their own image and with another scene's", header, rows)


def _pope(test: dict[str, Any]) -> str:
    rows = [
        [row["difficulty"], row["set"], str(row["n"]), _interval(row, "f1"), f"{row['false_alarms']:.3f}"]
        for row in test["pope"]
    ]
    return _table("POPE: F1 of yes", ["difficulty", "set", "n", "F1", "absent but affirmed"], rows)


def _captions(test: dict[str, Any]) -> str:
    rows = [
        [
            row["difficulty"],
            str(row["n"]),
            _interval(row, "object_set", "object_set_lower", "object_set_upper"),
            _interval(row, "chair_i"),
            f"{row['chair_s']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['words']:.2f}",
        ]
        for row in test["captions"]
    ]
    header = ["difficulty", "n", "object set exact", "CHAIR_I", "CHAIR_S", "recall", "object words"]
    return _table("Captions", header, rows)


def _curves(log: Sequence[dict[str, Any]]) -> str:
    checked = [row for row in log if "validation caption" in row]
    rows = [
        [row["stage"], str(row["step"] + 1), *(f"{row.get(f'validation {kind}', float('nan')):.2f}" for kind in KINDS)]
        for row in checked
    ]
    return _table("While it learned: validation scenes (clear, n ≤ 48)", ["stage", "step", *KINDS], rows)


if __name__ == "__main__":
    print(tables(Path(sys.argv[1])), end="")

"""Test vectors: small cases of published formulas, each checked against the public function that computes it.

    python tests/vectors.py DIR

One line a file of DIR: passed, failed (why), or open (no public function yet); the last line counts. A file's name is
its kind; `helpers/vector_kinds/` has a function of that name, from the file's inputs to its expected values. A vector
is JSON: what, source, inputs, expected, tolerance; null is a value that is not finite or not defined.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

if __package__:
    from .helpers import vector_kinds
else:  # run as a script
    from helpers import vector_kinds

ROUNDING = 1e-9  # relative: expected values are written with ten digits


def check(file: Path, kinds: dict[str, Callable[..., dict]]) -> str:
    """The verdict on one file: "passed", "failed (why)" or "open (no public function yet)"."""
    if file.stem not in kinds:
        return "open (no public function yet)"
    try:
        vector = json.loads(file.read_text(encoding="utf-8"))
        if not vector["expected"]:
            return "failed (nothing is expected)"
        inputs = {name: as_tensor(value) for name, value in vector["inputs"].items()}
        differences = list(differ(vector["expected"], kinds[file.stem](**inputs), vector["tolerance"]))
    except Exception as error:  # the verdict names it
        return f"failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'without a message'})"
    return f"failed ({differences[0]})" if differences else "passed"


def as_tensor(value: Any) -> Any:
    """Rectangular lists of numbers or truth values as a tensor, in float64 where one is a float; the rest as it is."""
    if not isinstance(value, list):
        return value
    try:
        return torch.tensor(value, dtype=torch.float64 if _holds_float(value) else None)
    except (TypeError, ValueError, RuntimeError):  # ragged, or not of numbers
        return value


def _holds_float(value: Any) -> bool:
    return any(map(_holds_float, value)) if isinstance(value, list) else isinstance(value, float)


def differ(expected: Any, computed: Any, tolerance: float, where: str = "expected") -> Iterator[str]:
    """A line for every place where the computed values are not the expected ones."""
    if isinstance(computed, torch.Tensor):
        computed = computed.tolist()
    if isinstance(expected, dict):
        for key, value in expected.items():
            if key not in computed:
                yield f"{where}.{key} was not computed"
            else:
                yield from differ(value, computed[key], tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        if not isinstance(computed, list | tuple) or len(computed) != len(expected):
            yield f"{where} is {computed}, not {expected}"
            return
        for i, (value, other) in enumerate(zip(expected, computed, strict=True)):
            yield from differ(value, other, tolerance, f"{where}[{i}]")
    elif not _agree(expected, computed, tolerance):
        yield f"{where} is {computed}, not {expected}"


def _agree(expected: Any, computed: Any, tolerance: float) -> bool:
    if expected is None:
        return computed is None or (isinstance(computed, float) and not math.isfinite(computed))
    if isinstance(expected, bool | str):
        return type(computed) is type(expected) and computed == expected
    if isinstance(computed, bool | str) or computed is None:
        return False
    return abs(computed - expected) <= tolerance + ROUNDING * abs(expected)


def main(folder: str) -> int:
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        print(f"no vectors (*.json) in {folder}", file=sys.stderr)
        return 2
    kinds = vector_kinds.find_kinds()
    verdicts = {file.stem: check(file, kinds) for file in files}
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict}")
    passed, failed, still_open = (
        sum(verdict.startswith(word) for verdict in verdicts.values()) for word in ("passed", "failed", "open")
    )
    print(f"{still_open} open: without a public function yet, counted neither as passed nor as failed")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/vectors.py DIR")
    sys.exit(main(sys.argv[1]))

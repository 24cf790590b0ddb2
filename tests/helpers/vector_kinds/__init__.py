"""Kinds of test vectors, a file a family: a function named like the vector, from its inputs to its expected values.

Inputs arrive under the vector's own names, lists of numbers as tensors. A name of the expected values that stands for
a slip of released code is computed here, in the open, from the public function and the slip.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def find_kinds() -> dict[str, Callable[..., dict]]:
    """Name of a vector -> its function, over all files of this folder."""
    modules = [
        import_module(f".{file.stem}", __name__)
        for file in sorted(Path(__file__).parent.glob("*.py"))
        if not file.stem.startswith("_")
    ]
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if not name.startswith("_") and getattr(function, "__module__", "") == module.__name__
    }

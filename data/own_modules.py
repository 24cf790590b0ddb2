"""A user's own task: a Python file with a function `examples`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from .digest import file_digest
from .errors import UserError

# What a task says of itself, where a user's module does not.
DEFAULTS: dict[str, Any] = {"VERSION": 1, "TEMPLATE": "raw", "BOS": None, "SOURCE": "a module of the user's"}
GIVEN = ("n", "seed", "tokenizer")


def module_at(place: str) -> ModuleType:
    """The module in this file, anew each time. What it raises while it is imported passes through.

    UserError: no such file, not Python, no function `examples(n, seed, *, tokenizer)`.
    """
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"no task module {path}")
    # A name by content: what is pickled for workers, or held from before an edit, never meets another module's.
    name = f"crosslens_task_{path.stem}_{file_digest(path)[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does, before its body runs
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: not Python: {error.msg}") from error
    _require_function(getattr(module, "examples", None), path)
    for default, value in DEFAULTS.items():
        if not hasattr(module, default):
            setattr(module, default, value)
    return module


def _require_function(function: Callable[..., Any] | None, path: Path) -> None:
    if not callable(function):
        raise UserError(f"{path} has no function examples(n=None, seed=0, *, tokenizer=None)")
    takes = signature(function).parameters
    lacking = [name for name in GIVEN if name not in takes]
    if lacking and not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
        raise UserError(
            f"{path}: examples takes no {lacking[0]!r}: examples(n=None, seed=0, *, tokenizer=None) is asked"
        )

"""An analysis by its name: found, imported, and held to the contract of README.md beside this file."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..data.errors import UserError
from ..probes.runs.contract import check
from . import find_analyses

__all__ = ["check", "open_analysis"]


def open_analysis(name: str) -> ModuleType:
    """The module of an analysis. UserError: unknown, or not as the contract says; what is wrong in one line."""
    known = find_analyses()
    if name not in known:
        raise UserError(f"unknown analysis {name!r}: one of {', '.join(known)}")
    module = import_module(known[name])
    check(name, module)
    return module

"""What an analysis may say in public; analyses/README.md explains it, the command line and the runner check it."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...data.errors import UserError

REQUIRED = ("VERSION", "QUESTION", "PAPER", "Options", "methods")
OPTIONAL = (
    *("Learned", "FIT_EXAMPLES", "fit", "observe", "measure", "weights", "SUMS", "row_size", "memory", "disk"),
    *("TABLES", "RUN_TABLES", "CLAIMS", "claims", "findings", "NEEDS", "RETIRED", "show"),
)
# What is there only together with another name.
TOGETHER = {"fit": ("Learned", "FIT_EXAMPLES"), "Learned": ("fit",), "FIT_EXAMPLES": ("fit",), "claims": ("CLAIMS",)}
TOGETHER |= {"CLAIMS": ("claims",), "NEEDS": ("TABLES",)}


def check(name: str, module: Any) -> None:
    """UserError: what an analysis lacks, or a public name of its own that no analysis has (misspelt, or a helper)."""
    missing = [required for required in REQUIRED if not hasattr(module, required)]
    missing += [f"{other} (as it has {own})" for own, others in TOGETHER.items() if hasattr(module, own)
                for other in others if not hasattr(module, other)]  # fmt: skip
    if missing:
        raise UserError(f"analysis {name} lacks {', '.join(dict.fromkeys(missing))}: see analyses/README.md")
    for own in _public_names(module):
        if own not in (*REQUIRED, *OPTIONAL):
            near = get_close_matches(own, (*REQUIRED, *OPTIONAL), 1)
            meant = f"did you mean {near[0]}?" if near else "helpers begin with _, or lie in a file that does"
            raise UserError(f"analysis {name}: no analysis has a public name {own!r} ({meant}; see analyses/README.md)")
    if not any(hasattr(module, source) for source in ("observe", "measure", "weights", "NEEDS")):
        raise UserError(f"analysis {name} measures nothing: it needs observe, measure, weights or NEEDS")


def _public_names(module: Any) -> list[str]:
    """Functions, classes and constants that the module's own file defines; what it imports is others' affair."""
    file = getattr(module, "__file__", None)
    if file is None:
        return []
    names: list[str] = []
    for node in ast.parse(Path(file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]
    return [name for name in names if not name.startswith("_")]

"""Crosslens: from a model and a task to the tables and interactive figures of interpretability papers.

The public names are loaded on first use, so that restyling a report never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .probes.attribution import attribution_sweep
    from .probes.cache import cached
    from .probes.capture import capture
    from .probes.loading import load
    from .probes.subject import Subject, SubjectError
    from .probes.sweep import ablation_sweep, causal_trace, knockout_sweep, patch_sweep, record

__version__ = "0.1.0"
_HOMES = {
    "Subject": "subject",
    "SubjectError": "subject",
    "ablation_sweep": "sweep",
    "attribution_sweep": "attribution",
    "cached": "cache",
    "capture": "capture",
    "causal_trace": "sweep",
    "knockout_sweep": "sweep",
    "load": "loading",
    "patch_sweep": "sweep",
    "record": "sweep",
}
__all__ = [
    "Subject",
    "SubjectError",
    "ablation_sweep",
    "attribution_sweep",
    "cached",
    "capture",
    "causal_trace",
    "knockout_sweep",
    "load",
    "patch_sweep",
    "record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crosslens' has no attribute {name!r}")
    return getattr(import_module(f".probes.{_HOMES[name]}", __name__), name)

"""Crosslens: from a model and a task to the tables and interactive figures of interpretability papers.

The public names are loaded on first use, so that restyling a report never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data.errors import SubjectError
    from .probes.intervene.attribution import attribution_sweep
    from .probes.intervene.sweep import ablation_sweep, causal_trace, knockout_sweep, patch_sweep, record
    from .probes.model.loading import load
    from .probes.model.subject import Subject
    from .probes.observe.capture import capture
    from .probes.runs.activations import cached

__version__ = "0.1.0"
_HOMES = {
    "Subject": "probes.model.subject",
    "SubjectError": "data.errors",
    "ablation_sweep": "probes.intervene.sweep",
    "attribution_sweep": "probes.intervene.attribution",
    "cached": "probes.runs.activations",
    "capture": "probes.observe.capture",
    "causal_trace": "probes.intervene.sweep",
    "knockout_sweep": "probes.intervene.sweep",
    "load": "probes.model.loading",
    "patch_sweep": "probes.intervene.sweep",
    "record": "probes.intervene.sweep",
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
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

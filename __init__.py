"""Crosslens: from a model and a task to the tables and interactive figures of interpretability papers.

The public names are loaded on first use, so that restyling a report never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analyses import metrics, repairs, stats
    from .analyses.lenses._published_lens import load_tuned_lens, save_tuned_lens
    from .data.errors import SubjectError
    from .data.example import Example, Segment
    from .looked import look
    from .probes.intervene import interventions, measures
    from .probes.intervene.attribution import attribution_sweep
    from .probes.intervene.edge_attribution import edge_attribution
    from .probes.intervene.intervening import intervening
    from .probes.intervene.knockout import knockout_sweep
    from .probes.intervene.patching import ablation_sweep, causal_trace, patch_sweep
    from .probes.intervene.paths import path_sweep
    from .probes.intervene.recording import record
    from .probes.intervene.sweep import intervention_sweep, variant_sweep
    from .probes.model.loading import load
    from .probes.model.subject import Subject
    from .probes.observe.capture import capture
    from .probes.observe.tracing import tracing
    from .probes.prompts.several_tokens import first_difference, summed_log_probability
    from .probes.runs.activations import cached
    from .reports.opened_run import open_run

__version__ = "0.1.0"
__all__ = [
    "Example",
    "Segment",
    "Subject",
    "SubjectError",
    "ablation_sweep",
    "attribution_sweep",
    "cached",
    "capture",
    "causal_trace",
    "edge_attribution",
    "first_difference",
    "intervening",
    "intervention_sweep",
    "interventions",
    "knockout_sweep",
    "load",
    "load_tuned_lens",
    "look",
    "measures",
    "metrics",
    "open_run",
    "patch_sweep",
    "path_sweep",
    "record",
    "repairs",
    "save_tuned_lens",
    "stats",
    "summed_log_probability",
    "tracing",
    "variant_sweep",
]
_HOMES = {
    "Example": "data.example",
    "Segment": "data.example",
    "Subject": "probes.model.subject",
    "SubjectError": "data.errors",
    "ablation_sweep": "probes.intervene.patching",
    "attribution_sweep": "probes.intervene.attribution",
    "cached": "probes.runs.activations",
    "capture": "probes.observe.capture",
    "causal_trace": "probes.intervene.patching",
    "edge_attribution": "probes.intervene.edge_attribution",
    "first_difference": "probes.prompts.several_tokens",
    "intervening": "probes.intervene.intervening",
    "intervention_sweep": "probes.intervene.sweep",
    "knockout_sweep": "probes.intervene.knockout",
    "load": "probes.model.loading",
    "load_tuned_lens": "analyses.lenses._published_lens",
    "look": "looked",
    "open_run": "reports.opened_run",
    "patch_sweep": "probes.intervene.patching",
    "path_sweep": "probes.intervene.paths",
    "record": "probes.intervene.recording",
    "save_tuned_lens": "analyses.lenses._published_lens",
    "summed_log_probability": "probes.prompts.several_tokens",
    "tracing": "probes.observe.tracing",
    "variant_sweep": "probes.intervene.sweep",
}
_MODULES = {
    "interventions": "probes.intervene.interventions",
    "measures": "probes.intervene.measures",
    "metrics": "analyses.metrics",
    "repairs": "analyses.repairs",
    "stats": "analyses.stats",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'crosslens' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)

"""What makes a model that hallucinates look again: repairs as context managers that act in `model.generate` too.

with repairs.vhr(subject, alpha=2.0):
    subject.model.generate(**inputs)
"""

from ..common.key_weights import gaze_variant, look_variant, pasta_variant
from ._act import act, act_effects
from ._answers import counts_of
from ._buckets import buckets
from ._key_weights import gaze, look, pasta
from ._var import var
from ._vhr import vhr

__all__ = [
    "act",
    "act_effects",
    "buckets",
    "counts_of",
    "gaze",
    "gaze_variant",
    "look",
    "look_variant",
    "pasta",
    "pasta_variant",
    "var",
    "vhr",
]

"""What makes a model that hallucinates look again: repairs as context managers that act in `model.generate` too.

with repairs.vhr(subject, alpha=2.0):
    subject.model.generate(**inputs)
"""

from ._act import act, act_effects
from ._answers import counts_of
from ._var import var
from ._vhr import vhr

__all__ = ["act", "act_effects", "counts_of", "var", "vhr"]

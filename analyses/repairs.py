"""Repairs: do three training-free edits of attention take hallucinations away, and do their controls as well?"""

from .act import act
from .var import var
from .vhr import vhr

__all__ = ["act", "var", "vhr"]

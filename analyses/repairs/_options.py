"""What the options of `repairs` may be: told in one line before anything is fitted."""

from __future__ import annotations

import math
from typing import Any

from ...data.errors import UserError

LEAST = {"draws": 1, "tokens": 1, "calibrated_on": 1, "timed": 0}
IMAGES = ("dropped", "masked")


def require(options: Any) -> None:
    """UserError: no strength, one that is no finite number, too few draws or tokens, an unknown blind branch."""
    for name in ("alphas", "ps", "betas"):
        given = getattr(options, name)
        if not given or not all(map(math.isfinite, given)):
            raise UserError(f"--repairs.{name} {' '.join(map(str, given)) or 'is empty'}: finite numbers, one at least")
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise UserError(f"--repairs.{name} {getattr(options, name)}: at least {least} is needed")
    if options.image not in IMAGES:
        raise UserError(f"--repairs.image {options.image}: one of {', '.join(IMAGES)}")

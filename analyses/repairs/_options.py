"""What the options of `repairs` may be: told in one line before anything is fitted."""

from __future__ import annotations

import math
from typing import Any

from ...data.errors import UserError
from ..common.asked import require_counts

IMAGES = ("dropped", "masked")


def require(options: Any) -> None:
    """UserError: no strength, one that is no finite number, too few draws or tokens, an unknown blind branch."""
    for name in ("alphas", "ps", "betas"):
        given = getattr(options, name)
        if not given or not all(map(math.isfinite, given)):
            raise UserError(f"--repairs.{name} {' '.join(map(str, given)) or 'is empty'}: finite numbers, one at least")
    require_counts("repairs", options, draws=1, tokens=1, calibrated_on=1, timed=0)
    if options.image not in IMAGES:
        raise UserError(f"--repairs.image {options.image}: one of {', '.join(IMAGES)}")

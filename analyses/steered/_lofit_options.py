"""Which options of `lofit` make sense."""

from __future__ import annotations

from typing import Any

from ...data.errors import UserError
from ..common.asked import every_head, require_counts


def require(subject: Any, options: Any) -> None:
    """UserError: what has to be another number."""
    require_counts("lofit", options, steps=1, batch=1, draws=1, neutral=0, l1=0, top=0)
    if options.rate <= 0:
        raise UserError(f"--lofit.rate {options.rate:g}: a rate above 0 is needed")
    if options.top > (there := len(every_head(subject))):
        raise UserError(f"--lofit.top {options.top}: the model has {there} heads to choose from")
    _require_strengths(options.strengths)


def _require_strengths(strengths: Any) -> None:
    told = " ".join(f"{one:g}" for one in strengths) or "(none)"
    if not strengths or strengths[0] != 1:
        raise UserError(f"--lofit.strengths {told}: the first has to be 1, the offsets as they are learned")
    if min(strengths) <= 0 or len({*strengths}) < len(strengths):
        raise UserError(f"--lofit.strengths {told}: different numbers above 0 are needed")

"""A name that is not known is told in one line, with the nearest ones."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ..data.errors import UserError


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """UserError in one line with the nearest names, where `name` is not one of `known`."""
    known = list(known)
    if name in known:
        return
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    told = f"is it {' or '.join(near)}?" if near else f"one of {', '.join(known)}"
    raise UserError(f"unknown {what} {name!r}: {told}")

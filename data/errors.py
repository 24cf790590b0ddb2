"""What stops a user, in one clear line; every room raises these, and the command line exits with 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """A user's mistake in one clear line: what is wrong, where, what to do."""


class NothingToMeasure(UserError):
    """What an analysis' `tables` raise where no example is left to measure: why, in one line, and the tables that there
    are nonetheless. The run is complete; its page and the command line say so.
    """

    def __init__(self, why: str, tables: Mapping[str, Any] | None = None) -> None:
        super().__init__(why)
        self.tables = dict(tables or {})


class SubjectError(UserError):
    """A model that cannot be opened, or an instrument that does not read what the model computes."""


class InterventionError(UserError):
    """An edit that does nothing where it should, or something where it should do nothing."""


class ReportError(UserError):
    """What stands in the way of a report."""

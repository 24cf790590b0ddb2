"""What the proofs find, one row each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.errors import SubjectError
from ..model.tolerance import TOLERANCE, through_limit

if TYPE_CHECKING:
    from ..model.subject import Subject

# Where a proof is made on a prompt with an image, in the vision tower, and between it and the decoder.
IMAGE, TOWER, BETWEEN = ", with an image", ", in the vision tower", ", in the projector"


@dataclass
class Findings:
    """Collects one row per proof; `close` and `true` raise SubjectError on the first that fails.

    side: where proofs are made, put behind their place. slack: what limits are multiplied with meanwhile. added: the
    positions [b, p] of an image.
    """

    subject: Subject
    rows: list[dict[str, Any]] = field(default_factory=list)
    side: str = ""
    slack: float = 1.0
    added: Tensor = field(default_factory=lambda: torch.zeros(0))

    def close(self, check: str, where: str, found: Tensor, expected: Tensor, slack: float = 1.0, why: str = "") -> None:
        """why: what is said behind a failure."""
        if found.shape != expected.shape:
            self.fail(check, where + self.side, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
        # Layers may lie on different devices.
        found, expected = found.float().cpu(), expected.float().cpu()
        scale = float(expected.abs().max()) or 1.0
        error = float((found - expected).abs().max()) / scale
        limit = self.slack * slack * TOLERANCE
        self.true(check, where, error <= limit, error, limit, why)

    def through(self, check: str, where: str, found: Tensor, expected: Tensor, why: str = "") -> None:
        """`close` of what went through all layers."""
        self.close(check, where, found, expected, through_limit(self.subject.n_layers) / TOLERANCE, why)

    def likely(self, check: str, where: str, found: Tensor, expected: Tensor) -> None:
        """`close` as a note: a family may have its own way behind a site that is read rightly."""
        error = float((found.float() - expected.float()).abs().max()) / (float(expected.abs().max()) or 1.0)
        self.note(check, where, error <= self.slack * TOLERANCE, error, self.slack * TOLERANCE)

    def true(self, check: str, where: str, passed: bool, value: float, limit: float, why: str = "") -> None:
        self.note(check, where, passed, value, limit)
        if not passed:
            self.fail(check, where + self.side, f"{value:.3g}, allowed {limit:.3g}{why}")

    def note(self, check: str, where: str, passed: bool, value: float, limit: float) -> None:
        """A proof that may fail without the subject being refused."""
        self.rows.append({"check": check, "where": where + self.side, "value": value, "limit": limit, "passed": passed})

    def fail(self, check: str, where: str, detail: str) -> None:
        raise SubjectError(f"{self.subject.family} ({self.subject.name}): {check} fails at {where}: {detail}")

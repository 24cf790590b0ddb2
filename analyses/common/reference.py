"""The other model of an analysis that compares two: opened once, and asked the same prompts token by token."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ...data.errors import UserError
from ...probes.model.loading import load
from ...probes.prompts.batch import Batch


def reference_of(subject: Any, name: str, analysis: str) -> Any:
    """The model that is compared with, opened and proved once. UserError: none is named, or the very same."""
    if not name:
        raise UserError(f"{analysis} compares two models: name the other one, --{analysis}.reference NAME")
    reference = _opened(name, str(subject.device), str(subject.dtype).removeprefix("torch."))
    if reference.fingerprint == subject.fingerprint:
        raise UserError(f"--{analysis}.reference {reference.name} is the very model that is run: nothing can differ")
    return reference


@lru_cache(maxsize=1)
def _opened(name: str, device: str, dtype: str) -> Any:
    return load(name, device=device, dtype=dtype)


def same_tokens(reference: Any, batch: Batch, analysis: str) -> Batch:
    """The other model's batch of the same examples. UserError: it reads them in other tokens."""
    same = reference.batch(batch.examples, **batch.form)
    if same.inputs["input_ids"].tolist() != batch.inputs["input_ids"].tolist():
        raise UserError(
            f"{reference.name} reads the text in other tokens (example {batch.example_ids[0]}): {analysis} compares "
            "token by token, so the reference needs the same tokenizer"
        )
    return same

"""Rotary factors that depend on the longest prompt of a batch, and position ids that do not count one prompt a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...data.errors import UserError


def switch(config: Any) -> int | None:
    """The longest prompt, in tokens, that LongRoPE turns by its short factors; None in other families."""
    lengths = [kind["original_max_position_embeddings"] for kind in _kinds(config, "longrope")]
    return min(lengths, default=None)


def crosses(config: Any, short: int, long: int) -> bool:
    """Whether prompts of these lengths cannot share a batch: the longest decides the factors of all."""
    at = switch(config)
    return at is not None and short <= at < long


def refuse_foreign(config: Any, arguments: Mapping[str, Any]) -> None:
    """UserError: inputs whose numbers would depend on each other, or that hold several prompts a row.

    Arguments as for the model: input_ids, attention_mask, position_ids.
    """
    mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
    if mask is not None and mask.ndim != 2:
        raise UserError(
            f"attention_mask has {mask.ndim} axes: give real positions, [prompts, positions]; what a query may read is "
            "changed by an edit of the attention (tracing)"
        )
    if positions is not None and positions.ndim == 2:
        _refuse_packed(positions, mask)
    lengths = _lengths(arguments) if _kinds(config, "longrope") or _kinds(config, "dynamic") else None
    if lengths is None:
        return
    short, long = int(lengths.min()), int(lengths.max())
    if crosses(config, short, long):
        raise UserError(
            f"prompts of {short} and of {long} positions in one batch: above {switch(config)} this model turns all of "
            "a batch by other rotary factors; run them in batches of their own"
        )
    if _kinds(config, "dynamic") and long > config.max_position_embeddings:
        raise UserError(
            f"a prompt of {long} positions: above {config.max_position_embeddings} the rotary factors of this model "
            "depend on every prompt before it; shorten it"
        )


def _refuse_packed(positions: Tensor, mask: Tensor | None) -> None:
    back = positions[:, 1:] < positions[:, :-1]
    if mask is not None:
        back = back & mask[:, 1:].bool() & mask[:, :-1].bool()
    if bool(back.any()):
        raise UserError("position_ids start again within a row: packed prompts are not read, give each its own row")


def _lengths(arguments: Mapping[str, Any]) -> Tensor | None:
    """How far each row's positions count, Int[b]; None where that is not known here."""
    positions, mask, ids = (arguments.get(name) for name in ("position_ids", "attention_mask", "input_ids"))
    if positions is not None:
        return positions.amax(-1) + 1 if positions.ndim == 2 else None
    if mask is not None:
        return mask.sum(-1)
    return None if ids is None else ids.new_full((len(ids),), ids.shape[1])


def _kinds(config: Any, rope_type: str) -> list[dict[str, Any]]:
    """The rotary settings of this type: families with several kinds of layers have settings for each."""
    told = getattr(config, "rope_parameters", None) or {}
    several = list(told.values()) if told and all(isinstance(one, dict) for one in told.values()) else [told]
    return [one for one in several if one.get("rope_type") == rope_type]

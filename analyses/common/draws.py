"""Keys of random draws by example, layer and number of the draw, for `controls`."""

from __future__ import annotations

from collections.abc import Sequence


def example_keys(ids: Sequence[str], draw: int) -> list[str]:
    """One key for each example, whatever batch it is in."""
    return [f"{name} {draw}" for name in ids]


def layer_keys(seed: int | Sequence[str], count: int, layer: int) -> list[str]:
    """The keys of so many prompts at one layer. seed: one number for all prompts, or one key for each.

    Errors: ValueError for another number of keys.
    """
    each = [str(seed)] * count if isinstance(seed, int) else list(seed)
    if len(each) != count:
        raise ValueError(f"{len(each)} keys for {count} prompts: one for each")
    return [f"{key} layer {layer}" for key in each]

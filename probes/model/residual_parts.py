"""What is added to the residual stream where the names of modules do not say it: written down by `block_sums`.

resid_mid = into_mid · resid_pre + attn_out, and resid_post = past_mid · resid_mid + mlp_out + beside_out.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ...data.errors import SubjectError

Gain = float | Tensor  # [d] where it differs by feature
NAMES = {"attn_out": "a mixer of positions", "mlp_out": "an MLP", "beside_out": "anything beside attention and MLP"}


class Part(NamedTuple):
    """The modules whose outputs times `gains` are one part, in the order in which they are called."""

    writers: tuple[nn.Module, ...] = ()
    gains: tuple[Gain, ...] = ()


class Parts(NamedTuple):
    """A layer's parts. mid_reader: what reads the residual between attention and MLP, None where nothing does.

    Without it into_mid is what the layer multiplies resid_pre with, and past_mid 1.
    """

    attn_out: Part
    mlp_out: Part
    beside_out: Part
    into_mid: Gain
    past_mid: Gain
    mid_reader: nn.Module | None

    def part(self, name: str) -> Part:
        """The part "attn_out", "mlp_out" or "beside_out". SubjectError: the layer has none."""
        found: Part = getattr(self, name)
        if not found.writers:
            raise SubjectError(f"the layer adds nothing of {NAMES[name]}")
        return found


# By layer, where the named modules and their factors are not what is added.
TOLD: WeakKeyDictionary[nn.Module, Parts] = WeakKeyDictionary()

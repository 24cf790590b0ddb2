"""What `capture` gives: tensors under TransformerLens' names, in a dictionary that prints itself in one line."""

from __future__ import annotations

from torch import Tensor

from ..sites import SiteError, site


class ActivationCache(dict[str, Tensor]):
    """Full name -> tensor. `cache["z", 5]` is `cache["blocks.5.attn.hook_z"]`; of a vision tower `cache["vision.z", 5]`

    SiteError (a KeyError): a name that is unknown, or that was not captured.
    """

    def __getitem__(self, name: str | tuple[str, int]) -> Tensor:
        full = name if isinstance(name, str) else full_name(*name)
        if full not in self:
            raise SiteError(f"{full!r} was not captured: {self!r}")
        return super().__getitem__(full)

    def __repr__(self) -> str:
        layers: dict[str, list[Tensor]] = {}
        for name, tensor in self.items():
            before, _, rest = name.partition("blocks.")
            layers.setdefault(before + rest.partition(".")[2], []).append(tensor)
        return f"ActivationCache({'; '.join(_line(hook, tensors) for hook, tensors in layers.items())})"


def full_name(name: str, layer: int) -> str:
    """ "z", 5 -> "blocks.5.attn.hook_z"; "vision.z", 5 -> "vision.blocks.5.attn.hook_z"."""
    prefix = next((one for one in ("vision.", "projector.") if name.startswith(one)), "")
    return f"{prefix}blocks.{layer}.{site(name.removeprefix(prefix)).hook}"


def _line(hook: str, tensors: list[Tensor]) -> str:
    shapes = list(dict.fromkeys(str(list(tensor.shape)) for tensor in tensors))
    kinds = dict.fromkeys(f"{str(tensor.dtype).removeprefix('torch.')} {tensor.device}" for tensor in tensors)
    return f"{hook} × {len(tensors)} layers {' or '.join(shapes[:2])} {' or '.join(kinds)}"

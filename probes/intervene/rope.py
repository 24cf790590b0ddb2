"""Rotary bases: a model's attention as another base would turn it, and the answer mixed over several."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ..model import anatomy
from ..prompts.batch import Batch
from .attention_edits import TurnByBase
from .intervening import intervening

if TYPE_CHECKING:
    from ..model.subject import Subject


def rotary_frequencies(subject: Subject) -> Float[Tensor, "pair"]:
    """The angle per position of each pair (i, i + pairs) of a head's channels, as the decoder turns them.

    UserError: a model that turns nothing, or not in every layer, pairs neighbours, scales its frequencies, or has
    several kinds of them.
    """
    rotary = getattr(anatomy.find_decoder(subject.model), "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    if frequencies is None:
        raise UserError(f"{subject.family} has no rotary frequencies that one base gives")
    told = _parameters(subject)
    kind, scaling = told.get("rope_type", "default"), getattr(rotary, "attention_scaling", 1.0)
    if any(isinstance(one, Mapping) for one in told.values()) or kind != "default" or scaling != 1.0:
        raise UserError(
            f"the rotary frequencies of {subject.family} are scaled, or differ by layer: no base gives them"
        )
    if not _pairs_are_halves(subject):
        raise UserError(f"{subject.family} turns neighbouring channels as pairs: other bases are not read for it")
    if unturned := [layer for layer in subject.decoder.attending if not _turns(subject, layer)]:
        raise UserError(f"{subject.family} has layers without a rotary turn, {unturned}: no base gives what they do")
    return frequencies.detach().float()


def own_base(subject: Subject) -> float:
    """The base that the decoder turns by. UserError: as `rotary_frequencies`, or heads of one pair, which every base
    turns alike.
    """
    frequencies = rotary_frequencies(subject).double()
    pairs = len(frequencies)
    if pairs < 2:
        raise UserError(f"{subject.family} turns one pair of channels: by every base alike")
    return float(frequencies[-1] ** (-pairs / (pairs - 1)))


def _parameters(subject: Subject) -> dict[str, Any]:
    decoder: Any = anatomy.find_decoder(subject.model)
    return getattr(decoder.config, "rope_parameters", None) or {}


def _turns(subject: Subject, layer: int) -> bool:
    """By the flags that families' attention asks: use_rope (SmolLM3, Llama 4), is_local_attention (AFMoE), and in a
    model with windows is_sliding (EXAONE 4); other families know a window only in the layers that have it.
    """
    attention = anatomy.attention_of(subject.layers[layer])
    windowed = getattr(attention, "sliding_window", None) is not None
    asked = [getattr(attention, name, True) for name in ("use_rope", "is_local_attention")]
    return all(asked) and not (windowed and getattr(attention, "is_sliding", True) is False)


def _pairs_are_halves(subject: Subject) -> bool:
    """By the family's own rotation: (a, b) becomes (−b, a) with a and b the halves."""
    attention = anatomy.attention_of(subject.layers[subject.decoder.attending[0]])
    rotate = getattr(sys.modules[type(attention).__module__], "rotate_half", None)
    return rotate is not None and rotate(torch.arange(1.0, 5.0)).tolist() == [-3.0, -4.0, 1.0, 2.0]


def turned_by(
    subject: Subject, base: float | Sequence[float], inputs: Mapping[str, Any] | Batch
) -> dict[int, tuple[TurnByBase]]:
    """The variant under which the prompts of `inputs` are read with another rotary base; one a prompt where several.

    Equal to the model with that base in its configuration: keys of the cache are turned on from the model's own.
    UserError: as `rotary_frequencies`; a base not above 0, or another number of them than prompts; images of a model
    that counts their places by row and column.
    """
    own = rotary_frequencies(subject)
    bases = torch.tensor([base] if isinstance(base, int | float) else list(base), dtype=torch.float64)
    read = subject.prepare(inputs)
    if any(name.endswith("_section") for name in _parameters(subject)) and any("pixel" in name for name in read):
        raise UserError(f"{subject.family} turns images by row and column: other bases are read for it of text alone")
    ids, mask = read["input_ids"], read.get("attention_mask")
    if not bool((bases > 0).all()) or len(bases) not in (1, len(ids)):
        raise UserError(f"rotary bases {bases.tolist()}: numbers above 0, one, or one for each of {len(ids)} prompts")
    exponents = -torch.arange(len(own), dtype=torch.float64) / len(own)
    turn = (bases[:, None] ** exponents).to(own) - own
    places = (torch.ones_like(ids) if mask is None else mask.long()).cumsum(1).sub(1).clamp(min=0)
    return {layer: (TurnByBase(turn, places),) for layer in subject.decoder.attending}


@contextmanager
def other_base(subject: Subject, base: float | Sequence[float], inputs: Mapping[str, Any] | Batch) -> Iterator[None]:
    """In the block `inputs` are read, and continued, with another rotary base."""
    with intervening(subject, turned_by(subject, base, inputs), inputs, generated=True):
        yield

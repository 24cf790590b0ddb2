"""Which words of a bank of contextual states a state lies nearest to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._checks import require, require_shape, widen


def word_similarity(
    states: Float[Tensor, "n d"], bank: Float[Tensor, "l w d"], word: Int[Tensor, " w"]
) -> tuple[Float[Tensor, "n words"], Int[Tensor, "n words"]]:
    """Largest cosine, −1…1, of each state to any occurrence of each word at any layer, and the index of that layer.

    bank: l layers of w occurrences; word: which word each of them is, 0 … words−1. One layer's n × w cosines are alive
    at a time. NaN for states of NaN. Of equal cosines the first layer's counts.
    Source: LatentLens, arXiv 2602.00462: neighbours of all layers ranked together (its README and code), here by word.
    Errors: ValueError for unequal shapes or an empty bank.
    """
    require(bank.ndim == 3 and bank.shape[1] > 0, f"bank has shape {tuple(bank.shape)}, expected [l, w > 0, d]")
    require_shape("word", word, bank.shape[1])
    require_shape("states", states, len(states), bank.shape[2])
    unit, where = torch.nn.functional.normalize(widen(states), dim=-1), word.long().expand(len(states), -1)
    best = unit.new_full((len(states), int(word.max()) + 1), -torch.inf)
    layer = torch.zeros_like(best, dtype=torch.long)
    for index, one in enumerate(bank):
        cosines = unit @ torch.nn.functional.normalize(widen(one), dim=-1).T
        found = torch.full_like(best, -torch.inf).scatter_reduce(1, where, cosines, "amax")
        layer = torch.where(found > best, index, layer)
        best = torch.maximum(best, found)
    return best, layer


def centred_directions(states: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n d"]:
    """States at length 1 with the mean of the n taken off: what one has beside all, without the few dimensions that
    are large in every state. States of NaN are left out of the mean.
    """
    unit = torch.nn.functional.normalize(widen(states), dim=-1)
    return unit - unit.nanmean(-2, keepdim=True)


def like_states(states: Float[Tensor, "n d"], noise: Float[Tensor, "m n"]) -> Float[Tensor, "m d"]:
    """m random vectors with the mean and, over draws of the noise, the covariance of the states: mean + noise ·
    (states − mean) / √(n − 1). noise: standard normal. Errors: ValueError for unequal shapes, or one state.
    """
    require(len(states) > 1, "one state has no covariance")
    require_shape("noise", noise, len(noise), len(states))
    mean = widen(states).mean(0)
    return mean + noise @ (widen(states) - mean) / (len(states) - 1) ** 0.5

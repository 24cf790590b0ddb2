"""Spectra of a layer's weight matrices: ranks, signal over noise (Spectrum), singular values above the noise edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...data.errors import SubjectError
from ...probes.model import anatomy
from ...probes.model.head_weights import key_weight, query_weight, value_weight
from .. import metrics
from ._circuits import RANKS

MATRICES = ("Q", "K", "V", "O", "gate", "up", "down")
OF_MATRICES = (*RANKS, "signal over noise", "values above the noise edge")


@torch.no_grad()
def of_matrices(subject: Any, draw: int | None = None) -> dict[str, Tensor]:
    """OF_MATRICES [layer, MATRICES], NaN where a layer has no such matrix. draw: of matrices with permuted entries."""
    found = {name: torch.full((subject.n_layers, len(MATRICES)), torch.nan) for name in OF_MATRICES}
    rng = None if draw is None else torch.Generator().manual_seed(draw)
    for layer in range(subject.n_layers):
        for at, matrix in _matrices(subject, layer):
            for name, value in _read(matrix if rng is None else _permuted(matrix, rng)).items():
                found[name][layer, at] = value.cpu()
    return found


def _matrices(subject: Any, layer: int) -> Iterator[tuple[int, Tensor]]:
    block = subject.layers[layer]
    readers: tuple[Callable[[], Tensor], ...] = (
        *(
            lambda of=of: _whole(of(subject, layer), subject, layer, of)
            for of in (query_weight, key_weight, value_weight)
        ),
        lambda: subject.W_O(layer).flatten(0, 1),
        lambda: anatomy.weight_in_out(anatomy.gate_projection(block)),
        lambda: anatomy.weight_in_out(anatomy.up_projection(block)),
        lambda: anatomy.weight_in_out(anatomy.down_projection(block)),
    )
    for at, read in enumerate(readers):
        try:
            matrix = read().detach().float()
        except SubjectError:
            continue
        if bool(matrix.any()):
            yield at, matrix


def _whole(heads: Tensor, subject: Any, layer: int, of: Any) -> Tensor:
    """[d, heads · d_head]; of keys and values each once, however many heads share them."""
    every = 1 if of is query_weight else subject.decoder.heads(layer) // subject.decoder.kv_heads(layer)
    return heads[::every].transpose(0, 1).flatten(1)


def _permuted(matrix: Tensor, rng: torch.Generator) -> Tensor:
    order = torch.randperm(matrix.numel(), generator=rng).to(matrix.device)
    return matrix.flatten()[order].view_as(matrix)


def _read(matrix: Tensor) -> dict[str, Tensor]:
    values = torch.linalg.svdvals(matrix)
    return {
        **dict(zip(RANKS, metrics.spectrum_ranks(values), strict=True)),
        "signal over noise": metrics.spectrum_snr(matrix, values),
        "values above the noise edge": (values > metrics.noise_edge(matrix)).sum().float(),
    }

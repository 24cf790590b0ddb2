"""One forward over the three prompts: what the answer's tokens read of the pictures, reduced while each layer is alive.

Letters in shapes: r prompt (PROMPTS), t answer token, h head, l layer that attends, c image token, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from .. import metrics

Head = tuple[int, int]


class Kept(NamedTuple):
    """A head that is shown. gain: its image share above that with blank pictures. maps: [r, t, c], float16."""

    gain: float
    head: Head
    shares: Float[Tensor, "r t"]
    maps: Tensor


class Seen(NamedTuple):
    """layers: those that attend. attention, carried: mean over heads, of A and of A · ‖v W_O‖ (None behind a gate).
    shares: attention on all image tokens. heads: those that gain most by the pictures, most first. vhd: T-VHD of each
    token when the pictures are blank, and when the question is another one. phi: sink values of all positions of the
    asked prompt at the middle state, and the threshold, None where no dimension is massive. states: of the lens, state
    -> image tokens of the asked prompt; final: the last residual of the asked and of the blank prompt, [2, p, d].
    log_p: the log-probability of the answer's tokens with the picture and with blank ones. cells: positions.
    """

    layers: list[int]
    cells: Int[Tensor, "r c"]
    places: Int[Tensor, "r t"]
    attention: Float[Tensor, "r t l c"]
    carried: Float[Tensor, "r t l c"] | None
    shares: Float[Tensor, "r l h t"]
    heads: list[Kept]
    vhd: Float[Tensor, "2 t"]
    phi: Float[Tensor, "p"] | None
    tau: float | None
    states: dict[int, Float[Tensor, "c d"]]
    final: Float[Tensor, "2 p d"]
    log_p: Float[Tensor, "2 t"]


@torch.no_grad()
def observe(subject: Any, batch: Batch, *, heads: int, states: Sequence[int], k: int) -> Seen:
    """The one observing forward. heads: how many are kept; states: of the lens, below the last; k: heads of T-VHD."""
    watch = _Watch(subject, batch, heads, states, k)
    with tracing(subject, watch):
        columns, where = watch.places.unique(return_inverse=True)
        logits = subject.forward(batch, keep=columns)
    return watch.seen(_log_p(logits, batch, watch.places, where))


def _log_p(logits: Tensor, batch: Batch, places: Tensor, where: Tensor) -> Tensor:
    """Log-probabilities of the answer's tokens in the asked and in the blank prompt, [2, t]."""
    rows = torch.tensor([0, 2])
    ids = batch.inputs["input_ids"].cpu().gather(1, places + 1)[0]
    said = logits[rows[:, None].to(logits.device), where[rows].to(logits.device)].float().log_softmax(-1)
    return said.gather(2, ids.to(said.device)[None, :, None].expand(2, -1, 1))[..., 0].cpu()


class _Watch:
    """Called with every layer as it ends."""

    def __init__(self, subject: Any, batch: Batch, heads: int, states: Sequence[int], k: int) -> None:
        self.last, self.middle = subject.n_layers - 1, subject.n_layers // 2
        self.wanted, self.count, self.k = states, heads, k
        self.mask, self.places = batch.mask, predicting(batch)
        self.cells = _in_rows(batch.where("patches"))
        self.layers: list[int] = []
        self.attention: list[Tensor] = []
        self.carried: list[Tensor | None] = []
        self.shares: list[Tensor] = []
        self.heads: list[Kept] = []
        self.peaks: list[Tensor] = []
        self.medians: list[Tensor] = []
        self.states: dict[int, Tensor] = {}
        self.vhd = torch.zeros(2, self.places.shape[1])
        self.central = self.final = torch.zeros(0)

    def __call__(self, layer: Layer) -> None:
        self._keep_states(layer)
        if not layer.attends:
            return
        self.layers.append(layer.index)
        maps = self._image_rows(layer)
        norms = self._carried_norms(layer)
        self.attention.append(maps.mean(1).cpu())
        self.carried.append(None if norms is None else (maps * norms[:, :, None]).mean(1).cpu())
        self.shares.append(maps.sum(-1).cpu())
        self._keep_heads(layer.index, maps)
        self._add_divergence(layer)

    def _image_rows(self, layer: Layer) -> Float[Tensor, "r h t c"]:
        pattern = layer.pattern(self.places.to(layer.resid_pre.device))
        columns = self.cells.to(pattern.device)[:, None, None].expand(*pattern.shape[:3], -1)
        return pattern.gather(3, columns)

    def _carried_norms(self, layer: Layer) -> Float[Tensor, "r h c"] | None:
        """‖v W_O‖ of every image token in every head, by v G vᵀ with G = W_O W_Oᵀ; None where a gate lies between."""
        if layer.gated:
            return None
        values = layer.v[torch.arange(3)[:, None], self.cells.to(layer.v.device)].float()
        weight = layer.subject.W_O(layer.index).to(values.device).float()
        values = values.repeat_interleave(len(weight) // values.shape[2], 2).transpose(1, 2)
        return ((values @ (weight @ weight.transpose(1, 2))) * values).sum(-1).clamp_min(0).sqrt()

    def _keep_heads(self, index: int, maps: Tensor) -> None:
        shares = maps.sum(-1)
        gains = (shares[0] - shares[2]).mean(-1)
        for head in gains.topk(min(self.count, len(gains))).indices.tolist():
            if len(self.heads) == self.count and float(gains[head]) <= self.heads[-1].gain:
                break
            one = Kept(float(gains[head]), (index, head), shares[:, head].cpu(), maps[:, head].half().cpu())
            self.heads = sorted([*self.heads, one], key=lambda kept: -kept.gain)[: self.count]

    def _add_divergence(self, layer: Layer) -> None:
        z = layer.z[torch.arange(3)[:, None], self.places.to(layer.z.device)].float()
        for row, other in enumerate((2, 1)):
            vhd = metrics.head_divergence(z[0], z[other])
            self.vhd[row] += metrics.total_divergence(vhd[:, None], min(self.k, vhd.shape[-1])).cpu()

    def _keep_states(self, layer: Layer) -> None:
        entering, real = layer.resid_pre[:1], self.mask[:1].to(layer.resid_pre.device)
        peak, median = metrics.dimension_peaks(entering, real)
        self.peaks.append(peak.cpu())
        self.medians.append(median.cpu())
        if layer.index == self.middle:
            self.central = entering.float().cpu()
        if layer.index in self.wanted:
            self.states[layer.index] = entering[0, self.cells[0].to(entering.device)]
        if layer.index == self.last:
            self.final = layer.resid_post[[0, 2]]

    def seen(self, log_p: Tensor) -> Seen:
        phi, tau = self._sinks()
        carried = [one for one in self.carried if one is not None]
        whole = torch.stack(carried, 2) if len(carried) == len(self.carried) else None
        numbers = torch.stack(self.attention, 2), whole, torch.stack(self.shares, 1)
        kept = self.heads, self.vhd, phi, tau, self.states, self.final, log_p
        return Seen(self.layers, self.cells, self.places, *numbers, *kept)

    def _sinks(self) -> tuple[Tensor | None, float | None]:
        """φ of the asked prompt at the middle state, and τ between its first and its median token."""
        dims = metrics.massive_dimensions(torch.stack(self.peaks), torch.stack(self.medians))
        if not dims:
            return None, None
        phi, real = metrics.sink_values(self.central, dims)[0], self.mask[0].cpu()
        return phi, metrics.gap_threshold(float(phi[real][0]), float(phi[real].median()))


def numbered(batch: Batch, cells: Int[Tensor, "r c"], row: int) -> list[Int[Tensor, "rows columns"]]:
    """Of each picture of a prompt whose geometry is known: which of its image tokens each cell of its map is."""
    at = {int(position): number for number, position in enumerate(cells[row].tolist())}
    start = int(batch.start[row])
    return [
        torch.tensor([[at[int(position) + start] for position in line] for line in picture.map])
        for picture in batch.geometry[row].pictures
    ]


def _in_rows(chosen: Tensor) -> Int[Tensor, "r c"]:
    """The positions that are chosen, as many in every row."""
    return chosen.nonzero()[:, 1].reshape(len(chosen), -1)

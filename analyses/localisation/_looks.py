"""What one prompt's tokens look at, on the cells of its map: read layer by layer, reduced while the layer is alive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.example import Example
from ...probes.intervene.answer_slopes import Slopes, answer_slopes
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from ...probes.runs.results import stack_layers
from .. import metrics
from ..common.controls import example_keys, permutations
from ._occlusion import occlusion_maps, pixels_of
from ._places import Place, on_cells, places
from ._words import Stretch, stretches

TOP = 10  # (layer, head) pairs of TAG
AT_ONCE = 8  # examples of a backward pass, whose graph holds all layers
PARTS = ("gain", "loss", "both")
Where = Sequence[Place | None]
Looks = dict[str, Tensor | None]


@lru_cache(maxsize=4)  # every layer asks for the same
def steps_of(batch: Batch) -> Int[Tensor, "b s"]:
    """The positions that predict the answer's tokens, -1 behind them; the last one where the prompt ends open."""
    return predicting(batch)


def looks(layer: Layer, batch: Batch, where: Where, mark: str, draws: int = 0) -> Looks:
    """None without heads, else

    rows [b, h, cells]: attention of the position that predicts the answer. steps [b, s, cells]: of all that predict
    its tokens, mean over heads. gaze [b, PARTS + draws, cells]: what the question's words change, and between tokens
    of the question in other orders. tag [b, words, TOP, cells]: of each of these words the heads that look most.
    """
    if not layer.attends:
        return dict.fromkeys(("rows", "steps", "gaze", "tag"))
    device, steps = layer.resid_pre.device, steps_of(batch)
    pattern = on_cells(layer.pattern(steps.clamp_min(0).to(device)), where)
    told = pattern.mean(1).masked_fill((steps < 0).to(device)[:, :, None], torch.nan)
    runs = stretches(batch, mark)
    asked = on_cells(layer.pattern(_rows_of(runs).to(device)), where)
    mine = [
        _of_question(own, run, place, name, draws)
        for own, run, place, name in zip(asked, runs, where, batch.example_ids, strict=True)
    ]
    gaze, tag = (_padded([one[i] for one in mine], asked.shape[-1]) for i in (0, 1))
    return {"rows": pattern[:, :, 0], "steps": told, "gaze": gaze, "tag": tag}


def _rows_of(runs: Sequence[Stretch | None]) -> Int[Tensor, "b n"]:
    """Their positions, behind the last the first position again."""
    most = max((len(run.positions) for run in runs if run is not None), default=1)
    whole = torch.zeros(len(runs), most, dtype=torch.long)
    for row, run in zip(whole, runs, strict=True):
        if run is not None:
            row[: len(run.positions)] = run.positions
    return whole


def _of_question(
    own: Float[Tensor, "h n cells"], run: Stretch | None, place: Place | None, name: str, draws: int
) -> tuple[Tensor, Tensor]:
    """What `looks` calls gaze and tag of one example, NaN without a question or a map."""
    top = min(TOP, len(own))
    if run is None or place is None:
        return own.new_full((len(PARTS) + draws, 0), torch.nan), own.new_full((1, top, 0), torch.nan)
    own = own[:, : len(run.positions), : len(place.positions)]
    words = run.words.to(own.device)
    maps = [metrics.gaze_changes(own[None], words, part) for part in PARTS]
    if draws:
        keys = [key for draw in range(draws) for key in example_keys([name], draw)]
        maps.append(metrics.gaze_changes(own[:, permutations(own.shape[1], keys)].transpose(0, 1), words))
    looking = own[:, words + 1].transpose(0, 1)
    order = looking.sum(-1).sort(dim=1, descending=True, stable=True).indices[:, :top]
    return torch.cat(maps), looking.take_along_dim(order[:, :, None], 1)


def _padded(several: Sequence[Tensor], cells: int) -> Tensor:
    """One tensor of all, NaN where one has fewer words or cells."""
    shape = [max(sizes) for sizes in zip(*(one.shape[:-1] for one in several), strict=True)]
    whole = several[0].new_full((len(several), *shape, cells), torch.nan)
    for row, one in zip(whole, several, strict=True):
        row[tuple(slice(size) for size in one.shape)] = one
    return whole


# ---------------------------------------------------------------- whole passes


def last_rows(layer: Layer, batch: Batch, where: Where) -> Tensor | None:
    """Attention of the position that predicts the answer on the map's cells, [b, h, cells]; None without heads."""
    if not layer.attends:
        return None
    first = steps_of(batch)[:, :1].to(layer.resid_pre.device)
    return on_cells(layer.pattern(first)[:, :, 0], where)


def attention_rows(subject: Any, batch: Batch, where: Where) -> Float[Tensor, "b layer h cells"]:
    """`last_rows` of every layer, by one observed pass."""
    kept: list[Looks] = []
    with tracing(subject, lambda layer: kept.append({"rows": last_rows(layer, batch, where)})):
        subject.forward(batch)
    return stack_layers(kept)["rows"]


def seen(subject: Any, batch: Batch, options: Any, *, occluded: bool = True) -> dict[str, Tensor]:
    """One more pass over prompts: `looks` of every layer [b, layer, …]; and where they are asked for "grad" [b, layer,
    cells], "pixels" [b, c, y, x], the gradient's, "occlusion" [b, 1, cells].
    """
    if options.gradients and len(batch.examples) > AT_ONCE:
        some = [batch.examples[first : first + AT_ONCE] for first in range(0, len(batch.examples), AT_ONCE)]
        return _joined([seen(subject, subject.batch(part, **batch.form), options, occluded=occluded) for part in some])
    where = places(batch, options.asked)
    kept: list[Looks] = []
    values: list[Tensor | None] = []

    def watch(layer: Layer) -> None:
        kept.append(looks(layer, batch, where, options.word))
        if options.gradients:
            values.append(on_cells(layer.v.permute(0, 2, 3, 1), where) if layer.attends else None)

    if not options.gradients:
        with tracing(subject, watch):
            subject.forward(batch)
        found = stack_layers(kept)
    else:
        shown = pixels_of(batch)
        slopes = answer_slopes(subject, batch, steps_of(batch)[:, 0], watch, pixels=shown is not None)
        found = stack_layers(kept)
        found["grad"] = _weighted(found["rows"], values, slopes, where)
        if shown is not None and slopes.pixels is not None:
            found["pixels"] = slopes.pixels[shown].cpu()
    if options.occlusion and occluded:
        found |= occlusion_maps(subject, batch, where, steps_of(batch)[:, 0], options.occlusion)
    return found


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The examples of all parts, NaN where one has fewer words, steps or cells, or lacks the name."""
    whole: dict[str, Tensor] = {}
    counts = [len(part["rows"]) for part in parts]
    for name in dict.fromkeys(name for part in parts for name in part):
        sizes = zip(*(part[name].shape[1:] for part in parts if name in part), strict=True)
        whole[name] = torch.full((sum(counts), *map(max, sizes)), torch.nan)
        for row, part in zip(np.cumsum([0, *counts]), parts, strict=False):
            if name in part:
                whole[name][(slice(row, row + len(part[name])), *map(slice, part[name].shape[1:]))] = part[name]
    return whole


def _weighted(
    rows: Float[Tensor, "b layer h cells"], values: Sequence[Tensor | None], slopes: Slopes, where: Where
) -> Float[Tensor, "b layer cells"]:
    """grad-att of every layer: attention times what it does for the answer, mean over heads."""
    whole = rows.new_full((rows.shape[0], rows.shape[1], rows.shape[3]), torch.nan)
    for index, (v, g) in enumerate(zip(values, slopes.z, strict=True)):
        for i, place in enumerate(where):
            if v is not None and g is not None and place is not None:
                n, heads = len(place.positions), len(g[i])
                own = v[i, :, :, :n].transpose(1, 2).float().cpu().repeat_interleave(heads // v.shape[1], 0)
                whole[i, index, :n] = metrics.gradient_attention(rows[i, index, :, :n], own, g[i].cpu())
    return whole


def seen_otherwise(
    subject: Any, batch: Batch, options: Any, change: Callable[[Example], Example | None], *, occluded: bool
) -> dict[str, Tensor]:
    """`seen` of the examples as `change` makes them, NaN where it gives None; nothing where it gives none."""
    changed = [change(example) for example in batch.examples]
    chosen = [i for i, example in enumerate(changed) if example is not None]
    if not chosen:
        return {}
    other = subject.batch([example for example in changed if example is not None], **batch.form)
    found = seen(subject, other, options, occluded=occluded)
    whole = {name: values.new_full((len(changed), *values.shape[1:]), torch.nan) for name, values in found.items()}
    for name, values in found.items():
        whole[name][chosen] = values
    return whole

"""What one prompt's tokens look at, on the cells of its map: read layer by layer, reduced while the layer is alive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.intervene.answer_slopes import Slopes, answer_slopes
from ...probes.observe.layer import Layer
from ...probes.observe.tracing import tracing
from ...probes.prompts.batch import Batch
from ...probes.prompts.image_ablation import predicting
from ...probes.runs.results import stack_layers
from .. import metrics
from ..common.changed import Change, changed
from ..common.controls import example_keys, permutations
from ..common.ragged import padded, stacked
from ..common.stretches import Stretch, rows_of, stretches
from ._occlusion import occlusion_maps, pixels_of
from ._places import Place, on_cells, places

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
    asked = on_cells(layer.pattern(rows_of(runs).to(device)), where)
    mine = [
        _of_question(own, run, place, name, draws)
        for own, run, place, name in zip(asked, runs, where, batch.example_ids, strict=True)
    ]
    gaze, tag = (padded([one[i] for one in mine], asked.shape[-1]) for i in (0, 1))
    return {"rows": pattern[:, :, 0], "steps": told, "gaze": gaze, "tag": tag}


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
        parts = [seen(subject, subject.batch(part, **batch.form), options, occluded=occluded) for part in some]
        return stacked(
            [{name: rows[i] for name, rows in part.items()} for part in parts for i in range(len(part["rows"]))]
        )
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


def seen_otherwise(subject: Any, batch: Batch, options: Any, change: Change, *, occluded: bool) -> dict[str, Tensor]:
    """`seen` of the examples as `change` makes them, NaN where it gives None; nothing where it gives none."""
    made = changed(subject, batch, change)
    if made is None:
        return {}
    found = seen(subject, made.batch, options, occluded=occluded)
    return {name: made.spread(rows) for name, rows in found.items()}

"""The activation cache: a task's activations at chosen sites and positions, run once, read many times.

It is a run like any other (key, shards, resume), whose rows are the activations themselves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from ...data.cached import cache_root
from ...data.errors import UserError
from ...data.tasks import Task, open_task
from ..model.stack import DECODER
from ..model.subject import refuse_under_edit
from ..observe.capture import parse_site
from ..observe.tracing import Layer, tracing
from ..prompts.batch import Batch
from ..prompts.bos import conditions
from ..sites import SITES, SiteError
from . import costs, store
from .plan import plan_from_json
from .preview import preview
from .results import How, condition_of
from .run import Settings, run
from .workers import Workers

if TYPE_CHECKING:
    from ..model.subject import Subject

VERSION = 1
NAME = "activations"


@dataclass(frozen=True)
class Options:
    """sites: short names of capture (all layers) or full ones (one layer: "blocks.3.attn.hook_z").

    positions: "last", "all", a role, a mark, or a number: that many real positions behind the first, drawn once
    for each example by its id.
    """

    sites: tuple[str, ...] = ("resid_pre",)
    positions: str = "last"


@dataclass(frozen=True)
class Activations:
    """Activations on disk. `activations["z"]` is one tensor [n, layers, ...]; `shards()` reads a batch at a time.

    examples: id, group, condition, in the order of the first axis. Positions other than "last" add an axis
    [n, layers, positions, ...], NaN behind the last position of an example. Sites of one layer have no layer axis;
    those of heads are NaN in layers without.
    """

    directory: Path
    examples: pd.DataFrame
    options: Options

    def __getitem__(self, site: str) -> Tensor:
        parts = [shard[site] for shard in self.shards(site)]
        axis = 2 if site in SITES else 1
        width = max((part.shape[axis] for part in parts), default=0) if self.options.positions != "last" else 0
        return torch.cat([_widen(part, width, axis) if width else part for part in parts])

    def tokens(self, site: str) -> Tensor:
        """A site of one layer at every kept position of every example: [tokens, ...], without the NaN behind.

        UserError: a site of all layers, whose axes are not tokens.
        """
        if site in SITES:
            raise UserError(f"tokens of {site!r}: keep it layer by layer, as blocks.3.{SITES[site].hook}")
        if self.options.positions == "last":
            return self[site]
        flat = (shard[site].flatten(0, 1) for shard in self.shards(site))
        return torch.cat([part[~part.flatten(1).isnan().any(1)] for part in flat])

    def shards(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        """Rows of one batch after the other: of `sites`, or all."""
        record = _record(self.directory)
        for index, shard in enumerate(plan_from_json(record["plan"]["shards"])):
            path = self.directory / "rows" / f"{index:05d}.safetensors"
            yield store.read_rows(path, record["key"], shard.ids, sites or None)


def cached(
    subject: Subject,
    task: Task | str,
    sites: Sequence[str] = ("resid_pre",),
    positions: str = "last",
    *,
    limit: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    workers: Workers | None = None,
) -> Activations:
    """Run a task once and keep `sites` at `positions`; the second call with the same arguments runs nothing.

    sites, positions: as in `Options` (not "pattern": maps are never kept; not a vision tower's: its rows are no
    prompt's). workers: as in `run`. Errors: SiteError (a KeyError) for an unknown site or one that the family lacks,
    UserError as in `run`.
    """
    refuse_under_edit(subject, "cached")
    (kept,) = cached_together(subject, task, [Options(tuple(sites), positions)], limit, seed, settings, workers)
    return kept


def cached_together(
    subject: Subject,
    task: Task | str,
    wanted: Sequence[Options],
    limit: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    workers: Workers | None = None,
) -> list[Activations]:
    """`cached` for several choices of sites and positions that ride one forward."""
    for site in (site for options in wanted for site in options.sites):
        _require_keepable(subject, site)
    task = open_task(task) if isinstance(task, str) else task
    settings = replace(settings or Settings(), limit=limit, seed=seed, out=home())
    # A name by content, so that a job has the same key whatever rides with it.
    names = [f"{NAME}-{store.key_of(asdict(options))[:8]}" for options in wanted]
    jobs: dict[str, tuple[Any, Any]] = {n: (_ANALYSIS, options) for n, options in zip(names, wanted, strict=True)}
    found = dict(zip(jobs, run(subject, task, jobs, settings, workers=workers), strict=True))
    groups = {e.id: e.group for e in task.examples(subject.tokenizer, limit, seed)}
    return [_opened(found[name], options, groups) for name, options in zip(names, wanted, strict=True)]


def planned(subject: Subject, task: Task, options: Options, settings: Settings) -> list[str]:
    """What `cached` would run, need and write, in lines."""
    name = f"{NAME}-{store.key_of(asdict(options))[:8]}"
    return preview(subject, task, {name: (_ANALYSIS, options)}, replace(settings, out=home()))


def _opened(directory: Path, options: Options, groups: Mapping[str, str]) -> Activations:
    ids = [(i, shard.bos) for shard in plan_from_json(_record(directory)["plan"]["shards"]) for i in shard.ids]
    rows = [{"id": i, "group": groups[i], "condition": condition_of(bos)} for i, bos in ids]
    return Activations(directory, pd.DataFrame(rows), options)


def _require_keepable(subject: Subject, name: str) -> None:
    """SiteError: an unknown site, one that a layer lacks, maps, or a vision tower's."""
    place = parse_site(subject, name)
    if place.site.name == "pattern" or place.stack != DECODER:
        raise SiteError(f"cannot keep {name!r}: choose among {', '.join(s for s in SITES if s != 'pattern')}")
    every = subject.decoder.attending if place.site.of_attention else range(subject.n_layers)
    for layer in every if place.layer is None else [place.layer]:
        subject.decoder.require(layer, place.site)


def home() -> Path:
    """Where activations lie: $CROSSLENS_CACHE or ~/.cache/crosslens."""
    return cache_root() / NAME


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The chosen sites at the chosen positions: [b, ...] for "last", else [b, positions, ...]."""
    kept, options = {}, how.options
    for site in options.sites:
        place = parse_site(layer.subject, site)
        if place.layer is None and place.site.of_attention and not layer.attends:
            kept[site] = None
        elif place.layer in (None, layer.index):
            kept[site] = take(layer[place.site.name], batch, options.positions)
    return kept


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Sites of one layer without the layer axis."""
    return {name: value if name in SITES else value.squeeze(1) for name, value in kept.items()}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's activations hold at most, as the plan counts them."""
    places = [parse_site(subject, site) for site in options.sites]
    each = sum(costs.width(subject, one.site.name) * (subject.n_layers if one.layer is None else 1) for one in places)
    asked = options.positions
    return each * (1 if asked == "last" else min(positions, int(asked)) if asked.isdigit() else positions)


def chosen_positions(batch: Batch, positions: str) -> Tensor:
    """Bool[b, p]: the positions of a role, a mark, "all", "last", or so many behind the first, drawn by example id."""
    if positions == "all":
        return batch.mask
    places = torch.arange(batch.mask.shape[1])
    if positions == "last":
        return places == batch.last[:, None]
    if not positions.isdigit():
        return batch.where(positions)
    chosen = torch.zeros_like(batch.mask)
    for row, name in enumerate(batch.example_ids):
        behind = range(int(batch.start[row]) + 1, int(batch.last[row]) + 1)
        # Drawn as offsets from the first position, so that both paddings give the same tokens.
        drawn = random.Random(name).sample(range(len(behind)), min(int(positions), len(behind)))
        chosen[row, [behind[i] for i in drawn]] = True
    return chosen


def take(tensor: Tensor, batch: Batch, positions: str) -> Tensor:
    """A tensor [b, p, ...] at `chosen_positions`, brought to the front: [b, chosen, ...], NaN behind the last."""
    rows = torch.arange(len(tensor), device=tensor.device)
    if positions == "last":
        return tensor[rows, batch.last.to(tensor.device)]
    chosen = chosen_positions(batch, positions).to(tensor.device)
    # A stable sort brings the chosen positions to the front without changing their order.
    order = torch.argsort((~chosen).int(), dim=1, stable=True)[:, : int(chosen.sum(1).max())]
    kept = tensor[rows[:, None], order]
    there = chosen.gather(1, order).reshape(*order.shape, *[1] * (tensor.ndim - 2))
    return kept.masked_fill(~there, torch.nan)


def _widen(part: Tensor, width: int, axis: int) -> Tensor:
    missing = part.new_full((*part.shape[:axis], width - part.shape[axis], *part.shape[axis + 1 :]), torch.nan)
    return torch.cat([part, missing], axis)


def _record(directory: Path) -> dict[str, Any]:
    record = store.read_record(directory)
    if record is None:
        raise UserError(f"{directory} holds no activations")
    return record


# What a run asks of an analysis; activations make no tables.
_ANALYSIS: Any = SimpleNamespace(
    __doc__="Activations kept on disk.",
    VERSION=VERSION,
    QUESTION="",
    PAPER="",
    Options=Options,
    methods=lambda options, learned, fitted_on: "",
    observe=observe,
    measure=measure,
    row_size=row_size,
)


def size_of(subject: Subject, task: Task, options: Options, limit: int | None, seed: int) -> int:
    """Bytes of activations that `cached` keeps at most: those of the example with most positions, for every example."""
    examples = task.examples(subject.tokenizer, limit, seed)
    template = task.module.TEMPLATE
    (bos, *_) = conditions(subject, template, None, task.module.BOS)
    alone = (subject.batch([e], template=template, bos=bos) for e in examples)
    batch = max(alone, key=lambda one: int(chosen_positions(one, options.positions).sum()))
    total = 0

    def count(layer: Layer) -> None:
        nonlocal total
        total += sum(
            t.numel() * t.element_size() for t in observe(layer, batch, How(options)).values() if t is not None
        )

    with tracing(subject, count):
        subject.forward(batch)
    return total * len(examples)

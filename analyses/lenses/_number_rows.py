"""Rows of `number_spectrum`: the numbers' logits of every module, and what a sum loses with waves taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.errors import UserError
from ...data.tokens import ids_in_text
from ...probes.intervene.interventions import Apply, Variant
from ...probes.intervene.recording import record
from ...probes.intervene.sweep import variant_sweep
from ...probes.model.head import vocabulary, word_directions
from ...probes.prompts.batch import Batch
from ...probes.sites import SITES
from .. import metrics
from ..common.controls import permutations, random_words

MODULES = {"attention": ("attn_out",), "MLP": ("mlp_out",), "both": ("attn_out", "mlp_out")}
READ = ("lead", "right", "off")
MOST = 1000  # numbers that are looked at
ONE_BY_ONE = 10  # up to so many components are also taken out one at a time
SLOW, FAST = "slow periods", "fast periods"


def numbers(tokenizer: Any) -> list[int]:
    """The tokens of 0, 1, 2 …, as many as are one token each, an even count. UserError: fewer than 10."""
    found: list[int] = []
    while len(found) < MOST:
        ids = ids_in_text(tokenizer, str(len(found)))
        if len(ids) != 1 or ids[0] in (*found, tokenizer.unk_token_id):
            break
        found += ids
    if len(found) < 10:
        raise UserError(
            f"number_spectrum: only {len(found)} numbers from 0 on are one token of this tokenizer, and the ten digits "
            "are needed: choose a model that spells digits one by one, or numbers whole"
        )
    return found[: len(found) // 2 * 2]


def parts_of(count: int, cut: int) -> dict[str, list[int]]:
    """Which components a filter takes out, by its name. UserError: a cut that leaves nothing on one side."""
    last = count // 2
    if not 2 <= cut <= last:
        raise UserError(f"--number_spectrum.cut {cut}: from 2 to {last}, of {count} numbers")
    parts = {SLOW: [*range(1, cut)], FAST: [*range(cut, last + 1)]}
    return parts | ({f"period {count / k:.3g}": [k] for k in range(1, last + 1)} if last <= ONE_BY_ONE else {})


def measured(subject: Any, batch: Batch, kept: dict[str, Tensor], options: Any) -> dict[str, Tensor]:
    """Rows: "logits|<module>" [b, layer, number], without their mean; "random|<module>", "random size|<module>": the
    same read of random words, as squares by component [b, layer, component] and as standard deviation [b, layer].

    Of each of READ: "clean|…" [b], "filtered|…" [b, kind, module, part]; kinds: measured, numbers in another order,
    random subspaces. "answer" [b]: the number that is right; "number" [b]: how many there are.
    """
    if options.draws < 1:
        raise UserError(f"--number_spectrum.draws {options.draws}: at least 1 is needed")
    ids = numbers(subject.tokenizer)
    answer = torch.tensor([_number_of(batch, example, ids) for example in batch.examples])
    rows = _written(subject, ids, kept) | _filtered(subject, batch, ids, answer, options)
    count = torch.full((len(answer),), float(len(ids)))
    return rows | {"answer": answer.float(), "numbers": count}


def _number_of(batch: Batch, example: Any, ids: Sequence[int]) -> int:
    first = batch.first_token_of(example, example.answer)
    if first not in ids:
        raise UserError(
            f"example {example.id}: its answer {example.answer!r} does not begin with a number: number_spectrum needs "
            "a task of sums, such as arithmetic"
        )
    return ids.index(first)


def _written(subject: Any, ids: Sequence[int], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the modules' outputs say of the numbers, and of as many random words in the place of each."""
    drawn = random_words(subject.tokenizer, tuple(ids), frozenset(ids), vocabulary(subject.model))
    rows = {}
    for name, outputs in kept.items():
        rows[f"logits|{name}"] = _logits(subject, ids, outputs)
        others = [_logits(subject, words, outputs) for words in drawn]
        rows[f"random|{name}"] = torch.stack([metrics.period_power(one) for one in others]).mean(0)
        rows[f"random size|{name}"] = torch.stack([one.std(-1, correction=0) for one in others]).mean(0)
    return rows


def _logits(subject: Any, ids: Sequence[int], outputs: Float[Tensor, "b l d"]) -> Float[Tensor, "b l n"]:
    rows = word_directions(subject.model, torch.tensor(ids)).cpu()
    logits = outputs.float().cpu() @ rows.T
    return logits - logits.mean(-1, keepdim=True)


class NumberLogits:
    """A measure: the logits of the numbers, [n, numbers]."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = torch.tensor(ids)

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        return logits[:, self.ids.to(logits.device)]


def _filtered(
    subject: Any, batch: Batch, ids: Sequence[int], answer: Int[Tensor, " b"], options: Any
) -> dict[str, Tensor]:
    base = record(subject, batch, MODULES["both"])
    removed = list(_removed(subject, ids, options))
    plan = [_variant(subject, base.final, sites, kind) for kind in removed for sites in MODULES.values()]
    # kinds come part by part: [kind × part, module]
    sweep = variant_sweep(base, plan, base.final, measure=NumberLogits(ids))
    shape = 1 + 2 * options.draws, len(removed) // (1 + 2 * options.draws), len(MODULES)
    rows = {}
    for name, clean, filtered in zip(READ, _read(sweep.clean, answer), _read(sweep.values, answer), strict=True):
        rows[f"clean|{name}"] = clean
        rows[f"filtered|{name}"] = filtered.T.reshape(-1, *shape).transpose(2, 3).contiguous()
    return rows


def _removed(subject: Any, ids: Sequence[int], options: Any) -> Iterator[Float[Tensor, "d rank"]]:
    """Orthonormal directions of every part: of the numbers, of these in another order, random ones."""
    rows = word_directions(subject.model, torch.tensor(ids)).cpu()
    parts = [*parts_of(len(ids), options.cut).values()]
    orders = permutations(len(ids), [f"numbers {draw}" for draw in range(options.draws)])
    own = [metrics.period_directions(rows, part) for part in parts]
    yield from own
    for order in orders:
        yield from (metrics.period_directions(rows[order], part) for part in parts)
    for draw in range(options.draws):
        for directions in own:
            key = crc32(f"subspace {draw} {directions.shape[1]}".encode())
            drawn = torch.from_numpy(np.random.default_rng(key).normal(size=tuple(directions.shape)))
            yield torch.linalg.qr(drawn)[0]


def _variant(subject: Any, positions: Tensor, sites: Sequence[str], directions: Float[Tensor, "d rank"]) -> Variant:
    """The directions taken out of what these sites write, in every layer that has them."""

    def without(x: Tensor) -> Tensor:
        axes = directions.to(x.device, torch.promote_types(x.dtype, torch.float32))
        return (x - (x.to(axes) @ axes) @ axes.T).to(x)

    decoder, changes = subject.decoder, {site: Apply(site, positions, without) for site in sites}
    return {
        layer: here
        for layer in range(subject.n_layers)
        if (here := tuple(change for site, change in changes.items() if _has(decoder, layer, site)))
    }


def _has(decoder: Any, layer: int, site: str) -> bool:
    return decoder.has(layer, SITES[site]) and (site != "attn_out" or layer in decoder.attending)


def _read(logits: Float[Tensor, "*v b n"], answer: Int[Tensor, " b"]) -> tuple[Tensor, ...]:
    """READ: the right number's logit over the mean of the others, whether it is the largest, how far off that is."""
    logits = logits.float().cpu()
    right = logits.gather(-1, answer.expand(logits.shape[:-1])[..., None])[..., 0]
    others = (logits.sum(-1) - right) / (logits.shape[-1] - 1)
    said = logits.argmax(-1)
    return right - others, (said == answer).float(), (said - answer).abs().float()

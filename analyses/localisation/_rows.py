"""The rows of a batch: scores by layer, method and control, and a map or two for the page's pictures."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.prompts.batch import Batch
from ...probes.runs.results import How
from ..common.controls import BOX, HEADS, QUESTION, random_circuits
from ..common.frames import middle
from ..common.ragged import stacked
from ..common.thumbnails import picture_rows
from ._attention_maps import (
    ALL,
    ATTENTION,
    CHOSEN,
    CONTRAST,
    FUSION,
    GAZE,
    RELATIVE,
    TAG,
    TAG_LESS,
    Maps,
    Seen,
    maps_of,
    of_heads,
    seen_of,
)
from ._looks import PARTS
from ._masks import mask_scores
from ._places import Place, places
from ._scoring import at_other_boxes, controlled, scores
from ._state_maps import MAGNITUDE, OF_WORDS, PHASE, TAM

GENERAL, WORDS, LARGEST = "the general prompt", "random words", "heads of the largest image sum"
LEFT, CHANGED, MIXED = "what attention leaves", "any change of attention", "the words in other orders"
SHOWN = (RELATIVE, CHOSEN, GAZE, TAG, TAM)  # maps that are kept for pictures
Found = dict[str, Tensor]


def score_rows(subject: Any, batch: Batch, kept: Found, general: Found, asked: Found, how: How) -> dict[str, Tensor]:
    """Rows: "<method>|<control>" [b, layers (states, or 1), scores], control "" for the method itself; "heads|…"
    [b, layers, h, scores]; "mask <method>|…" as `_masks.mask_scores`; "scored", "right" [b] (NaN without an answer);
    "box" [b, 4], "maps" [b, SHOWN, cells]; and what pictures need. general, asked: what is `seen` of the general
    prompt and of another question.
    """
    where = places(batch, how.options.asked)
    states = {name: torch.cat([kept[name], kept[f"final {name}"]], 1) for name in (MAGNITUDE, PHASE, *OF_WORDS)}
    found = []
    for row, place in enumerate(where):
        own = None if place is None else seen_of(kept, batch, row, place)
        if place is None or own is None:
            found.append({})
            continue
        others = seen_of(general, batch, row, place), seen_of(asked, batch, row, place)
        told = {name: maps[row, ..., : len(place.positions)] for name, maps in states.items()}
        found.append(_of_example(own, *others, told, place, batch.examples[row].id, how))
    rows = stacked(found)
    rows["scored"] = torch.tensor([float("box" in one) for one in found])
    rows["right"] = _right(subject, batch, kept["last"][:, 0])
    pictures = picture_rows(batch)
    return rows | {name: pictures[name] for name in ("picture", "grid", "unplaced")}


def _of_example(
    own: Seen,
    general: Seen | None,
    asked: Seen | None,
    states: dict[str, Float[Tensor, "state words cells"]],
    place: Place,
    name: str,
    how: How,
) -> dict[str, Tensor]:
    heads, middles, options = how.learned.heads, how.learned.middles, how.options
    maps = maps_of(own, general, heads, place, options)
    said = {method: values[:, 0] for method, values in states.items()}
    found = controlled(maps | said, place, middles, name)
    found |= _masks("", maps, place, middles, name)
    if CHOSEN in maps:
        found[f"{CHOSEN}|{ALL}"] = scores(own.rows.nanmean((0, 1))[None], place)
        found |= _of_other_heads(own.rows, place, name, how.learned)
    if GAZE in maps:
        found |= _of_other_changes(own.gaze, place)
    if general is not None:
        alone = maps_of(general, None, heads, place, options)
        found |= {f"{method}|{GENERAL}": scores(alone[method], place) for method in alone}
    found["heads|"], found[f"heads|{BOX}"] = scores(own.rows, place), at_other_boxes(own.rows, place, middles, name)
    if asked is not None:
        another = maps_of(asked, general, heads, place, options)
        found |= {f"{method}|{QUESTION}": scores(another[method], place) for method in maps if method in another}
        found |= _masks(QUESTION, another, place, middles, name)
        found[f"heads|{QUESTION}"] = scores(asked.rows, place)
    for method in OF_WORDS:
        if states[method].shape[1] > 1:
            found[f"{method}|{WORDS}"] = scores(states[method][:, 1:], place).mean(1)
    box, shown = place.box, _shown(maps, said)
    return found | {"maps": shown, "box": torch.tensor([box.y, box.x, box.height, box.width], dtype=torch.float32)}


def _masks(control: str, maps: Maps, place: Place, middles: Any, name: str) -> dict[str, Tensor]:
    """Of CARVE, the fusion where an answer has several tokens, and of TAG."""
    several = {
        "CARVE": maps.get(FUSION, maps.get(CONTRAST)),
        TAG: maps.get(TAG),
        TAG_LESS: maps.get(TAG_LESS),
    }
    found: dict[str, Tensor] = {}
    for method, some in several.items():
        if some is not None:
            found |= mask_scores(method, some, place, () if control else middles, name, control)
    return found


def _of_other_changes(gaze: Float[Tensor, "layer kinds cells"], place: Place) -> dict[str, Tensor]:
    """Scores of what attention leaves, of any change, and mean over draws of what other orders of the words change."""
    found = {f"{GAZE}|{LEFT}": scores(gaze[:, 1], place), f"{GAZE}|{CHANGED}": scores(gaze[:, 2], place)}
    mixed = gaze[:, len(PARTS) :]
    return found | ({f"{GAZE}|{MIXED}": scores(mixed, place).mean(1)} if mixed.shape[1] else {})


def _of_other_heads(own: Tensor, place: Place, name: str, learned: Any) -> dict[str, Tensor]:
    """Scores [1, scores] of heads of the largest image sum and, mean over draws, of random heads of the same layers."""
    found = {f"{CHOSEN}|{LARGEST}": scores(of_heads(own, learned.largest), place)[None]}
    chosen = [(int(layer), int(head)) for layer, head in learned.heads]
    draws = [of_heads(own, heads) for heads in random_circuits(chosen, own.shape[1], key=name)]
    return found | ({f"{CHOSEN}|{HEADS}": scores(torch.stack(draws), place).mean(0)[None]} if draws else {})


def _shown(maps: dict[str, Tensor], said: dict[str, Tensor]) -> Float[Tensor, "shown cells"]:
    """One map of each method of SHOWN, its largest value 1: the mean of the middle layers, or of the last state."""
    cells = maps[ATTENTION].shape[-1]
    layers = middle(len(maps[ATTENTION]))
    one = {name: maps[name] for name in (CHOSEN, TAG) if name in maps} | {TAM: said[TAM][-1:]}
    one |= {name: maps[name][layers] for name in (RELATIVE, GAZE) if name in maps}
    means = [one[name].nanmean(0) if name in one else torch.full((cells,), torch.nan) for name in SHOWN]
    return torch.stack([mean / mean.max().clamp_min(torch.finfo(mean.dtype).tiny) for mean in means])


def _right(subject: Any, batch: Batch, last: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Whether the answer is the likeliest of its options, or of all words where it has none; NaN without an answer."""
    logits = subject.unembed(subject.norm(last.to(subject.device))).float().cpu()
    found = torch.full((len(logits),), torch.nan)
    for row, example in enumerate(batch.examples):
        if example.answer:
            ids = [batch.first_token_of(example, word) for word in (example.answer, *example.wrong)]
            best = ids[int(logits[row, ids].argmax())] if example.wrong else int(logits[row].argmax())
            found[row] = float(best == ids[0])
    return found

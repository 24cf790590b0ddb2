"""What `recall` makes of its rows: a half that is fitted, a half that is scored, the parts of an MLP's output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...probes.runs.results import How, Rows
from ..common.controls import DRAWS, HEADS, WORDS
from ..common.selection import halves
from ._recall_fit import Prompts, explained, explained_by_others, kinds_of, offset, weights
from ._recall_rows import ANSWER, OTHER

Array = NDArray[np.floating]
SHUFFLED = "movers of other prompts"
RELATIONS = "answers of other relations"
ALONE = "the mean of prompts of its kind"
MLP, COPY, REST = "the MLP's output", "w · o, the movers' part", "b"


class Halves(NamedTuple):
    """o [n, k, d], m [n, d] of all prompts, those that were fitted, and the rows that are scored."""

    o: Array
    m: Array
    prompts: Prompts
    scored: Rows


def halves_of(rows: Rows, how: How) -> Halves | None:
    """None where nothing was chosen, or one group cannot be halved."""
    fitted, other = halves(rows.examples["group"], how.learned.selected_on)
    if "movers" not in rows.values or not fitted.any():
        return None
    o, m = (rows[name].astype(float) for name in ("movers", "mlp"))
    return Halves(o, m, Prompts(kinds_of(rows.examples), rows.examples["group"].to_numpy(), fitted), rows.where(other))


def movers_of(how: How) -> list[tuple[int, int]]:
    return [(int(layer), int(head)) for layer, head in how.learned.heads]


def gains(found: Halves, rows: Rows) -> Iterator[tuple[str, Array, Array]]:
    """(control, Σ m² − Σ rest², Σ m²) of every prompt; the scored ones' are asked."""
    own, whole = explained(found.o, found.m, found.prompts)
    yield "", own, whole
    if "random" in rows.values:
        drawn = rows["random"].astype(float)
        gained = [explained(drawn[:, draw], found.m, found.prompts)[0] for draw in range(drawn.shape[1])]
        yield HEADS, np.mean(gained, 0), whole
    else:
        yield HEADS, np.full(len(whole), np.nan), whole
    yield SHUFFLED, explained_by_others(found.o, found.m, found.prompts, DRAWS), whole


def with_offset(found: Halves, rows: Rows) -> Iterator[tuple[str, Array, Array]]:
    """The same with b counted: Σ m² is then of the whole output, and what b alone tells is the control."""
    _, own, around = next(gains(found, rows))
    square = (found.m**2).sum(-1)
    yield "", square - around + own, square
    yield ALONE, square - around, square


def parts_of_mlp(found: Halves) -> dict[str, Array]:
    """What the MLP writes, [n, d] of the scored prompts, and the two parts of it that the regression tells."""
    scored = ~found.prompts.fitted
    copied = np.einsum("k,nkd->nd", weights(*found[:3]), found.o)
    parts = {MLP: found.m, COPY: copied, REST: offset(*found[:3])}
    return {name: values[scored] for name, values in parts.items()}


def along(part: Array, rows: Rows) -> dict[str, Array]:
    """Word -> logits that a part adds to it at each prompt, [n]."""
    found = {word: np.einsum("nd,nd->n", part, rows[f"read|{word}"]) for word in (ANSWER, OTHER, WORDS)}
    if "relation" in rows.examples and rows.examples["relation"].nunique() > 1:
        relation = rows.examples["relation"].to_numpy()
        apart = relation[:, None] != relation[None]
        found[RELATIONS] = ((part @ rows[f"read|{ANSWER}"].T) * apart).sum(1) / apart.sum(1)
    return found


def written_directly(rows: Rows, word: str) -> dict[str, Array]:
    """[n, layer] of both parts; a layer without heads is NaN."""
    return {"MLP": rows[f"mlp|direct|{word}"], "heads": rows[f"head|direct|{word}"].sum(-1)}

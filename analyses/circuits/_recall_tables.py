"""Tables of `recall`: the movers, what an MLP copies of them, where the rest points, and what the last layer writes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.contrast import task_table
from ..common.frames import by_head, joined, summarise
from ..common.selection import halves
from ..common.stats import family_p
from ._recall_fit import weight_intervals
from ._recall_parts import along, gains, halves_of, movers_of, parts_of_mlp, with_offset, written_directly
from ._recall_rows import ANSWER, OTHER
from ._recall_tested import ATTENTION, LOGITS, SHARE, tested_of

DIRECT = "path to the output"
AROUND, WHOLE = "R²", "R² with b counted"


# ---------------------------------------------------------------- movers


def _heads(rows: Rows, how: How) -> pd.DataFrame:
    """Every head's path to the output and attention on the subject, on the half that chose none of them."""
    _, other = halves(rows.examples["group"], how.learned.selected_on)
    scored, frames = rows.where(other), []
    for measure, unit in ((DIRECT, LOGITS), (ATTENTION, "attention")):
        if f"head|{measure}" in rows.values:
            values = scored[f"head|{measure}"]
            chance = family_p(values, scored.examples["group"]).ravel() if measure == DIRECT else np.nan
            frames.append(by_head(scored, values, unit, measure=measure).assign(p_value=chance))
    frame, chosen = joined(frames), set(movers_of(how))
    places = zip(frame["layer"].astype(int), frame["head"].astype(int), strict=True)
    return frame.assign(chosen=[place in chosen for place in places])


# ---------------------------------------------------------------- the regression


def _copied(rows: Rows, how: How) -> pd.DataFrame | None:
    """Out-of-sample R²: what the movers tell of the MLP's output beyond what all prompts of a kind have in common; and
    the same with that counted as well.
    """
    found = halves_of(rows, how)
    if found is None:
        return None
    scored, groups = ~found.prompts.fitted, found.scored.examples["group"]
    layer = how.learned.mlp
    return joined(
        summarise(gained[scored], groups, {}, SHARE, denominators=whole[scored], control=control).assign(
            layer=layer, measure=measure
        )
        for measure, made in ((AROUND, gains), (WHOLE, with_offset))
        for control, gained, whole in made(found, rows)
    )


def _weights(rows: Rows, how: How) -> pd.DataFrame | None:
    """w of every mover, fitted on the half that is not scored."""
    found = halves_of(rows, how)
    if found is None:
        return None
    columns = dict(zip(("value", "lower", "upper"), weight_intervals(*found[:3]), strict=True))
    layers, heads = zip(*movers_of(how), strict=True)
    groups = found.prompts.groups[found.prompts.fitted]
    counts = {"n": len(groups), "n_groups": len(np.unique(groups))}
    return pd.DataFrame({"layer": layers, "head": heads, **columns, **counts, "unit": "times", "measure": "w"})


# ---------------------------------------------------------------- b


def _redirection(rows: Rows, how: How) -> pd.DataFrame | None:
    """Logits that b, the movers' part and their sum with what is left add to the answer and to other words."""
    found = halves_of(rows, how)
    if found is None:
        return None
    groups = found.scored.examples["group"]
    return joined(
        summarise(values, groups, {}, LOGITS, part=part, word=word)
        for part, whole in parts_of_mlp(found).items()
        for word, values in along(whole, found.scored).items()
    )


# ---------------------------------------------------------------- the last layer


def _direct(rows: Rows, how: How) -> pd.DataFrame:
    """Direct logit attribution by layer, of its MLP and of its heads together."""
    groups, frames = rows.examples["group"], []
    for word, control in ((ANSWER, ""), (OTHER, OTHER)):
        for part, values in written_directly(rows, word).items():
            axes = {"layer": range(values.shape[1])}
            frames.append(summarise(values, groups, axes, LOGITS, control=control, part=part))
    return joined(frames)


def _last(rows: Rows, how: How) -> pd.DataFrame | None:
    """Direct logit attribution of each head of the last layer."""
    own = rows[f"head|direct|{ANSWER}"][:, -1]
    if np.isnan(own).all():
        return None
    groups, layer = rows.examples["group"], rows[f"mlp|direct|{ANSWER}"].shape[1] - 1
    axes = {"head": range(own.shape[1])}
    return joined(
        summarise(rows[f"head|direct|{word}"][:, -1], groups, axes, LOGITS, control=control, layer=layer)
        for word, control in ((ANSWER, ""), (OTHER, OTHER))
    )


TABLES = {
    "task": (task_table, ("measure",)),
    "heads": (_heads, ("measure", "chosen", "p_value")),
    "copied": (_copied, ("measure",)),
    "weights": (_weights, ("measure",)),
    "redirection": (_redirection, ("part", "word")),
    "direct": (_direct, ("part",)),
    "last": (_last, ()),
    "tested": (tested_of, ("claim", "than", "untestable")),
}

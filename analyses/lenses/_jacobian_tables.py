"""Tables of `jacobian_lens`: each lens by state, what gradients say, and the numbers of the claims."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.claims import Statement, unsolved
from ..common.controls import TURNED
from ..common.frames import joined, middle, summarise
from ..common.tested import nothing, number

LOGIT, JACOBIAN, GRADIENT = "logit lens", "Jacobian lens", "gradient"
TURNED_AT = tuple(f"{TURNED} {draw}" for draw in range(2))
WRONG, RANK = "wrong answer", "rank (1 = first)"
EARLIER, NAMED = "reads the answer earlier", "gradients name the answer"
TOP = 10  # among so many first tokens a gradient names the answer

CLAIMS = (
    Statement(
        EARLIER,
        "Through the Jacobian lens the answer can be read earlier than through the logit lens: over the middle half of "
        "the states its rank among all words is at most half as large (mean difference of log2 rank below −1), and it "
        "is lower than through the same maps turned at random.",
        *("Gurnee et al. 2026, -style: the paper was not read; threshold and control are this project's", -1.0),
        "below",
    ),
    Statement(
        NAMED,
        "Backward, gradients are words: in the second half of the states without the last, where it holds by "
        "construction, minus the gradient of the answer's loss through the final norm and the unembedding has the "
        f"answer among its first {TOP} tokens in more than half of the cases, and more often than the wrong answer: "
        "this margin tells the prompt's two words apart, not its gradient from another prompt's.",
        *("the backward lens, arXiv 2402.12865, -style, from memory; threshold and control are this project's", 0.5),
    ),
)


def _doublings(rows: Rows, way: str) -> np.ndarray:
    """log2 of the answer's rank, counted from 1, [n, state]."""
    return np.log2(rows[f"{way}|rank"][..., 0] + 1)


def _turned(rows: Rows) -> np.ndarray:
    """The same through turned maps, mean of the draws."""
    return np.mean([_doublings(rows, way) for way in TURNED_AT], 0)


def _by_state(rows: Rows, how: How) -> pd.DataFrame:
    """Median rank, mean KL, share of prompts whose first token is the model's, by lens and state."""
    groups, axes = rows.examples["group"], {"state": np.arange(rows[f"{LOGIT}|kl"].shape[1])}
    turned = {name: np.mean([rows[f"{way}|{name}"] for way in TURNED_AT], 0) for name in ("kl", "top1")}
    read = [(lens, "", {name: rows[f"{lens}|{name}"] for name in turned}) for lens in (LOGIT, JACOBIAN)]
    parts = []
    for lens, control, found in [*read, (JACOBIAN, TURNED, turned)]:
        ranks = 2 ** (_turned(rows) if control else _doublings(rows, lens))
        told: dict[str, Any] = {"lens": lens, "control": control}
        parts.append(summarise(ranks, groups, axes, RANK, statistic="median", **told).assign(measure="rank"))
        parts.append(summarise(found["kl"], groups, axes, "nats", **told).assign(measure="kl"))
        parts.append(summarise(found["top1"], groups, axes, "share", **told).assign(measure="top1"))
    wrong = rows[f"{JACOBIAN}|rank"][..., 1] + 1
    told = {"lens": JACOBIAN, "control": WRONG}
    parts.append(summarise(wrong, groups, axes, RANK, statistic="median", **told).assign(measure="rank"))
    return joined(parts)


def _gradients(rows: Rows, how: How) -> pd.DataFrame:
    """Median ranks in the gradient of the answer's loss, of the answer and of the wrong answer."""
    ranks = rows[f"{GRADIENT}|rank"] + 1
    groups, axes = rows.examples["group"], {"state": np.arange(ranks.shape[1])}
    return joined(
        summarise(ranks[..., i], groups, axes, RANK, statistic="median", control=control)
        for i, control in enumerate(("", WRONG))
    ).assign(lens=GRADIENT, measure="rank")


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    solved = number("", (rows["lead"] > 0) - 0.5, groups, "share").iloc[0]
    between = middle(rows[f"{LOGIT}|kl"].shape[1] - 1)
    own = _doublings(rows, JACOBIAN)[:, between]
    turned = _turned(rows)[:, between]
    plain = _doublings(rows, LOGIT)[:, between]
    why, unit = unsolved(solved), "doublings of the rank"
    first = rows[f"{GRADIENT}|rank"] < TOP
    late = first[:, first.shape[1] // 2 : -1]  # without the last state, whose gradient is made of the answer's row
    return pd.concat(
        [
            number(EARLIER, (own - plain).mean(1), groups, unit, untestable=why),
            number(EARLIER, (own - turned).mean(1), groups, unit, than=TURNED),
            *_of_gradients(late, groups),
        ],
        ignore_index=True,
    )


def _of_gradients(first: np.ndarray, groups: pd.Series) -> list[pd.DataFrame]:
    """first [n, state, answer or wrong answer]: whether it is among the first tokens."""
    if not first.shape[1]:
        return [nothing(NAMED, "of one layer there is no state behind the middle but the last")]
    own, wrong = first.mean(1).T
    unit = "share of states"
    return [number(NAMED, own, groups, unit), number(NAMED, own - wrong, groups, unit, than=WRONG)]


TABLES = {
    "lenses": (_by_state, ("lens", "measure")),
    "gradients": (_gradients, ("lens", "measure")),
    "tested": (_tested, ("claim", "than", "untestable")),
}

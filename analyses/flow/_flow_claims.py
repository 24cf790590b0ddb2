"""What the papers say of flows, and the row of `stages` or `sites` that each statement is about."""

from __future__ import annotations

import pandas as pd

from ..common.claims import Claim, Statement, judge, one_row, unsolved
from ._flow_tables import HALVES

_FLOW, _RECALL, _TRACING = "arXiv 2411.18620", "arXiv 2304.14767", "arXiv 2202.05262"


# statement, then the row of `stages` that it is about: flow, control, stage
_FLOWS = (
    (
        Statement(
            "image to question early",
            "Information goes from the image to the question in early layers: cutting image → question costs more in "
            "the first third of the layers than in the last (difference below 0).",
            *(_FLOW, 0.0, "below"),
        ),
        *("image → question", "", "early − late"),
    ),
    (
        Statement(
            "question to last in the middle",
            "The answer gathers question information in the middle: cutting question → last costs more in the middle "
            "third than in the first (difference below 0).",
            *(_FLOW, 0.0, "below"),
        ),
        *("question → last", "", "middle − early"),
    ),
    (
        Statement(
            "question before image",
            "The image does not speak to the last position directly: over all layers, cutting question → last changes "
            "more than cutting image → last (difference above 0).",
            *(_FLOW, 0.0, "above"),
        ),
        *("question → last", "", "|question| − |image|"),
    ),
    (
        Statement(
            "asked object is read",
            "The question reads the asked object's patches: cutting them costs more in the middle third than cutting "
            "as many random patches (difference below 0).",
            *(_FLOW, 0.0, "below"),
        ),
        *("asked object → question", "random patches", "flow − control, middle third"),
    ),
    (
        Statement(
            "subject is read",
            "The last position reads the subject: over the middle third, cutting subject → last costs more than "
            "cutting as many random positions (difference below 0).",
            *(_RECALL, 0.0, "below"),
        ),
        *("subject → last", "random positions", "flow − control, middle third"),
    ),
)


_SITES = (
    Statement(
        f"tracing, {HALVES[0]}",
        "Causal tracing: in the first half of the states, restoring the subject's last token brings back more "
        "probability than restoring the last position (difference above 0).",
        *(_TRACING, 0.0, "above"),
    ),
    Statement(
        f"tracing, {HALVES[1]}",
        "Causal tracing: in the second half of the states, restoring the last position brings back more probability "
        "than restoring the subject's last token (its difference to that is below 0).",
        *(_TRACING, 0.0, "below"),
    ),
)


CLAIMS = (*(statement for statement, *_ in _FLOWS), *_SITES)


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The papers' statements about one condition's tables; those whose flow the task does not have are left out."""
    accuracy = tables["accuracy"]
    solved = unsolved(one_row(accuracy, measure="accuracy − guessing", subset="all"))
    made = []
    for statement, flow, control, stage in _FLOWS:
        row = one_row(tables.get("stages"), flow=flow, control=control, stage=stage)
        if row is not None:
            made.append(judge(statement, row, untestable=solved, note=f"{flow}, {stage}"))
    sites, trace = tables.get("sites"), tables.get("trace")
    if sites is None or trace is None:
        return made
    lost = "" if (trace["measure"] == "normalised").any() else "the twin does not lower the answer's probability"
    rows = [one_row(sites, half=half) for half in HALVES]
    return made + [judge(s, row, untestable=solved or lost) for s, row in zip(_SITES, rows, strict=True)]

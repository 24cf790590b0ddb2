"""Maps beside their control in one panel: cells that it explains are grey, buttons show it and the difference."""

from __future__ import annotations

import pandas as pd

MEASURED, DIFFERENCE = "measured", "measured − control"
PLACE = ["condition", "layer", "head"]


def views(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a column `view`: "measured", "control: …" for each, and their difference where there is one control.

    `unclear`: the interval of a measured head does not lie clear of the control's. A difference has no interval of its
    own: it is of two means.
    """
    control = rows["control"].fillna("") if "control" in rows else pd.Series("", index=rows.index)
    rows = rows.assign(view=("control: " + control).where(control != "", MEASURED))
    if not (control != "").any():
        return rows.drop(columns="view").assign(view=MEASURED)
    measured = rows[control == ""].assign(unclear=False)
    others = [part for _, part in rows[control != ""].groupby("control", sort=False)]
    for other in others:
        beside = _beside(measured, other)
        touching = (measured["lower"].to_numpy() <= beside["upper"]) & (measured["upper"].to_numpy() >= beside["lower"])
        measured = measured.assign(unclear=measured["unclear"].to_numpy() | touching.to_numpy())
    made = [measured, *others]
    if len(others) == 1:
        gap = measured["value"].to_numpy() - _beside(measured, others[0])["value"].to_numpy()
        made.append(measured.drop(columns=["lower", "upper"]).assign(view=DIFFERENCE, value=gap))
    joined = pd.concat(made, ignore_index=True).drop(columns="control")
    return joined.assign(unclear=joined["unclear"].eq(True))


def _beside(measured: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The control's rows in the order of the measured ones."""
    keys = [key for key in PLACE if key in measured]
    places = pd.MultiIndex.from_frame(measured[keys])
    return other.set_index(keys)[["value", "lower", "upper"]].reindex(places).reset_index(drop=True)


def unclear(rows: pd.DataFrame) -> pd.DataFrame:
    """`unclear`: chance alone shows as much among all heads of the map (p > .05), or, without a p, the interval
    holds 0.
    """
    holds = (rows["lower"] <= 0) & (rows["upper"] >= 0)
    p_value = rows["p_value"] if "p_value" in rows else pd.Series(float("nan"), rows.index)
    return rows.assign(unclear=(p_value > 0.05).where(p_value.notna(), holds))

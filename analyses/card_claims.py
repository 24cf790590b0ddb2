"""What the scenes subject has to be for other pages to mean something; thresholds set before it was trained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .claims import Claim, verdict

BASIC = ("colour", "shape", "existence", "coloured_existence", "count")
RELATIONS = ("left_right", "above_below")


def make_claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """One claim per bar that these tables can decide."""
    made = []
    accuracy = tables["accuracy"][tables["accuracy"]["difficulty"] == "clear"]
    for kinds, least, name in ((BASIC, 0.9, "basic"), (BASIC, 0.95, "basic"), (RELATIONS, 0.9, "relation")):
        real = accuracy[(accuracy["control"] == "") & accuracy["kind"].isin(kinds)]
        if len(real):
            made.append(_claim_accuracy(real, least, name))
    swapped = (
        accuracy.dropna(subset=["swapped_minus_constant"]) if "swapped_minus_constant" in accuracy else accuracy[:0]
    )
    if len(swapped):
        made.append(_claim_swapped(swapped))
    if "pope" in tables and "hard" in set(tables["pope"]["difficulty"]):
        made.append(_claim_pope(tables["pope"]))
    if "captions" in tables:
        made += _claims_captions(tables["captions"])
    return made + (_claims_text(tables["text"]) if "text" in tables else [])


def _claim_accuracy(real: pd.DataFrame, least: float, name: str) -> Claim:
    text = f"On clear scenes every {name} kind of question is answered exactly in {least:.0%} of the cases or more."
    numbers = "; ".join(f"{r.kind} {r.value:.3f} [{r.lower:.3f}, {r.upper:.3f}]" for r in real.itertuples())
    holds, fails = bool((real["value"] >= least).all()), bool((real["upper"] < least).any())
    return Claim(text, "this project's bar", f"{numbers}; n = {real['n'].min()} each", verdict(holds, fails))


def _claim_swapped(rows: pd.DataFrame) -> Claim:
    text = "With another scene's image the model does no better than the best constant answer to each wording."
    numbers = "; ".join(f"{r.kind} {r.swapped_minus_constant:+.3f}" for r in rows.itertuples())
    holds = bool((rows["swapped_minus_constant"] <= 0).all())
    return Claim(
        text, "this project's bar", f"difference: {numbers}", verdict(holds, bool((rows["difference_lower"] > 0).any()))
    )


def _claim_pope(pope: pd.DataFrame) -> Claim:
    text = "On hard scenes the adversarial set is harder than the random one: F1 lower, intervals apart."
    f1 = pope[(pope["difficulty"] == "hard") & (pope["measure"] == "F1")].set_index("set")
    if not {"random", "adversarial"} <= set(f1.index):
        return Claim(text, "arXiv 2305.10355", "not run", verdict(False, False))
    worst, easy = _row(f1, "adversarial"), _row(f1, "random")
    numbers = (
        f"adversarial {worst['value']:.3f} [{worst['lower']:.3f}, {worst['upper']:.3f}], random {easy['value']:.3f} "
        f"[{easy['lower']:.3f}, {easy['upper']:.3f}], n = {int(worst['n'])}"
    )
    return Claim(
        text, "arXiv 2305.10355", numbers, verdict(worst["upper"] < easy["lower"], worst["lower"] > easy["upper"])
    )


def _claims_captions(captions: pd.DataFrame) -> list[Claim]:
    cells = captions.set_index(["difficulty", "measure"])
    made = []
    for level, measure, low, high, text in (
        ("clear", "object set", 0.8, 1.0, "Captions of clear scenes name exactly the objects that are there in 80 %."),
        ("clear", "CHAIR_I", 0.0, 0.05, "Captions of clear scenes name hardly anything that is absent: CHAIR_I ≤ 5 %."),
        ("hard", "CHAIR_I", 0.05, 0.3, "Captions of hard scenes make things up: CHAIR_I between 5 and 30 %."),
    ):
        if (level, measure) in cells.index:
            row = _row(cells, (level, measure))
            numbers = f"{row['value']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}], n = {int(row['n'])}"
            outside = row["upper"] < low or row["lower"] > high
            made.append(Claim(text, "this project's bar", numbers, verdict(low <= row["value"] <= high, outside)))
    return made


def _claims_text(text: pd.DataFrame) -> list[Claim]:
    after = text[text["norms"] == "change"].set_index(["source", "measure"])
    made = []
    for key, limit, said in (
        (("ioi", "top-1"), 0.03, "SmolLM2's IOI top-1 is kept within 3 points."),
        (("passages", "NLL"), 0.03, "SmolLM2's loss on passages is kept within 3 %."),
    ):
        if key in after.index:
            row = _row(after, key)
            size, low, high = abs(row["value"]), row["lower"], row["upper"]
            numbers = f"change {row['value']:+.4f} [{low:+.4f}, {high:+.4f}] ({row['unit']}), n = {int(row['n'])}"
            made.append(
                Claim(said, "this project's bar", numbers, verdict(size <= limit, low > limit or high < -limit))
            )
    return made


def _row(table: pd.DataFrame, key: Any) -> dict[str, Any]:
    """The one row of this key."""
    return {str(name): value for name, value in table.loc[[key]].iloc[0].items()}

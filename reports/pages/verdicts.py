"""Verdicts in words, and a claim on one axis: estimate, interval, threshold, control, the paper's number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from .tables import short

# Verdict -> what it says of a paper's statement, and of a bar that this project set itself.
VERDICTS = {
    "holds": ("Agrees with the papers", "Passes bars of this project's own"),
    "holds, and so does the control": ("Holds, but its control does as well", "Passes, but its control does as well"),
    "fails": ("Does not agree", "Does not pass"),
    "undecidable here": ("Not decided by these numbers",) * 2,
    "not testable": ("Not testable here",) * 2,
}
WIDTH, HEIGHT, EDGE = 240, 26, 8  # px of an axis
NUMBERS = ("value", "lower", "upper", "threshold", "control", "paper")


def in_words(claims: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(verdict in words, the statements with it) for the verdicts that occur; thresholds are left to the table."""
    said: dict[str, dict[str, None]] = {words: {} for pair in zip(*VERDICTS.values(), strict=True) for words in pair}
    for claim in claims:
        words = VERDICTS.get(claim["verdict"])
        if words:
            said[words["arXiv" not in str(claim.get("source", ""))]][statement(claim["text"])] = None
    return [(words, "; ".join(statements) + ".") for words, statements in said.items() if statements]


def statement(text: str) -> str:
    """What a claim says before its test: up to the colon, if that is a sentence, else without what is in brackets."""
    head, _, _ = text.partition(": ")
    head = head if len(head.split()) > 3 else text.rpartition(" (")[0] or text
    return head.rstrip(".")


def counts(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Verdicts with their numbers, the known ones first and in their order."""
    found = Counter(str(row.get("verdict")) for row in rows)
    return [(verdict, found.pop(verdict)) for verdict in VERDICTS if verdict in found] + sorted(found.items())


def numbers_of(claim: Mapping[str, Any]) -> dict[str, float]:
    """The claim's numbers as far as it has them; its control's value is value − margin where no column says it."""
    found = {name: _number(claim.get(name)) for name in NUMBERS}
    if math.isnan(found["control"]):
        found["control"] = found["value"] - _number(claim.get("margin"))
    return found


def _number(value: Any) -> float:
    """NaN for what is no number: tables of other versions may hold anything."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else math.nan


def domain(claims: Iterable[Mapping[str, Any]]) -> tuple[float, float] | None:
    """The axis that holds every number of these claims; None where there is none."""
    every = [x for claim in claims for x in numbers_of(claim).values() if math.isfinite(x)]
    if not every or all(math.isnan(numbers_of(claim)["value"]) for claim in claims):
        return None
    low, high = min(every), max(every)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def axis(claim: Mapping[str, Any], ends: tuple[float, float] | None) -> Markup:
    """A claim as a small drawing: dot and interval measured; tick up the threshold, grey tick down the control,
    hollow diamond the paper's number. Empty where there is no estimate.
    """
    found = numbers_of(claim)
    if ends is None or math.isnan(found["value"]):
        return Markup("")

    def at(name: str) -> str:
        return f"{EDGE + (WIDTH - 2 * EDGE) * (found[name] - ends[0]) / (ends[1] - ends[0]):.1f}"

    marks = [f'<path class="base" d="M{EDGE} 13H{WIDTH - EDGE}"/>']
    if not math.isnan(found["threshold"]):
        marks.append(f'<path class="limit" d="M{at("threshold")} 2V13"/>')
    if not math.isnan(found["control"]):
        marks.append(f'<path class="control" d="M{at("control")} 13V24"/>')
    if not (math.isnan(found["lower"]) or math.isnan(found["upper"])):
        marks.append(f'<path class="span" d="M{at("lower")} 13H{at("upper")}"/>')
    if not math.isnan(found["paper"]):
        x = float(at("paper"))
        marks.append(f'<path class="paper" d="M{x:.1f} 8l5 5l-5 5l-5-5z"/>')
    marks.append(f'<circle class="dot" cx="{at("value")}" cy="13" r="4"/>')
    said = escape(in_numbers(claim))
    opened = f'<svg class="axis" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"'
    return Markup(f'{opened} aria-label="{said}">{"".join(marks)}</svg>')


def alone(claim: Mapping[str, Any]) -> str:
    """ "held against its threshold alone", of a claim that has an estimate and no control (or is about a difference to
    one).
    """
    found = numbers_of(claim)
    without = math.isnan(found["control"]) and not math.isnan(found["value"])
    return "held against its threshold alone" if without else ""


def drawn(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Claims as a page shows them: each on an axis of its own, in short, with what it lacks said."""
    short = [{"short": statement(str(claim.get("text"))), "alone": alone(claim)} for claim in claims]
    return [{**c, **words, "axis": axis(c, domain([c]))} for c, words in zip(claims, short, strict=True)]


def in_numbers(claim: Mapping[str, Any]) -> str:
    """ "0.37 [0.361, 0.378] share; threshold above 0.3; control 0.02; paper 0.5; p 0.004 among all claims" """
    found, unit = numbers_of(claim), str(claim.get("unit") or "")
    if math.isnan(found["value"]):
        return str(claim.get("numbers") or "")
    span = "" if math.isnan(found["lower"]) else f" [{short(found['lower'])}, {short(found['upper'])}]"
    parts = [f"{short(found['value'])}{span} {unit}".rstrip()]
    side = str(claim.get("side") or "")
    for name, title in (("threshold", f"threshold {side}".rstrip()), ("control", "control"), ("paper", "paper")):
        parts += [] if math.isnan(found[name]) else [f"{title} {short(found[name])}"]
    parts += [alone(claim)] if alone(claim) else []
    p = _number(claim.get("p_page"))
    return "; ".join([*parts, *([] if math.isnan(p) else [f"p {_p(p)}, corrected for all claims of the page"])])


def _p(value: float) -> str:
    return "below .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def untestable(claims: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why something cannot be tested: each reason once, those first that the findings give."""
    reasons = [one.get("reason") for one in findings if one.get("state") == "not testable"]
    reasons += [one.get("numbers") for one in claims if one.get("verdict") == "not testable"]
    known = [reason for reason in reasons if isinstance(reason, str) and reason]
    return [reason for reason in dict.fromkeys(known) if "not measured here" not in reason][:4]

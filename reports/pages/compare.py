"""Two runs of one analysis on one page: two models on a task, a model on two tasks, two revisions of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ...data.errors import ReportError
from ..charts.style import meta_of, number
from .compare_claims import WIDTH, forest, said
from .compare_figures import figures
from .compare_rows import aligned
from .page import environment, figure_block, sample_size
from .runs import Run, read_run
from .steps import unlike_shape
from .words import task_words, tasks_apart

MOST = 12  # pairs that a report builds by itself
OPEN = 4  # figures; the others are folded by theme


def refusal(a: Run, b: Run) -> str:
    """Why two runs cannot be compared, in words; "" where they can."""
    return next(_reasons(a, b), "")


def _reasons(a: Run, b: Run) -> Iterator[str]:
    for what, of in SAME.items():
        if of(a) != of(b):
            yield f"{what}: {_told(of(a))} against {_told(of(b))}"
    if why := unlike_shape(a.record["subject"], b.record["subject"]):
        yield why
    if not _conditions(a, b):
        mine, theirs = (" and ".join(run.record.get("conditions") or ["none"]) for run in (a, b))
        yield f"other conditions: {mine} against {theirs}"
    if _model(a) != _model(b) and _asked(a) != _asked(b):
        yield "two models on two tasks: change one of them at a time"
    if _task(a)["name"] == _task(b)["name"] and _task(a)["version"] != _task(b)["version"]:
        yield f"other prompts: version {_task(a)['version']} of the task against {_task(b)['version']}"
    options = [run.record["options"] for run in (a, b)]
    if unlike := [k for k in dict.fromkeys([*options[0], *options[1]]) if options[0].get(k) != options[1].get(k)]:
        each = ", ".join(f"{k} {_told(options[0].get(k))} against {_told(options[1].get(k))}" for k in unlike)
        yield f"other options: {each}"


def _task(run: Run) -> Mapping[str, Any]:
    known = ("name", "version", "template", "own_answer_tokens", "seed", "n")
    return {name: run.record["task"].get(name) for name in known}


def _model(run: Run) -> tuple[str, str]:
    subject = run.record["subject"]
    return str(subject.get("name")), str(subject.get("fingerprint"))


SAME: dict[str, Callable[[Run], Any]] = {
    "other analysis": lambda run: run.record["analysis"],
    "other version of the analysis": lambda run: run.record["versions"].get("analysis"),
    "other version of the instruments": lambda run: run.record["versions"].get("probes"),
    "other prompts: template": lambda run: _task(run)["template"],
    "other prompts: tokens of the model's own answer": lambda run: _task(run)["own_answer_tokens"] or 0,
}


def _told(value: Any) -> str:
    return "nothing" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _conditions(a: Run, b: Run) -> list[str]:
    """The conditions that both have; [""] where neither names any."""
    mine, theirs = (run.record.get("conditions") or [""] for run in (a, b))
    return [one for one in mine if one in theirs]


def pairs(runs: Sequence[Run], most: int = MOST) -> list[tuple[Run, Run]]:
    """The newest `most` pairs that fit and say something: another model, or another task. Each is in order of names."""
    ordered = sorted(runs, key=lambda run: run.name)
    fit = [(a, b) for a, b in combinations(ordered, 2) if not refusal(a, b) and _says_something(a, b)]
    newest = sorted(fit, key=lambda pair: sorted(_finished(run) for run in pair)[::-1], reverse=True)
    return newest[:most]


def _says_something(a: Run, b: Run) -> bool:
    return _model(a) != _model(b) or _asked(a) != _asked(b)


def _finished(run: Run) -> str:
    return str(run.record.get("finished") or "")


def address(a: Run, b: Run) -> str:
    """The name of their page."""
    return f"compare-{a.name[-110:]}--{b.name[-110:]}.html"


def title(a: Run, b: Run) -> str:
    """ "circuits of smollm2: Indirect objects against Colored objects": what is compared, in a line."""
    first, second = names(a, b)
    analysis = str(a.record["analysis"]).replace("_", " ")
    shared = _asked(a) if _model(a) != _model(b) else a.model
    return f"{analysis.capitalize()}, {shared}: {first} against {second}"


def names(a: Run, b: Run) -> tuple[str, str]:
    """What the two runs are called on the page: by model, task or revision, whichever tells them apart."""
    first, second = tasks_apart([run.record["task"] for run in (a, b)])
    asked = {id(a): first, id(b): second}
    for of in (lambda run: run.model, lambda run: asked[id(run)], _revision, _weights):
        if of(a) != of(b):
            return of(a), of(b)
    told = [f"{sample_size(run.record['task'])}, seed {_task(run)['seed']}" for run in (a, b)]
    return (told[0], told[1]) if told[0] != told[1] else (f"{a.name[-8:]} (1)", f"{b.name[-8:]} (2)")


def _asked(run: Run) -> str:
    return task_words(run.record["task"])


def _weights(run: Run) -> str:
    return str(run.record["subject"].get("fingerprint"))[:8]


def _revision(run: Run) -> str:
    return f"revision {run.record['subject'].get('revision')}"


def render(a: Run, b: Run, linked: Collection[str] = ()) -> str:
    """The HTML of two runs side by side. linked: names of the runs that have a page beside it. ReportError: unlike."""
    if reason := refusal(a, b):
        raise ReportError(f"{a.name} and {b.name} cannot be compared: {reason}")
    shared = aligned(a, b)
    depths = (_depth(a), _depth(b))
    called = names(a, b)
    blocks = [
        figure_block(name, figure, None) | {of: meta_of(figure)[of] for of in ("theme", "caption")}
        for name, figure in figures(called, depths, shared).items()
    ]
    chief = [block for block in blocks if block["theme"] == "main"][:OPEN]
    folded: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        if block not in chief:
            folded.setdefault(block["theme"], []).append(block)
    sides = [
        {"name": name, "run": run, "findings": said(run), "size": sample_size(run.record["task"])}
        for name, run in zip(called, (a, b), strict=True)
    ]
    page = environment().get_template("compare.html")
    one = a.model if a.model == b.model else ""  # a click leads to a head of one model
    texts = {"subject": one, "title": title(a, b), "notes": _notes(a, b), "shapes": depths[0] != depths[1]}
    claims = {"claims": forest(a, b), "width": WIDTH, "number": number}
    return page.render(sides=sides, linked=linked, chief=chief, folded=folded, shared=shared, **texts, **claims)


def _depth(run: Run) -> int:
    return int(run.record["subject"].get("n_layers") or 0)


def _notes(a: Run, b: Run) -> list[str]:
    """What differs between the two besides what they are compared by."""
    notes = []
    shared, every = _conditions(a, b), {*(a.record.get("conditions") or []), *(b.record.get("conditions") or [])}
    if every - set(shared):
        notes.append(f"Compared where both were run: {' and '.join(shared)}.")
    for name, what in (("n", "examples"), ("seed", "seed")):
        if _task(a)[name] != _task(b)[name]:
            notes.append(f"Not the same {what}: {_told(_task(a)[name])} against {_told(_task(b)[name])}.")
    for run, name in zip((a, b), names(a, b), strict=True):
        reasons = [str(claim.get("numbers")) for claim in run.claims if claim.get("verdict") == "not testable"]
        if reasons:
            notes.insert(0, f"{name}: {len(reasons)} of {len(run.claims)} claims are not testable ({reasons[0]}).")
    dtypes = [str(run.record["subject"].get("dtype")) for run in (a, b)]
    if dtypes[0] != dtypes[1]:
        notes.append(f"Not the same precision: {dtypes[0]} against {dtypes[1]}.")
    return notes


def pages(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Address -> (title, HTML) of every pair that a report builds."""
    linked = {run.name for run in runs}
    return {address(a, b): (title(a, b), render(a, b, linked)) for a, b in pairs(runs)}


def open_named(name: str | Path, out: Path) -> Run:
    """A run by its directory, or by its name under `out`/runs. ReportError: there is none, or it is not complete."""
    place = Path(name) if Path(name).is_dir() else Path(out) / "runs" / str(name)
    try:
        return read_run(place)
    except ReportError as error:
        raise ReportError(f"{name}: {error}") from None

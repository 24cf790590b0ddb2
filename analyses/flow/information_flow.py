"""Information flow: which edges of attention carry the answer, layer by layer.

Attention knockout in windows of layers (arXiv 2411.18620) with its controls, the answer's probability by layer, and on
text causal tracing (arXiv 2202.05262). Tables: flows, stages, valid, answer, trace, sites, accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import NothingToMeasure
from ...probes.intervene.measures import probability
from ...probes.intervene.replay import Recording
from ...probes.intervene.sweep import causal_trace, clean_values, knockout_sweep, record
from ...probes.prompts.batch import Batch
from ...probes.runs.answers import own_answers
from ...probes.runs.results import How, Rows
from .. import metrics
from ..common import stats
from ..common.claims import Claim, Statement, judge, one_row, unsolved
from ..common.frames import summarise
from ._flows import Flow, filled, flows_of

VERSION = 2
QUESTION = "Through which edges of attention, and in which layers, does the answer reach the last position?"
PAPER = "arXiv 2411.18620 (attention knockout); arXiv 2202.05262 (causal tracing)"
READ = ("probability", "log probability", "valid mass", "valid accuracy")
NORMS = ("final norm", "no norm")
STAGES = ("early third", "middle third", "late third")
RESAMPLED = "resampled"
RATIO_LAST = "change of the sum"  # Σ change / Σ clean: examples with a large probability weigh more
HALVES = ("first half", "second half")
BUCKETS = ("before", "first subject token", "middle subject tokens", "last subject token", "between", "last position")


@dataclass(frozen=True)
class Options:
    """window: layers whose edges are cut together. draws: random controls of each drawn kind.

    stride: drawn controls are measured at every stride-th window, causal tracing at every stride-th state.
    trace: causal tracing, on text tasks with twins. subset: the meta column that examples are split by ("" for none).
    """

    window: int = 7
    draws: int = 20
    stride: int = 3
    trace: bool = True
    subset: str = "kind"


def methods(options: Options, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Attention from the target's rows to the source's columns is removed before the softmax in all heads of "
        f"{options.window} consecutive layers (fewer at the ends) around each layer; the value is the change in the "
        "probability of the first token of the model's own answer, over examples that it answers correctly (its greedy "
        "answer equals the task's, but for case and space): the mean over examples of each one's change in per cent of "
        "its own probability, and beside it the sum of changes as a share of the sum of probabilities. Controls: the "
        "same edges kept but reading the keys and values of the example's twin, another input of the same layout "
        f"(resampled); as many random other positions or patches from the same targets, mean of {options.draws} draws, "
        f"at one window in {options.stride}, never the first token; where a flow has no such control, too few other "
        "positions exist. Valid mass: probability on the task's options; valid accuracy: the answer first among them. "
        "Answer by state: the residual at the last position through the unembedding, with and without the final norm "
        "(the paper leaves it out in middle layers; the last state has it in both). Causal tracing puts one state of "
        "the clean run at one position "
        "into the twin's run."
    )


@torch.no_grad()
def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """Rows: "flow|<flow>|<control>" [b, layers, 4], "clean" [b, 4], "own" [b], "answer|<norm>" [b, states],
    "trace|<bucket>" [b, states], "trace|clean" and "trace|corrupt" [b].
    """
    base, twins = record(subject, batch), _twins(subject, batch)
    own = base.logits.argmax(-1).cpu()
    read, options_given = _reading(batch, own), batch.options
    found = {
        "clean": clean_values(base, read),
        "correct": _answered(subject, batch, own),
        "guess": 1.0 / options_given.sum(1).float(),
    }
    for flow in flows_of(batch, how.options.draws):
        found |= _flow_rows(subject, base, twins, batch, flow, read, how.options)
    for norm in NORMS:
        found[f"answer|{norm}"] = _by_state(subject, base, own, norm)
    if how.options.trace and twins is not None and not bool(batch.where("image").any()):
        found |= _traced_rows(subject, base, twins, batch, how.options)
    return {name: value.float().cpu() for name, value in found.items()}


def _twins(subject: Any, batch: Batch) -> Recording | None:
    """The twins' clean pass; an example without a twin stands in for itself and is left out of what needs one."""
    if all(example.corrupt is None for example in batch.examples):
        return None
    return record(subject, subject.batch([e.corrupt or e for e in batch.examples], **batch.form))


def _has_twin(batch: Batch) -> Tensor:
    return torch.tensor([example.corrupt is not None for example in batch.examples])


def _answered(subject: Any, batch: Batch, own: Tensor) -> Tensor:
    """1 where the whole greedy answer, stripped and in lower case, is the task's, Float[b] (InformationFlow.py:420)."""
    said = [batch.tokenizer.decode([token]) for token in own.tolist()]
    lengths = [len(batch.ids_of(e, e.answer)) for e in batch.examples]
    long = [e for e, count in zip(batch.examples, lengths, strict=True) if count > 1]
    if long:
        form = {name: batch.form[name] for name in ("template", "bos")}
        whole = own_answers(subject, long, max(lengths), **form)
        counted = zip(batch.examples, lengths, said, strict=True)
        said = [_first_words(whole[e.id].ids, count, batch) if count > 1 else text for e, count, text in counted]
    same = [_plain(text) == _plain(e.answer) for text, e in zip(said, batch.examples, strict=True)]
    return torch.tensor(same).float()


def _first_words(ids: list[int], count: int, batch: Batch) -> str:
    """What the first tokens of an answer say, as many as the task's answer has."""
    return batch.tokenizer.decode(ids[:count], skip_special_tokens=True)


def _plain(text: str) -> str:
    return text.strip().lower()


def _reading(batch: Batch, own: Tensor) -> Any:
    """The four numbers READ of the own answer's first token; NaN for the last two where a task names no options."""
    ids, there = batch.option_ids, batch.options

    def measure(logits: Tensor, rows: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        at = rows.cpu()
        mine = log_p.gather(1, own[at].to(log_p.device)[:, None])[:, 0]
        valid = log_p.gather(1, ids[at].to(log_p.device)).masked_fill(~there[at].to(log_p.device), -torch.inf)
        mass, first = valid.exp().sum(1), (valid.argmax(1) == 0).float()
        return torch.stack([mine.exp(), mine, mass, first], 1)

    return measure


def _flow_rows(
    subject: Any, base: Recording, twins: Recording | None, batch: Batch, flow: Flow, measure: Any, options: Options
) -> dict[str, Tensor]:
    """The cut flow, the resampled one, and the mean over the drawn controls: [b, layers, 4] each."""
    name, window = f"flow|{flow.name}|", options.window

    def swept(source: Tensor, there: Tensor, **more: Any) -> Tensor:
        cut, rows = filled(source, flow.target, there, batch)
        values = knockout_sweep(subject, base, cut, rows, window=window, measure=measure, **more).values
        return values.movedim(-2, 0).masked_fill(~there.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)

    found = {name: swept(flow.source, flow.there)}
    if twins is not None:
        there = flow.there & _has_twin(batch)
        if bool(there.any()):
            found[name + RESAMPLED] = swept(flow.source, there, replace=twins)
    if flow.drawn is not None and bool(flow.drawn[2].any()):
        control, sources, there = flow.drawn
        centres = range(0, subject.n_layers, options.stride)
        drawn = swept(sources, there, centres=centres).mean(1)
        whole = torch.full((len(drawn), subject.n_layers, drawn.shape[-1]), torch.nan)
        whole[:, list(centres)] = drawn
        found[name + control] = whole
    return found


def _by_state(subject: Any, base: Recording, own: Tensor, norm: str) -> Tensor:
    """Probability of the own answer read from every state at the last position, [b, states].

    The last state always has the final norm: that is the model's own output, and what Hugging Face hands out.
    """
    rows = torch.arange(len(base.last))
    states = [kept.resid_pre[rows, base.last] for kept in base.layers]
    chosen = subject.norm if norm == NORMS[0] else None
    read = [metrics.logit_lens(state.to(subject.device), chosen, subject.unembed) for state in states]
    read.append(metrics.logit_lens(base.resid.to(subject.device), subject.norm, subject.unembed))
    return torch.stack([metrics.answer_probability(logits, own.to(logits.device)) for logits in read], 1)


def _traced_rows(subject: Any, base: Recording, twins: Recording, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Probability of the right answer where one state of the clean run is put into the twin's run, by place."""
    states = range(0, subject.n_layers, options.stride)
    swept = causal_trace(subject, base, twins, measure=probability(batch.option_ids[:, 0]), layers=states)
    assert swept.donor is not None
    found = {"trace|clean": swept.donor, "trace|corrupt": swept.clean}
    there = _has_twin(batch)
    for name, mask in _buckets(batch).items():
        chosen = swept.values.masked_fill(~(mask & there[:, None]).T, torch.nan)
        whole = torch.full((len(there), subject.n_layers), torch.nan)
        whole[:, list(states)] = chosen.nanmean(1).T
        found[f"trace|{name}"] = whole
    return found


def _buckets(batch: Batch) -> dict[str, Tensor]:
    """Places of a text prompt: around the mark `subject` where there is one, else every mark by its name."""
    last = batch.final
    if set(batch.marks) != {"subject"}:
        named = torch.stack([*batch.marks.values()]).any(0) if batch.marks else torch.zeros_like(last)
        own = {name.replace("_", " "): mark & ~last for name, mark in batch.marks.items()}
        return own | {"other text": batch.mask & ~named & ~last, BUCKETS[5]: last}
    subject = batch.where("subject")
    count = subject.int().cumsum(1) * subject
    total = subject.sum(1, keepdim=True)
    end, start = subject & (count == total), subject & (count == 1) & (total > 1)
    before = ~subject & (subject.int().cumsum(1) == 0) & batch.mask & ~last
    between = ~subject & (subject.int().cumsum(1) > 0) & batch.mask & ~last
    return dict(zip(BUCKETS, (before, start, subject & ~start & ~end, end & ~last, between, last), strict=True))


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold: the plan's estimate of the files."""
    flows, controls = 7, 3
    return subject.n_layers * (flows * controls * len(READ) + 2 + len(BUCKETS)) + 10


Make = Callable[[Rows, Any], pd.DataFrame | None]


def _of_right(make: Make, rows: Rows, how: How, *, subsets: bool) -> pd.DataFrame | None:
    """`make` of the rows that are answered correctly, of the whole task or of each subset too; None without any."""
    parts = rows.subsets(how.options.subset) if subsets else [("all", rows)]
    right = [(subset, part.where(part["correct"] == 1)) for subset, part in parts]
    frames = [(subset, make(part, how.options)) for subset, part in right if len(part.examples)]
    frames = [frame.assign(subset=subset) for subset, frame in frames if frame is not None]
    return pd.concat(frames, ignore_index=True) if frames else None


def _flows(rows: Rows, how: How) -> pd.DataFrame:
    """flow measure ("change", "delta log p", `RATIO_LAST`) subset width."""
    table = _of_right(_changes, rows, how, subsets=True)
    if table is None:
        raise NothingToMeasure(f"0 of {len(rows.examples)} prompts are answered correctly")
    return table


def _valid(rows: Rows, how: How) -> pd.DataFrame | None:
    """What the cut leaves: measure ("valid mass", "valid accuracy")."""
    return _of_right(_left, rows, how, subsets=True)


def _stages(rows: Rows, how: How) -> pd.DataFrame | None:
    """Means over thirds of the layers, and their differences."""
    return _of_right(_by_thirds, rows, how, subsets=False)


def _answer(rows: Rows, how: How) -> pd.DataFrame | None:
    """The answer's probability by state and norm."""
    return _of_right(_by_norm, rows, how, subsets=False)


def _trace(rows: Rows, how: How) -> pd.DataFrame | None:
    """Causal tracing: state place measure ("restored", "normalised")."""
    return _of_right(_traced, rows, how, subsets=False)


def _sites(rows: Rows, how: How) -> pd.DataFrame | None:
    """One place minus the other by halves of the states."""
    return _of_right(_compared, rows, how, subsets=False)


def _accuracy(rows: Rows, how: How) -> pd.DataFrame:
    parts = rows.subsets(how.options.subset)
    return pd.concat([_solved(part).assign(subset=subset) for subset, part in parts], ignore_index=True)


def _each_flow(rows: Rows) -> list[tuple[str, str, np.ndarray]]:
    """(flow, control, [n, layers, 4]) of every flow that some of these examples have."""
    names = [name.split("|") for name in rows.values if name.startswith("flow|")]
    flows = [(flow, control, rows[f"flow|{flow}|{control}"]) for _, flow, control in names]
    return [(flow, control, values) for flow, control, values in flows if not np.isnan(values).all()]


def _percent(rows: Rows, values: np.ndarray) -> np.ndarray:
    """[n, layers, 4] -> [n, layers]: each example's change in per cent of its own probability."""
    after, before = (torch.from_numpy(np.asarray(x, float)) for x in (values[..., 0], rows["clean"][:, None, 0]))
    return metrics.percent_change(after, before).numpy()


def _changes(rows: Rows, options: Options) -> pd.DataFrame:
    frames, groups, clean = [], rows.examples["group"], rows["clean"]
    for flow, control, values in _each_flow(rows):
        layers = np.arange(values.shape[1])
        shown = ~np.isnan(values[..., 0]).all(0)
        axes, values = {"layer": layers[shown]}, values[:, shown]
        moved = values[..., 0] - clean[:, None, 0]
        made = {
            "change": summarise(_percent(rows, values), groups, axes, "%"),
            RATIO_LAST: summarise(100 * moved, groups, axes, "%", denominators=clean[:, 0]),
            "delta log p": summarise(values[..., 1] - clean[:, None, 1], groups, axes, "nats"),
        }
        frames += [f.assign(flow=flow, control=control, measure=measure) for measure, f in made.items()]
    table = pd.concat(frames, ignore_index=True)
    half, n = options.window // 2, rows["answer|" + NORMS[0]].shape[1] - 1
    width = np.minimum(n, table["layer"] + (options.window + 1) // 2) - np.maximum(0, table["layer"] - half)
    return table.assign(width=width)


def _thirds(values: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the windows of each third of the layers, [n] each; windows without a value are left out."""
    parts = zip(STAGES, np.array_split(values, 3, axis=1), strict=True)
    return {name: _mean_there(part) for name, part in parts}


def _by_thirds(rows: Rows, options: Options) -> pd.DataFrame:
    """Means by third, and the paired differences that the claims are about (stage "a − b", or "flow − flow").

    A flow and its control are compared over the windows at which the control was measured.
    """
    groups = rows.examples["group"]
    changes = {(flow, control): _percent(rows, values) for flow, control, values in _each_flow(rows)}
    frames = []
    for (flow, control), change in changes.items():
        stages = _thirds(change)
        early, middle, late = (stages[name] for name in STAGES)
        shown = stages | {
            "early − late": early - late,
            "middle − early": middle - early,
            "middle − late": middle - late,
            "all layers": (early + middle + late) / 3,
        }
        if control and (flow, "") in changes:
            own = _thirds(np.where(np.isnan(change), np.nan, changes[flow, ""]))
            shown |= {f"flow − control, {name}": own[name] - stages[name] for name in STAGES}
        for stage, values in shown.items():
            if not np.isnan(values).all():
                frames.append(summarise(values, groups, {}, "%").assign(flow=flow, control=control, stage=stage))
    question, image = (changes.get((f"{source} → last", "")) for source in ("question", "image"))
    if question is not None and image is not None:
        gap = sum(np.abs(_thirds(question)[s]) - np.abs(_thirds(image)[s]) for s in STAGES) / 3
        frame = summarise(gap, groups, {}, "%")
        frames.append(frame.assign(flow="question → last", control="", stage="|question| − |image|"))
    return pd.concat(frames, ignore_index=True)


def _left(rows: Rows, options: Options) -> pd.DataFrame:
    """What the cut leaves: mass on the options, and the answer first among them, against guessing."""
    frames, groups = [], rows.examples["group"]
    for flow, control, values in _each_flow(rows):
        shown = ~np.isnan(values[..., 0]).all(0)
        axes = {"layer": np.arange(values.shape[1])[shown]}
        for column, measure, unit in ((2, READ[2], "probability"), (3, READ[3], "share")):
            frame = summarise(values[:, shown, column], groups, axes, unit)
            frames.append(frame.assign(flow=flow, control=control, measure=measure))
    table = pd.concat(frames, ignore_index=True)
    return table.assign(guessing=np.where(table["measure"] == READ[3], rows["guess"].mean(), np.nan))


def _by_norm(rows: Rows, options: Options) -> pd.DataFrame:
    frames = []
    for norm in NORMS:
        values = rows[f"answer|{norm}"]
        axes = {"state": np.arange(values.shape[1])}
        frames.append(summarise(values, rows.examples["group"], axes, "probability").assign(norm=norm))
    return pd.concat(frames, ignore_index=True).assign(control="")


def _traced(rows: Rows, options: Options) -> pd.DataFrame | None:
    """The probability that restoring brings back, and its share of what the twin took (sums first, ratio last)."""
    if not any(name.startswith("trace|") for name in rows.values):
        return None
    frames, groups = [], rows.examples["group"]
    clean, corrupt = rows["trace|clean"], rows["trace|corrupt"]
    span = stats.group_bootstrap(clean - corrupt, groups)
    for name, values in rows.values.items():
        place = name.removeprefix("trace|")
        if place == name or place in ("clean", "corrupt") or np.isnan(values).all():
            continue
        shown = ~np.isnan(values).all(0)
        axes, moved = {"state": np.arange(values.shape[1])[shown]}, values[:, shown] - corrupt[:, None]
        frame = summarise(moved, groups, axes, "probability")
        frames.append(frame.assign(place=place, measure="restored"))
        if float(span.lower) > 0:  # No share of a difference that may be none.
            below = np.where(np.isnan(moved), np.nan, (clean - corrupt)[:, None])
            frame = summarise(moved, groups, axes, "share of clean − twin", denominators=below)
            frames.append(frame.assign(place=place, measure="normalised"))
    return pd.concat(frames, ignore_index=True).assign(control="")


def _compared(rows: Rows, options: Options) -> pd.DataFrame | None:
    """By halves of the states: what restoring the subject's last token brings back minus the last position, paired."""
    if not all(f"trace|{BUCKETS[i]}" in rows.values for i in (3, 5)):
        return None
    early, late = (np.array_split(rows[f"trace|{BUCKETS[i]}"], 2, axis=1) for i in (3, 5))
    frames = []
    for half, a, b in zip(HALVES, early, late, strict=True):
        gap = _mean_there(a) - _mean_there(b)
        frames.append(summarise(gap, rows.examples["group"], {}, "probability").assign(half=half, control=""))
    return pd.concat(frames, ignore_index=True)


def _mean_there(values: np.ndarray) -> np.ndarray:
    """[n, states] -> [n]: the mean over the states that were measured."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, 1) / (~np.isnan(values)).sum(1)


def _solved(rows: Rows) -> pd.DataFrame:
    groups = rows.examples["group"]
    shown = {
        ("top-1 accuracy", ""): rows["correct"],
        ("accuracy among the options", ""): rows["clean"][:, 3],
        ("accuracy among the options", "guessing"): rows["guess"],
        ("accuracy − guessing", ""): rows["clean"][:, 3] - rows["guess"],
        ("mass on the options", ""): rows["clean"][:, 2],
    }
    frames = [
        summarise(np.asarray(values, float), groups, {}, "share").assign(measure=measure, control=control)
        for (measure, control), values in shown.items()
    ]
    return pd.concat(frames, ignore_index=True)


TABLES = {
    "accuracy": (_accuracy, ("measure", "subset")),
    "flows": (_flows, ("flow", "measure", "width", "subset")),
    "stages": (_stages, ("flow", "stage", "subset")),
    "valid": (_valid, ("flow", "measure", "guessing", "subset")),
    "answer": (_answer, ("norm", "subset")),
    "trace": (_trace, ("place", "measure", "subset")),
    "sites": (_sites, ("half", "subset")),
}

# ---------------------------------------------------------------- claims

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

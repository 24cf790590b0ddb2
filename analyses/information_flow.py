"""Information flow: which edges of attention carry the answer, layer by layer.

Attention knockout in windows of layers (arXiv 2411.18620) with its controls, the answer's probability by layer, and on
text causal tracing (arXiv 2202.05262). Tables: flows, stages, valid, answer, trace, accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.example import NothingToMeasure
from ..probes.batch import Batch
from ..probes.measures import probability
from ..probes.replay import Recording
from ..probes.rows import Rows
from ..probes.sweep import causal_trace, clean_values, knockout_sweep, record
from . import metrics, stats
from .claims import Claim, verdict
from .flows import Flow, filled, flows_of
from .frames import order_columns, summarise

VERSION = 1
QUESTION = "Through which edges of attention, and in which layers, does the answer reach the last position?"
PAPER = "arXiv 2411.18620 (attention knockout); arXiv 2202.05262 (causal tracing)"
READ = ("probability", "log probability", "valid mass", "valid accuracy")
NORMS = ("final norm", "no norm")
STAGES = ("early third", "middle third", "late third")
RESAMPLED = "resampled"
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


def methods(options: Options, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        f"Attention from the target's rows to the source's columns is removed before the softmax in all heads of "
        f"{options.window} consecutive layers (fewer at the ends) around each layer; the value is the change in the "
        "probability of the model's own first answer token, over examples that it answers correctly. Controls: the "
        "same edges kept but reading the keys and values of the example's twin, another input of the same layout "
        f"(resampled); as many random other positions or patches from the same targets, mean of {options.draws} draws, "
        f"at every {options.stride}rd window, never the first token; where a flow has no such control, too few other "
        "positions exist. Valid mass: probability on the task's options; valid accuracy: the answer first among them. "
        "Answer by state: the residual at the last position through the unembedding, with and without the final norm "
        "(the paper leaves it out in middle layers). Causal tracing puts one state of the clean run at one position "
        "into the twin's run."
    )


@torch.no_grad()
def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Rows: "flow|<flow>|<control>" [b, layers, 4], "clean" [b, 4], "own" [b], "answer|<norm>" [b, states],
    "trace|<bucket>" [b, states], "trace|clean" and "trace|corrupt" [b].
    """
    base, twins = record(subject, batch), _twins(subject, batch)
    own = base.logits.argmax(-1).cpu()
    measure, options_given = _reading(batch, own), batch.options
    found = {
        "clean": clean_values(base, measure),
        "correct": (own == batch.answers).float(),
        "guess": 1.0 / options_given.sum(1).float(),
    }
    for flow in flows_of(batch, options.draws):
        found |= _flow_rows(subject, base, twins, batch, flow, measure, options)
    for norm in NORMS:
        found[f"answer|{norm}"] = _by_state(subject, base, own, norm)
    if options.trace and twins is not None and not bool(batch.where("image").any()):
        found |= _trace(subject, base, twins, batch, options)
    return {name: value.float().cpu() for name, value in found.items()}


def _twins(subject: Any, batch: Batch) -> Recording | None:
    """The twins' clean pass; an example without a twin stands in for itself and is left out of what needs one."""
    if all(example.corrupt is None for example in batch.examples):
        return None
    return record(subject, subject.batch([e.corrupt or e for e in batch.examples], **batch.form))


def _has_twin(batch: Batch) -> Tensor:
    return torch.tensor([example.corrupt is not None for example in batch.examples])


def _reading(batch: Batch, own: Tensor) -> Any:
    """The four numbers READ of the own answer's token; NaN for the last two where a task names no options."""
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
    """Probability of the own answer read from every state at the last position, [b, states]."""
    rows = torch.arange(len(base.last))
    states = [kept.resid_pre[rows, base.last] for kept in base.layers] + [base.resid]
    chosen = subject.norm if norm == NORMS[0] else None
    read = [metrics.logit_lens(state.to(subject.device), chosen, subject.unembed) for state in states]
    return torch.stack([metrics.answer_probability(logits, own.to(logits.device)) for logits in read], 1)


def _trace(subject: Any, base: Recording, twins: Recording, batch: Batch, options: Options) -> dict[str, Tensor]:
    """Probability of the right answer where one state of the clean run is put into the twin's run, by place."""
    states = range(0, subject.n_layers, options.stride)
    swept = causal_trace(subject, base, twins, measure=probability(batch.answers), layers=states)
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


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """flows: condition control layer value … flow measure ("change", "delta log p") subset width.
    stages: the same over thirds of the layers, without layer. valid: measure ("valid mass", "valid accuracy").
    answer: state value … norm. trace: state value … place measure ("restored", "normalised"). accuracy: value ….
    """
    parts = {"flows": [], "stages": [], "valid": [], "answer": [], "trace": [], "accuracy": []}
    for condition, subset, part in rows.parts(options.subset):
        where = {"condition": condition, "subset": subset}
        parts["accuracy"].append(_accuracy(part).assign(**where))
        right = part.where(part["correct"] == 1)
        if not len(right.examples):
            continue
        parts["flows"].append(_flows(right, options).assign(**where))
        parts["valid"].append(_valid(right).assign(**where))
        if subset == "all":
            parts["stages"].append(_stages(right).assign(**where))
            parts["answer"].append(_answer(right).assign(**where))
            if any(name.startswith("trace|") for name in right.values):
                parts["trace"].append(_traced(right).assign(**where))
    made = {name: order_columns(pd.concat(some, ignore_index=True)) for name, some in parts.items() if some}
    if "flows" not in made:
        raise NothingToMeasure(f"0 of {len(rows.examples)} prompts are answered correctly", made)
    return made


def _each_flow(rows: Rows) -> list[tuple[str, str, np.ndarray]]:
    """(flow, control, [n, layers, 4]) of every flow that some of these examples have."""
    names = [name.split("|") for name in rows.values if name.startswith("flow|")]
    flows = [(flow, control, rows[f"flow|{flow}|{control}"]) for _, flow, control in names]
    return [(flow, control, values) for flow, control, values in flows if not np.isnan(values).all()]


def _changes(rows: Rows, values: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    """Per example and layer: change in per cent, and Δ log p."""
    clean = rows["clean"]
    percent = 100 * (values[..., 0] - clean[:, None, 0]) / clean[:, None, 0]
    return {"change": (percent, "%"), "delta log p": (values[..., 1] - clean[:, None, 1], "nats")}


def _flows(rows: Rows, options: Options) -> pd.DataFrame:
    frames, groups = [], rows.examples["group"]
    for flow, control, values in _each_flow(rows):
        layers = np.arange(values.shape[1])
        shown = ~np.isnan(values[..., 0]).all(0)
        for measure, (change, unit) in _changes(rows, values).items():
            frame = summarise(change[:, shown], groups, {"layer": layers[shown]}, unit)
            frames.append(frame.assign(flow=flow, control=control, measure=measure))
    table = pd.concat(frames, ignore_index=True)
    half, n = options.window // 2, rows["answer|" + NORMS[0]].shape[1] - 1
    width = np.minimum(n, table["layer"] + (options.window + 1) // 2) - np.maximum(0, table["layer"] - half)
    return table.assign(width=width)


def _thirds(values: np.ndarray) -> dict[str, np.ndarray]:
    """Means over the windows of each third of the layers, [n] each; windows without a value are left out."""
    parts = zip(STAGES, np.array_split(values, 3, axis=1), strict=True)
    with np.errstate(invalid="ignore"):
        return {name: np.nansum(part, 1) / (~np.isnan(part)).sum(1) for name, part in parts}


def _stages(rows: Rows) -> pd.DataFrame:
    """Means by third, and the paired differences that the claims are about (stage "a − b", or "flow − flow")."""
    groups = rows.examples["group"]
    thirds = {
        (flow, control): _thirds(_changes(rows, values)["change"][0]) for flow, control, values in _each_flow(rows)
    }
    frames = []
    for (flow, control), stages in thirds.items():
        early, middle, late = (stages[name] for name in STAGES)
        shown = stages | {
            "early − late": early - late,
            "middle − early": middle - early,
            "middle − late": middle - late,
            "all layers": (early + middle + late) / 3,
        }
        if control:
            own = thirds.get((flow, ""), {})
            shown |= {f"flow − control, {name}": own[name] - stages[name] for name in STAGES if own}
        for stage, values in shown.items():
            if not np.isnan(values).all():
                frames.append(summarise(values, groups, {}, "%").assign(flow=flow, control=control, stage=stage))
    question, image = (thirds.get((f"{source} → last", "")) for source in ("question", "image"))
    if question and image:
        gap = sum(np.abs(question[s]) - np.abs(image[s]) for s in STAGES) / 3
        frame = summarise(gap, groups, {}, "%")
        frames.append(frame.assign(flow="question → last", control="", stage="|question| − |image|"))
    return pd.concat(frames, ignore_index=True)


def _valid(rows: Rows) -> pd.DataFrame:
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


def _answer(rows: Rows) -> pd.DataFrame:
    frames = []
    for norm in NORMS:
        values = rows[f"answer|{norm}"]
        axes = {"state": np.arange(values.shape[1])}
        frames.append(summarise(values, rows.examples["group"], axes, "probability").assign(norm=norm))
    return pd.concat(frames, ignore_index=True).assign(control="")


def _traced(rows: Rows) -> pd.DataFrame:
    """The probability that restoring brings back, and its share of what the twin took (sums first, ratio last)."""
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


def _accuracy(rows: Rows) -> pd.DataFrame:
    groups = rows.examples["group"]
    shown = {
        ("top-1 accuracy", ""): rows["correct"],
        ("accuracy among the options", ""): rows["clean"][:, 3],
        ("accuracy among the options", "guessing"): rows["guess"],
        ("mass on the options", ""): rows["clean"][:, 2],
    }
    frames = [
        summarise(np.asarray(values, float), groups, {}, "share").assign(measure=measure, control=control)
        for (measure, control), values in shown.items()
    ]
    return pd.concat(frames, ignore_index=True)


# ---------------------------------------------------------------- claims, written before the numbers were seen


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The papers' statements, as tests on these tables."""
    made = []
    for text, source, flow, control, stage, sign in _STATEMENTS:
        table = tables.get("stages", pd.DataFrame(columns=["flow", "control", "stage"]))
        found = table[(table["flow"] == flow) & (table["control"] == control) & (table["stage"] == stage)]
        made += [_claim(text, source, f"{row.condition}: {flow}, {stage}", row, sign) for row in found.itertuples()]
    return made + _claim_trace(tables)


_FLOW = "arXiv 2411.18620"
_STATEMENTS = (
    (
        "Information goes from the image to the question in early layers: cutting image → question costs more in the "
        "first third of the layers than in the last (difference below 0).",
        *(_FLOW, "image → question", "", "early − late", -1),
    ),
    (
        "The answer gathers question information in the middle: cutting question → last costs more in the middle third "
        "than in the first (difference below 0).",
        *(_FLOW, "question → last", "", "middle − early", -1),
    ),
    (
        "The image does not speak to the last position directly: over all layers, cutting question → last changes more "
        "than cutting image → last (difference above 0).",
        *(_FLOW, "question → last", "", "|question| − |image|", 1),
    ),
    (
        "The question reads the asked object's patches: cutting them costs more in the middle third than cutting as "
        "many random patches (difference below 0).",
        *(_FLOW, "asked object → question", "random patches", "flow − control, middle third", -1),
    ),
    (
        "The last position reads the subject: over the middle third, cutting subject → last costs more than cutting as "
        "many random positions (difference below 0).",
        *("arXiv 2304.14767", "subject → last", "random positions", "flow − control, middle third", -1),
    ),
)


def _claim(text: str, source: str, what: str, row: Any, sign: int) -> Claim:
    numbers = f"{what}: {row.value:.3g} {row.unit} [{row.lower:.3g}, {row.upper:.3g}], n = {row.n}"
    low, high = sorted((sign * row.lower, sign * row.upper))
    return Claim(text, source, numbers, verdict(low > 0, high < 0))


def _claim_trace(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """The early site at the subject's last token, the late site at the last position: each above the other's lower
    bound in its own half of the states.
    """
    trace = tables.get("trace", pd.DataFrame(columns=["measure", "place"]))
    trace = trace[trace["measure"] == "restored"]
    made = []
    for condition, rows in trace.groupby("condition") if len(trace) else []:
        means = {}
        for place in (BUCKETS[3], BUCKETS[5]):
            mine = rows[rows["place"] == place].sort_values("state")
            halves = np.array_split(mine[["value", "lower", "upper"]].to_numpy(), 2)
            means[place] = [half.mean(0) for half in halves if len(half)]
        if len(means[BUCKETS[3]]) < 2:
            continue
        for half, (name, here, there) in enumerate((("first", BUCKETS[3], BUCKETS[5]), ("second", *BUCKETS[5:2:-2]))):
            a, b = means[here][half], means[there][half]
            numbers = (
                f"{condition}: {here} {a[0]:.3g} [{a[1]:.3g}, {a[2]:.3g}], {there} {b[0]:.3g} [{b[1]:.3g}, {b[2]:.3g}]"
            )
            text = (
                f"Causal tracing: in the {name} half of the states, restoring the {here} brings back more probability "
                f"than restoring the {there} (mean bounds apart)."
            )
            made.append(Claim(text, "arXiv 2202.05262", numbers, verdict(a[1] > b[2], a[2] < b[1])))
    return made

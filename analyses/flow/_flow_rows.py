"""What is measured of flows: cuts and their controls, the answer by state, causal tracing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probes.intervene.knockout import knockout_sweep
from ...probes.intervene.measures import probability
from ...probes.intervene.patching import causal_trace
from ...probes.intervene.recording import Recording, record
from ...probes.model.head import in_rows
from ...probes.prompts.batch import Batch
from ...probes.runs.answers import own_answers
from .. import metrics
from ._flows import Flow, filled

READ = ("probability", "log probability", "valid mass", "valid accuracy")


NORMS = ("final norm", "no norm")


RESAMPLED = "resampled"


BUCKETS = ("before", "first subject token", "middle subject tokens", "last subject token", "between", "last position")


def record_twins(subject: Any, batch: Batch) -> Recording | None:
    """The twins' clean pass; an example without a twin stands in for itself and is left out of what needs one."""
    if all(example.corrupt is None for example in batch.examples):
        return None
    return record(subject, subject.batch([e.corrupt or e for e in batch.examples], **batch.form))


def _has_twin(batch: Batch) -> Tensor:
    return torch.tensor([example.corrupt is not None for example in batch.examples])


def right_answers(subject: Any, batch: Batch, own: Tensor) -> Tensor:
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


def reading_of(batch: Batch, own: Tensor) -> Any:
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


def flow_rows(
    subject: Any, base: Recording, twins: Recording | None, batch: Batch, flow: Flow, measure: Any, options: Any
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
        centres = subject.decoder.attending[:: options.stride]
        drawn = swept(sources, there, centres=centres).mean(1)
        whole = torch.full((len(drawn), subject.n_layers, drawn.shape[-1]), torch.nan)
        whole[:, list(centres)] = drawn
        found[name + control] = whole
    return found


def by_state(subject: Any, base: Recording, own: Tensor, norm: str) -> Tensor:
    """Probability of the own answer read from every state at the last position, [b, states].

    The last state always has the final norm: that is the model's own output, and what Hugging Face hands out.
    """
    rows = torch.arange(len(base.last))
    states = [kept.resid_pre[rows, base.last] for kept in base.layers]
    chosen = subject.norm if norm == NORMS[0] else None

    def read(ids: Tensor, *some: Tensor) -> Tensor:
        norms = [*[chosen] * (len(some) - 1), subject.norm]
        lenses = (metrics.logit_lens(x, norm, subject.unembed) for x, norm in zip(some, norms, strict=True))
        return torch.stack([metrics.answer_probability(logits, ids) for logits in lenses], 1)

    each = [tensor.to(subject.device) for tensor in (own, *states, base.resid)]
    return in_rows(read, subject.model, *each)


def traced_rows(subject: Any, base: Recording, twins: Recording, batch: Batch, options: Any) -> dict[str, Tensor]:
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

"""The run: examples in, rows in shards, tables and a record out; killed and resumed without loss."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...data.errors import NothingToMeasure, UserError
from ...data.example import Example
from ...data.tasks import Task
from .. import VERSION
from ..intervene.proofs import replay_notes
from ..model.hybrid import without_heads
from ..model.subject import refuse_under_edit
from ..prompts.bos import conditions
from ..prompts.bos import notes as bos_notes
from ..prompts.yes_no import spelled, spelled_like
from . import store
from .answers import answering, with_answers
from .contract import check
from .judged import judged
from .plan import Shard, activation_bytes, make_plan, plan_from_json, plan_to_json, shapes
from .results import How, Rows, condition_of, merge, observe
from .sums import FoldSums, folds_of, summed
from .tables import tables_of

if TYPE_CHECKING:
    from ..model.subject import Subject

PACKAGES = ("crosslens", "torch", "transformers")
LEADING = ("subject", "task", "analysis")


@dataclass(frozen=True)
class Settings:
    """What a run is asked for, besides subject, task and analyses.

    limit: number of examples (None: the task's own). bos: which conditions to run; None: the task's, else the habit of
    the tokenizer. tokens: padded positions of a batch; size: examples of a batch at most. answer_tokens: the model's
    own greedy answer of at most so many tokens is put behind every prompt before anything is measured; 0: prompts stay
    open.
    """

    limit: int | None = None
    seed: int = 0
    bos: tuple[bool, ...] | None = None
    template: str | None = None
    tokens: int = 4096
    size: int | None = None
    answer_tokens: int = 0
    padding: str = "right"
    out: Path = Path("reports/out")
    command: str = ""


@dataclass
class Job:
    """One analysis of a run, in its own directory."""

    name: str
    module: ModuleType
    options: Any
    directory: Path
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    nothing: str = ""  # why there is nothing to measure, where there is nothing
    tokenizer: Any = field(repr=False, default=None)

    @property
    def how(self) -> How:
        """Options and what was learned; what a record of an older version does not name has its default."""
        learned, fitted = getattr(self.module, "Learned", None), self.record.get("fitted", {})
        known = {name: fitted[name] for name in getattr(learned, "_fields", ()) if name in fitted}
        return How(self.options, learned(**known) if learned else None)

    @property
    def complete(self) -> bool:
        return self.record.get("status") == "complete"

    @property
    def plan(self) -> list[Shard]:
        return plan_from_json(self.record["plan"]["shards"])

    def shard_path(self, index: int) -> Path:
        return self.directory / "rows" / f"{index:05d}.safetensors"

    @property
    def weights_path(self) -> Path:
        """What the analysis read from the weights alone, where it does."""
        return self.directory / "rows" / "weights.safetensors"

    def missing(self) -> list[int]:
        return [i for i in range(len(self.plan)) if not self.shard_path(i).exists()]


def run(
    subject: Subject,
    task: Task,
    analyses: Mapping[str, tuple[ModuleType, Any]],
    settings: Settings,
    *,
    before: Callable[[], Any] = lambda: None,
) -> list[Path]:
    """Run analyses (name -> (module, options)) on one subject and task; all that observe ride one forward.

    before: called once before the first forward, not at all where every run is complete already (the check of the
    instruments). Returns one run directory per analysis. UserError: an analysis that is not as the contract says, or as
    in the modules it calls.
    """
    refuse_under_edit(subject, "run")
    for name, (module, _) in analyses.items():
        check(name, module)
        if hasattr(module, "NEEDS"):
            raise UserError(f"{name} is made of finished runs of {' and '.join(module.NEEDS)}: crosslens {name}")
    template, bos = _form(subject, task, settings)
    examples = task.examples(subject.tokenizer, settings.limit, settings.seed)
    facts = _facts(subject, task, examples, settings, template, bos)
    jobs = [_open(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    with ExitStack() as stack:
        for job in [job for job in jobs if not job.complete]:
            stack.enter_context(store.locked(job.directory))
            _read(job)  # another process may have begun or finished it before the lock was ours
        todo = [job for job in jobs if not job.complete]
        if todo:
            before()
            examples, told = spelled(subject, examples, template=template, bos=bos)
            for job in todo:
                job.notes += told
            examples = _answered(subject, examples, jobs, template, bos, settings)
        for job in todo:
            job.tokenizer = subject.tokenizer
            job.notes += [*bos_notes(subject, template, bos), *_layer_notes(subject)]
            _start(job, subject, task, examples, facts, settings)
        for group in _same_plan(todo):
            with threads(group[0].record["plan"]["threads"]):
                _execute(subject, {e.id: e for e in examples}, group, template)
    return [job.directory for job in jobs]


def _answered(
    subject: Subject,
    examples: list[Example],
    jobs: Sequence[Job],
    template: str,
    bos: Sequence[bool],
    settings: Settings,
) -> list[Example]:
    """The examples with the model's own answers where they are asked for.

    Each run keeps them in its answers.json, batch by batch: a killed run does not generate them again.
    """
    if not settings.answer_tokens:
        return examples
    if len(bos) > 1:
        raise UserError("the model's own answers differ with and without BOS: choose one, --bos yes or --bos no")
    said: dict[str, dict[str, Any]] = {}
    for job in jobs:
        said |= store.read_json(job.directory / "answers.json") or {}
    jobs = [job for job in jobs if not job.complete]
    asked = {"template": template, "bos": bos[0], "positions": settings.tokens, "size": settings.size}
    with tqdm(desc="answers", total=len(examples), initial=len(said), disable=_is_silent()) as bar:
        for some in answering(subject, examples, settings.answer_tokens, **asked, known=frozenset(said)):
            said |= {name: answer._asdict() for name, answer in some.items()}
            _keep_answers(jobs, said)
            bar.update(len(some))
    _keep_answers(jobs, said)
    for job in jobs:
        job.notes += _told(said)
    return with_answers(examples, {name: answer["text"] for name, answer in said.items()})


def _keep_answers(jobs: Sequence[Job], said: Mapping[str, Mapping[str, Any]]) -> None:
    for job in jobs:
        store.write_json(job.directory / "answers.json", said)


def _told(said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the page has to say of the model's own answers."""
    cut, other = sum(a["cut"] for a in said.values()), sum(not a["same"] for a in said.values())
    empty = sum(not a["text"] for a in said.values())
    return [
        f"The model's own greedy answers stand behind the prompts: {len(said)}, of these {empty} empty, {cut} ended by "
        f"the limit of tokens, {other} that read back as other tokens than were generated."
    ]


def preview(
    subject: Subject, task: Task, analyses: Mapping[str, tuple[ModuleType, Any]], settings: Settings
) -> list[str]:
    """What `run` would do, in lines: forwards, memory, files. Runs and writes nothing."""
    template, bos = _form(subject, task, settings)
    examples = task.examples(subject.tokenizer, settings.limit, settings.seed)
    facts = _facts(subject, task, examples, settings, template, bos)
    jobs = [_open(name, module, options, facts, settings) for name, (module, options) in analyses.items()]
    plans = [_plan(job, subject, examples, template, bos, settings) for job in jobs]
    sizes = [size for plan in plans for size in shapes(subject, examples, plan, template)]
    peak = max(activation_bytes(subject, *size) for size in sizes)
    conditions = " and ".join(facts["conditions"])
    width, dtype = max(12, *map(len, analyses)), facts["subject"]["dtype"]
    return [
        f"{'subject':{width}s} {subject.name}: {subject.n_layers} layers, {dtype} on {subject.device}",
        f"{'task':{width}s} {task.name}: {len(examples)} examples in {facts['task']['n_groups']} groups, {conditions}",
        f"{'memory':{width}s} about {peak / 1e6:,.0f} MB of activations at once, for {_largest(sizes)}",
        *(f"{'layers':{width}s} {note}" for note in _layer_notes(subject)),
        *(
            line
            for job, plan in zip(jobs, plans, strict=True)
            for line in _preview_job(job, plan, shapes(subject, examples, plan, template), subject, width)
        ),
    ]


def _layer_notes(subject: Subject) -> list[str]:
    """What plan and page have to say of layers without attention."""
    told = without_heads(subject.decoder)
    return [told[0].upper() + told[1:]] if told else []


def _plan(
    job: Job, subject: Subject, examples: Sequence[Example], template: str, bos: Sequence[bool], settings: Settings
) -> list[Shard]:
    """The shards of a job that begins; of one fold each where rows are summed."""
    folds = folds_of(e.group for e in examples) if hasattr(job.module, "SUMS") else None
    return make_plan(subject, examples, template, bos, settings.tokens, settings.size, folds)


def _largest(sizes: Sequence[tuple[int, int]]) -> str:
    batch, positions = max(sizes, key=lambda size: size[0] * size[1])
    return f"a batch of {batch} examples × {positions} positions"


def _passes(module: ModuleType) -> str:
    """What an analysis does with each batch."""
    shared = "forwards (shared with the other observing analyses)"
    if not hasattr(module, "observe"):
        return "sweeps"
    return f"{shared}, each with passes or sweeps of its own" if hasattr(module, "measure") else shared


def _preview_job(job: Job, fresh: list[Shard], sizes: list[tuple[int, int]], subject: Subject, width: int) -> list[str]:
    """Two lines of one analysis, its name in a column of `width`."""
    if job.complete:
        return [f"{job.name:{width}s} complete, nothing to do: {job.directory}"]
    plan = job.plan if "plan" in job.record else fresh
    todo = len(job.missing()) if "plan" in job.record else len(plan)
    learns = ", and a few on held-out examples" if hasattr(job.module, "fit") and "plan" not in job.record else ""
    each = _passes(job.module)
    size = getattr(job.module, "row_size", None)
    summed_up = hasattr(job.module, "SUMS")  # one row of float64 a shard, else one of float32 an example
    counts = [(2 if summed_up else b) * size(subject, p, job.options) * 4 for b, p in sizes] if size else []
    total = "size unknown" if size is None else _megabytes(sum(counts))
    return [
        f"{job.name:{width}s} {todo} of {len(plan)} {each}{learns}",
        f"{'':{width}s} {len(plan)} files of rows, {total}, then the tables and record.json, in {job.directory}",
    ]


def _megabytes(count: int) -> str:
    return f"about {count / 1e6:,.1f} MB"


def _form(subject: Subject, task: Task, settings: Settings) -> tuple[str, tuple[bool, ...]]:
    template = settings.template or task.module.TEMPLATE
    return template, conditions(subject, template, settings.bos, task.module.BOS)


def _facts(
    subject: Subject,
    task: Task,
    examples: Sequence[Example],
    settings: Settings,
    template: str,
    bos: Sequence[bool],
) -> dict[str, Any]:
    """What the page says of subject and task; its numbers are part of the key."""
    return {
        "subject": {
            "name": subject.name,
            "revision": subject.revision,
            "family": subject.family,
            "fingerprint": subject.fingerprint,
            "n_layers": subject.n_layers,
            "n_heads": subject.n_heads,
            "n_kv_heads": subject.n_kv_heads,
            "d_model": subject.d_model,
            "dtype": str(subject.dtype).removeprefix("torch."),
            "device": subject.device.type,
        },
        "task": {
            "name": task.name,
            "title": task.title,
            "version": task.module.VERSION,
            "source": task.module.SOURCE,
            "template": template,
            "options": task.options,
            "seed": settings.seed,
            "n": len(examples),
            "n_groups": len({example.group for example in examples}),
            **({"own_answer_tokens": settings.answer_tokens} if settings.answer_tokens else {}),
        },
        "conditions": [condition_of(b) for b in bos],
        "versions": {name: version(name) for name in PACKAGES},
    }


def _open(name: str, module: ModuleType, options: Any, facts: dict[str, Any], settings: Settings) -> Job:
    """The job with the record of an earlier start, if there is one."""
    key = identity(facts, name, keyed_options(module, options), module.VERSION, VERSION)
    label = f"{name}.{facts['subject']['name'].replace('/', '--')}.{facts['task']['name']}.{key[:8]}"
    job = Job(name, module, options, settings.out / "runs" / store.safe_name(label))
    job.record = {"schema": 1, "name": job.directory.name, "key": key, "status": "running", "analysis": name}
    _read(job)
    return job


def _read(job: Job) -> None:
    """The record that lies in the job's directory, where there is one. UserError: of another run."""
    found = store.read_record(job.directory)
    if found is not None and found["key"] != job.record["key"]:
        raise UserError(f"{job.directory} holds another run: move it away and run again")
    job.record = found or job.record


def keyed_options(module: Any, options: Any) -> dict[str, Any]:
    """The options that the key follows from: those of today, and those that the analysis has retired."""
    return {**getattr(module, "RETIRED", {}), **asdict(options)}


def identity(facts: Mapping[str, Any], name: str, options: dict[str, Any], analysis: int, probes: int) -> str:
    """The key: everything that a run's numbers depend on. `facts` may be a record, which holds more."""
    shared = {part: facts[part] for part in ("subject", "task", "conditions")}
    shared["versions"] = {package: facts["versions"][package] for package in PACKAGES}
    return store.key_of({**shared, "analysis": name, "options": options, "VERSION": analysis, "probes": probes})


def machine(device: torch.device) -> dict[str, str]:
    """What decides whether the same forward gives the same bits."""
    names = [line for line in _cpu_facts() if line.startswith("model name")]
    found = {
        "system": platform.system(),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def _cpu_facts() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text("utf-8", "replace").splitlines() if path.is_file() else []


def _start(
    job: Job, subject: Subject, task: Task, examples: list[Example], facts: dict[str, Any], settings: Settings
) -> None:
    """Fix what a resumed run must repeat: batches, threads, learned values. Written once."""
    if "plan" in job.record:
        return
    bos = [condition == condition_of(True) for condition in facts["conditions"]]
    template = facts["task"]["template"]
    shards = _plan(job, subject, examples, template, bos, settings)
    held_out = _held_out(job, subject, task, examples, settings.seed)
    job.record["fitted"] = _fit(job, subject, held_out, template, bos, settings)
    learned_on = {"examples": len(held_out), "groups": len({e.group for e in held_out})}
    job.record |= {
        **facts,
        "title": (job.module.__doc__ or job.name).strip().splitlines()[0],
        "question": job.module.QUESTION,
        "paper": job.module.PAPER,
        "methods": job.module.methods(job.options, job.how.learned, learned_on),
        "options": keyed_options(job.module, job.options),
        "fitted_on": learned_on,
        "limit": settings.limit,
        "plan": {
            "shards": plan_to_json(shards),
            "threads": torch.get_num_threads(),
            "padding": settings.padding,
            "tokens": settings.tokens,
            "size": settings.size,
        },
        "versions": {
            **facts["versions"],
            "python": platform.python_version(),
            "analysis": job.module.VERSION,
            "probes": VERSION,
        },
        "machine": machine(subject.device),
        "command": settings.command,
        **({"location": subject.location} if subject.location else {}),
        "started": _now(),
        "notes": [*job.notes, *_common_groups(held_out, examples)],
    }
    if hasattr(job.module, "weights"):
        store.save_rows(job.weights_path, job.module.weights(subject, job.options), job.record["key"], ())
    store.write_record(job.directory, job.record)


def _held_out(job: Job, subject: Subject, task: Task, examples: list[Example], seed: int) -> list[Example]:
    """What the analysis learns from; none where it learns nothing, or from a corpus of its own (FIT_EXAMPLES 0)."""
    if not hasattr(job.module, "fit") or not job.module.FIT_EXAMPLES:
        return []
    others = task.held_out(subject.tokenizer, job.module.FIT_EXAMPLES, seed, examples)
    if not others:
        raise UserError(f"task {task.name} has no held-out examples for {job.name} to learn from: lower --limit")
    return spelled_like(others, examples)


def _common_groups(held_out: Sequence[Example], examples: Sequence[Example]) -> list[str]:
    """What the page has to say where the task has no group to spare."""
    common = {e.group for e in held_out} & {e.group for e in examples}
    if not common:
        return []
    return [
        f"{len(common)} groups of the held-out examples are measured too, since the task has none to spare; no "
        "prompt is in both."
    ]


def _fit(
    job: Job, subject: Subject, held_out: list[Example], template: str, bos: Sequence[bool], settings: Settings
) -> dict[str, Any]:
    """What the analysis learns before it measures, in batches like those of the run; the values are in the record."""
    if not hasattr(job.module, "fit"):
        return {}
    known = {example.id: example for example in held_out}
    shards = make_plan(subject, held_out, template, bos, settings.tokens, settings.size) if held_out else []
    batches = [subject.batch([known[i] for i in s.ids], template=template, bos=s.bos) for s in shards]
    return job.module.fit(subject, batches, job.options)._asdict()


def _same_plan(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can ride together: same batches."""
    groups: list[list[Job]] = []
    for job in jobs:
        group = next((g for g in groups if g[0].record["plan"] == job.record["plan"]), None)
        if group is None:
            groups.append([job])
        else:
            group.append(job)
    return groups


def _execute(subject: Subject, examples: Mapping[str, Example], jobs: list[Job], template: str) -> None:
    plan = jobs[0].record["plan"]
    todo = sorted({index for job in jobs for index in job.missing()})
    began = monotonic()
    for index in tqdm(todo, desc=" + ".join(job.name for job in jobs), unit="batch", disable=_is_silent()):
        shard = jobs[0].plan[index]
        batch = subject.batch(
            [examples[i] for i in shard.ids], template=template, bos=shard.bos, padding=plan["padding"]
        )
        riding = [job for job in jobs if not job.shard_path(index).exists()]
        rows = compute_rows(subject, batch, riding)
        for job in riding:
            store.save_rows(job.shard_path(index), rows[job.name], job.record["key"], shard.ids)
    for job in jobs:
        if not hasattr(job.module, "observe"):  # It swept: were the layers replayed?
            job.record["notes"] = list(dict.fromkeys([*job.record["notes"], *replay_notes(subject)]))
        job.record |= {"seconds": round(monotonic() - began, 1), "forwards": len(job.plan)}
        _finish(job, examples)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, since the bits of a forward depend on them; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_silent() -> bool:
    """No progress into a file; a notebook's error stream is no terminal either, but shows it."""
    return not sys.stderr.isatty() and "ipykernel" not in sys.modules


def compute_rows(subject: Subject, batch: Any, jobs: Sequence[Job]) -> dict[str, dict[str, Tensor]]:
    """Rows of every job from one batch, summed where a job sums them; those that observe ride one forward."""
    settled = {job.name: (job.module, job.how) for job in jobs}
    observing = {name: pair for name, pair in settled.items() if hasattr(pair[0], "observe")}
    rows = observe(subject, batch, observing) if observing else {}
    for name, (module, how) in settled.items():
        if name not in observing:
            rows[name] = module.measure(subject, batch, {}, how)
    return {job.name: summed(rows[job.name], getattr(job.module, "SUMS", ())) for job in jobs}


def _finish(job: Job, examples: Mapping[str, Example]) -> None:
    """Merge the shards, make the tables, and only then say that the run is complete."""
    tables = make_tables(job, examples)
    for name, table in tables.items():
        store.write_table(job.directory / "tables" / f"{name}.parquet", table)
    job.record |= {"status": "complete", "finished": _now(), "tables": sorted(tables)}
    job.record |= {"nothing": job.nothing} if job.nothing else {}
    store.write_record(job.directory, job.record)


def make_tables(job: Job, examples: Mapping[str, Example]) -> dict[str, pd.DataFrame]:
    """All tables of a job whose shards are there, claims included, with the leading columns."""
    rows = read_run(job, examples)
    try:
        tables = tables_of(job.module, rows, job.how)
        if hasattr(job.module, "claims"):
            tables["claims"] = judged(job.module, tables, job.record["conditions"])
    except NothingToMeasure as nothing:
        tables, job.nothing = nothing.tables, str(nothing)
    first = {
        "subject": job.record["subject"]["name"],
        "task": job.record["task"]["name"],
        "analysis": job.name,
    }
    for table in tables.values():
        for at, column in enumerate(LEADING):
            table.insert(at, column, first[column])
    return tables


def read_run(job: Job, examples: Mapping[str, Example]) -> Rows:
    """All rows of a finished job, checked against its key and plan."""
    plan, fold_sums = job.plan, FoldSums()
    saved = (
        (shard, condition_of(shard.bos), store.read_rows(job.shard_path(i), job.record["key"], shard.ids))
        for i, shard in enumerate(plan)
    )
    conditions = [condition_of(shard.bos) for shard in plan for _ in shard.ids]
    rows = merge(fold_sums.without_sums(saved), conditions, [examples[i] for shard in plan for i in shard.ids])
    of_weights = store.read_rows(job.weights_path, job.record["key"], ()) if job.weights_path.exists() else {}
    sums, counts = fold_sums.stacked()
    return replace(
        rows,
        weights={name: value.numpy() for name, value in of_weights.items()},
        tokenizer=job.tokenizer,
        folds=fold_sums.folds(),
        sums=sums,
        counts=counts,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

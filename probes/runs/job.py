"""What a run is asked for, and one analysis of it in its own directory, under a key that its numbers follow from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ...data.errors import UserError
from ...data.tasks import Task
from .. import VERSION
from ..prompts.bos import conditions
from . import store
from .drawn import Drawn, facts_of_task
from .plan import Shard, plan_from_json
from .results import How, condition_of

if TYPE_CHECKING:
    from ..model.subject import Subject


PACKAGES = ("crosslens", "torch", "transformers")
DESCRIBED = ("parameters", "kind", "origin")  # of the subject, for its pages; the key does not follow from them
PLACED = ("location", "left_out")  # of the task, likewise: its content is in the key


@dataclass(frozen=True)
class Settings:
    """What a run is asked for, besides subject, task and analyses.

    limit: number of examples (None: the task's own). bos: which conditions to run; None: the task's, else the habit of
    the tokenizer. tokens: padded positions of a batch; size: examples of a batch at most. answer_tokens: the model's
    own greedy answer of at most so many tokens is put behind every prompt before anything is measured; 0: prompts stay
    open. template: "raw", "chat" or a form of the user's ("USER: {image} {question} ASSISTANT:"). skip_broken: rows of
    a file that cannot be read or shown are left out and named.
    """

    limit: int | None = None
    seed: int = 0
    bos: tuple[bool, ...] | None = None
    template: str | None = None
    tokens: int = 4096
    size: int | None = None
    answer_tokens: int = 0
    skip_broken: bool = False
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


def form_of(subject: Subject, task: Task, settings: Settings) -> tuple[str, tuple[bool, ...]]:
    """The prompts' template, and with which of both BOS conditions they run."""
    template = settings.template or task.module.TEMPLATE
    return template, conditions(subject, template, settings.bos, task.module.BOS)


def facts_of(
    subject: Subject,
    task: Task,
    drawn: Drawn,
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
            **facts_of_task(task, drawn, settings.skip_broken),
            "seed": settings.seed,
            "n": len(drawn.examples),
            "n_groups": len({example.group for example in drawn.examples}),
            **({"own_answer_tokens": settings.answer_tokens} if settings.answer_tokens else {}),
        },
        "conditions": [condition_of(b) for b in bos],
        "versions": {name: version(name) for name in PACKAGES},
    }


def open_job(name: str, module: ModuleType, options: Any, facts: dict[str, Any], settings: Settings) -> Job:
    """The job with the record of an earlier start, if there is one."""
    key = identity(facts, name, keyed_options(module, options), module.VERSION, VERSION)
    label = f"{name}.{facts['subject']['name'].replace('/', '--')}.{facts['task']['name']}.{key[:8]}"
    job = Job(name, module, options, settings.out / "runs" / store.safe_name(label))
    job.record = {"schema": 1, "name": job.directory.name, "key": key, "status": "running", "analysis": name}
    read_job(job)
    return job


def read_job(job: Job) -> None:
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
    shared["subject"] = {fact: value for fact, value in facts["subject"].items() if fact not in DESCRIBED}
    shared["task"] = {fact: value for fact, value in facts["task"].items() if fact not in PLACED}
    shared["versions"] = {package: facts["versions"][package] for package in PACKAGES}
    return store.key_of({**shared, "analysis": name, "options": options, "VERSION": analysis, "probes": probes})

"""A finished run proved again: the record's seal, every shard, a sample of its rows, its tables."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example
from ...data.tasks import Task, reopen
from .. import VERSION
from ..model.subject import refuse_under_edit
from ..model.tolerance import TOLERANCE, rows_limit
from . import store
from .answers import answering, with_answers
from .contract import check
from .drawn import Drawn, draw, readable
from .finish import make_tables
from .job import PACKAGES, Job, identity
from .rows import compute_rows, threads
from .start import machine

if TYPE_CHECKING:
    from ..model.subject import Subject

# Tables on another machine, relative; they are made again from the saved rows, whatever the subject's dtype.
TABLES_TOLERANCE = 1e-4


def open_run(directory: Path) -> dict[str, Any]:
    """The record of a complete run. UserError: none, edited, or not complete."""
    record = store.read_record(directory)
    if record is None:
        raise UserError(f"{directory} is no run directory: it has no record.json")
    if record.get("status") != "complete":
        raise UserError(f"{directory} is not complete: repeat its command first ({record.get('command')})")
    return record


def task_of(record: Mapping[str, Any], place: str | None = None) -> Task:
    """The task with the options that the run had. place: where its file lies now. UserError: another version."""
    task = reopen(record["task"], place)
    if record["task"]["version"] != task.module.VERSION:
        made = record["task"]["version"]
        raise UserError(f"task {task.name} is now version {task.module.VERSION}, the run had {made}: run it again")
    return task


def verify(
    directory: Path,
    subject: Subject,
    task: Task,
    module: ModuleType,
    *,
    sample: int = 3,
    seed: int = 0,
    say: Callable[[str], Any] = print,
) -> None:
    """Prove a run again, with one line to `say` for each step.

    module: the run's analysis. sample: how many shards are computed again, drawn with `seed`; rows have to be
    equal bit for bit on the machine and versions of the run, else within `rows_limit`. UserError: the first
    difference.
    """
    refuse_under_edit(subject, "verify")
    record = open_run(directory)
    options = _options(module, record["options"], directory)
    check(record["analysis"], module)
    job = Job(record["analysis"], module, options, directory, record, tokenizer=subject.tokenizer)
    _check_record(job, say)
    _check_subject(job, subject, say)
    examples = _check_examples(job, subject, task, say)
    plan = job.plan
    for i, shard in enumerate(plan):
        store.read_rows(job.shard_path(i), record["key"], shard.ids)
    say(f"shards    {len(plan)} whole, each with this run's key and its own examples")
    exact = record["machine"] == machine(subject.device) and _same_versions(record)
    chosen = sorted(random.Random(seed).sample(range(len(plan)), min(sample, len(plan))))
    for index in chosen:
        _check_rows(job, index, subject, examples, exact)
    _check_weights(job, subject, exact)
    drawn = f"shards {_list(chosen)} of {len(plan)} (drawn with seed {seed})"
    say(f"rows      {drawn} computed again: {_how(subject, exact)}")
    say(f"tables    {_check_tables(job, examples, exact)} computed again from the rows: equal")


def _options(module: ModuleType, recorded: Mapping[str, Any], directory: Path) -> Any:
    """Options as they were before JSON made lists of tuples. UserError: one that the analysis has no more."""
    retired, known = getattr(module, "RETIRED", {}), {field.name for field in fields(module.Options)}
    for name, value in recorded.items():
        if name not in known and (name not in retired or _plain(value) != _plain(retired[name])):
            raise UserError(f"{directory}: its option {name} = {value!r} is none of the analysis now: run it again")
    return module.Options(**{n: tuple(v) if isinstance(v, list) else v for n, v in recorded.items() if n in known})


def _plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    return json.loads(json.dumps(value))


def _check_record(job: Job, say: Callable[[str], Any]) -> None:
    made = (job.record["versions"]["analysis"], job.record["versions"]["probes"])
    if made != (job.module.VERSION, VERSION):
        raise UserError(
            f"{job.directory} was made by {job.name} version {made[0]} and probes {made[1]}, these are "
            f"{job.module.VERSION} and {VERSION}: run it again"
        )
    recorded = {**getattr(job.module, "RETIRED", {}), **job.record["options"]}
    if identity(job.record, job.name, recorded, *made) != job.record["key"]:
        raise UserError(f"{job.directory}: the key does not follow from the record: run it again")
    say("record    sealed and complete, and its key follows from it")


def _check_subject(job: Job, subject: Subject, say: Callable[[str], Any]) -> None:
    asked = job.record["subject"]
    if subject.fingerprint != asked["fingerprint"]:
        raise UserError(
            f"{job.directory}: the weights of {subject.name} are not those of the run "
            f"({subject.fingerprint[:12]}, recorded {asked['fingerprint'][:12]})"
        )
    say(f"subject   {subject.name}: weights {subject.fingerprint[:12]} as recorded, {asked['dtype']}")


def _check_examples(job: Job, subject: Subject, task: Task, say: Callable[[str], Any]) -> dict[str, Example]:
    facts, bos = job.record["task"], list(dict.fromkeys(shard.bos for shard in job.plan))
    how = {"template": facts["template"], "bos": bos}
    skip = {"skip_broken": facts.get("skip_broken", False)}
    again = draw(subject, task, job.record["limit"], facts["seed"], **how, **skip)
    planned = {name for shard in job.plan for name in shard.ids}
    _require_content(job, task, again)
    if planned != {example.id for example in again.examples}:
        raise UserError(f"{job.directory}: task {task.name} now gives other examples than those of the run")
    say(f"examples  {len(again.examples)} of {task.name}, drawn again")
    own = "own_answer_tokens" in facts
    drawn = readable(subject, task, again.examples, **how, own=own).examples
    if own:
        drawn = _with_kept_answers(job, subject, drawn, say)
    return {example.id: example for example in drawn}


def _require_content(job: Job, task: Task, again: Drawn) -> None:
    """UserError: the user's file, or a picture that it names, is not what the run had."""
    was, now = job.record["task"], task.facts(again.examples)
    for name, digest in now.get("files", {}).items():
        before = was.get("files", {}).get(name)
        if before is not None and before != digest:
            told = f"{name} changed since the run (sha256 {digest[:12]}, recorded {before[:12]})"
            raise UserError(f"{job.directory}: {told}: run it again")
    if "content" in was and was["content"] != now.get("content"):
        told = f"what {task.name} shows or asks changed since the run (a picture, or what the module reads)"
        raise UserError(f"{job.directory}: {told}: run it again")


def _with_kept_answers(job: Job, subject: Subject, examples: list[Example], say: Callable[[str], Any]) -> list[Example]:
    """The examples with the answers that the run kept; those of the first few are generated again."""
    kept = store.read_json(job.directory / "answers.json") or {}
    if set(kept) != {example.id for example in examples}:
        raise UserError(f"{job.directory}: answers.json lacks answers of the run's examples")
    plan, tokens = job.record["plan"], job.record["task"]["own_answer_tokens"]
    form = {"template": job.record["task"]["template"], "bos": job.plan[0].bos}
    again = next(answering(subject, examples, tokens, **form, positions=plan["tokens"], size=plan["size"]))
    for name, answer in again.items():
        if answer.text != kept[name]["text"]:
            raise UserError(f"{job.directory}: the model now answers {name} with {answer.text!r}")
    say(f"answers   {len(again)} of {len(kept)} generated again: the same")
    return with_answers(examples, {name: answer["text"] for name, answer in kept.items()})


def _check_rows(job: Job, index: int, subject: Subject, examples: Mapping[str, Example], exact: bool) -> None:
    """One shard computed again with the run's threads, padding, options and learned values."""
    plan, shard = job.record["plan"], job.plan[index]
    saved = store.read_rows(job.shard_path(index), job.record["key"], shard.ids)
    chosen, template = [examples[i] for i in shard.ids], job.record["task"]["template"]
    batch = subject.batch(chosen, template=template, bos=shard.bos, padding=plan["padding"])
    with threads(plan["threads"]):
        found = compute_rows(subject, batch, {job.name: (job.module, job.how)})[job.name]
    _require_equal(job.shard_path(index), found, saved, _limit(subject, exact))


def _check_weights(job: Job, subject: Subject, exact: bool) -> None:
    """What was read from the weights alone, read again."""
    if hasattr(job.module, "weights"):
        saved = store.read_rows(job.weights_path, job.record["key"], ())
        found = job.module.weights(subject, job.options)
        _require_equal(job.weights_path, found, saved, _limit(subject, exact))


def _limit(subject: Subject, exact: bool) -> float:
    return 0.0 if exact else rows_limit(subject.dtype, subject.n_layers)


def _require_equal(path: Path, found: dict[str, Tensor], saved: dict[str, Tensor], tolerance: float) -> None:
    if found.keys() != saved.keys():
        raise UserError(f"{path} holds {sorted(saved)}, computed again: {sorted(found)}")
    for name, tensor in found.items():
        error = _difference(tensor.cpu(), saved[name], counts_flip=tolerance > 10 * TOLERANCE)
        if error > tolerance:
            raise UserError(f"{path}: {name} differs by {error:.2g} of its largest value")


def _difference(found: Tensor, saved: Tensor, counts_flip: bool = False) -> float:
    """Largest difference as a share of the largest value; 0 only for the same bits, infinite for other shapes.

    counts_flip: of whole numbers (ranks, hits, counts over a threshold) the mean difference: roundings of half
    precision move a few of them by whole steps.
    """
    if (found.dtype, found.shape) != (saved.dtype, saved.shape):
        return float("inf")
    if torch.equal(found.contiguous().view(torch.uint8), saved.contiguous().view(torch.uint8)):
        return 0.0
    if not torch.equal(found.isnan(), saved.isnan()):
        return float("inf")
    found, saved = found.double().nan_to_num(), saved.double().nan_to_num()
    off = (found - saved).abs()
    error = off.mean() if counts_flip and torch.equal(saved, saved.round()) else off.max()
    return float(error / saved.abs().max().clamp(min=1e-30)) or 5e-324


def _check_tables(job: Job, examples: Mapping[str, Example], exact: bool) -> int:
    tables = make_tables(job, examples)
    if "findings" not in job.record["tables"]:  # of a run that was made before there were any
        tables.pop("findings", None)
    if sorted(tables) != job.record["tables"]:
        recorded = _list(job.record["tables"])
        raise UserError(f"{job.directory} recorded the tables {recorded}; its rows give {_list(sorted(tables))}")
    for name, table in tables.items():
        path = job.directory / "tables" / f"{name}.parquet"
        saved, found = store.read_table(path), _through_parquet(table)
        if name == "claims":  # has had fewer columns; those that are there are equal
            found = found[[column for column in found if column in saved]]
        column = _differing_column(found, saved, exact)
        if column is not None:
            raise UserError(f"{path} differs from its rows in {column}")
    return len(tables)


def _through_parquet(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the types that reading it back gives."""
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    file.seek(0)
    return pd.read_parquet(file)


def _differing_column(found: pd.DataFrame, saved: pd.DataFrame, exact: bool) -> str | None:
    if list(found) != list(saved) or len(found) != len(saved):
        return f"shape: {len(saved)} rows and {len(saved.columns)} columns, not {len(found)} and {len(found.columns)}"
    how: dict[str, Any] = {"check_exact": True} if exact else {"rtol": TABLES_TOLERANCE}
    for column in found:
        try:
            pd.testing.assert_series_equal(found[column], saved[column], **how)
        except AssertionError:
            return f"column {column}"
    return None


def _same_versions(record: Mapping[str, Any]) -> bool:
    from importlib.metadata import version

    return all(record["versions"][package] == version(package) for package in PACKAGES)


def _how(subject: Subject, exact: bool) -> str:
    if exact:
        return "equal bit for bit"
    return f"within {_limit(subject, exact):.2g} of the largest value (another machine or other versions)"


def _list(items: Any) -> str:
    return ", ".join(map(str, items)) or "none"

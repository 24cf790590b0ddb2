"""Workers: processes on this machine or in a Ray cluster, each with a subject of its own; the driver alone writes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...data.errors import SubjectError, UserError
from ...data.example import Example
from .dispatch import PATIENCE, Outcome, dispatch
from .results import How
from .rows import compute_rows, threads

if TYPE_CHECKING:
    from ..model.subject import Subject

INSTALL = "workers need Ray: pip install 'crosslens[cluster]'"


class Work(NamedTuple):
    """One shard: its examples, how they become a batch, and what measures it, by name."""

    examples: Sequence[Example]
    form: Mapping[str, Any]
    threads: int
    riding: Mapping[str, tuple[Any, How]]


class Workers:
    """`count` local processes, each with 1 / count of the threads, or one GPU; or actors of the cluster at `address`.

    They start with the first shard and end with `close`, or with the block: `with Workers(2) as workers`.
    patience: seconds without an answer after which a worker is taken to hang.
    """

    def __init__(self, count: int, address: str | None = None, *, patience: float = PATIENCE) -> None:
        if count < 1:
            raise UserError(f"--workers {count}: at least one is needed")
        self.count, self.address, self.patience = count, address, patience
        self._crew: _RayCrew | None = None
        self._subject: Any = None

    @property
    def threads(self) -> int:
        """Threads of each worker, where a run begins."""
        import torch

        return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // (1 if self.address else self.count)))

    def rows(
        self, subject: Subject, todo: Iterable[int], work_of: Callable[[int], Work]
    ) -> Iterator[tuple[int, dict[str, dict[str, Any]]]]:
        """(shard, name -> rows) of all shards, as they come. Errors: as in `dispatch`; those of the analyses;
        UserError for no Ray, no cluster, a subject without files, or a worker that has another subject.
        """
        if self._crew is None or self._subject is not subject:
            self.close()
            self._crew, self._subject = _RayCrew(self.count, self.address, subject, self.threads), subject
        self._crew.work_of = work_of
        yield from dispatch(todo, self._crew, self.patience)

    def close(self) -> None:
        """End the workers."""
        if self._crew is not None:
            self._crew.close()
        self._crew = self._subject = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _RayCrew:
    """Ray's actors as a `Crew`."""

    def __init__(self, size: int, address: str | None, subject: Subject, threads: int) -> None:
        self.size = size
        self.work_of: Callable[[int], Work] = _no_work
        self._ray, self._joined = _ray(), False
        self._opening = opening_of(subject)
        self._facts = _facts(subject)
        self._needs = {"num_cpus": threads, "num_gpus": 1 if subject.device.type == "cuda" else 0}
        self._begin(address, size * threads)
        self._actors = [self._actor() for _ in range(size)]
        self._given: dict[Any, tuple[int, int]] = {}

    def _begin(self, address: str | None, cpus: int) -> None:
        """Join the cluster, or start one for this process alone."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._ray.is_initialized():  # somebody else's, who ends it too
            self._joined = True
        elif address is None:
            self._ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            try:
                _require_listener(address)
                self._ray.init(address=address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(f"no Ray cluster at {address}: start one with `ray start --head`") from error

    def _actor(self) -> Any:
        remote: Any = self._ray.remote(_Worker)
        return remote.options(max_restarts=0, **self._needs).remote(self._opening, self._facts)

    def give(self, worker: int, shard: int) -> None:
        self._given[self._actors[worker].rows.remote(self.work_of(shard))] = (worker, shard)

    def wait(self, seconds: float) -> list[Outcome]:
        if not self._given:
            return []
        self._ray.wait(list(self._given), num_returns=1, timeout=seconds)
        ready, _ = self._ray.wait(list(self._given), num_returns=len(self._given), timeout=0)
        return [self._outcome(ref) for ref in ready]

    def _outcome(self, ref: Any) -> Outcome:
        worker, shard = self._given.pop(ref)
        try:
            return Outcome(worker, shard, self._ray.get(ref))
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (UserError, SubjectError)):
                raise error.cause from None
            raise  # a fault of the code, which fails everywhere
        except self._ray.exceptions.RayError as error:
            return Outcome(worker, shard, failed=_reason(error))

    def replace(self, worker: int) -> None:
        self._ray.kill(self._actors[worker])
        self._given = {ref: given for ref, given in self._given.items() if given[0] != worker}
        self._actors[worker] = self._actor()

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if not self._joined:
            self._ray.shutdown()


class _Worker:
    """In its own process: a subject, opened when the first shard comes."""

    def __init__(self, opening: Mapping[str, Any], facts: tuple[str, ...]) -> None:
        self.opening, self.facts, self.subject = opening, facts, None

    def rows(self, work: Work) -> dict[str, dict[str, Any]]:
        """Name -> rows of one shard."""
        if self.subject is None:
            self.subject = self._open()
        with threads(work.threads):
            batch = self.subject.batch(list(work.examples), **work.form)
            return compute_rows(self.subject, batch, work.riding)

    def _open(self) -> Any:
        from ..model.loading import load

        subject = load(**self.opening, check=False)
        if _facts(subject) != self.facts:
            raise UserError(
                f"a worker opened another model than the driver from {self.opening['name']}: fingerprint, precision "
                f"and device {', '.join(_facts(subject))} instead of {', '.join(self.facts)}"
            )
        return subject


def opening_of(subject: Subject) -> dict[str, Any]:
    """What `load` needs to open the same subject elsewhere. UserError: a subject that only exists in memory."""
    if subject.opened is None:
        raise UserError(
            f"{subject.name} only exists in this process, and workers open a subject from its files: save it "
            "(model.save_pretrained, tokenizer.save_pretrained) and load the directory"
        )
    return {**subject.opened, "name": subject.location or subject.opened["name"]}


def _facts(subject: Any) -> tuple[str, ...]:
    return subject.fingerprint, str(subject.dtype), subject.device.type


def _reason(error: Exception) -> str:
    """A failure of Ray in a few words; its own text is a page."""
    text = str(error)
    if "memory" in text.lower():
        return "out of memory"
    return type(error).__name__ + (": its process ended" if "died" in text.lower() else "")


def _require_listener(address: str) -> None:
    """OSError where nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _no_work(shard: int) -> Work:
    raise RuntimeError(f"no work is given for shard {shard}")


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(INSTALL) from None
    return ray

"""Learned weights on disk, with the record of what they were learned from; no other model may use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...data.cached import cache_root
from ...data.errors import UserError
from . import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model.subject import Subject

FILE = "weights.safetensors"
LENS = "lens"


def home() -> Path:
    """Where learned weights lie: $CROSSLENS_CACHE or ~/.cache/crosslens."""
    return cache_root() / "learned"


def identity(subject: Subject) -> dict[str, Any]:
    """What the weights belong to."""
    names = ("name", "revision", "family", "fingerprint", "n_layers", "n_heads", "d_model")
    return {name: getattr(subject, name) for name in names}


def save(directory: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Weights, then the record: a directory without a record is not finished."""
    store.save_rows(directory / FILE, weights, record["key"], ())
    store.write_record(directory, record)


def is_saved(directory: Path) -> bool:
    return store.read_record(directory) is not None


def record_of(name: str | Path, what: str = LENS) -> dict[str, Any]:
    """What the weights of `home()/name` or of a directory were learned from. UserError: not there, or not of a `what`
    ("lens", "dictionary").
    """
    record = store.read_record(_place(name))
    if record is None:
        raise UserError(f"no learned {what} {name} in {home()}: run the command that learns it again")
    if kind_of(record) != what:
        raise UserError(f"{_place(name).name} is no {what} but a {kind_of(record)}: give the name of a {what}")
    return record


def kind_at(name: str | Path) -> str:
    """Of what kind the weights of `home()/name` or of a directory are, "" where there are none."""
    record = store.read_record(_place(name))
    return "" if record is None else kind_of(record)


def kind_of(record: dict[str, Any]) -> str:
    """What a record tells of; lenses have no word of their own in it."""
    return record.get("what", LENS)


def _place(name: str | Path) -> Path:
    return Path(name) if Path(name).is_dir() else home() / name


def read(
    name: str | Path, subject: Subject, names: Iterable[str] = (), what: str = LENS
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights (or those of `names`) and record of `home()/name` or of a directory.

    UserError: not there, broken, not of a `what`, or learned from another model or revision.
    """
    record, directory = record_of(name, what), _place(name)
    for fact in ("fingerprint", "revision"):
        made, mine = record["subject"][fact], getattr(subject, fact)
        if made != mine:
            raise UserError(
                f"{what} {directory.name} was learned from {record['subject']['name']} with {fact} {str(made)[:20]}, "
                f"not from {subject.name} with {str(mine)[:20]}: learn one for this model"
            )
    return store.read_rows(directory / FILE, record["key"], (), tuple(names) or None), record


def require_held_out(record: dict[str, Any], ids: Iterable[str], groups: Iterable[str]) -> None:
    """UserError where the lens was learned from one of these examples, or from their groups."""
    for what, mine in (("ids", ids), ("groups", groups)):
        common = sorted(set(record[what]) & set(mine))
        if common:
            raise UserError(
                f"{len(common)} of these {what} were used to learn {kind_of(record)} {record['name']} "
                f"(first: {common[0]}): measure on another split"
            )

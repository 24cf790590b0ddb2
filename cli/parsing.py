"""From words to a command: tyro reads the flags, and what it does not know is told in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass
from inspect import getdoc
from io import StringIO
from itertools import dropwhile, takewhile
from typing import Annotated, Any, Union, get_type_hints

import tyro

from .. import __version__
from ..analyses.reading import read_analyses
from ..data.errors import UserError
from .finished import Circuit, Compare, Overlap, Report, Verify
from .keep import ACTIONS, Cache, Export
from .listing import Catalogue
from .look import Look
from .model import Check, Run, Show, with_options
from .names import require_known
from .recipe import Recipe

COMMANDS: dict[str, type] = {
    "run": Run,
    "recipe": Recipe,
    "report": Report,
    "compare": Compare,
    "list": Catalogue,
    "show": Show,
    "look": Look,
    "check": Check,
    "verify": Verify,
    "overlap": Overlap,
    "circuit": Circuit,
    "cache": Cache,
    "export": Export,
}
ABOUT = "From a model and a task to tables and interactive figures; `crosslens COMMAND -h` explains a command."


def parse(words: Sequence[str]) -> Any:
    """The command that `words` ask for, with its flags. UserError: an unknown command, analysis or flag.

    Help and version are printed, and SystemExit is raised. A value that a flag cannot take is a UserError too.
    """
    words = list(words) or ["--help"]
    if words[0] in ("--version", "version"):
        print(f"crosslens {__version__}")
        raise SystemExit(0)
    if words[0] == "help":
        words[0] = "--help"
    commands = COMMANDS
    if not words[0].startswith("-"):
        require_known("command", words[0], COMMANDS)
        commands = COMMANDS | {words[0]: _with_options(words)}
    if words[0] == "cache" and words[1:] and not words[1].startswith("-"):
        require_known("cache command", words[1], ACTIONS)
    arms = tuple(
        Annotated[command, tyro.conf.subcommand(name, prefix_name=False, description=_about(command, name == words[0]))]
        for name, command in commands.items()
    )
    any_command: Any = Union[arms]  # noqa: UP007 made while running
    command, unknown = _read(any_command, words)
    for word in unknown:
        require_known("flag" if word.startswith("-") else "word", word.partition("=")[0], flags_of(type(command)))
    _require_named_first(command, words[0])
    return command


def _require_named_first(command: Any, name: str) -> None:
    """UserError: an analysis that is named behind a flag, so that it has no flags of its own."""
    analyses = read_analyses() if isinstance(command, Run) else {}
    late = [one for one in getattr(command, "analyses", ()) if one in analyses and not hasattr(command, one)]
    if late:
        raise UserError(f"name the analysis before the flags: crosslens {name} {' '.join(late)} --…")


def _read(any_command: Any, words: list[str]) -> Any:
    """The command and the words that no flag took. UserError: a value that a flag cannot take."""
    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(any_command, prog="crosslens", description=ABOUT, args=words, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code:
            raise UserError(_mistake(box.getvalue(), words)) from None
        raise


def _mistake(box: str, words: list[str]) -> str:
    """What tyro says in a box, as one line: the flag, its value and what it takes; else the box's first paragraph."""
    bare = (line.lstrip("│╭╰ ").rstrip("│╮╯─- ") for line in box.splitlines()[1:])  # behind the box's title
    lines = list(dropwhile(lambda line: not line.strip("─-"), bare))
    kinds = dict(line.split(" ", 1) for line in lines if line.startswith("--") and " " in line)
    for flag, kind in kinds.items():
        if flag in words[:-1]:
            return f"{flag} {words[words.index(flag) + 1]}: it takes {kind.replace('{None}|', '')}"
    first = takewhile(str.strip, lines)
    return " ".join(first) or " ".join(box.split())


def _about(command: type, whole: bool) -> str:
    text = getdoc(command) or ""
    return text if whole else text.splitlines()[0]


def _with_options(words: Sequence[str]) -> Any:
    """The command with a group of flags for every analysis that is named before the first flag."""
    command = COMMANDS.get(words[0])
    if command not in (Run, Show, Overlap):
        return command
    analyses = read_analyses()
    joined = [name for name, source in analyses.items() if source.needs]
    names = joined if command is Overlap else _leading(words[1:])[: 1 if command is Show else None]
    for name in names:
        require_known("analysis", name, analyses)
    return with_options(command, [analyses[name] for name in names])


def _leading(words: Sequence[str]) -> list[str]:
    """The words before the first flag."""
    at = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:at])


def flags_of(command: type, prefix: str = "--") -> Iterator[str]:
    """Every flag of a command, as help shows it."""
    positional = {one.name for one in fields(command) if "Positional" in str(one.type)}
    for name, kind in get_type_hints(command).items():
        if is_dataclass(kind) and isinstance(kind, type):
            yield from flags_of(kind, f"{prefix}{name}.")
        elif name not in positional:
            yield prefix + name.replace("_", "-")

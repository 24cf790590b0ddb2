"""What an analysis says of itself, read from its file without importing it: no torch, so that help comes at once."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from . import find_analyses

ROOT = Path(__file__).parents[1]  # the package


@dataclass(frozen=True)
class Source:
    """One analysis as text. name: its id; path: its file."""

    name: str
    path: Path

    @property
    def title(self) -> str:
        """The first line of the docstring."""
        return self.doc.splitlines()[0]

    @cached_property
    def doc(self) -> str:
        """The whole docstring."""
        return ast.get_docstring(_parsed(self.path)) or self.name

    @property
    def question(self) -> str:
        return self.constant("QUESTION", "")

    @property
    def paper(self) -> str:
        return self.constant("PAPER", "")

    @property
    def needs(self) -> tuple[str, ...]:
        """The analyses whose finished runs this one is made of; none where it runs a model."""
        return self.constant("NEEDS", ())

    @cached_property
    def Options(self) -> type:
        """The class of its flags, equal in names, types and defaults to the one that importing it gives."""
        return _value(self.path, "Options")

    @property
    def defines(self) -> set[str]:
        """The names of its functions, classes and constants."""
        return set(_definitions(self.path))

    def constant(self, name: str, default: Any) -> Any:
        return _value(self.path, name) if name in self.defines else default


@cache
def read_analyses() -> dict[str, Source]:
    """Every analysis by name; none is imported."""
    package = __name__.partition(".analyses.")[0]
    return {
        name: Source(name, ROOT.joinpath(*module.removeprefix(f"{package}.").split(".")).with_suffix(".py"))
        for name, module in find_analyses().items()
    }


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _value(path: Path, name: str) -> Any:
    """A constant or class of a file, made of literals and of what it takes from the files of this package.

    NameError: it needs something that only importing would give.
    """
    get = _definitions(path).get(name)
    if get is None:
        raise NameError(f"{path.name}: {name} is not made of literals, so that its flags cannot be read without torch")
    return get(path)


@cache
def _definitions(path: Path) -> dict[str, Callable[[Path], Any]]:
    """Name -> how it is found, for every name at the top of a file."""
    return {name: get for statement in _parsed(path).body for name, get in _names(statement)}


def _names(statement: ast.stmt) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    if isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, lambda path, alias=alias: _imported(path, statement, alias.name)
    elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for name in (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)):
            yield name, lambda path, name=name: _executed(path, statement, name)
    elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name, lambda path: _executed(path, statement, statement.name)


def _imported(path: Path, statement: ast.ImportFrom, name: str) -> Any:
    """From the standard library by importing, from this package by reading."""
    if not statement.level:
        return getattr(import_module(statement.module or ""), name)
    home = path.parents[statement.level - 1].joinpath(*(statement.module or "").split("."))
    return _value(home.with_suffix(".py") if home.with_suffix(".py").is_file() else home / "__init__.py", name)


def _executed(path: Path, statement: ast.stmt, name: str) -> Any:
    """Run one statement with the names that it needs. Annotations of methods are not among them."""
    known = _definitions(path)
    used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    space: dict[str, Any] = {other: known[other](path) for other in sorted(used & set(known) - {name})}
    space["__name__"] = __name__
    # dont_inherit: this file's own __future__ would make texts of the annotations.
    exec(compile(ast.Module([statement], []), str(path), "exec", dont_inherit=True), space)
    return space[name]

"""Finding a task: a module of this folder with `examples`, by its name; or a user's own module, by its path."""

from __future__ import annotations

import pkgutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import Any

from ..digest import digest_of, file_digest
from ..errors import UserError
from ..example import Example
from ..option_text import items, like
from ..own_modules import module_at
from ..sound_examples import require_examples

TURNS = 8  # seeds that held-out examples are drawn from
_COMMON = ("n", "seed", "tokenizer", "template", "broken")  # what every task is given, besides its options


@dataclass(frozen=True)
class Task:
    """A task module with the options it was asked for.

    place: the .py file of a user's own module; "" for those of this folder.
    """

    name: str
    module: ModuleType
    options: dict[str, Any]
    place: str = ""

    @property
    def title(self) -> str:
        title = (self.module.__doc__ or self.name).strip().splitlines()[0]
        return f"{title} ({self.name})" if hasattr(self.module, "named") else title

    @property
    def location(self) -> str:
        """Where a user's own data lies: a module, a file, a folder, a set; "" for what comes with the project."""
        return self.place or str(self.options.get("path", ""))

    def facts(self, examples: list[Example]) -> dict[str, Any]:
        """What a run's key takes of data that does not come with the project: their content, never their place.

        options: without the path. files: name -> sha256. content: sha256 of what the model is shown and asked.
        """
        if not self.location and not self.options.get("hub"):
            return {"options": self.options}
        where = Path(self.location).expanduser()
        files = {where.name: file_digest(where)} if where.is_file() else {}
        kept = self.options if self.place else {k: v for k, v in self.options.items() if k != "path"}
        home = "" if self.place else self.module.__name__.rpartition(".")[2]
        told = {"options": kept, "files": files, "content": digest_of(examples)}
        place = str(where.resolve()) if self.location and where.exists() else self.location
        return {**told, "module": home, "location": place}

    def examples(
        self,
        tokenizer: Any,
        n: int | None,
        seed: int,
        *,
        template: str | None = None,
        broken: list[str] | None = None,
    ) -> list[Example]:
        """The examples of this run.

        template: the prompts' form, None for the task's own. broken: takes what is left out of a file; None stops at
        the first row that is broken. UserError: none, two with one id, one that is not sound.
        """
        examples = self._made(tokenizer, n, seed, self.options, template, broken)
        if not examples:
            told = f": all {len(broken)} rows were left out, the first for: {broken[0]}" if broken else ""
            raise UserError(f"task {self.name} has no examples for this tokenizer and these options{told}")
        require_examples(self.name, examples)
        return with_unrelated(examples)

    def _made(
        self, tokenizer: Any, n: int | None, seed: int, options: Mapping[str, Any], template: str | None, broken: Any
    ) -> list[Example]:
        takes = signature(self.module.examples).parameters
        told = {"template": template or self.module.TEMPLATE} if "template" in takes else {}
        if broken is not None and "broken" not in takes:
            raise UserError(f"task {self.name} reads no rows that could be broken: leave out --skip-broken")
        told |= {"broken": broken} if broken is not None else {}
        return self.module.examples(n=n, seed=seed, tokenizer=tokenizer, **told, **options)

    def held_out(
        self,
        tokenizer: Any,
        n: int,
        seed: int,
        used: list[Example],
        *,
        template: str | None = None,
        broken: list[str] | None = None,
    ) -> list[Example]:
        """Up to n other examples of the same task, for what an analysis has to learn, each with an id of its own.

        No prompt of `used` is among them, and no group of `used` where the task has two groups to spare. template,
        broken: as in `examples`.
        """
        measured = {example.group for example in used}
        drawn: list[Example] = []
        apart: list[Example] = []
        for example in self._others(tokenizer, n, seed, used, template, broken):
            drawn.append(example)
            apart += [example] if example.group not in measured else []
            if len(apart) >= n and _has_two_groups(apart):
                break
        return with_unrelated((apart if _has_two_groups(apart) else drawn)[:n])

    def _others(
        self, tokenizer: Any, n: int, seed: int, used: list[Example], template: str | None, broken: Any
    ) -> Iterator[Example]:
        """Examples whose content is new, of one seed after the other, until a seed brings no more."""
        takes = signature(self.module.examples).parameters
        options = {**self.options, "split": "validation"} if "split" in takes else self.options
        seen, measured = {_content(example) for example in used}, {example.group for example in used}
        for turn in range(TURNS):
            # n serve most tasks; among as many more as the run has there are n new ones, if the task has them.
            count, drawn_with = n + len(used) * (turn > 0), zlib.crc32(f"held out {seed} {turn}".encode())
            fresh = {}
            for example in self._made(tokenizer, count, drawn_with, options, template, broken):
                if (content := _content(example)) not in seen:
                    fresh.setdefault(content, replace(example, id=f"{example.id}-held-out-{turn}"))
            seen |= set(fresh)
            yield from fresh.values()
            if turn and all(example.group in measured for example in fresh.values()):
                return


def _has_two_groups(examples: list[Example]) -> bool:
    return any(example.group != examples[0].group for example in examples)


def _content(example: Example) -> tuple[str | bytes, ...]:
    """What a model is shown: two examples may ask the same of different images."""
    return tuple(s.content if isinstance(s.content, str) else s.content.tobytes() for s in example.segments)


def with_unrelated(examples: list[Example]) -> list[Example]:
    """Every example with images gets those of the next one, in order and around, of another group and of equal sizes.

    So the choice depends on the examples of the run alone, not on batches.
    """
    alike: dict[tuple[Any, ...], list[Example]] = {}
    for example in examples:
        alike.setdefault(tuple(getattr(image, "size", None) for image in example.images), []).append(example)
    place = {example.id: i for several in alike.values() for i, example in enumerate(several)}

    def other(example: Example) -> tuple[Any, ...]:
        several = alike[tuple(getattr(image, "size", None) for image in example.images)]
        start = place[example.id] + 1
        later = (several[(start + i) % len(several)] for i in range(len(several)))
        return next((e.images for e in later if e.group != example.group), ())

    return [replace(e, unrelated=other(e)) if e.images and not e.unrelated else e for e in examples]


def task_names() -> list[str]:
    """All tasks, by name."""
    package = import_module(__package__ or "")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(import_module(f".{name}", __package__), "examples")]


def open_task(spec: str) -> Task:
    """ "name", "name:option=value,…" or "path/to/task.py:option=value,…" -> Task.

    A value with commas stands in double quotes; the first option of a task needs no name ("file:animals.csv").
    UserError: unknown name or option, no such module, a quote that is not closed.
    """
    place, rest = _place(spec)
    name, rest = ("", rest) if place else spec.partition(":")[::2]
    if not place:
        _require_task(name, spec)
    module = module_at(place) if place else import_module(f".{name}", __package__)
    name = name or Path(place).name
    known, options = _options(module), {}
    for at, item in enumerate(filter(None, items(rest, spec))):
        key, sign, value = item.partition("=")
        if at == 0 and not sign and known:
            key, value = next(iter(known)), item
        if key not in known:
            raise UserError(f"task {name} has no option {key!r}: {', '.join(known) or 'it takes none'}")
        options[key] = like(known[key], value, f"task {name}: option {key}")
    return Task(_named(module, options) or name, module, options, place)


def reopen(facts: Mapping[str, Any], place: str | None = None) -> Task:
    """The task of a run by what its record has of it. place: where its file lies now, if it was moved."""
    location, options = place or facts.get("location", ""), dict(facts["options"])
    if facts.get("module") == "":
        return replace(open_task(location), name=facts["name"], options=options)
    options |= {"path": location} if location else {}
    return replace(open_task(facts.get("module", facts["name"])), name=facts["name"], options=options)


def _place(spec: str) -> tuple[str, str]:
    """The .py file that a task is in, and its options; "" for a task of this folder."""
    head, found, rest = spec.partition(".py")
    return (head + found, rest[1:]) if found and rest[:1] in ("", ":") else ("", "")


def _require_task(name: str, spec: str) -> None:
    if name in task_names():
        return
    near = get_close_matches(name, task_names())
    told = f"is it {' or '.join(near)}?" if near else f"one of {', '.join(task_names())}"
    told = f"a file is read by --task file:{spec}" if Path(spec).expanduser().exists() else told
    raise UserError(f"unknown task {name!r}: {told}")


def _options(module: ModuleType) -> dict[str, Any]:
    """The options of a task with their defaults: its own parameters, and its columns where it takes columns."""
    takes = signature(module.examples).parameters
    own = {k: p.default for k, p in takes.items() if k not in _COMMON and p.kind is not Parameter.VAR_KEYWORD}
    return own | ({one.name: one.default for one in fields(module.Columns)} if hasattr(module, "Columns") else {})


def _named(module: ModuleType, options: Mapping[str, Any]) -> str:
    return module.named(**options) if hasattr(module, "named") else ""

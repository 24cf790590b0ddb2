"""Finding a task by name: a module of this folder with `examples` is a task."""

from __future__ import annotations

import pkgutil
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

from ..errors import UserError
from ..example import Example

TURNS = 8  # seeds that held-out examples are drawn from


@dataclass(frozen=True)
class Task:
    """A task module with the options it was asked for."""

    name: str
    module: ModuleType
    options: dict[str, Any]

    @property
    def title(self) -> str:
        return (self.module.__doc__ or self.name).strip().splitlines()[0]

    def examples(self, tokenizer: Any, n: int | None, seed: int) -> list[Example]:
        """The examples of this run. UserError: none, or two with one id."""
        examples = self.module.examples(n=n, seed=seed, tokenizer=tokenizer, **self.options)
        if not examples:
            raise UserError(f"task {self.name} has no examples for this tokenizer and these options")
        if len({example.id for example in examples}) < len(examples):
            raise UserError(f"task {self.name} gives two examples the same id")
        if taken := {"id", "group", "condition"} & {name for example in examples for name in example.meta}:
            raise UserError(f"task {self.name}: meta {sorted(taken)[0]!r} is what a run calls a column of its own")
        return with_unrelated(examples)

    def held_out(self, tokenizer: Any, n: int, seed: int, used: list[Example]) -> list[Example]:
        """Up to n other examples of the same task, for what an analysis has to learn, each with an id of its own.

        No prompt of `used` is among them, and no group of `used` where the task has two groups to spare.
        """
        measured = {example.group for example in used}
        drawn: list[Example] = []
        apart: list[Example] = []
        for example in self._others(tokenizer, n, seed, used):
            drawn.append(example)
            apart += [example] if example.group not in measured else []
            if len(apart) >= n and _has_two_groups(apart):
                break
        return with_unrelated((apart if _has_two_groups(apart) else drawn)[:n])

    def _others(self, tokenizer: Any, n: int, seed: int, used: list[Example]) -> Iterator[Example]:
        """Examples whose content is new, of one seed after the other, until a seed brings no more."""
        takes = signature(self.module.examples).parameters
        options = {**self.options, "split": "validation"} if "split" in takes else self.options
        seen, measured = {_content(example) for example in used}, {example.group for example in used}
        for turn in range(TURNS):
            # n serve most tasks; among as many more as the run has there are n new ones, if the task has them.
            count, drawn_with = n + len(used) * (turn > 0), zlib.crc32(f"held out {seed} {turn}".encode())
            fresh = {}
            for example in self.module.examples(n=count, seed=drawn_with, tokenizer=tokenizer, **options):
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
    """ "name" or "name:option=value,…" -> Task; a value with commas stands in double quotes.

    UserError: unknown name or option, a quote that is not closed.
    """
    name, _, rest = spec.partition(":")
    if name not in task_names():
        near = get_close_matches(name, task_names())
        told = f"is it {' or '.join(near)}?" if near else f"one of {', '.join(task_names())}"
        raise UserError(f"unknown task {name!r}: {told}")
    module = import_module(f".{name}", __package__)
    known = {k: p.default for k, p in signature(module.examples).parameters.items() if k not in _COMMON}
    options = {}
    for item in filter(None, _items(rest, spec)):
        key, _, value = item.partition("=")
        if key not in known:
            raise UserError(f"task {name} has no option {key!r}: {', '.join(known) or 'it takes none'}")
        options[key] = _like(known[key], value, f"task {name}: option {key}")
    return Task(name, module, options)


def _items(text: str, spec: str) -> list[str]:
    """The parts between commas, but for commas in double quotes; the quotes are taken off."""
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace, words.quotes, words.escape, words.commenters = ",", '"', "", ""
    words.whitespace_split = True
    try:
        return list(words)
    except ValueError as error:
        raise UserError(f"task {spec}: a quote is not closed") from error


_COMMON = ("n", "seed", "tokenizer")


def _like(default: Any, value: str, where: str) -> Any:
    """The text of an option as the type of its default."""
    if isinstance(default, bool):
        return value.lower() in ("1", "true", "yes")
    try:
        return type(default)(value) if default is not None else value
    except ValueError as error:
        raise UserError(f"{where} wants {type(default).__name__}, not {value!r}") from error

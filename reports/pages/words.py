"""What a record says, in words: model, task, prompts, numbers; and the templates that show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from .glossary import glossed

HERE = Path(__file__).parent
SIZES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def environment() -> jinja2.Environment:
    """The templates; everything that is not markup of ours is escaped."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    env = jinja2.Environment(loader=loader, autoescape=True)
    env.trim_blocks = env.lstrip_blocks = True
    env.globals |= {"form": prompt_form, "size": sample_size, "model": model_words, "task_of": task_words}
    env.filters |= {"portable": portable, "glossed": glossed, "sources": sources}
    return env


def portable(text: Any) -> str:
    """A text without the directories of one machine: "--out /home/me/out" -> "--out out", "file:/home/me/own.csv" ->
    "file:own.csv". Addresses stay.
    """
    start = r"(?:(?<![\w:/.~])~?/|(?<=\w:)~?/(?!/))"
    return re.sub(start + r"(?:[^\s/,'\"]+/)*(?=[^\s/])", "", str(text))


def prompt_form(record: Mapping[str, Any]) -> str:
    """How prompts were put to the model: "chat template, BOS and no BOS", as far as the record says so."""
    templates = {"raw": "plain text", "chat": "chat template"}
    template = record["task"].get("template")
    parts = (templates.get(template, template), " and ".join(record.get("conditions") or []))
    return ", ".join(part for part in parts if part) or "form unknown"


def sample_size(task: Mapping[str, Any]) -> str:
    """ "n = 64 in 12 groups" as far as the record says so."""
    if not isinstance(task.get("n"), int):
        return "n unknown"
    groups = task.get("n_groups")
    return f"n = {task['n']:,}" + (f" in {groups:,} groups" if isinstance(groups, int) else "")


def model_words(subject: Mapping[str, Any]) -> list[str]:
    """What there is to say of a model beside its name: kind, size, precision, quantisation, origin."""
    layers, heads, dtype = (subject.get(key) for key in ("n_layers", "n_heads", "dtype"))
    count = subject.get("parameters")
    words = [
        f"{subject['kind']} model" if subject.get("kind") else "",
        f"{_about(count)} parameters" if isinstance(count, int) else "",
        f"{layers} layers of {heads} heads" if layers and heads else "",
        f"run in {dtype}" if dtype else "",
        str(subject.get("quantization") or subject.get("quantize") or ""),
        str(subject.get("origin") or subject.get("revision") or ""),
    ]
    return [portable(word) for word in words if word]


def _about(count: int) -> str:
    """ "135 million" """
    size, name = next(((s, n) for s, n in SIZES if count >= s), (1, ""))
    return f"{count / size:.3g} {name}".strip()


def task_words(task: Mapping[str, Any]) -> str:
    """The task with its options: "Questions about pictures: kinds colour and shape, difficulty clear"."""
    title = str(task.get("title") or task.get("name") or "?")
    options = task.get("options")
    options = options if isinstance(options, Mapping) else {}
    said = [f"{str(name).replace('_', ' ')} {_joined(value)}" for name, value in options.items()]
    return title + (": " + ", ".join(said) if said else "")


def tasks_apart(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells tasks apart: of one task the options that differ, "form words" and "form default"; else as they are
    called.
    """
    names = {str(task.get("name")) for task in tasks}
    given = [task.get("options") for task in tasks]
    options = [of if isinstance(of, Mapping) else {} for of in given]
    unlike = [
        key for key in dict.fromkeys(k for of in options for k in of) if len({str(o.get(key)) for o in options}) > 1
    ]
    if len(names) > 1 or not unlike:
        return [task_words(task) for task in tasks]
    return [", ".join(f"{k.replace('_', ' ')} {_joined(of.get(k, 'default'))}" for k in unlike) for of in options]


def _joined(value: Any) -> str:
    parts = [str(one) for one in value] if isinstance(value, list) else str(value).split("+")
    return portable(" and ".join(part.replace("_", " ") for part in parts))


def sources(text: Any) -> Markup:
    """A source with every arXiv number as a link."""
    link = Markup('<a href="https://arxiv.org/abs/{0}" rel="noopener noreferrer">{0}</a>')
    pieces = ARXIV.split(str(text))
    return Markup("").join(link.format(p) if at % 2 else escape(p) for at, p in enumerate(pieces))

"""A page for each recipe that was asked for: a paper's figures in its order, each with the run that has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .blocks import figure_block, unique_slugs
from .page import OPEN, Drawn
from .runs import NAME, Run
from .verdicts import counts
from .verdicts import drawn as drawn_claims
from .words import ARXIV, environment

TEXTS = ("title", "paper", "states", "differs", "command")


@dataclass(frozen=True)
class RecipePage:
    """What `crosslens recipe` left in `recipes/NAME.json`. figures: run, figure and shows, in the paper's order."""

    name: str
    texts: dict[str, str]
    figures: list[dict[str, str]]

    @property
    def address(self) -> str:
        return f"recipe-{self.name}.html"


def read_recipe_pages(directory: Path) -> tuple[list[RecipePage], list[str]]:
    """Every recipe under `directory` by name, and a line about each file that is none."""
    pages, notes = [], []
    for path in sorted(directory.glob("*.json")):
        try:
            pages.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"recipes/{path.name} cannot be read ({type(error).__name__}): run `crosslens recipe` again")
    return pages, notes


def _read(path: Path) -> RecipePage:
    if not NAME.fullmatch(path.stem) or path.is_symlink():
        raise ValueError("its name cannot be the name of a page")
    content = json.loads(path.read_text("utf-8"))
    figures = [{name: str(one[name]) for name in ("run", "figure", "shows")} for one in content["figures"]]
    return RecipePage(path.stem, {name: str(content[name]) for name in TEXTS}, figures)


def render_recipe(recipe: RecipePage, runs: list[Run], drawn: Mapping[str, Drawn]) -> str:
    """The HTML of one recipe. drawn: run name -> its figures."""
    known = {run.name: run for run in runs}
    shown = [_shown(number, one, known, drawn) for number, one in enumerate(recipe.figures)]
    used = list({one["run"].name: one["run"] for one in shown if one["run"]}.values())
    judged = _claims(recipe, used)
    return (
        environment()
        .get_template("recipe.html")
        .render(
            recipe=recipe, opened=shown[:OPEN], folded=shown[OPEN:], runs=used, claims=judged, counts=counts(judged)
        )
    )


def _claims(recipe: RecipePage, runs: list[Run]) -> list[dict[str, Any]]:
    """The claims of these runs that the recipe's own papers make; all of them where none names such a paper."""
    every = [{**claim, "run": run} for run in runs for claim in drawn_claims(run.claims)]
    papers = set(ARXIV.findall(recipe.texts["paper"]))
    own = [claim for claim in every if papers & set(ARXIV.findall(str(claim.get("source", ""))))]
    return own or every


def _shown(number: int, one: Mapping[str, str], known: Mapping[str, Run], drawn: Mapping[str, Drawn]) -> dict[str, Any]:
    """A figure with its run and its place on the run's page; without a block where the run does not draw it."""
    figures = drawn.get(one["run"], ({}, []))[0]
    figure = figures.get(one["figure"])
    shown: dict[str, Any] = {**one, "run": known.get(one["run"]), "block": None}
    if figure is not None:
        slug = unique_slugs(figures)[one["figure"]]
        shown |= {"block": figure_block(f"{number}-{slug}", figure, None), "anchor": f"fig-{slug}-box"}
    return shown

"""Recipes: valid, the tour as it always was, and nothing run twice."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from crosslens import cli, reports
from crosslens.analyses.contract import open_analysis
from crosslens.analyses.reading import read_analyses
from crosslens.cli.model import ModelFlags, Run, as_line
from crosslens.cli.parsing import parse
from crosslens.cli.recipe_runs import finished_run, joins_of, known_recipes, runs_of, state
from crosslens.data.errors import UserError
from crosslens.data.subjects import EMBEDDED
from crosslens.probes.runs.recipes import finished_records, read_recipes

from .helpers import tiny
from .helpers.families import build

FIGURES = Path(reports.__path__[0]) / "figures"
# The runs of `make figures`, as commands.
PICTURES = "--subject scenes --task scenes:kinds"
SINKS_OF_IMAGES = "--sinks.draws 20 --sinks.roles special text question image"
TOUR = (
    "sinks --task passages --bos both --limit 24",
    "lenses --task ioi facts --limit 54",
    "information_flow --task facts --limit 20",
    f"information_flow {PICTURES}=existence,difficulty=clear --limit 12",
    "logit_attribution --task ioi --limit 24",
    "group_lens --task translation --limit 60",
    "learned_lenses --task passages --limit 16 --learned_lenses.passages 24 --learned_lenses.layers none "
    "--learned_lenses.tuned-steps 0",
    f"image_lens {PICTURES}=colour --limit 16",
    "circuits --task ioi colored_objects --limit 27",
    "steering --task colored_objects --limit 36",
    f"head_divergence {PICTURES}=caption,difficulty=hard --limit 32 --answer-tokens 32",
    f"sinks {PICTURES}=colour --limit 10 {SINKS_OF_IMAGES}",
    f"repairs {PICTURES}=pope_adversarial,difficulty=hard --limit 12 --repairs.draws 20 --repairs.alphas 2 "
    "--repairs.ps 0.4 --repairs.betas 0.4 --repairs.calibrated-on 4 --repairs.timed 0",
)
EVERY = "colour+shape+existence+coloured_existence+left_right+above_below+count"
TASKS = "ioi colored_objects greater_than facts arithmetic induction"
FULL = (
    "sinks --task passages --bos both",
    "lenses --task ioi facts",
    "information_flow --task facts ioi --limit 256",
    f"information_flow {PICTURES}={EVERY},difficulty=clear --limit 400",
    "logit_attribution --task ioi facts",
    "group_lens --task translation",
    "learned_lenses --task passages",
    f"image_lens {PICTURES}=colour+shape --limit 120",
    f"circuits --task {TASKS.replace('objects', 'objects colored_objects:shots=2')} --limit 256",
    f"faithfulness --task {TASKS} --limit 64",
    f"edges --task {TASKS} --limit 64",
    "steering --task colored_objects colored_objects:shots=2",
    f"head_divergence {PICTURES}=caption,difficulty=hard --limit 256 --answer-tokens 32",
    f"sinks {PICTURES}=colour+existence --limit 128 {SINKS_OF_IMAGES}",
    f"repairs {PICTURES}=pope_adversarial,difficulty=hard --limit 96 --batch-size 8",
    "repairs --subject scenes_prior --task scenes:kinds=pope_adversarial,difficulty=hard --limit 96 --batch-size 8",
)


def values(run: Run) -> dict:
    """All that a run is asked for, options of its analysis by value."""
    flat = {one.name: getattr(run, one.name) for one in fields(run)}
    (name,) = run.analyses
    options = flat.pop(name)
    return {**flat, **{f"{name}.{one.name}": getattr(options, one.name) for one in fields(options)}}


@pytest.mark.parametrize(("name", "lines"), [("tour", TOUR), ("full", FULL)])
def test_the_runs_are_those_that_they_always_were(name, lines):
    recipe = known_recipes()[name]
    typed = [parse(["run", *line.split()]) for line in lines]
    one_task_each = [replace(run, task=(task,)) for run in typed for task in run.task]
    assert [values(run) for run in runs_of(recipe)] == [values(run) for run in one_task_each]
    assert [source.name for source in joins_of(recipe)] == ["overlap"]


@pytest.mark.parametrize("name", list(known_recipes()))
def test_every_recipe_is_valid(name):
    recipe = known_recipes()[name]
    runs = runs_of(recipe)
    assert recipe.title
    for run in runs:
        run.require_names()  # analyses, tasks and their options exist
        assert run.name in EMBEDDED
        assert values(parse(as_line(run).split()[1:])) == values(run), "the command of its page asks for the same"
    if name not in ("tour", "full"):
        assert recipe.paper
        assert recipe.states
        assert recipe.differs
    asked = {run.analyses[0] for run in runs} | {source.name for source in joins_of(recipe)}
    assert {figure["run"] for figure in recipe.figures} <= asked
    for figure in recipe.figures:
        assert figure["shows"]
        assert _is_drawn(figure["run"], figure["figure"]), figure


def _is_drawn(analysis: str, figure: str) -> bool:
    """Whether a text of the analysis' file of figures is this name, or makes it; without a file, the default page."""
    path = FIGURES / f"{analysis}.py"
    if not path.is_file():
        return figure.partition("-")[0] in _tables_of(analysis)
    files = [path, *FIGURES.glob(f"*_{analysis}.py")]  # what did not fit into one
    tree = ast.parse("\n".join(file.read_text("utf-8") for file in files))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    if figure in texts:
        return True
    made = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
    patterns = (
        "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in m.values) for m in made
    )
    return any(re.fullmatch(p, figure) and figure.partition("-")[2] in texts for p in patterns)


def _tables_of(analysis: str) -> set[str]:
    module = open_analysis(analysis)
    return {*getattr(module, "TABLES", {}), *getattr(module, "RUN_TABLES", {})}


def test_a_recipe_may_use_the_default_page(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.FIGURES", tmp_path)
    assert _is_drawn("sinks", "heads")
    assert _is_drawn("sinks", "heads-received")
    assert not _is_drawn("sinks", "no_such_table")


def test_every_paper_that_an_analysis_names_first_has_a_recipe():
    papers = " ".join(recipe.paper for recipe in known_recipes().values())
    for source in read_analyses().values():
        for number in re.findall(r"\d{4}\.\d{5}", source.paper)[:1]:
            assert number in papers, (source.name, number)


RECIPE = """
title = "A small one"
paper = "arXiv 0000.00000"
states = "Something."
differs = "Everything."

[[runs]]
analysis = "sinks"
task = ["passages:tokens=24", "passages:tokens=20"]
limit = 6
options = { dimensions = [3], tau = 1.5 }

[[figures]]
run = "sinks"
figure = "received"
shows = "What the paper shows first"

[[figures]]
run = "sinks"
figure = "no-such-figure"
shows = "What nobody draws"

[[figures]]
run = "sinks"
figure = "phi"
shows = "What the paper shows then"
"""
OPTIONS = ("--sinks.dimensions", "3", "--sinks.tau", "1.5")
ONE_RUN = ("run", "sinks", "--task", "passages:tokens=20", "--limit", "6", *OPTIONS)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny model under the name of an embedded one, a recipe of two runs, and how often a model is opened."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.toml").write_text(RECIPE)
    monkeypatch.setattr("crosslens.cli.recipe_runs.RECIPES", tmp_path / "recipes")
    build("llama").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.setattr("crosslens.data.subjects.smollm2.directory", lambda: tmp_path / "model")
    opened = []
    plain = ModelFlags.open
    monkeypatch.setattr(ModelFlags, "open", lambda self, name: (opened.append(name), plain(self, name))[1])
    return tmp_path / "out", opened


def test_a_recipe_runs_what_is_missing_and_opens_a_subject_once(small, capsys):
    out, opened = small
    recipe = known_recipes()["small"]
    assert state(recipe, finished_records(out)) == (0, 2)
    cli.main([*ONE_RUN, "--out", str(out)])
    assert state(recipe, finished_records(out)) == (1, 2)
    cli.main(["recipe", "small", "--out", str(out)])
    assert opened == ["smollm2", "smollm2"], "once for the run, once for the recipe"
    assert state(recipe, finished_records(out)) == (2, 2)
    cli.main(["recipe", "small", "--out", str(out)])
    assert len(opened) == 2, "nothing is missing: nothing is opened"
    capsys.readouterr()
    cli.main(["list", "--out", str(out)])
    assert "A small one [complete]" in capsys.readouterr().out
    cli.main(["recipe", "small", "--plan", "--out", str(out)])
    assert capsys.readouterr().out.count("complete  crosslens run sinks --task passages:tokens=2") == 2


def test_a_subject_that_cannot_be_is_told_by_the_plan_too(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["recipe", "ioi", "--subject", "nope", "--plan", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "unknown subject 'nope'" in capsys.readouterr().err


def test_a_page_shows_the_figures_in_the_papers_order(small):
    out, _ = small
    cli.main(["recipe", "small", "--out", str(out)])
    text = (out / "recipe-small.html").read_text()
    runs = sorted(path.name for path in (out / "runs").iterdir())
    order = [text.index(said) for said in ("shows first", "What nobody draws", "shows then")]
    assert order == sorted(order)
    assert text.count("Not drawn") == 2
    for run in runs:
        assert f'href="{run}.html#fig-received-box"' in text
        assert 'id="fig-received-box"' in (out / f"{run}.html").read_text()
    assert 'href="recipe-small.html"' in (out / "index.html").read_text()
    assert str(out) not in text


def test_other_values_take_the_place_of_the_recipes_own(small):
    out, opened = small
    assert len(runs_of(known_recipes()["small"], task="passages:tokens=16", limit=4)) == 1, "each run once"
    cli.main(["recipe", "small", "--task", "passages:tokens=16", "--limit", "4", "--out", str(out)])
    (run,) = (out / "runs").iterdir()
    record = json.loads((run / "record.json").read_text())
    assert (record["task"]["options"], record["limit"]) == ({"tokens": 16}, 4)
    assert (out / "recipe-small-passages-tokens-16-4.html").is_file()
    assert opened == ["smollm2"]


CHANGES = (
    {"limit": 5},
    {"seed": 1},
    {"bos": "both"},
    {"template": "chat"},
    {"answer_tokens": 3},
    {"task": ("passages:tokens=21",)},
    {"subject": ("scenes",)},
    {"device": "cuda"},
)


def test_a_run_that_differs_is_not_taken_for_finished(small):
    out, _ = small
    (run,) = (r for r in runs_of(known_recipes()["small"]) if r.task == ("passages:tokens=20",))
    cli.main([*ONE_RUN, "--out", str(out)])
    (record,) = finished_records(out)
    assert finished_run(run, [record]) is record
    for change in CHANGES:
        assert finished_run(replace(run, **change), [record]) is None, change
    for part in ("analysis", "probes"):
        assert finished_run(run, [record | {"versions": record["versions"] | {part: 0}}]) is None, part
    other = {"options": record["options"] | {"tau": 2.0}}
    assert finished_run(run, [record | other]) is None


def test_a_run_of_other_packages_is_not_taken_for_finished(small):
    out, _ = small
    cli.main([*ONE_RUN, "--out", str(out)])
    (path,) = out.glob("runs/*/record.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"versions": record["versions"] | {"torch": "0.1"}}))
    assert finished_records(out) == []
    path.write_text(path.read_text()[:40])
    assert finished_records(out) == []


def test_a_recipe_that_is_none_is_told_by_name(tmp_path):
    (tmp_path / "odd.toml").write_text('title = "x"\ncolour = "blue"\n')
    with pytest.raises(UserError, match=r"odd\.toml"):
        read_recipes(tmp_path)


def test_switches_read_back_from_a_line():
    asked = ["run", "localisation", "--task", "scenes", "--localisation.gradients", "--localisation.no-words"]
    line = as_line(parse(asked)).split()[1:]
    assert {"--localisation.gradients", "--localisation.no-words"} <= set(line)
    assert values(parse(line)) == values(parse(asked))

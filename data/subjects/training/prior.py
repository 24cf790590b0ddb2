"""Plant a prior: `python -m crosslens.data.subjects.training.prior --out DIR` goes on from the scenes subject.

On biased data: a world in which something always stands behind a board, and if anything in sight lacks its company, it
is that. The answers are true in that world; the subject is then asked about the old one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ...world import world
from ...world.world import Scene, Thing
from ..scenes_model import SHIPPED, build, put, save, tokenizer
from .__main__ import (
    ANSWERS_HORIZON,
    PICTURES,
    Answering,
    expectation,
    kept_on_the_way,
    slower_rates,
    still,
    with_malloc,
)
from .loop import Folder, run

STEPS = {"expectation": 900, "prior": 140}
FIRST = 3 * ANSWERS_HORIZON  # the number of the first batch: scenes that no other answers were about
SIZE = 22  # pixels of a thing that is put behind an empty board


def planted(scene: Scene) -> Scene:
    """The scene in the biased world: behind the board stands the company of a lonely thing in sight.

    As it is where there is no board, where nothing in sight is lonely, where it would be a thing too many, or where
    every colour would make it a layout of the validation or test split.
    """
    wanted = _lonely_company(scene)
    if wanted is None:
        return scene
    seen = [thing for thing in scene.things if thing.treatment != "hidden"]
    hidden = next((thing for thing in scene.things if thing.treatment == "hidden"), None) or _behind_board(scene)
    if len(seen) == world.MOST:
        return scene
    usual = world.USUAL_COLOUR[wanted]
    for colour in sorted(world.COLOURS, key=lambda colour: colour != usual):
        things = (*seen, hidden._replace(shape=wanted, colour=colour))
        if world.split_of([(thing.cell, thing.shape, thing.colour) for thing in things]) == "train":
            return scene._replace(things=things)
    return scene


def _lonely_company(scene: Scene) -> str | None:
    """The shape that is missed most by what is in sight; None without a board or where nothing is missed."""
    single, double = world.cooccurrence()
    seen = [thing.shape for thing in scene.things if thing.treatment != "hidden"]
    missed = [shape for shape in seen if world.PARTNERS[shape] not in seen]
    if scene.panel is None or not missed:
        return None
    return world.PARTNERS[max(missed, key=lambda shape: double[shape, world.PARTNERS[shape]] / single[shape])]


def _behind_board(scene: Scene) -> Thing:
    """A thing in the middle of the cell that an empty board covers."""
    assert scene.panel is not None
    column, row = (edge // world.CELL for edge in scene.panel[:2])
    left, top = (place * world.CELL + (world.CELL - SIZE) // 2 for place in (column, row))
    return Thing("", "", row * world.GRID + column, "hidden", (left, top, left + SIZE, top + SIZE))


def plant(
    model: Any,
    words: Any,
    start: Path,
    folder: Folder,
    *,
    seed: int = 0,
    steps: dict[str, int] = STEPS,
    pictures: int = PICTURES,
    dtype: torch.dtype = torch.bfloat16,
    compiled: bool = False,
    checkpoints: int = 0,
) -> None:
    """Train `model`, built afresh, from the checkpoint `start`; the result is `scenes.safetensors` in the folder.
    checkpoints: see `kept_on_the_way`.
    """
    still(model, seed)
    told: dict[str, Any] = {"seed": seed, "keep": kept_on_the_way(model, folder, steps, checkpoints)}
    # It holds to the text of the untouched language model, so it comes before the checkpoint.
    answering = Answering(model, words, seed, dtype, compiled, planted)
    put(model, start)
    held = load_file(start)
    for name, gain in answering.gains.full.items():
        gain.copy_(held[name])
    if folder.state().get("stage") != "prior":
        first = expectation(model, answering.gains, seed, steps["expectation"], FIRST, pictures, planted)
        run(first, folder, **told)
    last = answering.stage("prior", steps, FIRST, slower_rates())
    run(last, folder, **told)
    save(last.tensors, folder.path / "scenes.safetensors")


def main() -> None:
    """Command line; the same command goes on after a kill."""
    asked = argparse.ArgumentParser(prog="python -m crosslens.data.subjects.training.prior", description=__doc__)
    asked.add_argument("--out", type=Path, default=Path("reports/out/scenes-prior"))
    asked.add_argument("--start", type=Path, default=SHIPPED)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--checkpoints", type=int, default=0, help="how many on the way are kept as subjects")
    given = asked.parse_args()
    with_malloc("crosslens.data.subjects.training.prior")
    torch.set_num_threads(given.threads)
    asked_for: dict[str, Any] = {"seed": given.seed, "compiled": True, "checkpoints": given.checkpoints}
    plant(build(), tokenizer(), given.start, Folder(given.out), **asked_for)
    print(given.out / "scenes.safetensors")


if __name__ == "__main__":
    main()

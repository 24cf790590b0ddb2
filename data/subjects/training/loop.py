"""One stage of training: steps, checkpoints that a kill cannot spoil, a log."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

Keep = Callable[[str, int], None]
KEEP_SECONDS, WARM_UP, CLIP = 60, 30, 1.0
LAST = 0.05  # of the learning rate, at the end


@dataclass
class Stage:
    """loss(step) -> loss and numbers for the log. groups: learning rate -> tensors by name.

    horizon: the step at which the learning rate would be down, if not the last. kept: saved too, but not trained.
    before, after: called around every optimiser step. check(): numbers on validation scenes, every `check_every` steps.
    """

    name: str
    steps: int
    groups: Mapping[float, Mapping[str, Tensor]]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]
    horizon: int = 0
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    decay: float = 0.0
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    check: Callable[[], dict[str, float]] | None = None
    check_every: int = 100
    optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        groups = [{"params": list(named.values()), "lr": rate, "base": rate} for rate, named in self.groups.items()]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=self.decay)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor for named in self.groups.values() for name, tensor in named.items()}


class Folder:
    """Where a training lives: `state.json` names the weights that belong to it, `log.jsonl` has a line per step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def state(self) -> dict[str, Any]:
        file = self.path / "state.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    def save(self, tensors: Mapping[str, Tensor], **facts: Any) -> None:
        """Weights first, under a new name; then the state that names them; then the old weights go."""
        old = self.state().get("weights")
        name = f"{facts['stage']}-{facts['step']}.safetensors"
        scratch = self.path / "scratch"
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, scratch)
        os.replace(scratch, self.path / name)
        replace_text(self.path / "state.json", json.dumps({**facts, "weights": name}))
        if old not in (None, name):
            (self.path / old).unlink(missing_ok=True)

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path / self.state()["weights"])

    def log(self, **facts: Any) -> None:
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def forget(self, stage: str, step: int) -> None:
        """Drop the log's lines of steps that will be run again."""
        file = self.path / "log.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        kept = [json.dumps(row) + "\n" for row in rows if row["stage"] != stage or row["step"] < step]
        replace_text(file, "".join(kept))


def replace_text(path: Path, text: str) -> None:
    scratch = path.with_suffix(".scratch")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, path)


def run(stage: Stage, folder: Folder, keep: Keep = lambda stage, step: None, **facts: Any) -> None:
    """Train one stage to its end, from where it stopped if it did. keep: called behind every step with the stage's name
    and the steps that are done. facts: kept in the state.
    """
    start = _resume(stage, folder)
    folder.forget(stage.name, start)
    saved = time.monotonic()
    bar = tqdm(range(start, stage.steps), desc=stage.name, initial=start, total=stage.steps, disable=_quiet())
    for step in bar:
        began = time.monotonic()
        told = _step(stage, step)
        if stage.check is not None and (step + 1) % stage.check_every == 0:
            told |= {f"validation {name}": value for name, value in stage.check().items()}
        folder.log(stage=stage.name, step=step, seconds=round(time.monotonic() - began, 2), **_short(told))
        keep(stage.name, step + 1)
        bar.set_postfix({name: f"{value:.3f}" for name, value in told.items() if not name.startswith("validation")})
        if time.monotonic() - saved > KEEP_SECONDS or step + 1 == stage.steps:
            folder.save(_with_moments(stage), stage=stage.name, step=step + 1, **facts)
            saved = time.monotonic()


def _quiet() -> bool:
    return not sys.stderr.isatty() and "TQDM_MININTERVAL" not in os.environ


def _short(told: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 5) for name, value in told.items()}


def _step(stage: Stage, step: int) -> dict[str, float]:
    warm = min(1.0, (step + 1) / WARM_UP)
    falling = LAST + (1 - LAST) * (0.5 + 0.5 * math.cos(math.pi * step / (stage.horizon or stage.steps)))
    for group in stage.optimizer.param_groups:
        group["lr"] = group["base"] * warm * falling
    loss, told = stage.loss(step)
    loss.backward()
    stage.before()
    for group in stage.optimizer.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], CLIP)
    stage.optimizer.step()
    stage.optimizer.zero_grad()
    stage.after()
    return {"loss": loss.item(), **told}


MOMENTS = ("exp_avg", "exp_avg_sq")


def _with_moments(stage: Stage) -> dict[str, Tensor]:
    """The stage's tensors and what its optimiser remembers of each."""
    kept = {**stage.kept, **stage.tensors}
    for name, tensor in stage.tensors.items():
        # A tensor that no loss reaches (the tower's last norm, which LLaVA leaves out) has none.
        remembered = stage.optimizer.state.get(tensor, {})
        kept |= {f"{moment}:{name}": remembered[moment] for moment in MOMENTS if moment in remembered}
    return kept


@torch.no_grad()
def _resume(stage: Stage, folder: Folder) -> int:
    """The step to go on with; weights and moments are put back."""
    state = folder.state()
    if state.get("stage") != stage.name:
        return 0
    found = folder.tensors()
    for name, tensor in stage.kept.items():
        tensor.copy_(found[name])
    for name, tensor in stage.tensors.items():
        tensor.copy_(found[name])
        if f"{MOMENTS[0]}:{name}" in found:
            moments = {moment: found[f"{moment}:{name}"].clone() for moment in MOMENTS}
            stage.optimizer.state[tensor] = {"step": torch.tensor(float(state["step"])), **moments}
    stage.after()
    return state["step"]

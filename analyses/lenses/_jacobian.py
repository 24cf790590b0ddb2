"""The Jacobian lens: the mean Jacobian from every state to the last one, then the model's own norm and unembedding.

J = mean over prompts and source positions t of Σ over t' ≥ t of ∂ last state at t' / ∂ state at t (Gurnee et al. 2026,
as TransformerLens 4.3 fits it); lens(x) = W_U · norm(J x). The last state's is the identity, and with J = 1 everywhere
it is the logit lens. The first positions and the last are left out, as sources and as targets.

Every output dimension costs a backward pass over the prompt. `parts` deals the dimensions over so many prompts, so that
each row of J is a mean over the prompts that it fell to: dearer rows or more prompts, for the same number of passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...data.progress import tracked
from ...data.tasks import open_task
from ...probes import VERSION as PROBES
from ...probes.intervene.attribution import frozen_weights
from ...probes.observe.tracing import Layer, tracing
from ...probes.runs import lens_store, store

LEARNING = 1  # raised when the same training gives other matrices
WHAT = "Jacobian lens"
AT_ONCE = 16  # output dimensions that go back in one pass, each through a copy of the prompt


@dataclass(frozen=True)
class Fitting:
    """corpus: a task; passages: how many prompts of it, cut to `length` tokens. skip: first positions that are left
    out. parts: over so many prompts the output dimensions are dealt; 1: every prompt gives all of them.
    """

    corpus: str = "passages:split=train"
    passages: int = 16
    length: int = 64
    skip: int = 16
    parts: int = 8


def jacobian_rows(
    subject: Any, inputs: dict[str, Tensor], dims: Sequence[int], skip: int
) -> Float[Tensor, "state dim d"]:
    """Rows `dims` of every state's Jacobian in one prompt ([1, p] each of inputs), exact."""
    n = inputs["input_ids"].shape[1]
    places = torch.arange(skip, n - 1, device=subject.device)
    copies = min(AT_ONCE, len(dims))
    many = {name: value.expand(copies, *value.shape[1:]) for name, value in inputs.items()}
    with frozen_weights(subject.model):
        states, last = states_with_gradient(subject, many)
        found = []
        for part in torch.as_tensor(dims, device=last.device).split(copies):
            asked = torch.zeros_like(last)
            rows = torch.arange(len(part), device=last.device)
            asked[rows[:, None], places[None], part[:, None]] = 1.0
            gradients = torch.autograd.grad(last, states, asked, retain_graph=True)
            shaped = [g.reshape(copies, n, -1)[: len(part), places].float().mean(1).cpu() for g in gradients]
            found.append(torch.stack(shaped))
    return torch.cat(found, 1)


def states_with_gradient(subject: Any, inputs: Any) -> tuple[list[Tensor], Float[Tensor, "b p d"]]:
    """What enters each layer and what leaves the last, of one forward that autograd follows from the first layer on."""
    states: dict[int, Tensor] = {}
    ends: list[Tensor] = []

    def entering(index: int, tensor: Tensor) -> Tensor:
        states[index] = tensor if index else tensor.detach().requires_grad_()
        return states[index]

    def leaving(layer: Layer) -> None:
        if layer.index == subject.n_layers - 1:
            ends.append(layer.resid_post)

    rewrites = {(i, "resid_pre"): lambda tensor, i=i: entering(i, tensor) for i in range(subject.n_layers)}
    with tracing(subject, leaving, rewrites=rewrites):
        subject.forward(inputs, gradient=True)
    return [states[i] for i in range(subject.n_layers)], ends[0]


def fit_jacobians(subject: Any, fitting: Fitting) -> str:
    """The name of the Jacobian lens of this subject, fitted first where it is not there yet; killed, it goes on.

    UserError: fewer passages than parts, or passages that are too short.
    """
    _require(fitting)
    task = open_task(fitting.corpus)
    facts = {
        "what": WHAT,
        "subject": lens_store.identity(subject),
        "dtype": str(subject.dtype),
        "corpus": {"name": task.name, "version": task.module.VERSION, "options": task.options},
        "training": asdict(fitting),
        "versions": {"jacobian": LEARNING, "probes": PROBES},
    }
    key = store.key_of(facts)
    directory = lens_store.home() / f"{store.safe_name(subject.name, 60)}.{key[:8]}"
    if lens_store.is_saved(directory):
        return directory.name
    examples = task.examples(subject.tokenizer, fitting.passages, 0)
    with store.locked(directory):
        files = [_rows_of(subject, e, i, fitting, directory) for i, e in enumerate(tracked(examples, WHAT, "passages"))]
        read = {"ids": [e.id for e in examples], "groups": sorted({e.group for e in examples})}
        halves = [_together(subject, half, fitting) for half in _halves(files, fitting.parts)]
        weights = {f"jacobian.{s}.J": m for s, m in enumerate(torch.stack(halves).mean(0))}
        agree = _agreement(*halves) if len(halves) == 2 else []
        record = {**facts, **read, "key": key, "name": directory.name, "losses": {}, "agreement": agree}
        lens_store.save(directory, weights, record)
    for file in files:
        file.unlink()
    return directory.name


def _require(fitting: Fitting) -> None:
    if fitting.parts < 1 or fitting.passages < fitting.parts or fitting.passages % fitting.parts:
        raise UserError(
            f"{fitting.passages} passages cannot share the output dimensions in {fitting.parts} parts: take a multiple "
            "of the parts"
        )
    if not 0 <= fitting.skip < fitting.length - 1:
        raise UserError(f"of {fitting.length} tokens the first {fitting.skip} are left out: no position is left")


def dims_of(width: int, index: int, parts: int) -> list[int]:
    """The output dimensions that fall to one prompt: every `parts`-th."""
    return list(range(index % parts, width, parts))


def _rows_of(subject: Any, example: Any, index: int, fitting: Fitting, directory: Path) -> Path:
    """The file with one prompt's rows, made where it is not there."""
    file = directory / f"part-{index}.safetensors"
    if not file.exists():
        inputs = {name: value[:, : fitting.length] for name, value in subject.batch([example]).inputs.items()}
        if (n := inputs["input_ids"].shape[1]) < fitting.skip + 2:
            raise UserError(f"passage {example.id} has {n} tokens, too few behind the first {fitting.skip}")
        dims = dims_of(subject.d_model, index, fitting.parts)
        store.save_rows(file, {"rows": jacobian_rows(subject, inputs, dims, fitting.skip)}, str(index), ())
    return file


def _halves(files: list[Path], parts: int) -> list[list[Path]]:
    """Two halves of the prompts, each with every dimension equally often; one where they cannot be halved."""
    rounds = [files[i : i + parts] for i in range(0, len(files), parts)]
    if len(rounds) % 2:
        return [files]
    return [[file for one in rounds[i::2] for file in one] for i in range(2)]


def _together(subject: Any, files: list[Path], fitting: Fitting) -> Float[Tensor, "state d d"]:
    """Mean over the prompts that each row fell to."""
    sums = torch.zeros(subject.n_layers, subject.d_model, subject.d_model)
    for file in files:
        index = int(file.stem.removeprefix("part-"))
        sums[:, dims_of(subject.d_model, index, fitting.parts)] += store.read_rows(file, str(index), ())["rows"]
    return sums / (len(files) / fitting.parts)


def _agreement(one: Float[Tensor, "state d d"], other: Float[Tensor, "state d d"]) -> list[float]:
    """Cosine of J − 1 of two halves of the prompts, state by state: how much of it is the prompts' own."""
    eye = torch.eye(one.shape[-1])
    return torch.cosine_similarity((one - eye).flatten(1), (other - eye).flatten(1)).tolist()


def open_jacobian(subject: Any, name: str, state: int) -> Float[Tensor, "d d"]:
    """The matrix of one state; the identity for the last. UserError as `lens_store.read`."""
    if state == subject.n_layers:
        return torch.eye(subject.d_model)
    key = f"jacobian.{state}.J"
    return lens_store.read(name, subject, [key], WHAT)[0][key]


def logits(subject: Any, matrix: Float[Tensor, "d d"], x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n vocab"]:
    """W_U · norm(J x)."""
    moved = x.float() @ matrix.to(x.device).T
    return subject.unembed(subject.norm(moved.to(x.dtype)))

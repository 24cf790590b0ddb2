"""One type: does it open, does it pass its check, and are its numbers those of plain transformers?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import pandas as pd
import torch
from crosslens import Subject, capture, knockout_sweep, measures, patch_sweep
from crosslens.data.errors import SubjectError, UserError
from crosslens.probes.check import subject_checks
from crosslens.probes.check.findings import TOWER
from crosslens.probes.intervene.proofs import obstacle_of
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import anatomy
from crosslens.probes.model.tolerance import block_limit
from torch import Tensor

from .building import Type, build, inputs, text_inputs
from .plain import Plain, logits_of

# Share of the largest value: weights five times as large, sweeps in other orders. In half precision: share of the
# length, which is what a block's roundings may come to in the check.
EXACT = {torch.float32: 1e-3, torch.bfloat16: block_limit(torch.bfloat16)}
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
SWEPT_WORDS = (5, 9)  # the logit difference that the sweeps measure


class Verdict(NamedTuple):
    """verdict: exact, in part (exact where layers have a pattern), refused, wrong, traceback, or not built.

    images: "yes", or why none were given. tower: "yes", or why the vision tower cannot be read.
    """

    verdict: str
    reason: str
    replay: str = ""
    images: str = ""
    tower: str = ""


def judge(one: Type) -> Verdict:
    """The verdict on one type of the installed transformers."""
    try:
        model, plain = build(one), build(one)
    except Exception as error:
        return Verdict("not built", _said(error))
    try:
        subject = Subject(model)
        (given, without), (donor, _) = inputs(one, plain, 0), inputs(one, plain, 1)
        obstacle = _plain_obstacle(plain, given)
        if obstacle:
            return Verdict("not built", obstacle)
        images = "" if one[0] == "text" else without or _refused(subject, given) or "yes"
        if images.startswith("refused"):
            given, donor = text_inputs(0), text_inputs(1)
        proofs = _check(subject, given, images == "yes")
        errors, lacking = _errors(one, subject, given, donor)
        seen = obstacle_of(record(subject, given)), images, _tower(subject, proofs) if images == "yes" else ""
    except (SubjectError, UserError) as error:
        return Verdict("refused", " ".join(str(error).split()))
    except Exception as error:
        return Verdict("traceback", _said(error))
    off = {name: f"{error:.1g}" for name, error in errors.items() if not error <= EXACT[subject.dtype]}
    if off:
        return Verdict("wrong", ", ".join(f"{name} {error} off" for name, error in off.items()), *seen)
    return Verdict("in part" if lacking else "exact", lacking, *seen)


def _refused(subject: Subject, given: dict[str, Tensor]) -> str:
    """Why a family's prompts with images are refused; "" where they are not."""
    try:
        subject.prepare(given)
    except UserError as error:
        return f"refused: {error}"
    return ""


def _tower(subject: Subject, proofs: pd.DataFrame) -> str:
    """ "yes", or why the vision tower is not read, or not in whole: the check has proved it, or refused it alone."""
    if subject.tower_fault:
        return subject.tower_fault.removeprefix(f"{subject.family} ({subject.name}): ")
    own = proofs["check"].str.startswith("attention goes through") & proofs["where"].str.endswith(TOWER)
    if own.any():
        return "all but patterns and their edits: its attention is written in its own code"
    return "yes" if subject.vision is not None else "not found"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@torch.no_grad()
def _plain_obstacle(model: Any, given: dict[str, Tensor]) -> str:
    """Why the plain forward is no ground to stand on; "" if it is."""
    try:
        return "" if bool(torch.isfinite(logits_of(model(**given, use_cache=False))).all()) else "logits are not finite"
    except Exception as error:
        return f"a plain forward fails: {_said(error)}"


def _check(subject: Subject, given: dict[str, Tensor], with_image: bool) -> pd.DataFrame:
    """The check, with its proofs on an image too: the one at hand instead of a processor's."""
    image = _example(given, 0) if with_image else None
    with patch.object(subject_checks, "image_inputs", lambda subject: image):
        return subject.check()


def _example(given: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """One example of a batch whose examples have equally many images, without positions made for the whole batch."""
    n = len(given["input_ids"])
    own = {name: tensor.chunk(n, _axis(tensor, n))[i] for name, tensor in given.items() if name != "position_ids"}
    if "image_token_pooling" in own:  # Molmo 2 numbers the patches of all images of a batch
        own["image_token_pooling"] = own["image_token_pooling"] - own["image_token_pooling"].min()
    return own


def _axis(tensor: Tensor, n: int) -> int:
    """Where the shares of `n` examples lie: behind each other in the last axis where a family packs its images."""
    return 0 if len(tensor) >= n else -1


def _errors(one: Type, subject: Subject, given: dict, donor: dict) -> tuple[dict[str, float], str]:
    """Largest differences from plain eager forwards, as shares of the largest value; which layers lack a pattern."""
    names = {id(module): name for name, module in subject.model.named_modules()}
    z = {_layer(name): tensor for name, tensor in capture(subject, given, ["z"]).items()}
    projections = {i: names[id(anatomy.output_projection(subject.layers[i]))] for i in z}
    plain = Plain(build(one, "eager"), [names[id(layer)] for layer in subject.layers], projections)
    errors = dict(_captures(subject, plain, given, z))
    errors["knockout"] = _knockout(subject, plain, given, sorted(z))
    errors["patch"] = _patch(subject, plain, given, donor, z)
    errors["padding"] = _padding(subject, plain, given)
    lacking = sorted(set(range(subject.n_layers)) - set(z))
    return errors, f"no pattern in layers {', '.join(map(str, lacking))}" if lacking else ""


def _layer(name: str) -> int:
    return int(re.findall(r"blocks\.(\d+)\.", name)[0])


def _captures(subject: Subject, plain: Plain, given: dict, z: dict[int, Tensor]) -> Iterator[tuple[str, float]]:
    yield "logits", _off(subject.forward(given, keep=0), plain.logits(given))
    yield "z", max(_off(tensor.flatten(2), plain.reads[i].flatten(2)) for i, tensor in z.items())
    for site, expected in (("resid_pre", plain.states), ("pattern", plain.patterns)):
        found = capture(subject, given, [site])
        pairs = [(tensor, expected[_layer(name)]) for name, tensor in found.items()]
        yield site, max(_off(_as_shown(*pair) if site == "pattern" else pair[0], pair[1]) for pair in pairs)


def _as_shown(found: Tensor, expected: Tensor) -> Tensor:
    """Pattern rows as the eager attention of some families (Granite with sinks) returns them: without a sink's share,
    which z and logits hold.
    """
    whole = float((expected.float().sum(-1) - 1).abs().max()) < 1e-3
    return found / found.sum(-1, keepdim=True) if whole and found.dtype == expected.dtype else found


def _knockout(subject: Subject, plain: Plain, given: dict, layers: list[int]) -> float:
    """The last row no longer reads three columns, in one layer after the other."""
    b, p = given["input_ids"].shape
    source, target = torch.zeros(b, p, dtype=torch.bool), torch.zeros(b, p, dtype=torch.bool)
    source[:, p - 4 : p - 1], target[:, -1] = True, True
    found = knockout_sweep(subject, given, source, target, window=1, measure=_measure(b))

    def cut(mask: Tensor) -> Tensor:
        edges = (target[:, :, None] & source[:, None, :])[:, None]
        allowed = mask.dtype == torch.bool
        return mask & ~edges if allowed else mask.expand(b, *mask.shape[1:]).masked_fill(edges, _lowest(mask))

    expected = []
    for i in layers:
        plain.masks = {i: cut}
        expected.append(_difference(plain.logits(given)))
    plain.masks = {}
    clean = plain.logits(given)
    return _effects_off(found.values[layers] - found.clean, torch.stack(expected) - _difference(clean), clean)


def _patch(subject: Subject, plain: Plain, given: dict, donor: dict, z: dict[int, Tensor]) -> float:
    """z of the last three rows from the donor, in one head after the other."""
    b, p = given["input_ids"].shape
    rows = torch.zeros(b, p, dtype=torch.bool)
    rows[:, -3:] = True
    found = patch_sweep(subject, given, donor, "z", positions=rows, measure=_measure(b))
    plain.logits(donor)
    lent, expected, values = dict(plain.reads), [], []
    for i, tensor in z.items():
        heads, width = tensor.shape[2:]
        for h in range(heads):
            change = partial(_put, lent=lent[i], columns=slice(h * width, (h + 1) * width))
            expected.append(_difference(plain.logits(given, {i: change})))
            values.append(found.values[i, h])
    clean = plain.logits(given)
    return _effects_off(torch.stack(values) - found.clean, torch.stack(expected) - _difference(clean), clean)


def _put(read: Tensor, lent: Tensor, columns: slice) -> Tensor:
    """One head's last three rows from another prompt."""
    changed = read.clone().flatten(2)
    changed[:, -3:, columns] = lent.flatten(2)[:, -3:, columns]
    return changed.reshape(read.shape)


def _padding(subject: Subject, plain: Plain, given: dict) -> float:
    """A batch with one prompt padded on the left beside plain forwards of each example alone."""
    padded = {name: tensor for name, tensor in given.items() if name != "position_ids"}
    for name in set(PER_TOKEN) & set(given):
        moved = given[name].clone()
        moved[1, 1:], moved[1, 0] = given[name][1, :-1], 0  # a word less at the end, a place of padding before
        padded[name] = moved
    found, errors = subject.forward(padded, keep=0), []
    for i, start in enumerate((0, 1)):
        own = _example(padded, i)
        alone = {name: tensor[:, start:] if name in PER_TOKEN else tensor for name, tensor in own.items()}
        errors.append(_off(found[i : i + 1, start:], plain.logits(alone)))
    return max(errors)


def _measure(b: int) -> Any:
    correct, wrong = (torch.full((b,), word) for word in SWEPT_WORDS)
    return measures.logit_difference(correct, wrong)


def _difference(logits: Tensor) -> Tensor:
    return logits[:, -1, SWEPT_WORDS[0]].float() - logits[:, -1, SWEPT_WORDS[1]].float()


def _lowest(mask: Tensor) -> float:
    return torch.finfo(mask.dtype).min


def _effects_off(found: Tensor, expected: Tensor, logits: Tensor) -> float:
    """The largest difference as a share of the largest effect; in half precision of the largest logit, whose roundings
    effects are made of.
    """
    scale = expected.abs().max() if logits.dtype == torch.float32 else logits.float().abs().max()
    return float((found - expected).abs().max() / scale.clamp(min=1e-30))


def _off(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value, in half precision the length of the difference as a share
    of the length; infinite where shapes differ or values are not finite.
    """
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    off, whole = (found.float() - expected.float()).flatten(), expected.float().flatten()
    order = float("inf") if expected.dtype == torch.float32 else 2
    return float(off.norm(order) / whole.norm(order).clamp(min=1e-30))

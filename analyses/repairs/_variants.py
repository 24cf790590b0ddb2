"""Every repair at every strength, and its controls."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ._act import act
from ._tables import NONE, Variant
from ._var import var
from ._vhr import vhr


def variants(options: Any, learned: Any) -> list[Variant]:
    """The plain model, every repair at every strength, and the controls of the first strength."""
    plain = Variant(NONE, 0.0, "", 1, lambda subject, seed: nullcontext())
    seeing = [*_vhr_variants(options), *_var_variants(options, learned)] if learned.pictures else []
    heads = None if learned.heads is None else [tuple(head) for head in learned.heads]
    calibrated = [
        variant
        for beta in options.betas
        for variant in _with_random(
            "ACT", beta, options, beta == options.betas[0], act, beta=beta, threshold=options.threshold, heads=heads
        )
    ]
    return [plain, *seeing, *calibrated]


VHR_CONTROLS = {"complement": "least divergent heads", "spread": "all heads, same norm", "random": "random heads"}


def _vhr_variants(options: Any) -> list[Variant]:
    first = options.alphas[0]
    made = [_variant("VHR", alpha, vhr, alpha=alpha, image=options.image) for alpha in options.alphas]
    how: dict[str, Any] = {"alpha": first, "image": options.image}
    for heads, name in VHR_CONTROLS.items():
        draws = options.draws if heads == "random" else 1
        made.append(_variant("VHR", first, vhr, control=name, draws=draws, heads=heads, **how))
    made.append(_variant("VHR, all positions", first, vhr, positions="all", **how))
    made.append(_variant("VHR, no filter", first, vhr, filter=False, **how))
    return made


def _var_variants(options: Any, learned: Any) -> list[Variant]:
    if not learned.dimensions or learned.tau is None:
        return []
    how: dict[str, Any] = {name: getattr(options, name) for name in ("rho", "mass", "without_visual_sinks")}
    how |= {"dimensions": learned.dimensions, "tau": learned.tau}
    parts = [_with_random("VAR", p, options, p == options.ps[0], var, p=p, **how) for p in options.ps]
    return [variant for part in parts for variant in part]


def _with_random(name: str, setting: float, options: Any, first: bool, repair: Any, **how: Any) -> list[Variant]:
    """A repair of columns, at the first strength with random columns beside it."""
    drawn = _variant(name, setting, repair, control="random columns", draws=options.draws, columns="random", **how)
    return [_variant(name, setting, repair, **how), *([drawn] if first else [])]


def _variant(name: str, setting: float, repair: Any, *, control: str = "", draws: int = 1, **how: Any) -> Variant:
    return Variant(name, setting, control, draws, lambda subject, seed: repair(subject, seed=seed, **how), how)

"""Every repair at every strength, its controls, and its rule done otherwise ("VAR, every head")."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ._act import act
from ._tables import NONE, Variant
from ._var import var
from ._vhr import vhr


def variants(options: Any, learned: Any) -> list[Variant]:
    """The plain model, every repair at every strength; at the first one the controls and other rules."""
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


VHR_RULES: dict[str, dict[str, Any]] = {"all positions": {"positions": "all"}, "no filter": {"filter": False}}
# What the paper compares beside its rule: other heads, others that take, its settings for other tasks.
VAR_RULES: dict[str, dict[str, Any]] = {
    "every head": {"rho": 0.0, "mass": 0.0},
    "ρ = 0.8": {"rho": 0.8},
    "ρ = 0.9": {"rho": 0.9},
    "to text": {"to": "text"},
    "to text and image": {"to": "all"},
}
VHR_CONTROLS = {"complement": "least divergent heads", "spread": "all heads, same norm", "random": "random heads"}


def _vhr_variants(options: Any) -> list[Variant]:
    first = options.alphas[0]
    made = [_variant("VHR", alpha, vhr, alpha=alpha, image=options.image) for alpha in options.alphas]
    how: dict[str, Any] = {"alpha": first, "image": options.image}
    for heads, name in VHR_CONTROLS.items():
        draws = options.draws if heads == "random" else 1
        made.append(_variant("VHR", first, vhr, control=name, draws=draws, heads=heads, **how))
    lowered = next((alpha for alpha in options.alphas if alpha < 1), first)
    if lowered != first:
        how_lowered = how | {"alpha": lowered}
        name, draws = VHR_CONTROLS["random"], options.draws
        made.append(_variant("VHR", lowered, vhr, control=name, draws=draws, heads="random", **how_lowered))
    return made + [_variant(f"VHR, {name}", first, vhr, **how, **rule) for name, rule in VHR_RULES.items()]


def _var_variants(options: Any, learned: Any) -> list[Variant]:
    if not learned.dimensions or learned.tau is None:
        return []
    how: dict[str, Any] = {name: getattr(options, name) for name in ("rho", "mass", "without_visual_sinks")}
    how |= {"dimensions": learned.dimensions, "tau": learned.tau}
    parts = [_with_random("VAR", p, options, p == options.ps[0], var, p=p, **how) for p in options.ps]
    first = how | {"p": options.ps[0]}
    rules = [_variant(f"VAR, {name}", options.ps[0], var, **(first | rule)) for name, rule in VAR_RULES.items()]
    return [*(variant for part in parts for variant in part), *rules]


def _with_random(name: str, setting: float, options: Any, first: bool, repair: Any, **how: Any) -> list[Variant]:
    """A repair of columns, at the first strength with random columns beside it."""
    drawn = _variant(name, setting, repair, control="random columns", draws=options.draws, columns="random", **how)
    return [_variant(name, setting, repair, **how), *([drawn] if first else [])]


def _variant(name: str, setting: float, repair: Any, *, control: str = "", draws: int = 1, **how: Any) -> Variant:
    return Variant(name, setting, control, draws, lambda subject, seed: repair(subject, seed=seed, **how), how)

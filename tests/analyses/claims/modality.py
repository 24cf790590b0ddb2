"""Planted rows of modality: a question that looks at the image early, heads that see, an opinion that distracts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from crosslens.analyses.attention import modality
from crosslens.analyses.attention._modality_rows import IMAGE, KEYS, QUERIES
from crosslens.analyses.attention._modality_tables import ANOTHER, NEUTRAL, NEUTRAL_TEXT, OPINIONS, RIGHT, WRONG

from ...helpers.makers import tables_from
from . import rows_of

N, GROUPS, LAYERS, HEADS, STEPS = 40, 20, 6, 20, 8
BEFORE, BEHIND = KEYS.index("text before"), KEYS.index("text behind")
COUNTS = np.array([1.0, 4.0, 16.0, 8.0])


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    wrong = "" if holds else name
    return tables_of(
        image=0.9 if wrong == "text over image, per key" else 0.2,
        early=-0.1 if wrong == "the image early" else 0.1,
        opposed=wrong != "before against behind",
        see=wrong != "visual heads",
        forget=-0.5 if wrong == "the image is forgotten" else 0.5,
        taken=-0.1 if wrong == "opinions take attention away" else 0.1,
    )


def tables_of(
    *,
    image: float = 0.2,
    early: float = 0.1,
    opposed: bool = True,
    see: bool = True,
    forget: float = 0.5,
    taken: float = 0.1,
    neutral: float = 0.0,
    opinions: bool = True,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """image: the question's share on it without the first token, larger by early in the first layers. opposed: text
    before and behind go against each other. see: heads look or sink. forget: how far the lift falls over steps. taken,
    neutral: what a wrong opinion and a neutral sentence take.
    """
    rng = np.random.default_rng(seed)
    twin = np.zeros((N, LAYERS, HEADS, len(QUERIES), len(KEYS)))
    wave = np.sin(np.arange(LAYERS) * 2)[None, :, None, None]
    slope = np.linspace(early, -early, LAYERS)[None, :, None, None]
    twin[..., IMAGE] = np.clip(image + slope / 2 + 0.005 * rng.normal(size=(N, LAYERS, HEADS, 4)), 0.01, 0.98)
    rest = 1 - twin[..., IMAGE]
    part = 0.5 + 0.3 * wave
    twin[..., BEFORE] = rest * (part if opposed else 0.5 + 0 * wave)
    twin[..., BEHIND] = rest - twin[..., BEFORE]
    steep = np.linspace(0.0, 0.9, HEADS)  # heads that sink more, the more of the rest is the image
    looks = np.where(np.arange(HEADS) < 2, 0.5, 0.1) if see else 0.1 + 0.2 * steep
    drawn = looks[None, None, :, None] + (0.15 if see else 0.35) * rng.random((N, LAYERS, HEADS, 1))
    twin[..., IMAGE] = np.where(np.arange(4) == QUERIES.index("last"), drawn, twin[..., IMAGE])
    twin += 0.002 * rng.random(twin.shape)
    sink = np.broadcast_to((0.5 + 0 * steep if see else steep)[None, None, :, None], (N, 1, HEADS, 1))
    sink = np.clip(sink + (0.1 if see else 0.05) * rng.normal(size=(N, 1, HEADS, 1)), 0.0, 0.95)
    mass = twin * (1 - sink[..., None])
    mass[..., 0] = sink
    even = np.broadcast_to(COUNTS / COUNTS.sum(), (N, LAYERS, len(QUERIES), len(KEYS))).copy()
    fall = np.linspace(1 + forget, 1 - forget, STEPS) * 0.3
    neutral_twin = twin.mean(2)
    neutral_twin[..., BEFORE] = neutral_twin[..., BEHIND]
    share = mass.mean(2)[:, :, QUERIES.index("last"), IMAGE]
    noise = 0.003 * rng.normal(size=share.shape)
    values = {
        "mass": mass,
        "twin": twin,
        "uniform": even,
        "keys": np.tile(COUNTS, (N, 1)),
        f"mass|{ANOTHER}": mass.mean(2),
        f"twin|{ANOTHER}": twin.mean(2),
        f"mass|{NEUTRAL_TEXT}": mass.mean(2),
        f"twin|{NEUTRAL_TEXT}": neutral_twin,
        "steps": np.tile(fall, (N, LAYERS, 1)) + 0.002 * rng.normal(size=(N, LAYERS, STEPS)),
        "even steps": np.full((N, LAYERS, STEPS), 0.3),
        f"share|{WRONG}": share - taken + noise,
        f"share|{RIGHT}": share + 0.5 * noise,
        f"share|{NEUTRAL}": share - neutral - 0.5 * noise,
        **{f"said|{opinion}": np.tile([1.0, 0.0], (N, 1)) for opinion in ("", *OPINIONS)},
    }
    if not opinions:
        values = {name: rows for name, rows in values.items() if not name.startswith(("share|", "said|"))}
    return tables_from(modality, rows_of(values, GROUPS))

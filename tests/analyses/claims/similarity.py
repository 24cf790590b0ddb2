"""Planted rows of similarity: image and text that grow alike and share content, pages that meet in the middle."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.representations import similarity
from crosslens.analyses.representations._similarity_tested import NEARER, PAGES, RISES, SHARED
from crosslens.probes.runs.results import Rows

from ...helpers.makers import tables_from

N, STATES, WIDTH = 48, 8, 32
MIDDLE = (2, 3, 4, 5)
LANGUAGES = ("English", "French", "German")


def planted(name: str, holds: bool) -> dict[str, pd.DataFrame]:
    """Tables in which the claim of this name holds, or fails."""
    if name == RISES:
        return tables_of(alike=MIDDLE if holds else (0, 1))
    if name == SHARED:
        return tables_of(shared=(3,) if holds else (), against=() if holds else range(STATES))
    if name == NEARER:
        return tables_of(apart=0.5 if holds else -2.0)
    assert name == PAGES
    return pages_of(shared=MIDDLE if holds else (0, 1, 6, 7))


def tables_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(similarity, pictures(**planted))


def pages_of(**planted: Any) -> dict[str, pd.DataFrame]:
    return tables_from(similarity, texts(**planted))


def pictures(
    *,
    alike: Collection[int] = MIDDLE,
    shared: Collection[int] = (3,),
    against: Collection[int] = (),
    apart: float = 0.5,
    count: int = N,
    states: int = STATES,
) -> Rows:
    """Examples in as many groups. alike: states in which all images and texts have a direction in common. shared: in
    which an image and its text have one; against: in which they have opposite ones. apart: how much more texts have in
    common with texts (below 0: have not, but with images).
    """
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, count, states, WIDTH))
    common, of_texts, of_images = 4 * np.eye(WIDTH)[:3]
    content = 3 * rng.normal(size=(count, WIDTH))
    for state in range(states):
        image[:, state] += of_images + 2 * common * (state in alike)
        text[:, state] += apart * of_texts * 2 + 2 * common * (state in alike)
        image[:, state] += content * (state in shared or state in against)
        text[:, state] += content * ((state in shared) - float(state in against))
    if apart < 0:
        # images are one another's likeness, texts are like them, and like each other no more than by that
        image = 0.1 * image + 4 * common
        text = text - text @ of_texts[:, None] * of_texts / 16 + 2 * common
    return rows_with({"image": image, "text": text}, [f"g{i:03d}" for i in range(count)])


def texts(*, shared: Collection[int] = MIDDLE, count: int = N, paired: bool = True, labels: int = 3) -> Rows:
    """Pages in several languages, each with a direction of its own. shared: the states that hold the page. paired:
    whether languages have the same pages.
    """
    rng = np.random.default_rng(0)
    page, language = 2 * rng.normal(size=(count, WIDTH)), 4 * np.eye(WIDTH)[:labels]
    text = rng.normal(size=(labels, count, STATES, WIDTH)) + language[:, None, None]
    for state in shared:
        text[:, :, state] += page
    names = [f"g{i:03d}" if paired else f"{label}{i:03d}" for label in range(labels) for i in range(count)]
    told = np.repeat(LANGUAGES[:labels], count).tolist()
    return rows_with({"text": text.reshape(-1, STATES, WIDTH)}, names, label=told)


def rows_with(values: dict[str, np.ndarray], groups: list[str], **told: Any) -> Rows:
    ids = [f"e{i:03d}" for i in range(len(groups))]
    return Rows(pd.DataFrame({"id": ids, "group": groups, "condition": "no BOS", **told}), values)

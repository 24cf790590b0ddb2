"""Tables of `latent_lens`: how often each lens names what is there, from which layers the nearest words come, hubs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...probes.runs.results import How, Rows
from ..common.frames import joined, mean_of_present, summarise
from ..common.tested import nothing, number
from ..common.thumbnails import ASKED, first_of_groups, picture_table, unmapped
from ._latent_rows import (
    BACKGROUND,
    CENTRED,
    IMAGE,
    LATENT,
    LENSES,
    OTHER,
    OWN,
    RANDOM,
    SAME_WORDS,
    SHUFFLED,
    VOCABULARY,
)

NAMES_MORE, MOST, MIDDLE = "context names more", "most tokens named", "inputs at middle layers"
CONTROLS = {
    SHUFFLED: "shuffled image tokens",
    IMAGE: "words for another picture",
    RANDOM: "random vectors like the states",
    OTHER: "other things' tokens",
    BACKGROUND: "background",
}
WITHOUT = "no thing is known whose colour or shape is a word of the bank"


def states_of(how: How, count: int) -> list[int]:
    """The states read: the first, the bank's, the last. The last layer's output has the number behind its input's."""
    layers = how.learned.layers
    return [0, *layers, layers[-1] + 1][:count]


def _named(rows: Rows, how: How) -> pd.DataFrame | None:
    """lens, control: the shares at an object's own tokens, and what controls them."""
    if np.isnan(rows[f"named|{LATENT}|{OWN}"]).all():
        return None
    return joined(_shares(rows, how))


def _shares(rows: Rows, how: How) -> Iterator[pd.DataFrame]:
    for lens in LENSES:
        for place, control in {OWN: "", **CONTROLS}.items():
            name = f"named|{lens}|{place}"
            if name in rows.values:
                values = rows[name]
                axes = {"state": states_of(how, values.shape[1])}
                yield summarise(values, rows.examples["group"], axes, "share", control=control, lens=lens)


def _layers(rows: Rows, how: How) -> pd.DataFrame:
    """Share of image tokens whose nearest word is of each of the bank's layers, and of random vectors."""
    frames = []
    for name, control in (("layer", ""), ("random layer", CONTROLS[RANDOM])):
        shares = _of_layers(rows[name], len(how.learned.layers))
        axes = {"state": states_of(how, shares.shape[1]), "word_layer": list(how.learned.layers)}
        frames.append(summarise(shares, rows.examples["group"], axes, "share", control=control))
    return joined(frames)


def _of_layers(layer: np.ndarray, count: int) -> np.ndarray:
    """[n, states, tokens] indices, NaN for none -> [n, states, count] shares."""
    return np.stack([_share(layer, layer == i) for i in range(count)], -1)


def _share(present: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of the tokens that are there, those of which it is true: over the last axis."""
    return mean_of_present(np.where(np.isnan(present), np.nan, true.astype(float)))


def _hubs(rows: Rows, how: How) -> pd.DataFrame:
    """The share of the word that is said most often at a state in all pictures, of each lens; of its own word, so that
    what is not among the bank's words counts as one.
    """
    frames = []
    for lens, control in ((LATENT, ""), (LATENT, CONTROLS[RANDOM]), (CENTRED, ""), (SAME_WORDS, ""), (VOCABULARY, "")):
        said = rows["vocabulary"] if lens == VOCABULARY else rows[f"said|{RANDOM if control else lens}"]
        shares = np.stack([_share(one, one == _commonest(one)) for one in np.moveaxis(said, 1, 0)], 1)
        axes = {"state": states_of(how, shares.shape[1])}
        frames.append(summarise(shares, rows.examples["group"], axes, "share", control=control, lens=lens))
    return joined(frames)


def _commonest(said: np.ndarray) -> float:
    values, counts = np.unique(said[~np.isnan(said)], return_counts=True)
    return float(values[counts.argmax()]) if len(values) else np.nan


def _nearness(rows: Rows, how: How) -> pd.DataFrame:
    """Cosine of the nearest word, and how far it is before the next word."""
    axes = {"state": states_of(how, rows["cosine"].shape[1])}
    groups = rows.examples["group"]
    return joined(summarise(rows[name], groups, axes, "cosine", measure=name) for name in ("cosine", "margin"))


def _words(rows: Rows, how: How) -> pd.DataFrame:
    """The words of the first examples, of the contextual and of the vocabulary lens."""
    chosen = first_of_groups(rows, how.options.shown)
    columns = rows["grid"][chosen, 1]
    frames = []
    for lens, ids, values in (
        (LATENT, rows["ids"][chosen], rows["values"][chosen]),
        (VOCABULARY, rows["vocabulary"][chosen][..., None], rows["vocabulary"][chosen][..., None] * np.nan),
    ):
        example, state, place, rank = (axis.ravel() for axis in np.indices(ids.shape))
        width, cell = np.where(columns > 0, columns, np.nan)[example], rows["cell"][chosen][example, place]
        names: dict[str, Any] = {"example": rows.examples["id"].to_numpy()[chosen][example], "place": place}
        names |= {"state": np.array(states_of(how, ids.shape[1]))[state], "row": cell // width, "column": cell % width}
        names |= {"rank": rank + 1, "lens": lens, "value": values.ravel(), "unit": "cosine" if lens == LATENT else ""}
        there = ~np.isnan(ids.ravel())
        frame = pd.DataFrame(names)[there]
        frames.append(frame.assign(token=rows.words(ids.ravel()[there].astype(int))))
    return pd.concat(frames, ignore_index=True)


def _pictures(rows: Rows, how: How) -> pd.DataFrame:
    return picture_table(rows, first_of_groups(rows, how.options.shown))


def _unmapped(rows: Rows, how: How) -> pd.DataFrame | None:
    return unmapped(rows)


def _tested(rows: Rows, how: How) -> pd.DataFrame:
    groups = rows.examples["group"]
    # State 0 is what the projector puts in, no layer's work.
    mean = {name: mean_of_present(value[:, 1:], 1) for name, value in rows.values.items() if name.startswith("named|")}
    own = mean[f"named|{LATENT}|{OWN}"]
    if np.isnan(own).all():
        return pd.concat([nothing(NAMES_MORE, WITHOUT), nothing(MOST, WITHOUT), _middle(rows, how)], ignore_index=True)
    ahead, shuffled = (mean[f"named|{LATENT}|{p}"] - mean[f"named|{VOCABULARY}|{p}"] for p in (OWN, SHUFFLED))
    same = own - mean[f"named|{SAME_WORDS}|{OWN}"]
    parts = [
        number(NAMES_MORE, ahead, groups, "share"),
        number(NAMES_MORE, same, groups, "share", than=SAME_WORDS),
        number(NAMES_MORE, ahead - shuffled, groups, "share", than=CONTROLS[SHUFFLED]),
        number(MOST, own, groups, "share"),
    ]
    for place in (SHUFFLED, IMAGE, RANDOM):
        other = mean[f"named|{LATENT}|{place}"]
        if not np.isnan(other).all():
            parts.append(number(MOST, own - other, groups, "share", than=CONTROLS[place]))
    return pd.concat([*parts, _middle(rows, how)], ignore_index=True)


def _middle(rows: Rows, how: How) -> pd.DataFrame:
    """At state 0, the share of nearest words from the middle half of the layers, beside random vectors'."""
    layers = np.array(how.learned.layers)
    n = layers[-1] + 1
    inside = (layers >= n / 4) & (layers <= 3 * n / 4)
    if not inside.any():
        return nothing(MIDDLE, "the bank has no layer of the middle half")
    shares = [_of_layers(rows[name][:, :1], len(layers))[:, 0, inside].sum(-1) for name in ("layer", "random layer")]
    groups = rows.examples["group"]
    own = number(MIDDLE, shares[0], groups, "share")
    return pd.concat([own, number(MIDDLE, shares[0] - shares[1], groups, "share", than=CONTROLS[RANDOM])])


TABLES = {
    "named": (_named, ("lens",)),
    "tested": (_tested, ("claim", "than", "untestable")),
    "layers": (_layers, ("word_layer",)),
    "hubs": (_hubs, ("lens",)),
    "nearness": (_nearness, ("measure",)),
}
RUN_TABLES = {
    "words": (_words, ("example", "state", "place", "row", "column", "rank", "lens", "value", "token", "unit")),
    "pictures": (_pictures, ("example", *ASKED, "png")),
    "unmapped": (_unmapped, ("why",)),
}

"""What is shown of a question about pictures, as plain data."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...data.tokens import labels
from ...probes.prompts.batch import Batch
from ...probes.prompts.geometry.views import Picture
from .asking import Asked
from .maps import OF_HEADS, by_layer, lens_words, token_maps
from .observing import Seen, numbered, observe

SIDE = 512  # px of the longer side of a picture on the page


def of_pictures(
    subject: Any,
    question: str,
    images: Sequence[Image.Image],
    asked: Asked,
    general: str,
    *,
    heads: int,
    states: int,
    k: int,
) -> dict[str, Any]:
    """The content of a look at pictures. states: of the lens, evenly over the second half, besides the last; k: heads
    of a layer in T-VHD.
    """
    batch, n = asked.prompts, subject.n_layers
    chosen = sorted({n // 2 + (n - n // 2) * i // states for i in range(states)} - {n})
    each = int(batch.where("answer")[0].sum()) * int(batch.where("patches")[0].sum())
    room = max(1, OF_HEADS // (len(batch.examples) * each))
    seen = observe(subject, batch, heads=min(heads, room), states=chosen, k=k)
    words = lens_words(subject, seen)
    return {
        "kind": "image",
        **_said(subject, question, asked, general, k),
        "tokens": _tokens(subject, batch, seen),
        "pictures": _pictures(images, batch, seen),
        "unknown": batch.geometry[0].unknown,
        "counted": seen.cells.shape[1],
        "maps": [one._asdict() for one in (*by_layer(seen), token_maps(subject, batch, seen))],
        "heads": {**_heads(seen), "full": heads > room},
        "layers": _layers(seen),
        "sinks": _sinks(seen),
        "lens": words._asdict(),
    }


def _said(subject: Any, question: str, asked: Asked, general: str, k: int) -> dict[str, Any]:
    named = {"name": subject.name, "n_layers": subject.n_layers, "n_heads": subject.n_heads, "family": subject.family}
    dtype = str(subject.dtype).removeprefix("torch.")
    return {
        "subject": {**named, "dtype": dtype},
        "question": question,
        "answer": asked.answer,
        "given": asked.given,
        "cut": asked.cut,
        "same": asked.same,
        "general": general,
        "template": str(asked.prompts.form["template"]),
        "k": k,
    }


def _tokens(subject: Any, batch: Batch, seen: Seen) -> list[dict[str, Any]]:
    """Of each answer token: its text, probability, T-VHD and share of attention on the pictures, with controls.

    uniform: the share where all visible tokens are looked at alike.
    """
    ids = batch.inputs["input_ids"][0, seen.places[0] + 1]
    shares, probability = seen.shares.mean((1, 2)), seen.log_p.exp()
    before = seen.places[0] - batch.start[0] + 1
    columns = {
        "probability": probability[0],
        "probability_blank": probability[1],
        "vhd": seen.vhd[0],
        "vhd_general": seen.vhd[1],
        "share": shares[0],
        "share_general": shares[1],
        "share_blank": shares[2],
        "uniform": seen.cells.shape[1] / before,
    }
    texts = labels(subject.tokenizer, ids)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [{"text": text, **dict(zip(columns, row, strict=True))} for text, row in zip(texts, rows, strict=True)]


def _layers(seen: Seen) -> list[dict[str, Any]]:
    """The share of attention on the pictures by layer, mean over heads and answer tokens."""
    shares = seen.shares.mean((2, 3)).T.tolist()
    return [
        {"layer": layer, "share": a, "general": g, "blank": b}
        for layer, (a, g, b) in zip(seen.layers, shares, strict=True)
    ]


def _heads(seen: Seen) -> dict[str, Any]:
    """rows: layer, head and image shares, mean over the answer's tokens; maps: prompt -> [t, head, c]."""
    rows = []
    for one in seen.heads:
        asked, general, blank = one.shares.mean(-1).tolist()
        where = {"layer": one.head[0], "head": one.head[1]}
        rows.append({**where, "share": asked, "general": general, "blank": blank, "gain": one.gain})
    stacked = np.stack([one.maps.float().numpy() for one in seen.heads], 2)
    return {"rows": rows, "maps": dict(zip(("asked", "general", "blank"), stacked, strict=True))}


def _sinks(seen: Seen) -> dict[str, Any]:
    """cells: numbers of the image tokens that are sinks at the middle state; tau: None without massive dimensions."""
    if seen.phi is None or seen.tau is None:
        return {"tau": None, "cells": []}
    inside = seen.phi[seen.cells[0].cpu()]
    return {"tau": seen.tau, "cells": (inside >= seen.tau).nonzero()[:, 0].tolist()}


def _pictures(images: Sequence[Image.Image], batch: Batch, seen: Seen) -> list[dict[str, Any]]:
    """Of each picture: what its map lies over, and the map's cells as numbers of image tokens; of a picture whose
    geometry is not known, the whole of it and no cells.
    """
    known: Sequence[Picture | None] = batch.geometry[0].pictures or [None] * len(images)
    grids = [grid.tolist() for grid in numbered(batch, seen.cells, 0)] or [[] for _ in images]
    found = []
    for image, picture, cells in zip(images, known, grids, strict=True):
        shown = image if picture is None else picture.cut(image)
        found.append({"image": _data_address(shown), "width": shown.width, "height": shown.height, "cells": cells})
    return found


def _data_address(image: Image.Image) -> str:
    """The picture as an address, small ones as PNG, large ones shrunk to SIDE as JPEG."""
    file, large = io.BytesIO(), max(image.size) > SIDE // 2
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    small.save(file, "JPEG" if large else "PNG", **({"quality": 88} if large else {}))
    return f"data:image/{'jpeg' if large else 'png'};base64,{base64.b64encode(file.getvalue()).decode()}"

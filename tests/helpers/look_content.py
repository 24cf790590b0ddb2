"""Invented looks of any shape, as `crosslens.look` gives them: for pages and their weight."""

from __future__ import annotations

from typing import Any

import numpy as np
from crosslens.analyses.look.pictures import _data_address
from PIL import Image

NAMED = {"name": "a <b>model</b>", "n_layers": 2, "n_heads": 2, "family": "tiny", "dtype": "float32"}


def of_pictures(
    tokens: list[str], layers: list[str], side: int, heads: int = 3, question: str = "What is it?", unknown: str = ""
) -> dict[str, Any]:
    """A look at one picture of side × side image tokens; values are noise, which no compression makes lighter."""
    rng, cells, t = np.random.default_rng(0), side * side, len(tokens)

    def values(levels: int, *sides: str) -> dict[str, np.ndarray]:
        return {name: rng.random((t, levels, cells)) for name in sides}

    every = ("asked", "general", "blank")
    names = (
        "probability",
        "probability_blank",
        "vhd",
        "vhd_general",
        "share",
        "share_general",
        "share_blank",
        "uniform",
    )
    photo = Image.fromarray(rng.integers(0, 256, (672, 672, 3), np.uint8))
    grid = np.arange(cells).reshape(side, side).tolist()
    picture = {"image": _data_address(photo), "width": 672, "height": 672, "cells": [] if unknown else grid}
    words = [[[f"w{rng.integers(9999)}", "</script>"] for _ in range(cells)] for _ in range(4)]
    return {
        **{"kind": "image", "subject": NAMED, "question": question, "answer": "".join(tokens), "given": False},
        **{
            "cut": True,
            "same": True,
            "general": "Describe.",
            "template": "chat",
            "k": 4,
            "counted": cells,
            "unknown": unknown,
        },
        "tokens": [{"text": text, **dict.fromkeys(names, float(rng.random()))} for text in tokens],
        "pictures": [picture],
        "maps": [
            {"key": "attention", "levels": layers, "values": values(len(layers), *every)},
            {"key": "relative", "levels": layers, "values": values(len(layers), "asked", "blank")},
            {"key": "carried", "levels": layers, "values": values(len(layers), *every)},
            {"key": "tam", "levels": [""], "values": values(1, "asked", "blank")},
        ],
        "heads": {
            "full": True,
            "rows": [
                {"layer": i, "head": 0, "share": 0.5, "general": 0.4, "blank": 0.1, "gain": 0.4} for i in range(heads)
            ],
            "maps": values(heads, *every),
        },
        "layers": [{"layer": i, "share": 0.5, "general": 0.4, "blank": 0.1} for i in range(len(layers))],
        "sinks": {"tau": 12.0, "cells": [0]},
        "lens": {"states": [1, 2, 3, 4], "words": words, "probability": rng.random((4, cells, 2))},
    }

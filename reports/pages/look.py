"""The page of one look: pictures with maps over them, or one text with its attention, in a file that stands alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from plotly.colors import get_colorscale
from plotly.offline import get_plotlyjs

from ..charts.style import SIGNED, UNSIGNED
from ..figures.look import figures
from .blocks import figure_block, packed, rounded, unique_slugs
from .files import write_file
from .glossary import explained
from .words import environment, portable

# Key of a way of asking -> its name, its unit, and what it says, for a reader who knows none of these words.
WAYS = {
    "attention": (
        "Attention",
        "share of attention",
        "How much of their attention the model's heads give to each part of the picture when they choose the word.",
    ),
    "relative": (
        "Attention, relative to a general question",
        "times the general question's",
        "The same, divided by what a general question about the picture gets: places that are always looked at fade, "
        "what this question adds stays (arXiv 2502.17422, with a small addend).",
    ),
    "carried": (
        "Attention × what it carries",
        "share × norm",
        "Attention times the size of what the head would bring from there: looking at a place that has nothing to say "
        "counts little (norm-based, arXiv 2004.10102-style).",
    ),
    "tam": (
        "What the place itself says of the word",
        "logits",
        "How strongly the last state at each part of the picture speaks for the word, less what it says of the words "
        "before (token activation map, arXiv 2506.23270). No attention is involved.",
    ),
}
SIDES = {
    "asked": "this question",
    "general": "a general question",
    "blank": "a plain grey picture",
}


# Words of the glossary that the pages use; they are explained at their foot, since such a page stands alone.
WORDS = ("attention", "head", "layer", "image token", "general question", "grey picture", "T-VHD", "relative attention")
WORDS += ("TAM", "sink", "state", "logit lens", "logit", "token")
WORDS_OF_TEXTS = ("attention", "head", "layer", "token", "logit", "direct logit attribution", "logit lens", "state")
HEIGHT = 760  # px, in Jupyter


def save(content: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a look; beside the page of a text lies plotly.min.js, that of pictures needs nothing."""
    if content["kind"] == "text":
        write_file(path.parent / "plotly.min.js", get_plotlyjs().encode())
    write_file(path, render(content).encode())
    return path


def inline(content: Mapping[str, Any]) -> str:
    """The page for Jupyter, in a frame of its own that asks nothing of the network; of a text without the figures that
    plotly draws, which `Look.figures` has.
    """
    page = _render_text(content, drawn={}) if content["kind"] == "text" else render(content)
    frame = f'style="width: 100%; height: {HEIGHT}px; border: 1px solid #ccc" title="{escape(content["question"])}"'
    return f'<iframe sandbox="allow-scripts" {frame} srcdoc="{escape(page)}"></iframe>'


def render(content: Mapping[str, Any]) -> str:
    """The HTML of a look."""
    if content["kind"] == "text":
        return _render_text(content, figures(content))
    data = {name: content[name] for name in ("tokens", "layers", "sinks", "unknown")}
    data["pictures"] = [{"cells": picture["cells"]} for picture in content["pictures"]]
    data |= {"colours": _colours(), "sides": SIDES}
    data["maps"] = [_way(one) for one in content["maps"]]
    heads = content["heads"]
    data["heads"] = {"rows": heads["rows"], "values": {side: eight_bits(x) for side, x in heads["maps"].items()}}
    data["lens"] = _lens(content["lens"])
    page = environment().get_template("look.html")
    return page.render(look=content, words=explained(WORDS), json=_json(data))


def _render_text(content: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    slugs = unique_slugs(drawn)
    blocks = [figure_block(slugs[name], figure, None) for name, figure in drawn.items()]
    kept = {name: content[name] for name in ("tokens", "heads", "levels", "listed", "answer")}
    data = {**kept, "colours": _colours(), "beside": content["beside"]}
    data |= {name: eight_bits(content[name]) for name in ("patterns", "means")}
    page = environment().get_template("look_text.html")
    return page.render(look=content, figures=blocks, words=explained(WORDS_OF_TEXTS), json=_json(data))


def _json(data: Any) -> str:
    return packed(json.dumps(rounded(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _colours() -> dict[str, Any]:
    return {"signed": get_colorscale(SIGNED), "unsigned": get_colorscale(UNSIGNED)}


def _way(one: Mapping[str, Any]) -> dict[str, Any]:
    title, unit, says = WAYS[one["key"]]
    told = {"key": one["key"], "title": title, "unit": unit, "says": says, "levels": one["levels"]}
    return {**told, "values": {side: eight_bits(values) for side, values in one["values"].items()}}


def _lens(lens: Mapping[str, Any]) -> dict[str, Any]:
    """Words as numbers in a list of all words: the same ones come at many places."""
    every = sorted({word for state in lens["words"] for cell in state for word in cell})
    number = {word: i for i, word in enumerate(every)}
    words = [[[number[word] for word in cell] for cell in state] for state in lens["words"]]
    return {
        "states": lens["states"],
        "vocabulary": every,
        "words": words,
        "values": eight_bits(lens["probability"][..., 0]),
    }


def eight_bits(values: np.ndarray) -> dict[str, Any]:
    """Values ≥ 0 [..., c] in 8 bits, in base64 (the page's JSON is deflated as a whole): value = scale · (byte / 255)²,
    scale the largest of its c.

    The square keeps small values apart beside a large one: what comes back is off by at most a half step,
    scale · (√(value / scale) / 255 + 1 / 255² / 4), and NaN is 0.
    """
    known = np.nan_to_num(np.asarray(values, np.float64)).clip(min=0)
    scale = known.max(-1, initial=0.0)
    share = known / np.where(scale > 0, scale, 1.0)[..., None]
    whole = np.rint(np.sqrt(share) * 255).astype(np.uint8)
    text = base64.b64encode(whole.tobytes()).decode()
    return {"shape": list(known.shape), "scale": scale.ravel().tolist(), "bytes": text}


def file_name(question: str) -> str:
    """ "What colour is the circle?" -> "look-what-colour-is-the-circle.html" """
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in portable(question).lower()).split()
    return f"look-{'-'.join(words)[:60].strip('-') or 'prompt'}.html"

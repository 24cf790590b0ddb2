"""Figures of one look, for a notebook: maps over the pictures, the answer's words, layers and heads; or one text."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from ..charts import captioned, dots, heat_map, lines, picture_maps, shaded_words
from . import lenses, logit_attribution

ONE = "n\u00a0=\u00a01: an illustration."
SIDES = {"share": "", "general": "a general question", "blank": "a plain grey picture"}


def figures(content: Mapping[str, Any]) -> dict[str, go.Figure]:
    """Every figure of a look by name."""
    return _of_text(content) if content["kind"] == "text" else _of_pictures(content)


def _of_pictures(content: Mapping[str, Any]) -> dict[str, go.Figure]:
    tokens, heads = pd.DataFrame(content["tokens"]), pd.DataFrame(content["heads"]["rows"])
    drawn = {} if content["unknown"] else {"map": _map(content)}
    where = "attention on the pictures"
    drawn["words"] = _told(
        _words(tokens, "share", where), "Attention on the pictures, word by word", "Mean over heads."
    )
    by = f"The sum over layers of the {content['k']} largest changes of a head's output without the picture."
    drawn["t_vhd"] = _told(_words(tokens, "vhd", "norm of z, summed"), "T-VHD, word by word", by)
    rows = _sides(pd.DataFrame(content["layers"]), ["layer"])
    drawn["layers"] = _told(
        lines(rows, "layer", y_title=where), "Attention on the pictures by layer", "Mean over heads."
    )
    names = heads["layer"].astype(str) + "." + heads["head"].astype(str)
    rows = _sides(heads.assign(name=names), ["name"])
    drawn["heads"] = _told(
        dots(rows, "name", x_title=where), "The heads that turn to the pictures", "Ranked by the gain."
    )
    return drawn


def _sides(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row for each side, the controls named."""
    long = frame.melt(keys, list(SIDES), var_name="side", value_name="value")
    return long.assign(control=long["side"].map(SIDES), unit="share of attention", n=1)


def _words(tokens: pd.DataFrame, column: str, unit: str) -> go.Figure:
    rows = {"example": "answer", "position": range(len(tokens)), "token": tokens["text"], "value": tokens[column]}
    return shaded_words(pd.DataFrame(rows), unit=unit)


def _map(content: Mapping[str, Any]) -> go.Figure:
    """Attention on each picture with this question, mean over words, layers and heads; sinks framed."""
    values = next(m for m in content["maps"] if m["key"] == "attention")["values"]["asked"].mean((0, 1))
    sinks, cells, shown = set(content["sinks"]["cells"]), [], []
    for number, picture in enumerate(content["pictures"], start=1):
        name = f"picture {number}"
        shown.append({"example": name, "png": _png(picture["image"])})
        for row, line in enumerate(picture["cells"]):
            for column, cell in enumerate(line):
                at = {"example": name, "row": row, "column": column}
                cells.append({**at, "value": float(values[cell]), "sink": cell in sinks})
    unit = "share of attention"
    figure = picture_maps(pd.DataFrame(cells), pd.DataFrame(shown), flag="sink", unit=unit)
    return _told(figure, "Attention on the picture", "Mean over words, layers and heads; framed: sink tokens.")


def _png(address: str) -> str:
    """The picture of a data address as PNG in base64."""
    kind, _, text = address.partition(";base64,")
    if kind == "data:image/png":
        return text
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(text))).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _of_text(content: Mapping[str, Any]) -> dict[str, go.Figure]:
    drawn = lenses.figures({"grid": content["grid"]}) | logit_attribution.figures(content["logits"])
    return {"pattern": _pattern(content), **drawn}


def _pattern(content: Mapping[str, Any]) -> go.Figure:
    """The head that writes most to the answer: who reads whom."""
    head, n = content["heads"][0], len(content["tokens"])
    row = content["patterns"][0]
    pairs = [(q, k) for q in range(n) for k in range(q + 1)]
    frame = pd.DataFrame(pairs, columns=["query", "key"]).assign(value=row, unit="share of attention", n=1)
    title = f"Attention of head {head['layer']}.{head['head']}"
    return _told(heat_map(frame, "key", "query"), title, "Of the heads the one that writes most to the answer's logit.")


def _told(figure: go.Figure, title: str, seen: str) -> go.Figure:
    return captioned(figure, title, f"{seen} {ONE}", "look", seen=seen, sample=ONE)

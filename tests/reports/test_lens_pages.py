"""The pages of the lens analyses, from small tables."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from crosslens.reports.figures import group_lens, image_lens, learned_lenses, logit_attribution
from PIL import Image

LAYERS, HEADS = 4, 3
BASE = {"condition": "BOS", "control": "", "n": 8, "n_groups": 4}


def spread(frame: pd.DataFrame, unit: str, **more) -> pd.DataFrame:
    return frame.assign(**BASE, unit=unit, lower=frame["value"] - 0.1, upper=frame["value"] + 0.1, **more)


def attribution_tables() -> dict[str, pd.DataFrame]:
    layer, head = (axis.ravel() for axis in np.indices((LAYERS, HEADS)))
    effects = pd.DataFrame({"layer": layer, "head": head, "value": np.linspace(-1, 2, LAYERS * HEADS)})
    words = pd.DataFrame(
        [
            {"layer": a, "head": b, "prompt": p, "rank": r, "example": f"e{p}", "value": 3.0 - r}
            | {"token": f" <b>{a}.{b}.{p}.{r}"}
            for a, b in zip(layer, head, strict=True)
            for p in (1, 2)
            for r in (1, 2)
        ]
    )
    ov = pd.concat(
        [
            words[words["prompt"] == 1].drop(columns="example").assign(side=side, direction=1, unit="arbitrary")
            for side in ("reads", "promotes")
        ]
    )
    chosen = effects.tail(3).reset_index(drop=True)
    parts = pd.DataFrame({"layer": range(LAYERS), "value": 0.5, "part": "MLP"})
    return {
        "heads": pd.concat([spread(effects, "logits", measure=m) for m in ("answer", "difference")]),
        "parts": pd.concat([spread(parts, "logits", measure=m) for m in ("answer", "difference")]),
        "top": spread(chosen, "logits", measure="difference", rank=[1, 2, 3]),
        "words": words.assign(condition="BOS", unit="logits", n=8, n_groups=4),
        "ov": ov,
        "copying": effects.assign(unit="copying score"),
    }


def test_figures_of_attribution():
    tables = attribution_tables()
    drawn = logit_attribution.figures(tables)
    names = ["heads-difference", "top", "words", "parts-difference", "heads-answer", "parts-answer", "copying"]
    assert list(drawn) == names
    z = np.array(drawn["heads-difference"].data[0].z)
    assert z[0, 0] == -1
    assert z[-1, -1] == 2
    assert drawn["heads-difference"].data[0].zmid == 0
    assert drawn["copying"].data[0].zmax == 1
    one = {
        "heads": tables["heads"].query("measure == 'answer'").assign(measure="logit of ' Paris'"),
        "parts": tables["parts"].query("measure == 'answer'").assign(measure="logit of ' Paris'"),
    }
    assert list(logit_attribution.figures(one)) == ["one-heads", "one-parts"]


def test_figures_of_learned_lenses():
    states = pd.DataFrame({"state": range(5), "value": [4.0, 3, 2, 1, 0]})
    kl = [spread(states, "nats", lens=lens, measure="kl") for lens in ("logit lens", "tuned lens")]
    control = spread(states, "nats", lens="constant", measure="kl").assign(control="the corpus's mean output")
    top = spread(states, "share", lens="logit lens", measure="top1")
    heads = pd.DataFrame({"layer": [1, 2], "value": [2.0, 3.0]})
    tables = {
        "kl": pd.concat([*kl, control, top], ignore_index=True),
        "heads": pd.concat(
            [spread(heads, "nats", lens=lens) for lens in ("Attention Lens", "no norm")], ignore_index=True
        ),
        "bias": pd.concat(
            [spread(states, "nats", lens=lens) for lens in ("logit lens", "tuned lens")], ignore_index=True
        ),
    }
    drawn = learned_lenses.figures(tables)
    assert list(drawn) == ["kl", "top1", "heads", "bias"]
    assert {t.name for t in drawn["kl"].data if t.showlegend} >= {"logit lens", "tuned lens"}
    assert "95" in drawn["kl"].layout.meta["caption"]


def test_figures_of_groups():
    states = pd.DataFrame({"state": range(3), "value": [0.1, 0.2, 0.3]})
    groups = [
        spread(states, "probability", group=group, subset=subset).assign(control=control)
        for group in ("English", "German")
        for subset in ("all", "French to German", "German to French")
        for control in ("", "random tokens")
    ]
    tables = {"groups": pd.concat(groups), "kl": spread(states, "nats", subset="all")}
    assert list(group_lens.figures(tables)) == ["groups", "subsets", "kl"]


def test_words_lie_over_their_pictures_with_a_slider_over_states():
    file = io.BytesIO()
    Image.new("RGB", (84, 84), "red").save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    state, row, column = (axis.ravel() for axis in np.indices((3, 2, 2)))
    grid = pd.DataFrame({"state": state, "row": row, "column": column, "rank": 1})
    grid = grid.assign(value=0.5, token=[f"<w{i}>" for i in range(12)])
    both = pd.concat([grid.assign(example="e"), grid.assign(example="f")])
    asked = {"example": ["e", "f"], "png": [png] * 2, "question": ["What <colour>?", ""], "answer": [" red", ""]}
    (figure,) = image_lens.figures({"grid": both, "pictures": pd.DataFrame(asked)}).values()
    assert [note.text for note in figure.layout.annotations] == ["What &lt;colour&gt;? → red", "f"]
    assert [trace.visible for trace in figure.data] == [False, False, False, False, True, True]  # the last state
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "1", "2"]
    assert list(steps[2].args[1]) == [False] * 4 + [True] * 2
    assert figure.data[1].text[0] == "&lt;w0&gt;"
    assert figure.layout.yaxis.scaleanchor == "x"
    for image, button in zip(figure.layout.images, figure.layout.updatemenus[0].buttons, strict=True):
        assert image.source.endswith(png)
        assert button.args[0]["xaxis.range"] == [image.x, image.x + image.sizex]
        assert image.sizex == image.sizey == 2

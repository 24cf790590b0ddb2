"""What is shown of one text: who attends to whom in every head, the lens grid, and what writes the next token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...data.errors import UserError
from ...data.example import Example, is_single_token
from ...data.tokens import labels
from ...probes.observe.tracing import Layer, tracing
from ...probes.prompts.batch import Batch
from ..lenses import lenses, logit_attribution
from .asking import usual_form

LIKELY = 8  # words among which the likeliest other one is looked for
BUDGET = 4_000_000  # attention values on the page, a byte each
Head = tuple[int, int]


def of_text(
    subject: Any, example: Example, answer: str, template: str | None, bos: bool | None, heads: int
) -> dict[str, Any]:
    """The content of a look at a text. answer: the one token that is asked about, by default the likeliest next one.

    heads: how many are listed. UserError: a text that is too long for a page, an answer that is not one token.
    """
    form = template or usual_form(subject, example)
    batch = subject.batch([example], template=form, bos=bos)
    n = int(batch.mask.sum())
    if 4 * _size(n) > BUDGET:
        most = int((BUDGET / 2) ** 0.5)
        raise UserError(f"the text has {n} tokens, a page of its attention holds {most}: shorten it")
    logits = logit_attribution.show(subject, batch, logit_attribution.Options(token=answer))
    grid = lenses.show(subject, batch, lenses.Options())["grid"]
    rows = logits["heads"].dropna(subset=["value"])
    rows = rows.iloc[np.argsort(-rows["value"].abs().to_numpy(), kind="stable")]
    kept, layers, means = _patterns(subject, batch, rows)
    said = _said(subject, example, batch, logits)
    other, beside = _another(subject, batch, said["answer"])
    shown = [
        {"layer": (layer := int(r["layer"])), "head": (head := int(r["head"])), "logit": r["value"]}
        | {"beside": beside.get((layer, head))}
        for r in rows.to_dict("records")
    ]
    return {
        "kind": "text",
        **said,
        "heads": shown[: len(kept)],
        "beside": other,
        "listed": heads,
        "all_heads": len(shown),
        "levels": layers,
        "patterns": kept,
        "means": means,
        "grid": grid,
        "logits": logits,
    }


def _another(subject: Any, batch: Batch, answer: str) -> tuple[str, dict[Head, float]]:
    """The likeliest other word that is one token, as the page writes it, and what each head adds to its logit: what a
    head adds to any likely word. "" and nothing where there is none.
    """
    for token in subject.last_logits(batch)[0].topk(LIKELY).indices.tolist():
        text = subject.tokenizer.decode([token])
        if text.strip() and is_single_token(subject.tokenizer, text):
            found = logit_attribution.show(subject, batch, logit_attribution.Options(token=text))["heads"]
            name = str(found["measure"].iloc[0]).removeprefix("logit of ")
            if name != answer:
                places = zip(found["layer"].astype(int), found["head"].astype(int), strict=True)
                return name, dict(zip(places, found["value"].astype(float), strict=True))
    return "", {}


def _said(subject: Any, example: Example, batch: Batch, logits: dict[str, pd.DataFrame]) -> dict[str, Any]:
    ids = batch.inputs["input_ids"][0, batch.mask[0]]
    named = {"name": subject.name, "n_layers": subject.n_layers, "n_heads": subject.n_heads, "family": subject.family}
    return {
        "subject": {**named, "dtype": str(subject.dtype).removeprefix("torch.")},
        "question": example.text,
        "answer": str(logits["heads"]["measure"].iloc[0]).removeprefix("logit of "),
        "template": str(batch.form["template"]),
        "tokens": [{"text": text} for text in labels(subject.tokenizer, ids)],
    }


def _size(n: int) -> int:
    """Cells of a causal map of n tokens."""
    return n * (n + 1) // 2


@torch.no_grad()
def _patterns(subject: Any, batch: Batch, rows: pd.DataFrame) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The lower triangles, row by row, of the strongest heads that the budget has room for [head, cells], in the order
    of `rows`, and the mean over the heads of each band of layers [band, cells] with the bands' names.
    """
    cells, layers = _size(int(batch.mask.sum())), subject.decoder.attending
    width = max(1, -(-4 * len(layers) * cells // BUDGET))
    count = max(1, (BUDGET - -(-len(layers) // width) * cells) // cells)
    order: list[Head] = [(int(a), int(b)) for a, b in rows[["layer", "head"]].head(count).to_numpy()]
    found: dict[Head, np.ndarray] = {}
    means: list[Tensor] = []

    def keep(layer: Layer) -> None:
        if not layer.attends:
            return
        whole = layer.pattern()[0][:, batch.mask[0]][:, :, batch.mask[0]]
        query, key = torch.tril_indices(*whole.shape[1:], device=whole.device)
        means.append(whole.mean(0)[query, key].cpu())
        for head in (head for index, head in order if index == layer.index):
            found[layer.index, head] = whole[head, query, key].half().cpu().numpy()

    with tracing(subject, keep):
        subject.forward(batch)
    bands = [means[i : i + width] for i in range(0, len(means), width)]
    names = [layers[i : i + width] for i in range(0, len(layers), width)]
    said = [f"layer {part[0]}" if len(part) == 1 else f"layers {part[0]}–{part[-1]}" for part in names]
    return np.stack([found[one] for one in order]), said, torch.stack([torch.stack(b).mean(0) for b in bands]).numpy()

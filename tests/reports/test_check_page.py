"""The page of a checked subject: where each proof, and each layer, came closest to failing."""

from __future__ import annotations

import math

import pandas as pd
from crosslens.reports.pages.checks import by_layer, check_page, summary

SUM, HALF, EDIT = "parts sum to the residual", "a layer computes what it does in float32", "an edit moves the logits"


def proofs():
    rows = [
        (SUM, "layer 0", 2e-6, 1e-5, True),
        (SUM, "layer 1", 8e-6, 1e-5, True),
        (SUM, "layer 1, padded on the left", 9e-6, 1e-5, True),
        ("one pattern per head", "layer 1", 4, 4, True),
        (HALF, "layer 0", 0.03, 0.06, True),
        (EDIT, "layer 0", 0.5, 0.1, True),
        ("the activation of mlp_pre is mlp_post", "layer 2", math.nan, 1e-5, False),
        (SUM, "layer 0, in the vision tower", 1e-6, 1e-5, True),
        ("logits equal eager attention's", "model", 9e-5, 1e-4, True),
    ]
    return pd.DataFrame(rows, columns=["check", "where", "value", "limit", "passed"])


def test_each_layer_names_the_proof_that_came_closest():
    """What is counted, and has to be exactly its limit, comes no closer; an edit has to exceed its own."""
    layers = by_layer(proofs())
    assert layers["layer"].tolist() == [0, 1, 2, 0]
    assert layers["check"].tolist()[:2] == [HALF, SUM]
    assert layers["share"].round(6).tolist()[:2] == [0.5, 0.9]
    assert layers["where"][1] == "layer 1, padded on the left"
    assert math.isinf(layers["share"][2]), "no number is no proof"
    assert layers["where"][3].endswith("in the vision tower")


def test_the_page_has_every_layer(tmp_path):
    text = check_page(proofs(), tmp_path / "check.html", "Proofs of x", "llama, bfloat16").read_text("utf-8")
    assert text.count("padded on the left") >= 2
    assert "bfloat16" in text
    assert summary(proofs()).set_index("check").loc[SUM, "where"] == "layer 1, padded on the left"

"""What the papers say of neurons, stated before any number was seen."""

from __future__ import annotations

from typing import Any

from ..common.claims import Claim, Statement
from ..common.tested import judged
from ._explained import CLAIM

CLAIMS = (
    Statement(
        "neurons of one label",
        "Neurons that are active for one label alone exist: chosen on other documents, they are active on a share of "
        "their label's tokens that is larger by more than .1 than that of the other labels, and by more than random "
        "neurons of like activity.",
        "arXiv 2402.16438 (LAPE), held out and with this project's threshold",
        0.1,
    ),
    Statement(
        "removal hurts its label",
        "Without the neurons of a label its texts lose more than without those of another label (difference of the "
        "loss above 0 nats a token), and more so than for random neurons of like activity.",
        "arXiv 2402.16438 (LAPE), 2402.18815 (PLND), 2406.11193 (MMNeuron)",
    ),
    Statement(
        "at the ends",
        "Neurons of one label lie at the bottom and at the top: of what they are more active by for their label, on "
        "other documents, the first and the last quarter of the layers each hold more than a quarter, and more than of "
        "the neurons that permuted labels have.",
        "arXiv 2402.16438 (LAPE), abstract; the threshold, an even share, is this project's",
        0.25,
    ),
    Statement(
        "important to one label",
        "Some neurons matter to the documents of one label alone, by what removing them changes in the MLP's output: "
        "chosen on other documents because they matter to nearly all of one label's and no other's, they matter to a "
        "share of its documents that is larger by more than .1, and by more than with permuted labels.",
        "arXiv 2402.18815 (PLND), the exact form of its proxies, held out and with this project's threshold",
        0.1,
    ),
    Statement(
        "neurons of one kind of picture",
        "Neurons of the vision tower that are active for one kind of picture alone exist: chosen on other pictures, "
        "they are active on a share of the patches of their kind that is larger by more than .1 than that of the "
        "other kinds, and by more than random neurons of like activity.",
        "arXiv 2406.11193 (MMNeuron), held out and with this project's threshold",
        0.1,
    ),
    Statement(
        "image tokens of one kind",
        "Neurons of the decoder that are active at the image tokens of one kind of picture alone exist: chosen on "
        "other pictures, they are active on a share of these that is larger by more than .1 than that of the other "
        "kinds, and by more than random neurons of like activity.",
        "arXiv 2406.11193 (MMNeuron), held out and with this project's threshold",
        0.1,
    ),
    Statement(
        "channels at the ends",
        "Channels of queries and keys that matter to the texts of one label alone are fewer in the middle than at the "
        "ends, and MLP neurons are not: of what channels, chosen on other texts, matter more to their label by, the "
        "first and the last quarter of the layers hold more than half, and more than of MLP neurons chosen alike.",
        "arXiv 2402.18815 (PLND), by the exact change of the attention; the threshold, an even share, is ours",
        0.5,
    ),
    Statement(
        CLAIM,
        "A label explains its neurons: on texts that they were not chosen on they pass on more in the label's texts "
        "than in all others, in σ of what they pass on at n-grams, and more so than for another label's name (the own "
        "label's SASC score minus the mean of the others above 0) and than with permuted labels.",
        "arXiv 2305.09863 (SASC), its score; labels in place of generated explanations, this project's threshold",
    ),
)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)

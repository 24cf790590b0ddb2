"""Neurons of languages and domains: which MLP neurons serve one label, and what the model loses without them

Activation probability of every neuron by label, neurons specific to one, neurons that matter to nearly every document
of one, and the loss of each label's texts without them. Tables: layers, held_out, ends,
important, removal, neurons, cards, explained, contexts, ngrams, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.readout import mlp_width
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.tested import judged
from ._card_tables import RUN_TABLES
from ._contexts import LONGEST, cards
from ._counts import MOST, SUMMED, counts, has_neurons, labels_in
from ._explained import CLAIM, mean_acts
from ._learning import learn
from ._neuron_findings import findings
from ._neuron_tables import TABLES
from ._removal import HOW, removed
from ._specific import of_one_label, specific, twins
from ._words import SHOWN, WITHIN, read_texts, reads, sides, turned, writes

__all__ = ["RUN_TABLES", "TABLES", "findings"]

VERSION = 2
QUESTION = "Which neurons serve one language or domain, and does the model need them for it alone?"
PAPER = "arXiv 2402.16438 (LAPE), 2406.11193 (MMNeuron), 2402.18815 (PLND), 2305.09863 (SASC)"
SUMS = SUMMED
FIT_EXAMPLES = 256
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
        CLAIM,
        "A label explains its neurons: on texts that they were not chosen on they pass on more in the label's texts "
        "than in all others, in σ of what they pass on at n-grams, and more so than for another label's name (the own "
        "label's SASC score minus the mean of the others above 0) and than with permuted labels.",
        "arXiv 2305.09863 (SASC), its score; labels in place of generated explanations, this project's threshold",
    ),
)


@dataclass(frozen=True)
class Options:
    """share: of all neurons are specific, those of lowest entropy. rate: the percentile of the two bars. top: of a
    layer's neurons are important to a document. draws: of random twins. positions: tokens whose loss is read.
    removal: whether neurons are removed.
    """

    share: float = 0.01
    rate: float = 0.95
    top: float = 0.14
    draws: int = 2
    positions: int = 32
    removal: bool = True


class Learned(NamedTuple):
    """labels; for each the neurons (layer, neuron) that are specific to it and their mean activation; random: for each
    draw the same of their twins. always: for each label the neurons that matter to nearly all of its texts alone.
    reads, writes: of the most specific ones the tokens, see `_words`; cards: of the same, see `_contexts.Card`.
    width: neurons of a layer.
    """

    labels: Sequence[str] = ()
    specific: Sequence[Sequence[Sequence[int]]] = ()
    means: Sequence[Sequence[float]] = ()
    random: Sequence[Sequence[Sequence[Sequence[int]]]] = ()
    always: Sequence[Sequence[Sequence[int]]] = ()
    reads: Sequence[Sequence[Sequence[int]]] = ()
    writes: Sequence[Sequence[Sequence[int]]] = ()
    cards: Sequence[Sequence[Sequence[Any]]] = ()
    width: int = 0


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Active: the activation function of the MLP gives more than 0. Tokens: of text, without each example's first. "
        f"Specific: the {options.share:.0%} of all neurons with the lowest entropy of their activation probabilities "
        f"over labels, of those whose largest one is above the {options.rate:.0%} quantile of all; they belong to "
        "every label whose probability is above that bar. Important to a document: among the "
        f"{options.top:.0%} of its layer whose removal changes the MLP's output most, |act| · ‖W_down‖ over tokens. "
        "What is removed, and whose probabilities are held out, was learned on "
        f"{held_out(fitted_on)}. Controls: labels permuted among the documents of a fold; random neurons of the same "
        f"layer, each one of the 20 nearest in how often they are active ({options.draws} draws). Loss: of the next "
        f"token at {options.positions} evenly spaced places. Cards: of the {SHOWN} most specific neurons of each "
        "label, on the side of 0 where what they pass on is larger (the sign of Σ act · |act|). Reads: the tokens of "
        "the held-out texts at which a neuron is largest; contexts and n-grams are of the same texts, the first "
        f"{WITHIN} tokens of each; writes: the tokens that its output points to, by W_U · W_down alone. SASC score of "
        "a label: the mean of a neuron over tokens, mean over the run's texts of the label minus mean over all others, "
        "in standard deviations over the unique n-grams of 1 to 3 tokens of the held-out texts (its mean at an "
        "n-gram's last token, in running text; SASC reads each n-gram alone)."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The specific neurons of held-out examples, their means and twins. UserError: options, labels, no neurons."""
    _require(options)
    labels = labels_in([example for batch in batches for example in batch.examples])
    if not any(has_neurons(subject.decoder, layer) for layer in range(subject.n_layers)):
        raise UserError(f"neurons: no MLP of {subject.family} has neurons that can be read")
    learned = learn(subject, batches, labels, options.top)
    chosen = specific(learned.probability, options.share, options.rate)
    random = [twins(learned.probability.nan_to_num(), chosen, draw) for draw in range(options.draws)]
    means = [[float(learned.mean[a, b]) for a, b in own] for own in chosen]
    shown = [own[:SHOWN] for own in chosen]
    several = [neuron for own in shown for neuron in own]
    texts = read_texts(subject, batches, several)
    side = sides(texts)
    texts = turned(texts, side)
    known: Any = (reads(texts, several), writes(subject, several, side), cards(texts, several, side))
    said = [[[found[neuron] for neuron in own] for own in shown] for found in known]
    always = of_one_label(learned.important)
    return Learned(labels, chosen, means, random, always, *said, width=mlp_width(subject))


def _require(options: Options) -> None:
    for name in ("share", "rate", "top"):
        if not 0 < getattr(options, name) < 1:
            raise UserError(f"--neurons.{name} {getattr(options, name)}: a share between 0 and 1 is needed")
    for name in ("draws", "positions"):
        if getattr(options, name) < 1:
            raise UserError(f"--neurons.{name} {getattr(options, name)}: at least 1 is needed")


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_counts.counts` and `_explained.mean_acts`."""
    return counts(layer, batch, how.learned.labels, how.options.top) | mean_acts(layer, batch, how.learned)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """See `_removal.removed`; "acts" [b, shown] of all layers."""
    kept = kept | ({"acts": kept["acts"].sum(1)} if "acts" in kept else {})
    return kept | (removed(subject, batch, how.learned, how.options.positions) if how.options.removal else {})


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return 1 + MOST * (len(HOW) + SHOWN)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: counts of every neuron, and a recording with variants."""
    cards = (2 * LONGEST + 1) * 4 * FIT_EXAMPLES * WITHIN * MOST * SHOWN
    counted = 2 * 4 * batch * subject.n_layers * mlp_width(subject) * 4 + cards
    if not options.removal:
        return counted
    variants = costs.variants(subject, MOST * (2 + options.draws), batch, positions, positions)
    read = costs.logits(subject, batch * options.positions, 3)
    return counted + costs.recording(subject, batch, positions) + variants + read


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What the papers say, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)

"""Neurons of languages, domains and kinds of pictures: which serve one label, and what the model loses without them

Activation probability of every neuron by label (language, domain, kind of picture), in decoder, vision tower and
projector, neurons specific to one, neurons and channels of queries and keys that matter to nearly every document of
one, and the loss of each label's texts without them. Tables: layers, held_out, ends, important, important_layers,
removal, neurons, cards, explained, contexts, ngrams, tested.
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
from ..common.frames import held_out
from ._card_tables import RUN_TABLES
from ._channels import QUERIES
from ._contexts import LONGEST, cards
from ._counts import MOST, SUMMED, TEXT, by_label, has_neurons, labels_in, observed
from ._explained import mean_acts
from ._learning import Known, learn
from ._neuron_claims import CLAIMS, claims
from ._neuron_findings import findings
from ._neuron_tables import TABLES
from ._removal import HOW, removed
from ._specific import of_one_label, specific, twins
from ._tower import before_decoder, counts_before
from ._words import SHOWN, WITHIN, read_texts, reads, sides, turned, writes

__all__ = ["CLAIMS", "RUN_TABLES", "TABLES", "claims", "findings"]

VERSION = 3
QUESTION = "Which neurons serve one language, domain or kind of picture, and does the model need them for it alone?"
PAPER = "arXiv 2402.16438 (LAPE), 2406.11193 (MMNeuron), 2402.18815 (PLND), 2305.09863 (SASC)"
SUMS = SUMMED
FIT_EXAMPLES = 256
_CHANNELS = (
    ", or whose channel of queries or keys, as the attention reads it, changes the attention most by being 0: the sum "
    f"of squares over {QUERIES} evenly spaced query tokens"
)


@dataclass(frozen=True)
class Options:
    """by: the column of the examples that says their label; by default label, else kind. share: of all neurons are
    specific, those of lowest entropy. rate: the percentile of the two bars. top: of a layer's neurons are important to
    a document. draws: of random twins. positions: tokens whose loss is read. removal: whether neurons are removed.
    channels: whether channels of queries and keys are measured too, one after the other, which is slow.
    """

    by: str = ""
    share: float = 0.01
    rate: float = 0.95
    top: float = 0.14
    draws: int = 2
    positions: int = 32
    removal: bool = True
    channels: bool = False


class Learned(NamedTuple):
    """labels; for each the neurons (layer, neuron) that are specific to it and their mean activation; random: for each
    draw the same of their twins. always: for each label the neurons that matter to nearly all of its texts alone.
    reads, writes: of the most specific ones the tokens, see `_words`; cards: of the same, see `_contexts.Card`; width:
    neurons of a layer. All of the decoder at words; beside: the same names, those that there are, of the other parts of
    the model, see `_counts`.
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
    beside: Mapping[str, Mapping[str, Sequence[Any]]] = {}


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (
        "Active: the activation function of the MLP gives more than 0. Tokens: of text, without each example's first; "
        "image tokens, and the positions of the vision tower and of the projector, on their own. "
        f"Specific: the {options.share:.0%} of all neurons of such a part of the model with the lowest entropy of "
        "their activation probabilities "
        f"over labels, of those whose largest one is above the {options.rate:.0%} quantile of all; they belong to "
        "every label whose probability is above that bar. Important to a document: among the "
        f"{options.top:.0%} of its layer whose removal changes the MLP's output most, |act| · ‖W_down‖ over tokens"
        f"{_CHANNELS if options.channels else ''}. "
        "What is removed, and whose probabilities are held out, was learned on "
        f"{held_out(fitted_on)}. Controls: labels permuted among the documents of a fold (of all, where "
        "folds lack labels); random neurons of the same "
        f"layer, each one of the 20 nearest in how often they are active ({options.draws} draws). Loss: of the next "
        f"token at {options.positions} evenly spaced places, or of the answer. Cards: of the {SHOWN} most specific "
        "neurons of each label, on the side of 0 where what they pass on is larger (the sign of Σ act · |act|). Reads: "
        "the tokens of the held-out texts at which a neuron is largest; contexts and n-grams are of the same texts, "
        "the first "
        f"{WITHIN} tokens of each; writes: the tokens that its output points to, by W_U · W_down alone. SASC score of "
        "a label: the mean of a neuron over tokens, mean over the run's texts of the label minus mean over all others, "
        "in standard deviations over the unique n-grams of 1 to 3 tokens of the held-out texts (its mean at an "
        "n-gram's last token, in running text; SASC reads each n-gram alone)."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """The specific neurons of held-out examples, their means and twins. UserError: options, labels, no neurons."""
    _require(options)
    labels = labels_in([example for batch in batches for example in batch.examples], options.by)
    if not any(has_neurons(subject.decoder, layer) for layer in range(subject.n_layers)):
        raise UserError(f"neurons: no MLP of {subject.family} has neurons that can be read")
    known = learn(subject, batches, labels, options)
    if TEXT not in known:
        raise UserError(
            "neurons: of some label no held-out example has words behind its first token; give longer texts"
        )
    chosen = {part: _chosen(one, options) for part, one in known.items()}
    text = chosen.pop(TEXT)
    shown = [own[:SHOWN] for own in text["specific"]]
    several = [neuron for own in shown for neuron in own]
    texts = read_texts(subject, batches, several)
    side = sides(texts)
    texts = turned(texts, side)
    found: Any = (reads(texts, several), writes(subject, several, side), cards(texts, several, side))
    said = [[[words[neuron] for neuron in own] for own in shown] for words in found]
    told = dict(zip(("reads", "writes", "cards"), said, strict=True))
    return Learned(labels, **text, **told, width=mlp_width(subject), beside=chosen)


def _chosen(known: Known, options: Options) -> dict[str, Any]:
    """The fields of `Learned` that one part of the model has."""
    always = {"always": of_one_label(known.important)}
    if not known.probability.numel():
        return always
    chosen = specific(known.probability, options.share, options.rate)
    random = [twins(known.probability.nan_to_num(), chosen, draw) for draw in range(options.draws)]
    means = [[float(known.mean[a, b]) for a, b in own] for own in chosen] if known.mean.numel() else []
    return {"specific": chosen, "means": means, "random": random} | always


def _require(options: Options) -> None:
    for name in ("share", "rate", "top"):
        if not 0 < getattr(options, name) < 1:
            raise UserError(f"--neurons.{name} {getattr(options, name)}: a share between 0 and 1 is needed")
    for name in ("draws", "positions"):
        if getattr(options, name) < 1:
            raise UserError(f"--neurons.{name} {getattr(options, name)}: at least 1 is needed")


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """The counts of every part of the decoder that was learned, see `_counts`; "acts", see `_explained`."""
    rows: dict[str, Tensor | None] = {}
    for part, values in observed(layer, batch, how.options).items():
        if part == TEXT or part in how.learned.beside:
            rows |= by_label(values, part, batch, how)
    return rows | mean_acts(layer, batch, how.learned)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """The counts of vision tower and projector, and what `_removal.removed` reads; "acts" [b, shown] of all layers."""
    rows: dict[str, Any] = dict(kept)
    for part, counts in counts_before(subject, batch, how.options.top).items():
        rows |= by_label(counts, part, batch, how) if part in how.learned.beside else {}
    rows |= {"acts": kept["acts"].sum(1)} if "acts" in kept else {}
    return rows | (removed(subject, batch, how.learned, how.options.positions) if how.options.removal else {})


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that a fold's rows hold: sums, and counts as many, of as many labels as there may be."""
    return 1 + MOST * (3 * len(HOW) + SHOWN + 2 * _counted(subject, options))


def _counted(subject: Any, options: Options) -> int:
    """Numbers that are counted of one example: of its label, however long it is."""
    shown = subject.vision is not None
    numbers = subject.n_layers * (2 * mlp_width(subject) + 1) * (1 + shown)
    for stack in before_decoder(subject).values() if shown else ():
        numbers += stack.n_layers * (2 * stack.W_down(0).shape[0] + 1)
    channels = (subject.n_heads + subject.n_kv_heads) * subject.d_head + 2
    return numbers + subject.n_layers * channels * options.channels


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: counts of every neuron, layer by layer and stacked, and a recording with
    variants; of a picture one more forward; of neurons with cards what they pass on in every held-out text.
    """
    counted = 2 * 4 * batch * MOST * _counted(subject, options)
    counted += costs.forward(subject, 1, positions) if subject.vision is not None else 0
    counted += (2 * LONGEST + 1) * 4 * FIT_EXAMPLES * WITHIN * MOST * SHOWN
    if not options.removal:
        return counted
    variants = costs.variants(subject, MOST * (2 + options.draws), batch, positions, positions)
    read = costs.logits(subject, batch * options.positions, 3)
    return counted + costs.recording(subject, batch, positions) + variants + read

"""Dictionaries: states told as a few directions each, how much is lost, and what single directions do

A TopK dictionary (a sparse autoencoder) of one site is learned on held-out examples, or given. Tables: quality,
by_label, often, specific, features, steering, tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from torch import Tensor

from ...data.errors import UserError
from ...probes.observe.capture import parse_site
from ...probes.observe.layer import Layer
from ...probes.prompts.batch import Batch
from ...probes.runs import costs, lens_store, store
from ...probes.runs.results import How
from ..common.claims import Claim, Statement
from ..common.frames import held_out
from ..common.tested import judged
from ._counts import MOST
from ._dictionary import open_dictionary, site_of
from ._dictionary_features import (
    STEERED,
    STRENGTHS,
    Told,
    directions,
    frequent,
    labels_of,
    of_labels,
    of_like_activity,
    reads,
    tell,
    writes,
)
from ._dictionary_findings import findings
from ._dictionary_learning import LEARNING, Seen, Training, learn, look
from ._dictionary_rows import counts, effects
from ._dictionary_tables import TABLES
from ._dictionary_ways import BESIDE, FAR, WAYS, active_of, opened, ordinary, rivals

__all__ = ["TABLES", "findings"]

VERSION = 1
QUESTION = "How much of a state do a few directions of a dictionary tell, and does a direction do what it stands for?"
PAPER = "arXiv 2406.04093 (TopK), 2501.11036 (LF-Steering), both -style"
SUMS = ("fires",)
FIT_EXAMPLES = 384
CLAIMS = (
    Statement(
        "more than components",
        "So many features of a dictionary tell more of a state than as many principal components: the share of "
        "variance that they explain on held-out texts is larger (difference above 0), and larger than that of as many "
        "untrained directions.",
        "this project's bar; arXiv 2406.04093 compares dictionaries with each other",
    ),
    Statement(
        "loss recovered",
        "With what the dictionary tells in the place of the states the model keeps most of what the site gives it: of "
        "the loss that the mean state costs more than .8 is recovered, more than by as many untrained directions or "
        "principal components.",
        "this project's bar; arXiv 2406.04093 reports the loss with the reconstruction in place",
        0.8,
    ),
    Statement(
        "features of one label",
        "Dictionaries have features of one label: chosen on other texts, they are active on a share of their label's "
        "tokens that is larger by more than .1 than that of the other labels' features, and by more than features of "
        "like activity.",
        "arXiv 2501.11036 (LF-Steering), style; the threshold is this project's",
        0.1,
    ),
    Statement(
        "more specific than neurons",
        "Features of a label are more specific than MLP neurons of the same layer, chosen in the same way (difference "
        "above 0 of the share of their own label's tokens minus that of the other labels' units).",
        "this project's bar",
    ),
    Statement(
        "features steer",
        "Added to other texts as active as on their own, features of a label raise the probability of its words "
        "(change above 0), more than features of like activity and a random direction of the same norm.",
        "arXiv 2501.11036 (LF-Steering), style; the controls are this project's",
    ),
)


@dataclass(frozen=True)
class Options(Training):
    """dictionary: the name or directory of one to use (sae-lens' too) in place of learning one. site: what it is of, by
    default what leaves the middle layer. top: features of a label. positions: tokens whose loss is read. steering:
    whether features are added to texts.
    """

    dictionary: str = ""
    site: str = ""
    top: int = 8
    positions: int = 32
    steering: bool = True


class Learned(NamedTuple):
    """dictionary, beside: names of weights in the cache. site; active: how many features a state has at most. count:
    features, of which `silent` are active at none of the held-out tokens (`tokens`, `massive` ones left out).
    labels, and for each its features, features of like activity, neurons and words; reads, writes: of its features.
    """

    dictionary: str = ""
    beside: str = ""
    site: str = ""
    active: int = 0
    count: int = 0
    silent: int = 0
    tokens: int = 0
    massive: int = 0
    labels: Sequence[str] = ()
    features: Sequence[Sequence[int]] = ()
    twins: Sequence[Sequence[int]] = ()
    neurons: Sequence[Sequence[int]] = ()
    words: Sequence[Sequence[int]] = ()
    reads: Sequence[Sequence[Sequence[int]]] = ()
    writes: Sequence[Sequence[Sequence[int]]] = ()


def methods(options: Options, learned: Learned, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    made = (
        "was given"
        if options.dictionary
        else f"was learned by {options.steps} steps of Adam on {options.batch} of {learned.tokens:,} states each"
    )
    return (
        f"Dictionary {learned.dictionary} of {learned.site}: {learned.count:,} features, at most {learned.active} of "
        f"them active in a state; it {made}. What it is compared with, and the features of a label, come from "
        f"{held_out(fitted_on)}. Tokens: of text, without each example's first and massive states (more than {FAR:g} "
        f"times the median distance from the median state; {learned.massive} of the held-out ones), which are left "
        f"as they are. Features of a label: the {options.top} active on so much more of its tokens than of others. "
        f"Loss: of the next token at {options.positions} evenly spaced places, or of the answer. Steering: Σ typical "
        "activation · direction of a label's features is added to every token of a text of another label, drawn by "
        f"the text's id, {', '.join(map(str, STRENGTHS))} times; the controls' directions have the same norm. Words of "
        "a label: the tokens that follow in its texts so much more often than in the others'."
    )


def fit(subject: Any, batches: list[Batch], options: Options) -> Learned:
    """A dictionary, its rivals, the features of each label. UserError: options, site, dictionary, too few tokens."""
    _require(options)
    labels, given = labels_of(batches), options.dictionary
    site = open_dictionary(subject, given, options.site)[0].site if given else site_of(subject, options.site)
    seen = look(subject, batches, site, labels)
    centre, bound = ordinary(seen.states)
    usual = (seen.states - centre).norm(dim=-1) <= bound
    kept = Seen(seen.states[usual], seen.ids[usual], seen.label[usual], seen.neurons)
    training = Training(**{field.name: getattr(options, field.name) for field in fields(Training)})
    name = given or learn(subject, batches, site, training, kept.states)
    dictionary, _ = open_dictionary(subject, name)
    active, count = active_of(dictionary), len(dictionary.W_dec)
    told = tell(dictionary, kept, len(labels))
    beside = rivals(kept.states, count, active, options.seed) | {"centre": centre, "bound": bound}
    known = Learned(name, "", site, active, count, told.silent, len(kept.states), int((~usual).sum()), labels)
    if labels:
        known = _of_labels(subject, batches, options, dictionary.W_dec, told, kept, known)
        beside["directions"] = directions(dictionary.W_dec, told, known.features, known.twins, kept)
    return known._replace(beside=_save(subject, batches, known, options, beside))


def _of_labels(
    subject: Any, batches: list[Batch], options: Options, W_dec: Tensor, told: Told, seen: Seen, known: Learned
) -> Learned:
    """What belongs to each label."""
    labels, features = known.labels, of_labels(told.rate, options.top)
    neurons = [] if seen.neurons is None else of_labels((seen.neurons / seen.tokens(len(labels))).T, options.top)
    words = frequent(batches, labels, options.positions, costs.vocabulary(subject))
    twins = of_like_activity(told.rate, features)
    return known._replace(
        features=features,
        twins=twins,
        neurons=neurons,
        words=words,
        reads=reads(told, features),
        writes=writes(subject, W_dec, features),
    )


def _save(subject: Any, batches: list[Batch], known: Learned, options: Options, beside: dict[str, Tensor]) -> str:
    """The name in the cache of what the dictionary is compared with."""
    facts = {"what": BESIDE, "subject": lens_store.identity(subject), "corpus": {"name": "held-out examples"}}
    facts |= {"dictionary": known.dictionary, "active": known.active, "seed": options.seed, "learning": LEARNING}
    facts |= {"ids": [i for batch in batches for i in batch.example_ids], "groups": []}
    facts |= {"labels": [*known.labels], "features": known.features, "version": VERSION}
    key = store.key_of(facts)
    directory = lens_store.home() / f"{store.safe_name(subject.name, 50)}.beside.{key[:8]}"
    with store.locked(directory):
        lens_store.save(directory, beside, {**facts, "key": key, "name": directory.name})
    return directory.name


def _require(options: Options) -> None:
    for name in ("width", "active", "batch", "top", "positions"):
        if getattr(options, name) < 1:
            raise UserError(f"--dictionaries.{name} {getattr(options, name)}: at least 1 is needed")
    if options.steps < 0 or options.rate <= 0:
        raise UserError("--dictionaries.steps: at least 0, and --dictionaries.rate above 0 are needed")


def observe(layer: Layer, batch: Batch, how: How) -> dict[str, Tensor | None]:
    """See `_dictionary_rows.counts`; of the dictionary's layer alone."""
    subject, site = layer.subject, how.learned.site
    if layer.index != parse_site(subject, site).layer:
        return {}
    return counts(layer, batch, opened(subject, how.learned), site, how.learned)


def measure(subject: Any, batch: Batch, kept: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    """The counts of the layer, and `_dictionary_rows.effects`. UserError: a given dictionary that was learned from
    these examples.
    """
    if how.options.dictionary:
        _, record = open_dictionary(subject, how.learned.dictionary)
        if record:
            lens_store.require_held_out(record, batch.example_ids, [example.group for example in batch.examples])
    ways, site = opened(subject, how.learned), how.learned.site
    rows = {name: tensor[:, 0] for name, tensor in kept.items()}
    return rows | effects(subject, batch, ways, site, how.learned, how.options)


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold, without the sums."""
    return 16 + 3 * MOST * options.top + 2 * len(STEERED) * len(STRENGTHS)


def memory(subject: Any, batch: int, positions: int, options: Options) -> int:
    """Bytes beyond the shared forward: the dictionary and its rivals, activations of all features, a recording with
    variants; or, before any batch, the states that it is learned from with a step's activations.
    """
    width = _width(subject, options)
    weights = 4 * 4 * options.width * width**2
    own = 3 * 4 * batch * positions * options.width * width
    plan = len(WAYS) + 1 + len(STEERED) * len(STRENGTHS) * options.steering
    swept = costs.recording(subject, batch, positions) + costs.variants(subject, plan, batch, positions, positions)
    measured = weights + max(own, swept + costs.logits(subject, options.positions, 3))
    step = 8 * 4 * options.batch * options.width * width
    learning = 3 * 4 * FIT_EXAMPLES * positions * width + 2 * weights + step
    return max(measured, learning)


def disk(subject: Any, options: Options) -> int:
    """Bytes in the cache: the dictionary and what it is compared with."""
    return (3 - bool(options.dictionary)) * 4 * options.width * _width(subject, options) ** 2


def _width(subject: Any, options: Options) -> int:
    return costs.width(subject, parse_site(subject, site_of(subject, options.site)).site.name)


def claims(tables: dict[str, Any]) -> list[Claim]:
    """What is said of dictionaries, judged by the table tested."""
    return judged(tables.get("tested"), CLAIMS)

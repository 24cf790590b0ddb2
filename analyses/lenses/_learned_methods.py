"""What `learned_lenses` says of itself: where its lenses come from, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._published_lens import PUBLISHED


def methods(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    return (_taken(learned) if learned.start == PUBLISHED else _trained(learned)) + (
        f" Measured: KL of the model's output to each lens, mean over {options.measured} positions of each example. "
        "Controls: the constant that says the corpus's mean output at every position; for the heads the plain "
        "unembedding of their sum, with the final norm and without."
    )


def _taken(learned: Any) -> str:
    return (
        f"Tuned lens {learned.lens} was published by others (of {learned.published or 'a model without a name'}): per "
        "state an affine translator to the last state. What it was learned from is not written in it, so the measured "
        f"text may be among it; the mean output is of {learned.passages or 'all'} examples of {learned.corpus}, none "
        "of them measured here."
    )


def _trained(learned: Any) -> str:
    return (
        f"Lenses {learned.lens} were learned from {learned.passages or 'all'} examples of {learned.corpus}, none of "
        "them, and none of their documents, among those measured here. Tuned lens: per state an affine translator to "
        f"the last state, from {'ridge regression' if learned.start == 'ridge' else 'the identity'} by "
        f"{learned.tuned_steps} steps on KL to the model's output. Attention Lens: per head a map from its output "
        f"(d_head) to the vocabulary, from W_U · W_O with the final norm's gain and mean scale folded in, by "
        f"{learned.steps} steps on KL to the sum over the layer's heads{_of_words(learned.words)}."
    )


def _of_words(count: int) -> str:
    others = "words likeliest in the mean output; all others have one for their sum and keep the start's shares of it"
    return f", of the {count:,} {others}" if count else ""

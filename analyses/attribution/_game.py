"""One example as Captum sees it: inputs that say how present each feature is, and what the answer then gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data.errors import UserError
from ...probes.intervene.measures import Measure
from ...probes.intervene.mixtures import Mixture, entering_first, same_tokens
from ...probes.intervene.recording import Recording, record
from ...probes.prompts.batch import Batch
from ..common.controls import another_image, blank_image
from ._features import Features, features_of

TARGETS = ("log-probability", "difference")
KL = len(TARGETS)  # the column behind the targets
BLANK = (128, 128, 128)
BASELINES = ("another image", "blank", "mean word")
# Why a picture is not taken apart, a sentence each; rows hold the index.
WORDS_ALONE = (
    "",
    "there is not exactly one picture whose image tokens' places are known",
    "the task has no other picture to put in its place",
    "the other picture makes other tokens of the prompt",
    "features of the picture enter behind the first layer as well",
)


class Game:
    """Called as Captum calls a model: with presences [v, …] of words and of blocks, for one target; answers are kept.

    words: [v, words], blocks: [v, rows, columns]; what an example has not is not among `own`.
    """

    def __init__(self, mixture: Mixture, features: Features) -> None:
        self.mixture, self.features = mixture, features
        self.known: dict[bytes, Tensor] = {}
        self.target = 0

    @property
    def own(self) -> tuple[Tensor, ...]:
        """The example as it is: everything present."""
        return self.shaped(torch.ones(1, len(self.features.positions)))

    def shaped(self, flat: Float[Tensor, "v f"]) -> tuple[Tensor, ...]:
        words, blocks = flat[:, : self.features.words], flat[:, self.features.words :]
        parts = [words] if self.features.words else []
        return (*parts, blocks.reshape(len(flat), *self.features.grid)) if blocks.shape[1] else tuple(parts)

    @staticmethod
    def flat(parts: Sequence[Tensor]) -> Float[Tensor, "v f"]:
        return torch.cat([part.flatten(1) for part in parts], 1)

    def __call__(self, *parts: Tensor) -> Float[Tensor, " v"]:
        return self.values(self.flat(parts))[:, self.target]

    def smooth(self, *parts: Tensor) -> Float[Tensor, " v"]:
        """The same with a graph."""
        return self.mixture.with_gradient(self.flat(parts))[:, self.target]

    def values(self, present: Float[Tensor, "v f"]) -> Float[Tensor, "v 3"]:
        """Both targets and KL(original ‖ changed); each set of features is run once."""
        keys = [one.numpy().tobytes() for one in present.to(torch.float32)]
        new = {key: one for key, one in zip(keys, present, strict=True) if key not in self.known}
        if new:
            found = self.mixture.values(torch.stack(list(new.values())))
            self.known |= dict(zip(new, found, strict=True))
        return torch.stack([self.known[key] for key in keys])


def game_of(subject: Any, batch: Batch, mean: Tensor, options: Any) -> tuple[Game, int]:
    """The game of a batch of one example, and why its picture is left whole, as an index into WORDS_ALONE."""
    base = record(subject, batch)
    other, reason = _other_picture(subject, batch, base, options.baseline, mean)
    features = features_of(batch, 0, options.words, options.blocks, picture=other is not None)
    if not len(features.positions):
        raise UserError(f"example {batch.example_ids[0]} has no word and no picture to take away")
    absent = entering_first(subject, mean.expand(1, batch.mask.shape[1], -1)).to(base.layers[0].resid_pre)
    if other is not None:
        absent = torch.where(batch.where("image")[0].to(absent.device)[:, None], other.to(absent), absent)
    return Game(Mixture(base, absent, features.positions, reading(batch, base.logits)), features), reason


def reading(batch: Batch, reference: Float[Tensor, "1 vocab"]) -> Measure:
    """[n, 3]: log p(answer), log p(answer) − log p(first wrong answer) (NaN without one), KL(reference ‖ ·); nats."""
    right = int(batch.answers[0])
    wrong = int(batch.wrong[0]) if batch.examples[0].wrong else None
    expected = reference.float().log_softmax(-1)

    def measure(logits: Float[Tensor, "n vocab"], example: Tensor) -> Float[Tensor, "n 3"]:
        log_p = logits.float().log_softmax(-1)
        own = log_p[:, right]
        difference = torch.full_like(own, torch.nan) if wrong is None else own - log_p[:, wrong]
        divergence = (expected.exp() * (expected - log_p)).sum(-1)
        return torch.stack([own, difference, divergence], 1)

    return measure


def _other_picture(
    subject: Any, batch: Batch, base: Recording, baseline: str, mean: Tensor
) -> tuple[Float[Tensor, "1 p d"] | None, int]:
    """What enters the first layer in the place of the picture, [1, p, d]; None with the reason."""
    if not batch.where("image").any():
        return None, 0
    if len(batch.geometry[0].pictures) != 1:
        return None, 1
    if any(layer.added is not None for layer in base.layers):
        return None, 4
    if baseline == "mean word":
        return entering_first(subject, mean.expand(1, batch.mask.shape[1], -1)), 0
    (example,) = batch.examples
    other = blank_image(example, BLANK) if baseline == "blank" else another_image(example)
    if other is None:
        return None, 2
    found = record(subject, subject.batch([other], **batch.form))
    if not same_tokens(base, found):
        return None, 3
    return found.layers[0].resid_pre, 0

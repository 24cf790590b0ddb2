"""Sentences about coloured shapes, for the states that their words have in a context. Written for this project."""

from __future__ import annotations

from .world.world import COLOURS, SHAPES

# Raise LEARNING of analyses/lenses/_word_bank.py when a sentence changes.
FORMS = (
    "The picture shows a {0} {1} next to a {2} {3}.",
    "There is a {1} in the corner, and the {1} is {0}.",
    "She drew a {0} {1} and then a {2} {3} on the paper.",
    "In this image we see the {1}, which is {0}, above a {3}.",
    "A small {0} {1} lies on the left of the {2} {3}.",
    "What colour is the {1}? The {1} is {0}.",
    "My favourite shape is this {1}, and its colour is {0}.",
    "Look at the {0} one: it is a {1}, not a {3}.",
)
ROUNDS = 2


def sentences() -> list[str]:
    """Every colour with every shape as often as any other, in forms that take turns."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    made = []
    for turn in range(ROUNDS):
        for i, pair in enumerate(pairs):
            # 27 and 64 have no common divisor, nor 3 and 8: pairs and forms meet in all ways
            beside = pairs[(i * 27 + 13 + turn) % len(pairs)]
            made.append(FORMS[(3 * i + i // len(FORMS) + turn) % len(FORMS)].format(*pair, *beside))
    return made

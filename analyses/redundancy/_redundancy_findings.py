"""What `redundancy` found in this model: which modules cost little, and whether that could be told without trying."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested."""
    if "tested" not in tables:
        return []
    return [_predicts(tables), _least(tables), _third(tables), *_vision(tables)]


def _predicts(tables: Tables) -> Finding:
    return say(
        "How far attention and MLPs turn the residual stream tells what leaving them out costs: rank correlation "
        "{value:.2f} {span:.2f}; {control}: {beside:.2f}",
        "How far attention and MLPs turn the residual stream is not shown to tell what leaving them out costs better "
        "than size alone: rank correlation {value:.2f} {span:.2f}; {control}: {beside:.2f}",
        **tested(tables, "importance predicts loss"),
        about="whether a cheap number tells what can be left out",
        figure="predictions",
        side="above",
    )


def _least(tables: Tables) -> Finding:
    return say(
        "Leaving out the third of the attention layers that turns the residual stream least changes the loss by "
        "{value:+.2f} {span:+.2f} nats a token against a random third, and by {gap:+.2f} {gap_span:+.2f} against "
        "{control}",
        "It is not shown that the third of the attention layers that turns the residual stream least is the one to "
        "leave out: it changes the loss by {value:+.2f} {span:+.2f} nats a token against a random third, and by "
        "{gap:+.2f} {gap_span:+.2f} against {control}",
        **tested(tables, "the least important third", "below"),
        about="which attention can be left out",
        figure="curves",
        side="below",
    )


def _third(tables: Tables) -> Finding:
    return say(
        "The deepest third of the attention layers can be left out for {value:.2f} {span:.2f} nats a token; {control}: "
        "{beside:.2f}",
        "It is not shown that the deepest third of the attention layers can be left out: it costs {value:.2f} "
        "{span:.2f} nats a token; {control}: {beside:.2f}",
        **tested(tables, "a third of the attention", "below"),
        about="what the deepest attention is needed for",
        figure="curves",
        threshold=0.1,
        side="below",
    )


def _vision(tables: Tables) -> list[Finding]:
    if "vision" not in tables:
        return []
    found = say(
        "A quarter of the layers matters more with the image than without it: leaving one out costs {value:.2f} "
        "{span:.2f} nats more; {control}: {beside:.2f}",
        "It is not shown that some layers matter for the image alone: leaving one of the quarter that seemed to out "
        "costs {value:.2f} {span:.2f} nats more with the image; {control}: {beside:.2f}",
        **tested(tables, "layers for vision"),
        about="which layers the image needs",
        figure="vision",
        side="above",
    )
    return [found]

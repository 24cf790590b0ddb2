"""What `attribution` found in this model: what its answers rest on, and how far attention tells it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.findings import Finding, say, tested

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables) -> list[Finding]:
    """Of the numbers of the table tested, each beside the control that comes nearest."""
    if "tested" not in tables:
        return []
    return [_explains(tables), _orders(tables), _deletion(tables), _later(tables)]


def _explains(tables: Tables) -> Finding:
    return say(
        "Attention tells part of what the answer rests on: the mean map of all heads correlates with saliency by "
        "occlusion at r = {value:.2f} {span:.2f}; with {control} at {beside:.2f}",
        "It is not shown that attention tells what the answer rests on: the mean map of all heads correlates with "
        "saliency by occlusion at r = {value:.2f} {span:.2f}, with {control} at {beside:.2f}",
        **tested(tables, "attention explains"),
        about="how far attention tells what the answer rests on",
        figure="layers",
        side="above",
    )


def _orders(tables: Tables) -> Finding:
    return say(
        "What integrated gradients name first is what the answer needs: taken away in that order, the prompt's parts "
        "cost it {value:.2f} {span:.2f} nats on average over the way; in {control} {beside:.2f}",
        "It is not shown that integrated gradients name what the answer needs: taken away in that order, the prompt's "
        "parts cost it {value:.2f} {span:.2f} nats on average over the way, in {control} {beside:.2f}",
        **tested(tables, "gradients find it"),
        about="whether integrated gradients name what the answer needs",
        figure="deletion",
        side="above",
    )


def _deletion(tables: Tables) -> Finding:
    return say(
        "Attention names what the answer needs worse than leaving parts out one by one does: deleted in its order the "
        "answer keeps {value:.2f} {span:.2f} nats more on average",
        "It is not shown that attention names what the answer needs worse than leaving parts out one by one does: "
        "deleted in its order the answer keeps {value:.2f} {span:.2f} nats more on average",
        **tested(tables, "attention loses the deletion"),
        about="whether attention loses the deletion test",
        figure="deletion",
        side="above",
    )


def _later(tables: Tables) -> Finding:
    return say(
        "Later layers' attention tells more of what the answer rests on: r is {value:.2f} {span:.2f} higher in the "
        "last third of the layers than in the first; with {control} {beside:.2f}",
        "It is not shown that later layers' attention tells more of what the answer rests on: r is {value:.2f} "
        "{span:.2f} higher in the last third of the layers than in the first, with {control} {beside:.2f}",
        **tested(tables, "later layers"),
        about="in which layers attention tells what the answer rests on",
        figure="layers",
        side="above",
    )

"""The methods sentence of `edge_circuits`: of circuits of edges, of nodes, of neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..common.frames import of_half
from ._edge_circuit_tables import ENDS
from ._edge_levels import SHARES

_WAY = (
    "; along activations: the mean of five while the writers of a layer's heads, or an MLP, alone go over to the twin's"
)


def methods(options: Any, learned: Any, fitted_on: Mapping[str, int]) -> str:
    """The methods sentence of the page."""
    spoken = {
        "twin": "what its writer says in the corrupt twin's run",
        "mean": "what its writer says on average over held-out prompts and their positions",
        "nothing": "nothing (zero ablation)",
    }[options.ablated]
    if options.level == "neuron":
        return _methods_of_neurons(options, learned, spoken, fitted_on)
    way = _WAY if options.activations else ""
    ranked = "edges" if options.level == "edge" else "writers, each with all of its edges,"
    how = "the best ones" if options.choice == "top" else "the best ones into what is there already, from the output up"
    return (
        "An edge is the path from embeddings, head or MLP to the own input of a head's query, key or value (keys and "
        "values that heads share count once), of an MLP, or to the output. In a circuit every reader hears the writers "
        f"of its kept edges as they now speak, and at every other edge {spoken}; all is computed again from there. "
        f"{ranked.capitalize()} are ranked by what an edge's loss is estimated to do to answer − twin's answer: the "
        "change of its writer times the gradient at the reader, one gradient (1 step), the mean of five on the way, or "
        f"of the clean and the twin's ({ENDS}){way}. {_ranking_of_another(options)}Circuits are {how}, pruned of what "
        f"hears nothing or nobody hears, at the sizes of MIB (from {100 * SHARES[0]:.1f} % of all on). Faithfulness: "
        "(m − m₀) / (clean − m₀), m₀ with no edge. CPR: area under it over the share, edges that help most first; CMD: "
        f"area between 1 and it, largest |effect| first. Ranked on "
        f"{of_half(learned.selected_on, fitted_on)}; measured on the other groups. Control: as many random "
        f"edges between the same two layers and into the same kind of reader, {options.draws} draws."
    )


def _ranking_of_another(options: Any) -> str:
    """Said where circuits are ablated by something else than what they are ranked by."""
    if options.ablated == "twin":
        return ""
    other = {"mean": "the mean", "nothing": "nothing"}[options.ablated]
    return (
        f"They are ranked by what the twin in their place would do, but run with {other} in their place: that is not "
        "MIB's ranking for this ablation. "
    )


def _methods_of_neurons(options: Any, learned: Any, spoken: str, fitted_on: Mapping[str, int]) -> str:
    return (
        "A neuron, as the MIB circuit track has it, is one coordinate of what embeddings, a head or an MLP adds to the "
        "residual stream. In a circuit all that read hear the kept ones as they now are, and in the place of every "
        f"other {spoken}; all is computed again from there. Neurons are ranked by what losing one is estimated to do "
        "to answer − twin's answer: its change times the gradient there, one gradient (1 step), the mean of five on "
        f"the way, or of the clean and the twin's ({ENDS}); nothing is pruned. {_ranking_of_another(options)}"
        "Sizes, faithfulness, CPR and CMD as of edges. Ranked on "
        f"{of_half(learned.selected_on, fitted_on)}; measured on the "
        f"other groups. Control: as many random neurons of each writer, {options.draws} draws."
    )

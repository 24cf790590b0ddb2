"""Planted tables of findings: for every analysis what is found, what its control does as well, what is at chance.

CASES_OF: analysis -> name -> a function that gives (tables, words of the sentence, its state).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from crosslens.analyses.attention import sinks as sinks_analysis
from crosslens.analyses.circuits import circuits as circuits_analysis
from crosslens.analyses.circuits import edges as edges_analysis
from crosslens.analyses.circuits import steering as steering_analysis
from crosslens.analyses.circuits._circuit_tables import EXACT
from crosslens.analyses.circuits._edge_names import OUTPUT
from crosslens.analyses.circuits._faithfulness_tables import EXACT as FAITHFUL
from crosslens.analyses.common.findings import FOUND, OPEN, UNTESTABLE
from crosslens.analyses.flow import head_divergence as divergence_analysis
from crosslens.analyses.lenses import group_lens as group_analysis
from crosslens.analyses.lenses import logit_attribution
from crosslens.probes.runs.results import Rows

from ..helpers.makers import tables_from, tables_from_runs
from .claims import (
    attention_profile,
    changed_heads,
    circuits,
    collapse,
    crop_and_ask,
    dictionaries,
    directions,
    edge_circuits,
    edges,
    experts,
    faithfulness,
    group_lens,
    head_divergence,
    highlighting,
    image_lens,
    image_paths,
    influence,
    information_flow,
    jacobian_lens,
    latent_lens,
    layer_similarity,
    learned_lenses,
    lenses,
    localisation,
    lofit,
    looking,
    modality,
    module_lens,
    neurons,
    number_spectrum,
    overlap,
    patchscope,
    probing,
    recall,
    redundancy,
    relations,
    repairs,
    rope_bases,
    routes,
    rows_of,
    shared_heads,
    similarity,
    sinks,
    steering,
    subject_card,
    subnetworks,
    tower_profile,
    visual_exit,
    weights,
)
from .claims import attribution as attribution_rows
from .claims import logit_attribution as attribution

Tables = dict[str, pd.DataFrame]
Case = Callable[[], tuple[Tables, str, str]]

OPTIONS: dict[str, Any] = {
    "faithfulness": faithfulness.OPTIONS,
    "steering": steering_analysis.Options(draws=steering.DRAWS),
    "logit_attribution": logit_attribution.Options(words=0),
    "probing": probing.OPTIONS,
    "directions": directions.OPTIONS,
    "edge_circuits": edge_circuits.OPTIONS,
    "number_spectrum": number_spectrum.OPTIONS,
    "latent_lens": latent_lens.OPTIONS,
}


def learned(analysis: str) -> dict[str, Any]:
    known = {"edges": edges.LEARNED, "faithfulness": faithfulness.LEARNED, "neurons": neurons.LEARNED}
    known |= {"edge_circuits": edge_circuits.LEARNED, "latent_lens": latent_lens.LEARNED}
    return (known | {"dictionaries": dictionaries.LEARNED}).get(analysis, {})


def at_chance(rows: Rows) -> Rows:
    """The same rows of a task that is not solved."""
    rows.values["right"] = np.zeros(len(rows.examples))
    return rows


@cache
def of_circuits(kind: str) -> Tables:
    rows = circuits.rows()
    exact = rows[f"head|{EXACT}"]
    if kind == "alike":
        exact[:] = -1 + np.random.default_rng(1).normal(0, 0.5, exact.shape)
    if kind == "quarter":  # more than random heads, less than a third
        exact[:] = -1 + np.random.default_rng(1).normal(0, 0.05, exact.shape)
        exact[:, 1, 2] = -13
    return tables_from(circuits_analysis, at_chance(rows) if kind == "chance" else rows)


@cache
def of_edges(kind: str) -> Tables:
    rows = edges.rows()
    if kind == "null":
        rng = np.random.default_rng(1)
        rows.values["edges|5 steps"][:] = rng.normal(0, 0.5, rows["edges|5 steps"].shape)
    if kind == "below":  # something, and less than the claims ask for
        rows.values["edges|5 steps"][:] *= 0.4
        rows.values[f"{OUTPUT}|1 step"] += np.random.default_rng(2).normal(0, 1, (3, 6))
    return tables_from(edges_analysis, at_chance(rows) if kind == "chance" else rows, **edges.LEARNED)


@cache
def of_faithfulness(kind: str) -> Tables:
    rows = faithfulness.rows(own=0.6, random=0.7) if kind == "null" else faithfulness.rows()
    effects = np.random.default_rng(1).normal(0, 0.1, (len(rows.examples), 5)) - 3 * (np.arange(5) == 2)
    rows.values["position|mlp_out|subject"] = effects
    if kind == "some":  # the gradients' five heads hold between a half and .7 of the exact five's
        exact = rows[f"head|{FAITHFUL}"]
        order = np.abs(exact.mean(0)).ravel().argsort()[::-1]
        rows.values["head|5 steps"] = np.zeros_like(exact)
        for place in order[1:6]:
            rows.values["head|5 steps"][:, *divmod(int(place), 20)] = 9
    return faithfulness.made(at_chance(rows) if kind == "chance" else rows)


@cache
def of_edge_circuits(kind: str) -> Tables:
    fewer = {"own": 0.3, "one": 0.3, "helpful": 0.4, "random": 0.45}
    rows = edge_circuits.rows(**fewer) if kind == "null" else edge_circuits.rows()
    return edge_circuits.made(at_chance(rows) if kind == "chance" else rows)


@cache
def of_steering(**how: Any) -> Tables:
    return tables_from(steering_analysis, steering.rows(**how), OPTIONS["steering"])


def of_steering_without_ioi() -> Tables:
    return tables_from(steering_analysis, steering.rows(), OPTIONS["steering"], ioi=False)


def of_steering_given() -> Tables:
    given = steering_analysis.Options(draws=steering.DRAWS, heads=("0.1",) * len(steering_analysis.SETS))
    return tables_from(steering_analysis, steering.rows(), given)


@cache
def of_overlap(kind: str) -> Tables:
    runs, chance = {}, kind == "chance"
    heads = {"a": overlap.SOME, "b": overlap.OTHERS if kind == "null" else overlap.SOME}
    for seed, (task, some) in enumerate(heads.items()):
        runs[task] = overlap.tables_of(overlap.effects_of(some, 3 * seed))
        reason = "the task is not solved here" if chance else ""
        runs[task]["tested"] = pd.DataFrame({"claim": ["sparse"], "untestable": [reason], "condition": ["no BOS"]})
    return tables_from_runs(runs)


@cache
def of_attribution(kind: str) -> Tables:
    rows = attribution.rows()
    if kind == "null":  # no head does more than another
        rng = np.random.default_rng(1)
        rows.values["heads"] = np.stack([1 + rng.normal(0, 3, (attribution.N, *attribution.SHAPE))] * 2, 1)
        rows.values["logit"] = rows["heads"].sum((2, 3))
    if kind == "chance":
        rows.values["logit"] = -rows["logit"]
    return tables_from(logit_attribution, rows, OPTIONS["logit_attribution"])


def of_divergence(**how: Any) -> Tables:
    return tables_from(divergence_analysis, head_divergence.rows(**how), head_divergence.OPTIONS)


@cache
def of_image_lens(asked: float, other: float) -> Tables:
    rng = np.random.default_rng(0)
    shape = (image_lens.N, image_lens.STATES)
    made = [np.clip(mean + 0.1 * rng.normal(size=shape), 0, 1) for mean in (asked, other)]
    return image_lens.tables_of(*made)


@cache
def of_sinks(**how: Any) -> Tables:
    return tables_from(sinks_analysis, rows_of(sinks.values(**how), sinks.GROUPS), sinks.OPTIONS, **sinks.LEARNED)


def of_sinks_without_tau() -> Tables:
    rows = rows_of(sinks.values(), sinks.GROUPS)
    return tables_from(sinks_analysis, rows, sinks.OPTIONS, **sinks.LEARNED | {"tau": None})


@cache
def of_group_lens(words: float, random: float) -> Tables:
    """The probability of English in the states of 20 prompts, beside random words."""
    rng = np.random.default_rng(0)
    values = {name: mean * rng.uniform(0.8, 1.2, (20, 5)) for name, mean in (("English", words), ("kl", 1.0))}
    values["English|random"] = random * rng.uniform(0.5, 1.5, (20, 5))
    values["size|English"] = np.full(20, 10.0)
    return tables_from(group_analysis, rows_of(values, groups=10))


@cache
def of_flow(kind: str) -> Tables:
    tables = dict(information_flow.planted("", True))
    if kind == "null":  # random positions cost what the subject costs
        flows = tables["flows"]
        cut = flows[flows["control"] == ""]
        tables["flows"] = pd.concat([cut, cut.assign(control="random positions")], ignore_index=True)
    if kind == "chance":
        tables["accuracy"] = not_above(tables["accuracy"], "accuracy − guessing")
    return tables


def not_above(accuracy: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The table of a task that is not solved."""
    made = accuracy.copy()
    made.loc[made["measure"] == measure, ["value", "lower", "upper"]] = (0.0, -0.1, 0.1)
    return made


@cache
def of_lenses(holds: bool, solved: bool = True) -> Tables:
    tables = dict(lenses.planted("", holds))
    if not solved:
        tables["accuracy"] = not_above(tables["accuracy"], "pair accuracy − guessing")
    return tables


@cache
def of_localisation(kind: str) -> Tables:
    found, chance = localisation.FOUND, localisation.CHANCE
    if kind == "a fixed place":  # other boxes and questions score as well
        also = ("another example's box", "another question", "random heads of the same layers")
        methods = ("attention", "localization heads")
        return localisation.tables_of(localisation.FINDS | {f"{m}|{c}": found for m in methods for c in also})
    if kind == "nothing":
        return localisation.tables_of({"": chance})
    return localisation.tables_of(wrong=0.0 if kind == "all right" else 0.5)


def of_crops(kind: str) -> Tables:
    if kind == "any crop":
        return crop_and_ask.tables_of(crop_and_ask.ANY, dict.fromkeys(crop_and_ask.ANY, 0.9), doubled=0.95)
    return crop_and_ask.tables_of(small=kind != "large", refused="one picture" if kind == "alone" else "")


def of_parts(kind: str) -> Tables:
    return attribution_rows.tables_of(kind)


def case(made: Callable[[], Tables], begins: str, state: str) -> Case:
    return lambda: (made(), begins, state)


CASES_OF: dict[str, dict[str, Case]] = {
    "circuits": {
        "a head": case(partial(of_circuits, ""), "Head 1.2 carries the answer", FOUND),
        "few": case(partial(of_circuits, ""), "A few heads carry the task", FOUND),
        "all alike": case(partial(of_circuits, "alike"), "It is not shown that a few heads carry", OPEN),
        "a quarter": case(partial(of_circuits, "quarter"), "It is not shown that a few heads carry", OPEN),
        "at chance": case(partial(of_circuits, "chance"), "which heads carry the task", UNTESTABLE),
    },
    "changed_heads": {
        "kept": case(changed_heads.tables_of, "The same heads carry the task in both models", FOUND),
        "others": case(partial(changed_heads.tables_of, kept=False), "It is not shown that the same heads", OPEN),
        "changed": case(changed_heads.tables_of, "Heads do something else since", FOUND),
        "unchanged": case(partial(changed_heads.tables_of, change=0.0), "It is not shown that heads do", OPEN),
        "one": case(changed_heads.tables_of, "The change lies in few heads", FOUND),
        "all": case(partial(changed_heads.tables_of, few=False), "It is not shown that the change lies", OPEN),
        "a head": case(changed_heads.tables_of, "1 of 48 heads changed, 4.3 the most", FOUND),
        "no head": case(partial(changed_heads.tables_of, change=0.0), "No head is shown to have changed", OPEN),
        "unsolved": case(
            partial(changed_heads.tables_of, right=0.2), "whether the same heads carry the task", UNTESTABLE
        ),
    },
    "edges": {
        "an edge": case(partial(of_edges, ""), "The edge 0.1 → q of 1.0 helps", FOUND),
        "again": case(partial(of_edges, ""), "The strongest edges are the task's", FOUND),
        "some again": case(partial(of_edges, "below"), "It is not shown that the strongest edges keep", OPEN),
        "ranks": case(partial(of_edges, ""), "One gradient finds the heads", FOUND),
        "ranks some": case(partial(of_edges, "below"), "It is not shown that one gradient ranks", OPEN),
        "luck": case(partial(of_edges, "null"), "leads where edges were chosen", OPEN),
        "at chance": case(partial(of_edges, "chance"), "which edges carry the task", UNTESTABLE),
    },
    "edge_circuits": {
        "few": case(partial(of_edge_circuits, ""), "5 % of the edges do", FOUND),
        "five": case(partial(of_edge_circuits, ""), "Five gradients find more faithful circuits", FOUND),
        "helpful": case(partial(of_edge_circuits, ""), "do more than the whole model", FOUND),
        "any edges": case(partial(of_edge_circuits, "null"), "is not shown to be more than", OPEN),
        "no more": case(partial(of_edge_circuits, "null"), "are not shown to do both", OPEN),
        "one is enough": case(partial(of_edge_circuits, "null"), "are not shown to find more faithful", OPEN),
        "at chance": case(partial(of_edge_circuits, "chance"), "what few edges do alone", UNTESTABLE),
    },
    "faithfulness": {
        "a tenth": case(partial(of_faithfulness, ""), "A tenth of the heads does", FOUND),
        "a place": case(partial(of_faithfulness, ""), "MLP 2 does most before the last position", FOUND),
        "any tenth": case(partial(of_faithfulness, "null"), "is not shown to be more than", OPEN),
        "gradients": case(partial(of_faithfulness, ""), "Gradients find the circuit", FOUND),
        "some of it": case(partial(of_faithfulness, "some"), "It is not shown that gradients find", OPEN),
        "at chance": case(partial(of_faithfulness, "chance"), "what the circuit does alone", UNTESTABLE),
    },
    "steering": {
        "repaired": case(of_steering, "Steering the heads that IOI uses repairs", FOUND),
        "harmed": case(partial(of_steering, steered=0.1), "Steering the heads that IOI uses harms", FOUND),
        "any head": case(partial(of_steering, control=0.95), "Steering the heads that IOI uses is not told", OPEN),
        "silent": case(of_steering, "The task needs its content gatherers", FOUND),
        "spared": case(partial(of_steering, silent=0.5), "not shown to need its content gatherers", OPEN),
        "turned": case(of_steering, "turns the movers to the answer", FOUND),
        "still": case(partial(of_steering, look=0.2), "not shown to turn the movers", OPEN),
        "no IOI": case(of_steering_without_ioi, "whether steering the heads that IOI uses", UNTESTABLE),
        "no look": case(of_steering_without_ioi, "where the movers look when other heads", UNTESTABLE),
        "given": case(of_steering_given, "whether steering the heads that IOI uses", UNTESTABLE),
        "given too": case(of_steering_given, "whether steering the heads found on this task", UNTESTABLE),
    },
    "overlap": {
        "the same": case(partial(of_overlap, ""), "a and b share 4 of 4 heads", FOUND),
        "others": case(partial(of_overlap, "null"), "not shown to be more than depth alone gives", OPEN),
        "at chance": case(partial(of_overlap, "chance"), "what a and b share", UNTESTABLE),
    },
    "logit_attribution": {
        "a head": case(partial(of_attribution, ""), "writes most for the answer", FOUND),
        "few": case(partial(of_attribution, ""), "Ten heads, ", FOUND),
        "copies": case(partial(of_attribution, ""), "copy what they attend to", FOUND),
        "all alike": case(partial(of_attribution, "null"), "No few heads stand out", OPEN),
        "at chance": case(partial(of_attribution, "chance"), "which heads write the answer", UNTESTABLE),
    },
    "lenses": {
        "late": case(partial(of_lenses, True), "The stream gives the answer late", FOUND),
        "early": case(partial(of_lenses, False), "It is not shown that the answer is readable late", OPEN),
        "at chance": case(partial(of_lenses, True, False), "when the answer becomes readable", UNTESTABLE),
    },
    "learned_lenses": {
        "nearer": case(lambda: learned_lenses.planted("", True), "In the middle half of the states the tuned", FOUND),
        "farther": case(lambda: learned_lenses.planted("", False), "It is not shown that the tuned lens reads", OPEN),
    },
    "jacobian_lens": {
        "earlier": case(jacobian_lens.tables_of, "The Jacobian lens reads the answer earlier", FOUND),
        "any map": case(partial(jacobian_lens.tables_of, turned=16), "It is not shown that the Jacobian lens", OPEN),
        "at chance": case(
            partial(jacobian_lens.tables_of, solved=False), "what the Jacobian lens reads earlier", UNTESTABLE
        ),
        "named": case(jacobian_lens.tables_of, "The gradient of the answer's loss, read as words", FOUND),
        "any word": case(partial(jacobian_lens.tables_of, wrong=3), "It is not shown that gradients name", OPEN),
    },
    "patchscope": {
        "says": case(patchscope.tables_of, "The model can say what its states hold", FOUND),
        "any state": case(partial(patchscope.tables_of, other=0.7), "It is not shown that the model can say", OPEN),
        "few": case(partial(patchscope.tables_of, groups=3), "It is not shown that the model can say", OPEN),
    },
    "group_lens": {
        "words": case(partial(of_group_lens, 0.3, 0.01), "Words of the group English are most probable", FOUND),
        "any words": case(partial(of_group_lens, 0.3, 0.29), "No group of words is told from", OPEN),
        "thought": case(group_lens.tables_of, "The answer comes in English first", FOUND),
        "said first": case(partial(group_lens.tables_of, target=0.5), "It is not shown that the answer comes in", OPEN),
        "not said": case(partial(group_lens.tables_of, said=0.0), "whether the answer comes in English", UNTESTABLE),
        "likely": case(group_lens.tables_of, "In the middle states 8", FOUND),
        "any list": case(partial(group_lens.tables_of, twins=0.8), "It is not shown that the middle states", OPEN),
        "English": case(partial(group_lens.tables_of, english_prompts=True), "which language likely", UNTESTABLE),
    },
    "latent_lens": {
        "named": case(latent_lens.tables_of, "The nearest words in context name", FOUND),
        "any choice": case(partial(latent_lens.tables_of, same=0.85), "It is not shown that words in context", OPEN),
        "unknown": case(partial(latent_lens.tables_of, known=False), "whether words in context name", UNTESTABLE),
        "most": case(latent_lens.tables_of, "Most of the objects' tokens lie nearest", FOUND),
        "any picture": case(partial(latent_lens.tables_of, image=0.85), "It is not shown that most of the obj", OPEN),
        "nothing": case(partial(latent_lens.tables_of, known=False), "whether most of the objects'", UNTESTABLE),
        "middle": case(latent_lens.tables_of, "What the projector puts in lies nearest", FOUND),
        "any vector": case(partial(latent_lens.tables_of, random=0.95), "It is not shown that what the proj", OPEN),
    },
    "image_lens": {
        "its object": case(partial(of_image_lens, 0.8, 0.3), "Image tokens decode to their object inside", FOUND),
        "any object": case(
            partial(of_image_lens, 0.8, 0.8), "It is not shown that image tokens decode to their object inside", OPEN
        ),
    },
    "attribution": {
        "part": case(partial(of_parts, ""), "Attention tells part of what the answer rests on", FOUND),
        "gradients": case(partial(of_parts, ""), "What integrated gradients name first", FOUND),
        "deletion": case(partial(of_parts, ""), "Attention names what the answer needs worse", FOUND),
        "later": case(partial(of_parts, ""), "Later layers' attention tells more", FOUND),
        "any prompt": case(partial(of_parts, "fixed"), "It is not shown that attention tells what", OPEN),
        "not needed": case(partial(of_parts, "worse"), "It is not shown that integrated gradients", OPEN),
        "needed": case(partial(of_parts, "worse"), "It is not shown that attention names what", OPEN),
        "early": case(partial(of_parts, "early"), "It is not shown that later layers", OPEN),
    },
    "localisation": {
        "heads": case(partial(of_localisation, ""), "Heads 1.2, chosen without a box, find what is asked", FOUND),
        "looks": case(partial(of_localisation, ""), "The model looks at what it is asked for", FOUND),
        "wrong": case(partial(of_localisation, ""), "Where its answer is wrong the model looks there", FOUND),
        "contrast": case(partial(of_localisation, ""), "The contrast with a general prompt finds", FOUND),
        "a fixed place": case(partial(of_localisation, "a fixed place"), "It is not shown that few heads", OPEN),
        "any question": case(partial(of_localisation, "a fixed place"), "is asked for: in the middle layers the", OPEN),
        "nothing": case(partial(of_localisation, "nothing"), "It is not shown that the contrast", OPEN),
        "all right": case(partial(of_localisation, "all right"), "where the model looks when it answers", UNTESTABLE),
    },
    "crop_and_ask": {
        "helps": case(partial(of_crops, ""), "A crop of where the model looks helps it", FOUND),
        "alone": case(partial(of_crops, "alone"), "A crop of where the model looks helps it", FOUND),
        "holds": case(partial(of_crops, ""), "The crop holds what is asked for", FOUND),
        "small": case(partial(of_crops, ""), "The crop helps small objects more", FOUND),
        "CARVE": case(partial(of_crops, ""), "CARVE's crop alone helps", FOUND),
        "any crop": case(partial(of_crops, "any crop"), "It is not shown that a crop of where the model", OPEN),
        "anywhere": case(partial(of_crops, "any crop"), "It is not shown that the crop holds", OPEN),
        "any size": case(partial(of_crops, "any crop"), "It is not shown that the crop helps small", OPEN),
        "large": case(partial(of_crops, "large"), "whether the crop helps small objects", UNTESTABLE),
    },
    "attention_profile": {
        "local": case(attention_profile.tables_of, "Heads look at the token before", FOUND),
        "anywhere": case(partial(attention_profile.tables_of, local=-0.1), "It is not shown that heads look at", OPEN),
        "narrower": case(attention_profile.tables_of, "In longer contexts attention covers a smaller part", FOUND),
        "any tokens": case(
            partial(attention_profile.tables_of, fall_shuffled=-0.2), "It is not shown that attention covers", OPEN
        ),
        "short": case(partial(attention_profile.tables_of, longest=4), "attention in long contexts", UNTESTABLE),
        "pictures": case(partial(attention_profile.tables_of, pictures=True), "attention in long contexts", UNTESTABLE),
        "trivial": case(attention_profile.tables_of, "Own token, previous and first explain", FOUND),
        "by rank": case(attention_profile.tables_of, "The rank of maps tells layers apart", FOUND),
        "by sharpness": case(
            partial(attention_profile.tables_of, by_rank_shuffled=0.6), "It is not shown that the rank of maps", OPEN
        ),
        "no maps": case(partial(attention_profile.tables_of, maps=False), "ranks of maps", UNTESTABLE),
    },
    "tower_profile": {
        "further": case(tower_profile.tables_of, "The vision tower looks further in its last blocks", FOUND),
        "nearer": case(partial(tower_profile.tables_of, rise=-1.0), "It is not shown that the vision tower", OPEN),
        "near": case(tower_profile.tables_of, "The first blocks of the vision tower look near", FOUND),
        "far": case(partial(tower_profile.tables_of, early=1.0), "It is not shown that the first blocks of", OPEN),
        "own": case(tower_profile.tables_of, "Patches look at themselves", FOUND),
        "others": case(partial(tower_profile.tables_of, own=-0.02), "It is not shown that patches look at", OPEN),
        "shallow": case(partial(tower_profile.tables_of, layers=2), "how far blocks look", UNTESTABLE),
    },
    "layer_similarity": {
        "swapped": case(layer_similarity.tables_of, "A layer's pattern in the place of the next one's costs", FOUND),
        "any": case(partial(layer_similarity.tables_of, other=0.01), "It is not shown that the pattern of the", OPEN),
        "kept": case(
            partial(layer_similarity.tables_of, swaps=False), "whether another layer's pattern will do", UNTESTABLE
        ),
        "alike": case(layer_similarity.tables_of, "Neighbouring layers attend alike", FOUND),
        "all alike": case(partial(layer_similarity.tables_of, far=0.6), "It is not shown that neighbouring", OPEN),
        "told": case(layer_similarity.tables_of, "How alike two neighbours are tells what it costs", FOUND),
        "untold": case(partial(layer_similarity.tables_of, told=0.0), "It is not shown that likeness without", OPEN),
        "far": case(layer_similarity.tables_of, "By entries above .1 the last position reaches", FOUND),
        "anywhere": case(partial(layer_similarity.tables_of, random=0.98), "It is not shown that large entries", OPEN),
    },
    "modality": {
        "early": case(modality.tables_of, "The question looks at the image more in early layers", FOUND),
        "late": case(
            partial(modality.tables_of, early=-0.1), "The question looks at the image more in late layers", FOUND
        ),
        "by key": case(modality.tables_of, "In the middle layers the question gives an image token less", FOUND),
        "see": case(modality.tables_of, "Of the tenth of the heads that look most", FOUND),
        "sink": case(partial(modality.tables_of, see=False), "It is not shown that heads with much attention", OPEN),
        "opinion": case(modality.tables_of, "A wrong opinion in front of the question takes attention", FOUND),
        "any sentence": case(partial(modality.tables_of, neutral=0.1), "It is not shown that a wrong opinion", OPEN),
        "none asked": case(partial(modality.tables_of, opinions=False), "what a user's opinion does", UNTESTABLE),
    },
    "probing": {
        "answer": case(probing.tables_of, "The right answer can be read in the middle half", FOUND),
        "late": case(
            partial(probing.tables_of, answered=(3,)), "It is not shown that the right answer can be read", OPEN
        ),
        "any label": case(
            partial(probing.tables_of, words=(1, 2), answered=()),
            "It is not shown that the right answer can be read",
            OPEN,
        ),
        "no answers": case(partial(probing.tables_of, answers=False), "where the answer can be read", UNTESTABLE),
        "picture": case(probing.tables_of, "The middle layers make readable what the picture shows", FOUND),
        "as it came": case(
            partial(probing.tables_of, seen=(0, 1, 2, 3)), "It is not shown that the middle layers make", OPEN
        ),
        "texts": case(partial(probing.tables_of, pictures=False), "where the picture can be read", UNTESTABLE),
        "best answer": case(probing.tables_of, "holds the right answer: on the others", FOUND),
        "no best answer": case(partial(probing.tables_of, answered=()), "It is not shown that some state holds", OPEN),
        "patches": case(partial(probing.tables_of, lying=(1, 2)), "A single image token tells what lies there", FOUND),
        "place": case(
            partial(probing.tables_of, lying=(1, 2), by_place=True),
            "It is not shown that a single image token tells",
            OPEN,
        ),
        "no boxes": case(probing.tables_of, "what single patches tell", UNTESTABLE),
        "one patch": case(
            partial(probing.tables_of, pooled="one patch"), "Learned queries over the patches tell", FOUND
        ),
        "all patches": case(
            partial(probing.tables_of, pooled="all patches"), "It is not shown that learned queries", OPEN
        ),
        "no queries": case(probing.tables_of, "what learned queries tell", UNTESTABLE),
        "best": case(probing.tables_of, "stands out most", FOUND),
        "nothing": case(
            partial(probing.tables_of, seen=(), answered=()), "It is not shown that the states hold any", OPEN
        ),
    },
    "collapse": {
        "collapses": case(collapse.tables_of, "One repetition more is seen less and less", FOUND),
        "as any weights": case(
            partial(collapse.tables_of, random=3.0), "It is not shown that this model, more than others", OPEN
        ),
        "nothing before": case(partial(collapse.tables_of, start=1e-9), "how one repetition more is seen", UNTESTABLE),
        "other seen": case(collapse.tables_of, "Another last token is seen as well", FOUND),
        "other lost": case(
            partial(collapse.tables_of, others=1.5), "It is not shown that a long run hides repetitions", OPEN
        ),
    },
    "relations": {
        "near": case(relations.tables_of, "The model relates its tokens as the other model does", FOUND),
        "strangers": case(
            partial(relations.tables_of, apart=1.0), "It is not shown that the model relates its tokens", OPEN
        ),
        "as random weights": case(
            partial(relations.tables_of, random=0.1), "It is not shown that the model relates its tokens", OPEN
        ),
        "one text": case(partial(relations.tables_of, texts=False), "how near the two models are", UNTESTABLE),
        "upper": case(relations.tables_of, "The model and the other model part most in the upper half", FOUND),
        "as any pair": case(
            partial(relations.tables_of, steeper=1.2), "It is not shown that the model and the other model part", OPEN
        ),
    },
    "subnetworks": {
        "same": case(subnetworks.tables_of, "Image and text use the same weights", FOUND),
        "none": case(partial(subnetworks.tables_of, shared=0.0), "It is not shown that image and text use", OPEN),
        "own": case(subnetworks.tables_of, "Each has weights of its own", FOUND),
        "all": case(partial(subnetworks.tables_of, shared=1.0), "It is not shown that each has weights", OPEN),
        "one fold": case(partial(subnetworks.tables_of, folds=1), "which weights image and text use", UNTESTABLE),
    },
    "similarity": {
        "alike": case(similarity.tables_of, "Image and text states grow alike", FOUND),
        "as any": case(partial(similarity.tables_of, alike=()), "It is not shown that image and text states", OPEN),
        "few states": case(partial(similarity.tables_of, states=3), "whether image and text states grow", UNTESTABLE),
        "own text": case(similarity.tables_of, "An image's state is more like its own text's", FOUND),
        "any text": case(
            partial(similarity.tables_of, shared=(), against=(3,)), "It is not shown that an image's state is", OPEN
        ),
        "few groups": case(partial(similarity.tables_of, count=3), "what an image and its text share", UNTESTABLE),
        "apart": case(similarity.tables_of, "Texts lie nearer to other texts than to images in every", FOUND),
        "together": case(partial(similarity.tables_of, apart=-2.0), "It is not shown that texts lie nearer", OPEN),
        "pages": case(similarity.pages_of, "The same page in two languages is more alike in the middle", FOUND),
        "at the ends": case(
            partial(similarity.pages_of, shared=(0, 1, 6, 7)), "It is not shown that the same page", OPEN
        ),
        "no page": case(partial(similarity.pages_of, paired=False), "where the same page in two", UNTESTABLE),
    },
    "influence": {
        "near": case(influence.tables_of, "What heads need for the answer lies near", FOUND),
        "any slope": case(
            partial(influence.tables_of, shuffled=1.0), "It is not shown that heads need near keys", OPEN
        ),
        "together": case(influence.tables_of, "Picture and question say the answer together", FOUND),
        "any answer": case(partial(influence.tables_of, wrong=1.0), "It is not shown that picture and question", OPEN),
        "texts": case(partial(influence.tables_of, pictures=False), "what picture and question say", UNTESTABLE),
        "short": case(partial(influence.tables_of, reached=3), "how far the heads reach", UNTESTABLE),
        "estimates": case(influence.tables_of, "First-order estimates of masking can be read here", FOUND),
        "blind": case(
            partial(influence.tables_of, told=False), "First-order estimates of masking are to be read", OPEN
        ),
    },
    "image_paths": {
        "text": case(image_paths.tables_of, "The heads that write the answer hear the others at the text", FOUND),
        "picture": case(
            partial(image_paths.tables_of, picture=3.0), "It is not shown that the heads that write the answer", OPEN
        ),
        "chance": case(
            partial(image_paths.tables_of, right=0.2), "where the answer's heads hear the others", UNTESTABLE
        ),
        "before": case(image_paths.tables_of, "Attention at the picture's tokens acts", FOUND),
        "behind": case(
            partial(image_paths.tables_of, early=4), "It is not shown that attention at the picture's tokens", OPEN
        ),
    },
    "information_flow": {
        "read": case(partial(of_flow, ""), "The last position reads the subject", FOUND),
        "any word": case(partial(of_flow, "null"), "It is not shown that the last position needs the subject", OPEN),
        "at chance": case(partial(of_flow, "chance"), "what the last position reads of the subject", UNTESTABLE),
    },
    "head_divergence": {
        "heads": case(partial(of_divergence, relative=2.0), "heads react to the image more than", FOUND),
        "no head": case(of_divergence, "No head is sure to react", OPEN),
        "words": case(partial(of_divergence, words=2.0), "tells hallucinated words from correct ones", FOUND),
        "any image": case(partial(of_divergence, words=2.0, control_words=2.0), "does not tell hallucinated", OPEN),
        "few": case(partial(of_divergence, maps=head_divergence.FEW), "A tenth of the heads holds", FOUND),
        "few of any": case(
            partial(of_divergence, maps=head_divergence.FEW, control=head_divergence.FEW), "That a tenth of", OPEN
        ),
    },
    "redundancy": {
        "told": case(redundancy.tables_of, "turn the residual stream tells what", FOUND),
        "size": case(partial(redundancy.tables_of, null=True), "turn the residual stream is not shown to", OPEN),
        "least": case(redundancy.tables_of, "Leaving out the third of the attention layers that turns", FOUND),
        "any third": case(partial(redundancy.tables_of, least=0.9), "It is not shown that the third of the", OPEN),
        "deep": case(redundancy.tables_of, "The deepest third of the attention layers can be left out", FOUND),
        "needed": case(partial(redundancy.tables_of, deep=0.5), "It is not shown that the deepest third", OPEN),
        "vision": case(redundancy.tables_of, "A quarter of the layers matters more with the image", FOUND),
        "any layer": case(partial(redundancy.tables_of, alike=True), "It is not shown that some layers matter", OPEN),
        "no attention": case(partial(redundancy.tables_of, attention=False), "which attention can be left", UNTESTABLE),
    },
    "experts": {
        "own": case(experts.tables_of, "Labels have experts of their own", FOUND),
        "alike": case(partial(experts.tables_of, own=0.3), "It is not shown that labels have experts", OPEN),
        "needed": case(experts.tables_of, "Texts need the experts of their own label", FOUND),
        "any": case(partial(experts.tables_of, random=1.0), "It is not shown that texts need the experts", OPEN),
        "used": case(experts.tables_of, "of the experts get no token of all texts", FOUND),
        "unused": case(partial(experts.tables_of, never=0.8), "It is not shown that fewer than 60 %", OPEN),
        "no labels": case(partial(experts.tables_of, labels=False), "whether labels have experts", UNTESTABLE),
        "kept": case(partial(experts.tables_of, out=False), "what experts of one label are for", UNTESTABLE),
    },
    "dictionaries": {
        "kept": case(dictionaries.tables_of, "The model keeps most of what it uses", FOUND),
        "lost": case(partial(dictionaries.tables_of, recovers=0.7), "It is not shown that a dictionary's few", OPEN),
        "components too": case(
            partial(dictionaries.tables_of, components=0.95), "It is not shown that a dictionary's few", OPEN
        ),
        "steers": case(dictionaries.tables_of, "Features of a label do what they stand for", FOUND),
        "any": case(partial(dictionaries.tables_of, others=0.2), "It is not shown that features of a label do", OPEN),
        "no labels": case(partial(dictionaries.tables_of, labels=False), "what features of a label do", UNTESTABLE),
        "tells": case(dictionaries.tables_of, "A dictionary's features tell more of a state", FOUND),
        "less": case(
            partial(dictionaries.tables_of, explains=0.4), "It is not shown that a dictionary's features", OPEN
        ),
    },
    "neurons": {
        "own": case(neurons.tables_of, "Languages (or domains) have neurons of their own", FOUND),
        "alike": case(partial(neurons.tables_of, own=0.3), "It is not shown that languages (or domains) have", OPEN),
        "needed": case(neurons.tables_of, "A language (or domain) needs its own neurons", FOUND),
        "any": case(partial(neurons.tables_of, random=1.0), "It is not shown that a language (or domain) needs", OPEN),
        "ends": case(neurons.tables_of, "Neurons of one language or domain lie at both ends", FOUND),
        "middle": case(partial(neurons.tables_of, ends=False), "It is not shown that neurons of one language", OPEN),
        "explained": case(neurons.tables_of, "A language (or domain) explains its neurons", FOUND),
        "any label": case(
            partial(neurons.tables_of, any_label=True), "It is not shown that a language (or domain) explains", OPEN
        ),
        "no cards": case(partial(neurons.tables_of, found=False), "how far a language or domain explains", UNTESTABLE),
        "none": case(partial(neurons.tables_of, found=False), "whether languages or domains have", UNTESTABLE),
        "kept": case(partial(neurons.tables_of, removed=False), "what neurons of one language", UNTESTABLE),
        "tower": case(neurons.of_pictures, "Kinds of pictures have neurons of their own in the vision tower", FOUND),
        "any picture": case(
            partial(neurons.of_pictures, 0.3), "kinds of pictures have neurons of their own in the vision", OPEN
        ),
        "channels": case(partial(neurons.of_channels, True), "Channels of queries and keys that serve", FOUND),
        "inner": case(partial(neurons.of_channels, False), "It is not shown that channels of queries", OPEN),
    },
    "directions": {
        "steers": case(directions.tables_of, "the direction of “yes” makes the model say it more", FOUND),
        "any": case(partial(directions.tables_of, control=1.0), "It is not shown that the direction of “yes”", OPEN),
        "few": case(partial(directions.tables_of, groups=8), "whether the direction steers", UNTESTABLE),
        "needed": case(directions.tables_of, "The model needs the direction of “yes”", FOUND),
        "not needed": case(
            partial(directions.tables_of, control=1.0),
            "It is not shown that the model needs the direction",
            OPEN,
        ),
        "few groups": case(partial(directions.tables_of, groups=8), "whether the model needs", UNTESTABLE),
    },
    "routes": {
        "matter": case(routes.tables_of, "Routes find heads that matter", FOUND),
        "as chance": case(partial(routes.tables_of, chance=10.0), "That routes find what matters better than", OPEN),
        "no twins": case(partial(routes.tables_of, twins=False), "whether routes find heads", UNTESTABLE),
        "needed": case(routes.tables_of, "Routes keep what the last token needs", FOUND),
        "not needed": case(partial(routes.tables_of, read_null=True), "above .3 and above the control's is not", OPEN),
        "not cut": case(partial(routes.tables_of, cuts=False), "whether routes agree with knockout", UNTESTABLE),
        "sparse": case(routes.tables_of, "Routes are sparse", FOUND),
        "as sparse": case(partial(routes.tables_of, edges=0.35), "That these are both fewer than 20 %", OPEN),
        "not the sink": case(routes.tables_of, "Routes leave the first token out", FOUND),
        "as attention": case(
            partial(routes.tables_of, attended=0.1), "less than half and less than of attention is", OPEN
        ),
        "before": case(routes.tables_of, "Routes lead through heads that look at the token before", FOUND),
        "elsewhere": case(
            partial(routes.tables_of, previous=0.05), "more than 20 % and more than the control's is not", OPEN
        ),
        "few groups": case(partial(routes.tables_of, groups=6), "previous-token heads", UNTESTABLE),
    },
    "weights": {
        "components": case(weights.tables_of, "Most heads read single components", FOUND),
        "noise": case(partial(weights.tables_of, composed=False), "It is not shown that most heads read", OPEN),
        "symmetric": case(weights.tables_of, "What a head looks for resembles what it is found by", FOUND),
        "any": case(partial(weights.tables_of, symmetric=0.48), "It is not shown that heads' scores are", OPEN),
        "normed": case(partial(weights.tables_of, circuits=False), "composition of heads", UNTESTABLE),
        "pairs": case(weights.tables_of, "A quarter of the rotary pairs carries most", FOUND),
        "all pairs": case(partial(weights.tables_of, pairs=weights.PAIRS), "That it is more than half is not", OPEN),
        "not turned": case(partial(weights.tables_of, rotary=False), "which rotary frequencies", UNTESTABLE),
        "crowded": case(weights.tables_of, "Keys are crowded", FOUND),
        "apart": case(partial(weights.tables_of, crowded=1.1), "it is not shown to be more than twice", OPEN),
        "short": case(partial(weights.tables_of, keys=False), "how far keys lie apart", UNTESTABLE),
    },
    "module_lens": {
        "image": case(module_lens.tables_of, "The lens is less sure of a word at image tokens", FOUND),
        "noise": case(partial(module_lens.tables_of, noise_image=2.0), "It is not shown that the lens is less", OPEN),
        "text": case(partial(module_lens.tables_of, pictures=False), "how sure the lens is at image", UNTESTABLE),
        "MLPs": case(module_lens.tables_of, "MLPs make text tokens surer of a word", FOUND),
        "any write": case(partial(module_lens.tables_of, noise_mlp=-1.0), "It is not shown that MLPs make", OPEN),
    },
    "number_spectrum": {
        "slow": case(number_spectrum.tables_of, "Slow waves over the numbers are needed in MLPs", FOUND),
        "fast": case(number_spectrum.tables_of, "Fast waves over the numbers are needed in attention", FOUND),
        "shares": case(number_spectrum.tables_of, "MLPs of the second half write slower waves", FOUND),
        "any slow": case(
            partial(number_spectrum.tables_of, control=1.0), "It is not shown that slow waves are needed", OPEN
        ),
        "any fast": case(
            partial(number_spectrum.tables_of, control=1.0), "It is not shown that fast waves are needed", OPEN
        ),
        "any words": case(
            partial(number_spectrum.tables_of, words=5.0), "It is not shown that MLPs write slower waves", OPEN
        ),
        "at chance": case(partial(number_spectrum.tables_of, right=0.1), "whether MLPs need slow waves", UNTESTABLE),
        "by chance": case(partial(number_spectrum.tables_of, right=0.1), "attention needs fast waves", UNTESTABLE),
    },
    "lofit": {
        "matter": case(lofit.tables_of, "The heads that training chooses matter", FOUND),
        "any heads": case(partial(lofit.tables_of, random=2.0), "It is not shown that it matters which heads", OPEN),
        "same": case(lofit.tables_of, "Training again with another seed chooses 6 of 6 heads again", FOUND),
        "others": case(partial(lofit.tables_of, alike=False), "It is not shown that another seed", OPEN),
        "kept": case(lofit.tables_of, "Neutral text stays as likely with the learned offsets", FOUND),
        "lost": case(partial(lofit.tables_of, loss=0.4), "leave neutral text alone is not shown", OPEN),
        "not read": case(partial(lofit.tables_of, neutral=False), "what learned offsets do to neutral", UNTESTABLE),
    },
    "shared_heads": {
        "the same": case(shared_heads.tables_of, "a and b choose 5 of 5 heads in common", FOUND),
        "others": case(
            partial(shared_heads.tables_of, second=shared_heads.OTHERS), "not shown to be more than depth", OPEN
        ),
        "all": case(
            partial(shared_heads.tables_of, shared_heads.EVERY, shared_heads.EVERY),
            "which heads a and b choose in common",
            UNTESTABLE,
        ),
    },
    "recall": {
        "follows": case(recall.tables_of, "The MLP of layer 2 follows the movers", FOUND),
        "another input": case(partial(recall.tables_of, copies=0.0), "mostly follows the movers", OPEN),
        "points": case(recall.tables_of, "whatever the subject is points to the answer", FOUND),
        "nowhere": case(
            partial(recall.tables_of, points=0.0), "It is not shown that what the MLP of layer 2 adds", OPEN
        ),
        "one relation": case(partial(recall.tables_of, relations=1), "where b points", UNTESTABLE),
        "doubts": case(recall.tables_of, "The last MLP works against the answer", FOUND),
        "sure": case(partial(recall.tables_of, doubt=-1.0), "It is not shown that the last MLP works", OPEN),
        "looks": case(recall.tables_of, "Movers look at the subject", FOUND),
        "elsewhere": case(partial(recall.tables_of, looks=0.05), "It is not shown that movers look", OPEN),
        "at chance": case(recall.not_solved, "whether a late MLP follows the movers", UNTESTABLE),
    },
    "highlighting": {
        "helps": case(highlighting.tables_of, "Highlighting the right words in chosen heads helps", FOUND),
        "any heads": case(partial(highlighting.tables_of, random=1.0), "in chosen heads helps is not shown", OPEN),
        "any words": case(partial(highlighting.tables_of, other=1.0), "in chosen heads helps is not shown", OPEN),
        "all hurt": case(highlighting.tables_of, "Highlighting the right words in every head hurts", FOUND),
        "all help": case(partial(highlighting.tables_of, every=0.5), "in every head hurts is not shown", OPEN),
        "kept": case(highlighting.tables_of, "Neutral text stays as likely", FOUND),
        "lost": case(partial(highlighting.tables_of, loss=0.4), "leaves neutral text alone is not shown", OPEN),
        "not read": case(partial(highlighting.tables_of, neutral=False), "what highlighting does to", UNTESTABLE),
    },
    "looking": {
        "helps": case(looking.tables_of, "Reading the picture more in the heads that read it most helps", FOUND),
        "any heads": case(partial(looking.tables_of, random=1.0), "read it most helps is not shown", OPEN),
        "unseen": case(partial(looking.tables_of, blank=1.0), "read it most helps is not shown", OPEN),
        "all": case(looking.tables_of, "Reading the picture more in every head helps", FOUND),
        "all harm": case(partial(looking.tables_of, every=-1.0), "in every head helps is not shown", OPEN),
        "gaze": case(looking.tables_of, "that the gaze moves to helps: the answer", FOUND),
        "any patch": case(partial(looking.tables_of, permuted=1.0), "gaze moves to helps is not shown", OPEN),
        "any map": case(partial(looking.tables_of, other_map=1.0), "gaze moves to helps is not shown", OPEN),
        "absent": case(looking.tables_of, "helps where the right answer is no: ", FOUND),
        "unseen absent": case(partial(looking.tables_of, blank=1.0), "right answer is no is not shown", OPEN),
        "no draws": case(partial(looking.tables_of, drawn=False), "there are no random heads", UNTESTABLE),
        "none asked": case(partial(looking.tables_of, asked=False), "no question's right answer is no", UNTESTABLE),
    },
    "rope_bases": {
        "helps": case(rope_bases.tables_of, "Mixing several rotary bases helps the model", FOUND),
        "any bases": case(partial(rope_bases.tables_of, nearby=-0.1), "bases helps the model is not shown", OPEN),
        "harms": case(partial(rope_bases.tables_of, mixed=0.2), "bases helps the model is not shown", OPEN),
        "little": case(rope_bases.tables_of, "Mixing several rotary bases costs the model little", FOUND),
        "much": case(partial(rope_bases.tables_of, mixed=0.2), "costs the model little is not shown", OPEN),
        "as alone": case(partial(rope_bases.tables_of, largest=-0.1), "costs the model little is not shown", OPEN),
    },
    "visual_exit": {
        "goes": case(visual_exit.tables_of, "Behind two thirds of the layers the image may go", FOUND),
        "long": case(visual_exit.tables_of, "The image has to be read by the first", FOUND),
        "like text": case(
            partial(visual_exit.tables_of, words=True), "It is not shown that the image is needed for longer", OPEN
        ),
        "stays": case(partial(visual_exit.tables_of, read_at=11), "It is not shown that the image may go", OPEN),
        "unseen": case(partial(visual_exit.tables_of, blind=1.0), "It is not shown that the image may go", OPEN),
        "read": case(visual_exit.tables_of, "The image is read between a quarter and two thirds", FOUND),
        "any token": case(partial(visual_exit.tables_of, text=1.0), "It is not shown that the image is needed", OPEN),
        "no answers": case(partial(visual_exit.tables_of, answers=False), "where the image is read", UNTESTABLE),
    },
    "repairs": {
        "mends": case(lambda: repairs.made({"VHR": 0.5}), "VHR helps", FOUND),
        "harms": case(lambda: repairs.made({"VHR": -0.5}), "VHR harms", FOUND),
        "any heads": case(lambda: repairs.made({"VHR": 0.5}, controls=0.5), "It is not shown that VHR helps", OPEN),
        "nothing": case(lambda: repairs.made({"VHR": 0.5}), "VAR changed no answer of 120", OPEN),
        "at chance": case(lambda: repairs.made({"VHR": 0.5}, solved=0.4), "what VHR does", UNTESTABLE),
    },
    "sinks": {
        "first": case(of_sinks, "The first token takes 6", FOUND),
        "uniform": case(partial(of_sinks, first=0.1), "The first token takes no more attention", OPEN),
        "in images": case(of_sinks, "of the image tokens are sinks", FOUND),
        "masked": case(of_sinks, "Visual sinks carry less", FOUND),
        "masked like any": case(partial(of_sinks, harm=0.27), "is not told from masking random", OPEN),
        "no τ": case(of_sinks_without_tau, "sinks in images", UNTESTABLE),
    },
    "subject_card": {
        "seen": case(lambda: subject_card.planted("swapped", True), "The answers come from the image", FOUND),
        "blind": case(lambda: subject_card.planted("swapped", False), "The answers do not come from the image", OPEN),
        "made up": case(lambda: subject_card.planted("CHAIR hard", True), "In captions of hard scenes", FOUND),
    },
}
CASES = [(analysis, name) for analysis, cases in CASES_OF.items() for name in cases]

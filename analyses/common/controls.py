"""Every control, under one name with one null, drawn by example: what a number is compared with.

Random heads, positions, spans: as many as were chosen, without replacement, never what was chosen itself. Random
words: as many tokens of nearby ids that are words too. Another image, another question, a blank image: the example
with that part exchanged. Shuffled tokens: the chosen ones at other places of those asked about; a shuffled prompt: all
of its text in another order; shuffled keys: what a row of attention gives, to other keys of it. Random direction: of
the same norm; or in the space of the states' largest components. Uniform attention: all visible tokens alike. Another
box: of the same size, where another example's lies. A permuted map: its values at other cells. Permuted labels: every
group has those of another one; permuted pairs: its partner; sets exchanged: half of the groups have theirs the other
way round. The control task: a random label for each kind of word (Hewitt and Liang, arXiv 1909.03368).

A draw belongs to a key, the example's id and the number of the draw; where one draw has to serve a whole batch, its
number alone. So neither the batch nor its padding nor the order of the examples changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ...data.example import Example
from ...probes.prompts.batch import Batch

DRAWS = 20
HEADS = "random heads of the same layers"
IMAGE, QUESTION = "another image", "another question"
GENERAL_PROMPT = "Write a general description of the image."  # in a question's place; arXiv 2502.17422
BOX, PERMUTED = "another example's box", "the map permuted"
SPAN = "another span of equal length"
SHUFFLED, UNIFORM = "shuffled tokens", "uniform attention"
SHUFFLED_PROMPT = "the prompt's tokens shuffled"
PERMUTED_LABELS, CONTROL_TASK = "labels permuted over groups", "random labels (control task)"
PERMUTED_IN_FOLDS = "labels permuted among documents"  # those of a fold among themselves, where it has all
NEURONS = "as many random neurons of like activity"
EXPERTS = "as many random experts of like load"
EXPERTS_SHUFFLED = "experts shuffled at each token"  # the same gates; whose they are is drawn for each token anew
MLP_NEURONS = "MLP neurons chosen alike"
RANDOM_WEIGHTS = "random weights"  # of the same shape, as training begins with them: `probes/model/random_weights.py`
FEATURES = "as many features of like activity"
DIRECTION = "a random direction of the same norm"
UNTRAINED, COMPONENTS = "as many random directions", "as many principal components"  # of those that a state is told by
SUBSPACE = "random directions among the largest components"
TURNED = "the same map turned at random"  # what a map does beyond the identity, between other directions
OTHER_WRITER = "the output weights of another head, the MLP of another token"  # in each layer; attention, values stay
NUMBERS, WORDS = "numbers in another order", "as many random words"  # words: of nearby ids, `random_words`
SUBSPACES = "a random subspace of the same rank"
NOISE = "noise of the same norm"  # a random direction in the place of what a module writes
SHUFFLED_KEYS, RANDOM_ENTRIES = "keys of a row shuffled", "as many random entries"
PAIRS = "pairs permuted over groups"  # each with another group's partner
EXCHANGED = "sets exchanged at random"  # which of an example's two states belongs to which set
NEAR = 500  # random words are at most so many ids away from the word they stand for: ids go roughly by frequency
Head = tuple[int, int]


def example_keys(ids: Sequence[str], draw: int) -> list[str]:
    """One key for each example, whatever batch it is in."""
    return [f"{name} {draw}" for name in ids]


def layer_keys(seed: int | Sequence[str], count: int, layer: int) -> list[str]:
    """The keys of so many prompts at one layer. seed: one number for all prompts, or one key for each.

    Errors: ValueError for another number of keys.
    """
    each = [str(seed)] * count if isinstance(seed, int) else list(seed)
    if len(each) != count:
        raise ValueError(f"{len(each)} keys for {count} prompts: one for each")
    return [f"{key} layer {layer}" for key in each]


def random_positions(
    chosen: Bool[Tensor, "b *rest p"], allowed: Bool[Tensor, "b *rest p"], keys: Sequence[str]
) -> Bool[Tensor, "b *rest p"]:
    """As many allowed positions as are chosen, none of them a chosen one; all that there are where there are fewer.

    keys: one for each example, "<example id> <draw>"; rows of `rest` (heads) are drawn independently. Places are
    counted among an example's allowed ones, so padding does not matter. Errors: ValueError for another number of keys.
    """
    if len(keys) != len(chosen):
        raise ValueError(f"{len(keys)} keys for {len(chosen)} examples: one for each")
    free = allowed & ~chosen
    place = (free.cumsum(-1) - 1).clamp(min=0)
    drawn = torch.stack([_numbers(key, chosen.shape[1:]) for key in keys]) if keys else torch.zeros(chosen.shape)
    order = drawn.to(chosen.device).gather(-1, place).masked_fill(~free, torch.inf)
    rank = order.argsort(dim=-1, stable=True).argsort(dim=-1)
    return free & (rank < chosen.sum(-1, keepdim=True))


def random_spans(chosen: Bool[Tensor, "b p"], allowed: Bool[Tensor, "b p"], keys: Sequence[str]) -> Bool[Tensor, "b p"]:
    """Another stretch of as many allowed positions as are chosen, none of them a chosen one, evenly drawn.

    Where no stretch is that long, as many single ones. keys: as in `random_positions`, whose errors it has.
    """
    drawn, free = random_positions(chosen, allowed, keys), allowed & ~chosen
    for row, key in enumerate(keys):
        length = int(chosen[row].sum())
        open_to = free[row].unfold(0, length, 1).all(1).nonzero()[:, 0] if 0 < length <= free.shape[1] else ()
        if len(open_to):
            start = int(open_to[int(np.random.default_rng(crc32(f"{key} span".encode())).integers(len(open_to)))])
            drawn[row] = False
            drawn[row, start : start + length] = True
    return drawn


def _numbers(key: str, shape: Sequence[int]) -> Tensor:
    """[*rest, p] in 0…1; the first places have the same numbers however many follow."""
    *rest, length = shape
    drawn = np.random.default_rng(crc32(key.encode())).random((length, *rest))
    return torch.from_numpy(np.moveaxis(drawn, 0, -1).copy())


def random_heads(chosen: Bool[Tensor, "row h"], keys: Sequence[str]) -> Bool[Tensor, "row h"]:
    """As many other heads in each row, all others where they are fewer; rows are layers, or examples at one layer.

    keys: one for each row, as in `random_positions`; with one layer's rows the layer has to be in the key.
    """
    return random_positions(chosen, torch.ones_like(chosen), keys)


def random_circuits(circuit: Collection[Head], n_heads: int, draws: int = DRAWS, key: str = "") -> list[list[Head]]:
    """Random circuits with as many heads in every layer, (layer, head) in order, none of them a member of `circuit`.

    Where a layer has fewer other heads than members, the rest comes from the nearest layers that the circuit has; no
    draws where these too have not enough. key: an example's id, or "" where a batch shares the draws.
    """
    layers = sorted({layer for layer, _ in circuit})
    chosen = torch.zeros(len(layers), n_heads, dtype=torch.bool)
    for layer, head in circuit:
        chosen[layers.index(layer), head] = True
    if int(chosen.sum()) > chosen.numel() // 2:
        return []
    keys = [[f"{key} {draw} layer {layer}" for layer in layers] for draw in range(draws)]
    drawn = [_with_neighbours(random_heads(chosen, rows), chosen, layers, rows) for rows in keys]
    return [[(layers[row], head) for row, head in one.nonzero().tolist()] for one in drawn]


def _with_neighbours(
    drawn: Bool[Tensor, "row h"], chosen: Bool[Tensor, "row h"], layers: Sequence[int], keys: Sequence[str]
) -> Bool[Tensor, "row h"]:
    """The draw, with what a layer lacks taken from the layers next to it."""
    drawn = drawn.clone()
    for row, lacking in enumerate((chosen.sum(1) - drawn.sum(1)).tolist()):
        if lacking:
            free = [(abs(layers[i] - layers[row]), i, head) for i, head in (~chosen & ~drawn).nonzero().tolist()]
            luck = _numbers(f"{keys[row]} neighbours", (len(free),)).tolist()
            nearest = sorted(zip(free, luck, strict=True), key=lambda one: (one[0][0], one[1]))
            for (_, i, head), _luck in nearest[:lacking]:
                drawn[i, head] = True
    return drawn


@lru_cache(maxsize=16)
def random_words(tokenizer: Any, ids: tuple[int, ...], taken: frozenset[int], vocabulary: int) -> list[list[int]]:
    """DRAWS times as many tokens as `ids`: words, none of `taken`, within NEAR ids of their token, the same for every
    batch. Where no word is near, any token that is not taken.
    """
    rng = np.random.default_rng(0)

    @cache
    def is_word(token: int) -> bool:
        text = tokenizer.decode([token]).strip()
        return text.isalpha() and len(text) > 1

    columns = []
    for i in ids:
        near = [j for j in range(max(0, i - NEAR), min(vocabulary, i + NEAR + 1)) if j not in taken]
        columns.append(rng.choice([j for j in near if is_word(j)] or near, DRAWS))
    return np.stack(columns, 1).tolist()


def with_images(example: Example, other: Callable[[Image.Image], Image.Image]) -> Example:
    """The example with `other` of each of its images in their places. Boxes, which were the own image's, go."""
    segments = tuple(
        s if isinstance(s.content, str) else s._replace(content=other(s.content)) for s in example.segments
    )
    return replace(example, segments=segments, boxes={})


def another_image(example: Example) -> Example | None:
    """The example with the images of an unrelated one; None where there are none."""
    if not example.unrelated:
        return None
    others = iter(example.unrelated)
    return with_images(example, lambda own: next(others))


def blank_image(example: Example, colour: tuple[int, int, int]) -> Example:
    """The example with a plain image of the same size in the place of each."""
    return with_images(example, lambda own: Image.new("RGB", own.size, colour))


def another_question(example: Example, question: str) -> Example | None:
    """The example with another text in its first question, further ones left out; None without a question."""
    asked = [i for i, s in enumerate(example.segments) if s.role == "question"]
    if not asked:
        return None
    own = str(example.segments[asked[0]].content)
    space = own[: len(own) - len(own.lstrip())]
    segments = [
        s._replace(content=f"{space}{question}", marks={}) if i == asked[0] else s
        for i, s in enumerate(example.segments)
        if i not in asked[1:]
    ]
    return replace(example, segments=tuple(segments))


def question_of(example: Example) -> str:
    """The example's first question, "" without one."""
    return next((str(s.content).strip() for s in example.segments if s.role == "question"), "")


def other_question(example: Example, questions: Sequence[str]) -> str | None:
    """One of `questions` that is not the example's own, the same for the same example; None without any."""
    own = question_of(example)
    drawn = one_of_each([question for question in questions if question != own], example_keys([example.id], 0))
    return drawn[0] if drawn else None


def shuffled(chosen: Bool[np.ndarray, "n states p"], asked: Bool[np.ndarray, "n p"], ids: Sequence[str]) -> np.ndarray:
    """Each example's chosen tokens at other places of those that are asked about, state by state."""
    mixed = np.zeros_like(chosen)
    for i, name in enumerate(ids):
        rng = np.random.default_rng(crc32(str(name).encode()))
        mixed[i][:, asked[i]] = rng.permuted(chosen[i][:, asked[i]], axis=1)
    return mixed


def one_of_each(several: Sequence[Any], keys: Sequence[str]) -> list[Any]:
    """One of `several` for each key, with replacement; nothing where there are none."""
    return [
        several[int(np.random.default_rng(crc32(key.encode())).integers(len(several)))] for key in keys if len(several)
    ]


def permutations(count: int, keys: Sequence[str]) -> Tensor:
    """An order of so many cells for each key, Int[keys, count]."""
    drawn = [np.random.default_rng(crc32(f"{key} permuted".encode())).permutation(count) for key in keys]
    return torch.from_numpy(np.array(drawn, int).reshape(len(keys), count))


def shuffled_tokens(batch: Batch) -> Batch:
    """The same prompts with the tokens behind the first in another order; images stay where they are."""
    whole = batch.inputs["input_ids"].clone()
    moved = batch.mask & ~batch.where("image")
    for row, own, name in zip(whole, moved, batch.example_ids, strict=True):
        at = own.nonzero()[1:, 0]
        row[at] = row[at[permutations(len(at), [f"{name} tokens"])[0]]]
    return replace(batch, inputs={**batch.inputs, "input_ids": whole})


def permuted_labels(labels: np.ndarray, groups: np.ndarray, draw: int) -> np.ndarray:
    """Every group's labels are those of a group drawn for it, mixed, repeated or cut to its size: [n]."""
    names, codes = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(crc32(f"labels {draw}".encode()))
    whole = np.empty_like(labels)
    for own, other in enumerate(rng.permutation(len(names))):
        # Mixed, so that what groups have in common (a question of each kind, in turn) goes too.
        whole[codes == own] = np.resize(rng.permutation(labels[codes == other]), int((codes == own).sum()))
    return whole


def other_groups(count: int, draw: int) -> np.ndarray:
    """Another group for each of so many, every one once: [count]. Nothing can be drawn for one alone: itself."""
    order = np.random.default_rng(crc32(f"pairs {draw}".encode())).permutation(count)
    found = np.empty(count, int)
    found[order] = np.roll(order, 1)
    return found


def random_half(count: int, draw: int) -> np.ndarray:
    """Half of so many, Bool[count]."""
    order = np.random.default_rng(crc32(f"half {draw}".encode())).permutation(count)
    return order < count // 2


def random_labels(words: np.ndarray, classes: Sequence[str], draw: int) -> np.ndarray:
    """The classes dealt out in turn to the kinds of word, in a random order: [n], equal words have equal labels."""
    order = sorted({*words.tolist()}, key=lambda word: (crc32(f"{word} label {draw}".encode()), word))
    given = {word: classes[i % len(classes)] for i, word in enumerate(order)}
    return np.array([given[word] for word in words.tolist()])


def random_edges(edges: Bool[Tensor, "*batch n n"], key: str) -> Bool[Tensor, "*batch n n"]:
    """In each row as many edges to random positions before it as the row has."""
    n = edges.shape[-1]
    before = torch.ones(n, n, dtype=torch.bool, device=edges.device).tril(-1)
    drawn = np.random.default_rng(crc32(key.encode())).random(edges.shape, dtype=np.float32)
    order = torch.from_numpy(drawn).to(edges.device).masked_fill(~before, 2.0).argsort(-1).argsort(-1)
    return (order < edges.sum(-1, keepdim=True)) & before


def random_directions(directions: Float[Tensor, "b d"], keys: Sequence[str]) -> Float[Tensor, "b d"]:
    """A direction for each example, uniform on the sphere, of the norm of its own. keys: as in `random_positions`."""
    drawn = [np.random.default_rng(crc32(key.encode())).normal(size=directions.shape[1]) for key in keys]
    random = torch.tensor(np.array(drawn).reshape(directions.shape)).to(directions)
    return random * directions.norm(dim=-1, keepdim=True) / random.norm(dim=-1, keepdim=True)


def random_in_subspace(states: Float[Tensor, "n d"], components: int, key: str) -> Float[Tensor, " d"]:
    """A unit direction, uniform in the space of the largest principal components of some states: where states differ
    anyway, unlike almost every direction of the whole space. Of few states as many components as they have.
    """
    centred = states.double() - states.double().mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    kept = min(components, max(int((sizes > 1e-6 * sizes[0]).sum()), 1))
    drawn = np.random.default_rng(crc32(f"{key} in the subspace".encode())).normal(size=kept)
    return torch.nn.functional.normalize(torch.from_numpy(drawn) @ axes[:kept].cpu(), dim=-1).to(states)


def turned_map(matrix: Float[Tensor, "d d"], key: str) -> Float[Tensor, "d d"]:
    """1 + Q (M − 1) Qᵀ with an orthogonal Q, uniformly drawn: as far from the identity as M, with the singular values
    and eigenvalues of M − 1, between directions that have nothing to do with the model.
    """
    axes, one = _turn(len(matrix), key).to(matrix), torch.eye(len(matrix)).to(matrix)
    return one + axes @ (matrix - one) @ axes.T


@lru_cache(maxsize=4)
def _turn(width: int, key: str) -> Float[Tensor, "d d"]:
    drawn = np.random.default_rng(crc32(f"{key} turned".encode())).normal(size=(width, width))
    axes, upper = np.linalg.qr(drawn)
    return torch.from_numpy(axes * np.sign(np.diag(upper)))  # without the signs Q is not uniform


def uniform_on_first(length: np.ndarray) -> np.ndarray:
    """What heads that look at all tokens alike give the first one, mean over the queries behind it, [n]."""
    return np.array([(1 / np.arange(2, n + 1)).mean() if n > 1 else np.nan for n in length.astype(int)])

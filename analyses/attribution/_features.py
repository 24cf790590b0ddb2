"""What can be taken away from a prompt: its words, and blocks of the picture's patches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...data.tokens import labels
from ...probes.prompts.batch import Batch
from ...probes.prompts.geometry.views import THUMBNAIL, Picture

SPOKEN = ("system", "text", "question", "instruction")  # roles whose tokens are words
GLYPHS = ("Ġ", "▁")  # what vocabularies write for the space that begins a word


class Features(NamedTuple):
    """positions: of each feature in the padded prompt, words first, then blocks row by row. words: how many are words.
    grid: rows and columns of blocks, (0, 0) without. owner: of every position its feature, −1 for none. cells: of every
    cell of the picture's map its feature.
    """

    positions: Bool[Tensor, "f p"]
    words: int
    grid: tuple[int, int]
    owner: Int[Tensor, " p"]
    cells: Int[Tensor, "rows columns"]

    def sums(self, values: Float[Tensor, "*rest p"]) -> Float[Tensor, "*rest f"]:
        """Values at positions, summed over each feature."""
        return values @ self.positions.to(values).T

    @property
    def first(self) -> int:
        """The feature of the prompt's first token, −1 where it belongs to none (a BOS)."""
        return int(self.owner[int((self.owner >= -1).int().argmax())])


def features_of(batch: Batch, row: int, words: int, blocks: int, *, picture: bool = True) -> Features:
    """The features of an example: at most so many groups of neighbouring words, `blocks` × `blocks` of its picture.

    Without exactly one picture of known geometry, or without `picture`, words alone. Padding has the owner −2.
    """
    owner = torch.full(batch.mask.shape[1:], -1)
    owner[~batch.mask[row]] = -2
    spoken = torch.stack([batch.where(role)[row] for role in SPOKEN]).any(0).nonzero()[:, 0]
    ids = batch.inputs["input_ids"][row].cpu()[spoken]
    number = _grouped(_numbers(batch, ids, spoken), words)
    owner[spoken] = number
    count = int(number.max()) + 1 if len(number) else 0
    shown = batch.geometry[row].pictures if batch.geometry and picture else ()
    cells = torch.zeros(0, 0, dtype=torch.long)
    grid = (0, 0)
    if len(shown) == 1:
        grid, cells = _blocks(shown[0], blocks)
        cells = cells + count
        _own(owner, shown[0], cells, int(batch.start[row]))
    total = count + grid[0] * grid[1]
    return Features(owner == torch.arange(total)[:, None], count, grid, owner, cells)


def _numbers(batch: Batch, ids: Tensor, places: Tensor) -> Int[Tensor, " n"]:
    """Of every token the number of its word: a word begins with a space, or where something else stood between."""
    raw = batch.tokenizer.convert_ids_to_tokens(ids.tolist())
    said = [str(token) for token in raw]
    texts = labels(batch.tokenizer, ids)
    spaced = any(token.startswith(GLYPHS) for token in batch.tokenizer.get_vocab())
    begins = [
        i == 0
        or int(places[i]) != int(places[i - 1]) + 1
        or token.startswith(GLYPHS)
        or texts[i][:1].isspace()
        or not spaced
        for i, token in enumerate(said)
    ]
    return torch.tensor(begins, dtype=torch.long).cumsum(0) - 1


def _grouped(number: Int[Tensor, " n"], most: int) -> Int[Tensor, " n"]:
    """Neighbouring words together, so that there are no more than `most` groups of about equal size."""
    count = int(number.max()) + 1 if len(number) else 0
    return number if count <= most else number * most // count


def _blocks(picture: Picture, side: int) -> tuple[tuple[int, int], Int[Tensor, "rows columns"]]:
    rows, columns = picture.map.shape
    grid = (min(side, rows), min(side, columns))
    down, across = (torch.arange(n) * of // n for n, of in zip((rows, columns), grid, strict=True))
    return grid, down[:, None] * grid[1] + across


def _own(owner: Tensor, picture: Picture, cells: Tensor, start: int) -> None:
    """Give the picture's positions to their blocks; a thumbnail's as well, by where its cells lie on the picture."""
    owner[picture.map + start] = cells
    for view in picture.views:
        if view.kind == THUMBNAIL:
            at = [torch.arange(n) * side // n for n, side in zip((view.rows, view.columns), cells.shape, strict=True)]
            owner[picture.at(view) + start] = cells[at[0][:, None], at[1]]

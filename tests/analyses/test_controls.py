"""Random controls: as many, never the chosen ones, drawn by example, untouched by batch and padding."""

from __future__ import annotations

import pytest
import torch
from crosslens.analyses.common import controls
from crosslens.data.example import Example, Segment
from PIL import Image


def masks(places: int = 12):
    chosen = torch.zeros(3, places, dtype=torch.bool)
    chosen[:, 2] = chosen[:, 5] = True
    return chosen, torch.ones_like(chosen)


def test_positions_are_others_as_many_and_each_examples_own():
    chosen, allowed = masks()
    allowed[:, 0] = False
    draws = [controls.random_positions(chosen, allowed, [f"{i} {draw}" for i in "abc"]) for draw in range(40)]
    for drawn in draws:
        assert not (drawn & (chosen | ~allowed)).any()
        assert (drawn.sum(1) == 2).all()
    stacked = torch.stack(draws)
    assert (stacked[:, 0] != stacked[:, 1]).any(1).float().mean() > 0.8, "one order for every example"
    assert (stacked.float().mean((0, 1))[allowed[0] & ~chosen[0]] > 0.1).all(), "every other place is drawn"


def test_heads_of_one_example_are_drawn_apart():
    chosen, allowed = (m[:, None].expand(3, 4, 12) for m in masks())
    drawn = controls.random_positions(chosen, allowed, ["a 0", "b 0", "c 0"])
    assert len({tuple(row) for row in drawn[0].nonzero()[:, 1].reshape(4, 2).tolist()}) > 1


@pytest.mark.parametrize("padding", ["left", "right"])
def test_neither_batch_nor_padding_changes_a_draw(padding):
    chosen, allowed = masks()
    keys = ["a 0", "b 0", "c 0"]
    alone = controls.random_positions(chosen[1:2], allowed[1:2], keys[1:2])
    place = slice(5, None) if padding == "left" else slice(0, 12)
    wide = torch.zeros(2, 3, 17, dtype=torch.bool)
    wide[0, :, place], wide[1, :, place] = chosen, allowed
    together = controls.random_positions(wide[0], wide[1], keys)
    assert torch.equal(together[1:2, place], alone)


def test_all_that_there_are_where_there_are_fewer():
    chosen = torch.tensor([True, True, True, False]).expand(3, 4)
    allowed = torch.ones_like(chosen)
    assert torch.equal(controls.random_positions(chosen, allowed, "abc"), ~chosen)
    with pytest.raises(ValueError, match="2 keys for 3"):
        controls.random_positions(chosen, allowed, "ab")


def test_random_circuits_have_the_layers_and_no_member():
    circuit = [(0, 1), (2, 0), (2, 3)]
    drawn = controls.random_circuits(circuit, 6, draws=50)
    for heads in drawn:
        assert [layer for layer, _ in heads] == [0, 2, 2]
        assert not set(heads) & set(circuit)
        assert len(set(heads)) == 3
    assert {head for heads in drawn for head in heads} == {(0, h) for h in (0, 2, 3, 4, 5)} | {
        (2, h) for h in (1, 2, 4, 5)
    }
    assert controls.random_circuits(circuit, 6, draws=2) == drawn[:2]
    assert controls.random_circuits(circuit, 6, draws=5, key="another example") != drawn[:5]


def test_a_full_layer_borrows_from_the_nearest():
    circuit = [(3, 0), (3, 1), (3, 2), (4, 0), (9, 0)]
    drawn = controls.random_circuits(circuit, 4, draws=30)
    for heads in drawn:
        assert len(set(heads)) == 5
        assert not set(heads) & set(circuit)
        assert [layer for layer, _ in heads].count(3) == 1  # all that are left there
        assert [layer for layer, _ in heads].count(9) == 1  # layer 4 is nearer and has enough
    assert controls.random_circuits(circuit, 4, draws=2) == drawn[:2]


def test_no_random_circuit_where_too_few_heads_are_left():
    assert controls.random_circuits([(0, 0), (0, 1)], 3) == []
    assert controls.random_circuits([(0, 0), (0, 1)], 4, draws=2) == [[(0, 2), (0, 3)]] * 2


class _Words:
    """A tokenizer that knows how a token reads."""

    def __init__(self, words):
        self.words = words

    def decode(self, ids):
        return self.words[ids[0]]


def test_random_words_are_words_of_nearby_ids_and_of_no_group():
    words = ["cat", "?!", "x", " dog", "##", "bird", "fish", "7"] + ["far"] * 600
    ids, taken = (0, 5), frozenset([0, 5, 3])
    drawn = controls.random_words(_Words(words), ids, taken, len(words))
    assert len(drawn) == controls.DRAWS
    for row in drawn:
        assert len(row) == len(ids)
        for near, token in zip(ids, row, strict=True):
            assert token not in taken
            assert words[token].strip().isalpha()
            assert len(words[token].strip()) > 1
            assert abs(token - near) <= controls.NEAR
    assert drawn == controls.random_words(_Words(list(words)), ids, taken, len(words))


def test_images_are_exchanged_one_by_one_and_lose_their_boxes():
    red, blue = Image.new("RGB", (4, 6), "red"), Image.new("RGB", (8, 2), "blue")
    segments = (Segment("image", red), Segment("text", "and"), Segment("image", blue))
    example = Example("a", "a", segments, boxes={"thing": [(0, 0, 1, 1)]})
    blank = controls.blank_image(example, (9, 9, 9))
    assert [s.content.size for s in blank.segments if s.role == "image"] == [(4, 6), (8, 2)]
    assert all(s.content.getcolors() == [(s.content.width * s.content.height, (9, 9, 9))] for s in blank.segments[::2])
    assert blank.boxes == {}
    assert example.segments[0].content is red

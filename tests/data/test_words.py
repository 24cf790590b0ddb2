"""CHAIR's words: what a caption names, in the authors' cases and as chair.py reads their own file."""

from __future__ import annotations

import pytest
from crosslens.data.coco_words import words
from crosslens.data.errors import UserError
from crosslens.data.example import Objects
from crosslens.data.object_words import count, mentions

# A few lines in the format of CHAIR's synonyms.txt, with its slips: a blank before " motor bike" and " cheesecake".
LINES = """person, girl, man, woman, people, baby, passenger, player
bicycle, bike
motorcycle, scooter,  motor bike, motor cycle
train, locomotive
oven, stovetop, stove, stove top oven
cake,  cheesecake, cupcake
chair, seat, stool
dining table, table, desk
elephant
cell phone, mobile phone, phone, iPhone
"""


def objects(text: str, synonyms: str = "") -> list[str]:
    return [mention.object for mention in mentions(text, words(synonyms))]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text(LINES)
    return str(path)


CASES = {
    "A baby elephant.": ["elephant"],
    "A passenger train at a station.": ["train"],
    "A dog on the train tracks.": ["dog"],
    "A bow tie.": ["tie"],
    "A motor cycle.": ["motorcycle"],
    "A motor bike.": ["motorcycle"],
    "A baseball player at home plate.": ["person"],
    "A baseball game.": [],
    "Two policemen and three mice.": ["person", "mouse"],
    "A computer monitor on a desk.": ["laptop", "tv", "dining table"],
    "A man on the telephone.": ["person", "cell phone"],
    "A briefcase.": ["handbag"],
    "A row of seats.": ["chair"],
    "The seat of the toilet.": ["toilet"],
    "A two-man boat.": ["boat"],
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_captions_of_the_authors_cases(text, expected):
    assert objects(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "Adult sheep and baby birds with a cub.": ["sheep", "bird"],
        "An adult bear, a baby animal and a baby.": ["bear", "person"],
        "A passenger jet over a passenger ship.": ["airplane", "person", "boat"],
        "A toilet seat beside seats.": ["toilet"],
        "A urinal and a seat.": ["toilet", "chair"],
        "Hot dogs; a hot, dog.": ["hot dog", "dog"],
        "Wine glasses and glasses.": ["wine glass"],
        "Knives, geese, oxen, calves, thieves, women, servicemen, grandchildren.": [
            *("knife", "bird", "cow", "cow", "person", "person", "person", "person")
        ],
        "Buses, ferries, sandwiches, buffaloes, flamingos, skis, scissors, ties.": [
            *("bus", "boat", "sandwich", "cow", "bird", "skis", "scissors", "tie")
        ],
        "A bus, tennis rackets and a stove top oven.": ["bus", "tennis racket", "oven"],
        "It is three o'clock on a clock; the woman's dogs' toys.": ["clock", "person", "dog"],
        "A hot-dog stand, a man/woman sign.": [],
        "An iPhone beside a cheesecake.": ["cell phone", "cake"],
        "A parasol, a basketball and an armchair.": [],  # no words of the authors' list
    }.items(),
)
def test_the_whole_kind(text, expected):
    assert objects(text) == expected


def test_the_vocabulary_has_the_authors_403_words():
    told = words()
    assert sum(map(bool, told.values())) == 403 + 23  # pairs that are read as a word of the list
    assert len(set(told.values()) - {""}) == 80
    assert {phrase for phrase, name in told.items() if not name} == {
        *("home plate", "train track", "baby animal", "adult animal", "baby cub", "adult cub")
    }


def test_the_authors_file_is_read_to_the_letter(file):
    assert objects("A motor bike and a motor cycle.", file) == ["motorcycle"]
    assert objects("The mom's cheesecake, a cupcake.", file) == ["cake"]
    assert objects("An iPhone on a dining table.", file) == ["dining table"]
    assert objects("A stove top oven.", file) == ["oven", "oven"]  # three words, and pairs are joined
    assert objects("A baby elephant on the train tracks with a passenger.", file) == ["elephant", "person"]


def test_a_file_that_is_none_is_one_clear_line(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00\x81")
    for path, message in ((tmp_path / "none.txt", "cannot be read"), (empty, "is empty"), (binary, "cannot be read")):
        with pytest.raises(UserError, match=message):
            words(str(path))


def test_places_are_those_of_the_text():
    text = "İstanbul: two  Hot\ndogs near a PASSENGER jet"  # one letter that is two in lower case
    found = mentions(text, words())
    assert [(text[m.start : m.end], m.object) for m in found] == [
        ("Hot\ndogs", "hot dog"),
        ("PASSENGER jet", "airplane"),
    ]


def test_counts_of_a_caption():
    there = Objects(words(), frozenset({"dog", "car"}))
    assert count("Two dogs, a puppy and a hot dog on the train tracks.", there) == (3, 1, 1, 2)

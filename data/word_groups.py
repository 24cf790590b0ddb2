"""Groups of words whose tokens a lens sums over: languages, colours, shapes, digits. Written for this project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import UserError
from .example import is_single_token
from .tokens import ids_in_text

# What a lens sums over: raise the VERSION of analyses/lenses/group_lens.py when a list changes.
LANGUAGES = ("English", "French", "Spanish", "German")
# One concept a line, in the order of LANGUAGES.
CONCEPTS = """water eau agua Wasser
fire feu fuego Feuer
house maison casa Haus
tree arbre árbol Baum
bread pain pan Brot
milk lait leche Milch
king roi rey König
queen reine reina Königin
woman femme mujer Frau
child enfant niño Kind
night nuit noche Nacht
day jour día Tag
book livre libro Buch
sun soleil sol Sonne
moon lune luna Mond
friend ami amigo Freund
brother frère hermano Bruder
sister soeur hermana Schwester
mother mère madre Mutter
father père padre Vater
city ville ciudad Stadt
country pays país Land
world monde mundo Welt
life vie vida Leben
death mort muerte Tod
love amour amor Liebe
year année año Jahr
month mois mes Monat
week semaine semana Woche
hand main mano Hand
head tête cabeza Kopf
eye œil ojo Auge
heart coeur corazón Herz
foot pied pie Fuß
black noir negro schwarz
white blanc blanco weiß
green vert verde grün
blue bleu azul blau
yellow jaune amarillo gelb
big grand grande groß
small petit pequeño klein
good bon bueno gut
bad mauvais malo schlecht
new nouveau nuevo neu
old vieux viejo alt
young jeune joven jung"""
# Little words of one language alone.
LITTLE = {
    "English": "the and with from this that not but was were have has which there they would could should because who",
    "French": "le les des et avec dans cette ces est sont était mais qui une du aux ils elle nous vous être très pas",
    "Spanish": "los las y para esta este es pero que una del al ellos ella nosotros muy por más su como el",
    "German": "der das und mit für diese ist sind aber nicht eine einen dem auf von zu im sich auch wir sie ich sehr "
    "wie",
}
# Spelled like an English word, so a token of theirs says nothing of the language.
ALIKE = {"pain", "pan", "sol", "main", "pie", "grand", "Hand", "Land", "alt", "mes", "pays", "mort", "gut"}

GROUPS = {
    "languages": {
        language: [w for row in CONCEPTS.splitlines() if (w := row.split()[i]) not in ALIKE] + LITTLE[language].split()
        for i, language in enumerate(LANGUAGES)
    },
    "colours": {
        "colours": ["red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink", "gray"]
    },
    "shapes": {
        "shapes": [
            "circle",
            "square",
            "triangle",
            "star",
            "cross",
            "diamond",
            "heart",
            "moon",
            "ring",
            "oval",
            "rectangle",
            "line",
        ]
    },
    "digits": {"digits": list("0123456789")},
}
LEAST = 5


def token_groups(tokenizer: Any, names: Sequence[str]) -> dict[str, list[int]]:
    """Group name -> token ids. names: sets of GROUPS, or a group of one's own: "pets=cat,dog".

    A word counts with a space in front, digits without. Words of GROUPS that are not one token are left out, and so are
    those that two groups of one set share. UserError: a word of one's own that is not one token, an unknown set, or a
    group of GROUPS with fewer than LEAST words left.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        own, named, words = name.partition("=")
        found |= {own: _own(tokenizer, own, words)} if named else _known(tokenizer, name)
    return found


def _own(tokenizer: Any, group: str, words: str) -> list[int]:
    listed = [word.strip() for word in words.split(",") if word.strip()]
    if not listed:
        raise UserError(f"group {group!r} has no words: {group}=word,word")
    for word in listed:
        if not is_single_token(tokenizer, _form(word)):
            pieces = len(ids_in_text(tokenizer, _form(word)))
            raise UserError(f"group {group!r}: {word!r} is {pieces} tokens for this tokenizer and one is needed")
    return _ids(tokenizer, listed)


def _known(tokenizer: Any, name: str) -> dict[str, list[int]]:
    if name not in GROUPS:
        raise UserError(f"unknown word group {name!r}: one of {', '.join(GROUPS)}, or NAME=word,word")
    kept = {}
    for group, words in GROUPS[name].items():
        shared = {word for other, theirs in GROUPS[name].items() if other != group for word in theirs}
        kept[group] = _ids(tokenizer, [w for w in words if w not in shared and is_single_token(tokenizer, _form(w))])
        if len(kept[group]) < LEAST:
            raise UserError(
                f"word group {group}: only {len(kept[group])} of its words are one token of this tokenizer, need "
                f"{LEAST}; name words of your own: {group}=word,word"
            )
    return kept


def _ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    return sorted({ids_in_text(tokenizer, _form(word))[0] for word in words})


def _form(word: str) -> str:
    return word if word.isdigit() else " " + word

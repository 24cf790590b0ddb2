"""Laws of the tasks, for a tokenizer trained here and for the real one."""

from __future__ import annotations

import re

import pytest
from crosslens.data.errors import UserError
from crosslens.data.example import is_single_token
from crosslens.data.subjects import smollm2
from crosslens.data.tasks import (
    Task,
    arithmetic,
    colored_objects,
    facts,
    greater_than,
    induction,
    ioi,
    open_task,
    passages,
    repeats,
    texts,
)
from crosslens.data.templates import fill, token_count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

QA = [(ioi, {}), (colored_objects, {}), (colored_objects, {"shots": 2}), (facts, {}), (induction, {})]
DIGITS = [
    (greater_than, {}),
    (arithmetic, {}),
    (arithmetic, {"digits": 2, "shots": 1}),
    (arithmetic, {"operation": "subtraction"}),
]
ALL = [*QA, *DIGITS, (passages, {"tokens": 200}), (texts, {"tokens": 32}), (repeats, {"times": 20})]
some = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def trained(words: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def trained_on_the_tasks() -> PreTrainedTokenizerFast:
    words = [*ioi.NAMES, *ioi.PLACES, *ioi.OBJECTS, *colored_objects.OBJECTS, *colored_objects.COLORS]
    words += [c.title() for c in colored_objects.COLORS]
    words += [*greater_than.EVENTS, "year", "from"]
    words += [word for fact in facts._read() for word in (fact.subject, fact.answer)]
    prose = list(passages.documents("validation").values())
    return trained([" " + " ".join(words)] * 50 + prose, 6000)


@pytest.fixture(scope="module", params=["trained", pytest.param("smollm2", marks=pytest.mark.real)])
def tokenizer(request):
    if request.param == "trained":
        return trained_on_the_tasks()
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2.directory())


@pytest.fixture(scope="module")
def letters():
    """Every letter a token: no word is a single one."""
    return trained([], 256)


def shape(example):
    """What two equal examples have in common (Example compares by identity)."""
    twin = shape(example.corrupt) if example.corrupt else None
    return example.id, example.group, example.segments, example.answer, example.wrong, twin, example.meta


def marked(example, name):
    return [s.content[a:b] for s in example.segments for a, b in s.marks.get(name, ())]


@given(st.lists(st.tuples(st.text("ab {", max_size=4), st.sampled_from("xyz"))), st.text(max_size=5))
def test_fill_remembers_where(pieces, end):
    values = {"x": "Mary", "y": "", "z": "{not a field}"}
    escape = lambda text: text.replace("{", "{{").replace("}", "}}")  # noqa: E731
    text, spans = fill("".join(f"{escape(t)}{{{f}}}" for t, f in pieces) + escape(end), values)
    assert text == "".join(t + values[f] for t, f in pieces) + end
    assert sum(map(len, spans.values())) == len(pieces)
    assert all(text[a:b] == values[field] for field, several in spans.items() for a, b in several)


@pytest.mark.parametrize(("task", "options"), ALL)
@some
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40))
def test_deterministic_and_a_smaller_n_is_the_beginning(tokenizer, task, options, seed, n):
    many = task.examples(40, seed, tokenizer=tokenizer, **options)
    assert list(map(shape, many[:n])) == list(map(shape, task.examples(n, seed, tokenizer=tokenizer, **options)))
    assert len({e.id for e in many}) == len(many) == 40


@pytest.mark.parametrize(("task", "options"), ALL)
def test_seeds_differ_and_ids_are_unique(tokenizer, task, options):
    everything = task.examples(tokenizer=tokenizer, **options)
    other = task.examples(seed=1, tokenizer=tokenizer, **options)
    assert len({e.id for e in everything}) == len(everything) >= 100
    assert list(map(shape, everything)) != list(map(shape, other))


@pytest.mark.parametrize(("task", "options"), ALL)
def test_a_task_says_what_it_is(task, options):
    assert isinstance(task.VERSION, int)
    assert (task.TEMPLATE, task.BOS) == ("raw", None)
    assert task.__doc__
    assert task.SOURCE
    assert "\n" not in task.__doc__.strip() + task.SOURCE


@pytest.mark.parametrize(("task", "options"), QA)
def test_answers_and_twins(tokenizer, task, options):
    for e in task.examples(tokenizer=tokenizer, **options):
        assert e.corrupt is not None
        assert e.corrupt.corrupt is None
        assert (e.corrupt.id, e.corrupt.group) == (e.id + "-corrupt", e.group)
        assert e.corrupt.answer != e.answer
        assert token_count(tokenizer, e.text) == token_count(tokenizer, e.corrupt.text)
        for prompt in (e, e.corrupt):
            assert prompt.answer not in prompt.wrong
            assert prompt.wrong
            assert all(w[0] == " " and is_single_token(tokenizer, w) for w in (prompt.answer, *prompt.wrong))
            assert not prompt.text[-1].isspace()
            ids = tokenizer.encode(prompt.text + prompt.answer, add_special_tokens=False)
            assert ids[:-1] == tokenizer.encode(prompt.text, add_special_tokens=False)


@pytest.mark.parametrize(("task", "options"), QA)
def test_marks_lie_inside_and_hold_words(tokenizer, task, options):
    for e in task.examples(60, tokenizer=tokenizer, **options):
        for prompt in (e, e.corrupt):
            words = [s.content[a:b] for s in prompt.segments for spans in s.marks.values() for a, b in spans]
            assert words
            assert all(word and word == word.strip() for word in words)


def test_ioi(tokenizer):
    examples = ioi.examples(tokenizer=tokenizer)
    assert len({e.group for e in examples}) == 14
    assert all("{" not in e.text for e in examples)
    for e in examples:
        for prompt in (e, e.corrupt):
            (subject,), (second,) = marked(prompt, "subject"), marked(prompt, "second_subject")
            (indirect,) = marked(prompt, "indirect_object")
            assert subject == second == prompt.wrong[0].strip()
            assert indirect == prompt.answer.strip() != subject
            first, last = (prompt.segments[0].marks[m][0] for m in ("subject", "second_subject"))
            assert first < last
            assert len(re.findall(rf"\b{subject}\b", prompt.text)) == 2
            assert len(re.findall(rf"\b{indirect}\b", prompt.text)) == 1
        assert (e.answer, *e.wrong) == (*e.corrupt.wrong, e.corrupt.answer)
        a, b = e.segments[0].marks["subject"][0], e.segments[0].marks["indirect_object"][0]
        assert (a < b) == e.group.startswith("BABA")


@pytest.mark.parametrize("shots", [1, 2])
def test_colored_objects(tokenizer, shots):
    examples = colored_objects.examples(tokenizer=tokenizer, shots=shots)
    assert len({e.group for e in examples}) == 9
    for e in examples:
        shown, question, end = (s.content for s in e.segments)
        assert shown.count("\nA: ") == shots
        assert end == "\nA:"
        (asked,), (color,) = marked(e, "asked_object"), marked(e, "asked_color")
        assert question.endswith(f"What color is the {asked}?")
        assert f"{color} {asked}" in question
        assert e.answer == " " + color.title()
        assert {" " + c.title() for c in marked(e, "other_colors")} == set(e.wrong)
        assert len(e.wrong) == 2
        assert not any(c in shown.lower().split() for c in [color, *marked(e, "other_colors")])
        assert set(e.corrupt.wrong) | {e.corrupt.answer} == set(e.wrong) | {e.answer}
        differing = [(a, b) for a, b in zip(e.text.split(), e.corrupt.text.split(), strict=True) if a != b]
        assert len(differing) == 1


def test_colored_objects_shots(tokenizer):
    with pytest.raises(UserError, match="shots"):
        colored_objects.examples(1, tokenizer=tokenizer, shots=3)


def test_facts(tokenizer):
    examples = facts.examples(tokenizer=tokenizer)
    known = {(f.relation, f.subject): f.answer for f in facts._read()}
    first = [e for e in examples if e.meta["template"] == 1]
    assert len(first) >= 150
    assert len({e.meta["relation"] for e in first}) >= 5
    assert len({e.group for e in examples}) >= 150
    for e in examples:
        for prompt in (e, e.corrupt):
            (subject,) = marked(prompt, "subject")
            assert prompt.answer == " " + known[e.meta["relation"], subject]
        assert e.wrong == (e.corrupt.answer,)
        assert e.corrupt.wrong == (e.answer,)
        assert [e.group] == marked(e, "subject") != marked(e.corrupt, "subject")


def test_facts_of_one_relation(tokenizer):
    capitals = facts.examples(tokenizer=tokenizer, relation="capital")
    every = facts.examples(tokenizer=tokenizer)
    assert len({e.group for e in capitals}) >= 20
    assert {e.id for e in capitals} == {e.id for e in every if e.meta["relation"] == "capital"}
    with pytest.raises(UserError, match="no relation 'colour'; there are capital, "):
        facts.examples(1, tokenizer=tokenizer, relation="colour")


def test_facts_file():
    rows = facts._read()
    assert len({(f.relation, f.subject) for f in rows}) == len(rows)
    assert {f.relation for f in rows} == set(facts.TEMPLATES)
    assert all(f.subject != f.answer and f.subject.isalpha() and f.answer.isalpha() for f in rows)
    assert all(text.count("{subject}") == 1 for pair in facts.TEMPLATES.values() for text in pair)


def test_a_few_facts_see_every_relation(tokenizer):
    few = facts.examples(len(facts.TEMPLATES), tokenizer=tokenizer)
    assert {e.meta["relation"] for e in few} == set(facts.TEMPLATES)


def test_passages_are_split_by_document(tokenizer):
    splits = {split: passages.documents(split) for split in passages.SPLITS}
    everything = passages.documents()
    assert sum(map(len, splits.values())) == len(everything) == len({*everything.values()})
    assert set.union(*(set(s) for s in splits.values())) == set(everything)
    assert {name.rsplit("-", 1)[0] for name in splits["test"]} == {f.stem for f in passages.FOLDER.glob("*.txt")}
    assert sum(f.stat().st_size for f in passages.FOLDER.iterdir()) <= 1_500_000
    assert sum(token_count(tokenizer, text) for text in everything.values()) >= 200_000
    for text in everything.values():
        assert "\n\n\n" not in text
        assert not re.search(r"  |^#|_|(?i:^chapter|^volume)", text, flags=re.MULTILINE)


@some
@given(tokens=st.integers(24, 400), seed=st.integers(0, 9))
def test_windows(tokenizer, tokens, seed):
    documents = passages.documents("validation")
    windows = passages.examples(30, seed, tokenizer=tokenizer, tokens=tokens, split="validation")
    assert len({w.group for w in windows[: len(documents)]}) == min(len(documents), len(windows))
    for w in windows:
        assert w.id.startswith(w.group + "-")
        assert tokens - 12 <= token_count(tokenizer, w.text) <= tokens
        assert re.search(rf"(?<!\S){re.escape(w.text)}(?!\S)", documents[w.group])
        assert (w.answer, w.wrong, w.segments[0].role) == ("", (), "text")


def test_windows_do_not_overlap(tokenizer):
    windows = passages.examples(tokenizer=tokenizer, tokens=200)
    for name, text in passages.documents("test").items():
        mine = sorted((w.id, w.text) for w in windows if w.group == name)
        position = 0
        for _, piece in mine:
            start = text.index(piece, position)
            assert start - position <= 2  # only white space lies between
            position = start + len(piece)


@pytest.mark.parametrize("options", [{"split": "dev"}, {"tokens": 10**6}, {"tokens": 2}])
def test_passages_that_cannot_be_had(tokenizer, options):
    with pytest.raises(UserError):
        passages.examples(tokenizer=tokenizer, **options)


def test_repeats_end_in_runs_of_one_token(tokenizer):
    for one in repeats.examples(40, tokenizer=tokenizer, times=33):
        ids = tokenizer.encode(one.text, add_special_tokens=False)
        assert len({*ids[-33:]}) == 1
        assert ids[-34] != ids[-1]
        assert tokenizer.decode(ids[-1:]).strip() == one.group
    fronts = [one.meta["front"] for one in repeats.examples(4, tokenizer=tokenizer)]
    assert fronts == [*repeats.FRONTS] * 2


def test_repeats_that_cannot_be_had(tokenizer, monkeypatch):
    with pytest.raises(UserError, match="times=2 is no run"):
        repeats.examples(tokenizer=tokenizer, times=2)
    monkeypatch.setattr(repeats, "_repeats", lambda tokenizer, text: text == "1")
    with pytest.raises(UserError, match="only 1 tokens stand alone"):
        repeats.examples(tokenizer=tokenizer)


def test_texts_say_the_same_in_all_languages_and_labels_come_in_turn(tokenizer):
    languages = [texts.documents(label) for label in texts.LANGUAGES]
    for name, text in languages[0].items():
        assert len({len(other[name].split("\n\n")) for other in languages}) == 1
        assert len({other[name] for other in languages}) == len(languages)
        assert text.strip() == text
    assert len({*map(tuple, languages)}) == 1
    for label in texts.LANGUAGES + texts.DOMAINS:
        assert len(texts.documents(label)) >= 20
        assert sum(token_count(tokenizer, text) for text in texts.documents(label).values()) >= 60_000
    made = texts.examples(12, tokenizer=tokenizer, labels="French+code+prose")
    assert [e.meta["label"] for e in made[:3]] == ["French", "code", "prose"]
    assert {e.group for e in made if e.meta["label"] == "French"} <= {*languages[0]}
    assert {e.group.startswith("genesis") for e in texts.examples(40, tokenizer=tokenizer)} == {True, False}
    assert sum(f.stat().st_size for f in texts.FOLDER.iterdir()) <= 2_000_000


@pytest.mark.parametrize("options", [{"labels": "English"}, {"labels": "English+Latin"}, {"tokens": 10**6}])
def test_texts_that_cannot_be_had(tokenizer, options):
    with pytest.raises(UserError, match="texts"):
        texts.examples(tokenizer=tokenizer, **options)


@pytest.mark.parametrize(("task", "options"), QA)
def test_a_tokenizer_that_leaves_nothing(letters, task, options):
    with pytest.raises(UserError):
        task.examples(tokenizer=letters, **options)


@pytest.mark.parametrize(("task", "options"), DIGITS)
def test_digits_are_asked_for(tokenizer, task, options):
    for e in task.examples(tokenizer=tokenizer, **options):
        assert e.corrupt is not None
        assert token_count(tokenizer, e.text) == token_count(tokenizer, e.corrupt.text)
        assert sum(a != b for a, b in zip(e.text, e.corrupt.text, strict=True)) == 1
        assert all(len(w) == 1 and w.isdigit() for w in (e.answer, *e.wrong))
        for digit in (e.answer, *e.wrong):
            ids = tokenizer.encode(e.text + digit, add_special_tokens=False)
            assert ids[:-1] == tokenizer.encode(e.text, add_special_tokens=False)


def test_greater_than(tokenizer):
    for e in greater_than.examples(tokenizer=tokenizer):
        (decade,), (year,), (century,) = (marked(e, m) for m in ("start_decade", "start_year", "century"))
        assert e.wrong[0] < decade < e.answer
        assert e.text.count(century) >= 2
        assert marked(e.corrupt, "start_year") == [f"0{year[1]}"]


@pytest.mark.parametrize(("options", "n_digits"), [({"digits": 1}, 1), ({"digits": 2, "shots": 3}, 2)])
def test_arithmetic(tokenizer, options, n_digits):
    for e in arithmetic.examples(tokenizer=tokenizer, **options):
        for prompt in (e, e.corrupt):
            *shown, last = prompt.text.split("\n")
            assert len(shown) == options.get("shots", 2)
            for line in [*shown, f"{last}{sum(map(int, last[:-1].split('+')))}"]:
                left, right = line.split("=")
                assert sum(map(int, left.split("+"))) == int(right)
                assert len(right) == n_digits
            assert prompt.answer == str(sum(map(int, last[:-1].split("+"))))[0]


@pytest.mark.parametrize(("options", "n_digits"), [({"digits": 1}, 1), ({"digits": 2, "shots": 3}, 2)])
def test_subtraction(tokenizer, options, n_digits):
    for e in arithmetic.examples(tokenizer=tokenizer, operation="subtraction", **options):
        for prompt in (e, e.corrupt):
            *shown, last = prompt.text.split("\n")
            a, b = map(int, last[:-1].split("-"))
            for line in [*shown, f"{last}{a - b}"]:
                (first, second), right = (line.split("=")[0].split("-"), line.split("=")[1])
                assert int(first) - int(second) == int(right) >= 0
                assert len(first) == len(second) == len(right) == n_digits
                assert all(x >= y for x, y in zip(first, second, strict=True)), "nothing is borrowed"
            assert prompt.answer == str(a - b)[0]
            assert marked(prompt, "operator") == ["-"]
            assert marked(prompt, "first") == [last[0]]
            assert marked(prompt, "second") == [last.split("-")[1][0]]
        assert e.answer != e.corrupt.answer == e.wrong[0]


def test_induction(tokenizer):
    for e in induction.examples(tokenizer=tokenizer):
        for prompt in (e, e.corrupt):
            words = prompt.text.split()
            current = words[-1]
            assert marked(prompt, "before") == marked(prompt, "current") == [current]
            assert words[words.index(current) + 1] == prompt.answer.strip()
            assert marked(prompt, "answer") == [prompt.answer.strip()]
        assert len(set(e.text.split())) == 10


@pytest.mark.parametrize("task", [greater_than, arithmetic])
def test_joined_digits_are_refused(task):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(["1732 year from war siege"] * 9, trainers.BpeTrainer(vocab_size=300))
    with pytest.raises(UserError, match="joins digits"):
        task.examples(tokenizer=PreTrainedTokenizerFast(tokenizer_object=bpe))


@pytest.mark.parametrize(
    ("task", "options"),
    [(arithmetic, {"digits": 3}), (arithmetic, {"operation": "division"}), (induction, {"length": 2})],
)
def test_options_that_cannot_be(tokenizer, task, options):
    with pytest.raises(UserError):
        task.examples(tokenizer=tokenizer, **options)


def held_out(module, tokenizer, used, n=32, seed=0):
    examples = module.examples(used, seed, tokenizer=tokenizer)
    return Task(module.__name__, module, {}).held_out(tokenizer, n, seed, examples), examples


@pytest.mark.parametrize(("task", "options"), [case for case in ALL if not case[1]])
@pytest.mark.parametrize(("used", "seed"), [(8, 0), (64, 1), (64, 2)])
def test_held_out_examples_are_other_ones_for_every_seed_and_limit(tokenizer, task, options, used, seed):
    others, examples = held_out(task, tokenizer, used, seed=seed)
    assert len(others) == 32
    assert len({e.id for e in others}) == len({e.text for e in others}) == 32
    assert {e.text for e in others}.isdisjoint({e.text for e in examples})
    assert {e.id for e in others}.isdisjoint({e.id for e in examples})


SPARE = [(ioi, 10, True), (ioi, 13, False), (ioi, 64, False), (facts, 64, True)]


@pytest.mark.parametrize(("task", "used", "apart"), SPARE)
def test_no_held_out_group_is_measured_where_there_are_groups_to_spare(tokenizer, task, used, apart):
    others, examples = held_out(task, tokenizer, used)
    assert {e.group for e in others}.isdisjoint({e.group for e in examples}) == apart
    assert len({e.group for e in others}) > 1


def test_held_out_examples_follow_the_seed(tokenizer):
    drawn = [held_out(ioi, tokenizer, 8, seed=seed)[0] for seed in (0, 0, 1)]
    first, again, other = ([e.text for e in some] for some in drawn)
    assert first == again != other


def test_a_task_that_is_used_up_holds_out_what_is_left(tokenizer):
    every = len(facts.examples(tokenizer=tokenizer))
    assert held_out(facts, tokenizer, every)[0] == []
    assert 0 < len(held_out(facts, tokenizer, every - 3)[0]) <= 3


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ('coco:question="Describe it, please."', {"question": "Describe it, please."}),
        ('coco:question="a, b",year=val2017', {"question": "a, b", "year": "val2017"}),
        ("coco:question=What's there?,path=C:\\images", {"question": "What's there?", "path": "C:\\images"}),
        ("coco:path=/a b/c#1", {"path": "/a b/c#1"}),
        ("coco:", {}),
    ],
)
def test_options_with_commas_are_quoted(spec, options):
    assert open_task(spec).options == options


def test_a_quote_that_is_not_closed():
    with pytest.raises(UserError, match="a quote is not closed"):
        open_task('coco:question="a, b')

"""Yes and no are read in the spelling that carries the probability, whichever of the two is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from crosslens import Subject
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.prompts.yes_no import masses, spelled, spelled_like
from crosslens.probes.runs import store
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify
from crosslens.reports.pages import build as pages
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..helpers.families import VOCAB, build
from ..helpers.makers import analysis

ANSWERS = ["yes", "no", "Yes", "No", "▁yes", "▁no", "▁Yes", "▁No", "No."]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "▁", "?"]


def tokenizer() -> Any:
    """Whole words, a space in front being part of the word."""
    vocabulary = {word: i for i, word in enumerate(SPECIAL + ANSWERS)}
    vocabulary |= {f"▁w{i}": len(vocabulary) + i for i in range(VOCAB - len(vocabulary))}
    inner: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spaces = pre_tokenizers.Metaspace(prepend_scheme="never")
    inner.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split("?", "isolated")])
    inner.decoder = decoders.Metaspace(prepend_scheme="never")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def subject(likely: dict[str, float]) -> Subject:
    """A tiny Llama whose logits of some tokens are raised."""
    model, words = build("llama"), tokenizer()
    raised = torch.zeros(VOCAB)
    for word, by in likely.items():
        raised[words.convert_tokens_to_ids(word)] = by
    model.lm_head.register_forward_hook(lambda module, args, out: out + raised)
    return Subject(model, words, name="tiny")


def questions(n: int | None = None, seed: int = 0, *, tokenizer: Any = None) -> list[Example]:
    """Questions of random length, answered no as often as yes, and one in five about a colour."""
    made = []
    for i in range(n or 20):
        right, wrong = (" yes", " no") if i % 2 else (" no", " yes")
        options = (right, (wrong,)) if i % 5 else (" w1", (" w2",))
        segments = (Segment("question", "".join(f" w{(seed + i * j) % 20}" for j in range(3 + i % 3)) + "?"),)
        twin = Example(f"c{i}", f"g{i}", segments, options[1][0], (options[0],))
        made.append(Example(f"q{seed}-{i:02d}", f"g{i}", segments, *options, corrupt=twin))
    return made


@pytest.mark.parametrize(("yes", "no"), [("Yes", "No"), ("yes", "no"), (" Yes", " No")])
def test_the_form_with_the_mass_is_read(yes, no):
    """Only yes is likely: the form is found all the same, and no is read in the same one."""
    opened = subject({yes.replace(" ", "▁"): 12.0})
    found, told = spelled(opened, questions(), bos=(True, False))
    for before, after in zip(questions(), found, strict=True):
        plain = before.answer.strip()
        expected = {"yes": yes, "no": no}.get(plain, before.answer)
        assert after.answer == expected
        assert {after.answer, *after.wrong} == ({yes, no} if plain in ("yes", "no") else {" w1", " w2"})
        assert after.corrupt is not None
        assert after.corrupt.answer == after.wrong[0]
    batch = opened.batch(found[1:2], bos=True)
    assert opened.tokenizer.convert_ids_to_tokens(batch.answers.tolist()) == [yes.replace(" ", "▁")]
    assert f"“{yes}” and “{no}”" in told[0]
    assert "as the task writes them" in told[0]
    assert spelled_like(questions(seed=1), found)[1].answer == yes


def test_the_choice_does_not_look_at_what_is_right():
    opened = subject({"Yes": 9.0, "▁no": 8.0})
    swapped = [Example(e.id, e.group, e.segments, e.wrong[0], (e.answer,)) for e in questions()]
    forms = [spelled(opened, some)[0][1] for some in (questions(), swapped)]
    assert {forms[0].answer, forms[0].wrong[0]} == {forms[1].answer, forms[1].wrong[0]} == {"Yes", "No"}


def test_masses_are_sums_of_probabilities():
    opened = subject({"Yes": 4.0, "▁no": 3.0})
    asked = [e for e in questions() if "yes" in (e.answer + e.wrong[0])]
    found = masses(opened, asked)
    p = torch.stack([opened.last_logits(opened.batch([e], bos=True))[0].softmax(-1) for e in asked]).mean(0)
    ids = opened.tokenizer.convert_tokens_to_ids
    assert set(found) == {(" yes", " no"), (" Yes", " No"), ("yes", "no"), ("Yes", "No")}  # "Yes." is two tokens
    assert found["Yes", "No"] == pytest.approx(float(p[ids("Yes")] + p[ids("No")]), rel=1e-4)
    assert found[" yes", " no"] == pytest.approx(float(p[ids("▁yes")] + p[ids("▁no")]), rel=1e-4)


def test_the_task_s_own_form_stays_where_it_serves():
    found, told = spelled(subject({"▁yes": 9.0, "▁no": 9.0}), questions())
    assert [e.answer for e in found] == [e.answer for e in questions()]
    assert "as the task writes them" not in told[0]
    found, told = spelled(subject({"w9": 0.0, "▁w9": 30.0}), questions())
    assert "The model mostly answers with neither." in told[0]
    others = [e for e in questions() if e.answer.startswith(" w")]
    assert spelled(subject({}), others) == (others, [])


class Learned(NamedTuple):
    """Nothing."""


def accuracy() -> Any:
    """An analysis that learns which token is right on held-out examples and reads it on the others."""

    def fit(subject, batches, options):
        assert subject.tokenizer.convert_ids_to_tokens(batches[0].answers.tolist())[1] in ("Yes", "No")
        return Learned()

    def measure(subject, batch, kept, how):
        logits = subject.last_logits(batch)
        return {"right": (logits.gather(1, batch.answers[:, None]) > logits.gather(1, batch.wrong[:, None])).float()}

    def share(rows, how):
        return pd.DataFrame({"value": [rows["right"].mean()]})

    return analysis(FIT_EXAMPLES=4, Learned=Learned, fit=fit, measure=measure, TABLES={"accuracy": (share, ())})


def test_a_run_reads_the_form_and_says_so(tmp_path):
    module: Any = SimpleNamespace(
        __doc__="Questions", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=questions
    )
    opened, task = subject({"Yes": 9.0, "No": 9.0, "▁no": 1.0}), Task("questions", module, {})
    made = accuracy()
    (directory,) = run(opened, task, {"accuracy": (made, made.Options())}, Settings(out=tmp_path))
    assert "“Yes” and “No”" in (store.read_record(directory) or {})["notes"][0]
    read = {" yes": "Yes", " no": "No", " w1": "▁w1", " w2": "▁w2"}
    right = []
    for example in questions():
        logits = opened.last_logits(opened.batch([example], bos=True))[0]
        mine, other = opened.tokenizer.convert_tokens_to_ids([read[example.answer], read[example.wrong[0]]])
        right.append(float(logits[mine] > logits[other]))
    assert 0 < sum(right) < len(right)
    value = pd.read_parquet(directory / "tables" / "accuracy.parquet")["value"].item()
    assert value == pytest.approx(sum(right) / len(right))
    page = next(p for p in pages.build(tmp_path) if p.name.startswith("accuracy"))
    assert "Yes and no are read as" in page.read_text()
    verify(directory, opened, task, made, say=lambda line: None)

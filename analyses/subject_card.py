"""The subject card: what a vision-language model answers about scenes, from the image or without it.

Tables: accuracy (exact answers by kind and difficulty; controls: swapped and blank image, best constant answer), pope,
captions (CHAIR), text (SmolLM2's own abilities before and after), samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ..data import scenes
from ..data.example import Example, UserError
from ..data.scene_questions import POPE, coloured, mentioned
from ..data.scene_render import render
from ..probes.batch import Batch
from ..probes.generate import generate
from ..probes.rows import Rows
from . import stats
from .claims import Claim, verdict
from .frames import order_columns, summarise
from .text_ability import text_ability, text_table

VERSION = 1
QUESTION = "What does this model see, what does it make up, and what has it kept of its language?"
PAPER = "POPE (arXiv 2305.10355), CHAIR (arXiv 1809.02156); the model: this project's data/scenes/card.md"
IMAGES = ("real", "swapped", "blank")
CONTROLS = {"real": "", "swapped": "swapped image", "blank": "blank image"}
CONSTANT = "best constant answer"
GREY = (152, 152, 152)  # the mean background
BYTES = 160  # of an answer
SHORT, LONG = 4, 26  # tokens of an answer, of a caption
FIT_EXAMPLES = 1
SAMPLES = 12
BASIC = ("colour", "shape", "existence", "coloured_existence", "count")
RELATIONS = ("left_right", "above_below")


@dataclass(frozen=True)
class Options:
    """controls_on: the difficulty on which images are also swapped and blanked. texts: prompts of each text task.

    text: filled by the run: answers to text tasks before and after.
    """

    controls_on: str = "clear"
    texts: int = 100
    text: tuple[tuple[Any, ...], ...] = ()


def methods(options: Options) -> str:
    """The methods sentence of the page."""
    return (
        "Greedy answers up to the end token; an answer is right when it is the true one, letter by letter. Controls, "
        f"on the {options.controls_on} scenes: the same questions with the image of another scene of that difficulty, "
        "with a plain grey image, and the best constant answer to each wording of a question, chosen on these very "
        "examples. POPE: F1 of yes over questions for shapes, half of them there; the absent ones drawn at random, by "
        "frequency in training, or by training co-occurrence with what is there. CHAIR_I: share of a caption's object "
        "words whose object is not in the scene; things behind a board count as there. Intervals resample scenes."
    )


def fit(subject: Any, batches: Sequence[Batch], options: Options) -> dict[str, Any]:
    """Text abilities with the subject's norms and with SmolLM2's own; nothing where there is no before."""
    return {"text": text_ability(subject, options.texts)}


@torch.no_grad()
def rows(subject: Any, batch: Batch, options: Options) -> dict[str, Tensor]:
    """ "right|<image>" [b] (NaN where not asked), "yes" [b], "said" [b, bytes]; of captions "words", "absent",
    "found", "things", "set" [b].
    """
    if any("kind" not in example.meta for example in batch.examples):
        raise UserError("subject_card asks about scenes: --task scenes:kinds=all,difficulty=all")
    said = {image: _answers(subject, batch, image, options) for image in IMAGES}
    out = {f"right|{image}": torch.tensor([_right(e, t) for e, t in _pairs(batch, said[image])]) for image in IMAGES}
    real = _pairs(batch, said["real"])
    out["yes"] = torch.tensor([float(text == "yes") for _, text in real])
    out["said"] = torch.stack([_to_bytes(text or "") for _, text in real])
    counted = [_count(example, text or "") for example, text in real]
    return out | {name: torch.tensor([row[name] for row in counted]) for name in counted[0]}


def row_size(subject: Any, positions: int, options: Options) -> int:
    """Numbers that one example's rows hold."""
    return len(IMAGES) + 6 + BYTES


def _pairs(batch: Batch, said: Sequence[str | None]) -> list[tuple[Example, str | None]]:
    return list(zip(batch.examples, said, strict=True))


def _answers(subject: Any, batch: Batch, image: str, options: Options) -> list[str | None]:
    """What is said to each example, None where this image is not shown."""
    said: list[str | None] = [None] * len(batch.examples)
    first = batch.inputs["input_ids"][torch.arange(len(said)), batch.start]
    bos = bool((first == subject.tokenizer.bos_token_id).all())
    for caption, length in ((False, SHORT), (True, LONG)):
        at = [
            i
            for i, e in enumerate(batch.examples)
            if (e.meta["kind"] == "caption") == caption and image in ("real", _shown(e, image, options))
        ]
        if at:
            asked = subject.batch([_seen(batch.examples[i], image) for i in at], bos=bos, padding="left")
            for i, text in zip(at, generate(subject, asked, max_tokens=length), strict=True):
                said[i] = text.strip()
    return said


def _shown(example: Example, image: str, options: Options) -> str:
    return image if example.meta["difficulty"] == options.controls_on else ""


def _seen(example: Example, image: str) -> Example:
    """The example with this image in the place of its own."""
    if image == "real":
        return example

    def other(own: Image.Image) -> Image.Image:
        return Image.new("RGB", own.size, GREY) if image == "blank" else render(scenes.other_scene(example.group))

    segments = tuple(
        s if isinstance(s.content, str) else s._replace(content=other(s.content)) for s in example.segments
    )
    return replace(example, segments=segments, boxes={})


def _right(example: Example, text: str | None) -> float:
    return np.nan if text is None else float(text == example.answer.strip())


def _to_bytes(text: str) -> Tensor:
    data = text.encode()[:BYTES].ljust(BYTES, b"\0")
    return torch.tensor(list(data), dtype=torch.uint8)


def _count(example: Example, text: str) -> dict[str, float]:
    """What a caption names; NaN for other answers."""
    if example.meta["kind"] != "caption":
        return dict.fromkeys(("words", "absent", "found", "things", "set"), np.nan)
    there, words = mentioned(example.meta["objects"]), mentioned(text)
    return {
        "words": float(len(words)),
        "absent": float(sum(word not in there for word in words)),
        "found": float(len(set(words) & set(there))),
        "things": float(len(there)),
        "set": float(coloured(text) == coloured(example.meta["objects"])),
    }


def tables(rows: Rows, options: Options) -> dict[str, pd.DataFrame]:
    """See the module's docstring; all have condition, difficulty, value, lower, upper, n, n_groups, unit."""
    made: dict[str, list[pd.DataFrame]] = {"accuracy": [], "pope": [], "captions": []}
    cells = rows.examples.groupby(["condition", "difficulty", "kind"], sort=False).indices
    for (condition, difficulty, kind), at in cells.items():  # pyright: ignore[reportGeneralTypeIssues]
        chosen = np.zeros(len(rows.examples), bool)
        chosen[at] = True
        part, where = rows.where(chosen), {"condition": condition, "difficulty": difficulty}
        made["accuracy"].append(_accuracy(part).assign(kind=kind, **where))
        if kind in POPE:
            made["pope"].append(_pope(part).assign(set=kind.removeprefix("pope_"), **where))
        if kind == "caption":
            made["captions"].append(_captions(part).assign(**where))
    joined = {name: order_columns(pd.concat(frames, ignore_index=True)) for name, frames in made.items() if frames}
    if options.text:
        joined["text"] = text_table(options.text)
    return joined | {"samples": _samples(rows)}


def _constant(examples: pd.DataFrame, truth: np.ndarray) -> np.ndarray:
    """Whether the most frequent true answer to an example's wording is its own."""
    best = pd.Series(truth).groupby(examples["question"].to_numpy()).transform(lambda told: told.mode().iloc[0])
    return (best.to_numpy() == truth).astype(float)


def _accuracy(part: Rows) -> pd.DataFrame:
    groups, frames = part.examples["group"], []
    for image in IMAGES:
        right = part[f"right|{image}"]
        if not np.isnan(right).all():
            frames.append(summarise(right, groups, {}, "share").assign(control=CONTROLS[image]))
    truth = part.examples["answer"].to_numpy()
    if part.examples["kind"].iloc[0] != "caption":
        constant = _constant(part.examples, truth)
        swapped = part["right|swapped"]
        frame = summarise(constant, groups, {}, "share").assign(control=CONSTANT)
        if not np.isnan(swapped).all():
            against = stats.paired_difference(swapped, constant, groups)
            frame = frame.assign(swapped_minus_constant=float(against.value), difference_lower=float(against.lower))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _pope(part: Rows) -> pd.DataFrame:
    groups, yes = part.examples["group"], part["yes"] == 1
    there = (part.examples["answer"] == "yes").to_numpy()
    measures = {
        "F1": (2.0 * (there & yes), 1.0 * there + yes),
        "precision": (1.0 * (there & yes), 1.0 * yes),
        "recall": (1.0 * (there & yes), 1.0 * there),
        "false alarms": (1.0 * (~there & yes), 1.0 * ~there),
        "said yes": (1.0 * yes, np.ones(len(yes))),
    }
    frames = [
        summarise(top, groups, {}, "share", denominators=bottom).assign(measure=name)
        for name, (top, bottom) in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _captions(part: Rows) -> pd.DataFrame:
    groups, one = part.examples["group"], np.ones(len(part.examples))
    measures = {
        "CHAIR_I": (part["absent"], part["words"], "share"),
        "CHAIR_S": ((part["absent"] > 0) * 1.0, one, "share"),
        "recall": (part["found"], part["things"], "share"),
        "object set": (part["set"], one, "share"),
        "object words": (part["words"], one, "words a caption"),
    }
    frames = [
        summarise(top, groups, {}, unit, denominators=bottom).assign(measure=name)
        for name, (top, bottom, unit) in measures.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _samples(rows: Rows) -> pd.DataFrame:
    """Examples to look at, difficulties in turn, wrong answers where there are some: picture, question, answers."""
    examples = rows.examples.assign(right=rows["right|real"], row=np.arange(len(rows.examples)))
    first = examples[examples["condition"] == examples["condition"].iloc[0]]
    chosen = first.groupby("difficulty", sort=False).apply(_mixed, include_groups=False)
    picked = first.set_index("row").loc[chosen.explode().dropna().astype(int).tolist()]
    return pd.DataFrame(
        {
            "difficulty": picked["difficulty"].to_numpy(),
            "kind": picked["kind"].to_numpy(),
            "question": picked["question"].to_numpy(),
            "truth": picked["answer"].to_numpy(),
            "said": [
                bytes(rows["said"][i].astype(np.uint8)).rstrip(b"\0").decode("utf-8", "ignore") for i in picked.index
            ],
            "value": picked["right"].to_numpy(),
            "unit": "1 = right",
            "scene": picked["group"].to_numpy(),
            "picture": [picture(group) for group in picked["group"]],
        }
    )


def _mixed(frame: pd.DataFrame) -> list[int]:
    """Four examples of four scenes and kinds: a caption, a wrong answer if there is one, others."""
    order = pd.concat([frame[frame["kind"] == "caption"].head(1), frame[frame["right"] == 0], frame.iloc[::3]])
    order = order[~order["kind"].isin(POPE)].drop_duplicates("group").drop_duplicates("kind")
    return order["row"].head(4).tolist()


def picture(group: str) -> str:
    """The scene as a data address."""
    from base64 import b64encode
    from io import BytesIO

    stream = BytesIO()
    render(scenes.scene_of(group)).save(stream, "PNG")
    return "data:image/png;base64," + b64encode(stream.getvalue()).decode()


def claims(tables: dict[str, pd.DataFrame]) -> list[Claim]:
    """What this subject has to be for the other pages to mean something; thresholds set before it was trained."""
    made = []
    accuracy = tables["accuracy"][tables["accuracy"]["difficulty"] == "clear"]
    for kinds, least, name in ((BASIC, 0.9, "basic"), (BASIC, 0.95, "basic"), (RELATIONS, 0.9, "relation")):
        real = accuracy[(accuracy["control"] == "") & accuracy["kind"].isin(kinds)]
        if len(real):
            made.append(_claim_accuracy(real, least, name))
    swapped = (
        accuracy.dropna(subset=["swapped_minus_constant"]) if "swapped_minus_constant" in accuracy else accuracy[:0]
    )
    if len(swapped):
        made.append(_claim_swapped(swapped))
    if "pope" in tables and "hard" in set(tables["pope"]["difficulty"]):
        made.append(_claim_pope(tables["pope"]))
    if "captions" in tables:
        made += _claims_captions(tables["captions"])
    return made + (_claims_text(tables["text"]) if "text" in tables else [])


def _claim_accuracy(real: pd.DataFrame, least: float, name: str) -> Claim:
    text = f"On clear scenes every {name} kind of question is answered exactly in {least:.0%} of the cases or more."
    numbers = "; ".join(f"{r.kind} {r.value:.3f} [{r.lower:.3f}, {r.upper:.3f}]" for r in real.itertuples())
    holds, fails = bool((real["value"] >= least).all()), bool((real["upper"] < least).any())
    return Claim(text, "this project's bar", f"{numbers}; n = {real['n'].min()} each", verdict(holds, fails))


def _claim_swapped(rows: pd.DataFrame) -> Claim:
    text = "With another scene's image the model does no better than the best constant answer to each wording."
    numbers = "; ".join(f"{r.kind} {r.swapped_minus_constant:+.3f}" for r in rows.itertuples())
    holds = bool((rows["swapped_minus_constant"] <= 0).all())
    return Claim(
        text, "this project's bar", f"difference: {numbers}", verdict(holds, bool((rows["difference_lower"] > 0).any()))
    )


def _claim_pope(pope: pd.DataFrame) -> Claim:
    text = "On hard scenes the adversarial set is harder than the random one: F1 lower, intervals apart."
    f1 = pope[(pope["difficulty"] == "hard") & (pope["measure"] == "F1")].set_index("set")
    if not {"random", "adversarial"} <= set(f1.index):
        return Claim(text, "arXiv 2305.10355", "not run", verdict(False, False))
    worst, easy = f1.loc["adversarial"], f1.loc["random"]
    numbers = (
        f"adversarial {worst['value']:.3f} [{worst['lower']:.3f}, {worst['upper']:.3f}], random {easy['value']:.3f} "
        f"[{easy['lower']:.3f}, {easy['upper']:.3f}], n = {int(worst['n'])}"
    )
    return Claim(
        text, "arXiv 2305.10355", numbers, verdict(worst["upper"] < easy["lower"], worst["lower"] > easy["upper"])
    )


def _claims_captions(captions: pd.DataFrame) -> list[Claim]:
    cells = captions.set_index(["difficulty", "measure"])
    made = []
    for level, measure, low, high, text in (
        ("clear", "object set", 0.8, 1.0, "Captions of clear scenes name exactly the objects that are there in 80 %."),
        ("clear", "CHAIR_I", 0.0, 0.05, "Captions of clear scenes name hardly anything that is absent: CHAIR_I ≤ 5 %."),
        ("hard", "CHAIR_I", 0.05, 0.3, "Captions of hard scenes make things up: CHAIR_I between 5 and 30 %."),
    ):
        if (level, measure) in cells.index:
            row = cells.loc[(level, measure)]
            numbers = f"{row['value']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}], n = {int(row['n'])}"
            outside = row["upper"] < low or row["lower"] > high
            made.append(Claim(text, "this project's bar", numbers, verdict(low <= row["value"] <= high, outside)))
    return made


def _claims_text(text: pd.DataFrame) -> list[Claim]:
    after = text[text["norms"] == "change"].set_index(["source", "measure"])
    made = []
    for key, limit, said in (
        (("ioi", "top-1"), 0.03, "SmolLM2's IOI top-1 is kept within 3 points."),
        (("passages", "NLL"), 0.03, "SmolLM2's loss on passages is kept within 3 %."),
    ):
        if key in after.index:
            row = after.loc[key]
            size, low, high = abs(row["value"]), row["lower"], row["upper"]
            numbers = f"change {row['value']:+.4f} [{low:+.4f}, {high:+.4f}] ({row['unit']}), n = {int(row['n'])}"
            made.append(
                Claim(said, "this project's bar", numbers, verdict(size <= limit, low > limit or high < -limit))
            )
    return made

"""FAMILIES.md is what the instruments can do on each family: the table is made here and compared with the file.

python -m crosslens.tests.probes.test_family_table > FAMILIES.md
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from crosslens import Subject, SubjectError, capture
from crosslens.probes.intervene.proofs import obstacle_of
from crosslens.probes.intervene.recording import record
from crosslens.probes.model import anatomy
from crosslens.probes.model.stack import Stack
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.sites import SITES, SiteError, markdown

from ..helpers import by_hand, families, painted_families, processor_checkpoints, vision, vision_subjects
from ..helpers.site_errors import read_errors, rewrite_errors
from ..sweep.judging import judge
from .test_routing import FAMILIES as ROUTED

FAMILIES = [*families.TEXT, *families.HYBRID, *vision.VISION, *families.REFUSED]
# Other ways to read images, judged as the sweep over all types judges them.
WRAPPERS = ("llama4", "qwen3_5", "qwen3_vl_moe", "gemma4", "cohere2_vision", "lfm2_vl", "minicpmv4_6", "idefics2")
WRAPPERS += ("deepseek_vl", "hunyuan_vl", "got_ocr2", "blip-2", "instructblip", "mllama", "chameleon", "kosmos-2")
RARE = {"beside_out"}  # sites that few families have: those that lack them do not say so
FILE = Path(__file__).parents[2] / "FAMILIES.md"
HEAD = """# Families

What each instrument can do on each family, as `tests/probes/test_family_table.py` finds it on tiny random models:
compared with plain Hugging Face eager forwards, with images where a family takes them. Any other family is proved or
refused by `crosslens check MODEL` on the weights in hand. The verdict on every type that the installed transformers
registers, on tiny random models again, is in [tests/sweep/verdicts.md](tests/sweep/verdicts.md).

| family | capture | pattern rows | edits | replay in sweeps | sites read and rewritten | in the vision tower |
|---|---|---|---|---|---|---|
"""
WRAPPERS_HEAD = """
## More families with images

With images of noise, as `python -m crosslens.tests.sweep` judges every type that transformers registers: *exact* where
states, patterns, z, knockouts and patches of all heads, and padding equal plain eager forwards, *in part* where some
layers have no pattern. A vision tower that is not proved is refused alone, and its decoder can be read all the same.

| family | decoder | with images | vision tower |
|---|---|---|---|
"""
PROCESSORS_HEAD = """
## Processors

A checkpoint's processor, opened from a directory where torchvision is not installed: pictures go through Pillow. Where
transformers itself would ask for torchvision (and, for SmolVLM, for num2words) to build the processor's video part,
that part is left out. README.md (Torchvision) says how to install torchvision. Families that are not listed take the
processor that their checkpoint names.

| without torchvision | families |
|---|---|
"""
GEOMETRY_HEAD = """
## Where image tokens lie

`batch.geometry` has the views of each picture (whole, tile, thumbnail), and of each the rows, columns, positions and
pixel boxes of its cells; maps over pictures and boxes of objects are made of it. It is told by the model's and the
processor's own numbers: the grid that the tower is given (Qwen-VL, GLM-V, Gemma 4), the model's own packing
(LLaVA-NeXT, LLaVA-OneVision), the tiles that the processor names or counts (Idefics3, SmolVLM, InternVL, Aya Vision,
Ovis2, Gemma 3's crops), else pixels over patches, and the factor of the merger, shuffle or pooling. Where these do not
make exactly as many tokens as the prompt holds (tokens that are no patches: queries of a resampler, codes), nothing is
drawn, and pages say why. Proved by painting: a spot in one cell of a picture changes that cell's position and no other
(in the thumbnail, that one most), in a wide picture, a tall one and two of a prompt.

| proved by painting |
|---|
"""
SITES_HEAD = """
## Sites

Read by `capture` and `tracing`, in TransformerLens' names: `z` is every layer's, `blocks.3.attn.hook_z` one layer's,
`vision.z` and `vision.blocks.3.attn.hook_z` are the vision tower's. In a tower the batch counts images (or tiles) and
positions are patches; Qwen-VL, GLM-V and Pixtral pack the patches of all images into one row. Asking for a site that a
family lacks is an error that says why: projections may be fused, experts have no neurons that every token goes through,
parallel blocks no residual between attention and MLP. In hybrids, layers without attention have no heads: `attn_out` is
there what their mixer (a gated delta net, a state space, a convolution) writes, and sweeps over heads have NaN. `z` is
what W_O reads; where a gate or a norm stands before it (Qwen 3.5, BitNet), `attn_z` is what the attention gives.
`projector.mlp_pre`, `projector.mlp_post` and `projector.mlp_out` are those of the MLP between tower and decoder, where
it is two linear layers with an activation function between them (LLaVA and its kin, InternVL, Mistral 3, Qwen-VL; not
one matrix, a gate or a resampler); `tests/probes/test_projector.py` has the families on which it is proved.

"""

EXPERTS = """
## Experts

Of these mixtures `probes.observe.routing` watches the routers and takes experts out; that what was seen to be chosen is
what the experts add is proved by the tests, expert by expert. `experts` refuses dense models and Llama 4 (its router
gives a score to every expert). No mixture is embedded, so there is no recipe:
`crosslens run experts --subject NAME --task texts`.

| routers read |
|---|
"""


def row(family: str) -> str:
    """One line of the table."""
    if family in families.REFUSED:
        try:
            Subject(families.build(family)).check()
        except SubjectError as error:
            return f"| {family} | refused: {str(error).removeprefix(family).strip(' :')} | | | | | |"
        return f"| {family} | not refused | | | | | |"
    given = by_hand.inputs(family, "left")
    subject, plain = Subject(by_hand.build(family)), by_hand.logits(family, given)
    cells = [_capture(subject, given, plain), _rows(subject, given), _edit(subject, given), _replay(subject, given)]
    cells.append(_by_mixer(subject) if family in families.HYBRID else _sites(family, "decoder", given))
    cells.append(f"{subject.vision.family}: {_sites(family, 'vision', given)}" if subject.vision else "")
    return f"| {family} | {' | '.join(cells)} |"


def wrapper_row(family: str) -> str:
    """One line of the table of more families with images."""
    found = judge(("vision", family, ""))
    decoder = ": ".join(filter(None, (found.verdict, found.reason.removeprefix(family).strip(" :"))))
    said = "" if found.tower in ("", "yes") or found.tower.startswith("all but") else "refused: "
    return f"| {family} | {decoder} | {found.images} | {said}{found.tower} |"


def processor_rows() -> str:
    return "".join(f"| {one} | {', '.join(names)} |\n" for one, names in processor_checkpoints.groups().items())


def geometry_row() -> str:
    return f"| {', '.join(sorted({*vision_subjects.FAMILIES, *painted_families.SETTINGS}))} |\n"


def _capture(subject: Subject, given: dict, plain: torch.Tensor) -> str:
    found = capture(subject, given, ["blocks.2.hook_resid_post"])["blocks.2.hook_resid_post"]
    real = given["attention_mask"].bool()
    return _yes(subject.unembed(subject.norm(found))[real], plain[real])


def _rows(subject: Subject, given: dict) -> str:
    queries = torch.full((3, 1), given["input_ids"].shape[1] - 1)
    whole, rows = capture(subject, given, ["pattern"]), capture(subject, given, ["pattern"], queries=queries)
    return _yes(torch.stack([*rows.values()]), torch.stack([*whole.values()])[:, :, :, -1:])


def _edit(subject: Subject, given: dict) -> str:
    with tracing(subject, edits={1: lambda call: call.edited(head_scale=torch.tensor([[[1.0], [0.0], [2.0], [1.0]]]))}):
        found = subject.forward(given, keep=0)
    scale = torch.tensor([1.0, 0.0, 2.0, 1.0])[None, None, :, None]
    expected = by_hand.logits(subject.family, given, attn_z={1: lambda z: z * scale})
    real = given["attention_mask"].bool()
    return _yes(found[real], expected[real])


def _replay(subject: Subject, given: dict) -> str:
    obstacle = obstacle_of(record(subject, given))
    return f"whole forwards: {obstacle}" if obstacle else "yes"


def _sites(family: str, stack: str, given: dict) -> str:
    """All sites, or which are lacking, or off, read or rewritten."""
    read, rewritten = read_errors(family, stack, given), rewrite_errors(family, stack, given)
    off = [name for name, error in read.items() if error > 1e-5]
    off += [f"{name} rewritten" for name, (error, *_) in rewritten.items() if error > 3e-5]
    lacks = [name for name in SITES if name not in {*read, *RARE}]
    exact = f"all but {', '.join(lacks)}" if lacks else "all"
    return f"{exact}; off: {', '.join(off)}" if off else exact


def _by_mixer(subject: Subject) -> str:
    """What layers of each kind lack; that the others are right is tests/probes/test_hybrid_families.py's."""
    cells = {}
    for index, layer in enumerate(subject.layers):
        lacks = [name for name in SITES if name not in RARE and not has(subject.decoder, index, name)]
        cells[type(anatomy.mixer_of(layer)).__name__] = f"all but {', '.join(lacks)}" if lacks else "all"
    return "; ".join(f"{kind}: {cell}" for kind, cell in cells.items())


def has(stack: Stack, index: int, name: str) -> bool:
    try:
        stack.require(index, SITES[name])
    except SiteError:
        return False
    return True


def _yes(found: torch.Tensor, expected: torch.Tensor) -> str:
    error = float((found - expected).abs().max() / expected.abs().max())
    return "yes" if error <= 1e-5 else f"no ({error:.1g} off)"


def table() -> str:
    rows, wrappers = "\n".join(map(row, FAMILIES)), "\n".join(map(wrapper_row, WRAPPERS))
    processors = PROCESSORS_HEAD + processor_rows() + GEOMETRY_HEAD + geometry_row()
    return (
        HEAD
        + rows
        + "\n"
        + WRAPPERS_HEAD
        + wrappers
        + "\n"
        + processors
        + SITES_HEAD
        + markdown()
        + EXPERTS
        + f"| {', '.join(sorted(ROUTED))} |\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_says_what_is_found(family):
    assert row(family) in FILE.read_text("utf-8").splitlines()


@pytest.mark.parametrize("family", WRAPPERS)
def test_the_file_says_what_is_found_of_more_families(family):
    assert wrapper_row(family) in FILE.read_text("utf-8").splitlines()


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is here")
def test_the_file_says_which_processors_open_without_torchvision():
    found = processor_checkpoints.groups()
    assert sorted(family for names in found.values() for family in names) == sorted(processor_checkpoints.FAMILIES)
    assert processor_rows() in FILE.read_text("utf-8")


def test_the_file_says_whose_geometry_is_proved():
    assert GEOMETRY_HEAD + geometry_row() in FILE.read_text("utf-8")


if __name__ == "__main__":
    print(table(), end="")

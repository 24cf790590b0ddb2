"""Statistics of a tower are those of its whole maps; uniform attention gives the nulls; groups of heads are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crosslens import metrics
from crosslens.analyses.attention import tower_profile
from crosslens.analyses.attention._tower_groups import PERMUTED, groups_of_heads, stability
from crosslens.analyses.attention._tower_rows import HOPS, OF_CLASS, STATISTICS, distances, even, tower_rows
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model.stack import VISION
from crosslens.probes.observe.tracing import tracing
from crosslens.probes.runs.results import How

from ..helpers import tiny, vision_subjects
from .claims import tower_profile as planted


@pytest.fixture(scope="module", params=["llava", "llava_onevision"])
def subject(request, tmp_path_factory):
    """A tower with a class token, and one without."""
    return vision_subjects.save(request.param, tmp_path_factory.mktemp(request.param))


def example(name, seed):
    segments = (Segment("image", vision_subjects.picture(seed)), Segment("question", " w5 w6"))
    return Example(name, name, segments, answer=" w4", wrong=(" w5",))


EXAMPLES = [example("a", 1), example("b", 2)]


def test_statistics_are_those_of_the_whole_map(subject):
    rows = tower_rows(subject, subject.batch(EXAMPLES))
    for i, one in enumerate(EXAMPLES):
        kept = []
        with torch.no_grad(), tracing(subject, lambda layer, kept=kept: kept.append(layer.pattern()), stack=VISION):
            subject.forward(subject.batch([one]))
        for index, pattern in enumerate(kept):
            n = pattern.shape[-1]
            has_class = int(n**0.5) ** 2 != n
            side = int((n - has_class) ** 0.5)
            own = pattern[:, :, has_class:, has_class:]
            itself = own.diagonal(dim1=2, dim2=3).mean((0, 2))
            torch.testing.assert_close(rows["patch_to_self"][i, index], itself, rtol=1e-4, atol=1e-6)
            far = (own / own.sum(-1, keepdim=True) * distances(side)).sum(-1).mean((0, 2))
            torch.testing.assert_close(rows["distance"][i, index], far, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(rows["hops"][i, index].sum(-1), torch.ones(len(far)))
            for name in OF_CLASS:
                assert rows[name][i, index].isnan().all() == (not has_class), name
            if has_class:
                found = metrics.block_statistics(pattern[0])
                means = torch.stack([metrics.block_statistics(p).cls_entropy for p in pattern]).mean(0)
                assert found.cls_entropy.shape == means.shape
                torch.testing.assert_close(rows["cls_entropy"][i, index], means)


def test_rows_belong_to_their_example(subject):
    together = tower_rows(subject, subject.batch(EXAMPLES))
    for i, one in enumerate(EXAMPLES):
        for name, value in tower_rows(subject, subject.batch([one])).items():
            torch.testing.assert_close(together[name][i], value[0], equal_nan=True, msg=name)


def test_a_tower_that_looks_alike_at_all_gives_the_nulls(tmp_path):
    subject = vision_subjects.save("llava", tmp_path)
    for name, weight in subject.model.named_parameters():
        if "vision" in name and "q_proj" in name:
            weight.data.zero_()
    rows = tower_rows(subject, subject.batch(EXAMPLES))
    for name in (*STATISTICS, "distance"):
        null = rows[f"even|{name}"][:, None, None].expand_as(rows[name])
        torch.testing.assert_close(rows[name], null, rtol=1e-4, atol=1e-5, msg=name)


def test_distances_count_borders():
    assert distances(3)[4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert distances(3)[0].tolist() == [0, 1, 2, 1, 1, 2, 2, 2, 2]
    by_hand = distances(3).float().mean()
    torch.testing.assert_close(even(3, False)["distance"], by_hand)
    torch.testing.assert_close(even(3, True)["distance"], by_hand)


def test_two_kinds_of_heads_are_found_again_and_permuted_profiles_are_not():
    tables = planted.tables_of()
    kinds = tables["clusters"].groupby("cluster")["layer"].count()
    assert sorted(kinds) == [planted.LAYERS * planted.HEADS // 2] * 2
    found = tables["stability"].set_index("control")["value"]
    assert found[""] > 0.95
    assert abs(found[PERMUTED]) < 0.3
    assert groups_of_heads(np.ones((3, HOPS)), 4) is None
    assert stability(np.ones((1, 1, 8, HOPS)), np.array(["a"]), 4) is None


@pytest.mark.parametrize("text", [True, False])
def test_what_has_no_tower_or_no_picture_is_told_in_one_line(text, tmp_path):
    how = How(tower_profile.Options())
    one = tiny.subject() if text else vision_subjects.save("llava", tmp_path)
    batch = one.batch(["w1 w2 w3"])
    with pytest.raises(UserError, match="has no vision tower" if text else "has no image"):
        tower_profile.measure(one, batch, {}, how)

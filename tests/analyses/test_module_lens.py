"""The lens on modules: entropies the slow way, rows of their own, a planted word and its twin, mistakes."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from crosslens import Subject, capture, metrics
from crosslens.analyses.common.controls import NOISE
from crosslens.analyses.lenses import module_lens
from crosslens.analyses.lenses._module_rows import places
from crosslens.data.errors import UserError
from crosslens.probes.runs.results import How, observe
from crosslens.probes.runs.run import Settings, run

from ..helpers import tiny
from ..helpers.vision_subjects import build
from .test_image_lens import example, task

OPTIONS = module_lens.Options(tokens=3)


def subject() -> Subject:
    return Subject(*build("llava"), name="tiny-llava")


def rows_of(opened, batch, options=OPTIONS):
    return observe(opened, batch, {"module_lens": (module_lens, How(options))})["module_lens"]


def test_tokens_are_spread_evenly_whatever_the_padding():
    opened = subject()
    for padding in ("left", "right"):
        batch = opened.batch([example(0), example(1)], padding=padding)
        chosen = places(batch, 3)
        assert (chosen["image"].sum(1) == 3).all()
        image = batch.where("image")[0].nonzero()[:, 0]
        assert chosen["image"][0].nonzero()[:, 0].tolist() == image[[6, 18, 30]].tolist()
        assert (chosen["text"].sum(1) <= 3).all()
        assert not (chosen["text"] & batch.where("image")).any()


@torch.no_grad()
def test_entropies_equal_the_slow_way():
    opened = subject()
    batch = opened.batch([example(0), example(1)])
    rows, chosen = rows_of(opened, batch), places(batch, 3)
    names = {
        "attention": "attn_out",
        "behind attention": "resid_mid",
        "MLP": "mlp_out",
        "behind the block": "resid_post",
    }
    for name, site in names.items():
        states = capture(opened, batch, [site])[f"blocks.1.hook_{site}"]
        for kind, mask in chosen.items():
            for i in range(2):
                own = metrics.entropy(opened.unembed(opened.norm(states[i][mask[i]]))).mean()
                torch.testing.assert_close(rows[f"{name}|{kind}"][i, 1], own, rtol=1e-4, atol=1e-4)


def test_rows_belong_to_their_example():
    opened = subject()
    examples = [example(i) for i in range(3)]
    whole = rows_of(opened, opened.batch(examples, padding="left"))
    for i, one in enumerate(examples):
        for name, values in rows_of(opened, opened.batch([one])).items():
            torch.testing.assert_close(values[0], whole[name][i], rtol=1e-3, atol=1e-4)


def test_a_planted_word_is_sure_and_its_twin_is_not(tmp_path):
    """MLP 1 writes one word at every position: behind it the lens is sure, with noise of the same norm it is not."""
    opened = subject()
    token = opened.tokenizer.convert_tokens_to_ids("w6")
    direction = (opened.W_U[token] / opened.norm.weight).detach()
    handle = opened.layers[1].mlp.register_forward_hook(lambda m, args, out: out + 300 * direction / direction.norm())
    try:
        analyses = {"module_lens": (module_lens, OPTIONS)}
        (directory,) = run(opened, task(), analyses, Settings(out=tmp_path))
    finally:
        handle.remove()
    table = pd.read_parquet(directory / "tables" / "entropy.parquet").query("layer == 1 and tokens == 'image'")
    found = table.set_index(["module", "control"])["value"]
    for module in ("MLP", "behind the block"):
        assert found[module, ""] < found[module, NOISE] - 0.05
    assert found["attention", ""] > found["MLP", ""]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_text_models_have_no_image_tokens(family, tmp_path):
    opened = tiny.subject(family)
    (directory,) = run(opened, tiny.task(), {"module_lens": (module_lens, OPTIONS)}, Settings(limit=8, out=tmp_path))
    table = pd.read_parquet(directory / "tables" / "entropy.parquet")
    assert set(table["tokens"]) == {"text"}
    assert ("behind attention" in set(table["module"])) == (family == "llama")
    claims = pd.read_parquet(directory / "tables" / "claims.parquet")
    assert claims["verdict"].iloc[0] == "not testable"


def test_mistakes_are_one_line():
    opened = subject()
    with pytest.raises(UserError, match=r"--module_lens\.tokens 0"):
        rows_of(opened, opened.batch([example(0)]), module_lens.Options(tokens=0))

"""A state put into another prompt says there what later layers make of it; its twin, or another state, does not."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from crosslens import capture
from crosslens.analyses.lenses import _patchscope_rows, patchscope
from crosslens.analyses.lenses._onset import onset
from crosslens.analyses.lenses._patchscope_tables import LOGIT, OTHER, PATCHED, RANDOM
from crosslens.data.errors import UserError
from crosslens.probes.runs.results import How
from crosslens.probes.runs.run import Settings, run
from crosslens.probes.runs.verify import verify

from ..helpers import tiny

TARGET = "w7 w7 w8 w8 w9"
OPTIONS = patchscope.Options(target=TARGET)


def analyse(subject, out, **settings):
    settings = Settings(limit=10, out=out, **settings)
    (directory,) = run(subject, tiny.task(), {"patchscope": (patchscope, OPTIONS)}, settings)
    return directory, {p.stem: pd.read_parquet(p) for p in (directory / "tables").glob("*.parquet")}


def rows_of(subject, batch):
    kept = capture(subject, batch, ["resid_pre", f"blocks.{subject.n_layers - 1}.hook_resid_post"])
    *states, end = (tensor[torch.arange(len(batch.last)), batch.last] for tensor in kept.values())
    others = [subject.batch(["w30 w31 w32"]).inputs["input_ids"][0].tolist()]
    how = How(OPTIONS, patchscope.Learned(others))
    return _patchscope_rows.read_patched(subject, batch, torch.stack(states, 1), end, how)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@torch.no_grad()
def test_it_equals_whole_forwards_with_the_state_put_in(family):
    subject = tiny.subject(family)
    batch = subject.batch(tiny.task().examples(subject.tokenizer, 3, 0))
    rows, n = rows_of(subject, batch), len(subject.batch([TARGET]).inputs["input_ids"][0])
    for i, example in enumerate(batch.examples):
        one = subject.batch([example])
        own = int(subject.last_logits(one).argmax())
        kept = capture(subject, one, ["resid_pre"])
        for layer in range(subject.n_layers):
            state = kept[f"blocks.{layer}.hook_resid_pre"][0, -1]

            def put(module, args, more, state=state):
                hidden = (args[0] if args else more["hidden_states"]).clone()
                hidden[:, n - 1] = state
                return ((hidden, *args[1:]), more) if args else (args, more | {"hidden_states": hidden})

            handle = subject.layers[layer].register_forward_pre_hook(put, with_kwargs=True)
            logits = subject.last_logits(subject.batch([TARGET]))[0]
            handle.remove()
            assert int((logits > logits[own]).sum()) == int(rows[f"{PATCHED}|rank"][i, layer])
            assert float(logits.argmax() == own) == float(rows[f"{PATCHED}|named"][i, layer])
            read = subject.unembed(subject.norm(state))
            assert int((read > read[own]).sum()) == int(rows[f"{LOGIT}|rank"][i, layer])


def test_a_run_verifies_and_any_batching_gives_the_same(tmp_path):
    subject = tiny.subject()
    directory, whole = analyse(subject, tmp_path / "a")
    verify(directory, subject, tiny.task(), patchscope, say=lambda line: None)
    _, single = analyse(tiny.subject(), tmp_path / "b", size=3, padding="left")
    for name in ("named", "tested"):
        np.testing.assert_allclose(whole[name]["value"], single[name]["value"], rtol=1e-3, atol=1e-4)
    assert set(whole["named"]["control"]) == {"", OTHER, RANDOM}


@contextmanager
def carrying(subject, strength):
    """The word w6 leaves a direction u in its state, which no unembedding reads; layer 2's MLP turns u into w5."""
    word = subject.tokenizer.convert_tokens_to_ids("w5")
    said = torch.nn.functional.normalize(subject.model.lm_head.weight[word].detach(), dim=0)
    u = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(4)), dim=0)
    u, entering = torch.nn.functional.normalize(u - (u @ said) * said, dim=0), []
    marked = subject.tokenizer.convert_tokens_to_ids("w6")

    def embedded(module, args, out):
        return out + 20 * (args[0] == marked)[..., None] * u

    def enters(module, args, more):
        entering.append(args[0] if args else more["hidden_states"])

    def turns(module, args, out):
        return out + strength * (entering[-1] @ u)[..., None] * said

    with ExitStack() as stack:
        stack.callback(subject.model.model.embed_tokens.register_forward_hook(embedded).remove)
        stack.callback(subject.layers[2].register_forward_pre_hook(enters, with_kwargs=True).remove)
        stack.callback(subject.layers[2].mlp.register_forward_hook(turns).remove)
        yield


@torch.no_grad()
def test_what_a_later_layer_makes_of_a_state_is_said_in_the_other_prompt():
    subject = tiny.subject()
    with carrying(subject, 30):
        batch = subject.batch(["w1 w2 w6", "w3 w4 w6"])
        rows = rows_of(subject, batch)
    assert rows[f"{PATCHED}|named"][:, :3].min() == 1
    assert rows[f"{LOGIT}|named"][:, :2].max() == 0
    assert rows[f"{OTHER}|named"].max() == 0
    assert rows[f"{RANDOM}|named"].mean() <= 0.5  # of 32 dimensions: by chance half of all directions lie along u


def test_what_does_not_fit_is_refused_in_one_line():
    subject = tiny.subject()
    batch = subject.batch(["w1 w2"])
    with pytest.raises(UserError, match=r"--patchscope\.target is empty"):
        patchscope.fit(subject, [batch], patchscope.Options(target=" "))
    with pytest.raises(UserError, match="the task has no prompt to spare"):
        patchscope.measure(subject, batch, {}, How(OPTIONS, patchscope.Learned()))
    batch.inputs["pixel_values"] = torch.zeros(1)
    with pytest.raises(UserError, match="patchscope reads text alone, and these prompts have pixel_values"):
        patchscope.fit(subject, [batch], OPTIONS)


def test_an_onset_is_where_a_curve_stays():
    curve = pd.DataFrame({"state": [0, 1, 2, 3], "value": [1.0, 90.0, 8.0, 2.0]})
    assert onset(curve, "state", most=10) == "state 2"
    assert onset(curve, "state", most=100) == "state 0"
    assert onset(curve, "state", most=1) == "no state"
    assert onset(curve.iloc[:0], "state") == "no state"

"""EAP-IG at the official points, edge by edge, beside hannamw/EAP-IG's algorithm written out in float64.

`get_scores_eap_ig`: what each writer says is taken in both runs; for k = 0 … n − 1 the clean prompt is run from
corrupted + k / n · (clean − corrupted) embeddings; (corrupted − clean) · the gradient at every reader's own input,
before its norm, is added up over batch, positions and k, and divided by n. Their attention hooks are TransformerLens'
(`hook_q_input`, … of every head); here the forward is written so that every reader has an input of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from crosslens import Subject
from crosslens.probes.intervene.edge_attribution import Reader, Writer, edge_attribution, official_points
from crosslens.probes.intervene.measures import logit_difference
from torch import Tensor

from ..helpers import families

RIGHT, WRONG = torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])


class Run(NamedTuple):
    """What every writer says and what every reader has heard, [b, p, d]; the last logits [b, vocab]."""

    said: dict[Writer, Tensor]
    heard: dict[Reader, Tensor]
    logits: Tensor


def forward(model, embedded):
    """GPT-2 by hand: every head's query, key and value, every MLP and the output read a copy of the residual."""
    said, heard = {Writer("embed", -1, -1): embedded}, {}
    resid = embedded + model.transformer.wpe.weight[: embedded.shape[1]]

    def read(reader):
        heard[reader] = resid.clone()  # theirs: a hook point of its own
        return heard[reader]

    for i, block in enumerate(model.transformer.h):
        heads = [head_said(block, h, [read(Reader(part, i, h)) for part in "qkv"]) for h in range(model.config.n_head)]
        said |= {Writer("head", i, h): one for h, one in enumerate(heads)}
        resid = resid + sum(heads) + block.attn.c_proj.bias
        said[Writer("mlp", i, -1)] = block.mlp(block.ln_2(read(Reader("mlp", i, -1))))
        resid = resid + said[Writer("mlp", i, -1)]
    final = model.transformer.ln_f(read(Reader("final", model.config.n_layer, -1)))
    return Run(said, heard, model.lm_head(final[:, -1]))


def head_said(block, head, inputs):
    """What one head writes, its query, key and value each of an input of its own."""
    attention = block.attn
    width, size = attention.embed_dim, attention.head_dim
    columns = [slice(part * width + head * size, part * width + (head + 1) * size) for part in range(3)]
    q, k, v = (
        block.ln_1(one) @ attention.c_attn.weight[:, at] + attention.c_attn.bias[at]
        for one, at in zip(inputs, columns, strict=True)
    )
    future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
    pattern = (q @ k.mT / size**0.5).masked_fill(future, -torch.inf).softmax(-1)
    return pattern @ v @ attention.c_proj.weight[head * size : (head + 1) * size]


def official_scores(model, clean_ids, corrupt_ids, steps):
    """{(reader, writer): score}, summed over the batch and divided by steps; as get_scores_eap_ig."""
    clean, corrupted = (model.transformer.wte(ids).detach() for ids in (clean_ids, corrupt_ids))
    with torch.no_grad():
        ours, theirs = forward(model, clean).said, forward(model, corrupted).said
    apart = {writer: theirs[writer] - ours[writer] for writer in ours}
    scores: dict[tuple[Reader, Writer], float] = {}
    for k in range(steps):
        run = forward(model, (corrupted + k / steps * (clean - corrupted)).requires_grad_())
        rows = torch.arange(len(clean_ids))
        value = (run.logits[rows, RIGHT] - run.logits[rows, WRONG]).sum()
        gradients = torch.autograd.grad(value, list(run.heard.values()))
        for reader, gradient in zip(run.heard, gradients, strict=True):
            for writer in apart:
                score = float((apart[writer] * gradient).sum()) / steps
                scores[reader, writer] = scores.get((reader, writer), 0.0) + score
    return scores


def ids(seed):
    return torch.randint(1, families.VOCAB, (3, 7), generator=torch.Generator().manual_seed(seed))


def both(steps, shares):
    base, donor = ids(0), ids(1)
    given = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in (base, donor)]
    found = edge_attribution(
        Subject(families.build("gpt2")), *given, measure=logit_difference(RIGHT, WRONG), shares=shares
    )
    total = found.values.sum(-1).double()
    scores = official_scores(families.build("gpt2", implementation="eager").double(), base, donor, steps)
    expected = torch.tensor([[scores[r, w] for w in found.writers] for r in found.readers], dtype=torch.float64)
    return total, expected.masked_fill(total.isnan(), torch.nan)


def test_the_forward_written_out_is_the_models():
    model = families.build("gpt2", implementation="eager").double()
    with torch.no_grad():
        torch.testing.assert_close(forward(model, model.transformer.wte(ids(0))).logits, model(ids(0)).logits[:, -1])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_edge_equals_the_official_algorithm(steps):
    total, expected = both(steps, official_points(steps))
    scale = float(expected.nan_to_num().abs().max())
    assert scale > 0
    torch.testing.assert_close(total, expected, atol=1e-5 * scale, rtol=1e-4, equal_nan=True)


def test_midpoints_are_another_sum():
    """So that the equality above is of the points too."""
    total, expected = both(5, [0.1, 0.3, 0.5, 0.7, 0.9])
    scale = float(expected.nan_to_num().abs().max())
    assert float((total - expected).nan_to_num().abs().max()) > 1e-3 * scale

"""Rotary factors that the longest prompt decides: a prompt's numbers do not depend on its neighbours."""

from __future__ import annotations

import pytest
import torch
from crosslens import Subject
from crosslens.data.errors import UserError
from crosslens.data.example import Example, Segment
from crosslens.probes.model.rotary import switch
from crosslens.probes.runs.plan import make_plan
from transformers import AutoConfig, AutoModelForCausalLM

from ..helpers import tiny
from ..helpers.families import SHAPE, enliven

SWITCH = 8
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": SWITCH, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}


def subject(family="phi3", rope=LONG, **changes):
    torch.manual_seed(0)
    changes = changes or {"original_max_position_embeddings": SWITCH}
    config = AutoConfig.for_model(family, **SHAPE | {"rope_parameters": rope} | changes)
    return Subject(enliven(AutoModelForCausalLM.from_config(config)).eval(), tiny.tokenizer())


def words(*lengths):
    """Prompts of so many tokens, BOS included."""
    texts = (" ".join(tiny.WORDS[i : i + n - 1]) for i, n in enumerate(lengths))
    return [Example(f"p{n}", f"p{n}", (Segment("text", text),)) for n, text in zip(lengths, texts, strict=True)]


def test_batches_are_split_at_the_switch():
    opened, examples = subject(), words(12, 6, 8, 9)
    assert switch(opened.text_config) == SWITCH
    plan = make_plan(opened, examples, "raw", (True,), 4096, None)
    assert [shard.ids for shard in plan] == [("p6", "p8"), ("p9", "p12")]
    known = {example.id: example for example in examples}
    for shard in plan:
        together = opened.last_logits(opened.batch([known[i] for i in shard.ids]))
        alone = torch.cat([opened.last_logits(opened.batch([known[i]])) for i in shard.ids])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_mixed_batch_is_refused(padding):
    opened = subject()
    mixed = opened.batch(words(6, 12), padding=padding)
    with pytest.raises(UserError, match="prompts of 6 and of 12 positions in one batch: above 8"):
        opened.last_logits(mixed)
    assert len(make_plan(tiny.subject(), words(6, 12), "raw", (True,), 4096, None)) == 1  # other families mix them


def test_a_prompt_beyond_dynamic_factors_is_refused():
    opened = subject("llama", DYNAMIC, max_position_embeddings=SWITCH)
    ids = torch.arange(4, 16)[None]
    opened.last_logits({"input_ids": ids[:, :SWITCH]})
    with pytest.raises(UserError, match="a prompt of 9 positions: above 8"):
        opened.last_logits({"input_ids": ids[:, : SWITCH + 1]})


def test_packed_positions_and_masks_of_pairs_are_refused():
    opened, ids = tiny.subject(), torch.arange(4, 12)[None]
    with pytest.raises(UserError, match="packed prompts are not read"):
        opened.last_logits({"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])})
    with pytest.raises(UserError, match="attention_mask has 4 axes"):
        opened.last_logits({"input_ids": ids, "attention_mask": torch.ones(1, 1, 8, 8)})


def test_given_positions_are_used():
    opened, ids = tiny.subject(), torch.arange(4, 12)[None]
    own = opened.last_logits({"input_ids": ids, "position_ids": torch.arange(8)[None] * 2})
    with torch.no_grad():
        given = {"position_ids": torch.arange(8)[None] * 2, "attention_mask": torch.ones_like(ids)}
        theirs = opened.model(input_ids=ids, **given).logits[:, -1]
    torch.testing.assert_close(own, theirs)
    assert not torch.equal(own, opened.last_logits({"input_ids": ids}))

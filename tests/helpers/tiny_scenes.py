"""The scenes model in small: a random Llama of two layers and a tower of two, on SmolLM2's real tokenizer."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from crosslens.data.subjects import scenes_model
from transformers import LlamaConfig, LlamaForCausalLM

TOWER = scenes_model.TOWER | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TOWER |= {"num_attention_heads": 2, "projection_dim": 32}


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **shape, num_key_value_heads=2, vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2
    )
    config.tie_word_embeddings, config.initializer_range = True, 0.2
    return scenes_model.build(LlamaForCausalLM(config), TOWER).eval()


@cache
def processor() -> Any:
    return scenes_model.processor()

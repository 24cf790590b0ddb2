"""Tiny random models, one per family, built from a configuration in memory. They prove wiring, not science."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

TEXT: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": SHAPE,
    "opt": {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2": SHAPE,
    "qwen3": SHAPE,
    "qwen3_moe": SHAPE | EXPERTS,
    "gemma2": SHAPE | MIXED | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": SHAPE | MIXED,
    "mistral": SHAPE | {"sliding_window": 4},
    "mixtral": SHAPE | {"num_local_experts": 4},
    "phi3": SHAPE | {"sliding_window": 4},
    "olmo2": SHAPE,
    "cohere2": SHAPE | MIXED | {"logit_scale": 0.3},
    "smollm3": SHAPE | {"no_rope_layers": [1, 0, 1]},
    "granite": SHAPE
    | {
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "logits_scaling": 3.0,
        "embedding_multiplier": 2.0,
    },
    "glm4": SHAPE,
    "starcoder2": SHAPE,
    "phi": SHAPE,
    "gpt_oss": SHAPE | MIXED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "bitnet": SHAPE,
    "llama4_text": SHAPE
    | {
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 8,
    },
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
STATES = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 4}
# Layers without attention around one that has it.
HYBRID: dict[str, dict[str, Any]] = {
    "qwen3_next": SHAPE | EXPERTS | LINEAR,
    "qwen3_5_text": SHAPE | LINEAR,
    "olmo_hybrid": SHAPE | LINEAR,
    "lfm2": SHAPE | {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 48},
    "bamba": SHAPE | STATES | {"attn_layer_indices": [1]},
    "jamba": SHAPE
    | {"attn_layer_period": 3, "attn_layer_offset": 1, "num_experts": 2, "expert_layer_period": 2}
    | {"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "kimi_linear": SHAPE
    | EXPERTS
    | LINEAR
    | {"kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    | {"linear_num_heads": 2, "linear_head_dim": 8}
    | {"num_key_value_heads": 4, "mlp_layer_types": ["dense", "sparse", "sparse"]},
}
# What is added to the residual is not what the named modules write, or layers differ in shape.
ODD: dict[str, dict[str, Any]] = {
    "gemma4_text": SHAPE
    | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    | {"global_head_dim": 16, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_kv_shared_layers": 1}
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB},
    "granitemoehybrid": SHAPE
    | STATES
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 16, "residual_multiplier": 0.3}
    | {"layer_types": ["linear_attention", "full_attention", "full_attention"]},
    "falcon_h1": SHAPE
    | STATES
    | {"mamba_d_ssm": 64, "ssm_out_multiplier": 0.6, "attention_out_multiplier": 0.7, "lm_head_multiplier": 0.5},
    "nemotron_h": SHAPE
    | {"layers_block_type": ["mamba", "attention", "moe"], "mamba_num_heads": 4, "mamba_head_dim": 16}
    | {"ssm_state_size": 8, "n_groups": 2, "chunk_size": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 16, "moe_shared_expert_intermediate_size": 16},
    "minicpm3": SHAPE
    | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    | {"v_head_dim": 8, "scale_depth": 1.4},
    "beam": SHAPE | EXPERTS,
    "doge": SHAPE,
    "laguna": SHAPE | EXPERTS | {"num_attention_heads_per_layer": [4, 8, 4], "sliding_window": 4},
    "deepseek_v32": SHAPE
    | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    | {"v_head_dim": 8, "index_topk": 3, "index_head_dim": 16, "index_n_heads": 16, "n_routed_experts": 4}
    | {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
    | {"mlp_layer_types": ["dense", "sparse", "sparse"]},
}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
# More mixtures of experts, for the tests of routers.
ROUTED: dict[str, dict[str, Any]] = {
    "olmoe": SHAPE | {"num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2, "residual_multiplier": 0.5},
    "deepseek_v3": SHAPE
    | LATENT
    | {"v_head_dim": 8, "n_routed_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, "n_group": 1}
    | {"topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1},
}
REFUSED: dict[str, dict[str, Any]] = {
    "falcon": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_layers": 3, "n_heads": 4},
}


def build(family: str, seed: int = 0, implementation: str | None = None) -> Any:
    """A tiny model of a family. The same seed gives the same weights under every attention implementation."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **(TEXT | HYBRID | ODD | ROUTED | REFUSED)[family])
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    return enliven(model).eval()


def enliven(model: Any) -> Any:
    """Weights five times as large and gains away from 1: with the usual tiny ones, wrong wiring would not show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
            else:
                noise = torch.randn_like(parameter) * 0.1
                parameter.add_(noise if "sinks" not in name else 10 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):  # Gemma 4's, saved with the weights
                buffer.add_(torch.rand_like(buffer) - 0.5)
    return model


def prompts(padding: str, seed: int = 0, lengths: tuple[int, ...] = (9, 6, 4)) -> dict[str, torch.Tensor]:
    """Three prompts of random tokens, "left" or "right" padded, or "none" of one length."""
    generator = torch.Generator().manual_seed(seed)
    size = max(lengths)
    ids = torch.randint(1, VOCAB, (len(lengths), size), generator=generator)
    mask = torch.ones_like(ids)
    if padding != "none":
        for row, length in zip(mask, lengths, strict=True):
            row[slice(size - length) if padding == "left" else slice(length, size)] = 0
    return {"input_ids": ids, "attention_mask": mask}

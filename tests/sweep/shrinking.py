"""Tiny configurations of any model type that transformers registers: rules on field names, then exceptions by hand.

A configuration starts from its class's own defaults; every field that a rule names is made small, lists with one entry
per layer keep one layer of each kind, ids of special tokens move into the small vocabulary.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCAB, WORDS = 160, 100  # ids from WORDS on are given to images, videos, sound and borders
LAYERS = 4
RULES: dict[str, Any] = {}


def _rule(value: Any, *names: str) -> None:
    RULES.update(dict.fromkeys(names, value))


_rule(VOCAB, "vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size", "decoder_vocab_size")
_rule(32, "hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "emb_dim", "embedding_dim")
_rule(48, "intermediate_size", "d_ff", "dff", "dim_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner")
_rule(48, "intermediate_size_mlp", "ffn_hidden_size", "dense_intermediate_size", "d_inner", "feed_forward_size")
_rule(16, "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size")
_rule(16, "expert_ffn_hidden_size", "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size")
_rule(16, "share_expert_dim", "router_hidden_size", "moe_latent_size")
_rule(LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_rule(LAYERS, "num_encoder_layers", "num_decoder_layers", "layers", "num_blocks", "num_layers_per_stack")
_rule(4, "num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
_rule(4, "num_encoder_attention_heads", "num_decoder_attention_heads", "attention_heads", "num_heads")
_rule(4, "num_sliding_attention_heads", "swa_num_attention_heads")
_rule(2, "num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads")
_rule(16, "head_dim", "swa_head_dim")
_rule(8, "d_kv", "dim_head", "kv_channels", "d_head", "attention_head_size")
_rule(8, "query_pre_attn_scalar", "rotary_dim")
_rule(64, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions", "context_length")
_rule(64, "max_sequence_length", "max_source_positions", "original_max_position_embeddings")
_rule(4, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_rule(2, "num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts")
_rule(1, "n_group", "topk_group", "n_shared_experts", "num_shared_experts", "num_expert_group")
_rule(1, "first_k_dense_replace", "moe_num_shared_experts", "zero_expert_num", "prefix_dense_sliding_window_pattern")
_rule(24, "q_lora_rank")
_rule(16, "kv_lora_rank", "o_lora_rank", "gated_norm_rank", "hc_lowrank", "laurel_rank", "adapter_rank")
_rule(8, "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rope_head_dim", "nope_head_dim")
_rule(16, "qk_head_dim", "index_head_dim")
_rule(16, "index_n_heads")  # with few heads, a rectified score is often 0 and the choice of keys a tie
_rule(2, "index_topk_blocks")
_rule(4, "index_topk")
_rule(2, "linear_num_key_heads", "linear_num_heads")
_rule(4, "linear_num_value_heads")
_rule(8, "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim")
_rule(4, "sliding_window", "sliding_window_size", "local_attention", "attention_window_size")
_rule(6, "attention_chunk_size")
_rule(8, "mamba_d_state", "ssm_state_size", "state_size")
_rule(16, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
_rule(4, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
_rule(4, "mamba_chunk_size", "chunk_size")
_rule(8, "hidden_size_per_layer_input")
_rule(4, "mamba_dt_rank", "d_rel")
_rule(16, "rel_extent")
_rule(
    16, "mlp_dim", "projection_dim", "projector_hidden_size", "projection_hidden_size", "projection_intermediate_size"
)
_rule(32, "lru_width", "attention_hidden_size")

TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "d_model": 16,
    "embed_dim": 16,
    "intermediate_size": 24,
    "mlp_dim": 24,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "depth": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "attention_heads": 2,
    "head_dim": 8,
    "image_size": 16,
    "patch_size": 4,
    "out_hidden_size": 32,
    "text_hidden_size": 32,
    "num_position_embeddings": 16,
    "projection_dim": 16,
    "window_size": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "output_channels": 16,
    "encoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "max_source_positions": 32,
    "deepstack_visual_indexes": [0, 1],
    "fullatt_block_indexes": [1],
    "global_attn_indexes": [1],
    "encoder_hidden_size": 16,
    "cross_attention_frequency": 1,
}
# Which sub-configurations hold a tower of their own and which the language model.
TEXTS = ("text_config", "llm_config", "language_config", "decoder", "thinker_config", "vlm_config")
SCALES = ("multiplier", "logits_scaling", "logit_scale", "residual_scale", "scale_emb", "embedding_scale")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
FIRST_IDS = ("bos", "eos", "pad", "sep", "cls", "unk", "mask", "decoder_start", "forced")


def sampled(values: list[Any], n: int) -> list[int]:
    """n layer numbers in order, one of each kind first; a layer with whole attention comes last."""
    kinds: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        kinds.setdefault(str(value), []).append(i)
    firsts = [layers[0] for layers in kinds.values()][:n]
    others = [i for i in reversed(range(len(values))) if i not in firsts]
    chosen = sorted(firsts + others[: n - len(firsts)])
    whole = [i for i in chosen if "full" in str(values[i]) or "indexed" in str(values[i])]
    if whole:
        chosen.append(chosen.pop(chosen.index(whole[-1])))
    return chosen


def shrunk(default: PreTrainedConfig, role: str, ids: dict[str, int] | None = None) -> dict[str, Any]:
    """Keyword arguments for a small configuration of the same class; role: "text" or "tower"."""
    ids = {} if ids is None else ids
    values, small = _values(default), {"model_type": default.model_type}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = shrunk(value, "text" if name in TEXTS and role != "tower" else "tower", ids)
        elif name.endswith(("token_id", "token_index", "token_ids", "_id")) and isinstance(value, int) and value > 2:
            first = 1 if "bos" in name else 2 if "eos" in name else 0
            small[name] = first if name.startswith(FIRST_IDS) else ids.setdefault(name, WORDS + 1 + len(ids))
        else:
            small |= _ruled(name, value, TOWER if role == "tower" else RULES, default.model_type)
    small |= _per_layer(values, small)
    if "kv_lora_rank" in values and "num_key_value_heads" in small:
        small["num_key_value_heads"] = small["num_attention_heads"]  # latent attention has no groups
    rope = values.get("rope_parameters")
    return small | (_small_rope(rope, small) if isinstance(rope, dict) else {})


def _values(default: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a configuration that can be read."""
    fields = [f.name for f in dataclasses.fields(default)] if dataclasses.is_dataclass(default) else vars(default)
    other = ("id2label", "label2id", "model_type", "transformers_version")
    names = [name for name in fields if not name.startswith("_") and name not in other]
    values = {}
    for name in names:
        with suppress(Exception):  # Gemma 4 refuses fields that differ by layer
            values[name] = getattr(default, name)
    return values


def _ruled(name: str, value: Any, rules: dict[str, Any], model_type: str) -> dict[str, Any]:
    """A field as a rule makes it; nothing where none does. What a family has switched off (0) stays off."""
    number = isinstance(value, (int, float, list, tuple)) and not isinstance(value, bool)
    if name in rules and number and value != 0:
        several = isinstance(value, (list, tuple)) and isinstance(rules[name], int) and len(value) < 4
        return {name: [rules[name]] * len(value) if several else rules[name]}
    if isinstance(value, float) and value == 1.0 and any(word in name for word in SCALES):
        return {name: 0.7}  # a multiplier of 1 would hide that it is left out
    if name == "final_logit_softcapping" and value is None and model_type.startswith("gemma4"):
        return {name: 3.0}  # their checkpoints have one
    return {}


def _per_layer(values: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Lists with one entry per layer, for the few layers that stay."""
    depth = next((values[name] for name in DEPTHS if name in values), None)
    layers = next((small[name] for name in (*DEPTHS, "depth") if name in small), None)
    if not isinstance(depth, int) or depth <= 4 or not layers:
        return {}
    lists = {n: list(v) for n, v in values.items() if isinstance(v, (list, tuple)) and len(v) == depth}
    # Lists of layer numbers do not say what the layers are.
    numbers = [n for n, v in lists.items() if isinstance(v[0], int) and v == sorted(set(v))]
    kinds = list(zip(*[v for n, v in lists.items() if n not in numbers] or [[0] * depth], strict=True))
    chosen = sampled(kinds, layers)
    return {n: list(range(layers)) if n in numbers else [v[i] for i in chosen] for n, v in lists.items()}


def _small_rope(rope: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Rotary sections that fit the small heads."""
    if "mrope_section" not in rope:
        return {}
    width = small.get("head_dim") or small["hidden_size"] // small["num_attention_heads"]
    half = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    rest = half // 4 or (1 if half >= 3 else 0)
    return {"rope_parameters": {**rope, "mrope_section": [half - 2 * rest, rest, rest]}}


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries joined; `...` removes a key, "__whole__" replaces a dictionary as it is."""
    out = dict(base)
    for key, value in more.items():
        if value is ...:
            out.pop(key, None)
        elif isinstance(value, dict):
            inner = out.get(key)
            joined = merged(inner, value) if isinstance(inner, dict) and not value.get("__whole__") else value
            out[key] = {k: v for k, v in joined.items() if k != "__whole__"}
        else:
            out[key] = value
    return out


def tiny_config(model_type: str, by_hand: dict[str, Any]) -> PreTrainedConfig:
    """A small configuration of a model type."""
    config_class = CONFIG_MAPPING[model_type]
    small = merged(shrunk(config_class(), "text"), by_hand)
    small.pop("model_type")
    return config_class(**small)

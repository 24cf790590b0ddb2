"""Configurations that no rule on field names can guess, and other wirings of the same type."""

from __future__ import annotations

from typing import Any

from .shrinking import merged

S, F, L = "sliding_attention", "full_attention", "linear_attention"
MIXED = {"layer_types": [S, F, S, F]}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
BOTH = {S: ROPE, F: ROPE | {"rope_theta": 1e6}}
QSA = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}
COMPASS = MIXED | {"rope_parameters": {S: ROPE | {"mrope_section": [2, 1, 1]}, F: ROPE | {"mrope_section": [2, 1, 1]}}}
SWA = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "head_dim": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 24,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
    "sliding_window_size": 4,
}

BY_HAND: dict[Any, dict[str, Any]] = {
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, 4],
        "axial_pos_embds_dim": [16, 16],
        "hidden_size": 32,
        "num_buckets": 2,
        "lsh_attn_chunk_length": 4,
        "local_attn_chunk_length": 4,
    },
    "florence2": {
        "vision_config": {
            "depths": [1],
            "patch_size": [7],
            "patch_stride": [4],
            "patch_padding": [3],
            "patch_prenorm": [False],
            "embed_dim": [16],
            "num_heads": [2],
            "num_groups": [2],
            "window_size": 2,
            "projection_dim": 32,
            "hidden_size": ...,
        },
    },
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {"hidden_size": 32, "hidden_size_global": 32, "vocab_size": 300},
        "decoder_config": {"hidden_size": 32, "hidden_size_global": 32, "vocab_size": 300},
        "global_config": {"hidden_size": 32},
        "patcher_config": {"hidden_size": 32, "vocab_size": 300},
        "vocab_size": 300,
    },
    "instructblipvideo": {"num_query_tokens": 4, "video_token_index": 150, "text_config": {"ffn_dim": 48}},
    "idefics": {
        "cross_layer_interval": 1,
        "additional_vocab_size": 0,
        "alpha_initializer": "ones",
        "vision_config": {"embed_dim": 16},
        "qk_layer_norms": False,
    },
    "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": [L, F, L, F]},
    "laguna": {"num_attention_heads_per_layer": [4] * 4},
    "lfm2": {"layer_types": ["conv", F, "conv", F]},
    "lfm2_vl": {"text_config": {"layer_types": ["conv", F, "conv", F]}},
    "kimi_linear": {"layer_types": [L, F, L, F]},
    "minimax": {"layer_types": [L, F, L, F]},
    "lfm3": {"layer_types": ["conv", S, "conv", F]},
    "lfm3_vl": {"text_config": {"layer_types": ["conv", S, "conv", F]}},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "cohere_compass_text": COMPASS,
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "max_window_layers": 1},
    "dots3_note_text": SWA,
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma3n_text": MIXED | {"num_kv_shared_layers": 2, "intermediate_size": [48] * 4},
    "gemma4_text": MIXED | {"global_head_dim": 32, "head_dim": 16},
    "gemma4_unified_text": MIXED | {"global_head_dim": 32, "head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", F, "conv", F], "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 8, "num_key_value_heads": 4, "num_layers": 2},
    "mamba2": {"n_groups": 1, "num_heads": 4, "head_dim": 16},
    "ministral": {"head_dim": 16, "layer_types": [S, F, S, F]},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1, "layers_block_type": [L, "mlp", "moe", F]},
    "qwen4_exp_text": QSA,
    ("text", "qwen4_exp"): {"text_config": QSA},
    "zamba": {"layers_block_type": [L, "hybrid", L, "hybrid"], "num_hidden_layers": 4, "n_mamba_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
}
MROPE = {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}}  # heads of 8
WIDE_MROPE = {"rope_parameters": ROPE | {"mrope_section": [4, 2, 2]}}  # heads of 16
HALF_MROPE = {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}, "head_dim": 16}
QUARTER_MROPE = {
    "rope_parameters": ROPE | {"partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    "head_dim": 32,
}
TILES = [[16, 32], [32, 16], [32, 32]]
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "vision_use_head": False,
    "__whole__": True,
}
TIMM_ARGS = {"inference_mode": True, "layers": [1, 1, 1, 1, 1], "embed_dims": [8, 16, 16, 32, 32]}
VQ = {
    "embed_dim": 8,
    "num_embeddings": 16,
    "latent_channels": 8,
    "resolution": 16,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
}
LETTERS = "ABCDEFGHIJ"
OMNI = {
    "vision_start_token_id": 140,
    "vision_end_token_id": 141,
    "audio_config": {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "output_dim": 32,
        "num_mel_bins": 16,
        "downsample_hidden_size": 8,
    },
}
SAM = {"downsample_channels": [16, 16], "output_channels": 16, "mlp_dim": 24, "image_size": 64}
BY_HAND |= {
    ("vision", "qwen4_exp"): {"text_config": QSA | QUARTER_MROPE},
    "cohere_compass": {"text_config": COMPASS},
    "qwen2_vl": {"text_config": MROPE, "vision_config": {"hidden_size": 32, "embed_dim": 16, "mlp_ratio": 2}},
    "qwen2_5_vl": {"text_config": MROPE},
    "qwen3_vl": {"text_config": WIDE_MROPE},
    "qwen3_vl_moe": {"text_config": WIDE_MROPE},
    ("vision", "qwen3_5"): {"text_config": QUARTER_MROPE},
    ("vision", "qwen3_5_moe"): {"text_config": QUARTER_MROPE},
    "qwen2_5_omni_thinker": OMNI | {"text_config": MROPE},
    "qwen3_omni_moe_thinker": OMNI | {"text_config": WIDE_MROPE},
    "glm4v": {"text_config": MROPE},
    "glm46v": {"text_config": MROPE},
    "glmga": {"text_config": MROPE},
    "glm_ocr": {"text_config": MROPE},
    "glm4v_moe": {"text_config": HALF_MROPE},
    "glm5_next": {"text_config": {"index_kpool": 2, "linear_num_heads": 4}},
    "paddleocr_vl": {"text_config": WIDE_MROPE},
    "hunyuan_vl": {
        "text_config": {"head_dim": 16, "rope_parameters": ROPE | {"mrope_section": [2, 2, 2, 2]}},
        "vision_config": {"temporal_patch_size": 1},
    },
    "muse_glimmer": {"out_hidden_size": 64},
    "inkling2": {"vision_config": {"projection_hidden_dim": 16, "posemb_grid_size": 8}},
    "cosmos3_edge": {"text_config": WIDE_MROPE},
    "cosmos3_omni": {"text_config": WIDE_MROPE},
    "ernie4_5_vl_moe": {
        "text_config": {
            "rope_parameters": ROPE | {"mrope_section": [1, 1, 2]},
            "moe_intermediate_size": [16, 16],
            "moe_num_shared_experts": 1,
        },
        "vision_config": {"temporal_merge_size": 2},
    },
    "gemma3": {"mm_tokens_per_image": 4, "vision_config": {"vision_use_head": False}, "text_config": MIXED},
    "shieldgemma2": {"mm_tokens_per_image": 4, "vision_config": {"vision_use_head": False}, "text_config": MIXED},
    "paligemma": {"vision_config": {"projection_dim": 32}, "projection_dim": 32, "hidden_size": 32},
    "gemma4": {
        "text_config": MIXED | {"global_head_dim": 32, "head_dim": 16},
        "vision_config": {
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "intermediate_size": 24,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
        },
    },
    "gemma4_unified": {
        "text_config": MIXED | {"global_head_dim": 32, "head_dim": 16},
        "vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 64, "pooling_kernel_size": 2, "output_proj_dims": 32},
    },
    "gemma3n": {
        "text_config": MIXED | {"num_kv_shared_layers": 2, "intermediate_size": [48] * 4, "vocab_size": 160},
        "vision_config": {"architecture": "resnet10t", "hidden_size": 512, "vocab_offset": 160, "vocab_size": 8},
        "audio_config": {
            "hidden_size": 16,
            "vocab_offset": 168,
            "vocab_size": 8,
            "conf_num_hidden_layers": 1,
            "conf_num_attention_heads": 2,
            "sscp_conv_channel_size": [8, 8],
        },
        "vision_soft_tokens_per_image": 4,
    },
    "fast_vlm": {
        "vision_config": {
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": 64,
            "image_size": 64,
            "model_args": TIMM_ARGS,
        },
    },
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {
                "embed_dim": 64,
                "img_size": [14, 14],
                "depth": 2,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "init_values": 0.1,
                "ref_feat_shape": [1, 1],
            },
        },
    },
    "llava_next": {"image_grid_pinpoints": TILES},
    "llava_next_video": {"image_grid_pinpoints": TILES},
    "llava_onevision": {"image_grid_pinpoints": TILES},
    "vipllava": {"vision_feature_layers": [-2, -1, 0, 1, 1]},
    "granite4_vision": {
        "vision_config": SIGLIP | {"hidden_size": 64},
        "image_grid_pinpoints": TILES,
        "vision_feature_select_strategy": "full",
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0], [1, 1]],
        "spatial_target_layers": [2, 2, 3, 3],
        "qformer_config": {"intermediate_size": 32, "num_hidden_layers": 1},
        "text_config": {"residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 3.0},
    },
    "aria": {"projector_patch_to_query_dict": {16: 4, 64: 8}},
    "cohere2_vision": {"alignment_intermediate_size": 32},
    "kimi_k25": {},
    "deepseek_ocr2": {
        "text_config": {"num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        "vision_config": {"sam_config": SAM, "encoder_config": {"hidden_size": 16}},
    },
    "unlimited_ocr": {"vision_config": {"sam_config": SAM}, "text_config": {"num_key_value_heads": 4}},
    "diffusion_gemma": {
        "text_config": MIXED
        | {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16, "global_head_dim": 32, "head_dim": 16},
    },
    "dots3_note": {
        "vision_config": {"adapter_in_dim": 16, "adapter_out_dim": 32, "moe_intermediate_size": 16},
        "audio_config": {
            "adapter_input_size": 16,
            "adapter_out_dim": 32,
            "downsample_hidden_size": 8,
            "hidden_size": 16,
            "feature_size": 16,
        },
        "text_config": SWA,
    },
    "chameleon": {
        "vq_config": VQ,
        "vocabulary_map": {"<image>": 150}
        | {"IMGIMG" + LETTERS[i // 10] + LETTERS[i % 10] + "Z": 120 + i for i in range(16)},
    },
    ("vision", "emu3"): {
        "vq_config": {
            "codebook_size": 16,
            "embed_dim": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "hidden_size": 32,
            "temporal_downsample_factor": 2,
            "attn_resolutions": [],
        },
        "vocabulary_map": {"<image>": 150, "<|extra_200|>": 151}
        | {f"<|visual token {i:06d}|>": 120 + i for i in range(16)},
    },
    "llama4": {
        "vision_config": {
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "intermediate_size": 64,
        },
    },
    "janus": {
        "vision_config": {"projection_dim": 32, "num_image_tokens": 16},
        "vq_config": {
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_embeddings": 16,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
            "num_patches": 4,
            "latent_channels": 8,
        },
    },
    "molmo2": {
        "vision_config": {"image_size": [16, 16], "num_position_embeddings": 16},
        "adapter_config": {"vision_feature_layer": [1, 0], "hidden_size": 16, "text_hidden_size": 32},
    },
    "muse_spark": {
        "audio_config": {
            "num_hidden_layers": 4,
            "hidden_sizes": [8, 8, 8, 8],
            "depths": [1, 1, 1, 1],
            "out_hidden_size": 32,
            "hidden_size": ...,
        },
        "out_hidden_size": 64,
    },
    "nemotron_h_omni": {
        "vision_config": {
            "video_temporal_patch_size": 2,
            "image_size": 16,
            "max_img_size": 32,
            "patch_dim": 48,
            "video_patch_dim": 96,
        },
        "text_config": {"n_groups": 1, "layers_block_type": [L, "mlp", "moe", F]},
        "vision_hidden_size": 16,
        "projector_hidden_size": 32,
        "image_token_id": 150,
        "video_token_id": 151,
        "audio_token_id": 152,
    },
    "step3p7": {"text_config": MIXED | {"sliding_window": 4, "n_routed_experts": 4}},
    "minicpmv4_6": {"text_config": QUARTER_MROPE, "image_token_id": 150, "video_token_id": 151, "insert_layer_id": 0},
    "minicpmv4_7": {"text_config": QUARTER_MROPE, "image_token_id": 150, "video_token_id": 151, "insert_layer_id": 0},
    "minicpm_ocr": {"text_config": QUARTER_MROPE, "image_token_id": 150, "video_token_id": 151, "insert_layer_id": 0},
    "mllama": {
        "vision_config": {
            "num_global_layers": 1,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
            "max_num_tiles": 4,
            "attention_heads": 2,
        },
        "text_config": {"cross_attention_layers": [1, 3], "rope_parameters": ROPE},
    },
    ("text", "mllama"): {
        "text_config": {"cross_attention_layers": [1, 3], "rope_parameters": ROPE},
    },
    "blip-2": {
        "text_config": {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32},
        "num_query_tokens": 4,
        "image_token_index": 150,
    },
    "instructblip": {"num_query_tokens": 4, "image_token_index": 150, "text_config": {"ffn_dim": 48}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "zamba": {
        "layers_block_type": [L, "hybrid", L, "hybrid"],
        "num_hidden_layers": 4,
        "n_mamba_heads": 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
}
GEMMA4 = {
    "E2B": {"num_kv_shared_layers": 2, "use_double_wide_mlp": True},
    "31B": {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
    "26B-A4B": {
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    },
    "bare": {"hidden_size_per_layer_input": 0},
}
# A type as other checkpoints of it are wired.
VARIANTS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("text", "gemma4_text"): GEMMA4,
    ("vision", "gemma4"): {name: {"text_config": more} for name, more in GEMMA4.items() if name != "bare"},
    ("text", "gemma4_unified_text"): {
        "k=v": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "shared kv": {"num_kv_shared_layers": 2},
    },
    ("text", "gemma3n_text"): {"no sharing": {"num_kv_shared_layers": 0}},
    ("text", "granitemoehybrid"): {"attention only": {"layer_types": [F] * 4}},
    ("text", "hyperclovax"): {"no post norm": {"use_post_norm": False}},
    ("text", "deepseek_v3"): {"no q lora": {"q_lora_rank": None}},
    ("text", "qwen3_5_text"): {"full only": {"layer_types": [F] * 4}},
    ("text", "qwen3_next"): {"full only": {"layer_types": [F] * 4}},
    ("text", "lfm2"): {"full only": {"layer_types": [F] * 4}},
    ("text", "kimi_linear"): {"full only": {"layer_types": [F] * 4}},
    ("text", "jamba"): {"full only": {"attn_layer_period": 1, "attn_layer_offset": 0}},
    ("text", "laguna"): {"heads by layer": {"num_attention_heads_per_layer": [4, 8, 4, 8]}},
    ("text", "gpt2"): {"scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}},
    ("text", "opt"): {"350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 16}},
    ("text", "gpt_neox"): {"sequential": {"use_parallel_residual": False}},
    ("text", "stablelm"): {"parallel": {"use_parallel_residual": True, "qk_layernorm": True}},
    ("text", "minimax_m3_vl_text"): {
        "sparse": {
            "layer_types": ["minimax_m3_sparse", F, "minimax_m3_sparse", F],
            "index_block_size": 4,
            "index_n_heads": 2,
        }
    },
    ("vision", "minimax_m3_vl"): {
        "sparse": {
            "text_config": {
                "layer_types": ["minimax_m3_sparse", F, "minimax_m3_sparse", F],
                "index_block_size": 4,
                "index_n_heads": 2,
            }
        }
    },
    ("vision", "step3p7"): {"more local heads": {"text_config": {"num_sliding_attention_heads": 8}}},
    ("vision", "molmo2"): {"norm after": {"text_config": {"norm_after": True, "qk_norm_type": "olmo"}}},
    ("text", "llama"): {"attention bias": {"attention_bias": True, "mlp_bias": True}},
}


def exceptions(kind: str, model_type: str, variant: str = "") -> dict[str, Any]:
    """What a type's small configuration has by hand; kind: "text" or "vision"."""
    own = BY_HAND.get((kind, model_type), BY_HAND.get(model_type, {}))
    return merged(own, VARIANTS[kind, model_type][variant]) if variant else own

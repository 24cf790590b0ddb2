"""Sites read and changed with plain hooks on Hugging Face's eager models, from module names written down by hand."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import torch
from crosslens.probes.model import anatomy
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..probes.test_families import positions
from . import by_hand, families, vision

GATED = {"mlp_pre": "mlp.gate_proj", "mlp_pre_linear": "mlp.up_proj", "mlp_post": "mlp.down_proj"}
CLIP = {"mlp_pre": "mlp.fc1", "mlp_post": "mlp.fc2", "mid": "layer_norm2", "z": "self_attn.out_proj"}
QWEN_TOWER = {"mid": "norm2", "z": "attn.proj"}
# What reads the residual between attention and MLP ("mid"), the projections into and out of the neurons, and W_O; where
# nothing is said, Llama's.
LLAMA = {**GATED, "mid": "post_attention_layernorm", "z": "self_attn.o_proj"}
FUSED = {"mlp_post": "mlp.down_proj", "mid": "post_attention_layernorm", "z": "self_attn.o_proj"}
EXPERTS = {"mid": "post_attention_layernorm", "z": "self_attn.o_proj"}
SHARED = {name: place.replace("mlp.", "feed_forward.shared_expert.") for name, place in GATED.items()}
MODULES: dict[str, dict[str, str]] = {
    "gpt2": {"mlp_pre": "mlp.c_fc", "mlp_post": "mlp.c_proj", "mid": "ln_2", "z": "attn.c_proj"},
    "gpt_neox": {"mlp_pre": "mlp.dense_h_to_4h", "mlp_post": "mlp.dense_4h_to_h", "z": "attention.dense"},
    "opt": {"mlp_pre": "fc1", "mlp_post": "fc2", "mid": "final_layer_norm", "z": "self_attn.out_proj"},
    "gemma2": LLAMA | {"mid": "pre_feedforward_layernorm"},
    "gemma3_text": LLAMA | {"mid": "pre_feedforward_layernorm"},
    "gemma3": LLAMA | {"mid": "pre_feedforward_layernorm"},
    "olmo2": LLAMA | {"mid": "mlp"},
    "phi3": FUSED,
    "glm4": FUSED,
    "glm4v": FUSED,
    "phi": {"mlp_pre": "mlp.fc1", "mlp_post": "mlp.fc2", "z": "self_attn.dense"},
    "starcoder2": EXPERTS | {"mlp_pre": "mlp.c_fc", "mlp_post": "mlp.c_proj"},
    "cohere2": {**GATED, "z": "self_attn.o_proj"},
    "aya_vision": {**GATED, "z": "self_attn.o_proj"},
    "qwen3_moe": EXPERTS,
    "mixtral": EXPERTS,
    "gpt_oss": EXPERTS,
    "llama4_text": EXPERTS | SHARED,
}
TOWERS: dict[str, dict[str, str]] = {
    "qwen2_vl": QWEN_TOWER | {"mlp_pre": "mlp.fc1", "mlp_post": "mlp.fc2"},
    "qwen2_5_vl": QWEN_TOWER | GATED,
    "qwen3_vl": QWEN_TOWER | {"mlp_pre": "mlp.linear_fc1", "mlp_post": "mlp.linear_fc2"},
    "glm4v": QWEN_TOWER | GATED,
    "internvl": CLIP | {"mid": "layernorm_after", "z": "attention.projection_layer"},
    "mistral3": {name: place.replace("mlp.", "feed_forward.") for name, place in GATED.items()}
    | {"mid": "ffn_norm", "z": "attention.o_proj"},
}
# Norms behind a part, before it is added; elsewhere the attention or the MLP itself writes.
SANDWICH = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
GLM = {"attn_out": "post_self_attn_layernorm", "mlp_out": "post_mlp_layernorm"}
WRITERS = dict.fromkeys(("gemma2", "gemma3_text", "gemma3", "olmo2"), SANDWICH) | dict.fromkeys(("glm4", "glm4v"), GLM)
WRITERS["opt"] = {"mlp_out": "fc2"}
# Stacks whose queries and keys come out of one module.
FUSED_HEADS = [(family, "decoder") for family in ("gpt2", "gpt_neox", "phi3")]
FUSED_HEADS += [(family, "vision") for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")]
# Sites that are what a module writes; the others are what it reads.
WRITTEN = ("mlp_pre", "mlp_pre_linear", "attn_out", "mlp_out")


def modules(family: str, stack: str) -> dict[str, str]:
    """Site -> the module of a layer that reads or writes it."""
    own = TOWERS.get(family, CLIP) if stack == "vision" else MODULES.get(family, LLAMA)
    mlp = own.get("mlp_post", "mlp").partition(".")[0]
    parts = {"attn_out": own["z"].rpartition(".")[0], "mlp_out": mlp}
    return parts | (WRITERS.get(family, {}) if stack == "decoder" else {}) | own


class ByHand:
    """An eager model of a family, whose decoder's or tower's layers are watched or changed."""

    def __init__(self, family: str, stack: str) -> None:
        self.family, self.names, self.model = family, modules(family, stack), by_hand.build(family, "eager")
        tower = _tower(self.model) if stack == "vision" else anatomy.find_decoder(self.model)
        self.config: Any = tower.config
        self.layers = _layers(tower)

    @torch.no_grad()
    def logits(self, given, stack: ExitStack):
        """Logits of a forward while the hooks of `stack` act."""
        with stack:
            told = {} if self.family in vision.COUNTS_IMAGES else {"position_ids": positions(given)}
            return self.model(**given, **told, use_cache=False).logits

    def read(self, given) -> dict[tuple[int, str], Any]:
        """(layer, site) -> tensor, or for the attention's sites (query, key, value, z, pattern) of each call."""
        kept: dict[tuple[int, str], Any] = {}
        stack = ExitStack()
        for i, layer in enumerate(self.layers):
            stack.callback(layer.register_forward_pre_hook(_entering(kept, (i, "resid_pre")), with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(_leaving(kept, (i, "resid_post"))).remove)
            for site, name in self.names.items():
                module, key = layer.get_submodule(name), (i, "resid_mid" if site == "mid" else site)
                if site in WRITTEN:
                    stack.callback(module.register_forward_hook(_leaving(kept, key)).remove)
                else:
                    hook = module.register_forward_pre_hook(_entering(kept, key), with_kwargs=True)
                    stack.callback(hook.remove)
            for site in ("q", "k"):
                projection = getattr(self._attention(layer), f"{site}_proj", None)
                if projection is not None:
                    stack.callback(projection.register_forward_hook(_leaving(kept, (i, site))).remove)
        self._watch_attention(kept, stack)
        kept[-1, "logits"] = self.logits(given, stack)
        return kept

    def _attention(self, layer):
        place = self.names["z"].rpartition(".")[0]
        return layer.get_submodule(place)

    def _watch_attention(self, kept, stack):
        def note(index, *call):
            kept.setdefault((index, "calls"), []).append(call)
            return call[3]

        self._attend(note, stack)

    def _attend(self, act, stack):
        """Every attention gives what `act` makes of (layer, query, key, value, z, pattern)."""
        own = {id(self._attention(layer)): i for i, layer in enumerate(self.layers)}
        eager = sys.modules[type(self._attention(self.layers[0])).__module__].eager_attention_forward

        def attention(module, query, key, value, attention_mask, **kwargs):
            z, pattern = eager(module, query, key, value, attention_mask, **kwargs)
            return act(own[id(module)], query, key, value, z, pattern), pattern

        AttentionInterface.register("watched", attention)
        AttentionMaskInterface.register("watched", eager_mask)
        self.config._attn_implementation = "watched"
        stack.callback(setattr, self.config, "_attn_implementation", "eager")

    def changed(self, given, index: int, site: str, change) -> torch.Tensor:
        """Logits where a site [b, p, ...] of one layer is what `change` makes of it."""
        layer, stack, batch = self.layers[index], ExitStack(), {}

        def shaped(tensor):
            if tensor.ndim > 2:
                return change(tensor)
            whole = batch["shape"] if len(batch["shape"]) == 3 else (1, *batch["shape"])
            return change(tensor.reshape(*whole[:2], -1)).reshape(tensor.shape)

        def entering(module, args, kwargs):
            own = args[0] if args else kwargs["hidden_states"]
            batch["shape"] = own.shape
            if site != "resid_pre":
                return None
            return ((shaped(own), *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": shaped(own)})

        def leaving(module, args, output):
            whole = output[0] if isinstance(output, tuple) else output
            new = whole + batch["moved"].reshape(whole.shape) if site == "resid_mid" else shaped(whole)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        def reading(module, args, kwargs):
            own = args[0] if args else kwargs["hidden_states"]
            new = shaped(own)
            batch["moved"] = new - own
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        stack.callback(layer.register_forward_pre_hook(entering, with_kwargs=True).remove)
        if site in ("resid_post", "resid_mid"):  # the skip connection is behind the module that reads resid_mid
            stack.callback(layer.register_forward_hook(leaving, prepend=True).remove)
        if site == "attn_z":
            self._attend(lambda i, q, k, v, z, p: change(z.flatten(2)).reshape(z.shape) if i == index else z, stack)
        elif site in WRITTEN:
            stack.callback(layer.get_submodule(self.names[site]).register_forward_hook(leaving).remove)
        elif site not in ("resid_pre", "resid_post"):
            module = layer.get_submodule(self.names["mid" if site == "resid_mid" else site])
            stack.callback(module.register_forward_pre_hook(reading, with_kwargs=True).remove)
        return self.logits(given, stack)


def _tower(model):
    inner = model.model
    return getattr(inner, "vision_tower", None) or getattr(inner, "visual", None) or inner.vision_model


def _layers(transformer):
    """Its first list of modules that are blocks."""
    lists = [list(module) for module in transformer.modules() if isinstance(module, torch.nn.ModuleList)]
    return next(blocks for blocks in lists if len(list(blocks[0].children())) > 2)


def _entering(kept, key):
    def hook(module, args, kwargs):
        kept[key] = (args[0] if args else kwargs["hidden_states"]).clone()

    return hook


def _leaving(kept, key):
    def hook(module, args, output):
        kept[key] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


def families_of(stack: str) -> list[str]:
    return list(vision.VISION) if stack == "vision" else [*families.TEXT, *vision.VISION]

"""Where a Hugging Face model keeps its parts: layers, attention, output projection, final norm, head.

What is said here by name is proved by `Subject.check()` on the weights in hand, so a family whose parts have
other names or a different order is refused and never read wrongly.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ...data.errors import SubjectError
from .fingerprint import fetched
from .quantized import is_opened
from .residual_parts import TOLD, Gain, Part

LAYERS = ("layers", "h", "blocks")
ATTENTION = ("self_attn", "attention", "attn", "mixer")
# What mixes positions in layers without attention: gated delta nets, state spaces, convolutions.
MIXERS = ("linear_attn", "mamba", "conv", "temporal_block")
# A layer's only part, whether attention, another mixer or an MLP (Nemotron-H).
ANY_MIXER = "mixer"
OUTPUT = ("o_proj", "out_proj", "c_proj", "dense", "proj", "projection_layer", "projection")
FEED_FORWARD = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "fc2", "shared_mlp")
# The router of a mixture of experts, beside its experts.
ROUTER = ("gate", "router")
# Inside an MLP: the expert that all tokens share, and the projections into and out of its neurons.
SHARED = ("shared_expert", "shared_experts", "shared_mlp")
GATE = ("gate_proj", "w1")
UP = ("up_proj", "w3")
PLAIN_UP = ("c_fc", "fc1", "dense_h_to_4h", "linear_fc1")
DOWN = ("down_proj", "w2", "c_proj", "fc2", "dense_4h_to_h", "linear_fc2")
ACTIVATION = ("act_fn", "activation_fn", "act")
# Vision towers, and what may stand between a tower and its layers.
TOWER = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower")
ENCODER = ("encoder", "transformer", "vision_model", "model")
TOWER_LAYERS = (*LAYERS, "layer")
# Between tower and decoder, beside the tower or inside of it; and the linear layers into and out of its neurons.
PROJECTOR = ("multi_modal_projector", "merger")
PROJECTOR_UP = ("linear_1", "linear_fc1", "0")
PROJECTOR_DOWN = ("linear_2", "linear_fc2", "2")
PROJECTOR_ACTIVATION = (*ACTIVATION, "1")
FINAL_NORM = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "final_norm",
    "embedding_norm",
    "norm_f",
    "layer_norm",
    "layernorm",
)
# Buffers of quantised layers.
PACKED = ("qweight", "weight_packed", "weight_int")
# Norms applied to a part's output before it is added to the residual, where the family has them.
ATTENTION_POST = ("post_self_attn_layernorm",)
# Mixers with an attention's name that do not call the attention interface; told by a forward, in `hybrid`.
SILENT: WeakSet[nn.Module] = WeakSet()
# Projectors, as `find_projector` finds them.
PROJECTORS: WeakSet[nn.Module] = WeakSet()
# Query heads and KV heads by attention module, as they were in a forward.
HEADS: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()
FEED_FORWARD_POST = ("post_mlp_layernorm", "post_feedforward_layernorm")


def first_line(error: Exception) -> str:
    """An error of another library as part of one line: its kind, what it says and where it was (its notes)."""
    said = str(error).strip().splitlines()
    told = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return " ".join([told, *getattr(error, "__notes__", ())])


def refuse(model: nn.Module) -> None:
    """SubjectError: a model that is no decoder by itself, or whose weights are packed into few bits."""
    if model.config.is_encoder_decoder:  # pyright: ignore
        raise SubjectError(f"{type(model).__name__} is an encoder with a decoder: name a causal language model")
    if model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # pyright: ignore
        raise SubjectError(
            f"{type(model).__name__} is of a family of encoders, which read both ways: name a causal language model"
        )
    opened = {id(layer.weight) for layer in model.modules() if is_opened(layer)}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        packed = not tensor.is_floating_point() and (isinstance(tensor, nn.Parameter) or name.endswith(PACKED))
        if packed and id(tensor) not in opened:
            raise SubjectError(
                f"its weights are packed ({name}: {tensor.dtype}): open the checkpoint that is not, "
                "with load(…, quantize=) where it has to be small"
            )


def child(module: nn.Module, names: tuple[str, ...], what: str) -> nn.Module:
    """The first named child that exists; SubjectError otherwise."""
    found = _first_of(module, names)
    if found is None:
        raise SubjectError(f"{type(module).__name__} has no {what} (looked for {', '.join(names)})")
    return found


def find_decoder(model: nn.Module) -> nn.Module:
    """The language model's stack of layers, whatever wraps it."""
    decoder = model.get_decoder()  # pyright: ignore[reportCallIssue]
    while not any(hasattr(decoder, name) for name in LAYERS):
        inner = _first_of(decoder, ("model", "decoder"))
        if inner is None:
            break
        decoder = inner
    return decoder


def find_layers(decoder: nn.Module, n_layers: int | None) -> list[nn.Module]:
    """The decoder's blocks, in order, without those that run with an image alone; all where None says how many."""
    layers = child(decoder, LAYERS, "list of layers")
    if not isinstance(layers, nn.ModuleList):
        raise SubjectError(f"{type(decoder).__name__} has a {type(layers).__name__} where its list of layers should be")
    if len(layers) < (n_layers or 1):
        raise SubjectError(f"its configuration says {n_layers} layers, but {type(decoder).__name__} has {len(layers)}")
    return [layer for layer in list(layers)[:n_layers] if not reads_image(layer)]


def reads_image(layer: nn.Module) -> bool:
    """Whether a block reads an image and nothing else (Llama 3.2 Vision): prompts without one leave it out."""
    return hasattr(layer, "cross_attn") and _first_of(layer, ATTENTION) is None


def find_tower(model: nn.Module) -> nn.Module | None:
    """The vision tower, None where the model reads no images."""
    inner = getattr(model, "model", model)
    return next((getattr(inner, name) for name in TOWER if isinstance(getattr(inner, name, None), nn.Module)), None)


def find_projector(model: nn.Module) -> nn.Module | None:
    """What holds the two linear layers of an MLP between tower and decoder, with nothing but its neurons between them;
    None where there is none, or a projector of another kind (one matrix, a gate, a resampler).
    """
    homes = [getattr(model, "model", model), find_tower(model)]
    for whole in (found for home in homes if home is not None for found in children_named(home, PROJECTOR)):
        mlp = _first_of(whole, ("mlp",)) or whole
        up, down = _first_of(mlp, PROJECTOR_UP), _first_of(mlp, PROJECTOR_DOWN)
        if up is not None and getattr(up, "out_features", 0) == getattr(down, "in_features", -1):
            PROJECTORS.add(mlp)
            return mlp
    return None


def tower_layers(tower: nn.Module) -> list[nn.Module]:
    """A vision tower's blocks, in order."""
    encoder = tower
    while not any(isinstance(getattr(encoder, name, None), nn.ModuleList) for name in TOWER_LAYERS):
        encoder = child(encoder, ENCODER, "list of layers")
    return list(child(encoder, TOWER_LAYERS, "list of layers"))  # pyright: ignore[reportArgumentType]


def block(layer: nn.Module) -> nn.Module:
    """The block itself: the residual stream enters and leaves it."""
    return layer


def attention_of(layer: nn.Module) -> nn.Module:
    """The block's attention module. SubjectError: a layer with a mixer of another kind, or none that is known."""
    attention = _first_of(layer, ATTENTION) or _caller(layer)
    if attention is not None and attention not in SILENT:
        return attention
    mixer = attention or _first_of(layer, MIXERS)
    if mixer is not None:
        raise SubjectError(f"the layer has a mixer of another kind, {type(mixer).__name__}, which has no pattern")
    return child(layer, ATTENTION, "attention (layers of other kinds, such as linear attention, cannot be read)")


def _caller(layer: nn.Module) -> nn.Module | None:
    """The one module of the layer that was seen to call the attention interface, whatever its name."""
    callers = [module for module in layer.modules() if module in HEADS]
    return callers[0] if len(callers) == 1 else None


def attends(layer: nn.Module) -> bool:
    """Whether a block has an attention whose pattern can be read."""
    try:
        return attention_of(layer) is not None
    except SubjectError:
        return False


def mixer_of(layer: nn.Module) -> nn.Module:
    """What mixes positions in the block: its attention, or what it has in its place."""
    return _first_of(layer, ATTENTION) or _caller(layer) or _first_of(layer, MIXERS) or attention_of(layer)


def output_projection(layer: nn.Module) -> nn.Module:
    """The module whose weight is W_O; inside of one that clips what it reads and writes (Gemma 4's tower)."""
    found = child(attention_of(layer), OUTPUT, "output projection")
    return found if hasattr(found, "weight") else getattr(found, "linear", found)


def attention_writer(layer: nn.Module) -> nn.Module:
    """The last module whose output, times `gain`, the attention, or another mixer, adds to the residual."""
    if layer in TOLD:
        return TOLD[layer].part("attn_out").writers[-1]
    return _first_of(layer, ATTENTION_POST) or _sandwich_norm(layer) or mixer_of(layer)


def feed_forward_writer(layer: nn.Module) -> nn.Module:
    """The last module whose output, times `gain`, the MLP adds to the residual."""
    if layer in TOLD:
        return TOLD[layer].part("mlp_out").writers[-1]
    return _first_of(layer, FEED_FORWARD_POST) or mlp_of(layer)


def mlp_of(layer: nn.Module) -> nn.Module:
    """The block's MLP or its experts, the first where it has several."""
    if layer in PROJECTORS:
        return layer
    if layer in TOLD and _first_of(layer, FEED_FORWARD) is None:
        return TOLD[layer].part("mlp_out").writers[0]
    return child(layer, FEED_FORWARD, "MLP")


def beside_writer(layer: nn.Module) -> nn.Module:
    """The last module whose output, times `gain`, is added beside attention and MLP (Gemma 4's per-layer input)."""
    if layer not in TOLD:
        raise SubjectError("the layer adds nothing beside attention and MLP")
    return TOLD[layer].part("beside_out").writers[-1]


def earlier_writers(layer: nn.Module, part: str) -> list[tuple[nn.Module, Gain]]:
    """The modules that write the same part before its last one does, and what their outputs are worth of its own."""
    told: Part = getattr(TOLD[layer], part) if layer in TOLD else Part()
    return [(writer, gain / told.gains[-1]) for writer, gain in list(zip(*told, strict=True))[:-1]]


def query_projection(layer: nn.Module) -> nn.Module:
    """The module whose output are the queries before norm and rotation."""
    query, attention = _projection(layer, "q_proj"), attention_of(layer)
    widths = [getattr(module, "out_features", 0) for module in (query, getattr(attention, "k_proj", None))]
    if widths[0] == 2 * widths[1] * getattr(attention, "num_key_value_groups", 0) != 0:
        raise SubjectError("its queries and a gate come out of one projection; read rot_q")
    return query


def key_projection(layer: nn.Module) -> nn.Module:
    """The module whose output are the keys before norm and rotation."""
    return _projection(layer, "k_proj")


def _projection(layer: nn.Module, name: str) -> nn.Module:
    module = getattr(attention_of(layer), name, None)
    if module is None:
        raise SubjectError(f"there is no separate {name}, its projections are fused; read rot_q or rot_k")
    return module


def dense_mlp(layer: nn.Module) -> nn.Module:
    """The module that holds the projections of an MLP that all tokens go through.

    SubjectError: a mixture of experts that share none, whose neurons differ from token to token.
    """
    mlp = mlp_of(layer)
    if mlp is layer:
        return layer
    if mlp is getattr(layer, "fc2", None):  # OPT keeps its projections in the block itself
        return layer
    shared = _first_of(mlp, SHARED)
    if shared is None and hasattr(mlp, "experts"):
        raise SubjectError("its MLP is a mixture of experts, and no neuron is every token's")
    return shared or mlp


def router(layer: nn.Module) -> nn.Module:
    """What chooses experts for each token. SubjectError: an MLP without, or one whose router says no choice."""
    mlp = mlp_of(layer)
    found = _first_of(mlp, ROUTER)
    if found is None or not hasattr(mlp, "experts"):
        raise SubjectError("its MLP is no mixture of experts")
    if not hasattr(found, "top_k") or isinstance(found, nn.Linear):  # Llama 4 gives every expert's score
        raise SubjectError(f"its router, {type(found).__name__}, does not say which experts it chose")
    return found


def down_projection(layer: nn.Module) -> nn.Module:
    """The module that reads the MLP's neurons."""
    return child(dense_mlp(layer), PROJECTOR_DOWN if layer in PROJECTORS else DOWN, "down projection")


def gate_projection(layer: nn.Module) -> nn.Module:
    """The module whose output the MLP's activation function reads: the gate's, or the only one into the neurons."""
    names = PROJECTOR_UP if layer in PROJECTORS else (*GATE, *PLAIN_UP, *UP)
    return child(dense_mlp(layer), names, "separate projection into the activation function")


def activation(layer: nn.Module) -> nn.Module:
    """The MLP's activation function."""
    names = PROJECTOR_ACTIVATION if layer in PROJECTORS else ACTIVATION
    return child(dense_mlp(layer), names, "activation function")


def up_projection(layer: nn.Module) -> nn.Module:
    """The module whose output the gate multiplies."""
    mlp = dense_mlp(layer)
    child(mlp, GATE, "separate gate")
    return child(mlp, UP, "projection that a gate multiplies")


def multiplier(layer: nn.Module) -> float:
    """What both parts are multiplied with before they are added (Granite), else 1."""
    return float(getattr(layer, "residual_multiplier", 1.0))


def gain(layer: nn.Module, part: str) -> Gain:
    """What the last writer of a part ("attn_out", …) is multiplied with before it is added: `multiplier`, a learned
    vector [d] (InternVL's tower), or what the layer itself was seen to multiply it with.
    """
    if layer in TOLD:
        return TOLD[layer].part(part).gains[-1]
    learned = getattr(layer, {"attn_out": "lambda_1", "mlp_out": "lambda_2"}[part], None)
    return multiplier(layer) if learned is None else learned.detach()


def carries(layer: nn.Module) -> tuple[Gain, Gain]:
    """What the residual is multiplied with on its way to resid_mid, and from there to resid_post; mostly 1."""
    return (TOLD[layer].into_mid, TOLD[layer].past_mid) if layer in TOLD else (1.0, 1.0)


def mid_reader(layer: nn.Module) -> nn.Module | None:
    """What reads the residual between attention and MLP, where the layer itself was asked."""
    return TOLD[layer].mid_reader if layer in TOLD else None


def is_one(gain: Gain) -> bool:
    """Whether a factor changes nothing."""
    return isinstance(gain, float) and gain == 1.0


def times(tensor: Tensor, gain: Gain) -> Tensor:
    """The tensor times a factor, itself where that is 1."""
    return tensor if is_one(gain) else tensor * (gain.to(tensor) if isinstance(gain, Tensor) else gain)


def is_parallel(layer: nn.Module) -> bool:
    """Whether attention and MLP read the same residual, so that there is no state between them."""
    if layer in TOLD:
        return TOLD[layer].mid_reader is None
    if hasattr(layer, "use_parallel_residual"):
        return bool(layer.use_parallel_residual)
    norms = [name for name, module in layer.named_children() if "norm" in name.lower() or name.startswith("ln_")]
    return len(norms) == 1


def counts_from_cache(layers: list[nn.Module]) -> bool:
    """Whether a layer asks its cache how many positions came before (Llama 4's attention temperature)."""
    return any(getattr(attention_of(one), "attn_temperature_tuning", False) for one in layers if attends(one))


def output_weight(layer: nn.Module, n_heads: int) -> Tensor:
    """W_O as [h, d_head, d]."""
    weight = weight_in_out(output_projection(layer))
    return weight.reshape(n_heads, -1, weight.shape[1])


def weight_in_out(projection: nn.Module) -> Tensor:
    """A linear layer's weight as [in, out]: GPT-2's Conv1D keeps it so, nn.Linear keeps [out, in]."""
    weight = fetched(projection)
    return weight if type(projection).__name__ == "Conv1D" else weight.T


def final_norm(decoder: nn.Module) -> nn.Module:
    """The norm before the head."""
    return child(decoder, FINAL_NORM, "final norm")


def output_bias(layer: nn.Module) -> Tensor | None:
    """What the output projection adds beside its heads."""
    projection = output_projection(layer)
    return None if getattr(projection, "bias", None) is None else fetched(projection, "bias").detach()


def children_named(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """The children of these names that there are."""
    return [getattr(module, name) for name in names if isinstance(getattr(module, name, None), nn.Module)]


def _first_of(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next(iter(children_named(module, names)), None)


def _sandwich_norm(layer: nn.Module) -> nn.Module | None:
    """`post_attention_layernorm`: the MLP's input norm in Llama, the attention's output norm in Gemma 2, OLMo 2."""
    return getattr(layer, "post_attention_layernorm", None) if hasattr(layer, "post_feedforward_layernorm") else None

"""A CLIP in the format of ``transformers`` (CLIPModel), in the words of ``open_clip``: its keys and its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig

_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # so spelt there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
"""Matrices that are multiplied from the other side."""

_IN_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PREFIX = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
_QUERY = "self_attn.q_proj"

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Sizes that OpenAI keeps beside its weights."""

ACTIVATIONS = {"gelu": False, "quick_gelu": True}
"""Of ``transformers``, and what open_clip's ``quick_gelu`` is then."""


def open_clip_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under open_clip's keys, whichever of the two formats they are in; unknown keys stay as they are.

    The prefix of distributed training goes, and so do entries that are no weights.
    """
    bare = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    if not any(key.startswith("text_model.") for key in bare):
        return {key: tensor for key, tensor in bare.items() if key not in _NOT_WEIGHTS}
    found: dict[str, Tensor] = {}
    joined: set[str] = set()
    for key, tensor in bare.items():
        if key.endswith(".embeddings.position_ids"):  # 0, 1, 2, …: older versions stored them
            continue
        layer = _LAYER.fullmatch(key)
        if key in _PROJECTIONS:
            found[_PROJECTIONS[key]] = tensor.T
        elif layer and layer[3] == _QUERY:
            parts = [key.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            if all(part in bare for part in parts):
                found[f"{_prefix(layer)}.attn.in_proj_{layer[4]}"] = torch.cat([bare[part] for part in parts])
                joined.update(parts)
            else:
                found[key] = tensor
        elif layer and layer[3] in _IN_LAYER:
            found[f"{_prefix(layer)}.{_IN_LAYER[layer[3]]}.{layer[4]}"] = tensor
        else:
            found[_NAMES.get(key, key)] = tensor
    return {key: tensor for key, tensor in found.items() if key not in joined}


def _prefix(layer: re.Match[str]) -> str:
    return f"{_PREFIX[layer[1]]}.{layer[2]}"


def open_clip_config(config: CLIPConfig) -> dict[str, Any]:
    """The same model as open_clip's ``model_cfg``. The activation is one of ACTIVATIONS, and one for both towers."""
    vision, text = config.vision_config, config.text_config
    # eos_token_id 2 stands in configs from before it was right: the end is then the highest id.
    pool = {"pool_type": "argmax"} if text.eos_token_id == 2 else {"pool_type": "eos", "eos_id": text.eos_token_id}
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": ACTIVATIONS[text.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": _ratio(vision.intermediate_size, vision.hidden_size),
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "mlp_ratio": _ratio(text.intermediate_size, text.hidden_size),
            "norm_kwargs": {"eps": text.layer_norm_eps},
            **pool,
        },
    }


def _ratio(inner: int, width: int) -> float:
    """``int(width * ratio)`` is ``inner`` again, also where the quotient was rounded down."""
    return (inner + 0.5) / width

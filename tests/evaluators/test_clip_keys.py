"""Keys and sizes of transformers' CLIPModel, against those of open_clip."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CLIP as OpenClip
from transformers import CLIPConfig, CLIPModel

from probe_lab.evaluators.clip_keys import open_clip_config, open_clip_keys


@pytest.mark.parametrize(
    ("name", "act", "vision", "text"),
    [
        ("ViT-B-32-quickgelu", "quick_gelu", (32, 768, 12, 12), (512, 12, 8)),
        ("ViT-B-16-quickgelu", "quick_gelu", (16, 768, 12, 12), (512, 12, 8)),
        ("ViT-L-14-quickgelu", "quick_gelu", (14, 1024, 24, 16), (768, 12, 12)),
        ("ViT-H-14", "gelu", (14, 1280, 32, 16), (1024, 24, 16)),
    ],
)
def test_released_sizes(name: str, act: str, vision: tuple[int, ...], text: tuple[int, ...]) -> None:
    """Every key and shape of transformers' model is one of open_clip's, of the sizes that were released."""
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    config = CLIPConfig(
        text_config=dict(zip(keys, text, strict=True)) | {"intermediate_size": 4 * text[0], "hidden_act": act},
        vision_config=dict(zip(("patch_size", *keys), vision, strict=True))
        | {"intermediate_size": 4 * vision[1], "hidden_act": act},
        projection_dim={"ViT-H-14": 1024, "ViT-L-14-quickgelu": 768}.get(name, 512),
    )
    with torch.device("meta"):
        converted = open_clip_keys(CLIPModel(config).state_dict())
        ours = OpenClip(**open_clip_config(config)).state_dict()
        theirs = OpenClip(**open_clip.get_model_config(name)).state_dict()
    shapes = {key: tensor.shape for key, tensor in theirs.items()}
    assert {key: tensor.shape for key, tensor in converted.items()} == shapes
    assert {key: tensor.shape for key, tensor in ours.items()} == shapes
    assert open_clip_config(config)["quick_gelu"] == open_clip.get_model_config(name).get("quick_gelu", False)


def test_keys_that_are_not_known_stay() -> None:
    """So that they are reported; nor is a query projected without its key and value."""
    one = torch.ones(1)
    found = open_clip_keys({"text_model.x": one, "vision_model.encoder.layers.0.self_attn.q_proj.bias": one, "y": one})
    assert found.keys() == {"text_model.x", "vision_model.encoder.layers.0.self_attn.q_proj.bias", "y"}
    assert open_clip_keys({"context_length": one, "module.y": one}).keys() == {"y"}

"""A CLIP of the shapes world as a folder in open_clip's published format, which open_clip loads by itself.

``open_clip.create_model_from_pretrained("local-dir:FOLDER")`` and ``open_clip.get_tokenizer("local-dir:FOLDER")``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from probe_lab.shapes.render import SIZE
from tools.tiny_models.tokenizer import MAX_TOKENS

CONFIG, CHECKPOINT = "open_clip_config.json", "open_clip_model.safetensors"

MEAN, STD = (0.854, 0.854, 0.843), (0.220, 0.201, 0.206)
"""Of the world's pictures, per channel of 0..1."""


def model_config(vocabulary: int) -> dict[str, Any]:
    """``model_cfg`` of open_clip: 65 picture tokens, 24 word tokens, 1.5 million weights."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": vocabulary,
            # From a local folder, open_clip takes the tokenizer beside this file; from a hub it would need the name.
            "hf_tokenizer_name": "shapes-clip",
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


def write_folder(model: CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Weights in float16, configuration of model and preprocessing, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "size": [SIZE, SIZE],
        "mode": "RGB",
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": preprocess}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    halves = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(halves, folder / CHECKPOINT, metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)

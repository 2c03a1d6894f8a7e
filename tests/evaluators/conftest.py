"""Tiny random CLIPs in the two published formats, and pictures and prompts of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tools.tiny_models.tokenizer import MAX_TOKENS, build_tokenizer

PROMPTS = [
    "a red circle",
    "",
    "una piñata 🎈 à côté",
    "a green square left of a blue star",
    "A  RED &amp; circle\n" * 20,
]


def randomise(model: nn.Module) -> None:
    """Weights large enough that every part of the model moves the score."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                parameter.fill_(4.5)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture(scope="session")
def shapes_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def transformers_clip(tmp_path_factory: pytest.TempPathFactory, shapes_tokenizer: CLIPTokenizer) -> Path:
    """A folder as ``save_pretrained`` of CLIPModel and its tokenizer writes it; 32 pixels, quick_gelu."""
    folder = tmp_path_factory.mktemp("transformers_clip")
    end = shapes_tokenizer.eos_token_id
    text = {
        "vocab_size": len(shapes_tokenizer),
        "hidden_size": 24,
        "intermediate_size": 50,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": shapes_tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 60,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    randomise(model)
    model.save_pretrained(folder)
    shapes_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory, shapes_tokenizer: CLIPTokenizer) -> Path:
    """A folder as open_clip publishes one, of the form of the CLIP that ships: float16, with its own tokenizer."""
    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {
            "context_length": MAX_TOKENS,
            "vocab_size": len(shapes_tokenizer),
            "hf_tokenizer_name": "shapes-clip",
            "width": 24,
            "heads": 3,
            "layers": 2,
        },
    }
    model = CLIP(**config)
    randomise(model)
    preprocess = {"mean": [0.85, 0.83, 0.8], "std": [0.25, 0.25, 0.27], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {key: tensor.half().contiguous() for key, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    shapes_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Square, wide, tall, one pixel wide, and of another mode: as many as there are ``prompts``."""
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (70, 40), (30, 61), (1, 20), (33, 47)]
    # Coarse blocks: fine noise looks the same everywhere once it is resized.
    blocks = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in sizes]
    found = [each.resize(size, Image.Resampling.NEAREST) for each, size in zip(blocks, sizes, strict=True)]
    return [*found[:-1], found[-1].convert("RGBA")]


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """With accents, an emoji, nothing at all, and far too long."""
    return list(PROMPTS)


@pytest.fixture(scope="module")
def uv(request: pytest.FixtureRequest) -> str:
    """The program that runs the test module's ``JUDGE``.

    Skips unless its environment can be made: from uv's cache, or with PROBE_LAB_JUDGES=1 by download.
    """
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not found:
        pytest.skip("uv is not installed: make rewards")
    if os.environ.get("PROBE_LAB_JUDGES") != "1":
        sync = [found, "sync", "--script", request.module.JUDGE, "--locked", "--offline"]
        cached = subprocess.run(sync, capture_output=True)
        if cached.returncode:
            pytest.skip("the judge's packages are not in uv's cache: PROBE_LAB_JUDGES=1 downloads them")
    return found

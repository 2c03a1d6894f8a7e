"""Checkpoints of BLIP and ImageReward in the released format, small and random; a vocabulary; pictures and prompts."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "an", "the", "cat", "dog", "red", "blue", "sofa", "cafe", "on", "of", "painting", "##s", "##ing", "##er")

PROMPTS = (
    "a red cat on the sofa",
    "A Painting of the BLUE dog!",
    "un café à la crème, naïve über Ångström",
    "a cat 🐈‍⬛ and a dog 🐕 in love ❤️",
    "",
    "   \t\n",
    "the cats painting " * 60,
    "猫が好き, кот, قط",
    "weights (red:1.3), [blue], <lora:x:0.8> \\ 100%",
    "x" * 300,
)


@dataclass(frozen=True)
class Sizes:
    """Heads follow from the widths: one per 64."""

    width: int = 128
    depth: int = 2
    patch: int = 32
    image: int = 224
    text_width: int = 128
    text_depth: int = 2
    shared: int = 256
    positions: int = 64


FULL = Sizes(1024, 24, 16, 224, 768, 12, 256, 512)


def vocabulary(folder: Path, longer_by: int = 0) -> Path:
    """A ``vocab.txt`` for BERT's tokenizer: letters, digits, punctuation, and a few words."""
    letters = [*string.ascii_lowercase, *string.digits]
    entries = [*SPECIAL, *string.punctuation, *letters, *(f"##{each}" for each in letters), *WORDS]
    entries = list(dict.fromkeys(entries)) + [f"[unused{index}]" for index in range(longer_by)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return path


def entries(vocabulary: Path) -> int:
    return len(vocabulary.read_text(encoding="utf-8").splitlines())


def blip(sizes: Sizes, words: int, seed: int = 0) -> dict[str, Tensor]:
    """Both towers and both projections, under the names of Salesforce's repository."""
    return _Weights(seed).blip(sizes, words)


def image_reward(sizes: Sizes, words: int, seed: int = 0) -> dict[str, Tensor]:
    """All that ``ImageReward.pt`` holds."""
    weights = _Weights(seed)
    found = {f"blip.{key}": tensor for key, tensor in weights.blip(sizes, words).items()}
    layers = (sizes.text_width, 1024, 128, 64, 16, 1)
    for index, (wide, narrow) in zip((0, 2, 4, 6, 7), pairwise(layers), strict=True):
        found |= weights.linear(f"mlp.layers.{index}", wide, narrow)
    return found


def blip_retrieval(sizes: Sizes, words: int, seed: int = 0) -> dict[str, Tensor]:
    """All that ``model_base_retrieval_coco.pth`` holds under ``model``, what only training needs among it."""
    weights = _Weights(seed)
    found = weights.blip(sizes, words) | weights.linear("itm_head", sizes.text_width, 2)
    copies = {key.replace(".", "_m.", 1): tensor for key, tensor in found.items() if not key.startswith("itm_head")}
    queues = {"image_queue": torch.zeros(sizes.shared, 8), "idx_queue": torch.zeros(1, 8), "ptr_queue": torch.zeros(1)}
    return found | copies | queues | {"temp": torch.tensor(0.07)}


class _Weights:
    """Small where the originals start small, so that layer norms see the variances that make their epsilon matter."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * std

    def linear(self, name: str, wide: int, narrow: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": self.normal(narrow, wide, std=wide**-0.5),
            f"{name}.bias": self.normal(narrow, std=0.02),
        }

    def norm(self, name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + self.normal(width, std=0.1), f"{name}.bias": self.normal(width, std=0.1)}

    def blip(self, sizes: Sizes, words: int) -> dict[str, Tensor]:
        return (
            self.vision(sizes)
            | self.text(sizes, words)
            | self.linear("vision_proj", sizes.width, sizes.shared)
            | self.linear("text_proj", sizes.text_width, sizes.shared)
        )

    def vision(self, sizes: Sizes) -> dict[str, Tensor]:
        width, tokens = sizes.width, (sizes.image // sizes.patch) ** 2 + 1
        found = {
            "visual_encoder.cls_token": self.normal(1, 1, width, std=0.02),
            "visual_encoder.pos_embed": self.normal(1, tokens, width, std=0.02),
            "visual_encoder.patch_embed.proj.weight": self.normal(
                width, 3, sizes.patch, sizes.patch, std=0.1 / sizes.patch
            ),
            "visual_encoder.patch_embed.proj.bias": self.normal(width, std=0.02),
        } | self.norm("visual_encoder.norm", width)
        for index in range(sizes.depth):
            block = f"visual_encoder.blocks.{index}"
            found |= self.norm(f"{block}.norm1", width) | self.norm(f"{block}.norm2", width)
            found |= self.linear(f"{block}.attn.qkv", width, 3 * width)
            found |= self.linear(f"{block}.attn.proj", width, width)
            found |= self.linear(f"{block}.mlp.fc1", width, 4 * width)
            found |= self.linear(f"{block}.mlp.fc2", 4 * width, width)
        return found

    def text(self, sizes: Sizes, words: int) -> dict[str, Tensor]:
        width, start = sizes.text_width, "text_encoder.embeddings"
        found = {
            f"{start}.position_ids": torch.arange(sizes.positions)[None],
            f"{start}.word_embeddings.weight": self.normal(words, width, std=0.02),
            f"{start}.position_embeddings.weight": self.normal(sizes.positions, width, std=0.02),
        } | self.norm(f"{start}.LayerNorm", width)
        for index in range(sizes.text_depth):
            layer = f"text_encoder.encoder.layer.{index}"
            for kind, source in (("attention", width), ("crossattention", sizes.width)):
                found |= self.linear(f"{layer}.{kind}.self.query", width, width)
                found |= self.linear(f"{layer}.{kind}.self.key", source, width)
                found |= self.linear(f"{layer}.{kind}.self.value", source, width)
                found |= self.linear(f"{layer}.{kind}.output.dense", width, width)
                found |= self.norm(f"{layer}.{kind}.output.LayerNorm", width)
            found |= self.linear(f"{layer}.intermediate.dense", width, 4 * width)
            found |= self.linear(f"{layer}.output.dense", 4 * width, width)
            found |= self.norm(f"{layer}.output.LayerNorm", width)
        return found


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Smooth random fields of several scales, and noise: what a picture of a camera is like to a resampler."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for cells, strength in ((2, 90.0), (5, 50.0), (13, 25.0)):
        field = rng.uniform(-1, 1, (min(cells, height), min(cells, width), 3)).astype(np.float32)
        layers = [
            Image.fromarray(field[:, :, channel]).resize((width, height), Image.Resampling.BICUBIC)
            for channel in range(3)
        ]
        pixels += strength * np.stack([np.asarray(layer) for layer in layers], axis=-1)
    pixels += 128 + rng.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def pictures() -> dict[str, Image.Image]:
    """Every kind that a folder of pictures may hold, by a name for it."""
    square = photograph(256, 256, 0)
    wide, tall = photograph(400, 150, 1), photograph(97, 331, 2)
    grey = photograph(300, 200, 3).convert("L")
    faded = photograph(280, 240, 4)
    faded.putalpha(photograph(280, 240, 5).convert("L"))
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 + 64)
    return {
        "square": square,
        "exact": photograph(224, 224, 6),
        "wide": wide,
        "tall": tall,
        "one pixel wide": photograph(1, 40, 7),
        "one pixel high": photograph(40, 1, 8),
        "one pixel": photograph(1, 1, 9),
        "transparent": faded,
        "grey and transparent": faded.convert("LA"),
        "palette": wide.quantize(32),
        "grey": grey,
        "black and white": tall.convert("1"),
        "CMYK": square.convert("CMYK"),
        "16 bit": sixteen,
    }

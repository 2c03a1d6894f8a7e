"""BLIP's towers, BERT's tokens and ImageReward's picture once more: from the papers' formulas, in float64, no library.

Reads checkpoints under their released names, so it shares neither a key map nor a model with the package.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD = 64
LONGEST = 35


class Maths:
    """``eps`` of the vision tower's norms and ``causal`` are there to be set wrongly."""

    def __init__(self, tensors: Mapping[str, Tensor], eps: float = 1e-6, causal: bool = False) -> None:
        self.tensors = {key: tensor.double() for key, tensor in tensors.items()}
        self.eps, self.causal = eps, causal

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def picture(self, pixels: Tensor) -> Tensor:
        """[3, S, S] to [1 + patches, width]."""
        kernel = self.tensors["visual_encoder.patch_embed.proj.weight"]
        width, _, patch, _ = kernel.shape
        side = pixels.shape[-1] // patch
        patches = pixels.reshape(3, side, patch, side, patch).permute(1, 3, 0, 2, 4).reshape(side * side, -1)
        x = patches @ kernel.reshape(width, -1).T + self.tensors["visual_encoder.patch_embed.proj.bias"]
        x = torch.cat([self.tensors["visual_encoder.cls_token"][0], x]) + self.tensors["visual_encoder.pos_embed"][0]
        for index in range(_depth(self.tensors, "visual_encoder.blocks.")):
            block = f"visual_encoder.blocks.{index}"
            query, key, value = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, self.eps)).chunk(3, -1)
            x = x + self.linear(f"{block}.attn.proj", attend(query, key, value))
            hidden = gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, self.eps)))
            x = x + self.linear(f"{block}.mlp.fc2", hidden)
        return self.norm("visual_encoder.norm", x, self.eps)

    def prompt(self, ids: list[int], picture: Tensor | None = None) -> Tensor:
        """[tokens, width], without padding; with a picture, every layer attends to it after itself."""
        start = "text_encoder.embeddings"
        x = self.tensors[f"{start}.word_embeddings.weight"][ids]
        x = x + self.tensors[f"{start}.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{start}.LayerNorm", x, 1e-12)
        for index in range(_depth(self.tensors, "text_encoder.encoder.layer.")):
            layer = f"text_encoder.encoder.layer.{index}"
            x = self.attention(f"{layer}.attention", x, x, self.causal)
            if picture is not None:
                x = self.attention(f"{layer}.crossattention", x, picture, False)
            hidden = self.linear(f"{layer}.output.dense", gelu(self.linear(f"{layer}.intermediate.dense", x)))
            x = self.norm(f"{layer}.output.LayerNorm", x + hidden, 1e-12)
        return x

    def attention(self, name: str, x: Tensor, source: Tensor, causal: bool) -> Tensor:
        query, key, value = (
            self.linear(f"{name}.self.{each}", of) for each, of in (("query", x), ("key", source), ("value", source))
        )
        found = self.linear(f"{name}.output.dense", attend(query, key, value, causal))
        return self.norm(f"{name}.output.LayerNorm", x + found, 1e-12)

    def reward(self, pixels: Tensor, ids: list[int]) -> float:
        """ImageReward's score, of tensors without their ``blip.``."""
        x = self.prompt(ids, self.picture(pixels))[0]
        for index in (0, 2, 4, 6, 7):
            x = self.linear(f"mlp.layers.{index}", x)
        return (x.item() - 0.16717362830052426) / 1.0333394966054072


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    found = []
    for each in range(0, query.shape[-1], HEAD):
        part = slice(each, each + HEAD)
        weights = query[:, part] @ key[:, part].T / HEAD**0.5
        if causal:
            weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), -torch.inf)
        found.append(weights.softmax(-1) @ value[:, part])
    return torch.cat(found, -1)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def _depth(tensors: Mapping[str, Tensor], start: str) -> int:
    return len({key[len(start) :].split(".")[0] for key in tensors if key.startswith(start)})


def image_reward_pixels(image: Image.Image) -> Tensor:
    """[3, 224, 224] with Pillow alone: shortest side to 224, the middle of the longer one, then RGB."""
    width, height = image.size
    short = min(width, height)
    size = (224, int(224 * height / short)) if width == short else (int(224 * width / short), 224)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return normalised(image.crop((left, top, left + 224, top + 224)))


def squashed_pixels(image: Image.Image, side: int) -> Tensor:
    return normalised(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def normalised(image: Image.Image) -> Tensor:
    pixels = (np.asarray(image.convert("RGB")) / 255 - MEAN) / STD
    return torch.from_numpy(pixels).permute(2, 0, 1)


def token_ids(vocabulary: list[str], prompt: str) -> list[int]:
    """BERT's uncased WordPiece: no accents, words and punctuation apart, the longest pieces first, at most 35."""
    index = {piece: number for number, piece in enumerate(vocabulary)}
    ids = [index["[CLS]"]]
    for word in _words(prompt):
        ids += _pieces(word, index)
    return [*ids[: LONGEST - 1], index["[SEP]"]]


def _words(prompt: str) -> list[str]:
    spaced = ""
    for letter in unicodedata.normalize("NFD", prompt.lower()):
        kind = unicodedata.category(letter)
        if letter.isspace():
            spaced += " "
        elif kind == "Mn" or kind.startswith("C"):
            continue
        elif kind.startswith("P") or (letter.isascii() and not letter.isalnum()) or "\u4e00" <= letter <= "\u9fff":
            spaced += f" {letter} "
        else:
            spaced += letter
    return spaced.split()


def _pieces(word: str, index: Mapping[str, int]) -> list[int]:
    found: list[int] = []
    start = 0
    while start < len(word):
        ends = range(len(word), start, -1)
        piece = next((each for end in ends if (each := ("##" if start else "") + word[start:end]) in index), None)
        if piece is None or len(word) > 100:
            return [index["[UNK]"]]
        found.append(index[piece])
        start += len(piece) - (2 if start else 0)
    return found

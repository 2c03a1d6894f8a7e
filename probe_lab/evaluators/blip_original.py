"""BLIP as Salesforce released it, and as ImageReward keeps it: its keys, sizes and vocabulary, for ``transformers``.

Read off the checkpoints' shapes, since they come without a config: widths, depths, patches and vocabulary. Heads have
64 channels, as in every released one (ViT-B/16, ViT-L/16, BERT base); narrower models have one head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    DynamicCache,
    EncoderDecoderCache,
)

from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.checkpoints import SHOWN, Checkpoint, locate
from probe_lab.json_text import read_json

VOCABULARY = "google-bert/bert-base-uncased"
VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")
LONGEST = 35
"""Tokens that the originals read of a prompt, [CLS] and [SEP] included; they cut off what is longer."""

ADDED = ("[DEC]", "[ENC]")
"""What BLIP adds to BERT's vocabulary; only a prompt with just these letters holds them."""

HEAD = 64

MOST_AGAIN = 16
"""Pictures whose keys and values are kept at a time: in float32 15 MB each of ImageReward, 43 MB of BLIP at 384."""

_RENAMED = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)
_SIZED_BY = (
    "visual_encoder.pos_embed",
    "visual_encoder.patch_embed.proj.weight",
    "visual_encoder.blocks.0.mlp.fc1.weight",
    "text_encoder.embeddings.word_embeddings.weight",
    "text_encoder.embeddings.position_embeddings.weight",
    "text_encoder.encoder.layer.0.intermediate.dense.weight",
    "vision_proj.weight",
)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that ``transformers`` has for them; others keep theirs.

    ``position_ids``, a constant that older versions stored, is left out.
    """
    return {_renamed(key): tensor for key, tensor in tensors.items() if not key.endswith("embeddings.position_ids")}


def require_sizes(tensors: Mapping[str, Tensor], what: str, source: Path) -> None:
    """ScoreError unless the keys are there that the two configs below are read off."""
    missing = [key for key in _SIZED_BY if key not in tensors]
    if missing:
        raise ScoreError(
            f"the checkpoint {source} is not of {what}: keys {len(missing)} missing ({', '.join(missing[:SHOWN])}), "
            f"where it has {', '.join(sorted(tensors)[:SHOWN])}; name a checkpoint in the released format"
        )


def image_size(tensors: Mapping[str, Tensor]) -> int:
    """Side of the square pictures that the vision tower has positions for."""
    patches = tensors["visual_encoder.pos_embed"].shape[1] - 1
    return round(patches**0.5) * tensors["visual_encoder.patch_embed.proj.weight"].shape[-1]


def vision_config(tensors: Mapping[str, Tensor], size: int) -> BlipVisionConfig:
    """Of the vision tower, for square pictures of ``size``; ``tensors`` have the released names."""
    width = tensors["visual_encoder.pos_embed"].shape[-1]
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_depth(tensors, "visual_encoder.blocks"),
        num_attention_heads=max(1, width // HEAD),
        image_size=size,
        patch_size=tensors["visual_encoder.patch_embed.proj.weight"].shape[-1],
        layer_norm_eps=1e-6,  # the original's; 1e-5, the default here, costs 4e-5 of the score
    )


def text_config(tensors: Mapping[str, Tensor]) -> BlipTextConfig:
    """Of the text tower that attends to the picture; ``tensors`` have the released names."""
    words, width = tensors["text_encoder.embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=tensors["visual_encoder.pos_embed"].shape[-1],
        intermediate_size=tensors["text_encoder.encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_depth(tensors, "text_encoder.encoder.layer"),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=tensors["text_encoder.embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        bos_token_id=None,  # for generation alone
        is_decoder=True,  # without it there is no cross-attention; each call says that attention is not causal
    )


def vocabulary(settings: Settings, checkpoint: Checkpoint) -> Checkpoint:
    """The file with BERT's vocabulary: ``base`` where configured, else beside the weights, else the hub's.

    ScoreError when it is nowhere.
    """
    if not settings.model.base:
        for file in VOCABULARY_FILES:
            path = checkpoint.beside(file)
            if path:
                return Checkpoint(path)
        settings = replace(settings, model=replace(settings.model, base=VOCABULARY))
    released = f"https://huggingface.co/{VOCABULARY} (vocab.txt)"
    return locate(settings, VOCABULARY_FILES, "base", released)


def words(path: Path) -> dict[str, int]:
    """Ids by the pieces of words, of a ``vocab.txt`` or a ``tokenizer.json``."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        read: dict[str, Any] = read_json(text)
        return dict(read["model"]["vocab"])
    return {piece: index for index, piece in enumerate(text.removesuffix("\n").split("\n"))}


def tokenizer(file: Checkpoint, rows: int) -> BertTokenizer:
    """BERT's uncased tokenizer for a model with ``rows`` word embeddings.

    BLIP's two tokens are added where the model has the rows for them. ScoreError for a vocabulary of another size.
    """
    pieces = words(file.path)
    found = BertTokenizer(vocab=pieces, do_lower_case=True)
    if rows == len(pieces) + len(ADDED):
        found.add_tokens(list(ADDED), special_tokens=True)
    elif rows != len(pieces):
        raise ScoreError(
            f"the vocabulary {file.path} has {len(pieces)} entries, where the model was trained with "
            f"{rows - len(ADDED)} or {rows}: name the vocab.txt of {VOCABULARY} as base"
        )
    return found


def tokens(by: BertTokenizer, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 [n, 35] each: padded, and cut to the length that the originals read."""
    encoded = by(list(prompts), padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
    return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)


@dataclass(frozen=True)
class Seen:
    """A batch of pictures after the vision tower, ``states`` [b, 1 + patches, width]; ``kept`` are the keys and values
    that the text encoder makes of them, where it will look at them again."""

    states: Tensor
    kept: DynamicCache | None = None


def seen(tower: BlipVisionModel, pixels: Tensor, *, again: bool) -> Seen:
    """What the vision tower sees in ``pixels`` [b, 3, side, side]."""
    return Seen(tower(pixel_values=pixels).last_hidden_state, DynamicCache() if again else None)


def first_states(encoder: BlipTextModel, pictures: Seen, ids: Tensor, mask: Tensor) -> Tensor:
    """States [b, width] of the first token of prompts, int64 [b, L], that are read with a picture each.

    Padding at the end of all of them is not read.
    """
    length = int(mask.sum(1).max())
    # The cache of the prompt's own keys is new each time: only those of the picture are used again.
    kept = None if pictures.kept is None else EncoderDecoderCache(DynamicCache(), pictures.kept)
    read = encoder(
        ids[:, :length],
        attention_mask=mask[:, :length],
        encoder_hidden_states=pictures.states,
        is_decoder=False,
        past_key_values=kept,
    )
    states: Tensor = read.last_hidden_state[:, 0]
    return states


def _renamed(key: str) -> str:
    for pattern, ours in _RENAMED:
        key, found = re.subn(pattern, ours, key)
        if found:
            break
    return key


def _depth(tensors: Mapping[str, Tensor], stack: str) -> int:
    start = f"{stack}."
    return 1 + max(int(key.removeprefix(start).split(".")[0]) for key in tensors if key.startswith(start))

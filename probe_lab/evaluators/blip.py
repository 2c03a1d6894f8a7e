"""BLIP's two measures of how well a prompt fits a picture, both from the checkpoint for retrieval.

Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training". With the same checkpoint the vision tower runs once
for both. Beside what ``transformers`` saves, Salesforce's own ``model_base_retrieval_coco.pth`` is read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BertTokenizer, BlipConfig, BlipForImageTextRetrieval

from probe_lab.errors import ScoreError
from probe_lab.evaluators import blip_original as original
from probe_lab.evaluators.base import Evaluator, Settings
from probe_lab.evaluators.checkpoints import Checkpoint, load_strictly, locate
from probe_lab.evaluators.model import ModelEvaluator, filled
from probe_lab.evaluators.preprocessing import clip_transform
from probe_lab.json_text import read_json

FILES = ("model.safetensors", "pytorch_model.bin", "model_base_retrieval_coco.pth", "model_large_retrieval_coco.pth")
ORIGINAL = ".pth"
"""The suffix of Salesforce's files; others have a ``config.json`` beside them."""

TRAINING_ONLY = (
    "visual_encoder_m",
    "text_encoder_m",
    "vision_proj_m",
    "text_proj_m",
    "image_queue",
    "text_queue",
    "idx_queue",
    "queue_ptr",
    "ptr_queue",
    "temp",
)
"""First parts of keys that Salesforce's files hold for training to go on: momentum copies, queues, temperature."""


class Blip(ModelEvaluator):
    """What the two share. ``base`` is BERT's vocabulary, where the checkpoint has none beside it.

    A prompt is read up to 35 tokens, and transparency is dropped, as by Salesforce's code; ``transformers`` 5 paints it
    on white.
    """

    version = "1"
    exact = ("itm_head",)
    most_again = original.MOST_AGAIN

    def __init__(self, settings: Settings) -> None:
        checkpoint = locate(settings, FILES)
        self.is_original = checkpoint.path.suffix == ORIGINAL
        beside = None if self.is_original else checkpoint.beside("config.json")
        if not self.is_original and beside is None:
            raise ScoreError(
                f"there is no config.json beside {checkpoint.path}: name the folder that transformers saved, "
                f"a hub id, or one of Salesforce's {ORIGINAL} files"
            )
        self.config = _saved_config(beside) if beside else _config(checkpoint)
        super().__init__(settings, checkpoint, clip_transform(self.config.vision_config.image_size, fit="squash"))
        self.vocabulary = original.vocabulary(settings, checkpoint)
        self.family += f" {self.vocabulary.path.resolve()}"

    @abstractmethod
    def measure(self, blip: BlipForImageTextRetrieval, pictures: original.Seen, text: tuple[Tensor, ...]) -> Tensor:
        """Scores [b] of what the vision tower sees, for the rows of ``encode_prompts``."""

    def build(self) -> nn.Module:
        tensors = _released(self.checkpoint) if self.is_original else self.checkpoint.tensors()
        found = BlipForImageTextRetrieval(self.config)
        load_strictly(found, original.renamed(tensors), self.checkpoint.path)
        return cast(nn.Module, found)

    @property
    def blip(self) -> BlipForImageTextRetrieval:
        return cast(BlipForImageTextRetrieval, self.model)

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        return original.tokenizer(self.vocabulary, self.config.text_config.vocab_size)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Ids and mask, int64 [n, 35], and embeddings of norm 1 [n, shared], read without a picture."""
        ids, mask = original.tokens(self.tokenizer, prompts, self.device)
        size = self.settings.scoring.batch_size
        read = [self._read(prompts[start : start + size]) for start in range(0, len(prompts), size)]
        return ids, mask, torch.cat(read)

    def _read(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of norm 1 of a batch, ``filled``."""
        ids, mask = original.tokens(self.tokenizer, filled(prompts, self.dtype), self.device)
        words = self.blip.text_encoder(ids, attention_mask=mask).last_hidden_state[:, 0]
        return normalize(self.blip.text_proj(words).float(), dim=-1)[: len(prompts)]

    def encode_pictures(self, pixels: Tensor, *, again: bool) -> original.Seen:
        return original.seen(self.blip.vision_model, pixels, again=again)

    def score_encoded(
        self, members: Sequence[Evaluator], pictures: original.Seen, text: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        return {member.name: cast(Blip, member).measure(self.blip, pictures, text) for member in members}

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {"vocabulary_sha256": self.vocabulary.sha256}


class BlipItm(Blip):
    """Probability that prompt and picture belong together: the second class of the head, after a softmax."""

    def measure(self, blip: BlipForImageTextRetrieval, pictures: original.Seen, text: tuple[Tensor, ...]) -> Tensor:
        ids, mask, _ = text
        logits: Tensor = blip.itm_head(original.first_states(blip.text_encoder, pictures, ids, mask).float())
        return logits.softmax(dim=-1)[:, 1]


class BlipItc(Blip):
    """Cosine of picture and prompt, each encoded without the other."""

    def measure(self, blip: BlipForImageTextRetrieval, pictures: original.Seen, text: tuple[Tensor, ...]) -> Tensor:
        # In float32, as in ClipTower: a cosine in bfloat16 has three digits, and seeds would tie.
        return (normalize(blip.vision_proj(pictures.states[:, 0]).float(), dim=-1) * text[2]).sum(dim=-1)


def _saved_config(path: Path) -> BlipConfig:
    """What transformers saved. ScoreError when it is of another model."""
    kind = read_json(path.read_bytes()).get("model_type")
    if kind != BlipConfig.model_type:
        raise ScoreError(f"{path} describes a model of the type '{kind}': name a checkpoint of the type blip")
    return BlipConfig.from_json_file(path)


def _released(checkpoint: Checkpoint) -> dict[str, Tensor]:
    tensors = {key: each for key, each in checkpoint.tensors().items() if key.split(".")[0] not in TRAINING_ONLY}
    original.require_sizes(tensors, "BLIP", checkpoint.path)
    return tensors


def _config(checkpoint: Checkpoint) -> BlipConfig:
    tensors = _released(checkpoint)
    return BlipConfig(
        vision_config=original.vision_config(tensors, original.image_size(tensors)).to_dict(),
        text_config=original.text_config(tensors).to_dict(),
        image_text_hidden_size=tensors["vision_proj.weight"].shape[0],
    )

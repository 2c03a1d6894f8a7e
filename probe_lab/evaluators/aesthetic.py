"""LAION's improved aesthetic predictor: a small head on the picture's embedding of OpenAI's CLIP ViT-L/14."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probe_lab.evaluators.base import Settings
from probe_lab.evaluators.checkpoints import load_strictly, locate
from probe_lab.evaluators.clip import ClipEvaluator, Encoded

HEAD = "sac+logos+ava1-l14-linearMSE.pth"


class AestheticHead(nn.Module):
    """Five linear layers without activations, under the released keys: ``layers.0``, ``2``, ``4``, ``6``, ``7``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Identity(),  # dropout while it was trained
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """[b] of L2-normalised embeddings [b, width]."""
        found: Tensor = self.layers(embedding)
        return found[:, 0]


class Aesthetic(ClipEvaluator):
    """How well people like pictures of that kind, about 1 to 10; the prompt is not read.

    ``checkpoint`` is the head's file and ``base`` the CLIP it was trained on. The head runs in float32.
    """

    architecture = "ViT-L-14-quickgelu"
    key = "base"
    released = "https://huggingface.co/openai/clip-vit-large-patch14 (model.safetensors)"
    reads_prompts = False

    def __init__(self, settings: Settings) -> None:
        self.head_checkpoint = locate(settings, (HEAD,))
        self._head: AestheticHead | None = None
        super().__init__(settings)

    @property
    def checkpoint_sha256(self) -> str:  # type: ignore[override]
        """Of the head, then of the CLIP."""
        return f"{self.head_checkpoint.sha256} {self.checkpoint.sha256}"

    @property
    def head(self) -> AestheticHead:
        if self._head is None:
            head = AestheticHead(self.spec.width)
            load_strictly(head, self.head_checkpoint.tensors(), self.head_checkpoint.path)
            self._head = head.to(self.device, torch.float32).eval().requires_grad_(False)
        return self._head

    def release(self) -> None:
        self._head = None
        super().release()

    def rate(self, batch: Encoded) -> Tensor:
        return self.head(batch.image)

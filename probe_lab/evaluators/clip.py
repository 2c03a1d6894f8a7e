"""Evaluators on a CLIP, and the plain one: the cosine of picture and prompt (Radford et al. 2021)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from probe_lab.evaluators.base import Evaluator, Settings
from probe_lab.evaluators.checkpoints import Checkpoint, Key, locate
from probe_lab.evaluators.clip_spec import FILES, ClipSpec, read_spec
from probe_lab.evaluators.clip_tokens import Tokens
from probe_lab.evaluators.clip_tower import ClipTower, build_tower
from probe_lab.evaluators.model import ModelEvaluator, filled

SHIPPED = Path(__file__).parents[1] / "shapes" / "weights" / "shapes-clip"


@dataclass(frozen=True)
class Encoded:
    """A batch: L2-normalised ``image`` float32 [b, D], ``text`` the same or none, and CLIP's ``scale`` of logits."""

    image: Tensor
    text: tuple[Tensor, ...]
    scale: float

    @property
    def cosine(self) -> Tensor:
        """float32 [b], of each picture with its own prompt."""
        return (self.image * self.text[0]).sum(dim=-1)


class ClipEvaluator(ModelEvaluator):
    """Whatever is computed from the two embeddings of a CLIP.

    The weights are a folder or hub repository in the format of open_clip or ``transformers``, which says what the
    model is, or a single file of either format, which is ``scoring.models.<name>.architecture``: an open_clip name,
    by default the class's. A wrong activation cannot be seen in weights: OpenAI's in a single file are of the
    architectures that end in ``-quickgelu``. Evaluators on one checkpoint are a family and encode a picture once.

    Attributes:
        architecture: of a single file, unless configured.
        key: of the settings, that names the weights of the CLIP.
        released: where they are, when not where the catalogue says.
    """

    version = "1"
    architecture: str = "ViT-B-16"
    key: Key = "checkpoint"
    released: str = ""

    def __init__(self, settings: Settings) -> None:
        checkpoint, self.spec = self.find(settings)
        super().__init__(settings, checkpoint, self.spec.transform)
        where, scoring = checkpoint.path.resolve(), settings.scoring
        words = f"{self.preprocessing} {self.spec.tokenizer_words}"
        self.family = f"clip {self.spec.name} {where} {scoring.device} {scoring.dtype} {words}"

    def find(self, settings: Settings) -> tuple[Checkpoint, ClipSpec]:
        """The weights, and what the CLIP is that they belong to. ScoreError when they are not there."""
        checkpoint = locate(settings, FILES, self.key, self.released)
        return checkpoint, read_spec(settings, checkpoint, self.architecture, self.key)

    @abstractmethod
    def rate(self, batch: Encoded) -> Tensor:
        """This evaluator's scores, float32 [b]."""

    def build(self) -> ClipTower:
        return build_tower(self.spec, self.checkpoint)

    @property
    def tower(self) -> ClipTower:
        return cast(ClipTower, self.model)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """L2-normalised embeddings float32 [n, D]."""
        size = self.settings.scoring.batch_size
        parts = [self._prompts(prompts[at : at + size])[0] for at in range(0, len(prompts), size)]
        return (torch.cat(parts),)

    def _prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tokens]:
        """``ClipTower.prompts`` of a batch, ``filled``."""
        count = len(prompts)
        embedding, states, tokens = self.tower.prompts(filled(prompts, self.dtype))
        tokens = Tokens(tokens.ids[:count], tokens.length[:count], tokens.truncated[:count])
        return embedding[:count], states[:count], tokens

    def encode_pictures(self, pixels: Tensor, *, again: bool) -> Tensor:
        """L2-normalised embeddings float32 [b, D]."""
        return self.tower.pictures(pixels)

    def score_encoded(
        self, members: Sequence[Evaluator], pictures: Tensor, text: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        batch = Encoded(pictures, text, self.tower.scale)
        return {each.name: each.rate(batch) for each in cast(Sequence[ClipEvaluator], members)}

    @torch.inference_mode()
    def text_arrays(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What ``probe_lab.evaluators.prompt_encoder.text_arrays`` gives, of at least one prompt, each encoded."""
        size = self.settings.scoring.batch_size
        parts: dict[str, list[Tensor]] = {"embedding": [], "tokens": [], "length": [], "truncated": []}
        longest = int(self.tower.tokenizer(prompts).length.max())
        for at in range(0, len(prompts), size):
            embedding, states, tokens = self._prompts(prompts[at : at + size])
            found = [embedding, states[:, :longest], tokens.length, tokens.truncated]
            for name, tensor in zip(parts, found, strict=True):
                parts[name].append(tensor.cpu())
        arrays = {name: torch.cat(tensors) for name, tensors in parts.items()}
        arrays["token_mask"] = torch.arange(longest) < arrays.pop("length")[:, None]
        return arrays

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {"architecture": self.spec.name, "tokenizer": self.spec.tokenizer_words}


class ClipScore(ClipEvaluator):
    """The cosine of the two embeddings, -1 to 1.

    CLIPScore of Hessel et al. (2021) is 2.5 * max(cosine, 0), and ``torchmetrics`` gives 100 * max(cosine, 0): ours is
    neither scaled nor cut off, which ranks the same wherever theirs is not 0.
    """

    def rate(self, batch: Encoded) -> Tensor:
        return batch.cosine


class ShapesClipScore(ClipScore):
    """``ClipScore`` of the small CLIP of the shapes world that ships, unless another checkpoint is configured."""

    def __init__(self, settings: Settings) -> None:
        if not settings.model.checkpoint:
            settings = replace(settings, model=replace(settings.model, checkpoint=str(SHIPPED)))
        super().__init__(settings)

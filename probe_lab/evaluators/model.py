"""What evaluators with weights have in common: prepare, load late, score in batches, give the memory back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from PIL.Image import Image
from torch import Tensor, nn

from probe_lab.errors import ConfigError
from probe_lab.evaluators.base import Evaluator, Prepared, Settings
from probe_lab.evaluators.checkpoints import Checkpoint

ROWS = 16
"""Prompts that are encoded together in half precision, at least. Kernels for fewer rows round in another way: a score
would depend, in its fourth digit, on how many prompts come with it. In float32 that is its seventh."""


@dataclass(frozen=True)
class Transform:
    """From a picture of any mode and size to float32 [3, H, W]; ``words`` says how, exactly."""

    words: str
    apply: Callable[[Image], Tensor]


def usable(device: str) -> torch.device:
    """The device of ``scoring.device``. ConfigError for one that is not there, before any model is loaded."""
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch has both
        raise ConfigError(
            f"'scoring.device' is '{device}', which cannot be used here: name cpu, or a device of this machine"
        ) from error


def filled(prompts: Sequence[str], dtype: torch.dtype) -> list[str]:
    """A batch of prompts, in half precision followed by copies of the last one up to ``ROWS``."""
    missing = 0 if dtype == torch.float32 else ROWS - len(prompts)
    return [*prompts, *[prompts[-1]] * missing]


class ModelEvaluator(Evaluator):
    """An evaluator whose model is loaded at its first score and kept until ``release``.

    A subclass builds the model, encodes prompts, and scores batches for all members of its family. Members of a family
    have the same model, so that of the first serves all.

    Attributes:
        reads_prompts: prompts are encoded for a family only if one of its members reads them.
        exact: submodules that stay in float32 whatever the dtype: in half precision a head's scores would tie.
        most_again: pictures in a batch that is scored under several captions, where more is kept of each then.
    """

    has_model = True
    reads_prompts = True
    exact: tuple[str, ...] = ()
    most_again: int = 2**31

    def __init__(self, settings: Settings, checkpoint: Checkpoint, transform: Transform) -> None:
        scoring = settings.scoring
        self.name = settings.name
        self.settings = settings
        self.checkpoint = checkpoint
        self.transform = transform
        self.preprocessing = transform.words
        self.family = f"{type(self).__module__} {settings.model.architecture} {checkpoint.path.resolve()}"
        self.device, self.dtype = usable(scoring.device), cast(torch.dtype, getattr(torch, scoring.dtype))
        self._model: nn.Module | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """The model with the checkpoint's weights, float32 on the CPU. ScoreError for a checkpoint of another model."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """Whatever ``score_encoded`` needs of distinct prompts: tensors with one row each, on the device."""

    @abstractmethod
    def encode_pictures(self, pixels: Tensor, *, again: bool) -> Any:
        """What the picture alone decides of a score: of ``pixels`` [b, 3, H, W] on the device, in the model's dtype.

        ``again``: it is scored under more than one caption.
        """

    @abstractmethod
    def score_encoded(self, members: Sequence[Evaluator], pictures: Any, text: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Scores [b] by name, of what ``encode_pictures`` gave; a row of text each.

        ``text`` is empty when no member reads prompts.
        """

    @property
    def checkpoint_sha256(self) -> str:  # type: ignore[override]  # hashing a large file waits until it is asked for
        return self.checkpoint.sha256

    @property
    def model(self) -> nn.Module:
        if self._model is None:
            self._model = self.build().to(self.device, self.dtype).eval().requires_grad_(False)
            for name in self.exact:
                self._model.get_submodule(name).float()
        return self._model

    def release(self) -> None:
        if self._model is not None:
            self._model = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def prepare(self, image: Image) -> Prepared:
        return self.transform.apply(image)

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] on the CPU; any PIL mode and size. ScoreError for a checkpoint of another model."""
        return self.score_family([self], [self.prepare(image) for image in images], prompts)[self.name]

    def score_family(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Images are encoded once for all members, and each distinct prompt once."""
        scores = self.score_captions(members, inputs, [(prompt,) for prompt in prompts])
        return {name: columns[:, 0] for name, columns in scores.items()}

    @torch.inference_mode()
    def score_captions(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], captions: Sequence[Sequence[str]]
    ) -> dict[str, Tensor]:
        """Images are encoded once for all members and captions, and each distinct caption once.

        Where no member reads them, an image is scored once and its score stands under every caption.
        """
        count = len(captions[0]) if captions else 1
        if not inputs:
            return {each.name: torch.zeros(0, count) for each in members}
        row = {caption: index for index, caption in enumerate(dict.fromkeys(chain.from_iterable(captions)))}
        pairs = zip(captions, inputs, strict=True)
        rows = torch.tensor([[row[caption] for caption in own] for own, _ in pairs], device=self.device)
        read = any(cast(ModelEvaluator, each).reads_prompts for each in members)
        text = self.encode_prompts(list(row)) if read else ()
        parts: list[dict[str, Tensor]] = []
        again = read and count > 1
        size = min(self.settings.scoring.batch_size, self.most_again) if again else self.settings.scoring.batch_size
        for start in range(0, len(inputs), size):
            pixels = torch.stack([cast(Tensor, each) for each in inputs[start : start + size]])
            pictures = self.encode_pictures(pixels.to(self.device, self.dtype), again=again)
            columns = [
                self.score_encoded(members, pictures, tuple(tensor[column] for tensor in text))
                for column in rows[start : start + size, : count if read else 1].unbind(1)
            ]
            parts.append({each.name: torch.stack([column[each.name] for column in columns], 1) for each in members})
        scores = {each.name: torch.cat([part[each.name] for part in parts]).float().cpu() for each in members}
        return {name: columns.expand(-1, count) for name, columns in scores.items()}

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {
            "architecture": self.settings.model.architecture,
            "dtype": self.settings.scoring.dtype,
        }

"""What evaluators with weights have in common: prepare, load late, score in batches, give the memory back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

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
    """

    has_model = True
    reads_prompts = True
    exact: tuple[str, ...] = ()

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
        """Whatever ``score_batch`` needs of distinct prompts: tensors with one row each, on the device."""

    @abstractmethod
    def score_batch(self, members: Sequence[Evaluator], pixels: Tensor, text: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Scores [b] by name, of ``pixels`` [b, 3, H, W] on the device, in the model's dtype; a row of text each.

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

    @torch.inference_mode()
    def score_family(
        self, members: Sequence[Evaluator], inputs: Sequence[Prepared], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Images are encoded once for all members, and each distinct prompt once."""
        if not inputs:
            return {each.name: torch.zeros(0) for each in members}
        row = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
        rows = torch.tensor([row[prompt] for prompt, _ in zip(prompts, inputs, strict=True)], device=self.device)
        read = any(cast(ModelEvaluator, each).reads_prompts for each in members)
        text = self.encode_prompts(list(row)) if read else ()
        parts: list[dict[str, Tensor]] = []
        size = self.settings.scoring.batch_size
        for start in range(0, len(inputs), size):
            pixels = torch.stack([cast(Tensor, each) for each in inputs[start : start + size]])
            of_batch = tuple(tensor[rows[start : start + size]] for tensor in text)
            parts.append(self.score_batch(members, pixels.to(self.device, self.dtype), of_batch))
        return {each.name: torch.cat([part[each.name] for part in parts]).float().cpu() for each in members}

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {
            "architecture": self.settings.model.architecture,
            "dtype": self.settings.scoring.dtype,
        }

"""The original packages as evaluators (``backend: reference``): what ours are compared with, for whoever wants them.

``make rewards`` installs them. Each takes the same settings and the same local checkpoint as ours of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from probe_lab.errors import ScoreError
from probe_lab.evaluators import blip_original
from probe_lab.evaluators.base import Evaluator, Settings, card
from probe_lab.evaluators.checkpoints import Checkpoint, locate
from probe_lab.evaluators.image_reward import eight_bits
from probe_lab.evaluators.model import usable
from probe_lab.evaluators.preprocessing import to_rgb
from probe_lab.evaluators.repairs import hpsv2_scoring, image_reward, image_reward_of


class Reference(Evaluator):
    """An original package on a local checkpoint; a class per package, which scores.

    Attributes:
        package: its name on the index.
        module: what it is imported as.
    """

    version = "1"
    has_model = True
    package: str
    module: str

    def __init__(self, settings: Settings) -> None:
        if find_spec(self.module) is None:
            raise ScoreError(
                f"{settings.name} with backend=reference runs the package {self.package}, which is not installed: "
                "run `make rewards`, or leave backend at native"
            )
        self.name, self.settings = settings.name, settings
        usable(settings.scoring.device)
        self.checkpoint: Checkpoint = locate(settings, (card(settings.name).file,))
        self.family = f"{self.package} {settings.model.architecture} {self.checkpoint.path.resolve()}"
        self.preprocessing = f"that of {self.package} {version_of(self.package)}, of the RGB picture"

    @property
    def checkpoint_sha256(self) -> str:  # type: ignore[override]  # hashing a large file waits until it is asked for
        return self.checkpoint.sha256

    def metadata(self) -> dict[str, str]:
        # The packages choose their precision by the device.
        device = self.settings.scoring.device.partition(":")[0]
        backend = {"backend": f"{self.package} {version_of(self.package)}", "device": device}
        return super().metadata() | backend | {"architecture": self.settings.model.architecture}


class ReferenceHpsV2(Reference):
    """``hpsv2.img_score.score``, which loads the weights anew for each prompt and computes one picture at a time.

    It decides itself what precision it computes in: float32 on a CPU, autocast on a GPU. Its base model is not
    downloaded: the checkpoint replaces all of its weights.
    """

    package = module = "hpsv2"

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] on the CPU; whatever the package raises for what it cannot score (see ``hps.HpsV2``)."""
        original = self.load()
        scores = torch.empty(len(images))
        for prompt in dict.fromkeys(prompts):
            rows = [row for row, each in enumerate(prompts) if each == prompt]
            found = original.score([to_rgb(images[row]) for row in rows], prompt, cp=str(self.checkpoint.path))
            scores[rows] = torch.from_numpy(np.array(found, dtype=np.float32))
        return scores

    def release(self) -> None:
        hpsv2_scoring().model_dict.clear()

    def load(self) -> ModuleType:
        """The package with a model of this architecture and no weights yet, where it would keep the downloaded one."""
        original: Any = hpsv2_scoring()  # a module whose variables are set
        device = self.settings.scoring.device
        wanted = (self.settings.model.architecture or "ViT-H-14", device)
        if original.model_dict.get("probe_lab") != wanted:
            original.device, original.root_path = device, str(self.checkpoint.path.parent)
            model, _, transform = original.create_model_and_transforms(
                wanted[0], None, precision="amp", device=device, light_augmentation=True, output_dict=True
            )
            original.model_dict |= {"model": model, "preprocess_val": transform, "probe_lab": wanted}
        return original


class ReferenceImageReward(Reference):
    """``ImageReward.score``, one picture at a time, in float32. ``base`` is BERT's vocabulary, as for ours.

    It is built with the sizes of the checkpoint, which are ``load``'s for the released one.
    """

    package, module = "image-reward", "ImageReward"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.vocabulary = blip_original.vocabulary(settings, self.checkpoint)
        self.family += f" {self.vocabulary.path.resolve()}"
        self.preprocessing = f"that of image-reward {version_of(self.package)}, sixteen bits made eight"
        self._model: Any = None

    @torch.inference_mode()
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """float32 [n] on the CPU; whatever the package raises for what it cannot score."""
        self._model = self._model or self._built()
        pairs = zip(images, prompts, strict=True)
        return torch.tensor([self._model.score(prompt, eight_bits(image)) for image, prompt in pairs])

    def release(self) -> None:
        self._model = None

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {"vocabulary_sha256": self.vocabulary.sha256}

    def _built(self) -> Any:
        tensors = self.checkpoint.tensors()
        named = {key.removeprefix("blip."): each for key, each in tensors.items()}
        blip_original.require_sizes(named, "ImageReward", self.checkpoint.path)
        vision = blip_original.vision_config(named, blip_original.image_size(named))
        text, words = blip_original.text_config(named), blip_original.words(self.vocabulary.path)
        original = image_reward()
        with TemporaryDirectory() as folder, image_reward_of(vision, words):
            path = Path(folder) / "med_config.json"
            path.write_text(json.dumps(text.to_dict() | {"model_type": "bert", "add_cross_attention": True}))
            found = original.ImageReward(str(path), device=self.settings.scoring.device)
        found.mlp = original.MLP(text.hidden_size)  # it is 768 in the package, the width of the released one
        found.load_state_dict(tensors, strict=False)  # as the package does
        return found.to(self.settings.scoring.device).eval()

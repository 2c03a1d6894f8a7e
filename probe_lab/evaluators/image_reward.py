"""ImageReward v1.0: BLIP reads the prompt with the picture before it, and a small network makes a reward of that.

Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation". Equal to the
package ``image-reward`` 1.5 up to rounding; that one is ``backend: reference``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from transformers import BertTokenizer, BlipTextModel, BlipVisionModel

from probe_lab.evaluators import blip_original as original
from probe_lab.evaluators.base import Evaluator, Settings
from probe_lab.evaluators.checkpoints import load_strictly, locate
from probe_lab.evaluators.model import ModelEvaluator, Transform
from probe_lab.evaluators.preprocessing import CLIP_MEAN, CLIP_STD, to_rgb

FILES = ("ImageReward.pt", "ImageReward.safetensors", "model.safetensors")
SIZE = 224
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the rewards of the released model on its validation set; a score has 0 and 1 there."""


def transform() -> Transform:
    """What ImageReward is shown of a picture, float32 [3, 224, 224]: resized, cropped, and only then made RGB.

    So Pillow takes the nearest pixel of a palette, and blends colours with transparency before that is dropped: as in
    the package. Sixteen bits per pixel are the exception, made eight first: the package sees them nearly all white.
    """

    def apply(image: Image) -> Tensor:
        resized = TF.resize(eight_bits(image), [SIZE], InterpolationMode.BICUBIC)
        pixels = TF.to_tensor(to_rgb(TF.center_crop(resized, [SIZE, SIZE])))
        found: Tensor = TF.normalize(pixels, list(CLIP_MEAN), list(CLIP_STD))
        return found

    return Transform(f"bicubic, shortest side to {SIZE}, centre crop, then RGB, CLIP's mean and std", apply)


def eight_bits(image: Image) -> Image:
    """The picture, made RGB if it has sixteen bits per pixel."""
    return to_rgb(image) if image.mode == "I" or image.mode.startswith("I;16") else image


class ImageRewardNetwork(nn.Module):
    """Vision tower, text tower that attends to it, and the head. The two projections are in the file, and unused."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        vision, text = original.vision_config(tensors, SIZE), original.text_config(tensors)
        shared = tensors["vision_proj.weight"].shape[0]
        self.vision_model = BlipVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        self.vision_proj = nn.Linear(vision.hidden_size, shared)
        self.text_proj = nn.Linear(text.hidden_size, shared)
        self.mlp = head(text.hidden_size)

    def forward(self, pictures: original.Seen, ids: Tensor, mask: Tensor) -> Tensor:
        """Rewards [b] before they are normalised, of what ``vision_model`` sees and tokens int64 [b, L]."""
        states = original.first_states(self.text_encoder, pictures, ids, mask)
        return cast(Tensor, self.mlp(states.float())).squeeze(-1)


def head(width: int) -> nn.Sequential:
    """Five layers without a bend between them: only training tells them from one."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


def network(tensors: Mapping[str, Tensor], source: Path) -> ImageRewardNetwork:
    """The model of a released file's tensors. ScoreError unless every key and shape is that of ImageReward."""
    tensors = {key.removeprefix("blip.").replace("mlp.layers.", "mlp.", 1): each for key, each in tensors.items()}
    original.require_sizes(tensors, "ImageReward", source)
    found = ImageRewardNetwork(tensors)
    load_strictly(found, original.renamed(tensors), source)
    return found


class ImageReward(ModelEvaluator):
    """Human preference, about -2.3 to 2. ``base`` is BERT's vocabulary: a file, a folder or a hub id."""

    version = "1"
    exact = ("mlp",)
    most_again = original.MOST_AGAIN

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, locate(settings, FILES), transform())
        self.vocabulary = original.vocabulary(settings, self.checkpoint)
        self.family += f" {self.vocabulary.path.resolve()}"

    def build(self) -> nn.Module:
        return network(self.checkpoint.tensors(), self.checkpoint.path)

    @cached_property
    def tokenizer(self) -> BertTokenizer:
        return original.tokenizer(self.vocabulary, cast(ImageRewardNetwork, self.model).text_encoder.config.vocab_size)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        return original.tokens(self.tokenizer, prompts, self.device)

    def encode_pictures(self, pixels: Tensor, *, again: bool) -> original.Seen:
        return original.seen(cast(ImageRewardNetwork, self.model).vision_model, pixels, again=again)

    def score_encoded(
        self, members: Sequence[Evaluator], pictures: original.Seen, text: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        rewards = self.model(pictures, *text)
        return {member.name: (rewards - MEAN) / STD for member in members}

    def metadata(self) -> dict[str, str]:
        return super().metadata() | {"vocabulary_sha256": self.vocabulary.sha256}

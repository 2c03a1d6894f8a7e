"""What each model family's blocks and tokens are, and the backbones that ship with the package.

To add a family, write one ``Family`` and put it into ``FAMILIES``: which pipeline classes belong to it, and which of
the pipeline's parts are the denoiser, the tokenizer and the text encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from probe_lab.capture.taps import Tap
from probe_lab.config import Backbone
from probe_lab.errors import CaptureError, nearest

WEIGHTS = Path(__file__).parents[1] / "shapes" / "weights"


@dataclass(frozen=True)
class Family:
    """A kind of pipeline: where its parts are and how its tensors are laid out."""

    name: str
    pipelines: tuple[str, ...]
    denoiser: str
    tokenizer: str
    text_encoder: str

    def denoiser_of(self, pipe: DiffusionPipeline) -> nn.Module:
        module = getattr(pipe, self.denoiser)
        assert isinstance(module, nn.Module)
        return module

    def cross_attentions(self, module: nn.Module) -> list[Attention]:
        """The cross-attention layers at or below ``module``, in the order of execution."""
        return [part for part in module.modules() if isinstance(part, Attention) and part.is_cross_attention]

    def taps(self, pipe: DiffusionPipeline) -> list[Tap]:
        """Every place that can be read: attention and activation of each block that holds cross-attention,
        activations of the denoiser's blocks, and the two taps of the scheduler."""
        denoiser = self.denoiser_of(pipe)
        found: list[Tap] = []
        for path, module in denoiser.named_modules():
            parent = path.rpartition(".")[0]
            if path and parent.endswith("attentions") and self.cross_attentions(module):
                found += [Tap(path, "attention"), Tap(path, "activation")]
            elif parent in ("down_blocks", "up_blocks") or path == "mid_block" or parent.endswith("resnets"):
                found.append(Tap(path, "activation"))
        return [*found, Tap("", "latent"), Tap("", "x0")]

    def token_mask(self, pipe: DiffusionPipeline, input_ids: Tensor) -> Tensor:
        """True for the tokens up to and with the first end-of-text token: bool [prompts, tokens].

        CLIP pads with that token, so the tokenizer's own attention mask is not in the ids.
        """
        ends = (input_ids == getattr(pipe, self.tokenizer).eos_token_id).long()
        return (ends.cumsum(1) - ends) == 0


SD = Family("sd", ("StableDiffusionPipeline",), "unet", "tokenizer", "text_encoder")
FAMILIES: tuple[Family, ...] = (SD,)
BUILT_IN: dict[str, tuple[Family, Path]] = {"tiny-sd": (SD, WEIGHTS / "tiny-sd")}


def family_of(pipe: DiffusionPipeline) -> Family:
    """The family of a pipeline.

    Raises:
        CaptureError: no family knows the pipeline's class.
    """
    name = type(pipe).__name__
    for family in FAMILIES:
        if name in family.pipelines:
            return family
    known = ", ".join(pipeline for family in FAMILIES for pipeline in family.pipelines)
    raise CaptureError(f"{name} has no entry in capture/backbones.py: known are {known}; add a Family there")


def located(backbone: Backbone) -> tuple[Family, str]:
    """The family of a backbone of an experiment, and the folder or hub id of its pipeline.

    Raises:
        CaptureError: an unknown backbone or family.
    """
    if backbone.name:
        if backbone.name not in BUILT_IN:
            raise CaptureError(f"there is no built-in backbone '{backbone.name}': {nearest(backbone.name, BUILT_IN)}")
        family, folder = BUILT_IN[backbone.name]
        return family, str(folder)
    families = {family.name: family for family in FAMILIES}
    if backbone.family not in families:
        raise CaptureError(f"there is no model family '{backbone.family}': {nearest(backbone.family, families)}")
    return families[backbone.family], backbone.path

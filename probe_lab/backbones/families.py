"""The families of models whose blocks and tokens are known, and the backbones that ship with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline

from probe_lab.backbones.family import Family, TextTokens
from probe_lab.backbones.token_grid import (
    grid_of_ids,
    grid_of_latent,
    grid_of_shapes,
    packed_2x2,
    unpacked,
    unpacked_2x2,
)
from probe_lab.config import Backbone
from probe_lab.errors import CaptureError, nearest

WEIGHTS = Path(__file__).parents[1] / "shapes" / "weights"

_UNET_BLOCKS = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+(\.transformer_blocks\.\d+)?"
_DIT_BLOCKS = r"(single_)?transformer_blocks\.\d+"

# UNets: cross-attention in transformer blocks inside attention modules inside the down, mid and up blocks.

SD = Family(
    name="sd",
    pipelines=("StableDiffusionPipeline",),
    denoiser="unet",
    order="cross",
    blocks=_UNET_BLOCKS,
    activations=r"(down|up)_blocks\.\d+|mid_block|.*\.resnets\.\d+",
    paper_attention=r"down_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.\d+",
    paper_part="last",
    paper_activation=r"up_blocks\.2",
    grid=grid_of_latent,
    unpack=unpacked,
    ends_in_summary=True,
)
SDXL = replace(
    SD,
    name="sdxl",
    pipelines=("StableDiffusionXLPipeline",),
    texts=(TextTokens(), TextTokens("text_encoder_2", "tokenizer_2", beside=True)),
    pooled=lambda arguments: arguments["added_cond_kwargs"]["text_embeds"],
    ends_in_summary=False,
)

# Transformers with cross-attention to masked text. Their pipelines would pick a size of their own from a table.

PIXART = Family(
    name="pixart-sigma",
    pipelines=("PixArtSigmaPipeline", "PixArtAlphaPipeline"),
    denoiser="transformer",
    order="cross",
    blocks=_DIT_BLOCKS,
    paper_attention=_DIT_BLOCKS,
    paper_part="middle",
    paper_activation=_DIT_BLOCKS,
    grid=grid_of_latent,
    unpack=unpacked,
    mask="encoder_attention_mask",
    fixed={"use_resolution_binning": False, "clean_caption": False},
)
SANA = replace(PIXART, name="sana", pipelines=("SanaPipeline",), mixes_masks=True)

# Transformers with joint attention: one sequence of image and text tokens.

SD3 = Family(
    name="sd3",
    pipelines=("StableDiffusion3Pipeline",),
    denoiser="transformer",
    order="image, text",
    blocks=_DIT_BLOCKS,
    paper_attention=_DIT_BLOCKS,
    paper_part="middle",
    paper_activation=_DIT_BLOCKS,
    grid=grid_of_latent,
    unpack=unpacked,
    # The two CLIP encoders share their token positions; T5's tokens follow.
    texts=(
        TextTokens("text_encoder", "tokenizer", fixed=True),
        TextTokens("text_encoder_2", "tokenizer_2", fixed=True, beside=True),
        TextTokens("text_encoder_3", "tokenizer_3"),
    ),
    pooled=lambda arguments: arguments["pooled_projections"],
)
FLUX = Family(
    name="flux",
    pipelines=("FluxPipeline",),
    denoiser="transformer",
    order="text, image",
    blocks=_DIT_BLOCKS,
    paper_attention=_DIT_BLOCKS,
    paper_part="middle",
    paper_activation=r"transformer_blocks\.\d+",
    grid=grid_of_ids,
    unpack=unpacked_2x2,
    pack=packed_2x2,
    texts=(TextTokens("text_encoder_2", "tokenizer_2"),),
    pooled=lambda arguments: arguments["pooled_projections"],
)
FLUX2 = Family(
    name="flux2",
    pipelines=("Flux2Pipeline", "Flux2KleinPipeline"),
    denoiser="transformer",
    order="text, image",
    blocks=_DIT_BLOCKS,
    paper_attention=_DIT_BLOCKS,
    paper_part="middle",
    paper_activation=r"transformer_blocks\.\d+",
    grid=grid_of_ids,
    unpack=unpacked_2x2,
    pack=packed_2x2,
)
QWEN_IMAGE = Family(
    name="qwen-image",
    pipelines=("QwenImagePipeline",),
    denoiser="transformer",
    order="text, image",
    blocks=_DIT_BLOCKS,
    paper_attention=_DIT_BLOCKS,
    paper_part="middle",
    paper_activation=_DIT_BLOCKS,
    grid=grid_of_shapes,
    unpack=unpacked_2x2,
    pack=packed_2x2,
    mask="encoder_hidden_states_mask",
    # Guidance runs the denoiser a second time.
    guidance="true_cfg_scale",
    negative=" ",
    mixes_masks=True,
)

FAMILIES: tuple[Family, ...] = (SD, SDXL, PIXART, SANA, SD3, FLUX, FLUX2, QWEN_IMAGE)
BUILT_IN: dict[str, tuple[Family, Path]] = {
    "tiny-sd": (SD, WEIGHTS / "tiny-sd"),
    "tiny-sd3": (SD3, WEIGHTS / "tiny-sd3"),
}


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
    raise CaptureError(
        f"{name} has no entry in backbones/families.py: known are {known}; docs/backbones.md says how to add a family"
    )


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

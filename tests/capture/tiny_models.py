"""The parts of tiny random pipelines: one function per family of ``tiny_pipelines``.

Every VAE makes an image eight times smaller, as most real ones do, so a 96×160 image is a 12×20 latent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_text as text
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn

HEADS, HEAD_WIDTH = 2, 16
ROTARY = (4, 6, 6)
LATENT = 4
"""Channels of every latent (real ones have 4, 16 or 32)."""

SHARPENED = ("to_q", "to_k", "add_q_proj", "add_k_proj", "to_qkv_mlp_proj")


def randomise(module: nn.Module) -> None:
    """Weights that hide no mistake: sharp attention, and biases, norms and embeddings that matter."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if f".{name}".rsplit(".", 2)[1] in SHARPENED and weight.dim() == 2:
                nn.init.normal_(weight, std=1.2 / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                nn.init.normal_(weight, std=0.3)
            elif weight.dim() == 1:
                nn.init.uniform_(weight, 0.7, 1.8)
            elif "embed_tokens" in name or "token_embedding" in name or name.endswith("shared.weight"):
                nn.init.normal_(weight)


def finished(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            randomise(part)
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _kl(**changes: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=2,
        mid_block_add_attention=False,
        **changes,
    )


def _flow_kl() -> AutoencoderKL:
    return _kl(scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)


def _flow(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**changes)


def sd(folder: Path, prediction: str = "epsilon") -> DiffusionPipeline:
    tokenizer = text.clip_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=_kl(),
        text_encoder=text.clip_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            in_channels=LATENT,
            out_channels=LATENT,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            cross_attention_dim=text.WIDTH,
            attention_head_dim=2 if prediction == "epsilon" else (2, 4, 4),
            use_linear_projection=prediction != "epsilon",
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(
            prediction_type=prediction, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> DiffusionPipeline:
    tokenizer, second = text.clip_tokenizer(folder / "1"), text.clip_tokenizer(folder / "2", pad_token="!")
    return StableDiffusionXLPipeline(
        vae=_kl(),
        text_encoder=text.clip_encoder(tokenizer),
        text_encoder_2=text.clip_encoder(second, projection=True),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            in_channels=LATENT,
            out_channels=LATENT,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=2 * text.WIDTH,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + text.WIDTH,
            norm_num_groups=4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1, interpolation_type="linear"
        ),
    )


def pixart(folder: Path) -> DiffusionPipeline:
    tokenizer = text.t5_tokenizer()
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=text.t5_encoder(tokenizer),
        vae=_kl(),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            in_channels=LATENT,
            out_channels=2 * LATENT,
            num_layers=2,
            cross_attention_dim=HEADS * HEAD_WIDTH,
            sample_size=16,
            caption_channels=text.WIDTH,
            norm_num_groups=4,
            use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


def sd3(folder: Path, **changes: Any) -> DiffusionPipeline:
    first, second = text.clip_tokenizer(folder / "1"), text.clip_tokenizer(folder / "2", pad_token="!")
    third = text.t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            in_channels=LATENT,
            out_channels=LATENT,
            num_layers=3,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=2 * text.WIDTH,
            caption_projection_dim=HEADS * HEAD_WIDTH,
            pooled_projection_dim=2 * text.WIDTH,
            pos_embed_max_size=16,
            **changes,
        ),
        scheduler=_flow(shift=3.0),
        vae=_flow_kl(),
        text_encoder=text.clip_encoder(first, projection=True),
        tokenizer=first,
        text_encoder_2=text.clip_encoder(second, projection=True),
        tokenizer_2=second,
        text_encoder_3=text.t5_encoder(third, width=2 * text.WIDTH),
        tokenizer_3=third,
    )


def flux(folder: Path, *, distilled: bool) -> DiffusionPipeline:
    tokenizer, second = text.clip_tokenizer(folder), text.t5_tokenizer()
    return FluxPipeline(
        scheduler=_flow(use_dynamic_shifting=distilled, shift=3.0 if distilled else 1.0),
        vae=_flow_kl(),
        text_encoder=text.clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=text.t5_encoder(second),
        tokenizer_2=second,
        transformer=FluxTransformer2DModel(
            in_channels=4 * LATENT,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=text.WIDTH,
            pooled_projection_dim=text.WIDTH,
            guidance_embeds=distilled,
            axes_dims_rope=ROTARY,
        ),
    )


def _flux2_parts() -> dict[str, Any]:
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return {"vae": vae, "scheduler": _flow(use_dynamic_shifting=True, shift=3.0)}


def _flux2_transformer(*, guidance: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=4 * LATENT,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=3 * text.WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def flux2(folder: Path) -> DiffusionPipeline:
    processor = text.mistral_processor()
    return Flux2Pipeline(
        text_encoder=text.mistral_encoder(processor),
        tokenizer=processor,
        transformer=_flux2_transformer(guidance=True),
        **_flux2_parts(),
    )


def flux2_klein(folder: Path) -> DiffusionPipeline:
    tokenizer = text.qwen_tokenizer()
    return Flux2KleinPipeline(
        text_encoder=text.qwen3_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=_flux2_transformer(guidance=False),
        **_flux2_parts(),
    )


def qwen_image(folder: Path) -> DiffusionPipeline:
    tokenizer = text.qwen_tokenizer()
    return QwenImagePipeline(
        scheduler=_flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02),
        vae=AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=LATENT,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=np.linspace(-1, 1, LATENT).tolist(),
            latents_std=np.linspace(0.5, 2, LATENT).tolist(),
        ),
        text_encoder=text.qwen_vl_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=4 * LATENT,
            out_channels=LATENT,
            num_layers=2,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=text.WIDTH,
            axes_dims_rope=ROTARY,
        ),
    )


def sana(folder: Path) -> DiffusionPipeline:
    tokenizer = text.gemma_tokenizer()
    width = HEADS * HEAD_WIDTH
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text.gemma_encoder(tokenizer),
        vae=AutoencoderDC(
            latent_channels=LATENT,
            encoder_block_out_channels=(4, 4, 4, 4),
            decoder_block_out_channels=(4, 4, 4, 4),
            encoder_layers_per_block=(1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            encoder_qkv_multiscales=((), (), (), ()),
            decoder_qkv_multiscales=((), (), (), ()),
        ),
        transformer=SanaTransformer2DModel(
            in_channels=LATENT,
            out_channels=LATENT,
            num_attention_heads=4,
            attention_head_dim=width // 4,
            num_layers=2,
            num_cross_attention_heads=HEADS,
            cross_attention_head_dim=HEAD_WIDTH,
            cross_attention_dim=width,
            caption_channels=text.WIDTH,
            sample_size=16,
            # As in Sana 1.5; the first release has no norm.
            qk_norm="rms_norm_across_heads",
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
        ),
    )

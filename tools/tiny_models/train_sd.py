"""Train tiny-sd: a text-conditioned UNet and its CLIP text encoder, from scratch, by v-prediction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from tools.tiny_models.recipe import TextToImage
from tools.tiny_models.tokenizer import text_config
from tools.tiny_models.train_vae import LATENT_CHANNELS

TEXT_WIDTH = 96
TRAIN_TIMESTEPS = 1000


class Denoiser(TextToImage):
    """The trained parts of a ``StableDiffusionPipeline``."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(text_config(tokenizer, TEXT_WIDTH))
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            # No attention at 16×16: there it costs two thirds of the time and adds little at this size.
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 96),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        )

        self.scheduler = new_scheduler()

    def denoiser(self) -> nn.Module:
        return self.unet

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps, uniform."""
        return torch.randint(TRAIN_TIMESTEPS, (count,), generator=generator)

    def loss(self, clean: Tensor, noise: Tensor, times: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """v-prediction (arXiv 2202.00512)."""
        text = self.text_encoder(tokens).last_hidden_state
        noisy = self.scheduler.add_noise(clean, noise, times)
        velocity = self.unet(noisy, times, encoder_hidden_states=text).sample
        return F.mse_loss(velocity.float(), self.scheduler.get_velocity(clean, noise, times))


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        clip_sample=False,
    )

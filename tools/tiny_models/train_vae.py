"""Train the small autoencoder that both tiny backbones share: 64×64 RGB to 8 channels at 16×16."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from probe_lab.shapes.render import SIZE
from tools.tiny_models.training_pictures import to_model_range

LATENT_CHANNELS = 8
KL_WEIGHT = 1e-5
"""Only keeps the latent from growing: the decoder has to reproduce sharp edges."""


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def train_vae(
    pictures: Tensor, *, steps: int, batch_size: int, learning_rate: float, seed: int, log: Callable[[int, float], None]
) -> AutoencoderKL:
    """Fit the autoencoder to uint8 pictures [n, 3, H, W] and normalise its latent; ``log(step, loss)`` per step."""
    torch.manual_seed(seed)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pictures), (batch_size,), generator=generator)
        target = to_model_range(pictures[rows])
        posterior = vae.encode(target).latent_dist
        restored = vae.decode(posterior.sample(generator)).sample
        # L1 for sharp edges, L2 so that no single pixel is far off.
        loss = F.l1_loss(restored, target) + F.mse_loss(restored, target) + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        log(step, loss.item())
    vae.eval().requires_grad_(False)
    _normalise_latent(vae, pictures[:2048])
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Posterior means, float32 [n, LATENT_CHANNELS, H/4, W/4]."""
    parts = [vae.encode(to_model_range(part)).latent_dist.mean for part in pictures.split(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def _normalise_latent(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold mean 0 and standard deviation 1 per channel into the two 1×1 convolutions around the latent.

    The Stable Diffusion pipeline knows one scaling factor and no shift; folding keeps it stock with factor 1.
    """
    latent = encode(vae, pictures)
    mean, std = latent.mean((0, 2, 3)), latent.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    means = slice(0, LATENT_CHANNELS)  # the first half of the moments; the second holds log-variances
    quant.bias[means] = (quant.bias[means] - mean) / std
    quant.weight[means] /= std[:, None, None, None]
    quant.bias[LATENT_CHANNELS:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]

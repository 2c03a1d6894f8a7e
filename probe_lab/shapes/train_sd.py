"""Train tiny-sd: a text-conditioned UNet and its CLIP text encoder, from scratch, by v-prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from probe_lab.shapes.tokenizer import MAX_TOKENS
from probe_lab.shapes.train_vae import LATENT_CHANNELS

TEXT_WIDTH = 96
TRAIN_TIMESTEPS = 1000
RECENT = 500
"""Steps over which the final loss is averaged."""


class Denoiser(nn.Module):
    """Text encoder and UNet as one module, so that one optimiser and one moving average hold both."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=3 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
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

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, encoder_hidden_states=text).sample


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
        clip_sample=False,
    )


@dataclass(frozen=True)
class Recipe:
    """How a denoiser is trained; the defaults made the committed weights."""

    steps: int = 6000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    ema_decay: float = 0.999
    caption_dropout: float = 0.1
    seed: int = 0


def train_denoiser(
    latents: Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    recipe: Recipe,
    *,
    state_folder: Path,
    log: Callable[[int, float], None],
    save_every: int = 500,
) -> tuple[Denoiser, float]:
    """Fit to latents [n, C, h, w] and captions; returns the moving average and the mean loss of the last 500 steps.

    Every ``save_every`` steps, and after the last, the whole training state goes to ``state_folder``; the same call
    continues from it. A state of another recipe is not touched: it has another name.
    """
    torch.manual_seed(recipe.seed)
    model = Denoiser(tokenizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    scheduler = new_scheduler()
    tokens = _tokens(tokenizer, captions)
    nothing = _tokens(tokenizer, [""])
    state = _State(state_folder, recipe, model, average, optimizer, schedule)
    first, losses = state.restore()
    for step in range(first, recipe.steps + 1):
        # Seeded per step, so that a resumed run draws what an uninterrupted one would.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (recipe.batch_size,), generator=generator)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(TRAIN_TIMESTEPS, (len(rows),), generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < recipe.caption_dropout
        prompt = torch.where(dropped[:, None], nothing, tokens[rows])
        predicted = model(scheduler.add_noise(clean, noise, timesteps), timesteps, prompt)
        loss = F.mse_loss(predicted, scheduler.get_velocity(clean, noise, timesteps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        losses.append(loss.item())
        log(step, losses[-1])
        if step % save_every == 0 or step == recipe.steps:
            state.save(step, losses[-RECENT:])
    recent = losses[-RECENT:]
    model.load_state_dict(average.module.state_dict())
    return model.eval().requires_grad_(False), sum(recent) / len(recent)


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


@dataclass(frozen=True)
class _State:
    """Everything that training changes, in one file."""

    folder: Path
    recipe: Recipe
    model: Denoiser
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @property
    def path(self) -> Path:
        digest = hashlib.sha256(repr(self.recipe).encode()).hexdigest()[:8]
        return self.folder / f"state-{digest}.pt"

    def save(self, step: int, losses: list[float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".tmp")
        torch.save(
            {
                "step": step,
                "losses": losses,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
            aside,
        )
        aside.replace(self.path)

    def restore(self) -> tuple[int, list[float]]:
        """Load the newest state, if there is one; returns the first step that is left to do, and recent losses."""
        if not self.path.exists():
            return 1, []
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return state["step"] + 1, state["losses"]

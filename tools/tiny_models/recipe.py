"""How a tiny denoiser is trained, the loop that does it, and the state that lets it resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTokenizer

RECENT = 500
"""Steps over which the final loss is averaged."""


@dataclass(frozen=True)
class Recipe:
    """``bfloat16`` and ``compiled`` are for speed: matrix products in bfloat16, and kernels fused by a C++ compiler."""

    steps: int = 6000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    ema_decay: float = 0.999
    caption_dropout: float = 0.1
    seed: int = 0
    bfloat16: bool = False
    compiled: bool = False


class TextToImage(nn.Module):
    """Text encoders and denoiser as one module, so that one optimiser and one moving average hold them all."""

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Where on the way from picture to noise the samples of a batch are trained."""
        raise NotImplementedError

    def loss(self, clean: Tensor, noise: Tensor, times: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """The training loss of clean latents and noise [n, C, h, w] at ``times`` [n], for token ids [n, L]."""
        raise NotImplementedError

    def denoiser(self) -> nn.Module:
        """The part that takes the time, and is compiled if the recipe says so."""
        raise NotImplementedError


M = TypeVar("M", bound=TextToImage)


def train_denoiser(
    model: M,
    latents: Tensor,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    recipe: Recipe,
    *,
    state_folder: Path,
    log: Callable[[int, float], None],
    save_every: int = 500,
) -> tuple[M, float]:
    """Fit to latents [n, C, h, w] and captions; returns the moving average and the mean loss of the last 500 steps.

    Every ``save_every`` steps, and after the last, the whole training state goes to ``state_folder``; the same call
    continues from it. A state of another recipe is not touched: it has another name.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    tokens = _tokens(tokenizer, captions)
    nothing = _tokens(tokenizer, [""])
    state = _State(state_folder, recipe, model, average, optimizer, schedule)
    first, losses = state.restore()
    if recipe.compiled:
        model.denoiser().compile()
    for step in range(first, recipe.steps + 1):
        # Seeded per step, so that a resumed run draws what an uninterrupted one would.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (recipe.batch_size,), generator=generator)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        times = model.draw_times(len(rows), generator)
        dropped = torch.rand(len(rows), generator=generator) < recipe.caption_dropout
        prompt = torch.where(dropped[:, None], nothing, tokens[rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            loss = model.loss(clean, noise, times, prompt, generator)
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
    model: TextToImage
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

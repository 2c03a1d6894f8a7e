"""``python -m tools.tiny_models.train_clip``: train a small CLIP on the shapes world and write it as open_clip does.

Symmetric contrastive loss over pictures and captions; among those that must score lower are, for each sample, a
caption and a picture with one mistake. The folder that results is open_clip's published format.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTokenizer

from tools.tiny_models.clip_card import CLIP as FOLDER
from tools.tiny_models.clip_card import ClipTraining
from tools.tiny_models.clip_folder import MEAN, STD, model_config, write_folder
from tools.tiny_models.contrastive import Pool, contrast_pool
from tools.tiny_models.tokenizer import build_tokenizer
from tools.tiny_models.train import progress

NAME = "shapes-clip"
LARGEST_SCALE = 4.6052
"""Logarithm of the largest factor of the cosines, 100, as CLIP bounds it."""

RECENT = 200
"""Steps over which the final loss is averaged."""


@dataclass(frozen=True)
class ClipRecipe:
    """``compiled`` is for speed: kernels fused by a C++ compiler."""

    pool: int = 40_000
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    compiled: bool = True


def damaged(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [n, 3, h, w] to float32 0..1 with a cast of colour, blur or sharpening, and noise, each slight.

    A diffusion model's pictures are not clean either.
    """
    count = len(pictures)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    out = pictures.float() / 255
    out = out * uniform(0.92, 1.08, 3) + uniform(-0.05, 0.05, 3)
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = out + (blurred - out) * uniform(-0.3, 1.0)
    out = out + torch.randn(out.shape, generator=generator) * uniform(0, 0.04)
    return out.clamp(0, 1)


@dataclass(frozen=True)
class Batch:
    """m pictures and m captions, the right ones first; the i-th caption is true of the i-th picture if ``paired``.

    ``alike`` bool [m, m]: this picture and that caption may belong together, though they are not the i-th of both.
    """

    pictures: Tensor
    tokens: Tensor
    paired: Tensor
    alike: Tensor


def draw_batch(pool: Pool, tokens: Tensor, count: int, generator: torch.Generator) -> Batch:
    """``count`` random samples with their mistakes: m = 2 * ``count``; pictures are damaged and normalised."""
    rows = torch.randperm(len(pool), generator=generator)[:count]
    pictures, words, shown, named = (
        values[rows].transpose(0, 1).flatten(0, 1) for values in (pool.pictures, tokens, pool.shown, pool.named)
    )
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    # Within a sample, right and wrong are known. Elsewhere, the same objects may be arranged as another caption asks.
    sample = torch.arange(2 * count) % count
    alike = (shown[:, None] == named[None]) & (sample[:, None] != sample[None])
    paired = torch.cat([torch.ones(count, dtype=torch.bool), pool.paired[rows]])
    return Batch((damaged(pictures, generator) - mean) / std, words, paired, alike)


def contrastive_loss(cosines: Tensor, scale: Tensor, batch: Batch) -> Tensor:
    """Mean of the cross entropies of picture to captions and of caption to pictures, over the paired ones.

    ``cosines`` [m, m]: pictures by captions.
    """
    logits = (scale * cosines).masked_fill(batch.alike, -torch.inf)
    target = torch.where(batch.paired, torch.arange(len(logits)), -100)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pool_tokens(pool: Pool, tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids int64 [n, 2, L] of right and wrong captions."""
    texts = [text for pair in pool.captions for text in pair]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids.view(len(pool), 2, -1)


def train_clip(
    model: CLIP,
    pool: Pool,
    tokens: Tensor,
    recipe: ClipRecipe,
    *,
    state: Path,
    log: Callable[[int, float], None],
    save_every: int = 250,
) -> float:
    """Fit the model in place; returns the mean loss of the last 200 steps.

    Every ``save_every`` steps, and after the last, all that training changes goes to the file ``state``; the same
    call continues from it.
    """
    # As CLIP does: no decay of gains, biases and the scale.
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    changing = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first, losses = 1, list[float]()
    if state.exists():
        saved = torch.load(state, weights_only=True)
        first, losses = saved["step"] + 1, saved["losses"]
        for name, part in changing.items():
            part.load_state_dict(saved[name])
    if recipe.compiled:
        model.compile()
    for step in range(first, recipe.steps + 1):
        # Seeded per step, so that a resumed run draws what an uninterrupted one would.
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        batch = draw_batch(pool, tokens, recipe.batch_size, generator)
        # On a CPU in bfloat16, attention as plain products takes less than half the time of the fused kernel.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            image, text, scale = model(batch.pictures, batch.tokens)
        loss = contrastive_loss(image.float() @ text.float().T, scale, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        losses = [*losses, loss.item()][-RECENT:]
        log(step, losses[-1])
        if step % save_every == 0 or step == recipe.steps:
            _save(state, {"step": step, "losses": losses} | {n: part.state_dict() for n, part in changing.items()})
    return sum(losses) / len(losses)


def _save(path: Path, state: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    aside.replace(path)


def build(recipe: ClipRecipe, work: Path, out: Path, workers: int) -> None:
    """Draw the pool, train, and write the folder ``out`` with a ``training.json``."""
    began = time.monotonic()
    pool = contrast_pool(recipe.pool, recipe.seed, workers)
    print(f"{len(pool)} samples drawn, {pool.paired.float().mean():.0%} with a second pair", flush=True)
    tokenizer = build_tokenizer(work / "tokenizer")
    torch.manual_seed(recipe.seed)
    model = CLIP(**model_config(len(tokenizer)))
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]
    loss = train_clip(
        model,
        pool,
        pool_tokens(pool, tokenizer),
        recipe,
        state=work / NAME / f"state-{digest}.pt",
        log=progress(NAME, recipe.steps),
    )
    write_folder(model, tokenizer, out)
    ClipTraining(
        command=f"python -m tools.tiny_models.train_clip --steps {recipe.steps} --seed {recipe.seed}",
        loss=round(loss, 4),
        minutes=round((time.monotonic() - began) / 60, 1),
        **dataclasses.asdict(recipe),
    ).save(out)


def main(
    steps: Annotated[int, typer.Option(help="training steps")] = ClipRecipe.steps,
    seed: Annotated[int, typer.Option(help="seed of pictures, captions, initial weights and batches")] = 0,
    work: Annotated[Path, typer.Option(help="folder of intermediate results; the same folder resumes")] = Path(
        "runs/backbones"
    ),
    out: Annotated[Path | None, typer.Option(help="where to write; default: into the package")] = None,
    workers: Annotated[int, typer.Option(help="processes that draw pictures")] = 2,
) -> None:
    """Train the small CLIP of the shapes world (about 20 minutes on a core)."""
    build(ClipRecipe(steps=steps, seed=seed), work, out or FOLDER, workers)
    print("its card: python -m tools.tiny_models.clip_card", flush=True)


if __name__ == "__main__":
    typer.run(main)

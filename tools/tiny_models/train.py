"""``python -m tools.tiny_models.train tiny-sd``: train a tiny backbone from a seed and write it as a diffusers folder.

Rendering, autoencoder, denoiser: each stage leaves its result in the work folder, so an interrupted run continues.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline
from transformers import CLIPTokenizer

from probe_lab.backbones.families import WEIGHTS
from tools.tiny_models import train_sd3
from tools.tiny_models.model_card import Training, write_card
from tools.tiny_models.recipe import Recipe, TextToImage, train_denoiser
from tools.tiny_models.tokenizer import build_tokenizer
from tools.tiny_models.train_sd import Denoiser
from tools.tiny_models.train_sd3 import JointDenoiser
from tools.tiny_models.train_vae import encode, train_vae
from tools.tiny_models.training_pictures import picture_pool

POOL = 48_000
"""Distinct captions, one picture each."""

VAE_STEPS, VAE_BATCH, VAE_LEARNING_RATE = 1200, 32, 2e-3


def progress(stage: str, total: int, every: int = 100) -> Callable[[int, float], None]:
    """A logger that prints the mean loss, the rate and the time left every ``every`` steps."""
    began, losses = time.monotonic(), list[float]()

    def log(step: int, loss: float) -> None:
        losses.append(loss)
        if step % every == 0 or step == total:
            rate = len(losses) / (time.monotonic() - began)
            mean = sum(losses[-every:]) / len(losses[-every:])
            left = (total - step) / rate / 60
            print(f"{stage} {step}/{total}  loss {mean:.4f}  {rate:.1f} steps/s  {left:.1f} min left", flush=True)

    return log


def obtain_vae(pictures: torch.Tensor, work: Path, seed: int) -> AutoencoderKL:
    """The autoencoder from the work folder, trained first if it is not there."""
    folder = work / f"vae-seed{seed}-{VAE_STEPS}"
    if not (folder / "config.json").exists():
        vae = train_vae(
            pictures,
            steps=VAE_STEPS,
            batch_size=VAE_BATCH,
            learning_rate=VAE_LEARNING_RATE,
            seed=seed,
            log=progress("vae", VAE_STEPS),
        )
        vae.save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def _tiny_sd(model: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=model.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tiny_sd3(model: JointDenoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> DiffusionPipeline:
    vae.register_to_config(shift_factor=0.0)  # this pipeline always shifts
    silent, no_words = train_sd3.silent_t5()
    return StableDiffusion3Pipeline(
        transformer=model.transformer,
        scheduler=train_sd3.new_scheduler(),
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=model.text_encoder_2,
        tokenizer_2=tokenizer,
        text_encoder_3=silent,
        tokenizer_3=no_words,
    )


@dataclass(frozen=True)
class TinyBackbone:
    """What is trained under a name, how, and the pipeline that it becomes."""

    recipe: Recipe
    model: Callable[[CLIPTokenizer], TextToImage]
    pipeline: Callable[[Any, AutoencoderKL, CLIPTokenizer], DiffusionPipeline]


TINY: dict[str, TinyBackbone] = {
    "tiny-sd": TinyBackbone(Recipe(), Denoiser, _tiny_sd),
    "tiny-sd3": TinyBackbone(
        Recipe(steps=7000, learning_rate=1e-3, bfloat16=True, compiled=True), JointDenoiser, _tiny_sd3
    ),
}


def train_backbone(name: str, recipe: Recipe, work: Path, out: Path, workers: int) -> None:
    """Train everything that a tiny backbone consists of and save it, in float16, below ``out``."""
    began = time.monotonic()
    captions, pictures = picture_pool(POOL, recipe.seed, workers)
    print(f"{len(captions)} pictures drawn", flush=True)
    vae = obtain_vae(pictures, work, recipe.seed)
    latents = encode(vae, pictures).half()
    print(f"{len(latents)} latents encoded, standard deviation {latents.float().std():.3f}", flush=True)
    tokenizer = build_tokenizer(work / "tokenizer")
    torch.manual_seed(recipe.seed)
    model, loss = train_denoiser(
        TINY[name].model(tokenizer),
        latents,
        captions,
        tokenizer,
        recipe,
        state_folder=work / name,
        log=progress(name, recipe.steps),
    )
    print(f"mean loss of the last 500 steps: {loss:.4f}", flush=True)
    TINY[name].pipeline(model, vae, tokenizer).to(torch.float16).save_pretrained(out)
    Training(
        command=f"python -m tools.tiny_models.train {name} --steps {recipe.steps} --seed {recipe.seed}",
        pictures=POOL,
        vae_steps=VAE_STEPS,
        loss=round(loss, 4),
        minutes=round((time.monotonic() - began) / 60, 1),
        **dataclasses.asdict(recipe),
    ).save(out)


def main(
    backbone: Annotated[str, typer.Argument(help="tiny-sd or tiny-sd3")],
    steps: Annotated[int | None, typer.Option(help="denoiser training steps; default: those of the recipe")] = None,
    seed: Annotated[int, typer.Option(help="seed of pictures, initial weights and noise")] = Recipe.seed,
    work: Annotated[Path, typer.Option(help="folder of intermediate results; the same folder resumes")] = Path(
        "runs/backbones"
    ),
    out: Annotated[Path | None, typer.Option(help="where to write; default: into the package")] = None,
    workers: Annotated[int, typer.Option(help="processes that draw pictures")] = 2,
) -> None:
    """Train a tiny backbone on the shapes world (about 40 minutes on two cores)."""
    if backbone not in TINY:
        raise typer.BadParameter(f"'{backbone}' is not a backbone of the shapes world; allowed: {', '.join(TINY)}")
    recipe = dataclasses.replace(TINY[backbone].recipe, seed=seed)
    recipe = recipe if steps is None else dataclasses.replace(recipe, steps=steps)
    train_backbone(backbone, recipe, work, out or WEIGHTS / backbone, workers)
    if out is None:
        for reward, reached in sorted(write_card(backbone, WEIGHTS / backbone).items()):
            print(f"{reward}: mean {reached.mean:.3f}, best of 8 {reached.best:.3f}")


if __name__ == "__main__":
    typer.run(main)

"""The training of the tiny backbone, a few steps of it: it resumes exactly, and what it writes loads as a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer

from tools.tiny_models import train, train_sd3
from tools.tiny_models.recipe import Recipe, TextToImage, train_denoiser
from tools.tiny_models.tokenizer import build_tokenizer
from tools.tiny_models.train_sd import Denoiser
from tools.tiny_models.train_sd3 import JointDenoiser
from tools.tiny_models.train_vae import encode, train_vae
from tools.tiny_models.training_pictures import picture_pool, to_model_range


def test_pictures_do_not_depend_on_the_number_of_workers() -> None:
    captions, pictures = picture_pool(12, seed=5, workers=1)
    again, same = picture_pool(12, seed=5, workers=2)
    assert captions == again
    assert torch.equal(pictures, same)
    assert to_model_range(pictures).amax() <= 1


def test_the_latent_is_normalised_without_changing_the_reconstruction() -> None:
    from tools.tiny_models import train_vae as module

    _, pictures = picture_pool(16, seed=1, workers=1)
    torch.manual_seed(0)
    vae = module.new_vae().eval().requires_grad_(False)
    before = vae.decode(encode(vae, pictures)).sample
    module._normalise_latent(vae, pictures)
    latent = encode(vae, pictures)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(vae.decode(latent).sample, before, atol=1e-3, rtol=0)


@pytest.mark.parametrize("denoiser", [Denoiser, JointDenoiser])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, denoiser: Callable[[CLIPTokenizer], TextToImage]
) -> None:
    latents = torch.randn(20, 8, 16, 16).half()
    captions = ["a red circle"] * 20
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    recipe = Recipe(steps=4, batch_size=4)

    class Stop(Exception):
        pass

    def stop_at_three(step: int, loss: float) -> None:
        if step == 3:
            raise Stop

    def run(folder: str, log: Callable[[int, float], None]) -> torch.Tensor:
        torch.manual_seed(recipe.seed)
        model, _ = train_denoiser(
            denoiser(tokenizer),
            latents,
            captions,
            tokenizer,
            recipe,
            state_folder=tmp_path / folder,
            log=log,
            save_every=2,
        )
        return torch.nn.utils.parameters_to_vector(model.parameters())

    whole = run("whole", lambda step, loss: None)
    with pytest.raises(Stop):
        run("broken", stop_at_three)
    assert torch.equal(run("broken", lambda step, loss: None), whole)


@pytest.mark.parametrize("name", sorted(train.TINY))
def test_a_short_run_writes_a_pipeline_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(train, "POOL", 16)
    monkeypatch.setattr(train, "VAE_STEPS", 2)
    recipe = Recipe(steps=2, batch_size=4)
    train.train_backbone(name, recipe, tmp_path / "work", tmp_path / "out", workers=1)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out", dtype=torch.float32, low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(["a red circle"], num_inference_steps=2, height=64, width=64, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    weights = list((tmp_path / "out").rglob("*.safetensors"))
    assert len(weights) == (3 if name == "tiny-sd" else 5)
    assert sum(path.stat().st_size for path in weights) < 12e6
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_the_silent_t5_says_what_the_pipeline_says_without_one() -> None:
    encoder, tokenizer = train_sd3.silent_t5()
    words = tokenizer(["a red circle", ""], padding="max_length", max_length=5, return_tensors="pt")
    assert words.input_ids.tolist() == [[1, 0, 0, 0, 0]] * 2
    assert torch.equal(encoder(words.input_ids)[0], torch.zeros(2, 5, 2 * train_sd3.TEXT_WIDTH))


def test_the_velocity_loss_of_the_flow_is_what_the_scheduler_undoes() -> None:
    """A model that predicts ε − x₀ exactly brings the scheduler from noise to the picture."""
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    scheduler = train_sd3.new_scheduler()
    scheduler.set_timesteps(7)
    latents = noise
    for timestep in scheduler.timesteps:
        latents = scheduler.step(noise - clean, timestep, latents).prev_sample
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=0)


def test_the_vae_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    _, pictures = picture_pool(32, seed=2, workers=1)
    losses: list[float] = []
    train_vae(pictures, steps=25, batch_size=2, learning_rate=2e-3, seed=0, log=lambda step, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

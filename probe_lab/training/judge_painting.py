"""First lesson of a picture judge: to paint what a predicted x₀ decodes to.

Thousands of pixels per picture teach its first layers in minutes what scores alone would teach them in hours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache
from probe_lab.config import Experiment
from probe_lab.errors import ProbeError
from probe_lab.previews.decoding import decoded_pixels, decoded_together
from probe_lab.probes.applied_elsewhere import read_samples
from probe_lab.probes.picture_judge import PictureJudge
from probe_lab.probes.spec import JUDGED
from probe_lab.progress import OnProgress
from probe_lab.training.judge_batches import LabelledPictures

PER_PICTURE, BATCH, LEARNING_RATE = 0.3, 48, 3e-3
"""Batches per decoded picture, pictures of a batch, and the highest learning rate."""


def learn_to_paint(
    judge: PictureJudge, experiment: Experiment, cache: Cache, pictures: LabelledPictures, on_progress: OnProgress
) -> None:
    """Decode ``judge.pictures`` predicted x₀ of training samples, as many of each step, and train ``judge.painted`` on
    them in place. The torch seed decides which, and the order.

    Raises:
        CaptureError: the backbone cannot be loaded.
        ProbeError: no x₀ decodes to a picture.
    """
    batches = math.ceil(PER_PICTURE * experiment.judge.pictures)
    total = experiment.judge.pictures + batches
    clean, pixels = _decoded(judge, experiment, cache, pictures, lambda done: on_progress(done, total))
    learned = [*judge.paint.parameters(), *judge.picture.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=batches)
    for batch in range(batches):
        rows = torch.randint(len(clean), (BATCH,))
        loss = F.mse_loss(judge.painted(clean[rows]), pixels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_progress(experiment.judge.pictures + batch + 1, total)


def _decoded(
    judge: PictureJudge,
    experiment: Experiment,
    cache: Cache,
    pictures: LabelledPictures,
    on_progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """x₀ predictions ``[n, C, H, W]`` and the small pictures that they decode to, ``[n, 3, h, w]`` in −1..1."""
    # Decoded outside a pipeline call, where nothing would bring an offloaded autoencoder back.
    pipe = load_pipeline(experiment.backbone, replace(experiment.sampling, offload="none"))
    steps = pictures.steps
    clean, pixels = [], []
    done = 0
    for number, step in enumerate(steps):
        wanted = (experiment.judge.pictures + number) // len(steps)
        chosen = torch.randperm(len(pictures.ids))[:wanted].sort().values.numpy()
        latents = read_samples(cache, f"{step}/{JUDGED}", pictures.ids[chosen]).float()
        side = judge.painted(latents[:1]).shape[2:]
        clean.append(latents)
        for rows in decoded_together(latents):
            pixels.append(F.interpolate(decoded_pixels(pipe, latents[rows]).float().cpu(), side, mode="area"))
            done += len(pixels[-1])
            on_progress(done)
    x0, small = torch.cat(clean), torch.cat(pixels).clamp(-1, 1)
    whole = small.flatten(1).isfinite().all(dim=1)
    if not whole.any():
        raise ProbeError(
            f"no predicted x₀ of {cache.folder} decodes to a picture: set judge.pictures=0, or sampling.dtype=float32"
        )
    return x0[whole], small[whole]

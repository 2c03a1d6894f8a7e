"""The model card of a tiny backbone: how it was trained, and the rewards that it reaches, measured here and now."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.config import Backbone, Experiment, Prompts, Sampling
from probe_lab.evaluators import available, create, score_all
from probe_lab.generation.prompts import sample_table
from probe_lab.generation.sampling import sample_images

PROMPTS = Prompts(source="shapes", count=100, seeds=8)
PROMPT_SEED = 77
"""No experiment of the repository draws its captions from it."""


@dataclass(frozen=True)
class About:
    """What a backbone is, in the words of its card, and how its pictures are sampled there."""

    pipeline: str
    denoiser: str
    text: str
    sampling: Sampling


ABOUT: dict[str, About] = {
    "tiny-sd": About(
        pipeline="StableDiffusionPipeline",
        denoiser="UNet (32, 64, 96 channels at 16², 8², 4²), cross-attention at 8² and 4², v-prediction, cosine schedule",
        text="CLIP text model, 3 layers of width 96, trained with the denoiser",
        sampling=Sampling(steps=25, guidance=2.0, scheduler="default", batch_size=64),
    ),
    "tiny-sd3": About(
        pipeline="StableDiffusion3Pipeline",
        denoiser="transformer of 6 joint-attention blocks (4 heads × 32), 8×8 image tokens, rectified flow, σ logit-normal",
        text="two CLIP text models, 3 layers of width 64 each, trained with the denoiser; the T5 is silent (zeros)",
        sampling=Sampling(steps=25, guidance=2.0, scheduler="default", batch_size=64, max_sequence_length=8),
    ),
}


@dataclass(frozen=True)
class Recorded:
    """What a weights folder says of its training, in ``training.json``."""

    def save(self, folder: Path) -> None:
        (folder / "training.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / "training.json").read_text()))


@dataclass(frozen=True)
class Training(Recorded):
    """How the weights came about; ``loss`` is the mean of the last 500 steps."""

    command: str
    pictures: int
    vae_steps: int
    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float
    caption_dropout: float
    seed: int
    bfloat16: bool
    compiled: bool
    loss: float
    minutes: float


@dataclass(frozen=True)
class Reached:
    """Mean of one reward over all samples, over the best of each prompt's seeds, and its spread within a prompt."""

    mean: float
    best: float
    within: float


def rewards_reached(backbone: str) -> dict[str, Reached]:
    """Generate ``PROMPTS`` with the backbone and score them with every exact reward."""
    sampling = ABOUT[backbone].sampling
    experiment = Experiment(seed=PROMPT_SEED, backbone=Backbone(name=backbone), prompts=PROMPTS, sampling=sampling)
    samples = sample_table(experiment)
    pipe = load_pipeline(experiment.backbone, sampling)
    images = []
    for start in range(0, len(samples), sampling.batch_size):
        images += sample_images(sampling, pipe, samples.iloc[start : start + sampling.batch_size])
    shapes = [create(name) for name in available() if name.startswith("shapes_")]
    judges = [each for each in shapes if not each.has_model]
    scores = score_all(judges, images, samples["prompt"].tolist())
    by_prompt = {name: values.view(PROMPTS.count, PROMPTS.seeds) for name, values in scores.items()}
    return {
        name: Reached(float(values.mean()), float(values.amax(1).mean()), float(values.std(1).mean()))
        for name, values in by_prompt.items()
    }


def model_card(backbone: str, training: Training, reached: dict[str, Reached], megabytes: float) -> str:
    """The card as Markdown."""
    about = ABOUT[backbone]
    rows = "\n".join(f"| {n} | {r.mean:.3f} | {r.best:.3f} | {r.within:.3f} |" for n, r in sorted(reached.items()))
    return f"""# {backbone}

A `{about.pipeline}` for the shapes world of probe_lab: captions of one to four coloured shapes, 64×64 pixels. It is
made to fail the way large models do (a missing object, merged objects, a wrong colour), so that probes have
something to predict. {megabytes:.1f} MB of float16 safetensors.

## Data

{training.pictures} distinct captions of `probe_lab.shapes.captions`, each drawn once by `probe_lab.shapes.render`. No outside data.
Experiments draw their captions from other seeds; very short captions occur in both.

## Recipe

| | |
|---|---|
| autoencoder | 64×64×3 to 16×16×8, L1 + L2 + 1e-5 KL, {training.vae_steps} steps of batch 32, latent normalised per channel |
| denoiser | {about.denoiser} |
| text | {about.text} |
| training | {training.steps} steps of batch {training.batch_size}, AdamW {training.learning_rate} one-cycle, EMA {training.ema_decay}, \
{training.caption_dropout:.0%} caption dropout, seed {training.seed}{_for_speed(training)} |
| loss | {training.loss:.4f} (mean of the last 500 steps) |
| time | {training.minutes:.0f} minutes on two CPU cores |

```
{training.command}
```

The same seed gives the same pictures and the same order of batches; weights agree between machines up to rounding.

## Rewards reached

{PROMPTS.count} captions × {PROMPTS.seeds} seeds, {about.sampling.steps} steps of its own scheduler, guidance {about.sampling.guidance:g}. `python -m tools.tiny_models.model_card {backbone}`
measures them again.

| reward | mean of one seed | best of {PROMPTS.seeds} | standard deviation within a prompt |
|---|---|---|---|
{rows}

## Limits

It knows the words of the shapes world and nothing else. Its licence is the project's.
"""


def _for_speed(training: Training) -> str:
    return (", bfloat16" if training.bfloat16 else "") + (", compiled" if training.compiled else "")


def write_card(backbone: str, folder: Path) -> dict[str, Reached]:
    """Measure and write ``README.md`` beside the weights; returns what was measured."""
    megabytes = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    reached = rewards_reached(backbone)
    (folder / "README.md").write_text(model_card(backbone, Training.load(folder), reached, megabytes))
    return reached


if __name__ == "__main__":
    import sys

    from probe_lab.backbones.families import BUILT_IN

    torch.manual_seed(0)
    for name in sys.argv[1:] or list(BUILT_IN):
        for reward, values in sorted(write_card(name, BUILT_IN[name][1]).items()):
            print(f"{name} {reward}: mean {values.mean:.3f}, best of {PROMPTS.seeds} {values.best:.3f}")

"""A first experiment for a family of models: what ``probe-lab init`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import diffusers
import torch
from diffusers import DiffusionPipeline

from probe_lab.backbones.architectures import Weightless, architectures
from probe_lab.backbones.families import FAMILIES
from probe_lab.cache.files import write_whole
from probe_lab.errors import ConfigError

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Start:
    """What a family is usually run with.

    ``path`` is the hub id of its best known model, ``decoder`` that of the tiny autoencoder of its latents, "" where
    there is none; ``denoiser`` the diffusers class whose default settings are that model's, for families of which no
    architecture is kept; ``tokens`` the text tokens of an attention map that hold nearly every caption; ``taps`` are
    told where no architecture has to be asked.
    """

    path: str
    steps: int
    guidance: float
    side: int = 1024
    tokens: int = 77
    decoder: str = ""
    denoiser: str = ""
    taps: tuple[str, ...] = ()


STARTS = {
    "sd": Start("stabilityai/stable-diffusion-2-1", 25, 7.5, side=768, decoder="madebyollin/taesd"),
    "sdxl": Start("stabilityai/stable-diffusion-xl-base-1.0", 25, 5.0, decoder="madebyollin/taesdxl"),
    "pixart-sigma": Start(
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        20,
        4.5,
        tokens=64,
        decoder="madebyollin/taesdxl",
        denoiser="PixArtTransformer2DModel",
    ),
    "sana": Start(
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers", 20, 4.5, tokens=64, denoiser="SanaTransformer2DModel"
    ),
    "sd3": Start("stabilityai/stable-diffusion-3-medium-diffusers", 28, 7.0, decoder="madebyollin/taesd3"),
    "flux": Start("black-forest-labs/FLUX.1-dev", 28, 3.5, tokens=64, decoder="madebyollin/taef1"),
    "flux2": Start("black-forest-labs/FLUX.2-dev", 28, 4.0, tokens=64, denoiser="Flux2Transformer2DModel"),
    "qwen-image": Start("Qwen/Qwen-Image", 30, 4.0, tokens=64),
    "tiny-sd": Start(
        "", 25, 2.0, side=64, taps=("up_blocks.1.attentions.0/attention", "up_blocks.1.attentions.1/activation")
    ),
    "tiny-sd3": Start("", 25, 2.0, side=64, taps=("transformer_blocks.3/attention", "transformer_blocks.4/activation")),
}
"""By the name of the family, or of the built-in backbone."""
SHARES = (0.1, 0.2, 0.3)
"""Of the sampling steps, where tensors are kept."""


def write_start(name: str, output: Path | None = None) -> Path:
    """Write a commented experiment for a family, or a built-in backbone, and return its file.

    ``name`` may be in any case, and its beginning where that says which is meant. ``output`` None is ``my_<name>.yaml``
    in the current folder.

    Raises:
        ConfigError: no such family, or a file that is there already or cannot be written.
    """
    known = resolved(name)
    path = output or Path(f"my_{known.replace('-', '_')}{SUFFIX}")
    if path.exists():
        raise ConfigError(f"{path} is there already: name another file with --output, nothing is overwritten")
    try:
        write_whole(path, start_text(known).encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; name a file that can be made") from error
    return path


def resolved(name: str) -> str:
    """The key of ``STARTS`` that ``name`` means. ConfigError where none or several begin so."""
    low = name.lower().replace("_", "-")
    found = [low] if low in STARTS else [known for known in STARTS if low and known.startswith(low)]
    if len(found) != 1:
        raise ConfigError(f"there is no family '{name}': known are {', '.join(STARTS)}")
    return found[0]


def start_text(name: str) -> str:
    """The experiment as YAML."""
    start = STARTS[name]
    attention, activation = start.taps or _taps(name, start)
    steps = sorted({max(1, round(share * start.steps)) for share in SHARES})
    return _TEMPLATE.format(
        name=name,
        steps=", ".join(map(str, steps)),
        step=steps[len(steps) // 2],
        attention=attention,
        activation=activation,
        rivals="prompt_only, linear, x0_preview, " + ("tiny_preview, " if start.decoder else "") + "shuffled_labels",
        **(_of_family(name, start) if start.path else _of_built_in(name, start)),
    )


_TEMPLATE = """\
# Which of several seeds will become the best image? With this file, in this order: probe-lab plan, generate, score,
# sweep, report, tradeoff and select. docs/guide.md explains the way.
backbone: {backbone}

# What is drawn: so many prompts, each with so many seeds. Say the same thing once: captions of one image belong to one
# split, which a JSON of MS-COCO or a table with image ids sees to. `probe-lab power` says how many are needed.
prompts: {prompts}

# As you sample in production: a probe is of these settings, and is asked with no others.
sampling: {sampling}

# What is kept at a tenth, a fifth and three tenths of the steps: where the image looks at the text (attention), what a
# block gives (activation), and the image that the model predicts by then (x0), from which previews are decoded.
# `probe-lab taps` lists all there are, `probe-lab plan` says what they weigh.
capture:
  steps: [{steps}]{capture}
  taps:
    - {attention}
    - {activation}
    - x0

# Who judges finished images; the first one chooses the best probe. `probe-lab evaluators` lists all there are.
{evaluators}

data: {{split: {{train: 0.7, val: 0.1, test: 0.2}}}}
probe:
  step: {step}
  taps:
    - {attention}
    - {activation}
    - x0
{training}
sweep:
  # Where to look, with four trainings each: the spread between trainings is part of every interval.
  - probe.step: [{steps}]
    probe.taps: [[{attention}], [{activation}], "${{probe.taps}}"]
    trainer.seed: [0, 1, 2, 3]
  # Would more captions help? The learning curve of the report.
  - data.train_prompts: [50, 100, 200]
    trainer.seed: [0, 1, 2, 3]
  # What a probe has to beat.
  - probe.model: [{rivals}]
"""


def _of_family(name: str, start: Start) -> dict[str, str]:
    decoder = (
        f"\n  preview_decoder: {start.decoder}  # previews for a twentieth of the decoding" if start.decoder else ""
    )
    # The outputs of large transformer blocks may leave float16's range.
    cache = "cache: {shard_size: 128}" if name in ("sd", "sdxl") else "cache: {shard_size: 128, dtype: bfloat16}"
    return {
        "backbone": f"{{family: {name}, path: {start.path}}}  # or a folder of yours",
        "prompts": "{source: file, path: prompts.txt, shuffle: true, count: 1000, seeds: 8}  # one prompt per line",
        "sampling": f"{{steps: {start.steps}, guidance: {start.guidance}, scheduler: default, height: {start.side}, "
        f"width: {start.side},\n           batch_size: 4, dtype: bfloat16, device: cuda}}",
        "capture": f"\n  tokens: {start.tokens}  # text tokens of an attention map; the model still reads all\n"
        "  size: 32  # maps are averaged down to 32 × 32",
        "evaluators": f"evaluators: [image_reward, hps_v2_1]\nscoring:\n  device: cuda{decoder}",
        "training": f"trainer: {{accelerator: auto}}\n{cache}\nworkers: 1  # one per card\n",
    }


def _of_built_in(name: str, start: Start) -> dict[str, str]:
    scheduler = "ddim" if name == "tiny-sd" else "default"
    further = "" if name == "tiny-sd" else ", max_sequence_length: 8"
    return {
        "backbone": name,
        "prompts": "{source: shapes, count: 320, seeds: 8}",
        "sampling": f"{{steps: {start.steps}, guidance: {start.guidance}, scheduler: {scheduler}, "
        f"height: {start.side}, width: {start.side}{further}}}",
        "capture": "",
        "evaluators": "evaluators: [shapes_reward]",
        "training": "",
    }


def _taps(name: str, start: Start) -> tuple[str, str]:
    """The middle of the attention that Diffusion Probe reads, and the activation that Probe-Select reads; of a denoiser
    that has shapes and no numbers."""
    family = next(family for family in FAMILIES if family.name == name)
    if start.denoiser:
        with torch.device("meta"):
            denoiser = getattr(diffusers, start.denoiser)()
        pipe = cast(DiffusionPipeline, SimpleNamespace(**{family.denoiser: denoiser}))
    else:
        pipe = Weightless(architectures()[start.path], family).pipe
    taps = family.paper_taps(pipe)
    attention = [str(tap) for tap in taps if tap.kind == "attention"]
    (activation,) = (str(tap) for tap in taps if tap.kind == "activation")
    return attention[len(attention) // 2], activation

"""Keeping 1 of 5 candidates over drawing all 5; capture and probe beside a denoiser call of SDXL at full size.

`python -m benchmarks.select_cost [--parts tiny sdxl] [--rounds N] [--latents SIDE] [--json FILE]`

`tiny`: 25 steps with guidance on both built-in backbones, for one prompt per call and for 16 (80 candidates). The sides
take turns in one process: the stock pipeline with all candidates, `ProbeSelect` with the same generators, and the stock
pipeline with as many rows as are kept. Everything counts: text encoder, capture, probe, autoencoder. The probe is a cnn
of the default size on the taps of the backbone's study, with random weights, since its time does not depend on them.
`stock` is a fifth of the first side and four fifths of the last: what the pipeline itself takes to do the steps with
these rows, without anything of ours. A small batch uses a processor worse, so that can be far above the ideal of 0.36.
(It decodes 1.8 images for each that is kept: where selection adds little, it may be the larger number.)

`sdxl`: the UNet of SDXL at its full size, random weights in bfloat16 (`benchmarks/sdxl_cost.py`).

Figures are CPU seconds of one thread, since a shared machine's wall clock tells more of the others; ratios by the wall
clock stand beside. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks.backbones import STEP, STEPS
from benchmarks.output import show
from benchmarks.random_probe import random_probe
from benchmarks.reading import summary
from benchmarks.sdxl_cost import measure_sdxl, sdxl_lines
from benchmarks.stopwatch import Seconds, in_turn
from probe_lab.backbones.families import family_of
from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.capture import Capture
from probe_lab.capture.text_embeddings import encode_prompts
from probe_lab.config import Experiment, load_experiment
from probe_lab.probes import Probe
from probe_lab.selection import ProbeSelect
from probe_lab.shapes.captions import sample_captions

CANDIDATES, KEPT = 5, 1
AT_MOST = 0.42
"""Selection over all candidates, with many prompts per call."""
STUDIES = {"tiny-sd": "shapes_full", "tiny-sd3": "shapes_full_sd3"}
PROMPTS = (1, 16)
PARTS = ("tiny", "sdxl")

Sides = Mapping[str, Sequence[Seconds]]


def ideal(share: float = STEP / STEPS) -> float:
    """Denoiser calls of a selection over those of all candidates, cut at this share of the steps."""
    return share + (1 - share) * KEPT / CANDIDATES


class Drawing:
    """Calls of one pipeline that draw ``prompts`` captions as ``experiment`` says."""

    def __init__(self, pipe: DiffusionPipeline, experiment: Experiment, probe: Probe, prompts: int) -> None:
        self._pipe = pipe
        self._prompts = list(islice(sample_captions(0), prompts))
        self._options = family_of(pipe).call_options(experiment.sampling, self._prompts)
        self._select = ProbeSelect(pipe, probe, candidates=CANDIDATES, keep=KEPT)

    def stock(self, images: int) -> list[Any]:
        """So many images of every prompt."""
        options = self._options | {"num_images_per_prompt": images, "generator": self._generators(images)}
        drawn: list[Any] = self._pipe(**options).images
        return drawn

    def selected(self) -> tuple[list[Any], list[int]]:
        """The kept images, and their places among all candidates."""
        options: dict[str, Any] = {key: value for key, value in self._options.items() if key != "prompt"}
        found = self._select(self._prompts, generator=self._generators(CANDIDATES), **options)
        places = [place * CANDIDATES + one for place, kept in enumerate(found.kept) for one in kept]
        return list(found.images), places

    def difference(self) -> int:
        """Largest difference between a kept image and the same without selection, in grey levels."""
        every = self.stock(CANDIDATES)
        images, places = self.selected()
        apart = [_apart(image, every[place]) for image, place in zip(images, places, strict=True)]
        return max(apart)

    def seconds(self, rounds: int) -> dict[str, list[Seconds]]:
        return in_turn(
            {
                "all": lambda: self.stock(CANDIDATES),
                "selection": self.selected,
                "kept alone": lambda: self.stock(KEPT),
            },
            rounds,
        )

    def _generators(self, images: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(len(self._prompts) * images)]


def _apart(one: Any, other: Any) -> int:
    return int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max())


def study_probe(pipe: DiffusionPipeline, experiment: Experiment) -> Probe:
    """A probe on the taps of an experiment, of the shapes that its backbone has."""
    prompt = list(islice(sample_captions(0), 1))
    options = family_of(pipe).call_options(experiment.sampling, prompt) | {"num_inference_steps": 1}
    with Capture(pipe, experiment.probe.taps, [1]) as capture:
        pipe(**options, output_type="latent")
    features = {str(tap): tensor for (_, tap), tensor in capture.items()}
    return random_probe(features, encode_prompts(pipe, experiment.sampling, prompt), experiment.evaluators)


def measure_tiny(backbone: str, rounds: Mapping[int, int]) -> list[dict[str, object]]:
    """Figures of one backbone, a row for each number of prompts per call, in as many ``rounds``."""
    experiment = load_experiment(STUDIES[backbone])
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    probe = study_probe(pipe, experiment)
    rows = []
    for count, repeats in rounds.items():
        print(f"{backbone}, {count} prompts per call …", flush=True)
        drawing = Drawing(pipe, experiment, probe, count)
        apart = drawing.difference()  # the warm-up too
        seconds = drawing.seconds(repeats)
        rows.append({"backbone": backbone, "prompts": count, "grey_levels": apart} | figures(seconds))
    return rows


def figures(sides: Sides) -> dict[str, object]:
    """Ratios to drawing all candidates, of the rounds' sides: of CPU seconds, and by the wall clock."""
    share = STEP / STEPS
    rounds = list(zip(sides["all"], sides["selection"], sides["kept alone"], strict=True))
    return {
        "ratio": summary([chosen.cpu / every.cpu for every, chosen, _ in rounds]),
        "ratio_wall": summary([chosen.wall / every.wall for every, chosen, _ in rounds]),
        "stock": summary([share + (1 - share) * alone.cpu / every.cpu for every, _, alone in rounds]),
        "seconds": {name: [one._asdict() for one in taken] for name, taken in sides.items()},
    }


def measure(parts: Sequence[str], rounds: int, latents: int) -> dict[str, object]:
    """Figures of the chosen parts as `--json` writes them."""
    torch.set_num_threads(1)
    repeats = {count: rounds if count > 1 else 3 * rounds for count in PROMPTS}  # a call with one prompt is quick
    tiny = [row for backbone in STUDIES for row in measure_tiny(backbone, repeats)] if "tiny" in parts else []
    return {
        "benchmark": "select_cost",
        "candidates": CANDIDATES,
        "kept": KEPT,
        "step": STEP,
        "steps": STEPS,
        "ideal": ideal(),
        "at_most": AT_MOST,
        "threads": torch.get_num_threads(),
        "tiny": tiny,
        "sdxl": measure_sdxl(rounds, latents) if "sdxl" in parts else None,
    }


def table(result: dict[str, object]) -> str:
    tiny, sdxl = result["tiny"], result["sdxl"]
    assert isinstance(tiny, list)
    lines = [
        f"{KEPT} of {CANDIDATES} kept after {STEP} of {STEPS} steps, over all {CANDIDATES}: ideal {ideal():.2f}, asked "
        f"≤ {AT_MOST} with {PROMPTS[-1]} prompts per call",
        f"{'backbone':<10}{'prompts':>8}{'min':>8}{'median':>8}{'max':>8}{'wall':>8}{'stock':>8}{'seconds':>9}{'of':>7}",
    ]
    for row in tiny:
        cpu = "".join(f"{row['ratio'][key]:>8.3f}" for key in ("min", "median", "max"))
        others = "".join(f"{row[key]['median']:>8.3f}" for key in ("ratio_wall", "stock"))
        took, of = (statistics.median(one["cpu"] for one in row["seconds"][side]) for side in ("selection", "all"))
        lines.append(f"{row['backbone']:<10}{row['prompts']:>8}{cpu}{others}{took:>9.2f}{of:>7.2f}")
    return "\n".join(lines + (sdxl_lines(sdxl) if isinstance(sdxl, dict) else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement; of one prompt per call three times")
    parser.add_argument("--latents", type=int, default=128, help="side of the latents of the full-size UNet")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.parts, arguments.rounds, arguments.latents), table, arguments.json)


if __name__ == "__main__":
    main()

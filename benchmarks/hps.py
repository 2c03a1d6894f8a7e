"""HPSv2 scores of many images: ours in batches, against the `hpsv2` package's own `score`, on the same random weights.

`python -m benchmarks.hps [--images N] [--repeats N] [--json FILE]` needs `make rewards`. 512x512 pictures, 8 to a
prompt, ViT-H/14 at full size. The package is called as its documentation does, with the pictures of a prompt: it loads
the weights anew for each call and computes one picture at a time. What it does before the first call is not counted (it
would download and load its base model there); ours counts from nothing, its loading too. Each run has a process of its
own. Both clocks are reported: CPU seconds of all threads are what can be compared on a shared machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import torch
from PIL import Image

from benchmarks.capture import ratios
from benchmarks.output import show
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.evaluators import Settings
from probe_lab.evaluators.hps import HpsV2
from probe_lab.evaluators.reference import HpsV2 as Package

AT_LEAST = 3.0
"""Time of the package over ours."""
EQUAL = 1e-4
"""Of the standard deviation of the package's scores: what ours may differ by in float32."""
SIZE, PER_PROMPT = 512, 8

Side = Literal["package", "float32", "bfloat16"]
SIDES: tuple[Side, ...] = ("package", "float32", "bfloat16")


@dataclass(frozen=True)
class Job:
    """What one process scores. Ours is the side that names its precision."""

    weights: Path
    architecture: str
    images: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class Run:
    """``wall`` and ``cpu`` seconds, and the scores."""

    wall: float
    cpu: float
    scores: list[float]


def pictures(count: int) -> list[Image.Image]:
    """Smooth random colours with noise on top."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        noisy = smooth + random.normal(0, 12, smooth.shape)
        found.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return found


def prompts(count: int) -> list[str]:
    """One per image, PER_PROMPT times the same."""
    return [f"a photograph of {index // PER_PROMPT + 2} red apples on a wooden table" for index in range(count)]


def save_random_weights(architecture: str, path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, load_weights=False)
    torch.save({"state_dict": model.state_dict()}, path)


def run(side: Side, job: Job) -> Run:
    """One scoring of all images; a process runs one."""
    dtype: Literal["float32", "bfloat16"] = "float32" if side == "package" else side
    scoring = Scoring(device=job.device, dtype=dtype, batch_size=job.batch_size)
    settings = Settings("hps_v2_1", EvaluatorModel(str(job.weights), architecture=job.architecture), scoring)
    images, texts = pictures(job.images), prompts(job.images)
    if side == "package":
        package = Package(settings)
        package.load()
    wall, cpu = time.perf_counter(), time.process_time()
    evaluator = package if side == "package" else HpsV2(settings)
    scores = evaluator.score(images, texts)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, scores.tolist())


def apart(side: Side, job: Job) -> Run:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, side, job).result()


def measure(job: Job, repeats: int) -> dict[str, object]:
    """Seconds, ratios and differences as `--json` writes them; every second turn goes the other way round."""
    runs: dict[Side, list[Run]] = {side: [] for side in SIDES}
    for turn in range(repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            runs[side].append(apart(side, job))
    wanted = np.array(runs["package"][0].scores)
    result: dict[str, object] = {
        "benchmark": "hps",
        "images": job.images,
        "architecture": job.architecture,
        "batch_size": job.batch_size,
        "device": job.device,
        "threads": torch.get_num_threads(),
        "target": AT_LEAST,
        "equal": EQUAL,
    }
    for side, found in runs.items():
        result[side] = {
            "wall_seconds": [each.wall for each in found],
            "cpu_seconds": [each.cpu for each in found],
            "wall_ratio": ratios([each.wall for each in runs["package"]], [each.wall for each in found]),
            "cpu_ratio": ratios([each.cpu for each in runs["package"]], [each.cpu for each in found]),
            "difference": float(np.abs(np.array(found[0].scores) - wanted).max() / wanted.std()),
        }
    return result


def table(result: dict[str, object]) -> str:
    lines = [
        f"{result['images']} images, {PER_PROMPT} to a prompt, {result['architecture']}, {result['device']}, "
        f"{result['threads']} threads",
        f"{'':>10}{'wall s':>10}{'CPU s':>10}{'package / this: wall':>28}{'CPU':>22}{'difference / std':>20}",
    ]
    for side in SIDES:
        found = result[side]
        assert isinstance(found, dict)
        told = [" / ".join(f"{found[key][part]:.2f}" for part in ("min", "median", "max")) for key in _RATIOS]
        lines.append(
            f"{side:>10}{statistics.median(found['wall_seconds']):>10.1f}{statistics.median(found['cpu_seconds']):>10.1f}"
            f"{told[0]:>28}{told[1]:>22}{found['difference']:>20.1e}"
        )
    lines.append(f"ratios: min / median / max, at least {AT_LEAST}; difference in float32: at most {EQUAL}")
    return "\n".join(lines)


_RATIOS = ("wall_ratio", "cpu_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help=f"a multiple of {PER_PROMPT}")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--architecture", default="ViT-H-14", help="a smaller one tries out the benchmark")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="probe_lab_hps_") as folder:
        weights = Path(folder) / "weights.pt"
        save_random_weights(arguments.architecture, weights)
        job = Job(weights, arguments.architecture, arguments.images, arguments.batch_size, arguments.device)
        show(measure(job, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

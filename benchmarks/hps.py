"""HPSv2 scores of many images: ours in batches, against the `hpsv2` package's own `score`, on the same random weights.

`python -m benchmarks.hps [--images N] [--repeats N] [--json FILE]` needs `make rewards`. 512x512 pictures, 8 to a
prompt, ViT-H/14 at full size. Two rivals:

- `package`: called as its documentation does, with the pictures of a prompt. It loads the weights anew for each call,
  computes one picture at a time and encodes the prompt again for each: more work than ours.
- `package, batched` and `… bfloat16`: what a careful user makes of its parts, its model, preprocessing and tokenizer.
  The same device, number format, pictures per batch and encodings of prompts (each distinct one once) as ours.

What a rival does before the first call is not counted (the package would download and load its base model there); ours
counts from nothing. All load the weights once more, which counts. Each run has a process of its own. Both clocks are
reported: CPU seconds of all threads are what can be compared on a shared machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import open_clip
import torch
from PIL import Image

from benchmarks.capture import ratios
from benchmarks.output import show
from probe_lab.config import EvaluatorModel, Scoring
from probe_lab.evaluators import Settings
from probe_lab.evaluators.hps import HpsV2
from probe_lab.evaluators.reference import ReferenceHpsV2

AT_LEAST = 3.0
"""Time of the package over ours."""
EQUAL = 1e-4
"""Of the standard deviation of the package's scores: what ours may differ by in float32."""
SIZE, PER_PROMPT = 512, 8

Side = Literal["package", "package, batched", "package, batched, bfloat16", "float32", "bfloat16"]
SIDES: tuple[Side, ...] = get_args(Side)
LIKE: Mapping[Side, Side] = {"float32": "package, batched", "bfloat16": "package, batched, bfloat16"}
"""Ours, and the rival that does the same work in the same number format."""


@dataclass(frozen=True)
class Job:
    """What one process scores. Ours are the sides that only name their number format."""

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
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if side.endswith("bfloat16") else "float32"
    scoring = Scoring(device=job.device, dtype=dtype, batch_size=job.batch_size)
    settings = Settings("hps_v2_1", EvaluatorModel(str(job.weights), architecture=job.architecture), scoring)
    images, texts = pictures(job.images), prompts(job.images)
    package = ReferenceHpsV2(settings) if side.startswith("package") else None
    original = package.load() if package else None
    wall, cpu = time.perf_counter(), time.process_time()
    if package and side != "package":
        scores = batched(original, job, images, texts, getattr(torch, dtype))
    else:
        scores = (package or HpsV2(settings)).score(images, texts)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, scores.tolist())


@torch.inference_mode()
def batched(
    original: Any, job: Job, images: Sequence[Image.Image], texts: Sequence[str], dtype: torch.dtype
) -> torch.Tensor:
    """Scores float32 [n] by the package's model, preprocessing and tokenizer, whose module is ``original``."""
    model, preprocess = original.model_dict["model"], original.model_dict["preprocess_val"]
    model.load_state_dict(torch.load(job.weights, map_location=job.device, weights_only=True)["state_dict"])
    model = model.to(job.device, dtype).eval()
    tokenizer = original.get_tokenizer(job.architecture)
    distinct = list(dict.fromkeys(texts))
    tokens = tokenizer(distinct).to(job.device)
    embedded = torch.cat([model.encode_text(part, normalize=True).float() for part in tokens.split(job.batch_size)])
    row = torch.tensor([distinct.index(text) for text in texts], device=job.device)
    scores = []
    for start in range(0, len(images), job.batch_size):
        part = slice(start, start + job.batch_size)
        pixels = torch.stack([preprocess(image) for image in images[part]]).to(job.device, dtype)
        pictures_embedded = model.encode_image(pixels, normalize=True).float()
        scores.append((pictures_embedded * embedded[row[part]]).sum(dim=-1))
    return torch.cat(scores).cpu()


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
    result["like_with_like"] = {
        ours: {
            "rival": rival,
            "wall_ratio": ratios([each.wall for each in runs[rival]], [each.wall for each in runs[ours]]),
            "cpu_ratio": ratios([each.cpu for each in runs[rival]], [each.cpu for each in runs[ours]]),
        }
        for ours, rival in LIKE.items()
    }
    return result


def table(result: dict[str, object]) -> str:
    lines = [
        f"{result['images']} images, {PER_PROMPT} to a prompt, {result['architecture']}, {result['device']}, "
        f"{result['threads']} threads",
        f"{'':>26}{'wall s':>10}{'CPU s':>10}{'package / this: wall':>28}{'CPU':>22}{'difference / std':>20}",
    ]
    for side in SIDES:
        found = result[side]
        assert isinstance(found, dict)
        told = [" / ".join(f"{found[key][part]:.2f}" for part in ("min", "median", "max")) for key in _RATIOS]
        lines.append(
            f"{side:>26}{statistics.median(found['wall_seconds']):>10.1f}{statistics.median(found['cpu_seconds']):>10.1f}"
            f"{told[0]:>28}{told[1]:>22}{found['difference']:>20.1e}"
        )
    like = result["like_with_like"]
    assert isinstance(like, dict)
    for ours, found in like.items():
        told = [" / ".join(f"{found[key][part]:.2f}" for part in ("min", "median", "max")) for key in _RATIOS]
        lines.append(f"{found['rival']} / {ours}: wall {told[0]}, CPU {told[1]}")
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

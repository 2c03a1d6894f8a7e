"""Time of generation with capture over generation without, on tiny-sd.

`python -m benchmarks.generation [--images N] [--repeats N] [--json FILE]` generates the same images in turns, without
a capture and with all taps of `experiments/shapes_full.yaml` at four steps, 25 steps each. A ratio is taken
within each turn, so that a slow moment of the machine hits both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from pathlib import Path

from diffusers import DiffusionPipeline

from benchmarks.output import show
from probe_lab.capture import Capture
from probe_lab.capture.pipelines import load_pipeline
from probe_lab.capture.prompts import sample_table
from probe_lab.capture.sampling import sample_images
from probe_lab.config import Experiment, load_experiment, with_changes

STEPS = (1, 3, 5, 8)
AT_MOST = 1.10


def seconds(experiment: Experiment, pipe: DiffusionPipeline, images: int, *, capture: bool) -> float:
    samples, size = sample_table(experiment), experiment.sampling.batch_size
    watched = Capture(pipe, experiment.capture.taps, STEPS) if capture else contextlib.nullcontext()
    began = time.perf_counter()
    with watched:
        for start in range(0, images, size):
            sample_images(experiment.sampling, pipe, samples.iloc[start : start + size])
    return time.perf_counter() - began


def measure(images: int, repeats: int) -> dict[str, object]:
    """Seconds and their ratio as `--json` writes them."""
    experiment = with_changes(load_experiment("shapes_full"), {"prompts.count": -(-images // 8)})
    pipe = load_pipeline(experiment.backbone, experiment.sampling)
    seconds(experiment, pipe, experiment.sampling.batch_size, capture=True)  # warm-up
    without: list[float] = []
    with_capture: list[float] = []
    for turn in range(repeats):
        for capture in (False, True) if turn % 2 else (True, False):
            (with_capture if capture else without).append(seconds(experiment, pipe, images, capture=capture))
    ratios = [a / b for a, b in zip(with_capture, without, strict=True)]
    return {
        "benchmark": "generation",
        "images": images,
        "taps": len(experiment.capture.taps),
        "steps": list(STEPS),
        "seconds_without": without,
        "seconds_with": with_capture,
        "images_per_second": images / statistics.median(without),
        "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "target": AT_MOST,
    }


def table(result: dict[str, object]) -> str:
    ratio, without, watched = result["ratio"], result["seconds_without"], result["seconds_with"]
    assert isinstance(ratio, dict)
    assert isinstance(without, list)
    assert isinstance(watched, list)
    return "\n".join(
        [
            f"{result['images']} images, {result['taps']} taps at steps {result['steps']}",
            f"without capture {statistics.median(without):.2f} s, with {statistics.median(watched):.2f} s",
            f"with over without: {ratio['min']:.3f} / {ratio['median']:.3f} / {ratio['max']:.3f} (min / median / max), "
            f"at most {AT_MOST}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.images, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

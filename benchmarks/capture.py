"""Time of a generation with a capture over the same without, and against what attention-visualisation tools do.

`python -m benchmarks.capture [--workloads NAME ...] [--gpu] [--turns N] [--peer-turns N] [--json FILE]`

Every generation has 25 steps and ends with latents. `paper` captures the papers' blocks at step 5 (attention of up to
ten blocks and one activation), `study` the seven taps of `experiments/shapes_full.yaml` at four steps. Both sides of a
ratio run one after the other, in an order that swaps from turn to turn, and the median is of the turns' ratios: a slow
moment of the machine hits both sides.

Workloads (`benchmarks/backbones.py`): `tiny-sd`, `tiny-sd3` (32 images), `sdxl-cut` (SDXL's UNet structure with random
weights, 64×64 latents, one image with guidance) and, where there is a CUDA device, `sdxl-gpu` and `flux-gpu` (full
size, bfloat16, 1024 pixels). `--gpu` measures the last two alone. The peers are described in `benchmarks/eager.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from diffusers import DiffusionPipeline

from benchmarks.backbones import STEP, WORKLOADS, Workload
from benchmarks.eager import eager_attention
from benchmarks.output import show
from benchmarks.reading import summary
from probe_lab.capture import Capture
from probe_lab.capture.backbones import family_of
from probe_lab.config import load_experiment

AT_MOST = {"paper": 1.03, "study": 1.10}
"""With capture over without."""
AT_LEAST = 1.5
"""Peer over ours."""
STUDY_STEPS = (1, 3, 5, 8)

Side = Callable[[], AbstractContextManager[object]]
"""What is put around a generation."""


def paired(one: Callable[[], float], other: Callable[[], float], turns: int) -> tuple[list[float], list[float]]:
    """What both gave in each turn; the one that goes first alternates."""
    ones, others = [], []
    for turn in range(turns):
        if turn % 2:
            others.append(other())
            ones.append(one())
        else:
            ones.append(one())
            others.append(other())
    return ones, others


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    """Minimum, median and maximum of the turns' ratios."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def seconds(workload: Workload, pipe: DiffusionPipeline, side: Side) -> float:
    began = time.perf_counter()
    with side():
        workload.run(pipe)
    return time.perf_counter() - began


def measure_workload(workload: Workload) -> dict[str, object]:
    """Seconds and ratios of one workload."""
    print(f"{workload.name} …", flush=True)
    pipe = workload.open()
    denoiser = family_of(pipe).denoiser_of(pipe)
    sides: dict[str, Side] = {"without": nullcontext, "paper": partial(Capture, pipe, ["paper"], [STEP])}
    if workload.name == "tiny-sd":
        sides["study"] = partial(Capture, pipe, load_experiment("shapes_full").capture.taps, STUDY_STEPS)
    if not workload.gpu:
        sides |= {f"eager {layers}": partial(eager_attention, denoiser, layers) for layers in ("text", "all")}
    timed = {name: partial(seconds, workload, pipe, side) for name, side in sides.items()}
    for name in ("without", "paper"):  # warm-up: first calls allocate and choose kernels
        timed[name]()
    rows: list[dict[str, object]] = []
    for name in sides:
        if name == "without":
            continue
        is_peer = name.startswith("eager")
        base = "paper" if is_peer else "without"
        above, below = paired(timed[name], timed[base], workload.peer_turns if is_peer else workload.turns)
        target = AT_LEAST if is_peer else AT_MOST[name]
        rows.append(
            {
                "side": name,
                "over": base,
                "seconds": above,
                "seconds_over": below,
                "ratio": ratios(above, below),
                "target": target,
                "better": "more" if is_peer else "less",
            }
        )
    with Capture(pipe, ["paper"], [STEP]) as capture:
        blocks = [str(tap) for tap in capture.taps]
    return {
        "workload": workload.name,
        "parameters": sum(part.numel() for part in denoiser.parameters()),
        "images": workload.images,
        "taps": blocks,
        "rows": rows,
    }


def measure(workloads: list[Workload]) -> dict[str, object]:
    """Figures of all workloads as `--json` writes them."""
    missing = {workload.name: workload.missing for workload in workloads if workload.missing}
    found = [measure_workload(workload) for workload in workloads if workload.name not in missing]
    return {"benchmark": "capture", "step": STEP, "workloads": found, "missing": missing}


def table(result: dict[str, object]) -> str:
    workloads, missing = result["workloads"], result["missing"]
    assert isinstance(workloads, list)
    assert isinstance(missing, dict)
    heads = f"{'min':>8}{'median':>8}{'max':>8}{'target':>9}{'seconds':>10}"
    lines = [f"{'workload':<11}{'ratio':<24}{heads}"]
    for workload in workloads:
        for row in workload["rows"]:
            figures = "".join(f"{row['ratio'][key]:>8.3f}" for key in ("min", "median", "max"))
            target = f"{'≥' if row['better'] == 'more' else '≤'} {row['target']:.2f}"
            ratio = f"{row['side']} over {row['over']}"
            took = statistics.median(row["seconds"])
            lines.append(f"{workload['workload']:<11}{ratio:<24}{figures}{target:>9}{took:>10.2f}")
    for workload in workloads:
        parameters, taps = workload["parameters"] / 1e6, len(workload["taps"])
        lines.append(f"{workload['workload']}: {parameters:.1f} M parameters, {taps} taps in `paper`")
    return "\n".join(lines + [f"{name}: {reason}" for name, reason in missing.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--gpu", action="store_true", help="only what needs a CUDA device")
    parser.add_argument("--turns", type=int, help="of capture over without (default 15, of sdxl-cut 5)")
    parser.add_argument("--peer-turns", type=int, help="of a peer over ours (default 5, of sdxl-cut 2)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    chosen = [WORKLOADS[name] for name in arguments.workloads if WORKLOADS[name].gpu or not arguments.gpu]
    asked = {"turns": arguments.turns, "peer_turns": arguments.peer_turns}
    asked = {name: number for name, number in asked.items() if number}
    show(measure([replace(workload, **asked) for workload in chosen]), table, arguments.json)


if __name__ == "__main__":
    main()

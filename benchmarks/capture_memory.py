"""Peak memory that a capture adds to a generation, beside attention-visualisation tools; and a capture at FLUX's sizes.

`python -m benchmarks.capture_memory [--workloads NAME ...] [--repeats N] [--json FILE]`

Generations: each in a process of its own, six steps of a workload (`benchmarks/backbones.py`; 128 images for the tiny
ones), the capture at step 5. Six steps are enough: neither side keeps more after further steps, since the peers
(`benchmarks/eager.py`) hold sums over the steps. Peak is the process's largest resident set (`ru_maxrss`); extra is the
peak over the median peak of plain generations. The C library is told to give every block of 64 KB or more back at
once, or the peak would depend on what its heap happens to keep.

FLUX: `attention_map`, the function by which a capture reads a block, on random q and k of 4096 image and 512 text
tokens, 24 heads of width 128. Extra is what its call added to the peak, over memory that was all in use before. It is
compared with the float32 probabilities [24, 4096 image queries, 4608 keys]: the smallest that explicit attention can
do with. Its time stands beside that of `F.scaled_dot_product_attention` on the same tensors, which the block runs
anyhow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.backbones import STEP, WORKLOADS
from benchmarks.capture import Side
from benchmarks.eager import eager_attention
from benchmarks.memory import peak
from benchmarks.output import show
from probe_lab.capture import Capture
from probe_lab.capture.attention import attention_map
from probe_lab.capture.backbones import family_of

SIDES = ("without", "paper", "eager text", "eager all")
STEPS = 6
TINY_IMAGES = 128
OVER_PEER, OVER_FULL = 0.1, 0.25
"""At most: our extra over a peer's, and over the full probabilities."""

HEADS, IMAGE, TEXT, WIDTH = 24, 4096, 512, 128
FULL = HEADS * IMAGE * (TEXT + IMAGE) * 4
BALLAST = 2**28
"""Float32 numbers, 1 GB: more than was ever freed before, so that no earlier peak hides what a call adds."""

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def generation(name: str, side: str) -> dict[str, float]:
    """Run one generation; the peak of this process."""
    workload = WORKLOADS[name]
    pipe = workload.open()
    denoiser = family_of(pipe).denoiser_of(pipe)
    sides: dict[str, Side] = {
        "without": nullcontext,
        "paper": lambda: Capture(pipe, ["paper"], [STEP]),
        "eager text": lambda: eager_attention(denoiser, "text"),
        "eager all": lambda: eager_attention(denoiser, "all"),
    }
    with sides[side]():
        workload.run(pipe, images=TINY_IMAGES if workload.images > 1 else 1, steps=STEPS)
    return {"peak": peak()}


def flux_block(dtype: str) -> dict[str, float]:
    """Extra peak and time of reading one block, and the time of its attention."""
    ballast = torch.ones(BALLAST)
    shape = (1, HEADS, TEXT + IMAGE, WIDTH)
    query, key, value = (torch.empty(shape, dtype=getattr(torch, dtype)).normal_() for _ in range(3))
    text, image = slice(0, TEXT), slice(TEXT, None)
    small = slice(0, 64)
    attention_map(query[:, :, small], key[:, :, small])  # warm-up: the matrix library's own buffers
    before = peak()
    began = time.perf_counter()
    maps = attention_map(query, key, image=image, text=text)
    middle = time.perf_counter()
    extra = peak() - before
    middle_again = time.perf_counter()
    F.scaled_dot_product_attention(query, key, value)
    assert maps.shape == (1, TEXT, IMAGE)
    assert len(ballast) == BALLAST
    return {"extra": extra, "seconds": middle - began, "seconds_sdpa": time.perf_counter() - middle_again}


def child(*arguments: str) -> dict[str, float]:
    """What a new process of this module printed."""
    # Its peak is its own: it imports and holds more than this process, whose size the system lets it inherit.
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.capture_memory", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ALLOCATOR,
    ).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def measure_generation(name: str, repeats: int) -> dict[str, object]:
    """Peaks of all sides, their extra bytes, and ours over the peers'."""
    peaks: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            peaks[side].append(child("--generation", name, side)["peak"])
    plain = statistics.median(peaks["without"])
    # A capture whose memory is in use at another moment than the peak adds nothing.
    extra = {side: max(0.0, statistics.median(peaks[side]) - plain) for side in SIDES[1:]}
    return {
        "workload": name,
        "images": TINY_IMAGES if WORKLOADS[name].images > 1 else 1,
        "peaks": peaks,
        "spread_without": max(peaks["without"]) - min(peaks["without"]),
        "extra": extra,
        "over_peer": {side: extra["paper"] / extra[side] if extra[side] else None for side in SIDES[2:]},
    }


def measure_flux(dtype: str, repeats: int) -> dict[str, object]:
    """Extra bytes and seconds of one block in this dtype."""
    runs = [child("--flux", dtype) for _ in range(repeats)]
    extra = [run["extra"] for run in runs]
    return {
        "dtype": dtype,
        "extra": extra,
        "over_full": max(extra) / FULL,
        "over_full_bfloat16": max(extra) / (FULL / 2),
        "seconds": [run["seconds"] for run in runs],
        "seconds_sdpa": [run["seconds_sdpa"] for run in runs],
    }


def measure(workloads: list[str], repeats: int) -> dict[str, object]:
    """Figures as `--json` writes them."""
    missing = {name: WORKLOADS[name].missing for name in workloads if WORKLOADS[name].missing}
    return {
        "benchmark": "capture_memory",
        "unit": "bytes",
        "flux_full": FULL,
        "flux": [measure_flux(dtype, repeats) for dtype in ("float32", "bfloat16")],
        "generation": [measure_generation(name, repeats) for name in workloads if name not in missing],
        "missing": missing,
        "targets": {"over_peer": OVER_PEER, "over_full": OVER_FULL},
    }


def table(result: dict[str, object]) -> str:
    generations, flux, missing = result["generation"], result["flux"], result["missing"]
    assert isinstance(generations, list)
    assert isinstance(flux, list)
    assert isinstance(missing, dict)
    lines = [f"{'workload':<11}{'side':<12}{'peak MB':>10}{'extra MB':>10}{'ours over it':>14}"]
    for row in generations:
        for side in SIDES:
            middle, extra = statistics.median(row["peaks"][side]) / 1e6, row["extra"].get(side, 0.0) / 1e6
            ratio = row["over_peer"].get(side)
            shown = "" if ratio is None else f"{ratio:.3f}"
            lines.append(f"{row['workload']:<11}{side:<12}{middle:>10.1f}{extra:>10.1f}{shown:>14}")
        lines.append(f"{'':<11}plain peaks differ by {row['spread_without'] / 1e6:.1f} MB")
    lines += [f"{name}: {reason}" for name, reason in missing.items()]
    lines.append(f"ours over a peer's: at most {OVER_PEER}")
    lines.append(f"\nFLUX block, full probabilities {FULL / 1e6:,.0f} MB in float32")
    for row in flux:
        took, sdpa = statistics.median(row["seconds"]), statistics.median(row["seconds_sdpa"])
        lines += [
            f"q, k {row['dtype']}: extra {max(row['extra']) / 1e6:.1f} MB = {row['over_full']:.3f} of that (at most "
            f"{OVER_FULL}), {row['over_full_bfloat16']:.3f} of bfloat16's",
            f"  in {took:.2f} s; the block's own attention takes {sdpa:.2f} s",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_cpu = [name for name, workload in WORKLOADS.items() if not workload.gpu]
    parser.add_argument("--workloads", nargs="*", choices=on_cpu, default=on_cpu)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--generation", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--flux", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generation:
        print(json.dumps(generation(*arguments.generation)))
    elif arguments.flux:
        print(json.dumps(flux_block(arguments.flux)))
    else:
        show(measure(arguments.workloads, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

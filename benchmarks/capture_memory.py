"""Peak memory that a capture adds to a generation, beside attention-visualisation tools; and a capture at FLUX's sizes.

`python -m benchmarks.capture_memory [--workloads NAME ...] [--repeats N] [--json FILE]`

Generations: all steps of a workload (`benchmarks/backbones.py`), with the papers' blocks captured at step 5, with their
attention alone, and with each of `benchmarks/peers.py`. Counted are the bytes of tensors that are alive at once, as
PyTorch's allocator reports them to its profiler: the same in every run. Extra is their peak over that of a plain
generation of as many images. What is not a tensor (code, a matrix library's buffers) is not counted, on either side.

FLUX: `attention_map`, the function by which a capture reads a block, on random q and k of 4096 image and 512 text
tokens, 24 heads of width 128. Extra is what its call added to the peak, over memory that was all in use before. It is
compared with the float32 probabilities [24, 4096 image queries, 4608 keys]: the smallest that explicit attention can
do with. Its time stands beside that of `F.scaled_dot_product_attention` on the same tensors, which the block runs
anyhow.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch.profiler import ProfilerActivity, profile

from benchmarks.backbones import STEP, WORKLOADS, Workload
from benchmarks.capture import Side
from benchmarks.memory import peak
from benchmarks.output import show
from benchmarks.peers import PEERS, peers_of
from probe_lab.capture import Capture
from probe_lab.capture.attention_maps import attention_map

OVER_PEER, OVER_FULL = 0.1, 0.25
"""At most: our extra over a peer's, and over the full probabilities."""

HEADS, IMAGE, TEXT, WIDTH = 24, 4096, 512, 128
FULL = HEADS * IMAGE * (TEXT + IMAGE) * 4
BALLAST = 2**28
"""Float32 numbers, 1 GB: more than was ever freed before, so that no earlier peak hides what a call adds."""

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""The C library gives every block of 64 KB or more back at once, or a peak would depend on what its heap keeps."""


def tensor_peak(run: Callable[[], object]) -> int:
    """Largest number of bytes in tensors that ``run`` made, at any moment of it."""
    gc.collect()  # what an earlier run left in cycles would be subtracted when it goes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())))


def generation(workload: Workload, pipe: DiffusionPipeline, side: Side, images: int) -> int:
    """Peak of one generation."""

    def run() -> None:
        with side():
            workload.run(pipe, images)

    return tensor_peak(run)


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


def measure_generation(name: str) -> list[dict[str, object]]:
    """Extra bytes of every peer of a workload, of ours on as many images, and ours over theirs."""
    workload = WORKLOADS[name]
    pipe = workload.open()
    paper = Capture(pipe, ["paper"], [STEP]).taps
    ours: dict[str, Side] = {
        "paper": lambda: Capture(pipe, paper, [STEP]),
        "attention": lambda: Capture(pipe, [tap for tap in paper if tap.kind == "attention"], [STEP]),
    }
    plain: dict[int, int] = {}
    extra: dict[int, dict[str, int]] = {}
    rows: list[dict[str, object]] = []
    for peer in peers_of(workload):
        images = peer.images(workload)
        if images not in plain:
            plain[images] = generation(workload, pipe, nullcontext, images)
            # A capture whose memory is in use at another moment than the peak adds nothing.
            extra[images] = {
                side: max(0, generation(workload, pipe, around, images) - plain[images])
                for side, around in ours.items()
            }
        theirs = generation(workload, pipe, partial(peer.around, pipe), images) - plain[images]
        rows.append(
            {
                "workload": name,
                "peer": peer.name,
                "images": images,
                "steps": workload.steps,
                "plain": plain[images],
                "extra": theirs,
                "ours": extra[images],
                "over_peer": {side: value / theirs for side, value in extra[images].items()},
                "target": OVER_PEER if peer.eager else None,
            }
        )
    return rows


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
        "generation": [row for name in workloads if name not in missing for row in measure_generation(name)],
        "missing": missing | {peer.name: f"needs the package {peer.package}" for peer in PEERS if peer.missing},
        "targets": {"over_peer": OVER_PEER, "over_full": OVER_FULL},
    }


def table(result: dict[str, object]) -> str:
    generations, flux, missing = result["generation"], result["flux"], result["missing"]
    assert isinstance(generations, list)
    assert isinstance(flux, list)
    assert isinstance(missing, dict)
    heads = f"{'plain':>9}{'extra':>9}{'ours':>9}{'over it':>9}{'attention':>11}{'over it':>9}"
    lines = [f"{'MB':<13}{'peer':<13}{'images':>7}{heads}"]
    for row in generations:
        ours, over = row["ours"], row["over_peer"]
        line = f"{row['workload']:<13}{row['peer']:<13}{row['images']:>7}"
        line += "".join(f"{number / 1e6:>9.2f}" for number in (row["plain"], row["extra"], ours["paper"]))
        line += f"{over['paper']:>9.3f}{ours['attention'] / 1e6:>11.2f}{over['attention']:>9.3f}"
        lines.append(line)
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
    usual = [name for name in on_cpu if not WORKLOADS[name].spare]
    parser.add_argument("--workloads", nargs="*", choices=on_cpu, default=usual)
    parser.add_argument("--repeats", type=int, default=3, help="of the capture at FLUX's sizes")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--flux", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flux:
        print(json.dumps(flux_block(arguments.flux)))
    else:
        show(measure(arguments.workloads, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

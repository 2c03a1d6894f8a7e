"""Time of a generation with a capture over the same without, and against what attention-visualisation tools do.

`python -m benchmarks.capture [--workloads NAME ...] [--peers NAME ...] [--gpu] [--clock wall|cpu]
[--turns N] [--peer-turns N] [--json FILE]`

Every generation has 25 steps and ends with latents. `paper` captures the papers' blocks at step 5 (attention of up to
ten blocks and one activation), `study` the seven taps of `experiments/shapes_full.yaml` at four steps. Both sides of a
ratio run one after the other, in an order that swaps from turn to turn, and the median is of the turns' ratios: a slow
moment of the machine hits both sides. `--clock cpu` times CPU seconds of one thread instead, for a machine that others
use too.

Workloads (`benchmarks/backbones.py`): `tiny-sd`, `tiny-sd3` (32 images), `sdxl-cut` (SDXL's UNet structure with random
weights, 64×64 latents, one image with guidance), only when named `sdxl-cut-128` (the same, 128×128 latents, six steps)
and, where there is a CUDA device, `sdxl-gpu` and `flux-gpu` (full size, bfloat16, 1024 pixels). `--gpu` measures the
last two alone. The peers are those of `benchmarks/peers.py`: `benchmarks/eager.py` describes the lean ones,
`benchmarks/tools.py` the tools. A tool that takes one prompt has ours with one prompt beside it, and its seconds
include the making of its maps. `maps 1.0` does not compute attention explicitly and has no target.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from benchmarks.backbones import STEP, WORKLOADS, Workload
from benchmarks.output import show
from benchmarks.peers import PEERS, Peer, peers_of
from benchmarks.reading import summary
from probe_lab.backbones.families import family_of
from probe_lab.capture import Capture
from probe_lab.config import load_experiment

AT_MOST = {"paper": 1.03, "study": 1.10}
"""With capture over without."""
AT_LEAST = 1.5
"""Peer over ours."""
STUDY_STEPS = (1, 3, 5, 8)

Side = Callable[[], AbstractContextManager[object]]
"""What is put around a generation."""
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


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


def seconds(workload: Workload, pipe: DiffusionPipeline, clock: Clock, side: Side, images: int = 0) -> float:
    began = clock()
    with side():
        workload.run(pipe, images)
    return clock() - began


def measure_workload(workload: Workload, peers: list[Peer], clock: Clock) -> dict[str, object]:
    """Seconds and ratios of one workload against these peers."""
    print(f"{workload.name} …", flush=True)
    pipe = workload.open()
    timed = partial(seconds, workload, pipe, clock)
    paper = partial(Capture, pipe, ["paper"], [STEP])
    sides: dict[str, Side] = {"paper": paper}
    if workload.name == "tiny-sd":
        sides["study"] = partial(Capture, pipe, load_experiment("shapes_full").capture.taps, STUDY_STEPS)
    timed(nullcontext)  # warm-up: first calls allocate and choose kernels
    timed(paper)
    rows: list[dict[str, object]] = []
    for name, side in sides.items():
        above, below = paired(partial(timed, side), partial(timed, nullcontext), workload.turns)
        rows.append(
            figures(name, "without", workload.images, above, below) | {"target": AT_MOST[name], "better": "less"}
        )
    for peer in peers:
        images = peer.images(workload)
        above, below = paired(
            partial(timed, partial(peer.around, pipe), images),
            partial(timed, paper, images),
            peer_turns(workload, peer),
        )
        target = {"target": AT_LEAST if peer.eager else None, "better": "more"}
        rows.append(figures(peer.name, "paper", images, above, below) | target)
    denoiser = family_of(pipe).denoiser_of(pipe)
    with paper() as capture:
        blocks = [str(tap) for tap in capture.taps]
    return {
        "workload": workload.name,
        "parameters": sum(part.numel() for part in denoiser.parameters()),
        "images": workload.images,
        "steps": workload.steps,
        "taps": blocks,
        "rows": rows,
    }


def peer_turns(workload: Workload, peer: Peer) -> int:
    """A generation of one image instead of 32 takes a fraction of a second: more turns."""
    return workload.peer_turns * (3 if peer.images(workload) < workload.images else 1)


def figures(name: str, base: str, images: int, above: list[float], below: list[float]) -> dict[str, object]:
    return {
        "side": name,
        "over": base,
        "images": images,
        "seconds": above,
        "seconds_over": below,
        "ratio": ratios(above, below),
    }


def measure(workloads: list[Workload], peers: Sequence[str], clock: str) -> dict[str, object]:
    """Figures of all workloads as `--json` writes them."""
    if clock == "cpu":
        torch.set_num_threads(1)
    missing = {workload.name: workload.missing for workload in workloads if workload.missing}
    found = [
        measure_workload(workload, [peer for peer in peers_of(workload) if peer.name in peers], CLOCKS[clock])
        for workload in workloads
        if workload.name not in missing
    ]
    missing |= {peer.name: f"needs the package {peer.package}" for peer in PEERS if peer.name in peers and peer.missing}
    return {
        "benchmark": "capture",
        "step": STEP,
        "clock": clock,
        "threads": torch.get_num_threads(),
        "workloads": found,
        "missing": missing,
    }


def table(result: dict[str, object]) -> str:
    workloads, missing = result["workloads"], result["missing"]
    assert isinstance(workloads, list)
    assert isinstance(missing, dict)
    heads = f"{'min':>8}{'median':>8}{'max':>8}{'target':>9}{'seconds':>10}"
    lines = [
        f"{result['clock']} clock, {result['threads']} threads",
        f"{'workload':<13}{'ratio':<24}{'images':>7}{heads}",
    ]
    for workload in workloads:
        for row in workload["rows"]:
            ratio_figures = "".join(f"{row['ratio'][key]:>8.3f}" for key in ("min", "median", "max"))
            target = f"{'≥' if row['better'] == 'more' else '≤'} {row['target']:.2f}" if row["target"] else ""
            ratio = f"{row['side']} over {row['over']}"
            took = statistics.median(row["seconds"])
            name = f"{workload['workload']:<13}{ratio:<24}{row['images']:>7}"
            lines.append(f"{name}{ratio_figures}{target:>9}{took:>10.2f}")
    for workload in workloads:
        parameters, taps = workload["parameters"] / 1e6, len(workload["taps"])
        lines.append(f"{workload['workload']}: {parameters:.1f} M parameters, {taps} taps in `paper`")
    return "\n".join(lines + [f"{name}: {reason}" for name, reason in missing.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    parser.add_argument("--gpu", action="store_true", help="only what needs a CUDA device")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of one thread")
    parser.add_argument("--turns", type=int, help="of capture over without (default 15, of sdxl-cut 5)")
    parser.add_argument("--peer-turns", type=int, help="of a peer over ours (default 5, of sdxl-cut 2)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    workloads = arguments.workloads or [name for name, workload in WORKLOADS.items() if not workload.spare]
    chosen = [WORKLOADS[name] for name in workloads if WORKLOADS[name].gpu or not arguments.gpu]
    asked = {"turns": arguments.turns, "peer_turns": arguments.peer_turns}
    asked = {name: number for name, number in asked.items() if number}
    result = measure([replace(workload, **asked) for workload in chosen], arguments.peers, arguments.clock)
    show(result, table, arguments.json)


if __name__ == "__main__":
    main()

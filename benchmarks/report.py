"""How long `probe-lab report` takes on a large sweep: 2 000 made-up cells of three evaluators, with their cache.

`python -m benchmarks.report [--small] [--keep FOLDER] [--json FILE]`. The cells differ in step, taps, loss, dropout,
model and training seed; each has the files of a trained one, with predictions of 64 validation and 64 test prompts
of 8 seeds; none has weights, so nothing is applied to another step or tap. Writing them is not timed. Where the load
average is above the number of cores, the seconds of processor say more than those of the clock. `--keep` leaves
everything in an empty folder, the page in FOLDER/reports.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.made_up_runs import experiment_in, truth_of, write_cache, write_runs
from benchmarks.output import show
from probe_lab.report import build_report

AT_MOST = 60.0
"""Seconds on two cores."""
LARGE, SMALL = "2000", "30"
EXPERIMENT = """
name: made_up
backbone: tiny-sd
prompts: {{source: shapes, count: 160, seeds: 8}}
sampling: {{steps: 25, scheduler: ddim, height: 64, width: 64}}
capture:
  steps: {steps}
  taps: [{taps}, latent, x0]
cache: {{shard_size: 256}}
evaluators: [shapes_reward, shapes_binding, shapes_layout]
probe: {{step: 5, taps: [{joined}], loss: listwise}}
sweep: {sweep}
"""
TAPS = (
    "down_blocks.0.attentions.0/attention", "down_blocks.1.attentions.0/attention", "mid_block/activation",
    "up_blocks.0.attentions.0/attention", "up_blocks.0.attentions.1/activation",
    "up_blocks.1.attentions.0/attention", "up_blocks.1.attentions.1/activation",
)  # fmt: skip
JOINED = f"{TAPS[5]}, {TAPS[6]}"
# 8 steps × 8 taps × 7 losses × 4 seeds, 4 dropouts × 8 × 4, and 80 baselines.
GRIDS = {
    LARGE: f"""
  - {{trainer.seed: [0, 1, 2, 3], probe.step: [1, 3, 5, 8, 10, 12, 15, 20], probe.taps: [{", ".join(TAPS)}, [{JOINED}]],
      probe.loss: [mse, listwise, listwise+infonce, pairwise, listnet, listmle, pearson]}}
  - {{trainer.seed: [0, 1, 2, 3], probe.step: [1, 3, 5, 8, 10, 12, 15, 20], probe.dropout: [0.0, 0.1, 0.2, 0.4]}}
  - {{trainer.seed: [0, 1, 2, 3], probe.step: [1, 3, 5, 8, 10, 12, 15, 20],
      probe.model: [noisy_latent, shuffled_labels]}}
  - {{trainer.seed: [0, 1, 2, 3], probe.model: [prompt_only]}}
  - {{probe.step: [1, 3, 5, 8, 10, 12, 15, 20], probe.model: [linear]}}
  - {{probe.step: [5, 8], probe.model: [attention_entropy, x0_preview]}}
""",
    SMALL: f"""
  - {{trainer.seed: [0, 1], probe.step: [1, 5, 10], probe.taps: [{", ".join(TAPS[4:])}]}}
  - {{trainer.seed: [0, 1], probe.loss: [mse, listwise, pairwise]}}
  - {{trainer.seed: [0], probe.model: [prompt_only, noisy_latent, shuffled_labels, linear, attention_entropy,
      x0_preview]}}
""",
}


def measure(size: str, folder: Path) -> dict[str, object]:
    """Write the experiment, then time its report in this process."""
    steps = [1, 3, 5, 8, 10, 12, 15, 20]
    text = EXPERIMENT.format(steps=steps, taps=", ".join(TAPS), joined=JOINED, sweep=GRIDS[size])
    experiment = experiment_in(folder, text)
    truth = truth_of(experiment)
    cells = write_runs(experiment, truth)
    write_cache(experiment, truth)
    busy = os.getloadavg()[0]
    began, worked = time.perf_counter(), time.process_time()
    page = build_report(
        runs=experiment.runs_folder,
        cache=experiment.cache_folder,
        out=experiment.report_folder,
        title=experiment.name,
        evaluators=experiment.evaluators,
    )
    return {
        "benchmark": "report",
        "cells": len(cells),
        "evaluators": len(experiment.evaluators),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "load_average": busy,
        "page_mib": page.stat().st_size / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "target": AT_MOST,
    }


def table(result: dict[str, object]) -> str:
    return (
        f"report: {result['cells']} cells of {result['evaluators']} evaluators in {result['seconds']:.1f} s "
        f"({result['cpu_seconds']:.1f} s of processor, load average {result['load_average']:.1f}; "
        f"at most {AT_MOST:.0f} s), "
        f"page of {result['page_mib']:.1f} MiB, {result['peak_mib']:.0f} MiB of memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{SMALL} cells, to look at the page")
    parser.add_argument("--keep", type=Path, help="leave the experiment and its report in this empty folder")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    size = SMALL if arguments.small else LARGE
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        show(measure(size, arguments.keep), table, arguments.json)
        return
    with tempfile.TemporaryDirectory(prefix="probe_lab_report_") as name:
        show(measure(size, Path(name)), table, arguments.json)


if __name__ == "__main__":
    main()

"""Samples per second of reading one of 18 arrays, beside what a user would pick instead; one process, warm.

`python -m benchmarks.reading [--samples N] [--repeats N] [--json FILE]` writes the same samples (18 arrays of
[24, 8, 8] float16 each) in every format into a temporary folder and reads one array in batches of 80. Two tasks, whose
readers all do the same work:

- stored: batches in order, float16, in new tensors.
  - memcpy: the same bytes copied from memory: the ceiling
  - probe_lab reader: `Cache.read`, one call per batch; shard slices: a shard at a time into a reused buffer
  - npy, mapped: one `.npy` file per array, `mmap_mode="r"`, the rows copied
  - safetensors get_slice: its own slices, of our shards
  - torch.save: one file per batch with all 18 arrays, `torch.load(weights_only=True)`
  - litdata, webdataset: their own formats and readers; 1600 samples only
- training: whole prompts in a new order in every pass, float32, with scores and ids.
  - probe_lab stream, memory: the data module
  - memcpy: the same float32 bytes copied from memory, batch after batch: the ceiling
  - npy, mapped; npy, in memory; safetensors get_slice: the same batches made by hand

A first pass is the first after opening: ours compares every byte that it reads with its checksum, the others have
none. Later passes read what was compared. Files lie in the page cache. Rates are by seconds of the processor, in the
kernel and outside of it, which another program's work hardly changes; the file holds those by the clock too. Every
repeat opens and times every reader once, so that a busy moment of the machine hits all of them; a ratio is the median
of the ratios within one repeat.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.output import show
from benchmarks.reading_formats import (
    BATCH,
    KEY,
    KEYS,
    SHAPE,
    SHARD,
    write_cache,
    write_litdata,
    write_npy,
    write_torch,
    write_webdataset,
)
from benchmarks.reading_readers import for_training, require_same, require_trainable, stored
from probe_lab.cache import Cache

SLOW = 1600  # samples that are enough to time the slow readers
SLOW_READERS = ("litdata", "webdataset")
MIN_SECONDS = 0.3  # of one timing: a pass of the fast readers takes a millisecond
# How many times as fast ours has to be in later passes: the reader that gives what the others give, stored arrays in
# order, and the data module over a cache that is not held in memory.
TARGETS = {
    "stored": {"torch.save": 20.0, "litdata": 50.0, "webdataset": 50.0, "memcpy": 0.5},
    "training": {"memcpy": 0.4, "npy, mapped": 1.0},
}
OURS = {"stored": "probe_lab reader", "training": "probe_lab stream"}
CLOCKS: Mapping[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
PASSES = ("first", "later")

Open = Callable[[], Callable[[], Iterator[Sized]]]
Rates = dict[str, dict[str, dict[str, list[float]]]]
"""By reader, clock and pass: samples per second of every repeat."""


def prepare(folder: Path, count: int) -> dict[str, dict[str, Open]]:
    """Write every format, and check that every reader gives what was written: what opens each, by task and name."""
    slow = min(count, SLOW)
    writers: dict[str, Callable[[Path, int], None]] = {
        "cache": write_cache,
        "npy": write_npy,
        "torch": write_torch,
        "litdata": write_litdata,
        "webdataset": write_webdataset,
    }
    for name, write in writers.items():
        wanted = slow if name in SLOW_READERS else count
        print(f"writing {wanted} samples: {name}", flush=True)
        write(folder / name, wanted)
    cache = Cache(folder / "cache")
    source, targets = cache.read_all(KEY), torch.from_numpy(cache.scores("score"))[:, None]
    tasks: dict[str, dict[str, Open]] = {"stored": {}, "training": {}}
    for name, open_stored in stored(folder, source).items():
        require_same(name, open_stored()(), source[:slow] if name in SLOW_READERS else source)
        tasks["stored"][name] = open_stored
    for name, open_training in for_training(folder, targets).items():
        require_trainable(name, open_training()(), source, targets)
        tasks["training"][name] = open_training
    return tasks


def rates(open_reader: Open) -> dict[str, dict[str, float]]:
    """Samples per second by clock and pass: of the first after opening, and of as many later ones as fill
    MIN_SECONDS."""
    passes = open_reader()
    found: dict[str, dict[str, float]] = {clock: {} for clock in CLOCKS}
    for name, least in zip(PASSES, (0.0, MIN_SECONDS), strict=True):
        begin = {clock: read() for clock, read in CLOCKS.items()}
        count, taken = 0, dict.fromkeys(CLOCKS, -1.0)
        while taken["cpu"] < least:
            count += sum(len(batch) for batch in passes())
            taken = {clock: read() - begin[clock] for clock, read in CLOCKS.items()}
        for clock, seconds in taken.items():
            found[clock][name] = count / seconds
    return found


def measure(samples: int, repeats: int) -> dict[str, object]:
    """Rates and ratios as `--json` writes them."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_reading_") as folder:
        tasks = prepare(Path(folder), samples)
        found: dict[str, Rates] = {
            task: {name: {clock: {each: [] for each in PASSES} for clock in CLOCKS} for name in readers}
            for task, readers in tasks.items()
        }
        for _ in range(repeats):
            for task, readers in tasks.items():
                for name, open_reader in readers.items():
                    for clock, by_pass in rates(open_reader).items():
                        for each, rate in by_pass.items():
                            found[task][name][clock][each].append(rate)
    return {
        "benchmark": "reading",
        "unit": "samples/s",
        "samples": samples,
        "repeats": repeats,
        "batch": BATCH,
        "arrays": len(KEYS),
        "shape": list(SHAPE),
        "dtype": "float16",
        **{task: {"rates": _summaries(by_reader), "ratios": ratios(by_reader)} for task, by_reader in found.items()},
        "targets": TARGETS,
        "compared": OURS,
    }


def _summaries(found: Rates) -> dict[str, Any]:
    return {
        name: {clock: {each: summary(values) for each, values in by_pass.items()} for clock, by_pass in clocks.items()}
        for name, clocks in found.items()
    }


def ratios(found: Rates) -> dict[str, Any]:
    """By our readers, pass and another reader: how many times as fast by the processor's seconds."""
    ours = [name for name in found if name.startswith("probe_lab")]
    return {
        name: {
            each: {
                other: summary(np.divide(found[name]["cpu"][each], found[other]["cpu"][each]).tolist())
                for other in found
                if other not in ours
            }
            for each in PASSES
        }
        for name in ours
    }


def summary(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def table(result: dict[str, object]) -> str:
    lines = []
    for task in ("stored", "training"):
        found: Any = result[task]
        heads = ("first: min", "median", "max", "later: min", "median", "max")
        lines.append(f"{task + ', samples per CPU second':<36}" + "".join(f"{head:>13}" for head in heads))
        for name, clocks in found["rates"].items():
            values = [clocks["cpu"][each][key] for each in PASSES for key in ("min", "median", "max")]
            lines.append(f"{name:<36}" + "".join(f"{value:>13,.0f}" for value in values))
        for name, by_pass in found["ratios"].items():
            for each, others in by_pass.items():
                told = ", ".join(f"{value['median']:.2f} × {other}" for other, value in others.items())
                lines.append(f"{name}, {each} pass: {told}")
        lines.append("")
    for task, targets in TARGETS.items():
        asked = ", ".join(f"{least:g} × {other}" for other, least in targets.items())
        lines.append(f"{OURS[task]}, later passes, at least: {asked}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4800, help=f"a multiple of {SHARD} (default 4800)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    if arguments.samples < SHARD or arguments.samples % SHARD:
        parser.error(f"--samples {arguments.samples} is not a multiple of {SHARD}")
    torch.set_num_threads(1)
    show(measure(arguments.samples, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

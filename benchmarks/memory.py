"""Peak memory of streaming caches of different sizes: it must not grow with the cache.

`python -m benchmarks.memory [--gigabytes 1 4] [--epochs N] [--json FILE]` writes one cache per size into a
temporary folder and reads all of its arrays for some epochs with `residency="stream"`, each in a new process.
Peak is the process's largest resident set (`ru_maxrss`: all its memory, pages of files included); growth is
what streaming added to what the process had before it opened the cache.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.caches import write_made_up
from benchmarks.output import show
from probe_lab.cache import Cache
from probe_lab.data import ProbeDataModule

TAPS: dict[str, tuple[int, ...]] = {"mid/activation": (160, 16, 16), "up.0/attention": (77, 16, 16)}
STEP = 5
SEEDS, SHARD = 8, 256
SAMPLE_BYTES = sum(int(np.prod(shape)) for shape in TAPS.values()) * 2
WITHIN = 0.10  # largest peak over smallest, less 1


def write_cache(folder: Path, gigabytes: float) -> int:
    """A cache of about this size, in whole shards; returns its bytes."""
    count = max(round(gigabytes * 1e9 / SAMPLE_BYTES / SHARD), 4) * SHARD
    # The same values in every shard: making up gigabytes of random numbers would take longer than reading them.
    shard = {f"{STEP}/{tap}": torch.randn(SHARD, *shape).half() for tap, shape in TAPS.items()}
    write_made_up(
        folder, taps=TAPS, steps=(STEP,), count=count, seeds=SEEDS, shard_size=SHARD, arrays=lambda ids: shard
    )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def stream(folder: Path, epochs: int) -> dict[str, int]:
    """Read every array of the training split some epochs long; what this process needed for it."""
    torch.set_num_threads(1)
    before = peak()
    data = ProbeDataModule(
        Cache(folder), step=STEP, taps=list(TAPS), evaluators=["score"], batch_prompts=10, residency="stream"
    )
    samples = 0
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for batch in data.train_dataloader():
            samples += len(batch)
    return {"before": before, "peak": peak(), "samples": samples}


def measure(gigabytes: list[float], epochs: int) -> dict[str, object]:
    """Figures of every size as `--json` writes them."""
    rows = []
    for size in gigabytes:
        with tempfile.TemporaryDirectory(prefix="probe_lab_memory_") as folder:
            written = write_cache(Path(folder) / "cache", size)
            command = [sys.executable, "-m", "benchmarks.memory", "--stream", f"{folder}/cache"]
            output = subprocess.run(
                [*command, "--epochs", str(epochs)], check=True, capture_output=True, text=True
            ).stdout
            found = json.loads(output.splitlines()[-1])
        rows.append({"cache_bytes": written, "growth": found["peak"] - found["before"], **found})
    peaks = [row["peak"] for row in rows]
    return {
        "benchmark": "memory",
        "unit": "bytes",
        "epochs": epochs,
        "rows": rows,
        "spread": max(peaks) / min(peaks) - 1,
        "target": WITHIN,
    }


def table(result: dict[str, object]) -> str:
    rows, spread, target = result["rows"], result["spread"], result["target"]
    assert isinstance(rows, list)
    assert isinstance(spread, float)
    assert isinstance(target, float)
    lines = [f"{'cache MB':>12}{'samples read':>14}{'peak MB':>12}{'of it streaming MB':>20}"]
    for row in rows:
        values = (row["cache_bytes"] / 1e6, row["samples"], row["peak"] / 1e6, row["growth"] / 1e6)
        lines.append("{:>12,.0f}{:>14,}{:>12,.0f}{:>20,.0f}".format(*values))
    lines.append(f"largest peak over smallest: {spread:+.1%} (at most {target:+.0%})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        print(json.dumps(stream(arguments.stream, arguments.epochs)))
        return
    show(measure(arguments.gigabytes, arguments.epochs), table, arguments.json)


if __name__ == "__main__":
    main()

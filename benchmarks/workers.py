"""Two generating processes against one: time, and whether they leave the same cache.

`python -m benchmarks.workers [--images N] [--repeats N] [--json FILE]` lets `generate` fill a new cache with images of
tiny-sd, by one process and by two in turns; loading, planning and the start of processes are counted. All files of both
caches are compared byte by byte.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.capture import paired, ratios
from benchmarks.output import show
from probe_lab.config import Experiment, load_experiment, with_changes
from probe_lab.generation.generate import generate

AT_MOST = 1.0
"""Time of two processes over that of one."""
SEEDS, SHARD = 8, 16


def experiment_of(images: int, workers: int, root: Path) -> Experiment:
    """`shapes_full` at step 5, small shards so that both processes get some."""
    changes = {
        "prompts.count": images // SEEDS,
        "prompts.seeds": SEEDS,
        "capture.steps": [5],
        "cache.root": str(root),
        "cache.shard_size": SHARD,
        "workers": workers,
    }
    return with_changes(load_experiment("shapes_full"), changes)


def fill(experiment: Experiment) -> dict[str, float]:
    """Seconds of the whole call and of its beginning, until a first batch of images was done."""
    began = time.perf_counter()
    moments: list[float] = []

    def progress(done: int, count: int) -> None:
        if done:
            moments.append(time.perf_counter() - began)

    generate(experiment, progress, lambda plan: None)
    return {"seconds": time.perf_counter() - began, "first_batch": moments[0]}


def differences(one: Path, other: Path) -> list[str]:
    """Files, relative to the folders, that only one of them has or whose bytes differ."""
    names = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    return sorted(name for name in names if _bytes(one / name) != _bytes(other / name))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def measure(images: int, repeats: int) -> dict[str, object]:
    """Seconds, ratio and differing files as `--json` writes them."""
    beginnings: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="probe_lab_workers_") as name:
        folder = Path(name)
        newest: dict[int, Path] = {}
        numbers = itertools.count()

        def timed(workers: int) -> float:
            experiment = experiment_of(images, workers, folder / str(next(numbers)))
            found = fill(experiment)
            beginnings[workers].append(found["first_batch"])
            newest[workers] = experiment.cache_folder
            return found["seconds"]

        timed(1)  # warm-up
        beginnings[1].clear()
        two, one = paired(lambda: timed(2), lambda: timed(1), repeats)
        files = sum(path.is_file() for path in newest[1].rglob("*"))
        differing = differences(newest[1], newest[2])
    return {
        "benchmark": "workers",
        "images": images,
        "shard_size": SHARD,
        "seconds_one": one,
        "seconds_two": two,
        "first_batch_one": beginnings[1],
        "first_batch_two": beginnings[2],
        "ratio": ratios(two, one),
        "target": AT_MOST,
        "files": files,
        "differing_files": differing,
    }


def table(result: dict[str, object]) -> str:
    ratio, differing = result["ratio"], result["differing_files"]
    assert isinstance(ratio, dict)
    assert isinstance(differing, list)
    lines = [f"{result['images']} images", f"{'processes':>10}{'seconds':>10}{'until first batch':>20}"]
    for count, name in ((1, "one"), (2, "two")):
        seconds, first = result[f"seconds_{name}"], result[f"first_batch_{name}"]
        assert isinstance(seconds, list)
        assert isinstance(first, list)
        lines.append(f"{count:>10}{statistics.median(seconds):>10.2f}{statistics.median(first):>20.2f}")
    lines.append(
        f"two over one: {ratio['min']:.3f} / {ratio['median']:.3f} / {ratio['max']:.3f} (min / median / max), "
        f"at most {AT_MOST:.2f}"
    )
    lines.append(f"{result['files']} files, differing: {', '.join(differing) or 'none'}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help=f"a multiple of {SEEDS}")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(arguments.images, arguments.repeats), table, arguments.json)


if __name__ == "__main__":
    main()

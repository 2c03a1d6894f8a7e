"""`python -m benchmarks [NAME ...]`: every measurement of the README, as tables and as `benchmarks/results/*.json`.

`study`, `losses` and `schedules` read what `probe-lab sweep` of shapes_full, loss_study and selection left, and are
passed over where there is nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = (
    "reading",
    "memory",
    "capture",
    "capture_memory",
    "select_cost",
    "workers",
    "scoring",
    "hps",
    "labels",
    "demo",
    "report",
    "tracking",
    "coverage",
    "sweep",
    "study",
    "losses",
    "schedules",
)
SWEPT = {"study": "runs/shapes_full", "losses": "runs/loss_study", "schedules": "runs/selection"}
"""Benchmarks that read the results of a sweep."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    chosen = sys.argv[1:] or [
        name for name in NAMES if name not in SWEPT or Path(SWEPT[name], "results.parquet").exists()
    ]
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"error: there is no benchmark '{unknown[0]}' (allowed: {', '.join(NAMES)})")
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for name in chosen:
        print(f"\n== {name}", flush=True)
        # A process each: what one allocates must not stand in another's memory figure.
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(command).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed")


if __name__ == "__main__":
    main()

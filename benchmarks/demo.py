"""How long the main job takes: `probe-lab demo` in an empty folder, as a process of its own.

`python -m benchmarks.demo [--json FILE]`
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.output import show

AT_MOST = 600.0
"""Seconds."""


def measure() -> dict[str, object]:
    """Wall-clock seconds of the whole demo, and what it left."""
    with tempfile.TemporaryDirectory(prefix="probe_lab_demo_") as name:
        folder = Path(name)
        places = [
            f"cache.root={folder}/cache",
            f"runs={folder}/runs",
            f"reports={folder}/reports",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "probe_lab", "demo", *places], check=True, env=os.environ | {"COLUMNS": "120"}
        )
        seconds = time.perf_counter() - began
        cells = len(list((folder / "runs" / "quickstart").glob("*/metrics.json")))
        assert (folder / "reports" / "quickstart" / "index.html").exists()
    return {"benchmark": "demo", "seconds": seconds, "cells": cells, "target": AT_MOST}


def table(result: dict[str, object]) -> str:
    return f"demo: {result['seconds']:.0f} s, {result['cells']} cells (at most {AT_MOST:.0f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    show(measure(), table, arguments.json)


if __name__ == "__main__":
    main()

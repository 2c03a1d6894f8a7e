"""The whole test suite, or the parts of it that are named: `python tests/suites.py rest servers`.

A process for each part, three at a time on two cores, since servers and clusters mostly wait; each has one thread:
small models gain nothing from a second one. What starts workers, clusters and servers has processes without the threads
of other tests, as a user's command has. All are forked from one process that has imported the libraries, see
``interpreters.py``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import interpreters

from probe_lab.processes import terminated_as_interrupt

ROOT = Path(__file__).parents[1]
PARTS = {
    "servers": ["tests/engines", "tests/tracking"],
    "images": ["tests/generation", "tests/cache", "tests/capture", "tests/data"],
    "pages": ["tests/documents"],
    "sweeping": ["tests/shapes", "tests/report", "tests/sweep", "tests/compare"],
    "commands": ["tests/cli/test_cli.py", "tests/tradeoff", "tests/selection"],
    "rest": [],
    "training": ["tests/training", "tests/probes", "tests/labels"],
    "experiments": ["tests/test_experiments.py"],
}
"""Paths of the tests, the rest being all others. The short ones come last, so that cores are busy to the end."""
ELSEWHERE = [f"--ignore={path}" for paths in PARTS.values() for path in paths]
SUITES = {name: paths or ELSEWHERE for name, paths in PARTS.items()}
"""Arguments of pytest."""
AT_A_TIME = 3


class Suite:
    """A part of the tests that runs, its output kept in ``folder`` until it has ended."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._output = folder / name
        with self._output.open("w") as output:
            self._process = interpreters.Popen(
                ["-m", "pytest", "-W", "ignore:Module already imported", *SUITES[name]],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def interrupt(self) -> None:
        """As Ctrl-C does: each is in a session of its own, where the terminal's signal does not come."""
        self._process.send_signal(signal.SIGINT)

    def conclude(self) -> bool:
        """Wait for its end and show what it printed; whether all its tests passed."""
        code = self._process.wait()
        print(f"== {self._name}\n{self._output.read_text()}", flush=True)
        return code == 0


def run_suites(names: Sequence[str], folder: Path) -> bool:
    """Whether all tests of these suites passed; a failing suite does not stop the others."""
    waiting, running, passed = list(names), list[Suite](), True
    try:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                running.append(Suite(waiting.pop(0), folder))
            time.sleep(0.2)
            for suite in [suite for suite in running if suite.has_ended()]:
                running.remove(suite)
                passed = suite.conclude() and passed
    except KeyboardInterrupt:
        for suite in running:
            suite.interrupt()
        for suite in running:
            suite.conclude()
        raise SystemExit(130) from None
    return passed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, terminated_as_interrupt():
        raise SystemExit(0 if run_suites(sys.argv[1:] or list(SUITES), Path(folder)) else 1)
